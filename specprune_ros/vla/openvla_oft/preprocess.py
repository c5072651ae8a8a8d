"""Camera frames to the 224 px picture that the vision towers see.

JPEG round trip, Lanczos-3 resize with antialias, centre crop of 0.9 of the area: each step follows
the TensorFlow operations of openvla-oft's evaluation, so that a policy sees at run time what it
saw in training.
"""
from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import simplejpeg

from specprune_ros.errors import ObservationError

_JPEG_QUALITY = 95  # default of tf.image.encode_jpeg
_JPEG_LARGEST = 65_500  # px, of libjpeg
_CROP_AREA = 0.9  # centre crop matching the random-crop augmentation of training
_LANCZOS_RADIUS = 3


def check_image(image: np.ndarray, name: str) -> np.ndarray:
    """Return the image if it is uint8 [H, W, 3] with both sides >= 1, else raise."""
    if not isinstance(image, np.ndarray):
        raise ObservationError(f"image '{name}' is {type(image).__name__}, not a numpy array")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ObservationError(f"image '{name}' has shape {image.shape}, expected [H, W, 3] (RGB)")
    if image.dtype != np.uint8:
        raise ObservationError(f"image '{name}' has type {image.dtype}, expected uint8 (0..255)")
    return image


def prepare_image(
    image: np.ndarray, size: int = 224, center_crop: bool = True, jpeg_roundtrip: bool = True
) -> np.ndarray:
    """uint8 [H, W, 3] RGB -> uint8 [size, size, 3], what the policy sees.

    A picture that already has the size is only JPEG-coded and cropped, as both are asked for;
    with neither it is returned as it is.
    """
    if jpeg_roundtrip:
        image = jpeg_round_trip(image)
    image = resize_lanczos(image, size)
    return crop_center(image) if center_crop else image


def jpeg_round_trip(image: np.ndarray) -> np.ndarray:
    """Encode and decode as TensorFlow does: quality 95, 4:2:0, fast integer DCT when decoding."""
    if max(image.shape[:2]) > _JPEG_LARGEST:
        raise ObservationError(
            f"an image of {image.shape[:2]} is too large for JPEG (sides up to {_JPEG_LARGEST} px)"
        )
    _, coded = cv2.imencode(
        ".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    return simplejpeg.decode_jpeg(coded.tobytes(), fastdct=True, fastupsample=False)


def resize_lanczos(image: np.ndarray, size: int) -> np.ndarray:
    """Lanczos-3 resize with antialias to [size, size, 3], rounding half to even."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    pixels = np.ascontiguousarray(image, dtype=np.float32).reshape(height, -1)
    tall = _resample(pixels, size).reshape(size, width, 3)
    across = np.ascontiguousarray(tall.transpose(1, 0, 2)).reshape(width, -1)  # [W, size*3]
    resized = _resample(across, size).reshape(size, size, 3).transpose(1, 0, 2)
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)


def _resample(rows: np.ndarray, size: int) -> np.ndarray:
    """float32 [length, n] -> [size, n], a band of the matrix at a time: the rest of it is zero."""
    resampled = np.empty((size, rows.shape[1]), np.float32)
    for outputs, inputs, weights in lanczos_bands(len(rows), size):
        np.matmul(weights, rows[inputs], out=resampled[outputs])
    return resampled


_BAND = 32  # output samples of one band


@lru_cache(maxsize=16)
def lanczos_bands(length: int, size: int) -> tuple[tuple[slice, slice, np.ndarray], ...]:
    """Output samples, the input samples that they are made of, and the weights between them."""
    matrix, bands = lanczos_matrix(length, size), []
    for start in range(0, size, _BAND):
        outputs = slice(start, min(start + _BAND, size))
        used = np.flatnonzero(matrix[outputs].any(axis=0))
        inputs = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((outputs, inputs, np.ascontiguousarray(matrix[outputs, inputs])))
    return tuple(bands)


def lanczos_matrix(length: int, size: int) -> np.ndarray:
    """float32 [size, length]: weights of each input sample for each output sample."""
    # float32 and the closed form of TensorFlow's kernel, so that rounding agrees with it.
    scale = np.float32(length / size)
    # Antialiasing stretches the kernel when shrinking; an enlargement keeps its own radius.
    stretch = max(scale, np.float32(1))
    half, radius, pi = np.float32(0.5), np.float32(_LANCZOS_RADIUS), np.float32(np.pi)
    centres = (np.arange(size, dtype=np.float32) + half) * scale
    x = np.abs((np.arange(length, dtype=np.float32)[None, :] + half - centres[:, None]) / stretch)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = radius * np.sin(pi * x) * np.sin(pi * x / radius) / (pi**2 * x**2)
    weights[x <= np.float32(1e-3)] = 1.0
    weights[x > radius] = 0.0
    return weights / weights.sum(axis=1, keepdims=True)


def crop_center(image: np.ndarray) -> np.ndarray:
    """Centre crop of 0.9 of the area, resampled bilinearly to the same size (corner aligned)."""
    size = image.shape[0]
    low, high, fraction = crop_grid(size)
    pixels = image.astype(np.float32) * np.float32(1 / 255)
    across = _between(pixels, 1, low, high, fraction[None, :, None])  # [size, size, 3]
    cropped = _between(across, 0, low, high, fraction[:, None, None])
    # tf.image.convert_image_dtype to uint8 multiplies by 255.5 and truncates.
    np.clip(cropped, 0.0, 1.0, out=cropped)
    cropped *= np.float32(255.5)
    return cropped.astype(np.uint8)  # not negative, so this is the floor


def _between(
    values: np.ndarray, axis: int, low: np.ndarray, high: np.ndarray, fraction: np.ndarray
) -> np.ndarray:
    """low + (high - low) * fraction along an axis, in few passes."""
    first = np.take(values, low, axis, mode="clip")
    step = np.take(values, high, axis, mode="clip")
    step -= first
    step *= fraction
    first += step
    return first


@lru_cache(maxsize=4)
def crop_grid(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two neighbours of each sample of the crop along a side, and where it lies in between."""
    # float32 in the order of tf.image.crop_and_resize, so that positions agree bit by bit.
    side = np.sqrt(np.float32(_CROP_AREA))
    first = (np.float32(1) - side) / np.float32(2)
    last = first + side
    start = first * np.float32(size - 1)
    step = (last - first) * np.float32(size - 1) / np.float32(size - 1)
    position = start + np.arange(size, dtype=np.float32) * step
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    return low, high, (position - low).astype(np.float32)

