"""Corrections of g_s's last layer by picture: a few integers in the file, merged into the weights before decoding.

    head's weights and bias + Σ_k c_k · basis_k        c_k = q_k · exp(-INDEX_STEP · shift)

A decoder takes no operation more for a pixel. The basis is a model's, learned from what its training photos would have
of their own (training/corrections); the encoder finds the c_k of a picture in closed form, from what the decoder has.

    K  corrections of the basis     O  outputs of the head, 3·ratio²     I  its inputs, and one for the bias
"""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from slimcodec import InvalidFile, InvalidModel
from slimcodec.codec import handful, native
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.bitstream import MAX_CORRECTION_BYTES, MAX_CORRECTIONS, QUALITY_ONE
from slimcodec.codec.entropy import Tables
from slimcodec.codec.grid import Window
from slimcodec.codec.grouping import triangle
from slimcodec.codec.networks import Grid, Head
from slimcodec.codec.scales import unfolded
from slimcodec.codec.units import INDEX_STEP, LEVELS, MID_GREY, MIDDLE, SCALE_COUNT, SUM_LIMIT

BASIS, SCALES = "head_basis", "head_scales"  # names of the tables
EXPONENT = "head_exponent"  # of a decoder of integers: its basis is one of integers in units of levels / 2^exponent
LARGEST = 31  # of the integers q: nearly all are smaller
MAX_SHIFT = 255
# The step at which half of a step more error costs as much as the bits that it saves, in bits: flat around it.
STEP_ERROR = 6.0
COARSER = 6  # less of shift, where integers would be larger: about twice the step
SWEEPS = 8  # over the integers, each chosen anew while the others stand
OVERHEAD_BITS = 16  # two bytes: the length and the shift


class Correction(NamedTuple):
    """What a file says of its picture's head."""

    shift: int  # 0…255: the step is exp(-INDEX_STEP · shift)
    q: np.ndarray  # int16 [K]

    @property
    def coefficients(self) -> np.ndarray:
        """c, float64 [K]."""
        return self.q * math.exp(-INDEX_STEP * self.shift)


