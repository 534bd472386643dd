"""The trainable factorized prior of z, one set of channels per rung, and the integer tables it exports.

    P(z = k) = c(k + ½) - c(k - ½)      c: the cumulative distribution of each channel, a small network

z is rounded to whole numbers, not around a learned median, so there is no auxiliary loss that looks for one.
"""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcodec.codec import entropy, rate
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.layers import clamp_ste

Z_SYMBOLS = 256  # z_hat is in [-128, 127]
WIDTHS = (1, 3, 3, 3, 3, 1)  # of the network that is a channel's cumulative distribution
START_SCALE = 10.0  # about how wide the distributions are before training
TAIL_MASS = 1e-9


class Bottleneck(nn.Module):
    """The cumulative distribution of each of C channels (Ballé et al. 2018, appendix 6.1).

        c = sigmoid ∘ f_5 ∘ … ∘ f_1      f_k(x) = g_k(H_k·x + b_k)      g_k(x) = x + a_k · tanh(x), but g_5(x) = x

    H_k = softplus(matrices[k]) is positive and a_k = tanh(factors[k]) is above -1, so c grows with x.

    Names, initialisation and order of operations are those of CompressAI's EntropyBottleneck: models that were trained
    with it load, and training gives the same bits. Of its tensors, `quantiles` and the buffers are only stored.
    """

    def __init__(self, channels: int):
        super().__init__()
        layers = len(WIDTHS) - 1
        spread = START_SCALE ** (1 / layers)
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for width, next_width in pairwise(WIDTHS):
            entry = math.log(math.expm1(1 / spread / next_width))  # softplus of it is 1 / (spread · next_width)
            self.matrices.append(nn.Parameter(torch.full((channels, next_width, width), entry)))
            self.biases.append(nn.Parameter(torch.empty(channels, next_width, 1).uniform_(-0.5, 0.5)))
            if len(self.factors) < layers - 1:
                self.factors.append(nn.Parameter(torch.zeros(channels, next_width, 1)))
        self._store_what_is_not_used(channels)

    def _store_what_is_not_used(self, channels: int) -> None:
        quantiles = torch.tensor([-START_SCALE, 0, START_SCALE]).repeat(channels, 1, 1)
        self.quantiles = nn.Parameter(quantiles, requires_grad=False)
        tail = math.log(2 / TAIL_MASS - 1)
        self.register_buffer("target", torch.tensor([-tail, 0, tail]))
        for name in ("_offset", "_quantized_cdf", "_cdf_length"):
            self.register_buffer(name, torch.empty(0, dtype=torch.int32))
        self.likelihood_lower_bound = nn.Module()
        self.likelihood_lower_bound.register_buffer("bound", torch.tensor([1e-9]))

    def logits(self, x: Tensor) -> Tensor:
        """x [C, 1, n] → f_5(… f_1(x)), [C, 1, n]: the sigmoid of it is the cumulative distribution at x."""
        for k, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = torch.matmul(F.softplus(matrix), x) + bias
            if k < len(self.factors):
                x = x + torch.tanh(self.factors[k]) * torch.tanh(x)
        return x

    def likelihood(self, x: Tensor) -> Tensor:
        """x [C, 1, n] → the probability of the interval x ± ½, [C, 1, n]."""
        below, above = self.logits(x - 0.5), self.logits(x + 0.5)
        return torch.sigmoid(above) - torch.sigmoid(below)


class FactorizedPrior(nn.Module):
    """P(z) for N channels at each of Q rungs: channel n at rung q is channel q·N + n of the bottleneck."""

    def __init__(self, hypers: int, rungs: int):
        super().__init__()
        self.hypers, self.rungs = hypers, rungs
        self.bottleneck = Bottleneck(hypers * rungs)

    def bits(self, z: Tensor, quality: Tensor) -> Tensor:
        """z [B, N, h, w] (noisy or rounded), quality int64 [B] (8.8) → -log2 P of each element, [B, N, h, w]."""
        rung = nearest_rung(quality, self.rungs)
        # All rungs are evaluated and one is picked: z is small, and the sets stay in one batched product.
        columns = z.transpose(0, 1).flatten(1)[:, None].repeat(self.rungs, 1, 1)  # [Q·N, 1, B·h·w]
        by_rung = self.bottleneck.likelihood(columns).view(self.rungs, self.hypers, len(z), -1)
        chosen = by_rung[rung, :, torch.arange(len(z), device=z.device)]  # [B, N, h·w]
        return -torch.log2(clamp_ste(chosen, rate.LIKELIHOOD_MIN, 1.0)).view_as(z)

    def pmf(self) -> Tensor:
        """P(z = k) for k = -128…127, the outermost with the tails: [Q, N, 256]."""
        half = torch.arange(-Z_SYMBOLS // 2, Z_SYMBOLS // 2 - 1, device=self.bottleneck.quantiles.device) + 0.5
        logits = self.bottleneck.logits(half.expand(self.hypers * self.rungs, 1, -1))
        cdf = F.pad(F.pad(torch.sigmoid(logits[:, 0]), (1, 0)), (0, 1), value=1.0)
        return cdf.diff(dim=1).view(self.rungs, self.hypers, Z_SYMBOLS)


def nearest_rung(quality: Tensor, rungs: int) -> Tensor:
    """quality int64 (8.8 fixed point) → the index of the nearest rung, 0…Q-1."""
    return ((quality + QUALITY_ONE // 2) // QUALITY_ONE - 1).clamp(0, rungs - 1)


@torch.no_grad()
def export_tables(prior: FactorizedPrior) -> dict[str, Tensor]:
    """The integer tables that travel with a model: frequencies in 1/65536, each at least 1.

    z_frequencies  [Q, N, 256]
    r_frequencies  the tables of all 64 scales laid end to end, each for -R…R and the escape
    r_sizes        [64]: how long each of them is
    r_offsets      [64], and r_skip [1]: zeros, until `training/calibrate` counts them
    """
    pmf = prior.pmf().double().clamp_min(0).cpu().numpy()
    gaussian = [entropy.quantise(table.numpy()[None])[0] for table in rate.gaussian_pmfs()]
    frequencies = entropy.quantise(pmf.reshape(-1, Z_SYMBOLS)).astype(np.uint16)
    return {
        "z_frequencies": torch.from_numpy(frequencies).view(pmf.shape),
        "r_frequencies": torch.from_numpy(np.concatenate(gaussian).astype(np.uint16)),
        "r_sizes": torch.tensor([len(table) for table in gaussian], dtype=torch.int32),
        "r_offsets": torch.zeros(rate.SCALE_COUNT, dtype=torch.int16),
        "r_skip": torch.zeros(1, dtype=torch.int32),
    }
