"""Preprocessing as tensor operations against that of the host."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specprune_ros.runtime.frames import FramePreparer
from specprune_ros.vla.openvla_oft import jpeg, preprocess
from specprune_ros.vla.openvla_oft.preprocess_torch import prepare_frames

torch.set_num_threads(1)


def picture(kind: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    if kind == "noise":
        return random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "extremes":
        return (random.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
    if kind == "flat":
        return np.full((height, width, 3), random.integers(0, 256, 3), np.uint8)
    coarse = random.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


KINDS = ("noise", "extremes", "flat", "smooth")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 1000))
def test_jpeg_round_trip_is_that_of_the_codec_to_the_bit(kind, height, width, seed):
    """Sides that are no multiples of a block, and of one pixel, included."""
    image = picture(kind, height, width, seed)
    found = jpeg.jpeg_round_trip(torch.from_numpy(image)[None])[0].numpy()
    np.testing.assert_array_equal(found, preprocess.jpeg_round_trip(image))


@pytest.mark.parametrize("size", [(480, 640), (256, 256), (150, 1280)])
def test_jpeg_round_trip_of_camera_sizes(size):
    images = np.stack([picture(kind, *size, seed=3) for kind in KINDS])
    found = jpeg.jpeg_round_trip(torch.from_numpy(images)).numpy()
    expected = [preprocess.jpeg_round_trip(image) for image in images]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(224, 224), (256, 256), (480, 640), (100, 90), (223, 600)])
@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("coded", [True, False])
def test_prepared_pictures_are_those_of_the_host(size, crop, coded):
    """Within one grey level, where a sum in another order falls to the other side of a half."""
    images = [picture(kind, *size, seed=5) for kind in ("noise", "smooth")]
    expected = np.stack([preprocess.prepare_image(i, 224, crop, coded) for i in images])
    found = prepare_frames(torch.from_numpy(np.stack(images)), 224, crop, coded).numpy()
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-4
    if size == (224, 224):
        assert not difference.any()


def test_recorded_frames_of_the_reference(golden_cases):
    """JPEG and crop bit for bit, all steps together as near as the host's."""
    arrays, _ = golden_cases[0]
    for camera in ("full", "wrist"):
        raw = torch.from_numpy(arrays[f"raw_{camera}"])[None]
        np.testing.assert_array_equal(jpeg.jpeg_round_trip(raw)[0], arrays[f"jpeg_{camera}"])
        resized = torch.from_numpy(arrays[f"resized_{camera}"])[None]
        cropped = prepare_frames(resized, 224, True, False)[0].numpy()
        np.testing.assert_array_equal(cropped, arrays[f"cropped_{camera}"])
        whole = prepare_frames(raw)[0].numpy()
        assert (whole != arrays[f"cropped_{camera}"]).mean() < 1e-4


@pytest.mark.parametrize("sizes", [[(256, 256)] * 2, [(480, 640), (256, 256)], [(224, 224)]])
def test_cameras_of_any_sizes_in_one_upload(sizes):
    preparer = FramePreparer(torch.device("cpu"), 224, True, True)
    for seed in (0, 1):
        images = [picture("noise", *size, seed=seed + n) for n, size in enumerate(sizes)]
        found = preparer(images)
        expected = [preprocess.prepare_image(image) for image in images]
        assert found.shape == (len(sizes), 224, 224, 3) and found.dtype is torch.uint8
        difference = np.abs(found.numpy().astype(int) - expected)
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-4
        if seed == 0:
            kept, before = found, found.clone()
    assert torch.equal(kept, before)  # a frame that was kept is not written to again


def test_pictures_that_are_views_are_uploaded_as_they_look():
    image = picture("noise", 300, 300)
    views = [image[::-1], image[:, ::-1], image[20:276, 30:286]]
    preparer = FramePreparer(torch.device("cpu"), 224, False, False)
    for view in views:
        expected = preprocess.prepare_image(view, 224, False, False).astype(int)
        assert np.abs(preparer([view])[0].numpy() - expected).max() <= 1


def test_resampling_by_bands_is_the_whole_matrix():
    random = np.random.default_rng(0)
    for length in (100, 224, 256, 480, 1280):
        rows = random.normal(size=(length, 5)).astype(np.float32)
        whole = preprocess.lanczos_matrix(length, 224) @ rows
        bands = np.zeros_like(whole)
        for outputs, inputs, weights in preprocess.lanczos_bands(length, 224):
            bands[outputs] = weights @ rows[inputs]
        np.testing.assert_allclose(bands, whole, atol=1e-5, rtol=0)
