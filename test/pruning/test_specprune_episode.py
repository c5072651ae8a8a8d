"""SpecPrune over the queries of an episode, through the public API on a small random network."""
from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from specprune_harness import PassingOn, absolute

from specprune_ros.errors import InferenceError, ObservationError
from specprune_ros.policy import Observation, Policy, load_policy
from specprune_ros.pruning.base import DensePruner
from specprune_ros.pruning.presets import PRESETS, preset
from specprune_ros.pruning.specprune import QueryHistory, SpecPrune
from specprune_ros.types import Mode
from specprune_ros.vla.openvla_oft.tiny import Size, write_tiny

torch.set_num_threads(1)

SIZE = Size(hidden=32, mlp=48, layers=8, heads=4, vit_width=16, vit_depth=2, vit_heads=2,
            head_width=16)
PERIOD, CHUNK = 0.05, 8
TASK = "pick up the red cube and place it on the plate"
PROPRIO = np.array([0.5, 0.0, 0.2, 3.1, 0.0, 0.0, 0.02, -0.02])


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Policy:
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny(directory, SIZE)
    return load_policy(directory, center_crop=False, jpeg_roundtrip=False)


@pytest.fixture(autouse=True)
def start_over(policy):
    policy.set_pruning("specprune")
    policy.new_episode()


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (224, 224, 3), dtype=np.uint8)


def images(seed: int, wrists: int = 1) -> dict[str, np.ndarray]:
    names = ["primary", *(f"wrist_{i}" for i in range(wrists))]
    return {name: picture(100 * i + seed) for i, name in enumerate(names)}


def observation(query: int, seed: int | None = None, **known) -> Observation:
    values = {
        "images": images(query if seed is None else seed),
        "instruction": TASK,
        "proprio": PROPRIO,
        "stamp": query * CHUNK * PERIOD,
        "ee_twist": np.zeros(6),
    }
    return Observation(**{**values, **known})


def kept(chunk) -> list[list[int]]:
    return [positions.tolist() for positions in chunk.report.kept_positions]


def same_state(a, b) -> bool:
    """Every field is the very same object."""
    return all(getattr(a, f.name) is getattr(b, f.name) for f in fields(a))


# First and second query ----------------------------------------------------------------------


