"""A checkpoint that is incomplete, broken or of another kind gives an error that names it."""
from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file, save_file

from specprune_ros.errors import CheckpointError, ConfigurationError
from specprune_ros.policy import load_policy

HEAD, PROPRIO = "action_head--latest_checkpoint.pt", "proprio_projector--latest_checkpoint.pt"
SHARD = "model-00001-of-00001.safetensors"


@pytest.fixture
def copy(tiny_dir, tmp_path):
    """A writable copy of the small checkpoint."""
    target = tmp_path / "checkpoint"
    shutil.copytree(tiny_dir, target)
    return target


def _edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def _resave(shard, change):
    tensors = load_file(shard)
    change(tensors)
    save_file(tensors, shard)


def test_directory_missing(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_policy(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name",
    ["config.json", "preprocessor_config.json", "tokenizer.json", SHARD, "action_head"],
)
def test_file_missing_is_named(copy, name):
    (copy / (HEAD if name == "action_head" else name)).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_policy(copy)


def test_statistics_missing(copy):
    (copy / "dataset_statistics.json").unlink()
    with pytest.raises(CheckpointError, match="dataset_statistics.json"):
        load_policy(copy)


@pytest.mark.parametrize("name", ["config.json", "dataset_statistics.json", "tokenizer.json"])
def test_broken_json_is_named(copy, name):
    (copy / name).write_text('{"half": ')
    with pytest.raises(CheckpointError, match=name):
        load_policy(copy)


@pytest.mark.parametrize("keep", [4, 2000, 1_000_000])
def test_truncated_shard(copy, keep):
    with (copy / SHARD).open("r+b") as stream:
        stream.truncate(keep)
    with pytest.raises(CheckpointError, match=SHARD):
        load_policy(copy)


def test_tensor_of_wrong_shape_is_named(copy):
    name = "projector.fc2.weight"
    _resave(copy / SHARD, lambda t: t.__setitem__(name, t[name][:-1].contiguous()))
    with pytest.raises(CheckpointError, match=name):
        load_policy(copy)


def test_tensor_missing_is_named(copy):
    name = "language_model.model.layers.3.mlp.up_proj.weight"
    _resave(copy / SHARD, lambda t: t.pop(name))
    _edit(copy / "model.safetensors.index.json", lambda c: c["weight_map"].pop(name))
    with pytest.raises(CheckpointError, match=name):
        load_policy(copy)


def test_tensor_not_where_the_index_says(copy):
    name = "projector.fc1.bias"
    _resave(copy / SHARD, lambda t: t.pop(name))
    with pytest.raises(CheckpointError, match=name):
        load_policy(copy)


def test_nan_weights_are_refused(copy):
    name = "projector.fc1.bias"
    _resave(copy / SHARD, lambda t: t[name].fill_(float("nan")))
    with pytest.raises(CheckpointError, match="NaN"):
        load_policy(copy)


def test_single_file_without_index(copy):
    (copy / "model.safetensors.index.json").unlink()
    (copy / SHARD).rename(copy / "model.safetensors")
    assert load_policy(copy).action_dim == 7


def test_unmerged_lora_says_so(copy):
    (copy / "model.safetensors.index.json").unlink()
    (copy / SHARD).unlink()
    (copy / "lora_adapter").mkdir()
    with pytest.raises(CheckpointError, match="merge lora_adapter"):
        load_policy(copy)


def test_unknown_unnorm_key_lists_the_known(copy):
    with pytest.raises(CheckpointError, match="specprune_tabletop"):
        load_policy(copy, unnorm_key="libero_goal")


def test_key_needed_where_there_are_two(golden_dir):
    with pytest.raises(CheckpointError, match="libero_10_no_noops, libero_spatial_no_noops"):
        load_policy(golden_dir / "checkpoint")


def test_two_heads_of_one_kind(copy):
    shutil.copy(copy / HEAD, copy / "action_head--5_checkpoint.pt")
    with pytest.raises(CheckpointError, match="keep one"):
        load_policy(copy)


def test_head_of_another_hidden_size(copy):
    state = torch.load(copy / HEAD, weights_only=True)
    state["module.model.layer_norm1.weight"] = torch.ones(7 * 64)
    torch.save(state, copy / HEAD)
    with pytest.raises(CheckpointError, match="layer_norm1"):
        load_policy(copy)


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        (HEAD, "module.model.fc2.weight", torch.ones(128)),
        (HEAD, "module.model.layer_norm1.weight", torch.ones(())),
        (PROPRIO, "module.fc1.weight", torch.ones(128)),
        (PROPRIO, "module.fc1.weight", torch.ones(128, 7)),
    ],
)
def test_head_tensors_of_wrong_shape_are_named(copy, file, name, value):
    state = torch.load(copy / file, weights_only=True)
    state[name] = value
    torch.save(state, copy / file)
    with pytest.raises(CheckpointError, match="proprio" if file == PROPRIO else name[7:]):
        load_policy(copy)


def test_projector_without_statistics_is_left_out(copy):
    _edit(
        copy / "dataset_statistics.json", lambda c: c["specprune_tabletop"].pop("proprio")
    )
    policy = load_policy(copy)
    assert not policy.uses_proprio
    policy.warm_up()


@pytest.mark.parametrize("mask", [["false"] * 7, 1, None])
def test_mask_that_is_no_list_of_booleans(copy, mask):
    _edit(
        copy / "dataset_statistics.json",
        lambda c: c["specprune_tabletop"]["action"].update(mask=mask),
    )
    with pytest.raises(CheckpointError, match="mask"):
        load_policy(copy)


