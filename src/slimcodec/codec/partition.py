"""Which corrections a picture gets, and which of its cells has which: the encoder's part of codec/heads.

    sums of every group of cells ─► one correction for all ─► one more, for those that it serves best ─► … ─► the best

What a correction saves in a group follows from its coefficients c: 2·slope·c - c·curvature·c. So each group takes the
one that serves it best, and the best one for some groups follows from their sums, in turns (Lloyd, 1982).
"""

import math
from typing import NamedTuple

import numpy as np

from slimcodec.codec.adapt import Correction, Corrections, Fit, products
from slimcodec.codec.bilateral import Filtered
from slimcodec.codec.bitstream import MAX_SEVERAL
from slimcodec.codec.grid import Window
from slimcodec.codec.grouping import Grouping, shares, triangle
from slimcodec.codec.heads import Corrected, of_elements
from slimcodec.codec.units import LEVELS, MID_GREY

CELLS_EACH = 12  # at least, for every correction: to merge 64 directions takes 26 operations a pixel of so many cells
MOST_GROUPS = 4096  # of cells: those of larger pictures have more than one
BITS_EACH = 170.0  # about what a correction takes


class Sample(NamedTuple):
    """Some blocks of a picture."""

    window: Window
    features: np.ndarray  # [I, h, w]
    errors: np.ndarray  # [O, h, w], what the model's own head leaves
    pixels: np.ndarray  # float [3, ratio·h, ratio·w], less the middle grey


