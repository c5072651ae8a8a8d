"""Which frames are compared, and what counts as a change between them."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from specprune_harness import PATCH, context, frames, layout, repainted

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.config import FrameInterval
from specprune_ros.pruning.controller import Motion
from specprune_ros.pruning.frames import RING_CAPACITY, Frame, FrameRing
from specprune_ros.pruning.presets import PRESETS, preset
from specprune_ros.pruning.similarity import patch_similarity
from specprune_ros.pruning.specprune import QueryHistory, SpecPrune
from specprune_ros.types import Mode

PERIOD = 0.05


def dynamic_set(name: str, of, now, before, mode: Mode = Mode.COARSE, **known) -> torch.Tensor:
    """V_dynamic [n_cam, N] of a preset's second query."""
    config = preset(name)
    layers = config.schedule(32).global_
    scores = torch.rand(len(layers), len(of.cameras), of.patches_per_camera)
    known = {"step_frame": before, "query_frame": before, **known}
    known = context(of, 32, frame=now, mode=mode, query_number=1,
                    history=QueryHistory(layers, scores), **known)
    return SpecPrune(config).begin(known).dynamic_set


def flat(of, colour) -> torch.Tensor:
    """Every patch of every camera of one colour."""
    frame = torch.zeros_like(frames(of, 0))
    frame[:] = torch.tensor(colour, dtype=torch.uint8)
    return frame