def test_head_names_without_ddp_prefix(copy):
    state = torch.load(copy / HEAD, weights_only=True)
    torch.save({k.removeprefix("module."): v for k, v in state.items()}, copy / HEAD)
    assert load_policy(copy).action_dim == 7


class _Payload:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_pickle_payload_is_refused_and_not_run(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"module.fc1.weight": _Payload()}, copy / PROPRIO)
    with pytest.raises(CheckpointError, match="never executed"):
        load_policy(copy)
    (copy / PROPRIO).write_bytes(pickle.dumps(_Payload()))
    with pytest.raises(CheckpointError, match="never executed"):
        load_policy(copy)
    assert not (tmp_path / "pwned").exists()


def test_remote_code_is_ignored(copy, tmp_path):
    witness = tmp_path / "ran"
    (copy / "modeling_prismatic.py").write_text(f"open({str(witness)!r}, 'w')\n")
    _edit(
        copy / "config.json",
        lambda c: c.update(auto_map={"AutoConfig": "modeling_prismatic.Evil"}),
    )
    load_policy(copy)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(model_type="llava"), "model_type"),
        (lambda c: c.update(use_fused_vision_backbone=False), "use_fused_vision_backbone"),
        (lambda c: c["text_config"].update(vocab_size=99), "vocab_size"),
        (lambda c: c["timm_model_overrides"][0].update(depth=9), "expected 9"),
        (lambda c: c["timm_model_overrides"][0].update(num_heads=5), "num_heads"),
        (lambda c: c.update(image_sizes=[448, 448]), "pos_embed"),
        (lambda c: c.update(image_sizes=224), "config.json"),
        (lambda c: c.update(text_config=[]), "text_config"),
        (lambda c: c.update(timm_model_overrides={"a": {}, "b": {}}), "timm_model_overrides"),
        (lambda c: c["timm_model_overrides"][1].update(embed_dim=7), "embed_dim"),
        (lambda c: c["text_config"].update(hidden_size="wide"), "config.json"),
        (lambda c: c["text_config"].update(hidden_act="warp"), "warp"),
        (lambda c: c["text_config"].update(num_hidden_layers=3), "num_hidden_layers"),
        (lambda c: c["text_config"].update(num_hidden_layers=0), "num_hidden_layers"),
        (lambda c: c["text_config"].update(rope_scaling={"rope_type": "warp"}), "warp"),
    ],
)
def test_config_that_does_not_fit(copy, change, message):
    _edit(copy / "config.json", change)
    with pytest.raises(CheckpointError, match=message):
        load_policy(copy)


@pytest.mark.parametrize("component", ["noisy_action_projector", "vision_backbone"])
def test_unsupported_variants_say_so(copy, component):
    torch.save({}, copy / f"{component}--latest_checkpoint.pt")
    with pytest.raises(CheckpointError, match="not supported"):
        load_policy(copy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "warp9"}, "warp9"),
        ({"device": "meta"}, "not supported"),
        ({"pruning": None}, "pruning is None"),
        ({"chunk_length": 8.0}, "chunk_length"),
        ({"action_head": "diffusion"}, "one of l1, discrete"),
        ({"dtype": "int4"}, "int4"),
        ({"pruning": "magic"}, "known: off, specprune"),
        ({"chunk_length": 0}, "chunk_length"),
        ({"control_period": 0.0}, "control_period"),
    ],
)
def test_wrong_settings(tiny_dir, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        load_policy(tiny_dir, **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_absent_is_said_plainly(tiny_dir):
    with pytest.raises(ConfigurationError, match="no CUDA device"):
        load_policy(tiny_dir, device="cuda")


_PEAK_MEMORY = """
    import resource, sys
    from pathlib import Path
    import torch
    from specprune_ros.vla.openvla_oft.model import load_model
    torch.set_num_threads(1)
    directory = Path(sys.argv[1])
    # A first load brings in what import and one-off allocations cost.
    load_model(sys.argv[2], "cpu", "bfloat16")
    def peak():  # bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    before = peak()
    loaded = load_model(directory, "cpu", "bfloat16")
    assert loaded.model.decoder.layers[-1].mlp.up_proj.weight.dtype is torch.bfloat16
    size = sum(f.stat().st_size for f in directory.glob("*.safetensors"))
    print(size, peak() - before)
"""


def test_peak_memory_of_loading_a_gigabyte(tiny_dir, tmp_path):
    """Streaming keeps the peak under 1.3 times the checkpoint, in one shard of 1 GB."""
    directory = tmp_path / "large"
    shutil.copytree(tiny_dir, directory)
    tensors = load_file(directory / SHARD)
    # Llama layers are most of any real checkpoint: widen the gated MLP of this one to 1 GB.
    mlp, layers, hidden = 160_000, 8, 128
    for layer in range(layers):
        root = f"language_model.model.layers.{layer}.mlp."
        for name, shape in (
            ("gate_proj", (mlp, hidden)),
            ("up_proj", (mlp, hidden)),
            ("down_proj", (hidden, mlp)),
        ):
            tensors[f"{root}{name}.weight"] = torch.full(shape, 0.01, dtype=torch.bfloat16)
    save_file(tensors, directory / SHARD)
    del tensors
    _edit(directory / "config.json", lambda c: c["text_config"].update(intermediate_size=mlp))
    (directory / "dataset_statistics.json").write_text(
        (tiny_dir / "dataset_statistics.json").read_text()
    )
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_PEAK_MEMORY), str(directory), str(tiny_dir)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    size, grown = map(int, result.stdout.split())
    assert size > 0.9 * 2**30
    assert grown < 1.3 * size