class GroupFit(Fit):
    """The sums of all of a picture, and of its groups: cells, or squares of `side` of them."""

    def __init__(self, corrections: Corrections, grid: Window, cell: int, *, keep: bool = False):
        """cell: blocks along the side of a cell. keep: them all, to see how they are decoded."""
        count, outputs, inputs = corrections.basis.shape
        super().__init__(inputs, outputs)
        self.corrections, self.grid, self.side = corrections, grid, 1
        self.most = min(MAX_SEVERAL, math.prod(grid.shape) // CELLS_EACH)
        while math.prod(grid.coarser(self.side).shape) > MOST_GROUPS:
            self.side += 1
        self.cell, self.blocks = cell, self.side * cell
        self.kept, self.samples = keep, list[Sample]()
        self.groups = grid.coarser(self.side)
        self.curvature = np.zeros((*self.groups.shape, len(triangle(count)[0])), np.float32)  # as `triangle` says
        self.slope = np.zeros((*self.groups.shape, count), np.float32)

    def sums(self, features: np.ndarray, errors: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
        if self.most < 2:
            return super().sums(features, errors, window)
        basis, groups = self.corrections.basis, window.coarser(self.blocks)
        inner = np.empty((math.prod(groups.shape), basis.shape[2], basis.shape[2]), np.float32)
        outer = np.empty((len(inner), basis.shape[2], basis.shape[1]), np.float32)
        for number, group in enumerate(groups.even_tiles(1)):
            part = group.finer(self.blocks).grown(0, window).seen_from(window).slices
            seen, wrong = (values[:, *part].reshape(len(values), -1) for values in (features, errors))
            inner[number], outer[number] = products(seen, wrong)
        self.keep(groups, inner, outer)
        pairs = inner[:, *triangle(basis.shape[2])]
        self.curvature[groups.slices] += (pairs @ self.corrections.curvatures.T).reshape(*groups.shape, -1)
        by_outputs = basis.transpose(0, 2, 1).reshape(len(basis), -1)
        self.slope[groups.slices] += (outer.reshape(len(outer), -1) @ by_outputs.T).reshape(*groups.shape, -1)
        return inner.sum(axis=0), outer.sum(axis=0)

    def sample(self, features: np.ndarray, errors: np.ndarray, window: Window, pixels: np.ndarray) -> None:
        if self.kept:
            self.samples.append(Sample(window, features.copy(), errors.copy(), pixels.copy()))

    def decoded(self, corrected: Corrected | None) -> list[Filtered]:
        """What was kept, as it is decoded with corrections, before a filter."""
        found, ratio = [], self.corrections.ratio
        changes = [self.corrections.change(each) for each in corrected.corrections] if corrected else []
        for window, features, errors, pixels in self.samples:
            left, who = errors.copy(), np.zeros(window.shape, np.uint8)
            if corrected and corrected.who is not None:
                who = of_elements(corrected.who, window, self.cell)
            for number, change in enumerate(changes):
                of = who == number
                left[:, of] -= change @ features[:, of]
            places = left.reshape(3, ratio, ratio, *window.shape).transpose(0, 3, 1, 4, 2).reshape(pixels.shape)
            at = window.finer(ratio)
            found.append(Filtered(_levels(pixels), _levels(pixels - places), at.top, at.left))
        return found

    def keep(self, groups: Window, inner: np.ndarray, outer: np.ndarray) -> None:
        """Told of the sums of each of some groups, [n, I, I] and [n, I, O]."""

    def best(self, fixed_quality: int, error_bits: float) -> Corrected | None:
        """The corrections that cost the fewest bits and errors together, with their map; None where none pays.

        error_bits  what a squared error of 1, in one colour of one pixel, counts for in bits
        """
        one, saved = self.corrections.best(self, fixed_quality, error_bits)
        if self.most > 1:
            several, more = _Search(self, fixed_quality, error_bits).best(one, self.most)
            if several and more > saved:
                return several
        return Corrected((one,)) if one else None


class _Search:
    def __init__(self, fit: GroupFit, fixed_quality: int, error_bits: float):
        self.fit, self.corrections, self.fixed_quality = fit, fit.corrections, fixed_quality
        count = fit.slope.shape[-1]
        slope = error_bits * fit.slope.reshape(-1, count).astype(np.float64)
        curvature = error_bits * fit.curvature.reshape(len(slope), -1).astype(np.float64)
        self.grouping = Grouping(curvature, slope, BITS_EACH)

    def best(self, one: Correction | None, most: int) -> tuple[Corrected | None, float]:
        """Several, and the bits that they save."""
        first = one.coefficients if one else np.zeros(self.grouping.slope.shape[1])
        found = self.grouping.best(first, most)
        return self._written(found) if len(found) > 1 else (None, 0.0)

    def _written(self, coefficients: np.ndarray) -> tuple[Corrected | None, float]:
        """With integers as a file has them."""
        whose, found = self.grouping.assigned(coefficients, np.zeros(len(coefficients))), list[Correction]()
        for _ in range(2):
            whose = self.grouping.assigned(coefficients, shares(whose, len(coefficients)))
            numbers, whose = np.unique(whose, return_inverse=True)
            sums = self.grouping.sums(whose, len(numbers))
            found = [self.corrections.nearest(*each, self.fixed_quality) for each in zip(*sums, strict=True)]
            coefficients = np.stack([correction.coefficients for correction in found])
        whose = self.grouping.assigned(coefficients, shares(whose, len(found)))
        numbers, whose = np.unique(whose, return_inverse=True)
        if len(numbers) < 2 or not all(self.corrections.can_write(each, self.fixed_quality) for each in found):
            return None, 0.0
        who = whose.astype(np.uint8).reshape(self.fit.groups.shape)
        rows, columns = self.fit.grid.shape
        who = who.repeat(self.fit.side, axis=0).repeat(self.fit.side, axis=1)[:rows, :columns]
        corrected = Corrected(tuple(found[number] for number in numbers), np.ascontiguousarray(who))
        gained = self.grouping.gains(coefficients[numbers])[np.arange(len(whose)), whose].sum()
        correction, correction_map = corrected.written(self.corrections, self.fixed_quality)
        return corrected, gained - 8 * (len(correction) + len(correction_map or b""))


def _levels(x: np.ndarray) -> np.ndarray:
    """float [3, h, w] less the middle grey → uint8 [h, w, 3]."""
    levels = ((x + np.float32(MID_GREY)) * np.float32(LEVELS)).round().clip(0, LEVELS).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))
