"""A recording through a policy, and what is measured on the way."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from streams import tiny_stream

from specprune_ros.analysis.measure import Measurement, QueryMeasure, measure, visual_rows
from specprune_ros.analysis.replay import query_count, replay
from specprune_ros.errors import ConfigurationError, MethodUnavailable
from specprune_ros.types import CameraTokens, Mode, PruneReport


def test_replay_queries_where_a_running_policy_would(dense):
    """Replay equals doing it by hand: frames and twists between queries are observed."""
    stream, policy = tiny_stream(), dense.with_pruning("specprune")
    queries = list(replay(policy, stream))
    assert [observation.stamp for observation, _ in queries] == [0.0, 0.4, 0.8]
    episode = policy.make_episode()
    for step in range(stream.steps):
        if step % 8:
            policy.observe(stream.images(step), stream.stamps[step], stream.twist(step),
                           episode=episode)
            continue
        chunk = policy.predict(stream.observation(step), episode)
        replayed = queries[step // 8][1]
        np.testing.assert_array_equal(chunk.actions, replayed.actions)
        assert chunk.report.mode is replayed.report.mode
        for mine, theirs in zip(chunk.report.kept_positions, replayed.report.kept_positions):
            np.testing.assert_array_equal(mine, theirs)
    assert queries[1][1].report.mode is Mode.COARSE  # the square moves fast by then


def test_frames_between_queries_matter(dense):
    """What comes and goes between two queries is seen in the frame ring only. The arm is fast, so
    the frame compared with lies six periods back, after the previous query."""
    still = tiny_stream(9, "static")
    still = replace(still, ee_twists=np.tile([1.0, 0, 0, 0, 0, 0], (9, 1)))
    visited = still.frames.copy()
    visited[1:8] //= 2
    disturbed = replace(still, frames=visited)
    policy = dense.with_pruning("specprune")

    def dynamic(recording):
        report = [chunk.report for _, chunk in replay(policy, recording)][-1]
        return [camera.dynamic_set for camera in report.cameras]

    assert dynamic(still) == [0, 0]
    assert min(dynamic(disturbed)) > 0


def test_replays_do_not_mix(dense):
    stream, policy = tiny_stream(9), dense.with_pruning("specprune")
    alone = [chunk.actions for _, chunk in replay(policy, stream)]
    other = replay(policy, tiny_stream(9, "brightness"))
    mixed = []
    for _, chunk in replay(policy, stream):
        next(other)
        mixed.append(chunk.actions)
    np.testing.assert_array_equal(alone, mixed)


@pytest.mark.parametrize("every, queries", [(1, 9), (4, 3), (8, 2), (20, 1)])
def test_interval_of_queries(every, queries):
    assert query_count(tiny_stream(9, "static"), every) == queries


def test_interval_must_be_positive(dense):
    with pytest.raises(ConfigurationError, match="must be >= 1"):
        next(replay(dense, tiny_stream(3), every=0))


def test_policies_over_the_same_weights_share_nothing_else(dense):
    other = dense.with_pruning("specprune")
    assert other.model is dense.model
    assert other.pruner.name == "specprune" and dense.pruner.name == "off"
    other.predict(tiny_stream(1).observation(0))
    assert dense.make_episode().state.query_number == 0
    assert other._episode.state.query_number == 1 and dense._episode.state.query_number == 0


# Measuring ---------------------------------------------------------------------------------


def test_visual_rows_counts_each_camera_from_the_positions():
    cameras = (CameraTokens("primary", 4, 0, 0, 0, 4), CameraTokens("wrist", 4, 0, 0, 0, 4))
    kept = (np.arange(12), np.array([0, 1, 4, 8, 9, 10, 11]))
    report = PruneReport("x", Mode.COARSE, 0, kept, cameras)
    np.testing.assert_array_equal(visual_rows(report), [[4, 4], [2, 1]])


def _query(dense: bool, flops: float, cpu: float) -> QueryMeasure:
    rows = np.array([10, 6])
    kept = np.array([[4, 4], [3, 1]])
    return QueryMeasure(rows, kept, flops, 100.0, cpu, cpu, 0.1, 0.2, True, dense, 0.0)


def test_summary_tells_pruned_queries_from_dense_ones():
    measured = Measurement(("primary", "wrist"),
                           [_query(True, 100.0, 9.0), _query(False, 40.0, 2.0),
                            _query(False, 60.0, 4.0)])
    summary = measured.summary()
    assert summary["queries"] == 3 and summary["dense_queries"] == 1
    assert summary["flops_ratio"] == pytest.approx(200 / 300)
    assert summary["flops_ratio_steady"] == pytest.approx(0.5)
    assert summary["cpu_ms_median"] == 4.0 and summary["cpu_ms_median_steady"] == 3.0
    assert summary["kept_visual_per_layer"] == [8.0, 4.0]
    assert summary["kept_visual_per_camera"] == {"primary": [4.0, 3.0], "wrist": [4.0, 1.0]}
    only_dense = Measurement(("primary", "wrist"), [_query(True, 100.0, 9.0)]).summary()
    assert only_dense["flops_ratio_steady"] is None


class _Refusing:
    """A method that finds out at its second query that it cannot go on."""

    name = "refusing"

    def __init__(self, inner) -> None:
        self.inner = inner

    def begin(self, context):
        if context.query_number == 1:
            raise MethodUnavailable("no key/value cache here")
        return self.inner.begin(context)


def test_a_method_that_gives_up_says_why_and_stops_nobody(dense):
    refusing = dense.with_pruning(_Refusing(dense.pruner))
    found = measure(dense, {"bad": refusing, "good": dense.with_pruning("specprune")},
                    [tiny_stream()], every=8)
    assert found["bad"].summary() == {"unavailable": "no key/value cache here"}
    assert found["good"].summary()["queries"] == 3
