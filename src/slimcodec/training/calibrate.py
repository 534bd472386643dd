"""The tables of r, counted on pictures when a model is saved.

They say how often each integer comes at every scale, by how much decoded residuals are moved towards zero, and which
of the smallest scales are not coded at all. What errors cost encoders is stored beside them: other choices would not
fit what was counted.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from slimcodec.codec import entropy, rate
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.network import HyperpriorCodec, round_z, to_planes
from slimcodec.codec.quantise import Quantiser
from slimcodec.codec.rate import SCALE_COUNT
from slimcodec.codec.rounding import ERROR_BITS_UNIT, OFFSET_UNIT

# What an error of one step costs, in bits. In theory 6 / ln 2 = 8.7, where rate and distortion balance at small steps;
# through g_s it is 9 to 11 for nearly every channel, at every quality. Choices and tables must be made for each other:
# where tables had been counted on choices at 30 bits, 18 was best and 15 worse, and gained a third of what 10 gains.
ERROR_BITS = 10.0
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
    """What was found on the crops."""

    magnitudes: Tensor  # [64, LARGEST + 1]: residuals by scale and |r|
    by_scale: Tensor  # [crops and qualities, 4, 64]: `CropCounts.by_scale` of each


class CropCounts(NamedTuple):
    """What was found on one crop at one quality."""

    by_scale: Tensor  # [4, 64]: residuals r ≠ 0, the sum of their |r| - |exact|, and the cost of all: coded, left out
    cells: Tensor  # int64, one for each residual: where in `Counts.magnitudes` it is counted


@torch.no_grad()
def calibrated(codec: HyperpriorCodec, tables: dict[str, Tensor], crops: Tensor) -> dict[str, Tensor]:
    """The tables with r_frequencies, r_offsets and r_skip counted on crops [B, 3, H, W] at every rung of the ladder.

    With them comes r_error_bits, by which the residuals that were counted had been chosen.
    """
    was_training = codec.training
    codec.eval()
    tables = tables | {"r_error_bits": torch.tensor([round(ERROR_BITS * ERROR_BITS_UNIT)], dtype=torch.int16)}
    # Counted twice: which integer is chosen depends on the tables. A quarter of the crops is enough for the first.
    magnitudes, _ = _count(codec, Quantiser(tables, crops.device), crops[::4])
    tables = tables | {"r_frequencies": _frequencies(magnitudes)}
    magnitudes, by_scale = _count(codec, Quantiser(tables, crops.device), crops)
    codec.train(was_training)
    nonzero, excess, cost, cost_of_zero = by_scale.unbind(1)
    offsets = OFFSET_SHARE * excess.sum(0) / (nonzero.sum(0) + PRIOR_COUNT)
    too_much = (cost_of_zero - cost).cumsum(1) > SKIP_COST * cost.sum(1, keepdim=True)
    skip = (~too_much.any(0)).cumprod(0).sum().clamp_max(MOST_SKIPPED)
    return tables | {
        "r_frequencies": _frequencies(magnitudes),
        "r_offsets": (offsets * OFFSET_UNIT).round().to(torch.int16),
        "r_skip": skip[None].to(torch.int32),
    }


def _frequencies(magnitudes: Tensor) -> Tensor:
    """What was counted, as tables that `prior.export_tables` lays out; mostly a Gaussian where little was counted."""
    found = []
    for counted, gaussian in zip(magnitudes, rate.gaussian_pmfs(), strict=True):
        radius = len(gaussian) // 2 - 1
        each_sign, escaped = counted[1 : radius + 1] / 2, counted[radius + 1 :].sum(0, keepdim=True)
        seen = torch.cat([each_sign.flip(0), counted[:1], each_sign, escaped])
        seen += GAUSSIAN_COUNT * len(gaussian) * gaussian
        found.append(entropy.quantise(seen.numpy()[None])[0])
    return torch.from_numpy(np.concatenate(found).astype(np.uint16))


def _count(codec: HyperpriorCodec, quantiser: Quantiser, crops: Tensor) -> Counts:
    qualities = [rung * QUALITY_ONE for rung in range(1, codec.architecture.rungs + 1)]
    magnitudes, by_scale = torch.zeros(SCALE_COUNT, LARGEST + 1, dtype=torch.float64), []
    for crop in crops:
        y = codec.g_a(crop[None])  # the same at every quality
        for quality in qualities:
            found = _counted(codec, quantiser, y, quality)
            by_scale.append(found.by_scale)
            magnitudes += found.cells.bincount(minlength=magnitudes.numel()).view_as(magnitudes)
    return Counts(magnitudes, torch.stack(by_scale))


def _counted(codec: HyperpriorCodec, quantiser: Quantiser, y: Tensor, fixed_quality: int) -> CropCounts:
    shift = codec.gain_shift(torch.tensor([fixed_quality], device=y.device))
    gain = codec.gain(shift)
    z_hat = round_z(codec.h_a(y * gain[:, :, None, None]))
    index = rate.whole_index(codec.scale_index(z_hat, shift))
    planes, plane_gain, found = to_planes(y), gain[:, None, :, None, None], []
    features = [codec.h_mean(z_hat)]
    for stage, chosen in codec.stages():
        mu = codec.means(stage, features)
        exact = (planes[:, chosen] - mu) * plane_gain
        r = quantiser.choose(exact, index[:, chosen])
        features.append(codec.latent(mu + r / plane_gain).flatten(1, 2))
        found.append((exact, r, index[:, chosen]))
    exact, r, where = (torch.cat([parts[i].flatten() for parts in found]) for i in range(3))
    cost = quantiser.bits(r, where) + ERROR_BITS * (exact - r) ** 2
    figures = [r != 0, (r.abs() - exact.abs()) * (r != 0), cost, ERROR_BITS * exact**2]
    counts = torch.zeros(4, SCALE_COUNT, dtype=torch.float64)
    for row, figure in zip(counts, figures, strict=True):
        row.index_add_(0, where.cpu(), figure.cpu().double())
    cells = where * (LARGEST + 1) + r.abs().clamp_max(LARGEST).long()
    return CropCounts(counts, cells.cpu())