class Fit:
    """What the best correction of a picture follows from: sums over its blocks of ratio² pixels."""

    def __init__(self, inputs: int, outputs: int):
        self.inner = np.zeros((inputs, inputs))  # features by features
        self.outer = np.zeros((inputs, outputs))  # features by errors
        self.squared_error = 0.0  # of all colours of all pixels

    def add(self, features: np.ndarray, errors: np.ndarray, window: Window) -> None:
        """features [I, h, w] of a window of blocks, ones last; errors [O, h, w], what the head leaves of them."""
        inner, outer = self.sums(features, errors, window)
        self.inner += inner
        self.outer += outer
        self.squared_error += float(np.square(errors).sum(dtype=np.float64))

    def sample(self, features: np.ndarray, errors: np.ndarray, window: Window, pixels: np.ndarray) -> None:
        """Told of what `add` is given, and of the pixels [3, ratio·h, ratio·w] less the middle grey."""

    def sums(self, features: np.ndarray, errors: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Of what `add` is given: features by features [I, I], and by errors [I, O]."""
        return products(features.reshape(len(features), -1), errors.reshape(len(errors), -1))


def products(features: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of [I, n] and [O, n]."""
    return features @ features.T, features @ errors.T


class Corrections:
    """A model's basis, for its head, and how the integers of a correction are coded.

    `tables`: head_basis float [K, O, I] in the order of g_s.head's outputs, each row a flat kernel and then the bias;
    head_scales int16 [Q, K], the scale index of c at every rung and shift 0. `r_tables`, `r_bits`: those of residuals,
    as codec/entropy needs them and in bits by magnitude, [64, 32].
    """

    def __init__(self, head: Head, ratio: int, tables: Mapping[str, np.ndarray], r_tables: Tables, r_bits: np.ndarray):
        self.head, self.ratio = head, ratio
        self.basis, self.fitted = np.asarray(tables[BASIS], np.float32), head
        if head.grid is not None:
            self.integers, self.exponent = tables[BASIS], int(tables[EXPONENT][0])
            self.basis = np.ldexp(self.basis, -self.exponent) / LEVELS
            bias = (head.bias + MIDDLE) / LEVELS - MID_GREY
            self.fitted = Head(head.weight / LEVELS, bias.astype(np.float32))
        self.scales, self.r_tables = np.asarray(tables[SCALES], np.int32), r_tables
        self.bits = r_bits.astype(np.float64)

    def applied(self, correction: Correction) -> Head:
        """The head, corrected. Raises InvalidFile for a correction that a decoder of integers cannot have."""
        if self.head.grid is not None:
            return self._applied_in_integers(correction, self.head.grid)
        change, (weight, bias, _) = self.change(correction), self.head
        return Head(weight + change[:, :-1].reshape(weight.shape[-4:]), bias + change[:, -1])

    def change(self, correction: Correction) -> np.ndarray:
        """What is added to the head's weights and bias, for colours in [0, 1]: float32 [O, I]."""
        # One after the other: a matrix product's order of summation depends on the number of threads.
        change = np.zeros(self.basis[0].size, np.float32)
        rows, coefficients = self.basis.reshape(len(self.basis), -1), correction.coefficients.astype(np.float32)
        native.call("add_rows", change, rows, coefficients, *rows.shape)
        return change.reshape(self.basis.shape[1:])

    def _applied_in_integers(self, correction: Correction, grid: Grid) -> Head:
        """Products stay below 2^53, where float64 is exact."""
        factor, exponent = fixed_point(correction.shift)
        change = np.tensordot(correction.q.astype(np.float64), self.integers.astype(np.float64), axes=1) * factor
        change = np.rint(np.ldexp(change, (grid.shift - self.exponent - exponent)[:, None]))
        unit = np.ldexp(1.0, grid.shift)[:, None]
        rows = (
            np.concatenate([self.head.weight.reshape(len(unit), -1), self.head.bias[:, None]], axis=1) * unit + change
        )
        limits = np.append(np.repeat(grid.limit, self.head.weight[0, 0].size), 1)
        if (np.abs(rows) @ limits).max() >= SUM_LIMIT:
            raise InvalidFile("the correction in it is larger than any that is written; the file is damaged")
        weight, bias = (rows[:, :-1] / unit).reshape(self.head.weight.shape), rows[:, -1] / unit[:, 0]
        return Head(weight.astype(np.float32), bias.astype(np.float32), grid)

    def write(self, correction: Correction, fixed_quality: int) -> bytes:
        index = self._index(correction.shift, fixed_quality)
        return bytes([correction.shift]) + handful.encode(correction.q, index, self.r_tables)

    def read(self, data: bytes, fixed_quality: int) -> Correction:
        """Raises InvalidFile for bytes that `write` did not make."""
        shift = data[0]
        return Correction(shift, handful.decode(data[1:], self._index(shift, fixed_quality), self.r_tables))

    def _index(self, shift: int, fixed_quality: int) -> np.ndarray:
        """The table of every q, uint8 [K]: of the nearest rung, moved by the step."""
        rung = min((fixed_quality + QUALITY_ONE // 2) // QUALITY_ONE, len(self.scales)) - 1
        return np.clip(self.scales[rung] + shift, 0, SCALE_COUNT - 1).astype(np.uint8)

    # The encoder's part.

    @cached_property
    def curvatures(self) -> np.ndarray:
        """What makes the curvature of some blocks of their features by features, float32 [pairs of K, pairs of I].

        `triangle` says which pairs.
        """
        count, _, inputs = self.basis.shape
        rows, columns = triangle(inputs)
        made, begin = np.empty((len(triangle(count)[0]), len(rows)), np.float32), 0
        for k, basis in enumerate(self.basis):
            both = np.tensordot(basis, self.basis[k:], axes=(0, 1))  # [I, K - k, I]
            twice = both[rows, :, columns] + both[columns, :, rows]
            made[begin : begin + count - k] = twice.T
            begin += count - k
        made[:, rows == columns] /= 2
        return made

    def add(
        self,
        fit: Fit,
        features: np.ndarray,
        at: Window,
        window: Window,
        pixels: np.ndarray,
        whose: np.ndarray | None = None,
    ) -> None:
        """features [1, C, h, w] of g_s before its head, of the window `at` of blocks; pixels of a window within,
        [1, 3, ratio·h', ratio·w'], less the middle grey. What is around is seen by the head.

        whose  the specialists of the window's blocks, [h', w'], if there are several
        """
        kernel = self.head.weight.shape[-1]
        seen = unfolded(features[0], kernel)[:, *window.seen_from(at).slices]
        _, colours, height, width = pixels.shape
        blocks = pixels.reshape(colours, height // self.ratio, self.ratio, width // self.ratio, self.ratio)
        errors = blocks.transpose(0, 2, 4, 1, 3).reshape(colours * self.ratio**2, *window.shape)
        seen = np.concatenate([seen, np.ones_like(seen[:1])])
        weight, bias, _ = self.fitted
        weights = np.concatenate([weight.reshape(*bias.shape, -1), bias[..., None]], axis=-1)
        if whose is None:
            errors = errors - np.tensordot(weights, seen, axes=1)
        else:
            for specialist in np.unique(whose):
                own = whose == specialist
                errors[:, own] -= weights[specialist] @ seen[:, own]
        fit.add(seen, errors, window)
        fit.sample(seen, errors, window, pixels[0])

    def best(self, fit: Fit, fixed_quality: int, error_bits: float) -> tuple[Correction | None, float]:
        """The correction of all that costs the fewest bits and errors together, and the bits that it saves.

        None where none pays.

        error_bits  what a squared error of 1, in one colour of one pixel, counts for in bits
        """
        flat = self.basis.astype(np.float64)
        curvature = error_bits * np.einsum("koi,loi->kl", flat, flat @ fit.inner, optimize=True)
        slope = error_bits * np.einsum("koi,io->k", flat, fit.outer)
        best, saved = self._nearest(curvature, slope, fixed_quality)
        pays = saved > OVERHEAD_BITS and self.can_write(best, fixed_quality)
        return (best, saved - OVERHEAD_BITS) if pays else (None, 0.0)

    def nearest(self, curvature: np.ndarray, slope: np.ndarray, fixed_quality: int) -> Correction:
        """That with the best integers for some of the picture: curvature [K, K], slope [K] in bits."""
        return self._nearest(curvature, slope, fixed_quality)[0]

    def can_write(self, correction: Correction, fixed_quality: int) -> bool:
        """It cannot with scales that no training gives, or where a decoder of integers has no room for it."""
        return len(self.write(correction, fixed_quality)) <= MAX_CORRECTION_BYTES and self._can_apply(correction)

    def _nearest(self, curvature: np.ndarray, slope: np.ndarray, fixed_quality: int) -> tuple[Correction, float]:
        step = math.sqrt(STEP_ERROR / max(float(curvature.diagonal().mean()), 1e-12))
        shift = min(max(0, round(-math.log(step) / INDEX_STEP)), MAX_SHIFT)
        best, most = self._at(shift, curvature, slope, fixed_quality)
        # Of a big picture, or where much is wrong, coefficients may be more than LARGEST such steps.
        while shift and np.abs(best.q).max() == LARGEST:
            shift = max(0, shift - COARSER)
            other, saved = self._at(shift, curvature, slope, fixed_quality)
            if saved <= most:
                break
            best, most = other, saved
        return best, most

    def _can_apply(self, correction: Correction) -> bool:
        try:
            self.applied(correction)
        except InvalidFile:
            return False
        return True

    def _at(self, shift: int, curvature: np.ndarray, slope: np.ndarray, fixed_quality: int) -> tuple[Correction, float]:
        """The best correction with that step, and the bits that it saves."""
        step, index = math.exp(-INDEX_STEP * shift), self._index(shift, fixed_quality)
        bits = np.where((index < self.r_tables.skip)[:, None], np.inf, self.bits[index])
        bits[:, 0] = np.where(index < self.r_tables.skip, 0, bits[:, 0])
        q, saved = integers(curvature * step**2, slope * step, bits)
        return Correction(shift, q), saved


def fixed_point(shift: int) -> tuple[int, int]:
    """(factor, exponent): the step of that shift is factor / 2^exponent, with 16 bits of factor."""
    mantissa, exponent = math.frexp(math.exp(-INDEX_STEP * shift))
    return round(mantissa * 2**16), 16 - exponent


def integers(curvature: np.ndarray, slope: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, float]:
    """The integers q that make q·curvature·q - 2·slope·q + Σ bits small, int16 [K], and by how much less than 0 it is.

    curvature [K, K], slope [K], bits [K, LARGEST + 1] of every magnitude. One after the other is chosen anew.
    """
    q, given = np.empty(len(slope), np.int64), (np.ascontiguousarray(values) for values in (curvature, slope, bits))
    native.call("integers", *given, len(q), bits.shape[1] - 1, SWEEPS, q)
    cost = q @ curvature @ q - 2 * slope @ q + bits[np.arange(len(q)), np.abs(q)].sum()
    return q.astype(np.int16), -float(cost)


def check_tables(tables: Mapping[str, Any], architecture: Architecture) -> None:
    """Raises InvalidModel for a basis that does not fit the architecture."""
    if BASIS not in tables:
        return
    last, count = architecture.g_s[-1], len(tables[BASIS])
    expected = count, 3 * last.scale**2, last.channels * architecture.head_kernel**2 + 1
    if tables[BASIS].shape != expected or not 1 <= count <= MAX_CORRECTIONS:
        raise InvalidModel(f"tables.{BASIS}: must be [1 to {MAX_CORRECTIONS}, {expected[1]}, {expected[2]}]")
    if architecture.in_integers and (EXPONENT not in tables or tables[BASIS].dtype != np.int16):
        raise InvalidModel(f"tables.{BASIS}: must be int16, with tables.{EXPONENT}, for a decoder in integers")
    if tables[SCALES].shape != (architecture.rungs, count):
        raise InvalidModel(f"tables.{SCALES}: must be of shape {(architecture.rungs, count)}")
