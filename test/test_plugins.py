"""Simulators and backbones of other packages: found by name, and told apart from built-in ones."""
from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import types

import pytest

from specprune_ros import plugins, sim
from specprune_ros.errors import CheckpointError, ConfigurationError, SimulatorError
from specprune_ros.policy import load_policy
from specprune_ros.vla import registry as backbones


class World:
    """As little of a simulator as the registry looks at."""

    base_frame = "floor"

    def __init__(self, render_size, view):
        self.arguments = (render_size, view)


def locked(render_size, view):
    raise SimulatorError("the world needs a licence")


def broken(*_arguments):
    raise RuntimeError("no such file")


@pytest.fixture
def register(monkeypatch):
    """register(group, (name, attribute), ...): entry points of this module's things."""
    module = types.ModuleType("made_up_plugin")
    for thing in (World, locked, broken):
        setattr(module, thing.__name__, thing)
    module.number = lambda *_arguments: 3
    monkeypatch.setitem(sys.modules, "made_up_plugin", module)
    points: list[importlib.metadata.EntryPoint] = []
    monkeypatch.setattr(plugins, "entry_points", lambda **which: (
        importlib.metadata.EntryPoints(points).select(**which)))

    def add(group, *pairs):
        points.extend(importlib.metadata.EntryPoint(name, f"made_up_plugin:{attribute}", group)
                      for name, attribute in pairs)

    return add


def test_a_simulator_is_found_by_its_suite(register):
    register(sim.ENTRY_POINT_GROUP, ("lab", "World"))
    assert sim.suite_names()[-1] == "lab" and sim.suite_names().count("lab") == 1
    assert sim.base_frame("lab") == "floor"
    assert sim.make_simulator("lab", 64).arguments == (64, False)


@pytest.mark.parametrize("attribute, error, said", [
    ("locked", SimulatorError, "needs a licence"),
    ("broken", ConfigurationError, "simulator 'lab = made_up_plugin:broken'.*RuntimeError"),
    ("missing", ConfigurationError, "AttributeError"),
])
def test_what_goes_wrong_in_a_simulator_is_its_error(register, attribute, error, said):
    register(sim.ENTRY_POINT_GROUP, ("lab", attribute))
    with pytest.raises(error, match=said):
        sim.make_simulator("lab")


def test_a_simulator_must_say_its_base_frame_before_it_is_built(register):
    register(sim.ENTRY_POINT_GROUP, ("lab", "locked"))
    with pytest.raises(ConfigurationError, match="base_frame"):
        sim.base_frame("lab")


def test_names_of_built_in_suites_are_refused(register):
    register(sim.ENTRY_POINT_GROUP, ("tabletop", "World"))
    with pytest.raises(ConfigurationError, match="built-in suite 'tabletop'"):
        sim.make_simulator("tabletop")
    assert sim.suite_names().count("tabletop") == 1


def test_two_packages_with_one_name_are_refused(register):
    register(sim.ENTRY_POINT_GROUP, ("lab", "World"), ("lab", "locked"))
    with pytest.raises(ConfigurationError, match="both register the suite 'lab'"):
        sim.make_simulator("lab")


def test_an_unknown_suite_lists_those_of_plugins_too(register):
    register(sim.ENTRY_POINT_GROUP, ("lab", "World"))
    with pytest.raises(ConfigurationError, match="tabletop.*lab"):
        sim.make_simulator("labb")


@pytest.fixture
def foreign(tiny_dir, tmp_path):
    """The untrained checkpoint with the model_type of another backbone."""
    folder = tmp_path / "foreign"
    shutil.copytree(tiny_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mine"}))
    return folder


def test_a_model_type_that_nobody_registered_is_a_checkpoint_error(foreign):
    with pytest.raises(CheckpointError, match="model_type 'mine'"):
        load_policy(foreign)


@pytest.mark.parametrize("attribute, said", [
    ("number", "gave int: return a LoadedCheckpoint"),
    ("broken", "backbone 'mine = made_up_plugin:broken'.*RuntimeError: no such file"),
])
def test_a_backbone_that_does_not_work_is_named(register, foreign, attribute, said):
    register(backbones.ENTRY_POINT_GROUP, ("mine", attribute))
    assert backbones.backbone_names() == ("openvla", "mine")
    with pytest.raises(ConfigurationError, match=said):
        load_policy(foreign)


def test_the_built_in_backbone_cannot_be_replaced(register, tiny_dir):
    register(backbones.ENTRY_POINT_GROUP, ("openvla", "number"))
    with pytest.raises(ConfigurationError, match="built-in backbone 'openvla'"):
        load_policy(tiny_dir)
