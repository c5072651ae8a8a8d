"""specprune compare."""
from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import pytest
from rich.console import Console
from streams import check_stream_facts, run

from specprune_ros import cli
from specprune_ros.analysis import comparison
from specprune_ros.errors import MethodUnavailable
from specprune_ros.pruning import registry

KEYS = {"queries", "dense_queries", "rows_per_layer", "kept_visual_per_layer",
        "kept_visual_per_camera", "flops", "flops_ratio", "flops_ratio_steady", "cpu_ms_median",
        "action_l1_chunk", "action_l1_first"}


@pytest.fixture(scope="module")
def everything(stream_dir, tmp_path_factory):
    """All methods on the small stream; four queries, as some methods begin with three dense."""
    out = tmp_path_factory.mktemp("compare")
    run("compare", "--recording", stream_dir, "--methods", "all", "--every", 5,
        "--json", out / "out.json", "--csv", out / "out.csv", "--report", out / "out.html")
    rows = list(csv.DictReader((out / "out.csv").open()))
    return json.loads((out / "out.json").read_text()), rows


def test_report_shows_every_method_with_pictures(everything, tmp_path_factory):
    document, _ = everything
    text = max(tmp_path_factory.getbasetemp().glob("compare*/out.html")).read_text()
    assert text.count("data:image/png;base64,") == 3
    for name in document["methods"]:
        assert f">{name}<" in text
    assert not re.search(r'(src|href)="(?!data:|#s\d)', text)
    assert "random weights say nothing about accuracy" in text


def test_every_registered_method_is_there(everything):
    document, rows = everything
    check_stream_facts(document, 4)
    assert list(document["methods"]) == list(registry.known_methods())
    assert [row["method"] for row in rows] == list(document["methods"])
    for method in document["methods"].values():
        assert "unavailable" in method or KEYS <= set(method)


def test_dense_is_its_own_measure(everything):
    dense = everything[0]["methods"]["off"]
    assert dense["flops_ratio"] == dense["flops_ratio_steady"] == 1.0
    assert dense["action_l1_chunk"] == dense["action_l1_chunk_max"] == 0.0
    assert set(dense["kept_visual_per_layer"]) == {512.0}


def test_figures_of_each_method_agree_with_one_another(everything):
    for name, method in everything[0]["methods"].items():
        if "unavailable" in method:
            continue
        per_camera = np.sum(list(method["kept_visual_per_camera"].values()), axis=0)
        np.testing.assert_allclose(per_camera, method["kept_visual_per_layer"], err_msg=name)
        assert 0 < method["flops_ratio"] <= 1, name
        assert method["cpu_ms_median"] > 0
        if name != "off":
            assert method["action_l1_chunk"] > 0, name
            assert min(method["kept_visual_per_layer"]) < 512, name
        fewer_rows = np.array(method["rows_per_layer"]) < method["rows_per_layer"][0]
        fewer_patches = np.array(method["kept_visual_per_layer"]) < per_camera[0]
        assert (fewer_rows == fewer_patches).all(), name


def test_chosen_methods_in_their_order_and_the_same_again(stream_dir, tmp_path):
    def once(name):
        run("compare", "--recording", stream_dir, "--methods", "release, off", "--json",
            tmp_path / name, "--max-queries", 2)
        methods = json.loads((tmp_path / name).read_text())["methods"]
        return {m: {k: v for k, v in result.items() if "_ms_" not in k}
                for m, result in methods.items()}

    first = once("a.json")
    assert list(first) == ["release", "off"] and first["release"]["queries"] == 2
    assert first == once("b.json")


def test_unavailable_method_is_listed_with_its_reason(stream_dir, tmp_path, monkeypatch, capsys):
    def make(name):
        if name == "paper_v1":
            raise MethodUnavailable("needs what is not here")
        return registry.make_pruner(name)

    monkeypatch.setattr("specprune_ros.analysis.comparison.make_pruner", make)
    run("compare", "--recording", stream_dir, "--methods", "off,paper_v1", "--json",
        tmp_path / "out.json", "--csv", tmp_path / "out.csv", "--max-queries", 1,
        "--report", tmp_path / "out.html")
    assert "needs what is not here" in (tmp_path / "out.html").read_text()
    methods = json.loads((tmp_path / "out.json").read_text())["methods"]
    assert methods["paper_v1"] == {"unavailable": "needs what is not here"}
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert rows[1]["unavailable"] == "needs what is not here" and rows[1]["flops"] == ""
    shown = capsys.readouterr().out
    assert "paper_v1 is not available: needs what is not here" in " ".join(shown.split())
    assert "random weights say nothing about accuracy" in " ".join(shown.split())


@pytest.mark.parametrize("cameras", [2, 3, 5])
def test_table_fits_80_columns_with_whole_names(cameras):
    result = {"kept_visual_last_layer": 256.0 * cameras, "flops_ratio": 1.0,
              "flops_ratio_steady": 0.345, "cpu_ms_median": 1234.5, "action_l1_chunk": 0.1234,
              "action_l1_first": 0.1234,
              "kept_visual_per_camera": {str(camera): [256.0] for camera in range(cameras)}}
    names = registry.known_methods()
    results = dict.fromkeys(names, result)
    results["paper_v1"] = {"unavailable": "needs what is not here, whatever that may be"}
    stream = io.StringIO()
    Console(file=stream, width=80).print(comparison.table(results))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [name for line in lines for name in line.split()[:1] if name in names] == list(names)
    shown = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert shown["paper_v1"] == ["-"] * 7
    assert "…" not in stream.getvalue() and "1234.5" in shown["vla_cache_release"]


@pytest.mark.parametrize("arguments, message", [
    (["--methods", "off,nonsense"], "unknown nonsense; known: all, off"),
    (["--methods", ","], "no method"),
    (["--recording", "/nowhere/at/all"], "does not exist"),
    (["--checkpoint", "/nowhere/at/all"], "/nowhere/at/all"),
])
def test_wrong_settings_are_named(arguments, message, stream_dir, tmp_path, capsys):
    given = ["compare", "--json", str(tmp_path / "x.json"), *arguments]
    if "--recording" not in arguments:
        given += ["--recording", str(stream_dir)]
    assert cli.main(given) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("option", ["--every", "--steps", "--max-queries", "--chunk-length"])
@pytest.mark.parametrize("value", ["1.5", "0", "-3", "many", ""])
def test_counts_are_whole_numbers(option, value, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", "--synthetic", "--json", "x.json", f"{option}={value}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"argument {option}: expected a whole number >= 1, not '{value}'" in said
