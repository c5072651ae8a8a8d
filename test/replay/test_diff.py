"""Runs on disk, and the comparison of two of them: figures, limits, exit statuses."""
from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from bags import BAG, text, write
from hypothesis import given
from hypothesis import strategies as st

from specprune_ros import cli
from specprune_ros.errors import RecordingError
from specprune_ros.replay.diff import diff_runs
from specprune_ros.replay.recorded import load_run
from specprune_ros.replay.run import Run, digest, query_record, read_run, write_run

SUMMARY = {"pruning": "specprune", "checkpoint": {"hash": "sha256:1"}, "parameters": {"x": 1}}


def query(number, value=0.0, rows=(20, 12, 9), mode=0, seconds=0.1):
    """A query as queries.jsonl has it."""
    return {
        "stamp": number * 400_000_000, "episode": 0, "query_number": number, "mode": mode,
        "actions": np.full((8, 7), value).tolist(), "tokens_per_layer": list(rows),
        "kept_hashes": [f"{hash((layer, n)) & 0xffff:016x}" for layer, n in enumerate(rows)],
        "time": {"inference_s": seconds}}


def run(*queries, **summary):
    return Run(None, {**SUMMARY, **summary}, queries)


@pytest.fixture
def saved(tmp_path):
    """Writes a run; returns its folder."""
    def save(name, *queries, **summary):
        write_run(tmp_path / name, {**SUMMARY, **summary}, queries)
        return tmp_path / name

    return save


def diff(*words):
    return cli.main(["replay", "--diff", *map(str, words)])


# --- figures -----------------------------------------------------------------------------------

def test_a_run_does_not_differ_from_itself():
    one = run(query(0), query(1, 0.5))
    found = diff_runs(one, one)
    assert found.exceeded(0.0, 0.0) == []
    assert (found.worst("linf"), found.worst("token_change"), found.mode_changes) == (0.0, 0.0, 0)
    assert found.time_ratio == 1.0 and found.settings == {}


def test_distances_tokens_modes_and_times():
    other = copy.deepcopy(query(1, mode=1, rows=(20, 15, 9), seconds=0.3))
    other["actions"][2][3] = -0.7
    found = diff_runs(run(query(0), query(1)), run(query(0), other))
    worst = found.queries[1]
    assert worst.linf == pytest.approx(0.7) and worst.l1 == pytest.approx(0.7 / 56)
    assert worst.token_change == pytest.approx(3 / 12)
    assert worst.tokens == pytest.approx((41 / 3, 44 / 3))
    assert worst.kept_layers == 1 and worst.modes == (0, 1)
    assert worst.time_ratio == pytest.approx(3.0) and found.mode_changes == 1
    assert found.queries[0].linf == 0.0 and found.time_ratio == pytest.approx(2.0)


def test_queries_of_one_run_only_are_never_within_limits():
    found = diff_runs(run(query(0), query(1)), run(query(1), query(2)))
    assert (found.only_a, found.only_b) == ([0], [800_000_000])
    problems = found.exceeded(1e9, 1e9)
    assert len(problems) == 2 and "only in A, the first at 0.000 s" in problems[0]
    assert diff_runs(run(), run()).exceeded(1, 1) == ["no query in both runs"]


def test_a_query_made_again_at_the_same_stamp_is_paired_in_order():
    found = diff_runs(run(query(1), query(1, 1.0)), run(query(1), query(1, 1.0)))
    assert [q.linf for q in found.queries] == [0.0, 0.0]
    assert len(diff_runs(run(query(1), query(1)), run(query(1))).only_a) == 1


def test_same_numbers_of_tokens_are_not_the_same_tokens():
    other = {**query(0), "kept_hashes": ["00", "01", "02"]}
    found = diff_runs(run(query(0)), run(other))
    assert found.exceeded(0.0, 0.0) == ["other kept sets in 1 of 1 queries"]
    assert found.exceeded(0.0, 0.01) == []


def test_chunks_of_other_shapes_and_unknown_tokens():
    short = {**query(0), "actions": np.zeros((4, 7)).tolist(), "tokens_per_layer": [],
             "kept_hashes": []}
    found = diff_runs(run(query(0)), run(short))
    assert found.exceeded(1e9, 1e9) == ["chunks of other shapes, or with NaN, in 1 queries"]
    assert found.queries[0].token_change is found.queries[0].kept_layers is None


def test_nan_is_not_within_any_limit():
    other = query(0)
    other["actions"][0][0] = None
    assert len(diff_runs(run(query(0)), run(other)).exceeded(1e9, 1e9)) == 1


def test_what_the_summaries_say_differently():
    found = diff_runs(
        run(query(0), parameters={"x": 1, "y": 2, "checkpoint": "/a",
                                  "qos_overrides./a.depth": 5}),
        run(query(0), parameters={"x": 3, "checkpoint": "/b"}, pruning="off",
            checkpoint={"hash": "sha256:2"}))
    assert found.settings == {"pruning": ("specprune", "off"), "parameters.x": (1, 3),
                              "parameters.y": (2, None),
                              "checkpoint.hash": ("sha256:1", "sha256:2")}


rows = st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6)


