"""specprune doctor as it is called: the table, the exit status, the JSON."""
from __future__ import annotations

import json

import pytest

from specprune_ros import cli
from specprune_ros.doctor import examine as examination
from specprune_ros.preflight.findings import ok


@pytest.fixture(autouse=True)
def no_children(monkeypatch):
    """The checks that start processes have tests of their own."""
    for name in ("check_rclpy", "check_rendering"):
        monkeypatch.setattr(examination.host, name, lambda name=name: ok(name, "left out"))


def doctor(*words):
    return cli.main(["doctor", *map(str, words)])


def findings(path):
    return {f["check"]: f for f in json.loads(path.read_text())["findings"]}


def test_the_shipped_checkpoint_has_no_failure(tmp_path, capsys):
    assert doctor("--json", tmp_path / "d" / "doctor.json") == 0
    shown = capsys.readouterr().out
    assert "0 FAIL" in shown and "bidirectional" in shown
    content = json.loads((tmp_path / "d" / "doctor.json").read_text())
    assert content["failed"] is False and content["versions"]["torch"]
    assert content["settings"]["device"] == "cpu"
    found = findings(tmp_path / "d" / "doctor.json")
    assert found["weights"]["level"] == "OK" and found["query"]["level"] == "OK"
    for check in ("python", "torch", "rmw", "dds profile", "shared memory", "ros domain", "gpu",
                  "display", "files", "tokenizer", "memory", "policy", "unnorm_key", "attention",
                  "action statistics", "cameras", "chunk length"):
        assert check in found
        assert found[check]["level"] == "OK" or found[check]["remedy"]


@pytest.mark.parametrize("spoil, check, words", [
    (lambda d: (d / "config.json").unlink(), "files", "config.json' is missing"),
    (lambda d: (d / "tokenizer.json").write_text("{"), "tokenizer", "cannot be read"),
    (lambda d: (d / "action_head--latest_checkpoint.pt").write_bytes(b"x"), "policy",
     "action_head--latest_checkpoint.pt"),
])
def test_a_spoilt_checkpoint_is_one_failure_and_status_1(spoil, check, words, copy, tmp_path,
                                                         capsys):
    spoil(copy)
    assert doctor("--checkpoint", copy, "--json", tmp_path / "d.json") == 1
    found = findings(tmp_path / "d.json")
    assert found[check]["level"] == "FAIL" and words in found[check]["text"]
    assert "Traceback" not in capsys.readouterr().out
    assert "attention" not in found  # nothing was loaded


def test_statistics_that_do_not_fit_are_named(copy, edit, capsys):
    edit(copy / "dataset_statistics.json",
         lambda table: table.update(other=table["specprune_tabletop"]))
    assert doctor("--checkpoint", copy) == 1
    assert "choose one with unnorm_key" in " ".join(capsys.readouterr().out.split())
    assert doctor("--checkpoint", copy, "--unnorm-key", "other") == 0


def test_without_enough_memory_nothing_is_loaded(monkeypatch, tmp_path):
    from specprune_ros.preflight import memory

    monkeypatch.setattr(memory, "host_memory", lambda: (1000, 2000))
    monkeypatch.setattr(examination, "load_policy",
                        lambda *_a, **_k: pytest.fail("the policy was loaded"))
    assert doctor("--json", tmp_path / "d.json") == 1
    assert findings(tmp_path / "d.json")["memory"]["level"] == "FAIL"
    assert "not loaded" in findings(tmp_path / "d.json")["policy"]["text"]


def test_wrong_cameras_chunk_length_and_device_are_lines(tmp_path):
    assert doctor("--cameras", "front", "--json", tmp_path / "d.json") == 1
    assert "no image 'primary'" in findings(tmp_path / "d.json")["attention"]["text"]
    assert doctor("--chunk-length", 5, "--json", tmp_path / "d.json") == 1
    assert findings(tmp_path / "d.json")["chunk length"]["level"] == "FAIL"
    assert doctor("--device", "tpu", "--json", tmp_path / "d.json") == 1
    assert "tpu" in findings(tmp_path / "d.json")["policy"]["text"]


def test_a_check_that_breaks_is_a_line_and_the_others_go_on(monkeypatch, tmp_path):
    def broken():
        raise RuntimeError("no idea")

    monkeypatch.setattr(examination.dds, "check_domain", broken)
    assert doctor("--json", tmp_path / "d.json") == 1
    found = findings(tmp_path / "d.json")
    assert "RuntimeError: no idea" in found["ros domain"]["text"]
    assert found["attention"]["level"] == "OK"


def test_json_on_standard_output(copy, capsys):
    (copy / "config.json").unlink()
    assert doctor("--checkpoint", copy, "--json", "-") == 1
    assert json.loads(capsys.readouterr().out)["failed"] is True


def test_json_that_cannot_be_written_is_refused_first(tmp_path, capsys):
    assert doctor("--json", tmp_path) == 1
    assert "it is a folder" in capsys.readouterr().err
