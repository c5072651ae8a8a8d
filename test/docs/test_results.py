"""Figures in README and docs are those of the JSON files, and nothing else."""
from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import results_table  # noqa: E402


@pytest.fixture
def recorded():
    return json.loads((ROOT / "docs/results/eval-tabletop-40.json").read_text())


def test_blocks_of_the_pages_are_up_to_date(capsys):
    assert results_table.main(["--check"]) == 0, capsys.readouterr().err


def test_every_page_has_a_block():
    for page in results_table.PAGES:
        assert results_table.BLOCK.search((ROOT / page).read_text()), page


def test_a_row_has_the_figures_of_the_file(recorded):
    recorded["methods"]["specprune"] |= {"successes": 123, "n": 200, "ci95": [0.5, 0.75]}
    recorded["n"] = 200
    text = results_table.block("", [("docs/results/x.json", recorded)])
    assert "| `specprune` | 123/200 | 50 to 75 % |" in text
    assert "[docs/results/x.json](docs/results/x.json)" in text
    assert "`specprune eval --suite tabletop --methods off,specprune,random --episodes 40" in text


def test_the_largest_held_out_run_of_trained_weights_counts(recorded):
    large, tuning, untrained = (copy.deepcopy(recorded) for _ in range(3))
    large["n"], tuning["n"], untrained["n"] = 100, 400, 500
    tuning["init_states"]["kind"] = "for tuning, not for results"
    untrained["checkpoint"]["trained"] = False
    files = [("a", recorded), ("b", large), ("c", tuning), ("d", untrained)]
    assert [path for path, _ in results_table.evaluations(files)] == ["b"]


def test_a_page_is_renewed_and_the_rest_of_it_stays(tmp_path, recorded):
    (tmp_path / "docs/results").mkdir(parents=True)
    (tmp_path / "docs/results/eval.json").write_text(json.dumps(recorded))
    recorded["methods"]["off"]["successes"] = 39
    (tmp_path / "docs/results/other.json").write_text(json.dumps(recorded))
    for page in results_table.PAGES:
        (tmp_path / page).write_text(
            "before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n")
    (tmp_path / "docs/evaluation.md").write_text(
        "<!-- results:begin other -->\n<!-- results:end -->\n")
    assert results_table.main(["--check"], tmp_path) == 1
    assert results_table.main([], tmp_path) == 0
    text = (tmp_path / "docs/comparison.md").read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    shown = f"| `random` | {recorded['methods']['random']['successes']}/40 |"
    assert shown in text and "](results/eval.json)" in text
    assert "`off` | 39/40" in (tmp_path / "docs/evaluation.md").read_text()
    assert results_table.main(["--check"], tmp_path) == 0


def test_a_block_of_nothing_is_refused(recorded):
    with pytest.raises(SystemExit, match="'lost'"):
        results_table.block("lost", [("docs/results/x.json", recorded)])


def test_speed_is_told_with_its_ratios(recorded):
    arm = {"text": "dense", "query_cpu_ms": {"median": 20.0, "iqr": 1.0}, "flops": 2e9,
           "cpu_ms": {"median": 10.0, "iqr": 0.5}, "tokens_per_layer": [605, 605, 157]}
    bench = recorded | {"command": "bench", "device": "cpu", "arms": {"b": arm},
                        "model": {"name": "tiny", "dtype": "float32"},
                        "ratios": {"b/d": 2.5, "query b/d": None},
                        "settings": {"device": "cpu", "model": "tiny", "arms": "b,d"}}
    text = results_table.block("bench", [("bench/results/x.json", bench)])
    assert "b: dense | 20.0 (1.0) | 10.0 (0.5) | 2.0 | 605, 157 |" in text
    assert "`specprune bench --device cpu --model tiny --arms b,d`. Ratios: b/d 2.50." in text
