"""Places that cannot be written are refused before anything is computed."""
from __future__ import annotations

import errno

import pytest

from specprune_ros import cli
from specprune_ros.analysis import bag_to_npz, inputs, record_sim
from specprune_ros.analysis.output import write_csv, write_json
from specprune_ros.analysis.writing import check_output_file, check_output_folder
from specprune_ros.errors import ConfigurationError

ANALYSES = ("roofline", "thresholds", "hitrate", "overhead", "sensitivity", "ablation")


@pytest.fixture
def places(tmp_path):
    """A folder, a file, and a path below the file."""
    (tmp_path / "dir.npz").mkdir()
    (tmp_path / "file").write_text("kept")
    return {"folder": tmp_path / "dir.npz", "file": tmp_path / "file",
            "below": tmp_path / "file" / "x.json"}


@pytest.fixture
def nothing_runs(monkeypatch):
    """Whatever computes or reads would be an error of its own."""
    def fail(*_, **__):
        raise AssertionError("work began before the output was checked")

    monkeypatch.setattr(inputs, "load_policy", fail)
    monkeypatch.setattr(inputs, "load_pooled", fail)
    monkeypatch.setattr(inputs, "synthetic_recording", fail)
    monkeypatch.setattr(record_sim, "synthetic_recording", fail)
    monkeypatch.setattr(record_sim, "make_simulator", fail)
    monkeypatch.setattr(bag_to_npz, "convert", fail)


@pytest.mark.parametrize("arguments, place", [
    (["compare", "--synthetic", "--json"], "folder"),
    (["compare", "--synthetic", "--json"], "below"),
    (["compare", "--synthetic", "--json", "fine.json", "--csv"], "folder"),
    *[(["analyze", name, "--synthetic", "--out"], place)
      for name in ANALYSES for place in ("file", "below")],
    (["record-sim", "--synthetic", "--out"], "file"),
    (["record-sim", "--out"], "below"),
    (["bag-to-npz", "some_bag"], "folder"),
    (["bag-to-npz", "some_bag"], "file"),
    (["bag-to-npz", "some_bag"], "below"),
])
def test_refused_before_the_first_query(
    arguments, place, places, nothing_runs, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main([*arguments, str(places[place])]) == 1
    said = capsys.readouterr().err
    assert f"cannot write '{places[place]}" in said and "name a" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_results_name_that_is_a_folder_is_refused(nothing_runs, tmp_path, capsys):
    (tmp_path / "ablation.png").mkdir()
    assert cli.main(["analyze", "ablation", "--synthetic", "--out", str(tmp_path)]) == 1
    assert f"cannot write '{tmp_path / 'ablation.png'}'" in capsys.readouterr().err


def test_an_unwritable_place_is_refused(tmp_path, monkeypatch):
    def read_only(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("specprune_ros.analysis.writing.tempfile.TemporaryFile", read_only)
    for check, path in ((check_output_file, tmp_path / "x.json"), (check_output_folder, tmp_path)):
        with pytest.raises(ConfigurationError, match="Read-only file system; name a path"):
            check(path)


def test_writable_places_pass_and_are_left_alone(tmp_path):
    check_output_folder(tmp_path / "new" / "folder")
    check_output_file(tmp_path / "new" / "x.json")
    (tmp_path / "old.json").write_text("kept")
    check_output_file(tmp_path / "old.json")
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "kept"


def test_a_failure_while_writing_is_named(places):
    with pytest.raises(ConfigurationError, match="cannot write .*dir.npz"):
        write_json(places["folder"], {})
    with pytest.raises(ConfigurationError, match="cannot write .*x.json"):
        write_csv(places["below"], [{"a": 1}])
