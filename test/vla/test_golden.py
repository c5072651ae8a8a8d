"""Dense output equals recorded outputs of the reference code, stage by stage and end to end."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from specprune_ros.policy import Observation, load_policy
from specprune_ros.robot.gripper import to_env_actions
from specprune_ros.vla.openvla_oft.model import load_model
from specprune_ros.vla.openvla_oft.preprocess import (
    crop_center,
    jpeg_round_trip,
    prepare_image,
    resize_lanczos,
)
from specprune_ros.vla.openvla_oft.statistics import select_statistics

ACTION_TOLERANCE = 2e-5  # of the recording, float32


@pytest.fixture(scope="module")
def policies(golden_dir, golden_cases):
    """One dense policy per case, fed with pictures as they are."""
    return [
        load_policy(
            golden_dir / "checkpoint",
            unnorm_key=meta["unnorm_key"],
            pruning="off",
            center_crop=False,
            jpeg_roundtrip=False,
        )
        for _, meta in golden_cases
    ]


def _cropped(arrays, meta):
    images = {"primary": arrays["cropped_full"], "wrist": arrays["cropped_wrist"]}
    return Observation(images, meta["instruction"], arrays["proprio_raw"])


@pytest.mark.parametrize("case", [0, 1])
def test_actions_from_cropped_images(policies, golden_cases, case):
    arrays, meta = golden_cases[case]
    chunk = policies[case].predict(_cropped(arrays, meta))
    np.testing.assert_allclose(
        chunk.normalized_actions, arrays["normalized_actions"], atol=ACTION_TOLERANCE, rtol=0
    )
    np.testing.assert_allclose(chunk.actions, arrays["actions"], atol=ACTION_TOLERANCE, rtol=0)
    assert chunk.actions.dtype == np.float64 and chunk.actions.shape == (8, 7)
    np.testing.assert_array_equal(to_env_actions(chunk.actions)[:, 6], arrays["env_actions"][:, 6])


def test_actions_from_raw_images(golden_dir, golden_cases):
    """From 256 px camera frames, through JPEG, Lanczos and the centre crop."""
    arrays, meta = golden_cases[0]
    policy = load_policy(
        golden_dir / "checkpoint", unnorm_key=meta["unnorm_key"], pruning="off"
    )
    images = {"primary": arrays["raw_full"], "wrist": arrays["raw_wrist"]}
    chunk = policy.predict(Observation(images, meta["instruction"], arrays["proprio_raw"]))
    np.testing.assert_allclose(chunk.actions, arrays["actions"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("camera", ["full", "wrist"])
def test_preprocessing_steps(golden_cases, camera):
    arrays, _ = golden_cases[0]
    raw, jpeg = arrays[f"raw_{camera}"], arrays[f"jpeg_{camera}"]
    resized, cropped = arrays[f"resized_{camera}"], arrays[f"cropped_{camera}"]
    np.testing.assert_array_equal(jpeg_round_trip(raw), jpeg)
    np.testing.assert_array_equal(crop_center(resized), cropped)
    difference = np.abs(resize_lanczos(jpeg, 224).astype(int) - resized)
    assert difference.max() <= 1 and (difference > 0).sum() <= 5
    assert (prepare_image(raw) != cropped).mean() < 1e-4


def test_pixel_values_and_vision_features(policies, golden_cases):
    arrays, meta = golden_cases[0]
    policy = policies[0]
    frame = policy.inputs.frame(_cropped(arrays, meta).images, 0.0)
    pixels = policy.inputs.pixels(frame)
    recorded = arrays["pixel_values"][0].reshape(2, 6, 224, 224)
    np.testing.assert_allclose(pixels.numpy(), recorded, atol=1e-6, rtol=0)
    with torch.inference_mode():
        dino = policy.model.dino(pixels[:, :3]).numpy()
        siglip = policy.model.siglip(pixels[:, 3:]).numpy()
        projected = policy.model.projector(policy.model.encode_images(pixels)).numpy()
    np.testing.assert_allclose(dino, arrays["dino_features"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(siglip, arrays["siglip_features"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(projected, arrays["projected_patches"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", [0, 1])
def test_prompt_and_layout(policies, golden_cases, case):
    arrays, meta = golden_cases[case]
    policy = policies[case]
    prompt = policy.inputs.prompt(meta["instruction"])
    assert prompt.text == meta["prompt"]
    assert list(prompt.ids[:-1]) == arrays["prompt_input_ids"].tolist()
    assert len(prompt.ids) == meta["num_prompt_tokens_incl_bos_and_empty"]
    layout = policy.inputs.layout(("primary", "wrist"), prompt, proprio=True)
    assert layout.length == meta["sequence_length"]
    assert [layout.readout.start, layout.readout.stop] == meta["action_slice"]


@pytest.mark.parametrize("case", [0, 1])
def test_proprio(policies, golden_cases, case):
    arrays, _ = golden_cases[case]
    policy = policies[case]
    normalised = policy.statistics.normalize_proprio(arrays["proprio_raw"])
    np.testing.assert_allclose(normalised, arrays["proprio_normalized"], atol=1e-12, rtol=0)
    vector = torch.as_tensor(normalised, dtype=torch.float32)
    with torch.inference_mode():
        token = policy.model.proprio_projector(vector).numpy()
    np.testing.assert_allclose(token, arrays["proprio_embedding"][0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", [0, 1])
def test_discrete_variant_without_a_head(golden_dir, golden_cases, tmp_path, case):
    """A directory without an action head decodes its actions from the vocabulary."""
    arrays, meta = golden_cases[case]
    for file in (golden_dir / "checkpoint").iterdir():
        if not file.name.startswith("action_head"):
            (tmp_path / file.name).symlink_to(file)
    policy = load_policy(
        tmp_path,
        unnorm_key=meta["unnorm_key"],
        pruning="off",
        center_crop=False,
        jpeg_roundtrip=False,
        action_head="discrete",
    )
    chunk = policy.predict(_cropped(arrays, meta))
    np.testing.assert_allclose(chunk.actions, arrays["discrete_actions"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", [0, 1])
def test_bfloat16_stays_near_float32(golden_dir, golden_cases, case):
    arrays, meta = golden_cases[case]
    policy = load_policy(
        golden_dir / "checkpoint",
        dtype="bfloat16",
        unnorm_key=meta["unnorm_key"],
        pruning="off",
        center_crop=False,
        jpeg_roundtrip=False,
    )
    chunk = policy.predict(_cropped(arrays, meta))
    # The recording's own bfloat16 run differs from its float32 run by up to 0.026.
    np.testing.assert_allclose(
        chunk.normalized_actions, arrays["normalized_actions"], atol=5e-2, rtol=0
    )


def test_typical_mistakes_would_be_seen(policies, golden_cases):
    """The recorded case tells the shifted read-out from the unshifted one."""
    arrays, meta = golden_cases[0]
    policy = policies[0]
    right = policy.predict(_cropped(arrays, meta)).normalized_actions
    prompt = policy.inputs.prompt(meta["instruction"])
    layout = policy.inputs.layout(("primary", "wrist"), prompt, True)

    class Shifted(type(layout)):
        @property
        def readout(self):
            return range(self.placeholders.start, self.placeholders.stop)

    wrong_layout = Shifted(**layout.__dict__)
    original = policy.inputs.layout
    policy.inputs.layout = lambda *a, **k: wrong_layout
    try:
        wrong = policy.predict(_cropped(arrays, meta)).normalized_actions
    finally:
        policy.inputs.layout = original
    assert np.abs(wrong - right).max() > 1000 * ACTION_TOLERANCE


def test_statistics_come_from_the_file_not_from_the_config(golden_dir, golden_cases):
    """config.json carries a decoy under norm_stats."""
    loaded = load_model(golden_dir / "checkpoint", "cpu", "float32")
    table = loaded.statistics
    assert sorted(table) == ["libero_10_no_noops", "libero_spatial_no_noops"]
    assert select_statistics(table, "libero_10", 7).key == "libero_10_no_noops"
