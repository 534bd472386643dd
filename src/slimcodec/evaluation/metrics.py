"""The quality of one decoded picture, measured against the original."""

import math

import numpy as np

from slimcodec import InvalidInput


def psnr_db(reference, picture):
    """Peak signal-to-noise ratio of `picture` against `reference`, in dB; infinite when they are equal.

    Both are uint8 arrays [H, W, 3], 8-bit RGB: the squared error is averaged over all pixels and the three channels
    before the logarithm. Raises `InvalidInput` when they are anything else or differ in size.
    """
    _require_rgb("reference", reference)
    _require_rgb("picture", picture)
    if reference.shape != picture.shape:
        raise InvalidInput(f"the picture is {_size(picture)} but its reference is {_size(reference)}")
    mean_squared_error = np.mean(np.square(reference.astype(np.int32) - picture))
    return math.inf if mean_squared_error == 0 else 10 * math.log10(255**2 / mean_squared_error)


def _require_rgb(name, array):
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise InvalidInput(f"{name} must be a uint8 array [H, W, 3], but is {array.dtype} {list(array.shape)}")


def _size(array):
    return f"{array.shape[1]}x{array.shape[0]}"
