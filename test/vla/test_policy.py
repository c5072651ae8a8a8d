"""The Python API: what an observation may look like, and what a policy does with it."""
from __future__ import annotations

import logging

import numpy as np
import pytest

from specprune_ros.errors import ObservationError
from specprune_ros.policy import Observation, load_policy
from specprune_ros.types import Mode

TASK = "pick up the red cube and place it on the plate"
PROPRIO = np.array([0.5, 0.0, 0.2, 3.1, 0.0, 0.0, 0.04, -0.04])


@pytest.fixture(scope="module")
def policy(tiny_dir):
    return load_policy(tiny_dir)


@pytest.fixture
def fresh(policy):
    policy.set_pruning("specprune")
    policy.new_episode()
    return policy


def picture(seed, side=256):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def observation(seed=0, cameras=("primary", "wrist"), proprio=PROPRIO, **kw):
    images = {name: picture(seed + k) for k, name in enumerate(cameras)}
    return Observation(images, TASK, proprio, **kw)


@pytest.mark.parametrize(
    "cameras", [("primary",), ("primary", "wrist"), ("primary", "left_wrist", "right_wrist")]
)
@pytest.mark.parametrize("with_proprio", [True, False])
def test_observation_decides_cameras_and_proprio(fresh, cameras, with_proprio):
    proprio = PROPRIO if with_proprio else None
    chunk = fresh.predict(observation(0, cameras, proprio))
    report = chunk.report
    assert chunk.actions.shape == (8, 7)
    assert [c.name for c in report.cameras] == list(cameras)
    assert report.visual_tokens_in == 256 * len(cameras)
    prompt = len(fresh.inputs.prompt(TASK).ids) - 1
    length = 1 + 256 * len(cameras) + int(with_proprio) + prompt + 56 + 1
    assert len(report.kept_positions[0]) == length


def test_wrist_order_is_by_name_not_by_insertion_of_primary(fresh):
    images = {"wrist": picture(1), "primary": picture(0)}
    a = fresh.predict(Observation(images, TASK, PROPRIO))
    fresh.new_episode()
    b = fresh.predict(observation(0))
    np.testing.assert_array_equal(a.actions, b.actions)


def test_missing_proprio_warns_once(tiny_dir, caplog):
    policy = load_policy(tiny_dir, pruning="off")
    with caplog.at_level(logging.WARNING, logger="specprune_ros"):
        policy.predict(observation(proprio=None))
        policy.predict(observation(proprio=None))
    assert sum("proprio=None" in r.message for r in caplog.records) == 1


def _nan_proprio():
    values = PROPRIO.copy()
    values[2] = np.nan
    return values


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"instruction": ""}, "instruction is empty"),
        ({"instruction": "  \n"}, "instruction is empty"),
        ({"instruction": None}, "not a string"),
        ({"instruction": "pick \ud800"}, "no valid text"),
        ({"instruction": "pick up the cube " * 900}, "shorter instruction"),
        ({"images": None}, "expected a mapping"),
        ({"images": {"primary": np.zeros((2, 70_000, 3), np.uint8)}}, "too large"),
        ({"proprio": ["a"] * 8}, "not numeric"),
        ({"stamp": "2.0"}, "stamp"),
        ({"ee_twist": ["a"] * 6}, "not numeric"),
        ({"images": {"wrist": picture(0)}}, "no image 'primary'"),
        ({"images": {"primary": picture(0), "side": picture(1)}}, "'side'"),
        ({"images": {"primary": picture(0)[..., 0]}}, "'primary' has shape"),
        ({"images": {"primary": picture(0).astype(np.float32)}}, "expected uint8"),
        ({"images": {"primary": picture(0)[:0]}}, "'primary' has shape"),
        ({"images": {"primary": picture(0).tolist()}}, "list"),
        ({"proprio": PROPRIO[:7]}, r"shape \(7,\)"),
        ({"proprio": _nan_proprio()}, "non-finite"),
        ({"stamp": float("nan")}, "stamp"),
        ({"ee_twist": np.zeros(5)}, "ee_twist"),
        ({"ee_twist": np.full(6, np.inf)}, "ee_twist"),
    ],
)
def test_bad_observation_is_named_and_changes_nothing(fresh, bad, message):
    fresh.predict(observation(0, stamp=0.0))
    before = fresh._episode.state
    good = observation(1, stamp=0.4).__dict__
    with pytest.raises(ObservationError, match=message):
        fresh.predict(Observation(**{**good, **bad}))
    assert fresh._episode.state is before
    assert fresh.predict(Observation(**good)).report.query_number == 1


