"""What vla_node does with the findings of the preflight when it is configured."""
import json
import shutil
from types import SimpleNamespace

import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from specprune_ros.msg import VlaStatus
from torch.nn import functional
from vla_rig import Rig

from specprune_ros.ros.vla_node import VlaNode
from specprune_ros.share import share_dir
from specprune_ros.vla.openvla_oft import decoder

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture
def copy(tmp_path):
    """A copy of the untrained checkpoint that a test may change."""
    return shutil.copytree(share_dir() / "models" / "specprune-tiny", tmp_path / "copy")


def node_of(ros, checkpoint):
    values = {"use_sim_time": True, "autostart": False, "checkpoint": str(checkpoint)}
    return ros.add(VlaNode(context=ros.context, parameter_overrides=[
        Parameter(name, value=value) for name, value in values.items()]))


def test_causal_mask_keeps_the_node_from_being_configured(ros, copy, monkeypatch):
    """A mask raises no error anywhere else: it would only cost success."""
    rig, node = Rig(ros), node_of(ros, copy)
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "F", SimpleNamespace(
            scaled_dot_product_attention=lambda q, k, v, **options:
            functional.scaled_dot_product_attention(q, k, v, is_causal=True, **options)))
        assert node.trigger_configure() == FAILURE
    rig.await_fault(VlaStatus.CHECKPOINT, "preflight", "attention", "A causal mask is on",
                    "the versions of torch and transformers that setup.py asks for")
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    rig.start()
    rig.await_state(VlaStatus.WAITING)


@pytest.mark.parametrize("card, words", [
    ({"cameras": ["primary"]}, ["2 cameras", "trained with 1", "Set the parameter cameras"]),
    ({"chunk_length": 10}, ["8 actions", "trained for 10", "chunk_length to 10"]),
])
def test_what_the_card_says_otherwise_is_named_with_the_remedy(ros, copy, card, words):
    file = copy / "specprune.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **card}))
    rig, node = Rig(ros), node_of(ros, copy)
    assert node.trigger_configure() == FAILURE
    rig.await_fault(VlaStatus.CHECKPOINT, "preflight", *words)


def test_warning_is_logged_once_and_keeps_nothing_from_running(ros, copy, capfd):
    node = node_of(ros, copy)
    for _ in range(2):
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_cleanup() == SUCCESS
    log = capfd.readouterr().err
    assert log.count("preflight: weights: ") == 1 and "is untrained" in log
