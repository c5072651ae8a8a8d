"""Figures, curve and report from made-up episodes whose figures are known."""
from __future__ import annotations

import json
import re

import pytest
from harness import record

from specprune_ros.eval.curve import budget_arms, curve
from specprune_ros.eval.episode import Arm, Job
from specprune_ros.eval.match import Match
from specprune_ros.eval.plots import draw
from specprune_ros.eval.report import point_rows, remarks, rows, write_html
from specprune_ros.eval.summary import compare, paired, summarize, summarize_all

N = 20


def records(arm: Arm, failures: int = 0, **changes):
    jobs = [Job(arm, i % 4, 100 + i) for i in range(N)]
    return [record(job, success=i >= failures, **changes) for i, job in enumerate(jobs)]


@pytest.fixture
def own():
    """Dense fails twice, the default three times, random ten times and takes longer."""
    off = [r | {"flops": r["dense_flops"], "dense": [True] * 2} for r in records(Arm("off"), 2)]
    return {
        "off": off,
        "specprune": records(Arm("specprune"), 3),
        "random": records(Arm("random"), 10, queries=5),
        "vla_cache": [{"key": "k", "unavailable": "no reason"}],
    }


def test_figures_of_a_method(own):
    found = summarize(own["specprune"])
    assert (found["n"], found["successes"], found["rate"]) == (20, 17, 0.85)
    assert found["ci95"] == pytest.approx((0.6396, 0.9476), abs=1e-4)  # Wilson
    assert found["decoder_flops_ratio"] == 0.7  # (100 + 40) / 200: the dense query counts
    assert found["decoder_flops_ratio_pruned_queries"] == 0.4
    assert found["kept_visual_tokens_mean"] == (8 + 8 + 8 + 5) / 4
    assert found["kept_visual_tokens_last_layer"] == (8 + 5) / 2
    assert found["kept_visual_tokens_per_layer"] == {"primary": [4, 3.0], "wrist": [4, 3.5]}
    assert found["latency_ms"] == {"p50": 10.0, "p95": 10.0}
    assert found["queries_per_episode"] == 2 and found["dense_query_share"] == 0.5
    assert found["mode_share"] == {"coarse": 0.5, "fine": 0.5}
    assert found["fallbacks"] == 0
    assert found["seam_jump"]["translation"] == pytest.approx(
        {"mean": 0.5, "p95": 0.5, "inside": 0.2})
    assert found["seam_jump"]["rotation"]["inside"] is None
    assert found["action_distance"] is None
    assert found["episode_s"] == pytest.approx({"simulated": 0.8, "wall": 1.0})
    assert [t["successes"] for t in found["tasks"]] == [4, 4, 4, 5]
    assert "counts_repeated_queries" not in found


def test_dense_queries_in_the_place_of_a_method_are_told(own):
    own["specprune"][3]["fallbacks"] = [0, 1]
    told = remarks(summarize_all(own))
    assert told[0].startswith("specprune: 2 queries were answered dense in its place")
    assert told[1] == "vla_cache is not available: no reason" and len(told) == 2


def test_long_and_short_episodes_weigh_by_their_queries(own):
    mixed = own["specprune"][:1] + own["random"][:1]
    assert summarize(mixed)["decoder_flops_ratio"] == (100 + 40 + 100 + 4 * 40) / 700


def test_copies_say_how_far_they_outlasted_what_they_copy(own):
    found = summarize_all(own)
    assert found["random"]["counts_repeated_queries"] == 3 * N
    assert found["vla_cache"] == {"unavailable": "no reason", "n": 0}


def test_methods_are_compared_by_initial_state(own):
    found = compare(own)
    assert set(found) == {"specprune", "random"}
    assert found["specprune"]["difference"] == pytest.approx(-0.05)
    assert (found["specprune"]["gained"], found["specprune"]["lost"]) == (0, 1)
    assert found["random"]["p"] == 2 / 2**8
    assert set(compare(own, "specprune")) == {"off", "random"}
    assert compare({"random": own["random"]}) == {}
    with pytest.raises(ValueError, match="initial states"):
        paired(own["off"], own["random"][::-1])


