"""The basis of a model's filters (codec/bilateral), learned from the filters that photos would have of their own.

A table is piecewise linear: a sum of clipped differences. Least squares gives every decoded photo its own. Their
principal components are the first basis. Then, in turn, every photo's coefficients are fitted to the basis, and the
basis to the coefficients.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from slimcodec.codec.bilateral import BASIS, GROUPS, PIXEL_UNIT, STEPS, TABLE_SHIFT, sums
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.costs import error_bits
from slimcodec.codec.grid import CELL, whole
from slimcodec.codec.models import Model
from slimcodec.codec.partition import GroupFit
from slimcodec.codec.units import LEVELS

KNOTS = 1, 2, 4, 8, 16, 32, 64, LEVELS  # where a difference is clipped
UNIT = 16  # a coefficient of this size is as large as those of the photos are
TURNS = 12
# Of the photos' mean: in a photo's own filter, in its coefficients, and in a basis.
OWN_RIDGE, RIDGE, SMALL = 0.05, 1e-3, 1e-6


class Examples(NamedTuple):
    """Photos at qualities, N in all, by the I clipped differences. What each gains is a share of its error."""

    inner: Tensor  # float64 [N, I, I]
    outer: Tensor  # float64 [N, I]

    @property
    def mean(self) -> Tensor:
        mean = self.inner.mean(0)
        return mean + SMALL * mean.diagonal().mean() * torch.eye(len(mean))


def learned(model: Model, photos: Iterable[np.ndarray], count: int) -> dict[str, Tensor]:
    """The tables of a model with corrections, and a basis of `count` filters for photos uint8 [H, W, 3]."""
    examples = gathered(model, photos)
    return model.tables | {BASIS: stored(examples, in_turns(examples, count))}


def clipped() -> np.ndarray:
    """The tables of clipped differences, int32 [I, GROUPS, STEPS], in units of PIXEL_UNIT << TABLE_SHIFT."""
    found = np.zeros((GROUPS, len(KNOTS), GROUPS, STEPS), np.int32)
    for number, knot in enumerate(KNOTS):
        found[range(GROUPS), number, range(GROUPS)] = np.minimum(np.arange(STEPS), knot)
    return found.reshape(-1, GROUPS, STEPS) * (PIXEL_UNIT << TABLE_SHIFT)


def gathered(model: Model, photos: Iterable[np.ndarray]) -> Examples:
    """Photos at every other rung, one photo at the odd ones, the next at the even ones."""
    transforms, ladder, tables = model.transforms(), model.codec.architecture.quality_ladder, clipped()
    assert transforms.corrections is not None
    inners, outers = [], []
    for number, pixels in enumerate(photos):
        y = transforms.analyse(pixels)
        for rung in range(1 + number % 2, len(ladder) + 1, 2):
            quality = rung * QUALITY_ONE
            symbols, y_hat = transforms.code(y, transforms.hyper_latents(y, quality), quality)
            cells = whole(symbols.z.shape[1:])
            fit = GroupFit(transforms.corrections, cells, CELL // transforms.corrections.ratio, keep=True)
            transforms.add_to_fit(fit, y_hat, cells, cells, pixels)
            for sample in fit.decoded(fit.best(quality, error_bits(ladder, quality))):
                error = float(np.square(sample.wanted.astype(np.float64) - sample.found).sum())
                if error:
                    inner, outer = (torch.from_numpy(found) / error for found in sums(sample, tables))
                    inners.append(inner)
                    outers.append(outer)
    return Examples(torch.stack(inners), torch.stack(outers))


def in_turns(examples: Examples, count: int) -> Tensor:
    """The basis [I, K] that leaves the smallest errors, in the order of what its members do."""
    inner, outer, mean = *examples, examples.mean
    root = torch.linalg.cholesky(mean)
    own = torch.linalg.solve(inner + OWN_RIDGE * mean, outer[..., None])[..., 0]
    _, _, directions = torch.linalg.svd(own @ root, full_matrices=False)
    basis = torch.linalg.solve(root.T, directions[:count].T)
    for _ in range(TURNS):
        c = coefficients(examples, basis)
        pairs = torch.einsum("nk,nl,nij->kilj", c, c, inner).reshape(2 * (basis.numel(),))
        ridge = SMALL * pairs.diagonal().mean() * torch.eye(len(pairs))
        basis = torch.linalg.solve(pairs + ridge, (c.T @ outer).flatten()).view(count, -1).T
    root = torch.linalg.cholesky(basis.T @ mean @ basis)
    basis = torch.linalg.solve_triangular(root, basis.T, upper=False).T  # of length 1 in the metric of the mean
    _, directions = torch.linalg.eigh(coefficients(examples, basis).T @ coefficients(examples, basis))
    return basis @ directions.flip(1)


def coefficients(examples: Examples, basis: Tensor) -> Tensor:
    """Every photo's own, [N, K]."""
    curvature = basis.T @ (examples.inner + RIDGE * examples.mean) @ basis
    return torch.linalg.solve(curvature, (examples.outer @ basis)[..., None])[..., 0]


def stored(examples: Examples, basis: Tensor) -> Tensor:
    """The basis [I, K] as a model has it, int16 [K, GROUPS, STEPS]: coefficients of UNIT are what photos have."""
    usual = coefficients(examples, basis).square().mean(0).sqrt()
    tables = torch.from_numpy(clipped()).double().flatten(1)
    found = (basis * usual / UNIT).T @ tables
    return found.round().clamp(-(2**15) + 1, 2**15 - 1).to(torch.int16).view(-1, GROUPS, STEPS)
