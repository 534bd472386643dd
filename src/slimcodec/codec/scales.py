"""h_scale and the gain in plain integers: which scale every residual is coded with. All that entropy decoding needs.

    z_hat ─► four layers of integers ─► index at gain 1, in 1/16 steps ─► + the gain's shift, rounded ─► table index

Floats hold every sum exactly, so no order of summation and no library can change a value: float32 where the weights
leave no sum that is larger, float64 elsewhere. PyTorch's version, which trains, is in codec/network.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from slimcodec.codec.architecture import Architecture
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.grid import PLANES
from slimcodec.codec.units import GAIN_UNIT, INDEX_STEP, SCALE_COUNT, STEP_UNIT, SUM_LIMIT

ACTIVATION_BITS = 4  # activations come in units of 1/16
RATIOS = 1, 2, 1, 1  # of the pixel shuffles after the layers
OUTPUTS = 32  # of the last layer at a time


def unfolded(x: np.ndarray, kernel: int) -> np.ndarray:
    """[C, h, w] → what a convolution sees at each place, zeros beyond the edges: [C·k², h, w]."""
    if kernel == 1:
        return x
    margin = kernel // 2
    padded = np.pad(x, [(0, 0), (margin, margin), (margin, margin)])
    windows: Any = np.lib.stride_tricks.sliding_window_view  # whose types know a single axis alone
    seen: np.ndarray = windows(padded, (kernel, kernel), axis=(1, 2))
    return seen.transpose(0, 3, 4, 1, 2).reshape(-1, *x.shape[1:])


class Layer(NamedTuple):
    """A convolution of integers, its sum divided by 2^shift and rounded down. The division is in weight and bias: they
    are multiples of 2^-shift, as is every sum of theirs, and floats hold those as exactly as integers.
    """

    weight: np.ndarray  # float32 or float64 [O, C·k²]
    bias: np.ndarray  # of the same type, [O, 1]
    kernel: int
    ratio: int  # of the pixel shuffle that follows

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Integers as floats [C, h, w] → uint8 values as floats of the layer's type, [O / ratio², ratio·h, ratio·w]."""
        _, height, width = x.shape
        out = self.weight @ self.seen(x)
        out += self.bias
        np.clip(np.floor(out, out=out), 0, 255, out=out)
        shuffled = out.reshape(-1, self.ratio, self.ratio, height, width).transpose(0, 3, 1, 4, 2)
        return shuffled.reshape(-1, self.ratio * height, self.ratio * width)

    def seen(self, x: np.ndarray) -> np.ndarray:
        """[C, h, w] → [C·k², h·w]."""
        return unfolded(x.astype(self.weight.dtype, copy=False), self.kernel).reshape(self.weight.shape[1], -1)


class Scales:
    """log_gain int16 [Q, M]; of every layer of h_scale int8 weights, int32 biases and the exponent.

    limits int16 [M]: how large y_hat may be where the decoder is one of integers.
    """

    def __init__(
        self,
        architecture: Architecture,
        log_gain: np.ndarray,
        layers: Sequence[tuple[np.ndarray, np.ndarray, int]],
        limits: np.ndarray | None = None,
    ):
        self.architecture = architecture
        self.log_gain = np.asarray(log_gain, np.int64)
        self.limits = None if limits is None else np.asarray(limits, np.float64)
        last = len(layers) - 1
        moves = int(np.abs(self.log_gain).max(initial=0)) + GAIN_UNIT  # what is added to the last layer's sums
        inputs = [(0, 128, 0)] + [(ACTIVATION_BITS, 255, 0)] * (last - 1) + [(ACTIVATION_BITS, 255, moves)]
        self.layers = [
            _layer(weight, bias, int(exponent) + bits - ACTIVATION_BITS, ratio, largest, added)
            for (weight, bias, exponent), (bits, largest, added), ratio in zip(layers, inputs, RATIOS, strict=True)
        ]

    def shift(self, fixed_quality: int) -> np.ndarray:
        """How far the gain moves the scale index, in 1/16 steps: int64 [M].

        s = (s0·(256 - f) + s1·f + 128) >> 8 between the two rungs around the quality, f its fraction.
        """
        last = len(self.log_gain) - 1
        rung = min(max(fixed_quality // QUALITY_ONE - 1, 0), last)
        fraction = fixed_quality % QUALITY_ONE
        mixed = self.log_gain[rung] * (QUALITY_ONE - fraction) + self.log_gain[min(rung + 1, last)] * fraction
        return mixed + QUALITY_ONE // 2 >> 8

    def gain(self, fixed_quality: int) -> np.ndarray:
        """What multiplies the residuals, float32 [M]."""
        return np.exp(self.shift(fixed_quality).astype(np.float32) * np.float32(INDEX_STEP / GAIN_UNIT))

    def step(self, fixed_quality: int) -> np.ndarray:
        """What a residual counts for in y where the decoder is one of integers: float64 [M], multiples of 2^-16."""
        exact = np.exp(self.shift(fixed_quality) * (-INDEX_STEP / GAIN_UNIT))
        return np.round(exact * STEP_UNIT) / STEP_UNIT

    def index(self, z: np.ndarray, fixed_quality: int) -> np.ndarray:
        """z int8 [N, rows, columns] → the scale-table entry of every residual, uint8 [4, M, 2·rows, 2·columns]."""
        *hidden, last = self.layers
        x = z
        for layer in hidden:
            x = layer(x)
        seen, shift = last.seen(x), np.tile(self.shift(fixed_quality), PLANES)[:, None]
        added = last.bias + (shift + GAIN_UNIT // 2).astype(last.bias.dtype)
        index = np.empty((len(shift), seen.shape[1]), np.uint8)
        # A few outputs at a time, which stay in the cache. The sums need not be rounded down before the shift is added:
        # floor((floor(a) + n) / 16) is floor((a + n) / 16), and a cast to uint8 rounds down.
        for rows in (slice(first, first + OUTPUTS) for first in range(0, len(index), OUTPUTS)):
            out = last.weight[rows] @ seen
            out += added[rows]
            out /= GAIN_UNIT
            index[rows] = np.clip(out, 0, SCALE_COUNT - 1, out=out)
        return index.reshape(PLANES, -1, *x.shape[1:])


def _layer(weight: np.ndarray, bias: np.ndarray, shift: int, ratio: int, largest: int, added: int) -> Layer:
    """Of int8 weights [O, C, k, k] and int32 biases [O]. largest: of what it sees; added: to its results, at most."""
    outputs, _, kernel, _ = weight.shape
    rows, column = np.asarray(weight, np.float64).reshape(outputs, -1), np.asarray(bias, np.float64)[:, None]
    unit = 2.0**-shift
    most = (np.abs(rows).sum(axis=1) * largest + np.abs(column[:, 0])).max() + added / unit
    dtype = np.float32 if most < SUM_LIMIT else np.float64
    return Layer((rows * unit).astype(dtype), (column * unit).astype(dtype), kernel, ratio)