@pytest.fixture
def drawn_curve(own):
    matches = {"specprune": {0.7: Match(0.7, 1.5, 0.703), 0.3: Match(0.3, 0.1, 0.36)},
               "fastv": {0.7: Match(0.7, 0.6, 0.7), 0.3: Match(0.3, 0.2, 0.3)}}
    arms = budget_arms(matches, ["off", "specprune", "random", "fastv", "vla_cache"])
    found = {arms["specprune", 0.7]: records(Arm("specprune", 1.5), 2),
             arms["specprune", 0.3]: records(Arm("specprune", 0.1), 4),
             arms["random", 0.7]: records(Arm("random", 1.5), 14),
             arms["random", 0.3]: records(Arm("random", 0.1), 20),
             arms["fastv", 0.7]: records(Arm("fastv", 0.6), 1),
             arms["fastv", 0.3]: [{"key": "k", "unavailable": "none"}]}
    return curve(matches, arms, found, own, 8), arms


def test_points_of_the_curve(drawn_curve):
    found, arms = drawn_curve
    assert arms["random", 0.7] == Arm("random", 1.5)  # the knob of what it copies
    points = {(p["method"], p["target"]): p for p in found["points"]}
    assert set(points) == {*arms, *((name, None) for name in ("off", "specprune", "random"))}
    assert points["specprune", 0.7]["reached"] and not points["specprune", 0.3]["reached"]
    assert points["specprune", 0.7]["within_tolerance"]
    assert points["specprune", 0.7]["calibrated_ratio"] == 0.703
    assert points["random", 0.7]["knob"] == "counts of specprune"
    assert points["random", 0.7]["calibrated_ratio"] is None
    assert points["random", 0.7]["paired"]["difference"] == pytest.approx(-0.6)
    assert points["random", 0.7]["paired_default"]["p"] == 2 / 2**12
    assert points["fastv", 0.3] == {"method": "fastv", "target": 0.3, "unavailable": "none", "n": 0}
    assert found["targets"] == [0.7, 0.3]
    assert found["calibration"]["episodes"] == 8


def test_the_front_and_the_smallest_budget_near_dense(drawn_curve):
    found, _ = drawn_curve
    # Made-up episodes cost 0.7, or 0.52 with five queries; fastv fails least at 0.7.
    assert [(p["method"], p["target"]) for p in found["pareto"]] == [
        ("random", None), ("fastv", 0.7)]
    smallest = found["smallest_close_budget"]
    assert smallest["target"] == 0.7 and smallest["difference_from_dense"] == 0.0
    assert smallest["random_against_default"]["p"] < 0.01


def test_no_budget_is_near_dense_where_the_target_was_not_reached(own):
    arm = Arm("specprune", 0.1)
    matches = {"specprune": {0.3: Match(0.3, 0.1, 0.36)}}
    found = curve(matches, {("specprune", 0.3): arm}, {arm: own["off"]}, own, 8)
    assert found["smallest_close_budget"] is None


@pytest.fixture
def document(own, drawn_curve):
    condition = {"methods": summarize_all(own), "paired": compare(own),
                 "paired_default": compare(own, "specprune")}
    return {
        "suite": "tabletop", "n": N, "init_states": {"first": 100, "last": 119, "kind": "held out"},
        "checkpoint": {"name": "<tiny>", "trained": False}, "commit": None,
        "settings": {}, "versions": {}, "machine": {}, **condition,
        "perturbed": [{"label": "image_noise=8", **condition}], "curve": drawn_curve[0],
    }


def test_rows_for_people(document):
    text = rows(document["methods"], document["paired"])
    assert text[0][:5] == ["off", "18/20", "70-97", "", ""]
    assert text[1][:5] == ["specprune", "17/20", "64-95", "-5.0", "1"]
    assert text[3][:2] == ["vla_cache", "not available"]
    names = [row[0] for row in point_rows(document["curve"]["points"])]
    assert "specprune @ 0.3 (not reached)" in names and "fastv @ 0.7" in names
    json.dumps(document, allow_nan=False)


def test_report_is_one_file(document, tmp_path):
    pictures = draw(document, tmp_path / "pictures")
    assert {p.name for p in pictures} == {
        "success.png", "kept_tokens.png", "latency.png", "curve.png"}
    text = write_html(tmp_path / "new" / "report.html", document, pictures).read_text()
    assert text.count("data:image/png;base64,") == 4
    assert not re.search(r'(src|href)="(?!data:|#s\d)', text) and "http" not in text
    assert "&lt;tiny&gt;" in text and "untrained" in text and "image_noise=8" in text
    assert len(text) < 1_000_000


def test_nothing_is_drawn_of_methods_that_did_not_run(document, tmp_path):
    nothing = {"vla_cache": document["methods"]["vla_cache"]}
    assert draw(document | {"methods": nothing}, tmp_path) == []


