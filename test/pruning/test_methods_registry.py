"""Methods by name, and pruners of other packages."""
import importlib.metadata
import sys
import types

import pytest

from specprune_ros import plugins as plugin_finder
from specprune_ros.errors import ConfigurationError, MethodUnavailable
from specprune_ros.pruning import registry
from specprune_ros.pruning.base import DensePruner
from specprune_ros.pruning.presets import PRESETS
from specprune_ros.pruning.registry import METHODS, known_methods, make_pruner


def test_a_seed_reaches_the_methods_that_draw():
    assert make_pruner("random", 7).config.seed == 7
    assert make_pruner("random").config.seed == 0
    for name in set(known_methods()) - {"random"}:
        assert type(make_pruner(name, 7)) is type(make_pruner(name))


class Mine:
    name = "mine"

    def begin(self, context):
        return None


def unavailable():
    raise MethodUnavailable("mine needs a licence")


def broken():
    raise RuntimeError("no such file")


@pytest.fixture
def plugins(monkeypatch):
    """Registers entry points name -> value, whose module is ``made_up_plugin``."""
    module = types.ModuleType("made_up_plugin")
    module.Mine, module.unavailable, module.broken = Mine, unavailable, broken
    module.number = lambda: 3
    monkeypatch.setitem(sys.modules, "made_up_plugin", module)

    def register(*pairs):
        points = importlib.metadata.EntryPoints(
            importlib.metadata.EntryPoint(name, value, registry.ENTRY_POINT_GROUP)
            for name, value in pairs
        )
        monkeypatch.setattr(plugin_finder, "entry_points", lambda **which: points.select(**which))

    return register


def test_every_method_can_be_made_by_name():
    wanted = {"vla_cache", "efficientvla", "fastv", "sparsevlm", "divprune", "vla_pruner", "random",
              "uniform"}
    assert wanted <= set(METHODS)
    names = known_methods()
    assert set(names) >= {"off", *PRESETS, *METHODS}
    assert len(set(names)) == len(names)
    for name in ("off", *PRESETS, *METHODS):
        assert make_pruner(name).name == name


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigurationError, match="'fastvv'.*fastv.*divprune"):
        make_pruner("fastvv")


def test_a_plugin_is_found(plugins):
    plugins(("mine", "made_up_plugin:Mine"))
    assert isinstance(make_pruner("mine"), Mine)
    assert known_methods()[-1] == "mine"
    assert isinstance(make_pruner("off"), DensePruner)


@pytest.mark.parametrize("value, said", [
    ("made_up_plugin:nothing", "nothing"),
    ("made_up_missing:Mine", "made_up_missing"),
    ("made_up_plugin:broken", "no such file"),
    ("made_up_plugin:number", "int"),
])
def test_a_broken_plugin_is_named(plugins, value, said):
    plugins(("mine", value))
    with pytest.raises(ConfigurationError, match=f"mine = {value}.*{said}"):
        make_pruner("mine")
    assert "mine" in known_methods()


def test_a_plugin_s_own_reason_is_passed_on(plugins):
    plugins(("mine", "made_up_plugin:unavailable"))
    with pytest.raises(MethodUnavailable, match="licence"):
        make_pruner("mine")


@pytest.mark.parametrize("name", ["off", "specprune", "fastv"])
def test_a_plugin_with_a_built_in_name_is_refused(plugins, name):
    plugins((name, "made_up_plugin:Mine"))
    with pytest.raises(ConfigurationError, match=f"{name} = made_up_plugin:Mine.*built-in"):
        make_pruner(name)
    assert known_methods().count(name) == 1


def test_two_plugins_of_one_name_are_refused(plugins):
    plugins(("mine", "made_up_plugin:Mine"), ("mine", "made_up_plugin:number"))
    with pytest.raises(ConfigurationError, match="both"):
        make_pruner("mine")
    plugins(("mine", "made_up_plugin:Mine"), ("mine", "made_up_plugin:Mine"))  # seen twice on path
    assert isinstance(make_pruner("mine"), Mine)
