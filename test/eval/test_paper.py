"""The table in the paper's layout: its figures as they are, ours beside them."""
from __future__ import annotations

import json

import pytest

from specprune_ros import cli
from specprune_ros.errors import ConfigurationError
from specprune_ros.eval.paper import COLUMNS, HEADS, PUBLISHED, paper_rows


def document(suite="libero_spatial", trained=True, n=500, **methods):
    """A result with (successes, ms, FLOPs ratio) by method."""
    return {
        "suite": suite,
        "checkpoint": {"trained": trained},
        "methods": {
            name: {"n": n, "rate": successes / n, "latency_ms": {"p50": ms, "p95": 2 * ms},
                   "decoder_flops_ratio": ratio}
            for name, (successes, ms, ratio) in methods.items()
        },
    }


def row(rows, method, figures):
    names = [(r[0] or before[0], r[1]) for before, r in zip([None, *rows], rows)]
    return dict(zip(HEADS, rows[names.index((method, figures))]))


def test_without_results_only_the_paper_speaks():
    rows = paper_rows([])
    assert len(rows) == 2 * len(PUBLISHED)
    for line in rows:
        assert len(line) == len(HEADS)
        assert (line[1] == "ours") == (not any(line[2:]))
    dense = row(rows, "off", "paper")
    assert [dense[head] for head in COLUMNS.values()] == [
        "97.6/109", "96.5/109", "97.9/109", "94.5/109"]
    assert (dense["mean"], dense["speed"], dense["FLOPs"]) == ("96.6", "1.00x", "100 %")
    pruned = row(rows, "specprune", "paper")
    assert (pruned["Long"], pruned["speed"]) == ("94.0/78.1 (1.40x)", "1.46x")


def test_a_result_fills_the_column_of_its_suite():
    rows = paper_rows([document(off=(480, 40.0, 1.0), specprune=(475, 25.0, 0.45),
                                random=(100, 30.0, 0.45))])
    ours = row(rows, "specprune", "ours")
    assert ours["Spatial"] == "95.0/25 (1.60x)"
    assert ours["Goal"] == ours["mean"] == ""
    assert (ours["speed"], ours["FLOPs"]) == ("1.60x", "45 %")
    assert row(rows, "random", "ours")["Spatial"] == "20.0/30 (1.33x)"
    assert not any(row(rows, "random", "paper")[head] for head in COLUMNS.values())


def test_the_mean_needs_all_suites_and_other_counts_are_said():
    documents = [document(suite, n=50, off=(40 + number, 20.0, 1.0))
                 for number, suite in enumerate(COLUMNS)]
    assert row(paper_rows(documents[1:]), "off", "ours")["mean"] == ""
    dense = row(paper_rows(documents), "off", "ours")
    assert dense["mean"] == "83.0" and dense["Spatial"] == "80.0/20 (1.00x), n=50"


def test_without_dense_there_is_no_speed_up():
    ours = row(paper_rows([document(specprune=(475, 25.0, 0.45))]), "specprune", "ours")
    assert (ours["Spatial"], ours["speed"], ours["FLOPs"]) == ("95.0/25", "", "45 %")


def test_untrained_checkpoints_and_unavailable_methods_are_left_empty():
    untrained = document(trained=False, off=(0, 20.0, 1.0))
    missing = document("libero_goal")
    missing["methods"]["sparsevlm"] = {"unavailable": "no", "n": 0}
    assert paper_rows([untrained, missing]) == paper_rows([])


@pytest.mark.parametrize("documents, message", [
    ([{}], "no result of specprune eval"),
    ([[]], "no result of specprune eval"),
    ([document("libero_90")], "no column for suite 'libero_90'"),
    ([document(), document()], "two results of suite 'libero_spatial'"),
])
def test_what_is_no_result_is_refused(documents, message):
    with pytest.raises(ConfigurationError, match=message):
        paper_rows(documents)


def test_the_command_reads_results(tmp_path, capsys):
    path = tmp_path / "goal.json"
    path.write_text(json.dumps(document("libero_goal", off=(490, 35.5, 1.0))))
    assert cli.main(["eval-table", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "98.0/35.5" in shown and "arXiv 2509.05614v1, Table 1" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
    path.write_text("{")
    assert cli.main(["eval-table", str(path)]) == 1
    assert cli.main(["eval-table", str(tmp_path / "none.json")]) == 1
    assert "none.json' is no result" in capsys.readouterr().err
