"""The basis of a model's corrections (codec/adapt), learned from the corrections that photos would have of their own.

Least squares gives every photo its own best correction of g_s.head. Their principal components are the first basis.
Then, in turn, every photo's coefficients are fitted to the basis, and the basis to the coefficients.

A photo has several corrections, which its cells choose from (codec/partition). So with that basis photos are divided
as they are when they are encoded, and the basis is fitted once more, to what each part would have of its own.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from slimcodec.codec.adapt import BASIS, EXPONENT, SCALES, Corrections
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.costs import error_bits
from slimcodec.codec.grid import CELL, Window, whole
from slimcodec.codec.models import Model
from slimcodec.codec.partition import GroupFit
from slimcodec.codec.units import INDEX_STEP, LEVELS, SCALE_MIN

TURNS = 3
RIDGE = 0.02  # of the mean of all photos, in a photo's own sums: it has few blocks for so many numbers
COEFFICIENT_RIDGE = 0.005  # of a coefficient's own curvature: what is as good as nothing shall stay small


class Examples(NamedTuple):
    """Photos at qualities, or parts of them, N in all. What each gains counts as a share of its photo's error."""

    inner: Tensor  # float32 [N, I, I]: `Fit.inner` over the squared error
    outer: Tensor  # float32 [N, I, O]: `Fit.outer` over the squared error
    rung: Tensor  # int64 [N], from 0
    errors: Tensor  # float64 [N]: the photo's squared error a block

    @property
    def mean(self) -> Tensor:
        """Their features by features, a block of photos that are as good as each other, [I, I]."""
        return (self.inner.double() * self.errors[:, None, None]).mean(0)


def learned(model: Model, photos: Iterable[np.ndarray], again: Iterable[np.ndarray], count: int) -> dict[str, Tensor]:
    """The model's tables with a basis of `count` corrections, or of twice as many as photos [H, W, 3], uint8.

    again: the photos that are divided
    """
    first = gathered(_with_empty_basis(model), photos, _all)
    model = _with_basis(model, first, in_turns(first, first_basis(first, first.mean, count)))
    return learned_again(model, again)


def learned_again(model: Model, photos: Iterable[np.ndarray]) -> dict[str, Tensor]:
    """The model's tables with a basis for parts of photos, from the one that it has on."""
    examples, basis = gathered(model, photos, _parts), model.tables[BASIS].double().transpose(1, 2)
    return _with_basis(model, examples, in_turns(examples, basis)).tables


def _with_basis(model: Model, examples: Examples, basis: Tensor) -> Model:
    basis, in_integers = orthonormal(examples, basis, examples.mean), model.codec.architecture.in_integers
    more = stored(basis.transpose(1, 2), in_integers) | {SCALES: scales(model, examples, basis)}
    return model._replace(tables=model.tables | more)


def stored(basis: Tensor, in_integers: bool) -> dict[str, Tensor]:
    """A basis [K, O, I] for colours in [0, 1] as tables: as 16 bits hold it, or integers of a decoder of integers."""
    if not in_integers:
        return {BASIS: basis.half().float()}
    levels = basis * LEVELS
    exponent = torch.frexp(32767 / levels.abs().max().clamp_min(1e-9)).exponent - 1
    whole = (levels * 2.0 ** int(exponent)).round().to(torch.int16)
    return {BASIS: whole, EXPONENT: exponent.to(torch.int16)[None]}


class _KeptFit(GroupFit):
    """With the sums of every group."""

    def __init__(self, corrections: Corrections, grid: Window, cell: int):
        super().__init__(corrections, grid, cell)
        self.inner_of = np.zeros((*self.groups.shape, *self.inner.shape), np.float32)
        self.outer_of = np.zeros((*self.groups.shape, *self.outer.shape), np.float32)

    def keep(self, groups: Window, inner: np.ndarray, outer: np.ndarray) -> None:
        self.inner_of[groups.slices] += inner.reshape(*groups.shape, *inner.shape[1:])
        self.outer_of[groups.slices] += outer.reshape(*groups.shape, *outer.shape[1:])


Sums = tuple[np.ndarray, np.ndarray]  # features by features and by errors


def _all(fit: _KeptFit, fixed_quality: int, price: float) -> Iterator[Sums]:
    yield fit.inner, fit.outer


def _parts(fit: _KeptFit, fixed_quality: int, price: float) -> Iterator[Sums]:
    """Of the groups that share a correction."""
    corrected = fit.best(fixed_quality, price)
    if corrected is None or corrected.who is None:
        yield fit.inner, fit.outer
        return
    who = corrected.who[:: fit.side, :: fit.side]
    for number in range(len(corrected.corrections)):
        yield fit.inner_of[who == number].sum(axis=0), fit.outer_of[who == number].sum(axis=0)


