"""``specprune eval`` from its arguments to its files."""
from __future__ import annotations

import json
import re

import pytest

from specprune_ros import cli
from specprune_ros.training.collect import TRAINING_SEEDS

SHORT = ["--checkpoint", "specprune-tiny", "--suite", "tabletop", "--episodes", 1, "--seed", 12345,
         "--max-steps", 9]


def run(*arguments):
    return cli.main(["eval", *map(str, arguments)])


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A run with controls and two conditions."""
    folder = tmp_path_factory.mktemp("out")
    assert run(*SHORT, "--methods", "off,random,wrong_instruction", "--json", folder / "out.json",
               "--report", folder / "report.html", "--perturb", "image_noise=8",
               "--perturb", "obs_delay_ms=100,action_delay_steps=1") == 0
    return folder


@pytest.fixture(scope="module")
def document(out):
    return json.loads((out / "out.json").read_text())


def check_method(method):
    assert set(method["latency_ms"]) == {"p50", "p95"}
    low, high = method["ci95"]
    assert low <= method["rate"] == method["successes"] / method["n"] <= high
    assert 0 < method["kept_visual_tokens_mean"] <= 512
    assert 0 < method["decoder_flops_ratio"] <= 1


def test_json_has_the_promised_keys(document):
    assert (document["suite"], document["episodes"], document["seed"]) == ("tabletop", 1, 12345)
    assert document["n"] == 1
    # The default is played because random copies its counts.
    assert list(document["methods"]) == ["off", "specprune", "random", "wrong_instruction"]
    for method in document["methods"].values():
        check_method(method)
    assert document["methods"]["off"]["decoder_flops_ratio"] == 1.0
    assert document["methods"]["random"]["decoder_flops_ratio"] == (
        document["methods"]["specprune"]["decoder_flops_ratio"]) < 1.0
    assert set(document["paired"]) == {"specprune", "random", "wrong_instruction"}
    for paired in document["paired"].values():
        assert {"difference", "p"} <= set(paired)
    assert set(document["paired_default"]) == {"off", "random", "wrong_instruction"}


def test_json_says_where_it_comes_from(document):
    assert document["checkpoint"]["trained"] is False
    assert "random weights" in document["checkpoint"]["note"]
    assert {"settings", "versions", "commit", "machine", "settings_hash", "code_hash"} <= set(
        document)
    assert document["settings"]["methods"] == "off,random,wrong_instruction"
    assert document["init_states"] == {"first": 12345, "last": 12345, "kind": "held out"}


def test_each_perturbation_has_paired_results_of_its_own(document):
    assert [c["label"] for c in document["perturbed"]] == [
        "image_noise=8", "obs_delay_ms=100,action_delay_steps=1"]
    for condition in document["perturbed"]:
        assert list(condition["methods"]) == list(document["methods"])
        assert set(condition["paired"]) == set(document["paired"])
        assert condition["methods"]["off"]["seam_jump"] != document["methods"]["off"]["seam_jump"]


def test_report_holds_its_pictures(out):
    text = (out / "report.html").read_text()
    assert text.count("data:image/png;base64,") == 3 and "image_noise=8" in text


def test_a_finished_run_is_resumed_without_an_episode(out, document, capsys):
    log = (out / "out.episodes.jsonl").read_text()
    assert run(*SHORT, "--methods", "off,specprune,random", "--json", out / "out.json",
               "--resume") == 0
    assert (out / "out.episodes.jsonl").read_text() == log
    again = json.loads((out / "out.json").read_text())
    assert again["methods"]["random"] == document["methods"]["random"]
    assert "specprune-tiny" in capsys.readouterr().out


@pytest.mark.parametrize("changes, message", [
    (["--seed", TRAINING_SEEDS.start + 3], "are training seeds"),
    (["--seed", TRAINING_SEEDS.start - 1, "--episodes", 2], "are training seeds"),
    (["--seed", 2_000_000, "--match-flops", "0.5"], "tunes on initial states 2000000"),
    (["--episodes", 0], "at least one"),
    (["--methods", "off,magic"], "unknown method magic"),
    (["--perturb", "image_noise=a"], "perturbation 'image_noise=a'"),
    (["--perturb", "obs_delay_ms=33"], "no whole number of control periods"),
    (["--match-flops", "2"], "between 0 and 1"),
    (["--checkpoint", "nowhere"], "'.*nowhere' is no checkpoint directory"),
    (["--ray-address", "auto"], "--engine ray"),
    (["--max-steps", 0], "max_steps is 0"),
])
def test_what_cannot_be_run_is_refused_before_an_episode(changes, message, tmp_path, capsys):
    assert run(*SHORT, "--json", tmp_path / "out.json", *changes) == 1
    assert re.search(message, capsys.readouterr().err)


def test_other_settings_are_not_mixed(out, capsys):
    assert run(*SHORT[:-1], 17, "--json", out / "out.json", "--resume") == 1
    assert "max_steps 9 (now 17)" in capsys.readouterr().err
    assert run(*SHORT, "--json", out / "out.json") == 1
    assert "--resume" in capsys.readouterr().err


def test_match_flops_hits_its_target(tmp_path):
    assert run(*SHORT, "--methods", "specprune,random", "--match-flops", "0.8",
               "--calibration-episodes", 1, "--json", tmp_path / "o.json",
               "--pictures", tmp_path / "pictures") == 0
    document = json.loads((tmp_path / "o.json").read_text())
    points = {p["method"]: p for p in document["curve"]["points"] if p["target"] == 0.8}
    assert set(points) == {"specprune", "random"}
    assert abs(points["specprune"]["calibrated_ratio"] - 0.8) <= 0.01
    assert points["specprune"]["reached"] and points["specprune"]["knob"] == "budget_scale"
    assert points["specprune"]["decoder_flops_ratio"] == pytest.approx(0.8, abs=0.02)
    assert points["random"]["decoder_flops_ratio"] == points["specprune"]["decoder_flops_ratio"]
    assert "off" in document["methods"]  # what the curve is compared with
    assert (tmp_path / "pictures" / "curve.png").is_file()
    keys = [json.loads(line)["key"] for line in
            (tmp_path / "o.episodes.jsonl").read_text().splitlines()[1:]]
    calibration = [key for key in keys if key.endswith("|2000000")]
    assert calibration and len(keys) == len(set(keys))
    # Dense, two methods at their own settings, and two at the budget.
    assert len(keys) - len(calibration) == 5
