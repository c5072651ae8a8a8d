"""specprune analyze: each experiment on a small stream, and what must hold of its figures."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from streams import check_stream_facts, results, run, tiny_stream

from specprune_ros import cli
from specprune_ros.analysis import ablation, hitrate, roofline, sensitivity, thresholds
from specprune_ros.analysis.devices import DEVICES, find_devices
from specprune_ros.analysis.output import queries_text
from specprune_ros.analysis.overhead import resized
from specprune_ros.analysis.probe import ROWS, AttentionScores, ProbePruner, head_scores
from specprune_ros.analysis.replay import replay
from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.presets import preset
from specprune_ros.runtime.accounting import openvla_oft_7b
from specprune_ros.tokens import TokenLayout

# Thresholds --------------------------------------------------------------------------------


def test_thresholds(stream_dir, tmp_path):
    run("analyze", "thresholds", "--recording", stream_dir, "--factors", 0, 1, 2, 10,
        "--out", tmp_path, "--report", tmp_path / "report" / "thresholds.html")
    report = (tmp_path / "report" / "thresholds.html").read_text()
    assert report.count("data:image/png;base64,") == 1 and "analyze thresholds" in report
    document = results(tmp_path, "thresholds")
    check_stream_facts(document, 3)
    points = document["points"]
    assert [point["factor"] for point in points] == [0, 1, 2, 10]
    for key in ("fine_share", "fine_share_periods", "kept_visual_mean", "flops"):
        assert (np.diff([point[key] for point in points]) >= 0).all(), key
    never, preset_, _, always = points
    assert never["fine_share_periods"] == never["fine_share"] == 0 == never["mode_changes"]
    assert 0 < preset_["fine_share_periods"] < 1
    assert always["fine_share"] == 1 and always["mode_changes"] == 1
    assert always["kept_visual_mean"] > never["kept_visual_mean"]
    assert preset_["thresholds"]["enter_translation"] == 0.10
    assert all(point["closed_loop"] is None for point in points)


def test_scaled_thresholds_keep_their_order():
    config = preset("specprune").controller
    for which in ("translation", "rotation", "both"):
        half = thresholds.scaled(config, 0.5, which)
        changed = {name for name, value in vars(half).items() if value != getattr(config, name)}
        assert changed and (which == "both" or all(which in name for name in changed))
        assert half.min_dwell == config.min_dwell and half.enter_vertical == config.enter_vertical


@pytest.mark.parametrize("name", ["release", "paper_v1", "paper_icml"])
def test_periods_of_a_controller_that_ignores_twists_are_not_known(name, stream_dir, tmp_path):
    run("analyze", "thresholds", "--recording", stream_dir, "--preset", name, "--factors", 0, 1,
        "--max-queries", 2, "--out", tmp_path)
    document = results(tmp_path, "thresholds")
    assert "that each policy commands itself" in document["note"]
    for point in document["points"]:
        assert point["fine_share_periods"] is None and point["mode_changes"] is None
        assert 0 <= point["fine_share"] <= 1
        # Only what the rule reads, in the order of the document's own list.
        assert list(point["thresholds"]) == document["scaled"]
    used = preset(name).controller.thresholds()
    assert document["points"][1]["thresholds"] == {n: used[n] for n in document["scaled"]}
    assert ("exit_vertical" in document["scaled"]) == (name == "release")
    assert ("exit_translation" in document["scaled"]) == (name != "release")


@pytest.mark.parametrize("name", ["specprune", "paper_v1", "release"])
def test_thresholds_scaled_are_those_that_the_rule_uses(name):
    config = preset(name).controller
    groups = [set(thresholds.scaled_names(config, w)) for w in ("translation", "rotation")]
    both = set(thresholds.scaled_names(config, "both"))
    assert groups[0] | groups[1] == both <= set(config.thresholds())
    assert not groups[0] & groups[1]
    if name == "release":
        assert both == set(config.thresholds())
        assert thresholds.scaled(config, 0.25, "translation").exit_vertical == 0.05
    else:
        assert both == {"enter_translation", "exit_translation", "enter_rotation",
                        "exit_rotation"}


def test_periods_without_recorded_velocities_are_not_known():
    config = preset("specprune").controller
    stream = tiny_stream(3)
    assert thresholds.periods_note(config, [stream]) == ""
    assert "has ee_twists" in thresholds.periods_note(config, [replace(stream, ee_twists=None)])


# Hit rates ---------------------------------------------------------------------------------


def test_hitrate(stream_dir, tmp_path):
    run("analyze", "hitrate", "--recording", stream_dir, "--top-k", 16, "--out", tmp_path)
    document = results(tmp_path, "hitrate")
    check_stream_facts(document, 3)
    assert document["chance"] == 16 / 256
    for cameras in document["rows"].values():
        assert set(cameras) == {"primary", "wrist"}
        for values in cameras.values():
            overlap = values["last_layer_overlap"]
            assert len(overlap) == 8 and overlap[-1] == 1.0  # a layer with itself
            depth = list(values["speculation_hit"].values())
            assert depth == sorted(depth) and depth[0] == pytest.approx(overlap[0])
            for key in ("last_layer_overlap", "previous_query_overlap"):
                assert all(0 <= share <= 1 for share in values[key])
            assert min(values["head_variance"]) >= 0 and max(values["head_cv"]) > 0
    assert all(0 <= share <= 1 for share in document["global_set_overlap"].values())
    assert document["global_set"]["layers"] == [3, 7]


def test_a_still_scene_repeats_its_sets(dense):
    queries: list[AttentionScores] = []
    list(replay(dense.with_pruning(ProbePruner(queries.append)), tiny_stream(17, "static")))
    found = hitrate.statistics([queries], 20, preset("specprune"))
    for cameras in found["rows"].values():
        for values in cameras.values():
            assert values["previous_query_overlap"] == [1.0] * 8
    assert found["global_set_overlap"] == {"primary": 1.0, "wrist": 1.0}
    one = hitrate.statistics([queries[:1]], 20, preset("specprune"))
    assert one["rows"]["readout"]["primary"]["previous_query_overlap"] is None
    assert one["global_set_overlap"]["wrist"] is None


def test_probing_is_dense_and_attention_of_a_row_sums_to_one(dense):
    queries: list[AttentionScores] = []
    stream = tiny_stream(9)
    probed = list(replay(dense.with_pruning(ProbePruner(queries.append)), stream))
    for (_, mine), (_, theirs) in zip(probed, replay(dense, stream)):
        np.testing.assert_array_equal(mine.normalized_actions, theirs.normalized_actions)
    assert len(queries) == 2
    for scores in queries[0].scores.values():
        assert scores.shape == (8, 4, 2, 256)  # layers, heads, cameras, patches
        share = scores.sum((2, 3))  # of attention that goes to patches
        assert ((share > 0) & (share < 1)).all()


def test_head_scores_is_the_mean_over_the_rows_asked_for():
    layout = TokenLayout(("primary",), 4, False, 3, 2, (0, 2))
    full = torch.rand(2, layout.length, layout.length)

    class Attention:
        positions = key_positions = torch.arange(layout.length)

        def weights(self, rows, keys):
            assert len(rows) <= 16
            return full[:, rows][:, :, keys]

    found = head_scores(Attention(), range(5, 8), layout)
    torch.testing.assert_close(found[:, 0], full[:, 5:8, 1:5].mean(1))


def test_statistics_by_hand():
    """Two layers, two heads, one camera of four patches; the top two are compared."""
    layout = TokenLayout(("primary",), 4, False, 3, 2, (0, 2))
    heads = torch.tensor([
        [[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]],
        [[0.0, 4.0, 3.0, 2.0], [2.0, 4.0, 3.0, 2.0]],
    ])[:, :, None]  # [layers, heads, cameras, patches]
    later = heads.flip(-1)
    queries = [AttentionScores(layout, dict.fromkeys(ROWS, s)) for s in (heads, later)]
    found = hitrate.statistics([queries], 2, preset("specprune"))
    values = found["rows"]["instruction"]["primary"]
    assert values["last_layer_overlap"] == [0.5, 1.0]  # {0, 1} and {1, 2}, or their mirror images
    assert values["previous_query_overlap"] == [0.0, 1.0]  # {0, 1}, {3, 2}; {1, 2}, {2, 1}
    assert values["head_variance"] == [0.0, 0.25]  # one patch of four, by 1 from its mean
    assert values["head_cv"] == [0.0, 0.25]


# Sensitivity and ablation ------------------------------------------------------------------


def test_sensitivity(stream_dir, tmp_path):
    run("analyze", "sensitivity", "--recording", stream_dir, "--factors", 0, 1, 2,
        "--knobs", "alpha", "dynamic", "--out", tmp_path)
    document = results(tmp_path, "sensitivity")
    check_stream_facts(document, 3)
    alpha, dynamic = document["knobs"]["alpha"], document["knobs"]["dynamic"]
    for points in (alpha, dynamic):
        kept = [point["kept_visual_mean"] for point in points]
        assert kept == sorted(kept)
        assert [point["factor"] for point in points] == [0, 1, 2]
    assert alpha[1]["flops"] == dynamic[1]["flops"]  # the preset itself
    assert alpha[0]["kept_visual_last_layer"] == pytest.approx(512 / 3)  # the dense query alone
    own = alpha[1]["budgets"]["scene_coarse"]
    twice = {name: 2 * count for name, count in own.items()}
    assert alpha[2]["budgets"]["scene_coarse"] == twice
    assert dynamic[2]["budgets"]["scene_coarse"] == {**own, "dynamic": twice["dynamic"]}


def test_budgets_that_cover_every_patch_are_dense(dense):
    config = sensitivity.scaled(preset("specprune"), 100.0, ("global_", "dynamic", "local"))
    config = replace(config, dynamic=replace(config.dynamic, enabled=False))
    stream = tiny_stream(9)
    for (_, mine), (_, theirs) in zip(replay(dense.with_pruning(config), stream),
                                      replay(dense, stream)):
        np.testing.assert_array_equal(mine.normalized_actions, theirs.normalized_actions)
        assert mine.report.flops == mine.report.dense_flops


def test_ablation(stream_dir, tmp_path):
    run("analyze", "ablation", "--recording", stream_dir, "--out", tmp_path)
    document = results(tmp_path, "ablation")
    check_stream_facts(document, 3)
    found = document["variants"]
    dense, full = found["dense"], found["specprune"]
    assert dense["flops_ratio"] == 1.0 and dense["action_l1_chunk"] == 0.0
    assert 0 < full["flops_ratio"] < 1 and full["action_l1_chunk"] > 0
    for name in ("without global", "without dynamic", "without local", "no set"):
        assert found[name]["kept_visual_mean"] < full["kept_visual_mean"], name
    # Without any set the pruned queries keep no patch after the two whole layers.
    assert found["no set"]["kept_visual_per_layer"][1:] == [512] + [pytest.approx(512 / 3)] * 6
    assert found["without dynamic stage"]["kept_visual_mean"] > full["kept_visual_mean"]
    assert found["without controller"]["fine_share"] == 0 < full["fine_share"]
    depth = [found[f"speculation depth {d}"] for d in (1, 2, 3)]
    assert depth[0]["kept_visual_mean"] < depth[1]["kept_visual_mean"]
    assert depth[1]["flops"] == full["flops"]  # two layers are the preset's own
    assert depth[1]["action_l1_chunk"] == full["action_l1_chunk"]
    assert {f"frame interval {t}" for t in ablation.INTERVALS} <= set(found)
    assert all(result["closed_loop"] is None for result in found.values())


def test_ablation_of_a_preset_changes_one_thing_at_a_time():
    config = preset("paper_icml")
    groups = ablation.variants(config)
    for name, variant in groups["without"].items():
        changed = [part for part in vars(config)
                   if getattr(variant, part) != getattr(config, part)]
        assert len(changed) == 1, name


@pytest.mark.parametrize("module, arguments", [
    (ablation, []), (sensitivity, ["--factors", 1]), (thresholds, ["--factors", 1]),
])
def test_pictures_say_how_many_queries_are_dense_on_purpose(
    module, arguments, stream_dir, tmp_path, monkeypatch
):
    said = []
    save = module.save
    monkeypatch.setattr(module, "save", lambda *given: said.append(given[-1]) or save(*given))
    run("analyze", module.__name__.rsplit(".")[-1], "--recording", stream_dir, "--max-queries", 2,
        *arguments, "--out", tmp_path)
    assert said[0].endswith("n = 2 queries (1 of them dense on purpose)")


def test_dense_queries_that_differ_between_variants_are_a_range():
    assert queries_text(1, []) == "1 query"
    variants = [{"dense_queries": n} for n in (3, 0, 1)] + [{"unavailable": "why"}]
    assert queries_text(9, variants) == "9 queries (0 to 3 of them dense on purpose)"


# Overhead ----------------------------------------------------------------------------------


def test_overhead(stream_dir, tmp_path):
    run("analyze", "overhead", "--recording", stream_dir, "--resolutions", 320, 224,
        "--repeats", 2, "--out", tmp_path)
    document = results(tmp_path, "overhead")
    check_stream_facts(document, 3)
    assert [result["resolution"] for result in document["resolutions"]] == [224, 320]
    for result in document["resolutions"]:
        assert all(ms > 0 for ms in result["isolated_ms"].values())
        assert all(ms >= 0 for ms in result["in_query_ms"].values())
        assert sum(result["in_query_ms"].values()) < result["query_ms"]
        assert 0 < result["selection_share"] < 1
        assert result["pruned_queries"] == 2  # of three, the first is dense


def test_resized_stream_keeps_everything_else():
    stream = tiny_stream(3)
    small = resized(stream, 64)
    assert small.frames.shape == (3, 2, 64, 64, 3)
    assert abs(float(small.frames.mean()) - float(stream.frames.mean())) < 1
    np.testing.assert_array_equal(small.stamps, stream.stamps)
    assert resized(stream, 224) is stream


# Roofline ----------------------------------------------------------------------------------


def test_roofline_of_7b(tmp_path):
    run("analyze", "roofline", "--out", tmp_path)
    document = results(tmp_path, "roofline")
    assert document["checkpoint"] is None and document["query"]["other_tokens"] == 93
    dense = document["schedules"]["dense"]
    assert dense["flops"] == pytest.approx(8.84e12, rel=0.01)
    assert dense["stages"]["decoder, 605 rows"]["flops"] == pytest.approx(8.03e12, rel=0.001)
    # Bounds worked out separately, from weights alone: they agree where these dominate.
    expected = {"H200": 11.3, "A800": 28.5, "RTX3090": 125, "Orin": 297}
    for device, ms in expected.items():
        assert dense["bound_ms"][device] == pytest.approx(ms, rel=0.01)
    third = document["schedules"]["1/3 from layer 2"]["bound_ms"]
    assert third["H200"] == pytest.approx(5.8, rel=0.01)
    assert third["RTX3090"] == pytest.approx(64, rel=0.01)
    # A large ridge: memory-bound even when dense, so pruning gains little.
    assert dense["stages"]["decoder, 605 rows"]["limit"]["Thor-datasheet"] == "memory"
    assert dense["stages"]["decoder, 605 rows"]["limit"]["RTX3090"] == "compute"
    none = document["schedules"]["no visual from layer 2"]["bound_ms"]
    assert dense["bound_ms"]["Thor"] / none["Thor"] < 1.3
    assert dense["bound_ms"]["RTX3090"] / none["RTX3090"] > 3.5
    for result in document["schedules"].values():
        stages = result["stages"].values()
        assert sum(stage["flops"] for stage in stages) == result["flops"]
        assert len(result["rows_per_layer"]) == 32


def test_ridge_in_rows_is_where_a_layer_crosses_it():
    decoder = openvla_oft_7b().decoder
    for device in DEVICES.values():
        rows = roofline.ridge_rows(decoder, device)
        if rows is None:
            assert decoder.layer_cost(1 << 16, 1 << 16).intensity(2) < device.ridge
            continue
        assert decoder.layer_cost(rows, rows).intensity(2) >= device.ridge
        assert decoder.layer_cost(rows - 1, rows - 1).intensity(2) < device.ridge
    # One row costs about one FLOP per byte of weights.
    assert roofline.ridge_rows(decoder, DEVICES["H200"]) == pytest.approx(200, abs=20)


def test_schedules_keep_what_their_names_say():
    found = roofline.schedules(512, 32)
    assert found["dense"] == [512] * 32
    assert found["1/3 from layer 2"] == [512] * 2 + [171] * 30
    assert found["3/8 from layer 1, then 1/4"] == [512, 192] + [128] * 30
    shrinking = found["1/3, then x0.8 at 5 layers"]
    assert [shrinking[layer] for layer in (2, 5, 6, 10, 11, 16, 21, 26, 31)] == [
        171, 171, 136, 136, 108, 86, 68, 60, 60]
    assert all(len(kept) == 8 for kept in roofline.schedules(512, 8).values())


def test_roofline_of_a_checkpoint_on_a_stream(stream_dir, tmp_path):
    run("analyze", "roofline", "--model", "checkpoint", "--recording", stream_dir,
        "--devices", "cpu", "--out", tmp_path)
    document = results(tmp_path, "roofline")
    check_stream_facts(document, 3)
    device = document["devices"]["cpu"]
    assert device["kind"] == "measured" and device["element_bytes"] == 4
    assert device["peak_flops"] > 1e8 and device["bandwidth_bytes"] > 1e7
    measured = document["schedules"]["specprune, mean on the stream"]
    assert measured["flops"] < document["schedules"]["dense"]["flops"]


@pytest.mark.parametrize("arguments, message", [
    (["roofline", "--devices", "Abacus"], "unknown device Abacus; known: H200"),
    (["roofline", "--devices", "cpu", "H200"], "ask for it alone"),
    (["roofline", "--synthetic"], "need --model checkpoint"),
    (["thresholds", "--synthetic", "--factors", "-1"], "must be finite and >= 0"),
    (["hitrate", "--synthetic", "static", "--steps", "2", "--top-k", "300"], "1 to 256 patches"),
    (["overhead", "--synthetic", "--resolutions", "8"], "must be >= 32"),
    (["thresholds", "--synthetic", "static", "--steps", "2", "--max-queries", "1", "--factors",
      "1", "--suite", "tabletop", "--episodes", "0"], "--episodes is 0"),
])
def test_wrong_settings_are_named(arguments, message, tmp_path, capsys):
    assert cli.main(["analyze", *arguments, "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_devices_come_in_the_order_asked_for():
    assert [device.name for device in find_devices(["A800", "H200"])] == ["A800", "H200"]
    with pytest.raises(ConfigurationError):
        find_devices(["H100"])


def test_no_stream_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["analyze", "hitrate"])
    assert ended.value.code == 2
    assert "--recording" in capsys.readouterr().err


# Options ------------------------------------------------------------------------------------


def test_options(stream_dir, tmp_path):
    run("analyze", "options", "--recording", stream_dir, "--vision-reuse", 1, 0.5,
        "--latency-target-ms", 0.01, "--out", tmp_path)
    document = results(tmp_path, "options")
    check_stream_facts(document, 3)
    found = document["variants"]
    plain = found["specprune"]
    assert plain["action_l1_chunk"] == 0.0 and plain["reused_cameras_share"] == 0.0
    assert plain["bucket"] is None
    exact, loose = found["specprune, vision_reuse 1"], found["specprune, vision_reuse 0.5"]
    assert exact["action_l1_chunk"] < 1e-5
    assert exact["reused_cameras_share"] <= loose["reused_cameras_share"]
    small = found["specprune, weights int8"]
    assert small["weight_bytes"] < plain["weight_bytes"] and small["action_l1_chunk"] > 0
    assert found["off, weights int8"]["weight_bytes"] == small["weight_bytes"]
    hurried = found["specprune, latency_target_ms 0.01"]
    assert hurried["bucket_ms"] > 0.01
    assert hurried["bucket"] < found["off"]["rows_per_layer"][0]
    assert set(document["settings"]["options"]) == {"vision_reuse", "weights", "latency"}