def test_explicit_episodes_interleave(policy):
    policy.set_pruning("specprune")

    def run(order):
        episodes = {name: policy.make_episode() for name in "ab"}
        seen = {name: [] for name in "ab"}
        for k, name in order:
            seed = k + (100 if name == "b" else 0)
            obs = observation(seed, stamp=0.4 * k, ee_twist=np.full(6, 0.2))
            seen[name].append(policy.predict(obs, episode=episodes[name]).actions)
        return seen

    together = run([(k, name) for k in range(3) for name in "ab"])
    apart = run([(k, "a") for k in range(3)] + [(k, "b") for k in range(3)])
    for name in "ab":
        np.testing.assert_array_equal(together[name], apart[name])


def test_new_episode_forgets(fresh):
    first = [fresh.predict(observation(k, stamp=0.4 * k)).actions for k in range(3)]
    fresh.new_episode()
    again = [fresh.predict(observation(k, stamp=0.4 * k)).actions for k in range(3)]
    np.testing.assert_array_equal(first, again)


def test_rows_are_dropped_and_the_report_agrees(fresh):
    for k in range(3):
        obs = observation(k, stamp=0.4 * k, ee_twist=np.array([0.3, 0, 0, 0, 0, 0]))
        report = fresh.predict(obs).report
    assert report.mode is Mode.COARSE
    sizes = [len(p) for p in report.kept_positions]
    assert sizes[0] == sizes[1] > sizes[2] >= sizes[-1]  # the first two layers are whole
    last = report.kept_positions[-1]
    assert report.visual_tokens_kept == ((last >= 1) & (last <= 512)).sum()
    second = report.kept_positions[2]
    for index, camera in enumerate(report.cameras):
        low, high = 1 + 256 * index, 256 * (index + 1)
        assert camera.kept_static == ((second >= low) & (second <= high)).sum()
    assert report.flops < 0.55 * report.dense_flops


def test_slow_arm_is_fine_fast_arm_is_coarse(fresh):
    modes = []
    for k, speed in enumerate([0.0, 0.4, 0.4, 0.0, 0.0]):
        obs = observation(k, stamp=0.4 * k, ee_twist=np.array([speed, 0, 0, 0, 0, 0]))
        modes.append(fresh.predict(obs).report.mode.name)
    assert modes == ["FINE", "COARSE", "COARSE", "FINE", "FINE"]


def test_without_a_measured_twist_the_command_counts(fresh):
    """The speed is that of the action executed last, in SI units."""
    chunk = fresh.predict(observation(0))
    report = fresh.predict(observation(1)).report
    commanded = np.linalg.norm(chunk.actions[-1, :3]) * 0.05 / 0.05
    assert report.speeds["translation"] == pytest.approx(commanded)


def test_frames_between_queries_are_the_reference(fresh):
    """A change seen only by observe() makes patches dynamic in the next query."""
    still = observation(0, stamp=0.0)
    # At 1 m/s the reference is T = 6 control periods back: a frame that only observe() brought.
    fast = np.array([1.0, 0, 0, 0, 0, 0])

    def dynamic_sets(between):
        fresh.new_episode()
        fresh.predict(still)
        for k in range(1, 8):
            fresh.observe(between, 0.05 * k)
        report = fresh.predict(observation(0, stamp=0.4, ee_twist=fast)).report
        return [camera.dynamic_set for camera in report.cameras]

    upside_down = {name: image[::-1].copy() for name, image in still.images.items()}
    assert dynamic_sets(still.images) == [0, 0]
    assert all(size > 0 for size in dynamic_sets(upside_down))


def test_warm_up_leaves_the_episode_alone(tiny_dir):
    policy = load_policy(tiny_dir)
    policy.warm_up(("primary", "wrist"))
    report = policy.predict(observation(0)).report
    assert report.query_number == 0 and not report.cold


def test_cold_flag_without_warm_up(tiny_dir):
    policy = load_policy(tiny_dir)
    assert policy.predict(observation(0)).report.cold
    assert not policy.predict(observation(1)).report.cold