def test_the_first_query_is_dense_and_the_second_uses_its_scores(policy):
    """Invariant 11: no V_global and no self-comparison first; then V_global from the first query's
    two layers, per camera, at most K_G."""
    first = policy.predict(observation(0))
    assert first.report.dense_refresh
    length = len(first.report.kept_positions[0])
    assert all(rows == list(range(length)) for rows in kept(first))
    history = policy._episode.state.history
    assert isinstance(history, QueryHistory) and torch.isfinite(history.scores).all()

    second = policy.predict(observation(1, seed=0))  # nothing has changed in the pictures
    assert not second.report.dense_refresh
    budgets = preset("specprune").budgets
    for index, camera in enumerate(second.report.cameras):
        k = budgets.of(camera.name, second.report.mode).global_
        assert 0 < camera.global_set <= k
        assert camera.dynamic_set == 0
        # The patches with the best scores of the first query are still there at the end.
        best = history.scores[0, index].topk(k // 2).indices + 1 + 256 * index
        assert set(best.tolist()) <= set(kept(second)[2])


def test_presets_that_prune_at_once_have_neither_global_nor_dynamic_set_first(policy):
    """Invariant 11: the fallback of the paper and of the release is V_local alone."""
    for name in ("paper_v1", "paper_icml", "release"):
        policy.set_pruning(name)
        policy.new_episode()
        report = policy.predict(observation(0)).report
        assert [(c.global_set, c.dynamic_set) for c in report.cameras] == [(0, 0), (0, 0)]
        assert all(0 < c.local_set == c.kept_static for c in report.cameras)
        assert [c.global_set > 0 for c in policy.predict(observation(1)).report.cameras] == [
            True, True]


def test_periodic_refresh(policy):
    """Every n-th query is dense where that is asked for."""
    policy.set_pruning(replace(preset("specprune"), refresh_every=3))
    dense = [policy.predict(observation(q)).report.dense_refresh for q in range(7)]
    assert dense == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("carry", [0.0, 0.5])
def test_a_pruned_patch_keeps_a_decayed_score_or_none(policy, carry):
    """Carried scores: g = lambda g_prev for patches not alive; with 0, none."""
    config = preset("specprune")
    policy.set_pruning(replace(config, static=replace(config.static, carry=carry)))
    policy.predict(observation(0))
    before = policy._episode.state.history.scores
    report = policy.predict(observation(1)).report
    after = policy._episode.state.history.scores
    for index, layer in enumerate(config.schedule(SIZE.layers).global_):
        alive = np.zeros(512, bool)
        rows = report.kept_positions[layer]
        alive[rows[(rows >= 1) & (rows <= 512)] - 1] = True
        dead = torch.from_numpy(~alive).reshape(2, 256)
        assert dead.any()
        if carry:
            assert torch.equal(after[index][dead], carry * before[index][dead])
        else:
            assert (after[index][dead] == -torch.inf).all()
        assert torch.isfinite(after[index][~dead]).all()


# Reset, interleaving, failure ----------------------------------------------------------------


def test_reset_clears_everything(policy):
    """Invariant 11: frames, scores, mode, motion, chunk: the second episode is like the first."""
    def episode():
        chunks = []
        for query in range(3):
            chunks.append(policy.predict(observation(query)))
            for step in range(1, 4):
                stamp = (query * CHUNK + step) * PERIOD
                policy.observe(images(50 + step), stamp, np.full(6, 0.1 * step))
        return chunks

    first = episode()
    state = policy._episode.state
    assert state.history is not None and len(state.ring.frames) > 1 and state.motion.path > 0
    policy.new_episode()
    fresh = policy.make_episode().state
    for field in fields(fresh):
        now, new = getattr(policy._episode.state, field.name), getattr(fresh, field.name)
        assert now == new, field.name
    second = episode()
    for a, b in zip(first, second):
        assert kept(a) == kept(b)
        assert np.array_equal(a.actions, b.actions)
        assert a.report.mode is b.report.mode


@pytest.mark.parametrize("order", [(0, 1, 0, 1, 0, 1), (0, 0, 1, 1, 0), (1, 0, 0, 0, 1)])
def test_interleaved_episodes_do_not_mix(policy, order):
    """Invariant 11: whatever the order of their queries, each runs as if it were alone."""
    def step(episode, number, which):
        twist = np.array([0.3 * which, 0, 0, 0, 0, 0])
        policy.observe(images(7 * number + which), number * 0.4 + 0.3, twist, episode)
        return policy.predict(observation(number + 1, seed=11 * number + which), episode)

    alone = []
    for which in (0, 1):
        episode = policy.make_episode()
        alone.append([step(episode, n, which) for n in range(order.count(which))])
    episodes, counts = [policy.make_episode(), policy.make_episode()], [0, 0]
    for which in order:
        chunk = step(episodes[which], counts[which], which)
        expected = alone[which][counts[which]]
        assert kept(chunk) == kept(expected)
        assert np.array_equal(chunk.actions, expected.actions)
        assert chunk.report.query_number == counts[which]
        counts[which] += 1


class Break:
    """Makes a module fail, or give NaN, for the time of a with-block."""

    def __init__(self, module, how: str) -> None:
        def hook(module, arguments, output):
            if how == "raise":
                raise RuntimeError("out of memory")
            return output * float("nan")

        self.handle = module.register_forward_hook(hook)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.handle.remove()


@pytest.mark.parametrize(
    ("part", "how", "error"),
    [
        (lambda m: m.decoder, "raise", RuntimeError),
        (lambda m: m.siglip, "raise", RuntimeError),
        (lambda m: m.action_head, "nan", InferenceError),
        (lambda m: m.projector, "nan", InferenceError),
    ],
)
@pytest.mark.parametrize("name", ["specprune", "release"])
def test_a_failed_query_leaves_the_state_as_it_was(policy, part, how, error, name):
    """Invariant 11: and the next query is as if the failed one had not been."""
    policy.set_pruning(name)

    def until_failure():
        policy.new_episode()
        policy.predict(observation(0))
        policy.observe(images(5), 0.2, np.full(6, 0.2))

    until_failure()
    expected = policy.predict(observation(1))
    until_failure()
    before = policy._episode.state
    with Break(part(policy.model), how), pytest.raises(error):
        policy.predict(observation(1, seed=77, ee_twist=np.full(6, 5.0)))
    assert same_state(policy._episode.state, before)
    after = policy.predict(observation(1))
    assert kept(after) == kept(expected)
    assert np.array_equal(after.actions, expected.actions)
    assert after.report.mode is expected.report.mode


@pytest.mark.parametrize(
    "bad",
    [
        {"ee_twist": np.array([0, 0, np.nan, 0, 0, 0])},
        {"proprio": np.zeros(3)},
        {"images": {"wrist": picture(0)}},
        {"instruction": "  "},
        {"stamp": np.inf},
    ],
)
def test_bad_input_leaves_the_state_as_it_was(policy, bad):
    """Invariant 11."""
    policy.predict(observation(0))
    before = policy._episode.state
    with pytest.raises(ObservationError):
        policy.predict(observation(1, **bad))
    assert same_state(policy._episode.state, before)
    if {"images", "ee_twist"} & bad.keys():
        with pytest.raises(ObservationError):
            policy.observe(stamp=0.1, **{"images": images(1), **bad})
        assert same_state(policy._episode.state, before)


# What invalidates the history ------------------------------------------------------------------


def test_another_instruction_is_another_prompt(policy):
    """Invariant 11, 12: scores of one instruction say nothing about another; the query is dense."""
    policy.predict(observation(0))
    report = policy.predict(observation(1, instruction="push the green cube")).report
    assert report.dense_refresh and report.query_number == 1
    assert not policy.predict(
        observation(2, instruction="push the green cube")).report.dense_refresh


def test_another_set_of_cameras(policy):
    """Invariant 11: patches of other cameras are neither scored nor compared."""
    policy.predict(observation(0, images=images(0, wrists=1)))
    report = policy.predict(observation(1, images=images(1, wrists=2))).report
    assert report.dense_refresh
    assert [c.name for c in report.cameras] == ["primary", "wrist_0", "wrist_1"]
    third = policy.predict(observation(2, images=images(2, wrists=2))).report
    assert [c.dynamic_set > 0 for c in third.cameras] == [True] * 3
    assert policy.predict(observation(3, images=images(3, wrists=0))).report.dense_refresh


def test_other_cameras_have_no_earlier_frames(policy):
    """Invariant 11, for every method: a pruner is given frames of the same cameras or none, also
    where as many cameras of other names were there before."""
    given = []

    class Pruner(DensePruner):
        looks_back = True

        def begin(self, known):
            given.append((known.step_frame, known.query_frame))
            return super().begin(known)

    policy.set_pruning(Pruner())
    left = {"primary": picture(0), "left_wrist": picture(1)}
    right = {"primary": picture(0), "right_wrist": picture(1)}
    for query, seen in enumerate((left, left, right, images(0, wrists=2), right)):
        policy.predict(observation(query, images=seen))
    # Query 0 has no past; 2 and 3 none of their cameras; 4 finds query 2 in the ring.
    assert [(step is not None, last is not None) for step, last in given] == [
        (False, False), (True, True), (False, False), (False, False), (True, False)]
    assert torch.equal(given[1][0], given[1][1])


@pytest.mark.parametrize("method, prepared", [("off", 2), ("fastv", 2), ("specprune", 3)])
def test_only_frames_that_a_method_looks_at_are_prepared(policy, monkeypatch, method, prepared):
    """Two queries with a frame in between: a dense query must not pay for a comparison."""
    calls, prepare = [], policy.inputs._prepare
    monkeypatch.setattr(policy.inputs, "_prepare", lambda im: calls.append(1) or prepare(im))
    policy.set_pruning(method)
    policy.predict(observation(0))
    policy.observe(images(1), stamp=0.2)
    policy.predict(replace(observation(2), stamp=0.8))  # looks 0.55 s back
    assert len(calls) == prepared


def test_other_settings_of_the_same_name(policy):
    """Scores of other global layers are not taken for these."""
    policy.predict(observation(0))
    config = preset("specprune")
    policy.set_pruning(replace(config, static=replace(config.static, global_layers=(31,))))
    assert policy.predict(observation(1)).report.dense_refresh
    assert not policy.predict(observation(2)).report.dense_refresh


def test_from_dense_to_pruned_in_an_episode(policy):
    """A query without history is dense, whatever its number."""
    policy.set_pruning("off")
    policy.predict(observation(0))
    policy.predict(observation(1))
    policy.set_pruning("specprune")
    assert policy.predict(observation(2)).report.dense_refresh
    assert not policy.predict(observation(3)).report.dense_refresh


def test_time_set_back(policy):
    """Invariant 11: a simulation that starts over has no frames and no scores from its future."""
    for query in range(3):
        policy.predict(observation(query + 100))
    report = policy.predict(observation(0)).report
    assert report.dense_refresh
    assert [c.dynamic_set for c in policy.predict(observation(1, seed=0)).report.cameras] == [0, 0]


# Frames and motion through the API -------------------------------------------------------------


def test_frames_between_queries_are_compared(policy):
    """Invariant 10: the frame T steps back is one that observe() took."""
    config = preset("specprune")
    policy.set_pruning(replace(config, static=replace(config.static, compare_last_query=False)))
    policy.predict(observation(0, seed=1))
    for step in range(1, 8):
        policy.observe(images(2), step * PERIOD, np.full(6, 0.0))  # it looked otherwise since
    report = policy.predict(observation(1, seed=2)).report
    # T = 11 reaches behind the query before: its frame, the oldest there is.
    assert all(c.dynamic_set > 0 for c in report.cameras)
    policy.new_episode()
    policy.predict(observation(0, seed=1))
    fast = np.array([0.9, 0, 0, 0, 0, 0])
    for step in range(1, 8):
        policy.observe(images(2), step * PERIOD, fast)
    report = policy.predict(observation(1, seed=2, ee_twist=fast)).report
    # T = 6 at this speed: a frame of after the change.
    assert all(c.dynamic_set == 0 for c in report.cameras)


def test_observed_pictures_are_copied(policy):
    """A caller that draws into one buffer must not change the past."""
    policy.predict(observation(0, seed=1))
    buffer = images(2)
    policy.observe(buffer, 0.05)
    for image in buffer.values():
        image[:] = 0
    ring = policy._episode.state.ring
    assert np.array_equal(ring.newest.pixels[0], images(2)["primary"])


@pytest.mark.parametrize("name", PRESETS)
def test_all_black_images(policy, name):
    """Invariant 9: two queries in the dark are valid queries."""
    policy.set_pruning(name)
    policy.new_episode()
    black = {name: np.zeros((224, 224, 3), np.uint8) for name in ("primary", "wrist")}
    for query in range(3):
        chunk = policy.predict(observation(query, images=black))
        assert np.isfinite(chunk.actions).all()
        if name == "specprune":
            assert [c.dynamic_set for c in chunk.report.cameras] == [0, 0]


def test_unstamped_queries_are_a_chunk_apart(policy):
    """Without stamps the chunk counts as played; frames observed in between count a period each."""
    policy.predict(observation(0, stamp=None))
    policy.predict(observation(1, stamp=None))
    state = policy._episode.state
    assert state.last_query.stamp == pytest.approx(CHUNK * PERIOD)
    for step in range(3):
        policy.observe(images(step))
    policy.predict(observation(2, stamp=None))
    assert policy._episode.state.last_query.stamp == pytest.approx((CHUNK + 4) * PERIOD)


def test_mode_at_query_time_is_the_mode_of_the_query(policy):
    """Invariant 17: what was measured up to the query decides, the query's own twist included."""
    slow, fast = np.zeros(6), np.array([2.0, 0, 0, 0, 0, 0])
    assert policy.predict(observation(0, ee_twist=fast)).report.mode is Mode.COARSE
    assert policy.predict(observation(1, ee_twist=slow)).report.mode is Mode.FINE
    report = policy.predict(observation(2, ee_twist=fast)).report
    assert report.mode is Mode.COARSE
    # A first-order filter of 0.05 s, after 0.4 s.
    assert report.speeds["translation"] == pytest.approx(2.0 * (1 - np.exp(-8)), rel=1e-6)


def test_replanning_through_the_api(policy):
    """Invariant 17: off by default; on, it is asked for until a query answers."""
    def brake():
        policy.new_episode()
        policy.predict(observation(0, ee_twist=np.array([2.0, 0, 0, 0, 0, 0])))
        for step in range(1, 5):
            policy.observe(stamp=step * PERIOD, ee_twist=np.zeros(6))

    brake()
    assert not policy.replan_wanted()
    config = preset("specprune")
    policy.set_pruning(replace(config, controller=replace(config.controller, replan=True)))
    brake()
    assert policy.replan_wanted()
    policy.predict(observation(1, stamp=5 * PERIOD))
    assert not policy.replan_wanted()


# Instruction window --------------------------------------------------------------------------


@pytest.mark.parametrize("instruction", ["go", TASK, " ".join([TASK] * 6)])
def test_scores_come_from_the_words_of_the_instruction(policy, instruction):
    """Invariant 12: exactly the instruction's tokens, for short and long prompts; V_local does not
    look at the template, the placeholders or the stop token."""
    prompt = policy.inputs._prompts.encode(instruction)
    layout = policy.inputs.layout(("primary", "wrist"), prompt, True)
    words = [prompt.ids[1 + p - layout.text_start] for p in layout.instruction]
    text = policy.inputs._prompts._tokenizer.decode(words, skip_special_tokens=False)
    assert text.strip() == instruction
    asked = []

    class Session(PassingOn):
        def after_layer(self, layer, state, attention):
            class Probe:
                positions, key_positions = attention.positions, attention.key_positions

                def weights(self, rows, keys=None):
                    asked.append((layer, absolute(rows, attention.positions).tolist()))
                    return attention.weights(rows, keys)

            self.session.after_layer(layer, state, Probe())

    class Pruner(SpecPrune):
        def begin(self, known):
            return Session(super().begin(known))

    policy.set_pruning(Pruner(replace(preset("specprune"), first_query="prune")))
    policy.predict(observation(0, instruction=instruction))
    local = [rows for layer, rows in asked if layer in (0, 1)][:2]
    assert local == [list(layout.instruction)] * 2
    others = [rows for layer, rows in asked if layer > 1]
    assert others and all(rows == list(layout.readout) for rows in others)
