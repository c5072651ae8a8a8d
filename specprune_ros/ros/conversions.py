"""Pictures and stamps between ROS messages and numpy.

The common 8-bit encodings are read with numpy alone; cv_bridge serves any other encoding where it
can be imported (it is not available from PyPI).
"""
from __future__ import annotations

from array import array

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image

from ..errors import ConfigurationError, ImageError

NANOSECONDS = 1_000_000_000

#: encoding -> (channels, order of the channels that gives RGB; None where it is RGB already)
_ENCODINGS: dict[str, tuple[int, list[int] | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, [2, 1, 0]),
    "rgba8": (4, [0, 1, 2]),
    "bgra8": (4, [2, 1, 0]),
    "mono8": (1, [0, 0, 0]),
}
ROTATIONS = (0, 90, 180, 270)


def stamp_to_ns(stamp: Time) -> int:
    """Return a builtin_interfaces/Time in nanoseconds."""
    return stamp.sec * NANOSECONDS + stamp.nanosec


def ns_to_stamp(nanoseconds: int) -> Time:
    """Return nanoseconds as builtin_interfaces/Time."""
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    return Time(sec=seconds, nanosec=rest)


def ns_to_text(nanoseconds: int) -> str:
    """Return nanoseconds >= 0 as seconds with nine decimals."""
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    return f"{seconds}.{rest:09d}"


def check_image(msg: Image) -> None:
    """Check the fields of an image without touching its pixels.

    Raises:
        ImageError: no pixels, an encoding nobody here can read, a step shorter than a row, or a
            buffer whose length is not step * height.
    """
    if msg.height == 0 or msg.width == 0:
        raise ImageError(f"the image is {msg.width}x{msg.height}: it has no pixels. "
                         "Check the camera driver.")
    if msg.encoding in _ENCODINGS:
        row = msg.width * _ENCODINGS[msg.encoding][0]
        if msg.step < row:
            raise ImageError(
                f"step is {msg.step} bytes, but a row of {msg.width} {msg.encoding} pixels takes "
                f"{row}. The publisher must set step to the full row length in bytes.")
    else:
        _cv_bridge(msg.encoding)
    if len(msg.data) != msg.step * msg.height:
        raise ImageError(
            f"data holds {len(msg.data)} bytes, but step * height is {msg.step} * {msg.height} = "
            f"{msg.step * msg.height}. The message was truncated or its fields are wrong.")


def image_to_rgb(msg: Image) -> np.ndarray:
    """Return the pixels of an image: uint8 [H, W, 3], RGB.

    The array may share memory with the message.

    Raises:
        ImageError: as :func:`check_image`.
    """
    check_image(msg)
    if msg.encoding not in _ENCODINGS:
        return _through_cv_bridge(msg)
    channels, order = _ENCODINGS[msg.encoding]
    rows = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.step)
    pixels = rows[:, : msg.width * channels].reshape(msg.height, msg.width, channels)
    return pixels if order is None else pixels[:, :, order]


def compressed_to_rgb(msg: CompressedImage) -> np.ndarray:
    """Decode a JPEG or PNG: uint8 [H, W, 3], RGB. The EXIF orientation is not applied.

    Raises:
        ImageError: the bytes are not a picture that OpenCV can decode.
    """
    import cv2

    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(msg.data, np.uint8), flags)
    except (cv2.error, ValueError):
        pixels = None
    if pixels is None:
        raise ImageError(
            f"{len(msg.data)} bytes of format {msg.format!r} could not be decoded. Publish jpeg or "
            "png (compressedDepth and video streams are not read).")
    return np.ascontiguousarray(pixels[:, :, ::-1])


def rgb_to_image(rgb: np.ndarray, stamp: Time, frame_id: str = "") -> Image:
    """Return uint8 [H, W, 3] RGB as an rgb8 Image.

    Raises:
        ImageError: the array has another type or shape.
    """
    _check_rgb(rgb)
    msg = Image(height=rgb.shape[0], width=rgb.shape[1], encoding="rgb8", step=3 * rgb.shape[1])
    msg.header.stamp = stamp
    msg.header.frame_id = frame_id
    # An array.array is taken over as it is; bytes or an ndarray would be converted element-wise.
    msg.data = array("B", rgb.tobytes())
    return msg


def rgb_to_compressed(rgb: np.ndarray, stamp: Time, frame_id: str = "",
                      image_format: str = "jpeg", quality: int = 95) -> CompressedImage:
    """Return uint8 [H, W, 3] RGB as a CompressedImage, ``jpeg`` (of ``quality``) or ``png``.

    Raises:
        ImageError: the array has another type or shape, or OpenCV cannot encode the format.
    """
    import cv2

    _check_rgb(rgb)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if image_format == "jpeg" else []
    try:
        ok, data = cv2.imencode(f".{image_format}", rgb[:, :, ::-1], options)
    except cv2.error:
        ok = False
    if not ok:
        raise ImageError(f"OpenCV cannot encode {image_format!r}; use jpeg or png.")
    msg = CompressedImage(format=image_format)
    msg.header.stamp = stamp
    msg.header.frame_id = frame_id
    msg.data = array("B", data.tobytes())
    return msg


def rotate(rgb: np.ndarray, degrees: int) -> np.ndarray:
    """Turn a picture [H, W, 3] clockwise by 0, 90, 180 or 270 degrees; the result is contiguous.

    Raises:
        ConfigurationError: another angle.
    """
    if degrees not in ROTATIONS:
        raise ConfigurationError(f"a picture cannot be turned by {degrees} degrees; "
                                 f"use one of {', '.join(map(str, ROTATIONS))}.")
    return np.ascontiguousarray(np.rot90(rgb, -degrees // 90))


def _check_rgb(rgb: np.ndarray) -> None:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ImageError(f"a picture must be uint8 [H, W, 3], not {rgb.dtype} {list(rgb.shape)}.")


def _cv_bridge(encoding: str):
    """Return a CvBridge, or say what to do about an encoding that needs one."""
    try:
        from cv_bridge import CvBridge
        return CvBridge()
    # Not ImportError alone: a cv_bridge built for another NumPy raises AttributeError and others.
    except Exception as error:
        raise ImageError(
            f"encoding {encoding!r} is not one of {', '.join(_ENCODINGS)}, and cv_bridge, which "
            f"knows more of them, cannot be imported ({error}). Publish rgb8, or install "
            "ros-<distro>-cv-bridge.") from error


def _through_cv_bridge(msg: Image) -> np.ndarray:
    try:
        rgb = _cv_bridge(msg.encoding).imgmsg_to_cv2(msg, desired_encoding="rgb8")
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"cv_bridge cannot turn encoding {msg.encoding!r} into rgb8: {error}. "
                         "Publish rgb8.") from error
    _check_rgb(rgb)
    return rgb
