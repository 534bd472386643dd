"""Bits of the residual r: zero-mean Gaussians on a table of 64 scales.

r: integers; index: real (training) or integer (files) in [0, 63]; scale(index) runs from 0.11 to 256, log-spaced.
"""

import math

import torch
from torch import Tensor

from slimcodec.codec.layers import clamp_ste
from slimcodec.codec.units import INDEX_STEP, SCALE_COUNT, SCALE_MIN

LIKELIHOOD_MIN = 2.0**-16  # a file's tables give no symbol less; an escaped one costs 16 bits on top of the escape


def scale(index: Tensor) -> Tensor:
    """The standard deviation of r at a real or integer scale index, any shape."""
    index = index if index.is_floating_point() else index.float()
    return SCALE_MIN * torch.exp(INDEX_STEP * index)


def whole_index(index: Tensor) -> Tensor:
    """The nearest scale of the table, int64, as files count it: halves go up."""
    return (index + 0.5).floor().clamp(0, SCALE_COUNT - 1).long()


def gaussian_bits(r: Tensor, index: Tensor) -> Tensor:
    """-log2 P(r) under N(0, scale(index)²) integrated over r ± ½; r with noise or rounded, shapes equal."""
    sigma = scale(clamp_ste(index, 0, SCALE_COUNT - 1))
    magnitude = r.abs()
    likelihood = _normal_cdf((0.5 - magnitude) / sigma) - _normal_cdf((-0.5 - magnitude) / sigma)
    return -torch.log2(clamp_ste(likelihood, LIKELIHOOD_MIN, 1.0))


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-(2**-0.5) * x)


def gaussian_pmfs(*, second: bool = False) -> list[Tensor]:
    """For each of the 64 scales, float64 [2R + 2]: P(r) for r = -R…R, then the probability of everything beyond.

    R is 4.3 standard deviations, where two-sided tails of 2^-16 begin, or 4 on the wide scales: their tables are long.
    second: of the second quantiser of codec/dependent, whose values are half a step nearer to 0.
    """
    scales = scale(torch.arange(SCALE_COUNT, dtype=torch.float64, device="cpu"))
    return [_pmf(float(sigma), 0.5 if second else 0.0) for sigma in scales]


def _pmf(sigma: float, nearer: float) -> Tensor:
    radius = max(1, math.ceil(4.3 * sigma)) if sigma < 16 else math.ceil(4 * sigma)
    r = torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
    value = r - nearer * r.sign()
    middle = (value[1:] + value[:-1]) / 2
    ends = torch.tensor([value[-1] + 0.5], dtype=torch.float64, device="cpu")
    edges = torch.cat([-ends, middle, ends]) / sigma
    pmf = _normal_cdf(edges[1:]) - _normal_cdf(edges[:-1])
    return torch.cat([pmf, (1 - pmf.sum()).clamp_min(0).reshape(1)])
