"""Which corrections a picture gets, and which of its cells has which: the encoder's part of codec/heads.

    sums of every group of cells ─► one correction for all ─► one more, for those that it serves best ─► … ─► the best

What a correction saves in a group follows from its coefficients c: 2·slope·c - c·curvature·c. So each group takes the
one that serves it best, and the best one for some groups follows from their sums, in turns (Lloyd, 1982).
"""

import math
from typing import NamedTuple

import numpy as np

from slimcodec.codec.adapt import Correction, Corrections, Fit, products, upper
from slimcodec.codec.bilateral import Filtered
from slimcodec.codec.bitstream import MAX_SEVERAL
from slimcodec.codec.grid import CELL, Window
from slimcodec.codec.heads import Corrected, of_elements
from slimcodec.codec.units import LEVELS, MID_GREY

CELLS_EACH = 12  # at least so many cells for every correction: to merge one takes 13 operations a pixel of theirs
MOST_GROUPS = 4096  # of cells: those of larger pictures have more than one
CANDIDATES = 64  # groups whose own corrections are tried as the start of one more
TURNS = 3
RIDGE = 0.5  # of the mean group: what few blocks say alone is not believed
BITS_EACH = 170.0  # about what a correction takes
# What the filter follows from: about so many pixels, in squares of SAMPLE_SIDE blocks that are spread as the terms of a
# Kronecker sequence.
SAMPLE_PIXELS, SAMPLE_SIDE, SAMPLE_STEPS = 512**2, 16, (0.7549, 0.5698)


class Sample(NamedTuple):
    """Some blocks of a picture."""

    window: Window
    features: np.ndarray  # [I, h, w]
    errors: np.ndarray  # [O, h, w], what the model's own head leaves
    pixels: np.ndarray  # float [3, ratio·h, ratio·w], less the middle grey


