"""A latency budget that chooses how many rows are kept."""
from __future__ import annotations

import logging
import math

import pytest
from runtime_harness import EXACT, TASK, loaded, observation, policy, variant

from specprune_ros.errors import ConfigurationError
from specprune_ros.policy import FixedSettings, Policy, load_policy
from specprune_ros.runtime import latency
from specprune_ros.runtime.choice import Runtime
from specprune_ros.runtime.latency import choose

LADDER = [128, 192, 256, 320, 384, 448, 512]


@pytest.fixture(scope="module")
def model():
    return loaded()


def budgeted(model, target: float, runtime: str = "auto", pruning="specprune") -> Policy:
    return Policy(model, None, False, False, pruning, 8, 0.05,
                  Runtime(model.model, runtime, FixedSettings(), target))


@pytest.fixture
def clock(monkeypatch):
    """A clock that a query moves on by a tenth of a millisecond per row after the static stage."""
    now = [0.0]
    predict = Policy.predict

    def timed(self, seen, episode=None):
        chunk = predict(self, seen, episode)
        now[0] += 1e-4 * len(chunk.report.kept_positions[2])
        return chunk

    monkeypatch.setattr(Policy, "predict", timed)
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])


@pytest.mark.parametrize("target, bucket", [
    (12.8, 128), (19.1, 128), (19.2, 192), (44.0, 384), (51.2, 512), (1e9, 512), (1.0, 128),
])
def test_the_largest_bucket_within_the_target(target, bucket):
    asked = []

    def measure(rows: int) -> float:
        asked.append(rows)
        return rows / 10

    choice = choose(LADDER, measure, target)
    assert choice.bucket == bucket
    assert choice.expected_ms == bucket / 10
    assert len(asked) == len(set(asked)) <= 3


def test_a_single_bucket_is_measured_too():
    assert choose([64], lambda rows: 5.0, 1.0).times == {64: 5.0}


@pytest.mark.parametrize("target", [25.0, 1000.0])
def test_queries_keep_what_the_target_allows(model, clock, target):
    subject = budgeted(model, target)
    subject.warm_up()
    choice = subject.runtime.choice
    assert choice.expected_ms <= target
    larger = [ms for bucket, ms in choice.times.items() if bucket > choice.bucket]
    assert all(ms > target for ms in larger)
    chunks = [subject.predict(observation(number)) for number in range(3)]
    rows = [len(chunk.report.kept_positions[2]) for chunk in chunks]
    length = len(chunks[0].report.kept_positions[0])
    assert rows == [length, min(choice.bucket, length), min(choice.bucket, length)]
    assert [chunk.report.cold for chunk in chunks] == [False] * 3
    assert chunks[1].report.runtime == "static"


def test_a_target_that_cannot_be_met_is_said(model, clock, caplog):
    subject = budgeted(model, 0.5)
    with caplog.at_level(logging.WARNING):
        subject.predict(observation(0))
    assert "latency_target_ms 0.5 cannot be met" in caplog.text
    assert subject.runtime.choice.bucket == min(subject.runtime.choice.times)


def test_without_a_warm_up_the_first_query_chooses_and_is_cold(model, clock):
    subject = budgeted(model, 25.0)
    first, second = (subject.predict(observation(number)) for number in range(2))
    assert first.report.cold and subject.runtime.choice is not None
    assert len(second.report.kept_positions[2]) == subject.runtime.choice.bucket


def test_a_bucket_for_short_prompts_still_holds_a_long_one(model, clock):
    subject = budgeted(model, 1.0)
    for number in range(2):
        chunk = subject.predict(observation(number, task=" and ".join([TASK] * 12)))
    visual = sum(camera.kept_static for camera in chunk.report.cameras)
    assert visual >= variant().dynamic.floor
    assert len(chunk.report.kept_positions[2]) > subject.runtime.choice.bucket


def test_it_chooses_once_for_all_methods_over_the_same_runtime(model, clock):
    subject = budgeted(model, 25.0)
    subject.predict(observation(0))
    choice = subject.runtime.choice
    other = subject.with_pruning("paper_v1")
    other.predict(observation(0))
    assert other.runtime.choice is choice


@pytest.mark.parametrize("pruning", ["off", "fastv"])
def test_other_methods_have_no_bucket_and_it_is_said(model, pruning, caplog):
    subject = budgeted(model, 25.0, pruning=pruning)
    with caplog.at_level(logging.WARNING):
        subject.warm_up()
    assert f"latency_target_ms 25 has no effect with pruning '{pruning}'" in caplog.text
    subject.predict(observation(0))
    assert subject.runtime.choice is None


def test_contradictions_are_refused(model, tiny_dir):
    with pytest.raises(ConfigurationError, match="runtime 'eager' does not have"):
        budgeted(model, 20.0, "eager")
    with pytest.raises(ConfigurationError, match="bucket is 256: give one of the two"):
        Runtime(model.model, "static", FixedSettings(bucket=256), 20.0)
    for target in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigurationError, match="latency_target_ms is"):
            load_policy(tiny_dir, latency_target_ms=target)


def test_without_a_target_nothing_is_chosen(model):
    subject = policy(model, "static", settings=EXACT)
    subject.warm_up()
    assert subject.runtime.choice is None
