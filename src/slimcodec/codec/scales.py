"""h_scale and the gain in plain integers: which scale every residual is coded with. All that entropy decoding needs.

    z_hat ─► four layers of integers ─► index at gain 1, in 1/16 steps ─► + the gain's shift, rounded ─► table index

float64 holds every sum exactly, so no order of summation and no library can change a value. PyTorch's version, which
trains, is in codec/network.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from slimcodec.codec.architecture import Architecture
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.grid import PLANES
from slimcodec.codec.units import GAIN_UNIT, INDEX_STEP, SCALE_COUNT

ACTIVATION_BITS = 4  # activations come in units of 1/16
RATIOS = 1, 2, 1, 1  # of the pixel shuffles after the layers


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
    """A convolution of integers, its sum divided by 2^shift and rounded down."""

    weight: np.ndarray  # float64 [O, C, k, k]
    bias: np.ndarray  # float64 [O]
    shift: int
    ratio: int  # of the pixel shuffle that follows
    last: bool  # no ReLU and no clamp to a uint8

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """float64 [C, h, w] of integers → [O / ratio², ratio·h, ratio·w]."""
        outputs, inputs, kernel, _ = self.weight.shape
        _, height, width = x.shape
        out = self.weight.reshape(outputs, -1) @ unfolded(x, kernel).reshape(inputs * kernel**2, -1)
        out += self.bias[:, None]
        np.floor(np.divide(out, 1 << self.shift, out=out), out=out)
        if not self.last:
            np.clip(out, 0, 255, out=out)
        shuffled = out.reshape(-1, self.ratio, self.ratio, height, width).transpose(0, 3, 1, 4, 2)
        return shuffled.reshape(-1, self.ratio * height, self.ratio * width)


class Scales:
    """log_gain int16 [Q, M]; of every layer of h_scale int8 weights, int32 biases and the exponent."""

    def __init__(
        self,
        architecture: Architecture,
        log_gain: np.ndarray,
        layers: Sequence[tuple[np.ndarray, np.ndarray, int]],
    ):
        self.architecture = architecture
        self.log_gain = np.asarray(log_gain, np.int64)
        bits = [0] + [ACTIVATION_BITS] * (len(layers) - 1)
        self.layers = [
            Layer(
                np.asarray(weight, np.float64),
                np.asarray(bias, np.float64),
                int(exponent) + input_bits - ACTIVATION_BITS,
                ratio,
                number == len(layers) - 1,
            )
            for number, ((weight, bias, exponent), input_bits, ratio) in enumerate(
                zip(layers, bits, RATIOS, strict=True)
            )
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

    def index(self, z: np.ndarray, fixed_quality: int) -> np.ndarray:
        """z int8 [N, rows, columns] → the scale-table entry of every residual, uint8 [4, M, 2·rows, 2·columns]."""
        x = z.astype(np.float64)
        for layer in self.layers:
            x = layer(x)
        x = x.reshape(PLANES, -1, *x.shape[1:])
        x += self.shift(fixed_quality)[:, None, None]
        x += GAIN_UNIT // 2
        x /= GAIN_UNIT
        return np.clip(np.floor(x, out=x), 0, SCALE_COUNT - 1, out=x).astype(np.uint8)
