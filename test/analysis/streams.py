"""Shared by the tests of recordings and experiments: small streams, and running a command."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from specprune_ros import cli
from specprune_ros.analysis.recording import Recording
from specprune_ros.analysis.synthetic import synthetic_recording


def run(*arguments: object) -> None:
    """Run ``specprune ...`` in this process; it must succeed.

    Streams are replayed with the untrained checkpoint, unless the arguments name one.
    """
    given = [str(argument) for argument in arguments]
    if given[0] in ("compare", "analyze") and "--checkpoint" not in given:
        if {"--recording", "--synthetic"} & set(given):
            given += ["--checkpoint", "specprune-tiny"]
    assert cli.main(given) == 0


def results(folder: Path, name: str) -> dict:
    """The JSON of an experiment, after checking that CSV and picture are there too."""
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / f"{name}.csv").read_text().splitlines()) > 1
    document = json.loads((folder / f"{name}.json").read_text())
    assert {"command", "settings", "versions", "commit", "machine", "n"} <= set(document)
    return document


def check_stream_facts(document: dict, queries: int) -> None:
    """What every experiment on a stream states."""
    assert document["n"]["queries"] == queries
    assert document["checkpoint"]["trained"] is False
    assert "random weights say nothing about accuracy" in document["checkpoint"]["note"]


def tiny_stream(steps: int = 17, kind: str = "square") -> Recording:
    return synthetic_recording(kind, steps=steps, seed=3, size=224)


def assert_same(a: Recording, b: Recording) -> None:
    for name in ("frames", "stamps", "proprio", "ee_twists", "joint_positions",
                 "joint_velocities", "actions"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        if left is not None:
            np.testing.assert_array_equal(left, right, err_msg=name)
    for name in ("cameras", "instruction", "control_period", "joint_names", "success", "suite",
                 "seed", "source"):
        assert getattr(a, name) == getattr(b, name), name
