"""What a decoder should know of its residuals, counted on pictures when a model is saved: offsets and what to skip."""

import torch
from torch import Tensor

from slimcodec.codec.network import QUALITY_ONE, HyperpriorCodec, round_z, to_planes
from slimcodec.codec.quantise import ERROR_BITS, OFFSET_UNIT, Quantiser
from slimcodec.codec.rate import SCALE_COUNT

PRIOR_COUNT = 50  # residuals: a scale that was seen less often keeps an offset near 0
# The middle of the residuals is the best for y; a little less was better for the picture (cid22-validation).
OFFSET_SHARE = 0.6
# What not coding the residuals of the smallest scales may cost on any of the pictures, of bits and errors together: on
# most pictures nearly nothing, but saturated colours have residuals that no scale foresees.
SKIP_COST = 0.002
MOST_SKIPPED = 8  # a scale of 0.3, whatever the pictures say: they may all be flat


@torch.no_grad()
def calibrated(codec: HyperpriorCodec, tables: dict[str, Tensor], crops: Tensor) -> dict[str, Tensor]:
    """The tables with r_offsets and r_skip counted on crops [B, 3, H, W] at every rung of the ladder."""
    was_training = codec.training
    codec.eval()
    quantiser = Quantiser(tables, crops.device)
    qualities = [rung * QUALITY_ONE for rung in range(1, codec.architecture.rungs + 1)]
    counts = torch.stack([_counted(codec, quantiser, crop[None], q) for crop in crops for q in qualities])
    codec.train(was_training)
    nonzero, excess, cost, cost_of_zero = counts.unbind(1)  # [pictures and qualities, 64] each
    offsets = OFFSET_SHARE * excess.sum(0) / (nonzero.sum(0) + PRIOR_COUNT)
    too_much = (cost_of_zero - cost).cumsum(1) > SKIP_COST * cost.sum(1, keepdim=True)
    skip = (~too_much.any(0)).cumprod(0).sum().clamp_max(MOST_SKIPPED)
    return tables | {
        "r_offsets": (offsets * OFFSET_UNIT).round().to(torch.int16),
        "r_skip": skip[None].to(torch.int32),
    }


def _counted(codec: HyperpriorCodec, quantiser: Quantiser, x: Tensor, fixed_quality: int) -> Tensor:
    """[4, 64], by scale: residuals that are not 0, the sum of |r| - |exact| of them, and the cost of all in bits, coded
    and left out."""
    shift = codec.gain_shift(torch.tensor([fixed_quality], device=x.device))
    gain = codec.gain(shift)
    y = codec.g_a(x)
    z_hat = round_z(codec.h_a(y * gain[:, :, None, None]))
    index = codec.scale_index(z_hat, shift).add(0.5).floor().clamp(0, SCALE_COUNT - 1).long()
    planes, found = to_planes(y), []

    def residual(chosen: list[int], mu: Tensor) -> Tensor:
        exact = (planes[:, chosen] - mu) * gain[:, None, :, None, None]
        r = quantiser.choose(exact, index[:, chosen])
        found.append((exact, r, index[:, chosen]))
        return r

    codec.decode_planes(z_hat, gain, residual)
    exact, r, where = (torch.cat([parts[i].flatten() for parts in found]) for i in range(3))
    cost = quantiser.bits(r, where) + ERROR_BITS * (exact - r) ** 2
    figures = [r != 0, (r.abs() - exact.abs()) * (r != 0), cost, ERROR_BITS * exact**2]
    counts = torch.zeros(4, SCALE_COUNT, dtype=torch.float64)
    for row, figure in zip(counts, figures, strict=True):
        row.index_add_(0, where.cpu(), figure.cpu().double())
    return counts
