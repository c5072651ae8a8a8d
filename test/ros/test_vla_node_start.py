"""vla_node from its start to its end, and what keeps it from being configured."""
import json
import shutil
import signal

import pytest
from safetensors.torch import load_file, save
from specprune_ros.msg import VlaStatus
from vla_rig import VLA_NODE, Rig

from specprune_ros.ros.vla_node import main
from specprune_ros.share import share_dir


@pytest.fixture
def copy(tmp_path):
    """A copy of the shipped checkpoint that a test may break."""
    return shutil.copytree(share_dir() / "models" / "specprune-tiny", tmp_path / "copy")


def test_bad_checkpoints_are_named_and_mended_until_an_interrupt_ends_the_node(
        ros, processes, copy, tmp_path):
    shard = sorted(copy.glob("*.safetensors"))[0]
    whole = shard.read_bytes()
    misshapen, tensor = with_wrong_shape(shard)
    rig = Rig(ros)
    process = processes.start(*VLA_NODE, "-p", f"checkpoint:={tmp_path / 'nowhere'}")
    rig.await_fault(VlaStatus.CHECKPOINT, str(tmp_path / "nowhere"), "does not exist")

    replace(shard, whole[:1000])
    assert rig.set_parameter("checkpoint", str(copy)).successful
    rig.await_fault(VlaStatus.CHECKPOINT, shard.name)

    replace(shard, misshapen)  # the file changes; no parameter does
    rig.await_fault(VlaStatus.CHECKPOINT, tensor)

    assert rig.set_parameter("unnorm_key", "bridge_orig").successful
    replace(shard, whole)
    status = rig.await_fault(VlaStatus.CHECKPOINT, "bridge_orig", *statistics_keys(copy))
    assert list(status.inputs) == []

    assert rig.set_parameter("unnorm_key", "").successful
    rig.await_state(VlaStatus.WAITING)
    rig.start()
    rig.query()
    assert rig.await_state(VlaStatus.RUNNING).fault_text == ""

    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert "Traceback" not in process.log.read_text()


def replace(path, content):
    """Change a file at once: the node may look at any time."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.rename(path)


def with_wrong_shape(path):
    """The file with one tensor cut to half its rows, and the tensor's name."""
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name.endswith("up_proj.weight"))
    tensors[name] = tensors[name][: len(tensors[name]) // 2].contiguous()
    return save(tensors, metadata={"format": "pt"}), name


def statistics_keys(checkpoint):
    return list(json.loads((checkpoint / "dataset_statistics.json").read_text()))


def test_start_value_out_of_range_is_named(ros_environment, monkeypatch, capfd):
    for name, value in ros_environment.items():
        monkeypatch.setenv(name, value)
    assert main(["--ros-args", "-p", "sync_slop:=5.0"]) == 2
    assert "sync_slop" in capfd.readouterr().err
