"""Pictures and stamps between ROS messages and numpy."""
import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import Image

from specprune_ros.errors import ConfigurationError, ImageError
from specprune_ros.ros.conversions import (
    check_image,
    compressed_to_rgb,
    image_to_rgb,
    ns_to_stamp,
    rgb_to_compressed,
    rgb_to_image,
    rotate,
    stamp_to_ns,
)

STAMP = ns_to_stamp(1_234_567_890)
CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}


def raw(encoding, padding=0, height=5, width=7):
    """An image of random bytes, and what it shows: uint8 [H, W, 3] RGB."""
    channels = CHANNELS[encoding]
    step = width * channels + padding
    data = np.random.default_rng(0).integers(0, 256, (height, step), np.uint8)
    msg = Image(height=height, width=width, encoding=encoding, step=step)
    msg.data = data.tobytes()
    pixels = data[:, : width * channels].reshape(height, width, channels)
    if encoding == "mono8":
        return msg, np.repeat(pixels, 3, axis=2)
    return msg, pixels[..., :3] if encoding.startswith("rgb") else pixels[..., 2::-1]


def smooth(height=48, width=64):
    """A picture that JPEG hardly changes."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([2 * x, 3 * y, x + y], axis=-1).astype(np.uint8)


@pytest.fixture
def no_cv_bridge(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv_bridge", None)  # import raises ImportError


def fake_cv_bridge(monkeypatch, convert):
    class CvBridge:
        def imgmsg_to_cv2(self, msg, desired_encoding):
            assert desired_encoding == "rgb8"
            return convert(msg)

    module = types.ModuleType("cv_bridge")
    module.CvBridge = CvBridge
    monkeypatch.setitem(sys.modules, "cv_bridge", module)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", CHANNELS)
def test_encodings_with_and_without_padded_rows(encoding, padding, no_cv_bridge):
    msg, expected = raw(encoding, padding)
    rgb = image_to_rgb(msg)
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb, expected)


@pytest.mark.parametrize("fields, words", [
    ({"height": 0}, ["7x0", "no pixels"]),
    ({"width": 0}, ["0x5", "no pixels"]),
    ({"step": 20}, ["step is 20", "21", "full row"]),
    ({"step": 0}, ["step is 0"]),
    ({"step": 22}, ["105 bytes", "22 * 5", "truncated"]),
    ({"data": b"short"}, ["5 bytes", "21 * 5"]),
    ({"height": 6}, ["105 bytes", "21 * 6"]),
])
def test_fields_that_contradict_one_another(fields, words, no_cv_bridge):
    msg, _ = raw("rgb8")
    for name, value in fields.items():
        setattr(msg, name, value)
    for function in (check_image, image_to_rgb):
        with pytest.raises(ImageError) as error:
            function(msg)
        for word in words:
            assert word in str(error.value)


@pytest.mark.parametrize("encoding", ["yuv422_yuy2", "16UC1", "", "RGB8"])
def test_unknown_encoding_is_named_with_a_remedy(encoding, no_cv_bridge):
    msg, _ = raw("rgb8")
    msg.encoding = encoding
    with pytest.raises(ImageError) as error:
        check_image(msg)
    assert repr(encoding) in str(error.value)
    assert "Publish rgb8" in str(error.value) and "cv-bridge" in str(error.value)


def test_other_encodings_go_through_cv_bridge_where_it_imports(monkeypatch):
    picture = smooth()
    fake_cv_bridge(monkeypatch, lambda msg: picture)
    msg, _ = raw("rgb8")
    msg.encoding = "bayer_rggb8"
    assert image_to_rgb(msg) is picture


def test_cv_bridge_that_refuses_or_is_broken_gives_an_image_error(monkeypatch):
    msg, _ = raw("rgb8")
    msg.encoding = "64FC9"

    def refuse(_):
        raise RuntimeError("Unable to convert")

    fake_cv_bridge(monkeypatch, refuse)
    with pytest.raises(ImageError, match="64FC9.*Unable to convert"):
        image_to_rgb(msg)
    # A build for another NumPy raises AttributeError where it is imported or used.
    module = types.ModuleType("cv_bridge")
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    with pytest.raises(ImageError, match="64FC9"):
        image_to_rgb(msg)


@pytest.mark.parametrize("encoding", CHANNELS)
def test_same_as_cv_bridge(encoding):
    cv_bridge = pytest.importorskip("cv_bridge")
    msg, _ = raw(encoding, padding=3)
    np.testing.assert_array_equal(
        image_to_rgb(msg), cv_bridge.CvBridge().imgmsg_to_cv2(msg, "rgb8"))


def test_image_message_of_a_picture():
    picture = smooth()[:, ::2]  # not contiguous
    msg = rgb_to_image(picture, STAMP, "camera")
    assert (msg.header.stamp, msg.header.frame_id) == (STAMP, "camera")
    assert (msg.height, msg.width, msg.encoding, msg.step) == (48, 32, "rgb8", 96)
    np.testing.assert_array_equal(image_to_rgb(msg), picture)


@pytest.mark.parametrize("array", [
    np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)])
def test_only_rgb_pictures_become_messages(array):
    for make in (rgb_to_image, rgb_to_compressed):
        with pytest.raises(ImageError, match="uint8"):
            make(array, STAMP)


def test_compressed_pictures():
    pytest.importorskip("cv2")
    picture = smooth()
    png = rgb_to_compressed(picture, STAMP, "camera", "png")
    assert (png.format, png.header.frame_id) == ("png", "camera")
    np.testing.assert_array_equal(compressed_to_rgb(png), picture)
    jpeg = compressed_to_rgb(rgb_to_compressed(picture, STAMP))
    # Swapped channels would be off by up to 100 levels.
    assert np.abs(jpeg.astype(int) - picture).mean() < 3


@pytest.mark.parametrize("data", [b"", b"no picture", b"\xff\xd8\xff\xe0 cut"])
def test_bytes_that_are_no_picture(data):
    msg = rgb_to_compressed(smooth(), STAMP)
    msg.data = data
    with pytest.raises(ImageError, match=f"{len(data)} bytes of format 'jpeg'.*jpeg or png"):
        compressed_to_rgb(msg)


def test_format_that_cannot_be_encoded():
    with pytest.raises(ImageError, match="h264"):
        rgb_to_compressed(smooth(), STAMP, image_format="h264")


def test_rotation_is_clockwise():
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[0, 0] = 255  # top left
    corners = {0: (0, 0), 90: (0, -1), 180: (-1, -1), 270: (-1, 0)}
    for degrees, corner in corners.items():
        turned = rotate(picture, degrees)
        assert turned.shape == ((2, 3, 3) if degrees % 180 == 0 else (3, 2, 3))
        assert turned.flags.c_contiguous
        assert turned[corner].tolist() == [255] * 3
        assert turned.sum() == 3 * 255
    with pytest.raises(ConfigurationError, match="45"):
        rotate(picture, 45)


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_survive_to_the_nanosecond(nanoseconds):
    assert stamp_to_ns(ns_to_stamp(nanoseconds)) == nanoseconds