def with_object(frame: torch.Tensor, camera: int, patch: int, colour) -> torch.Tensor:
    frame, grid = frame.clone(), frame.shape[1] // PATCH
    y, x = PATCH * (patch // grid), PATCH * (patch % grid)
    frame[camera, y : y + PATCH, x : x + PATCH] = torch.tensor(colour, dtype=torch.uint8)
    return frame


def places(mask: torch.Tensor) -> list[list[int]]:
    return [torch.nonzero(row).flatten().tolist() for row in mask]


# Similarity --------------------------------------------------------------------------------


def test_measures_are_their_definitions():
    """Invariant 9: cosine of the raw values; SSIM of Wang et al. per channel and patch."""
    of = layout(2, 9)
    a, b = frames(of, 1), repainted(frames(of, 1), 0, [2, 3], 4)
    cosine = patch_similarity(a, [b], of.grid, "cosine")
    ssim = patch_similarity(a, [b], of.grid, "ssim")
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    for camera in range(2):
        for patch in range(9):
            y, x = PATCH * (patch // 3), PATCH * (patch % 3)
            p, q = (f[camera, y : y + PATCH, x : x + PATCH].double().numpy() for f in (a, b))
            dot = (p * q).sum() / (np.linalg.norm(p) * np.linalg.norm(q) + 1e-8)
            assert float(cosine[camera, patch]) == pytest.approx(dot, abs=1e-12)
            channels = []
            for c in range(3):
                u, v = p[..., c], q[..., c]
                covariance = ((u - u.mean()) * (v - v.mean())).mean()
                channels.append(
                    (2 * u.mean() * v.mean() + c1) / (u.mean() ** 2 + v.mean() ** 2 + c1)
                    * (2 * covariance + c2) / (u.var() + v.var() + c2)
                )
            assert float(ssim[camera, patch]) == pytest.approx(np.mean(channels), abs=1e-9)


@pytest.mark.parametrize("measure", ["cosine", "ssim"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), shade=st.integers(0, 255))
def test_identical_patches_are_exactly_one(measure, seed, shade):
    """Invariant 9: so that ties among them are real ties; an all-black patch is like none by the
    paper's formula (0), and like itself by SSIM."""
    of = layout(1, 9)
    frame = frames(of, seed)
    frame[:, :PATCH] = shade
    similarity = patch_similarity(frame, [frame, frame.clone()], of.grid, measure)
    expected = torch.ones_like(similarity)
    if measure == "cosine" and shade == 0:
        expected[:, : of.grid] = 0
    assert torch.equal(similarity, expected)


@pytest.mark.parametrize("measure", ["cosine", "ssim"])
def test_similarity_does_not_depend_on_memory_layout(measure):
    """Invariant 6: bits and therefore choices are the same for permuted and strided memory."""
    of = layout(2, 256)
    a, b = frames(of, 1), frames(of, 2)
    expected = patch_similarity(a, [b], of.grid, measure)
    strided = a.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    assert not strided.is_contiguous()
    every_second = torch.stack([b, a], 1)[:, 0]
    assert torch.equal(patch_similarity(strided, [every_second], of.grid, measure), expected)


def test_a_second_reference_can_only_add_changes():
    """Invariant 9: of two references the lower similarity counts."""
    of = layout(1, 16)
    a = frames(of, 0)
    b, c = repainted(a, 0, [3], 1), repainted(a, 0, [7], 2)
    both = patch_similarity(a, [b, c], of.grid, "ssim")
    each = [patch_similarity(a, [f], of.grid, "ssim") for f in (b, c)]
    assert torch.equal(both, torch.minimum(*each))


# V_dynamic of the presets ------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("black", [False, True])
def test_identical_frames(name, black):
    """Invariant 9: nothing has moved under the paper's rule, exactly the floor under the released
    one; an all-black image does not move by SSIM, and is all change to the raw cosine."""
    of = layout(2, 256)
    frame = flat(of, (0, 0, 0)) if black else frames(of, 1)
    found = dynamic_set(name, of, frame, frame.clone())
    again = dynamic_set(name, of, frame.clone(), frame)
    assert torch.equal(found, again)
    counts = found.sum(1).tolist()
    budgets = [preset(name).budgets.of(c, Mode.COARSE).dynamic for c in of.cameras]
    if name == "release":
        assert budgets == [20, 26]
        assert counts == ([256, 256] if black else budgets)
    elif name == "specprune" or not black:
        assert counts == [0, 0]
    else:
        assert counts == budgets  # the defect of the raw cosine: black is unlike black


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("mode", Mode)
def test_frames_that_differ_everywhere(name, mode):
    """Invariant 9: K_D patches (paper) or all of them (code)."""
    of = layout(2, 256)
    found = dynamic_set(name, of, frames(of, 1), frames(of, 2), mode)
    budgets = [preset(name).budgets.of(c, mode).dynamic for c in of.cameras]
    assert found.sum(1).tolist() == ([256, 256] if name == "release" else budgets)


@pytest.mark.parametrize("name", PRESETS)
def test_changing_one_camera_never_changes_the_set_of_another(name):
    """Invariant 8."""
    of = layout(3, 64)
    before = frames(of, 0)
    now = repainted(before, 0, [3, 9, 40], 1)
    reference = dynamic_set(name, of, now, before)
    for camera, patches in ((1, range(0, 64, 2)), (2, [5])):
        changed = dynamic_set(name, of, repainted(now, camera, patches, 2), before)
        others = [c for c in range(3) if c != camera]
        assert torch.equal(changed[others], reference[others])
        assert not torch.equal(changed[camera], reference[camera])


def test_a_change_of_brightness_alone_is_seen_by_ssim_not_by_the_raw_cosine():
    """Invariant 9: grey 128 becomes grey 60 in one patch."""
    of = layout(2, 16)
    before = flat(of, (128, 128, 128))
    now = with_object(before, 0, 5, (60, 60, 60))
    assert places(dynamic_set("specprune", of, now, before)) == [[5], []]
    assert places(dynamic_set("paper_icml", of, now, before)) == [[], []]


def test_a_slight_change_of_exposure_is_no_motion():
    """Invariant 9: 5 % more light over the whole picture moves nothing, by either measure."""
    of = layout(1, 16)
    before = flat(of, (120, 130, 140))
    now = (before.float() * 1.05).round().to(torch.uint8)
    for name in ("specprune", "paper_icml"):
        assert places(dynamic_set(name, of, now, before)) == [[]]


def test_a_flat_object_that_moves_on_a_flat_table():
    """Invariant 9: dark brown over beige, two shades of one hue. SSIM sees where it
    was and where it is; the raw cosine sees nothing."""
    of = layout(2, 16)
    table, brown = flat(of, (245, 222, 179)), (61, 56, 45)
    before, now = (with_object(table, 0, patch, brown) for patch in (5, 6))
    assert places(dynamic_set("specprune", of, now, before)) == [[5, 6], []]
    assert places(dynamic_set("paper_v1", of, now, before)) == [[], []]
    lowest = float(patch_similarity(now, [before], of.grid, "cosine").min())
    assert lowest > 0.999


def test_faint_noise_on_a_flat_wall_is_no_motion():
    """The constants of SSIM absorb noise of one grey level."""
    of = layout(1, 256)
    generator = torch.Generator().manual_seed(0)
    def noisy():
        noise = torch.randn(frames(of, 0).shape, generator=generator)
        return (128 + noise).round().clamp(0, 255).to(torch.uint8)
    assert dynamic_set("specprune", of, noisy(), noisy()).sum() == 0


def test_saturated_patches():
    """Invariant 9: white on white is no change, white on black is."""
    of = layout(1, 16)
    white = flat(of, (255, 255, 255))
    for name in ("specprune", "paper_icml"):
        assert places(dynamic_set(name, of, white, white)) == [[]]
        now = with_object(white, 0, 3, (0, 0, 0))
        assert places(dynamic_set(name, of, now, white)) == [[3]]


def test_the_frame_of_the_last_query_counts_too():
    """Invariant 9: what changed before the frame T steps back is seen through the last query's."""
    of = layout(1, 16)
    query = frames(of, 0)
    step = repainted(query, 0, [4], 1)  # moved early in the chunk
    now = repainted(step, 0, [9], 2)  # moved late
    known = {"step_frame": step, "query_frame": query}
    assert places(dynamic_set("specprune", of, now, None, **known)) == [[4, 9]]
    assert places(dynamic_set("paper_icml", of, now, None, **known)) == [[9]]


@pytest.mark.parametrize("name", PRESETS)
def test_without_an_earlier_frame_nothing_has_moved(name):
    """Invariant 11: a frame is never compared with itself."""
    of = layout(2, 16)
    assert dynamic_set(name, of, frames(of, 0), None).sum() == 0


# The interval T ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("v", "frames_", "steps"),
    [(0, 6, 5), (4.875, 6, 5), (4.88, 5, 4), (6, 5, 4), (6.01, 4, 3), (7.125, 4, 3), (7.2, 3, 2),
     (9.37, 3, 2), (9.5, 2, 1), (12, 1, 1), (100, 1, 1)],
)
def test_interval_of_the_release(v, frames_, steps):
    """Invariant 10: the released formula, v in net controller units; it looks T - 1 back."""
    interval = preset("release").static.interval
    assert interval.speed == "net"
    assert (interval.frames(v), interval.steps_back(v)) == (frames_, steps)


@pytest.mark.parametrize(
    ("name", "v", "frames_"),
    [("specprune", 0, 11), ("specprune", 0.5, 8), ("specprune", 1.0, 6), ("paper_v1", 1.0, 6),
     ("paper_v1", 12, 1), ("paper_icml", 0, 11), ("paper_icml", 1, 10), ("paper_icml", 12, 1)],
)
def test_interval_of_the_paper(name, v, frames_):
    """Invariant 10: v1 Algorithm 1, 11 to 6 for v in [0, 1]; v3 with k = -1, b = 7."""
    interval = preset(name).static.interval
    assert interval.speed == "mean"
    assert interval.frames(v) == interval.steps_back(v) == frames_


@pytest.mark.parametrize("name", PRESETS)
@given(a=st.floats(0, 50), b=st.floats(0, 50))
def test_interval_falls_with_speed_and_stays_in_the_ring(name, a, b):
    """Invariant 10: monotone, 1 <= T, and the ring reaches as far back as T goes."""
    interval = preset(name).static.interval
    low, high = sorted((a, b))
    assert interval.frames(high) <= interval.frames(low)
    assert 1 <= interval.steps_back(low) <= interval.frames(low) < RING_CAPACITY
    assert interval.frames(math.nan) == interval.frames(0.0)


def test_interval_settings():
    """Invariant 10: an interval beyond the ring is refused."""
    with pytest.raises(ConfigurationError, match="as far as the frame ring reaches"):
        FrameInterval(longest=RING_CAPACITY)
    with pytest.raises(ConfigurationError, match="slope"):
        FrameInterval(slope=0.1)


def test_motion_since_the_last_query():
    """Invariant 10: path per period for the paper, net displacement for the released code."""
    motion = Motion()
    assert math.isnan(motion.in_units("mean", PERIOD))
    for vx in (1.0, -1.0, 1.0):  # to and fro at one controller unit per period
        motion = motion.then(np.array([vx, 0, 0, 9, 9, 9]), PERIOD)
    assert motion.in_units("mean", PERIOD) == pytest.approx(1.0)
    assert motion.in_units("net", PERIOD) == pytest.approx(1.0)
    still = motion.then(np.zeros(6), PERIOD)
    assert still.in_units("mean", PERIOD) == pytest.approx(0.75)
    assert motion.then(np.ones(6), 0.0) is motion  # the same instant again


# The ring --------------------------------------------------------------------------------


def frame(stamp: float, cameras=("primary",)) -> Frame:
    return Frame(stamp, cameras, {}, lambda images: np.zeros((1, 14, 14, 3), np.uint8))


def filled(stamps, **settings_) -> FrameRing:
    ring = FrameRing(PERIOD, **settings_)
    for stamp in stamps:
        ring = ring.pushed(frame(stamp))
    return ring


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 60.0, 90.0, 200.0]),
    jitter=st.floats(0, 0.3),
    start=st.floats(0, 2e9),
    seed=st.integers(0, 1000),
)
def test_one_frame_per_control_period_at_any_camera_rate(rate, jitter, start, seed):
    """Invariant 10: the ring reaches as far back as its capacity says."""
    random = np.random.default_rng(seed)
    stamps = start + (np.arange(int(3 * rate)) + random.uniform(0, jitter, int(3 * rate))) / rate
    ring = filled(stamps.tolist())
    kept = np.array([f.stamp for f in ring.frames])
    slots = np.floor((kept - ring.anchor) / PERIOD + 0.5)
    assert (np.diff(kept) > 0).all() and len(set(slots.tolist())) == len(kept)
    assert len(kept) <= RING_CAPACITY
    if rate >= 20.0:
        # 11 periods back there is a frame within one period of the wanted stamp.
        now = float(stamps[-1])
        for steps in (1, 6, 11):
            found = ring.steps_back(now, steps)
            assert abs(found.stamp - (now - steps * PERIOD)) <= PERIOD * (1.0 + jitter)


