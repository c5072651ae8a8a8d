"""With which parameters, and with which task, a bag is replayed."""
from __future__ import annotations

import pytest
from bags import image, joints, text, write

from specprune_ros.replay.plan import make_plan
from specprune_ros.replay.recorded import open_bag
from specprune_ros.replay.runner import ReplayOptions, _instruction, node_parameters
from specprune_ros.ros.vla_parameters import VlaSettings

PRIMARY = "/camera/primary/image_raw"
PICTURES = [(PRIMARY, 1.0, image(1.0)), ("/joint_states", 1.0, joints(1.0))]


@pytest.fixture
def opened(tmp_path):
    """(bag, plan) of these messages."""
    bags = []

    def make(messages):
        bag = open_bag(write(tmp_path / f"bag{len(bags)}", messages)).__enter__()
        bags.append(bag)
        return bag, make_plan(bag, {})

    yield make
    for bag in bags:
        bag.__exit__(None, None, None)


def settings(plan, recorded, **options):
    """What a node makes of the parameters of a replay."""
    parameters = node_parameters(plan, ReplayOptions(**options), recorded)
    own = {name: value for name, value in parameters.items() if name in VlaSettings()}
    return parameters, VlaSettings.started(own)


def recorded(**changes):
    """As a recorder notes the parameters of a node."""
    values = VlaSettings.started({})
    values = values.changed(changes) if changes else values
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def test_a_method_with_values_of_its_own_is_replayed_as_it_was(opened):
    _, plan = opened(PICTURES)
    was = recorded(**{"budgets.scene.coarse.global": 7})
    assert was["pruning"] == "custom"
    _, found = settings(plan, was)
    assert found["pruning"] == "custom" and found["budgets.scene.coarse.global"] == 7
    assert found.method == VlaSettings.started(was).method


@pytest.mark.parametrize("options", [{"pruning": "paper_v1"},
                                     {"parameters": ["pruning:=paper_v1"]}])
def test_another_method_comes_with_its_own_values(options, opened):
    _, plan = opened(PICTURES)
    parameters, _ = settings(plan, recorded(**{"budgets.scene.coarse.global": 7}), **options)
    assert "budgets.scene.coarse.global" not in parameters and "custom_base" not in parameters
    asked = {"pruning": "paper_v1"}  # on the command line of the node, if not among the parameters
    assert VlaSettings.started({**parameters_of_node(parameters), **asked}).method == "paper_v1"


def parameters_of_node(parameters):
    return {name: value for name, value in parameters.items() if name in VlaSettings()}


def test_nothing_latches_unless_it_is_asked_for(opened):
    _, plan = opened(PICTURES)
    _, found = settings(plan, recorded(**{"guard.latch_after": 3}))
    found.check()
    assert found["guard.latch_after"] == 1_000_000 and found["watchdog.latch_after"] == 1e6
    parameters, _ = settings(plan, {}, parameters=["guard.latch_after:=3"])
    assert "guard.latch_after" not in parameters  # it is given to the node as it was written


def test_the_task_of_the_bag_is_not_that_of_the_parameter(opened):
    was = recorded(instruction="what it was told last")
    bag, plan = opened([*PICTURES, ("/instruction", 0.9, text("lift"))])
    assert "instruction" not in settings(plan, was)[0]
    assert _instruction(bag, plan, ReplayOptions(), was) is None
    bag, plan = opened(PICTURES)
    assert _instruction(bag, plan, ReplayOptions(), was) == "what it was told last"
    assert _instruction(bag, plan, ReplayOptions(instruction="place"), was) == "place"
    assert _instruction(bag, plan, ReplayOptions(), {}) is None