def gathered(
    model: Model, photos: Iterable[np.ndarray], divided: Callable[[_KeptFit, int, float], Iterator[Sums]]
) -> Examples:
    """Photos at every fourth rung from the best one down, or the second best: one photo so, the next one otherwise."""
    transforms, found = model.transforms(), list[tuple[np.ndarray, np.ndarray, int, float]]()
    assert transforms.corrections is not None
    best, cell = model.codec.architecture.rungs, CELL // transforms.corrections.ratio
    for number, pixels in enumerate(photos):
        y = transforms.analyse(pixels)
        for rung in range(best - number % 2 * min(2, best - 1), 0, -4):
            quality = rung * QUALITY_ONE
            symbols, y_hat = transforms.code(y, transforms.hyper_latents(y, quality), quality)
            cells = whole(symbols.z.shape[1:])
            fit = _KeptFit(transforms.corrections, cells, cell)
            transforms.add_to_fit(fit, y_hat, cells, cells, pixels)
            price = error_bits(model.codec.architecture.quality_ladder, quality)
            for sums in divided(fit, quality, price):
                inner, outer = (each / fit.squared_error for each in sums)
                found.append((inner, outer, rung - 1, fit.squared_error / fit.inner[-1, -1]))
    inners, outers, rungs, errors = zip(*found, strict=True)
    inner, outer = (torch.from_numpy(np.stack(each)).float() for each in (inners, outers))
    return Examples(inner, outer, torch.tensor(rungs), torch.tensor(errors, dtype=torch.float64))


def first_basis(examples: Examples, mean: Tensor, count: int) -> Tensor:
    """The principal components of the photos' own corrections, float64 [K, I, O], of length 1 in the metric of `mean`.

    mean  [I, I], the photos' features by features, a block
    """
    root = torch.linalg.cholesky(_ridged(mean, 1e-6)).T
    rows = []
    for inner, outer, error in zip(examples.inner, examples.outer, examples.errors, strict=True):
        own = torch.linalg.solve(inner.double() + RIDGE * mean / error, outer.double())
        rows.append((root @ own).flatten().float() / error.sqrt())
    _, _, directions = torch.svd_lowrank(torch.stack(rows), q=min(count + 8, len(rows)), niter=4)
    return _unroot(root, directions[:, :count].T.double(), outer.shape)


def _unroot(root: Tensor, rows: Tensor, shape: torch.Size) -> Tensor:
    return torch.linalg.solve_triangular(root, rows.unflatten(1, shape), upper=True)


def in_turns(examples: Examples, basis: Tensor) -> Tensor:
    """The basis [K, I, O] that leaves the smallest errors, from a first one on."""
    count, inputs, outputs = basis.shape
    for _ in range(TURNS):
        c = coefficients(examples, basis).float()
        pairs = torch.einsum("nk,nl->nkl", c, c).flatten(1)
        inner = (pairs.T @ examples.inner.flatten(1)).view(count, count, inputs, inputs)
        outer = (c.T @ examples.outer.flatten(1)).view(count * inputs, outputs)
        inner = inner.transpose(1, 2).reshape(count * inputs, count * inputs).double()
        basis = torch.linalg.solve(_ridged(inner, 1e-4), outer.double()).view(basis.shape)
    return basis


def coefficients(examples: Examples, basis: Tensor) -> Tensor:
    """Every photo's own, as real numbers: float64 [N, K]."""
    flat, found = basis.float(), []
    for inner, outer in zip(examples.inner, examples.outer, strict=True):
        curvature = ((inner @ flat).flatten(1) @ flat.flatten(1).T).double()
        slope = (flat.flatten(1) @ outer.flatten()).double()
        found.append(torch.linalg.solve(_ridged(curvature, COEFFICIENT_RIDGE), slope))
    return torch.stack(found)


def orthonormal(examples: Examples, basis: Tensor, mean: Tensor) -> Tensor:
    """The same corrections by a basis of length 1 in the metric of `mean`, whose coefficients do not go together."""
    gram = torch.einsum("kio,ij,ljo->kl", basis, mean, basis)
    basis = torch.tensordot(torch.linalg.inv(torch.linalg.cholesky(gram)), basis, dims=1)
    c = coefficients(examples, basis) / examples.errors.sqrt()[:, None]
    _, directions = torch.linalg.eigh(c.T @ c)
    return torch.tensordot(directions.T.flip(0), basis, dims=1)


def scales(model: Model, examples: Examples, basis: Tensor) -> Tensor:
    """The scale index of every coefficient at every rung if the step were 1: int16 [Q, K].

    Rungs that no photo was coded at are between those around them.
    """
    size, rungs = coefficients(examples, basis).abs(), examples.rung
    known = rungs.unique()
    logs = torch.stack([size[rungs == rung].mean(0) for rung in known]).log().numpy()
    wanted = np.arange(model.codec.architecture.rungs)
    found = np.stack([np.interp(wanted, known.numpy(), column) for column in logs.T], axis=1)
    return torch.from_numpy(np.round((found - np.log(SCALE_MIN)) / INDEX_STEP)).to(torch.int16)


def _ridged(matrix: Tensor, share: float) -> Tensor:
    """With more on the diagonal: of each element's own, and of the mean, so that nothing is singular."""
    own = matrix.diagonal()
    return matrix + share * torch.diag(own + 1e-3 * own.mean())


def _with_empty_basis(model: Model) -> Model:
    """The model as one that is asked for its fits."""
    conv = model.codec.g_s.head.conv
    empty = torch.zeros(1, conv.out_channels, conv.weight[0].numel() + 1)
    tables = stored(empty, model.codec.architecture.in_integers) | {
        SCALES: torch.zeros(model.codec.architecture.rungs, 1, dtype=torch.int16),
    }
    return model._replace(tables=model.tables | tables)
