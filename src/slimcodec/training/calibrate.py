"""The tables of r, counted on pictures when a model is saved.

They say how often each integer comes at every scale, by how much decoded residuals are moved towards zero, and which
of the smallest scales are not coded at all. What errors cost encoders is stored beside them: other choices would not
fit what was counted.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from slimcodec.codec import entropy, rate
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.dependent import odd, start
from slimcodec.codec.network import HyperpriorCodec, round_z, to_planes
from slimcodec.codec.quantise import Quantiser
from slimcodec.codec.rate import SCALE_COUNT
from slimcodec.codec.rounding import ERROR_BITS_UNIT, OFFSET_UNIT, is_dependent

# What an error of one step costs, in bits. In theory 6 / ln 2 = 8.7, where rate and distortion balance at small steps;
# through g_s it is 9 to 11 for nearly every channel, at every quality. Choices and tables must be made for each other:
# where tables had been counted on choices at 30 bits, 18 was best and 15 worse, and gained a third of what 10 gains.
ERROR_BITS = 10.0
DEPENDENT_ERROR_BITS = 14.0  # with dependent quantisation
# Integers that are chosen by what they cost are not distributed as Gaussians are: there are more zeros.
GAUSSIAN_COUNT = 20  # residuals for each entry of a table: a scale that was seen less often keeps a Gaussian's table
PRIOR_COUNT = 50  # residuals: a scale that was seen less often keeps an offset near 0
# The middle of the residuals is the best for y; a little less was better for the picture (cid22-validation).
OFFSET_SHARE = 0.6
# What leaving out the smallest scales may add to the cost of any picture, as a share of it. Most pictures lose nearly
# nothing, but saturated colours have large residuals even where the scale is small.
SKIP_COST = 0.002
LARGEST = 1025  # larger magnitudes are counted with this one, which even the widest table codes as an escape
MOST_SKIPPED = 8  # a scale of 0.3, whatever the pictures say: they may all be flat


class Counts(NamedTuple):
    """What was found on the crops. T tables: 64, or 128 with dependent quantisation."""

    magnitudes: Tensor  # [T, LARGEST + 1]: residuals by table and |r|
    by_table: Tensor  # [crops and qualities, 4, T]: `CropCounts.by_table` of each


class CropCounts(NamedTuple):
    """What was found on one crop at one quality."""

    by_table: Tensor  # [4, T]: residuals r ≠ 0, the sum of their |r| - |exact|, and the cost of all: coded, left out
    cells: Tensor  # int64, one for each residual: where in `Counts.magnitudes` it is counted


@torch.no_grad()
def calibrated(codec: HyperpriorCodec, tables: dict[str, Tensor], crops: Tensor) -> dict[str, Tensor]:
    """The tables with r_frequencies, r_offsets and r_skip counted on crops [B, 3, H, W] at every rung of the ladder;
    of tables with a second quantiser its own as well.

    With them comes r_error_bits, by which the residuals that were counted had been chosen.
    """
    was_training = codec.training
    codec.eval()
    error_bits = DEPENDENT_ERROR_BITS if is_dependent(tables) else ERROR_BITS
    tables = tables | {"r_error_bits": torch.tensor([round(error_bits * ERROR_BITS_UNIT)], dtype=torch.int16)}
    # Counted twice: which integer is chosen depends on the tables. A quarter of the crops is enough for the first.
    magnitudes, _ = _count(codec, Quantiser(tables, crops.device), crops[::4])
    tables = tables | _frequencies(magnitudes)
    magnitudes, by_table = _count(codec, Quantiser(tables, crops.device), crops)
    codec.train(was_training)
    return tables | _frequencies(magnitudes) | _offsets(by_table) | {"r_skip": _skip(by_table)}


def _frequencies(magnitudes: Tensor) -> dict[str, Tensor]:
    """What was counted, as tables that `prior.export_tables` lays out; mostly a Gaussian where little was counted."""
    found = []
    for counted, gaussian in zip(magnitudes, rate.gaussian_pmfs() + rate.gaussian_pmfs(second=True), strict=False):
        radius = len(gaussian) // 2 - 1
        each_sign, escaped = counted[1 : radius + 1] / 2, counted[radius + 1 :].sum(0, keepdim=True)
        seen = torch.cat([each_sign.flip(0), counted[:1], each_sign, escaped])
        seen += GAUSSIAN_COUNT * len(gaussian) * gaussian
        found.append(entropy.quantise(seen.numpy()[None])[0].astype(np.uint16))
    return _by_quantiser("r_frequencies", [torch.from_numpy(np.concatenate(part)) for part in _parts(found)])


def _offsets(by_table: Tensor) -> dict[str, Tensor]:
    nonzero, excess, _, _ = by_table.sum(0)
    middle = 0.5 * (torch.arange(len(nonzero)) >= SCALE_COUNT)  # of the second quantiser's steps
    offsets = middle + OFFSET_SHARE * (excess - middle * nonzero) / (nonzero + PRIOR_COUNT)
    return _by_quantiser("r_offsets", _parts((offsets * OFFSET_UNIT).round().to(torch.int16)))


def _skip(by_table: Tensor) -> Tensor:
    _, _, cost, cost_of_zero = by_table.unflatten(2, (-1, SCALE_COUNT)).sum(2).unbind(1)
    too_much = (cost_of_zero - cost).cumsum(1) > SKIP_COST * cost.sum(1, keepdim=True)
    skip = (~too_much.any(0)).cumprod(0).sum().clamp_max(MOST_SKIPPED)
    return skip[None].to(torch.int32)


def _parts(of_tables: Any) -> list[Any]:
    """What the tables of each quantiser have."""
    return [of_tables[first : first + SCALE_COUNT] for first in range(0, len(of_tables), SCALE_COUNT)]


def _by_quantiser(name: str, found: list[Tensor]) -> dict[str, Tensor]:
    return dict(zip((name, odd(name)), found, strict=False))


def _count(codec: HyperpriorCodec, quantiser: Quantiser, crops: Tensor) -> Counts:
    qualities = [rung * QUALITY_ONE for rung in range(1, codec.architecture.rungs + 1)]
    magnitudes, by_table = torch.zeros(len(quantiser.offsets), LARGEST + 1, dtype=torch.float64), []
    for crop in crops:
        y = codec.g_a(crop[None])  # the same at every quality
        for quality in qualities:
            found = _counted(codec, quantiser, y, quality)
            by_table.append(found.by_table)
            magnitudes += found.cells.bincount(minlength=magnitudes.numel()).view_as(magnitudes)
    return Counts(magnitudes, torch.stack(by_table))


def _counted(codec: HyperpriorCodec, quantiser: Quantiser, y: Tensor, fixed_quality: int) -> CropCounts:
    shift = codec.gain_shift(torch.tensor([fixed_quality], device=y.device))
    gain = codec.gain(shift)
    z_hat = round_z(codec.h_a(y * gain[:, :, None, None]))
    index = rate.whole_index(codec.scale_index(z_hat, shift))
    planes, plane_gain, found = to_planes(y), gain[:, None, :, None, None], []
    features, paths = [codec.h_mean(z_hat)], start(z_hat.shape[2:])
    for stage, chosen in codec.stages():
        mu = codec.means(stage, features)
        exact = (planes[:, chosen] - mu) * plane_gain
        r, table = quantiser.coded(exact, index[:, chosen], paths)
        middle = 0.5 * r.sign() * (table >= SCALE_COUNT)  # of the second quantiser's steps
        features.append(codec.latent(mu + (r - middle) / plane_gain).flatten(1, 2))
        found.append((exact, r, table))
    exact, r, where = (torch.cat([parts[i].flatten() for parts in found]) for i in range(3))
    error = exact.abs() - r.abs() + 0.5 * (where >= SCALE_COUNT) * (r != 0)
    cost = quantiser.bits(r, where) + quantiser.error_bits * error**2
    figures = [r != 0, (r.abs() - exact.abs()) * (r != 0), cost, quantiser.error_bits * exact**2]
    counts = torch.zeros(4, len(quantiser.offsets), dtype=torch.float64)
    for row, figure in zip(counts, figures, strict=True):
        row.index_add_(0, where.cpu(), figure.cpu().double())
    cells = where * (LARGEST + 1) + r.abs().clamp_max(LARGEST).long()
    return CropCounts(counts, cells.cpu())