@given(rows, rows)
def test_distance_is_a_metric_of_the_chunks(a, b):
    one = {**query(0), "actions": [a[:3], a[3:]]}
    two = {**query(0), "actions": [b[:3], b[3:]]}
    there, back = (diff_runs(run(x), run(y)).queries[0] for x, y in ((one, two), (two, one)))
    assert (there.l1, there.linf) == (back.l1, back.linf)
    assert 0.0 <= there.l1 <= there.linf <= 2.0
    assert (there.linf == 0.0) == (a == b)
    limit = there.linf
    assert diff_runs(run(one), run(two)).exceeded(limit, 0.0) == []


# --- files and the command -----------------------------------------------------------------------

def test_a_run_comes_back_as_it_was_written(saved):
    queries = [query(0, 1 / 3), query(1, 5e-324)]
    found = read_run(saved("a", *queries))
    assert list(found.queries) == queries and found.summary["pruning"] == "specprune"
    assert digest(found.queries) == digest(queries)


def test_the_digest_sees_everything_but_time():
    base = query(0)
    assert digest([base]) == digest([{**base, "time": {"inference_s": 9.0}}])
    assert digest([base]) != digest([{**base, "mode": 1}])
    assert digest([base]) != digest([query(0, 1e-16)])
    assert digest([base]) != digest([base, base])


def test_exit_status_follows_the_limits(saved, capsys):
    a = saved("a", query(0), query(1))
    b = saved("b", query(0), query(1, 0.25, rows=(20, 12, 10)))
    assert diff(a, a) == 0
    assert "within the limits" in capsys.readouterr().out
    assert diff(a, b) == 1
    shown = capsys.readouterr().out
    assert "action distance above 0 in 1 of 2 queries, up to 0.25" in shown
    assert "token change above 0" in shown and shown.rstrip().endswith("differs")
    assert diff(a, b, "--max-action-distance", 0.25) == 1
    assert diff(a, b, "--max-token-change", 0.2) == 1
    assert diff(a, b, "--max-action-distance", 0.25, "--max-token-change", 0.2) == 0


def test_json_on_standard_output_and_in_a_file(saved, tmp_path, capsys):
    a, b = saved("a", query(0)), saved("b", query(0, 0.25))
    assert diff(a, b, "--json", "-") == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["within_limits"] is False and shown["max_action_linf"] == 0.25
    assert diff(a, b, "--json", tmp_path / "d.json") == 1
    assert json.loads((tmp_path / "d.json").read_text()) == shown


def test_wrong_usage_is_status_2(saved, tmp_path, capsys):
    a = saved("a", query(0))
    for words, message in (
            ([a, tmp_path / "none"], "does not exist"),
            ([a, tmp_path], "is no run: it has no run.json"),
            ([a, a, "--out", tmp_path / "x"], "leave BAG and --out out")):
        assert diff(*words) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["replay"]) == 2
    assert cli.main(["replay", str(BAG)]) == 2
    assert "--out RUN" in capsys.readouterr().err
    for words in (["--max-action-distance", "-1"], ["--max-token-change", "nan"]):
        with pytest.raises(SystemExit) as end:
            diff(a, a, *words)
        assert end.value.code == 2


@pytest.mark.parametrize("name, content, message", [
    ("run.json", "{", "cannot be read"),
    ("run.json", "[]", "cannot be read"),
    ("run.json", '{"format": 99}', "has format 99"),
    ("queries.jsonl", "{}\n", "cannot be read"),
    ("queries.jsonl", '{"stamp": 1, "actions": [[1, "x"]], "time": {}}\n', "cannot be read"),
    ("queries.jsonl", "nonsense\n", "cannot be read"),
])
def test_broken_runs_are_named(name, content, message, saved):
    folder = saved("a", query(0))
    (folder / name).write_text(content)
    with pytest.raises(RecordingError, match=message):
        read_run(folder)


def test_a_bag_stands_for_what_its_node_answered(saved, tmp_path):
    recorded = load_run(BAG)
    assert recorded.summary["parameters"]["pruning"] == "specprune"
    first = recorded.queries[0]
    assert np.shape(first["actions"]) == (8, 7) and first["dense_refresh"] is True
    assert len(first["kept_hashes"]) == len(first["tokens_per_layer"]) == 8
    assert diff(BAG, BAG) == 0
    empty = write(tmp_path / "empty", [("/instruction", 1.0, text("lift"))])
    with pytest.raises(RecordingError, match="no action_chunk"):
        load_run(empty)


class Fields:
    """A message of an older version: without kept_hashes and other fields."""

    def __init__(self, **fields):
        self.__dict__.update(fields)


def test_messages_of_an_older_version_give_what_they_hold():
    recorded = load_run(BAG).queries[0]
    stamp = Fields(stamp=Fields(sec=1, nanosec=5))
    chunk = Fields(header=stamp, episode=0, query_number=0, mode=1, instruction="lift",
                   parameter_revision=0, dt=0.05, horizon=2, dof=1, data=[0.5, float("nan")],
                   inference_time=0.1)
    stats = Fields(header=stamp, observation_age=float("nan"), stage_names=[], stage_times=[],
                   cold=False, method="off")
    found = query_record(chunk, stats)
    assert found["stamp"] == 1_000_000_005 and found["method"] == "off"
    assert found["kept_hashes"] == [] and "tokens_per_layer" not in found
    assert found["observation_age_s"] is None and found["actions"] == [[0.5], [None]]
    assert set(query_record(chunk, None)) < set(recorded)