class GroupFit(Fit):
    """The sums of all of a picture, and of its groups: cells, or squares of `side` of them."""

    def __init__(self, corrections: Corrections, grid: Window, cell: int, samples: bool = False):
        """cell: blocks along the side of a cell. samples: keep some blocks, to see how they are decoded."""
        count, outputs, inputs = corrections.basis.shape
        super().__init__(inputs, outputs)
        self.corrections, self.grid, self.side = corrections, grid, 1
        self.most = min(MAX_SEVERAL, math.prod(grid.shape) // CELLS_EACH)
        while math.prod(grid.coarser(self.side).shape) > MOST_GROUPS:
            self.side += 1
        self.cell, self.blocks = cell, self.side * cell
        share = SAMPLE_PIXELS / math.prod(grid.finer(CELL).shape)
        self.share, self.samples = (min(1.0, share) if samples else 0.0), list[Sample]()
        self.groups = grid.coarser(self.side)
        self.curvature = np.zeros((*self.groups.shape, len(upper(count)[0])), np.float32)  # as `upper` says
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
        pairs = inner[:, *upper(basis.shape[2])]
        self.curvature[groups.slices] += (pairs @ self.corrections.curvatures.T).reshape(*groups.shape, -1)
        by_outputs = basis.transpose(0, 2, 1).reshape(len(basis), -1)
        self.slope[groups.slices] += (outer.reshape(len(outer), -1) @ by_outputs.T).reshape(*groups.shape, -1)
        return inner.sum(axis=0), outer.sum(axis=0)

    def sample(self, features: np.ndarray, errors: np.ndarray, window: Window, pixels: np.ndarray) -> None:
        ratio, squares = self.corrections.ratio, window.coarser(SAMPLE_SIDE)
        parts = (square.finer(SAMPLE_SIDE).grown(0, window) for square in squares.even_tiles(1) if self._chosen(square))
        for part in [window] if self.share == 1 else parts if self.share else ():
            at = part.seen_from(window)
            seen, wrong = (values[:, *at.slices].copy() for values in (features, errors))
            self.samples.append(Sample(part, seen, wrong, pixels[:, *at.finer(ratio).slices].copy()))

    def _chosen(self, square: Window) -> bool:
        return (square.top * SAMPLE_STEPS[0] + square.left * SAMPLE_STEPS[1]) % 1 < self.share

    def decoded(self, corrected: Corrected | None) -> list[Filtered]:
        """The samples, as they are decoded with corrections, before a filter."""
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
            found.append(Filtered(_levels(pixels), _levels(pixels - places)))
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
        rows, columns = upper(count)
        self.slope = error_bits * fit.slope.reshape(-1, count).astype(np.float64)
        self.curvature = np.empty((len(self.slope), count, count))
        self.curvature[:, rows, columns] = error_bits * fit.curvature.reshape(len(self.slope), -1)
        self.curvature[:, columns, rows] = self.curvature[:, rows, columns]
        mean = self.curvature.mean(axis=0)
        self.ridge = RIDGE * mean + max(1e-6 * float(np.trace(mean)), 1e-12) * np.eye(count)  # one may do nothing

    def best(self, one: Correction | None, most: int) -> tuple[Corrected | None, float]:
        """Several, and the bits that they save."""
        count = self.slope.shape[1]
        chosen = (one.coefficients if one else np.zeros(count))[None]
        tried = np.unique(np.linspace(0, len(self.slope) - 1, CANDIDATES).round().astype(int))
        own = np.linalg.solve(self.curvature[tried] + self.ridge, self.slope[tried][..., None])[..., 0]
        gains_of_own, best, most_saved = self._gains(own), chosen, self._gains(chosen).sum()
        for _ in range(most - 1):  # each time one more, unless no group takes it
            so_far = self._gains(chosen).max(axis=1, keepdims=True)
            chosen = np.concatenate([chosen, own[[np.maximum(so_far, gains_of_own).sum(axis=0).argmax()]]])
            chosen, saved = self._in_turns(chosen)
            if saved > most_saved:
                best, most_saved = chosen, saved
        return self._written(best) if len(best) > 1 else (None, 0.0)

    def _gains(self, coefficients: np.ndarray) -> np.ndarray:
        """Of every group by each of the coefficients [n, K], in bits, [groups, n]."""
        squares = np.einsum("nk,nl->nkl", coefficients, coefficients).reshape(len(coefficients), -1)
        gains: np.ndarray = 2 * self.slope @ coefficients.T - self.curvature.reshape(len(self.slope), -1) @ squares.T
        return gains

    def _in_turns(self, coefficients: np.ndarray) -> tuple[np.ndarray, float]:
        """→ better ones, and about what they save with their map."""
        for _ in range(TURNS):
            whose = self._assigned(coefficients, _shares(self._gains(coefficients).argmax(axis=1), len(coefficients)))
            numbers, whose = np.unique(whose, return_inverse=True)
            sums = [self._sums(whose == number) for number in range(len(numbers))]
            coefficients = np.stack([np.linalg.solve(curvature + self.ridge, slope) for curvature, slope in sums])
        bits = _shares(whose, len(coefficients))
        gains = (self._gains(coefficients) - bits).max(axis=1).sum()
        return coefficients, gains - BITS_EACH * len(coefficients)

    def _assigned(self, coefficients: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """bits [n]: what it takes to say so."""
        return (self._gains(coefficients) - bits).argmax(axis=1)

    def _sums(self, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.curvature[of].sum(axis=0), self.slope[of].sum(axis=0)

    def _written(self, coefficients: np.ndarray) -> tuple[Corrected | None, float]:
        """With integers as a file has them."""
        whose, found = self._assigned(coefficients, np.zeros(len(coefficients))), list[Correction]()
        for _ in range(2):
            whose = self._assigned(coefficients, _shares(whose, len(coefficients)))
            numbers, whose = np.unique(whose, return_inverse=True)
            sums = [self._sums(whose == number) for number in range(len(numbers))]
            found = [self.corrections.nearest(*each, self.fixed_quality) for each in sums]
            coefficients = np.stack([correction.coefficients for correction in found])
        whose = self._assigned(coefficients, _shares(whose, len(found)))
        numbers, whose = np.unique(whose, return_inverse=True)
        if len(numbers) < 2 or not all(self.corrections.can_write(each, self.fixed_quality) for each in found):
            return None, 0.0
        who = whose.astype(np.uint8).reshape(self.fit.groups.shape)
        rows, columns = self.fit.grid.shape
        who = who.repeat(self.fit.side, axis=0).repeat(self.fit.side, axis=1)[:rows, :columns]
        corrected = Corrected(tuple(found[number] for number in numbers), np.ascontiguousarray(who))
        gained = self._gains(coefficients[numbers])[np.arange(len(whose)), whose].sum()
        correction, correction_map = corrected.written(self.corrections, self.fixed_quality)
        return corrected, gained - 8 * (len(correction) + len(correction_map or b""))


def _shares(whose: np.ndarray, count: int) -> np.ndarray:
    """What it takes to say which of so many a group has, in bits [n], if each is as frequent as it is here."""
    times = np.bincount(whose, minlength=count) + 0.5
    bits: np.ndarray = -np.log2(times / times.sum())
    return bits


def _levels(x: np.ndarray) -> np.ndarray:
    """float [3, h, w] less the middle grey → uint8 [h, w, 3]."""
    levels = ((x + np.float32(MID_GREY)) * np.float32(LEVELS)).round().clip(0, LEVELS).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))