def test_a_30_hz_camera_does_not_shorten_the_history():
    """Regression: frames 1/30 s apart must not fill the ring as if they were periods."""
    ring = filled([k / 30 for k in range(60)])
    assert ring.newest.stamp - ring.frames[0].stamp > 14 * PERIOD


def test_each_period_keeps_its_middle_frame():
    ring = filled([0.0, 0.02, 0.03, 0.045, 0.052, 0.07, 0.1])
    assert [f.stamp for f in ring.frames] == [0.0, 0.052, 0.1]


def test_lookup_is_by_stamp_and_never_the_current_frame():
    """Invariants 10, 11: dropped frames, short history, no history."""
    ring = filled([0.0, 0.05, 0.10, 0.25, 0.30])
    assert ring.steps_back(0.30, 4).stamp == 0.10
    assert ring.steps_back(0.30, 3).stamp == 0.10  # 0.15 is missing
    assert ring.steps_back(0.30, 2).stamp == 0.25
    assert ring.steps_back(0.30, 11).stamp == 0.0  # too short: the oldest
    assert ring.steps_back(0.02, 3) is None
    assert filled([0.0]).steps_back(0.0, 1) is None
    assert FrameRing(PERIOD).steps_back(1.0, 1) is None


def test_time_set_back_empties_the_ring():
    ring = filled([10.0, 10.05, 3.0])
    assert [f.stamp for f in ring.frames] == [3.0]


def test_only_frames_of_the_same_cameras_are_compared():
    """Invariant 11: a camera that joins or leaves has no earlier frame."""
    both = ("primary", "wrist")
    ring = FrameRing(PERIOD)
    for stamp, cameras in ((0.0, both), (0.05, ("primary",)), (0.1, ("primary", "wrist_2"))):
        ring = ring.pushed(frame(stamp, cameras))
    assert ring.steps_back(0.15, 1, both).stamp == 0.0
    assert ring.steps_back(0.15, 1, ("primary", "wrist_left")) is None
    assert ring.steps_back(0.15, 1).stamp == 0.1


def test_frames_are_prepared_once_and_only_when_needed():
    calls = []

    def prepare(images):
        calls.append(images)
        return np.zeros((1, 14, 14, 3), np.uint8)

    one = Frame(0.0, ("primary",), {"primary": np.zeros((2, 2, 3), np.uint8)}, prepare)
    assert calls == []
    assert one.pixels is one.pixels
    assert len(calls) == 1
