"""The trainable factorized prior of z, one set of channels per rung, and the integer tables it exports.

CompressAI's EntropyBottleneck (Ballé et al. 2018, appendix 6.1) models the cumulative distribution; its quantiles stay
frozen with median 0, so there is neither an auxiliary loss nor an `update()`: the tables are the CDF at k ± ½.
"""

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor, nn

from slimcodec.codec import entropy, rate
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.layers import clamp_ste

Z_SYMBOLS = 256  # z_hat is in [-128, 127]


class FactorizedPrior(nn.Module):
    """P(z) for N channels at each of Q rungs: channel n at rung q is channel q·N + n of the bottleneck."""

    def __init__(self, hypers: int, rungs: int):
        super().__init__()
        self.hypers, self.rungs = hypers, rungs
        self.bottleneck = EntropyBottleneck(hypers * rungs)
        self.bottleneck.quantiles.requires_grad_(False)

    def bits(self, z: Tensor, quality: Tensor) -> Tensor:
        """z [B, N, h, w] (noisy or rounded), quality int64 [B] (8.8) → -log2 P of each element, [B, N, h, w]."""
        rung = nearest_rung(quality, self.rungs)
        # All rungs are evaluated and one is picked: z is small, and the sets stay in one batched product.
        columns = z.transpose(0, 1).flatten(1)[:, None].repeat(self.rungs, 1, 1)  # [Q·N, 1, B·h·w]
        likelihood, _, _ = self.bottleneck._likelihood(columns)
        by_rung = likelihood.view(self.rungs, self.hypers, len(z), -1)
        chosen = by_rung[rung, :, torch.arange(len(z), device=z.device)]  # [B, N, h·w]
        return -torch.log2(clamp_ste(chosen, rate.LIKELIHOOD_MIN, 1.0)).view_as(z)

    def pmf(self) -> Tensor:
        """P(z = k) for k = -128…127, the outermost with the tails: [Q, N, 256]."""
        half = torch.arange(-Z_SYMBOLS // 2, Z_SYMBOLS // 2 - 1, device=self.bottleneck.quantiles.device) + 0.5
        logits = self.bottleneck._logits_cumulative(half.expand(self.hypers * self.rungs, 1, -1), stop_gradient=False)
        cdf = nn.functional.pad(nn.functional.pad(torch.sigmoid(logits[:, 0]), (1, 0)), (0, 1), value=1.0)
        return cdf.diff(dim=1).view(self.rungs, self.hypers, Z_SYMBOLS)


def nearest_rung(quality: Tensor, rungs: int) -> Tensor:
    """quality int64 (8.8 fixed point) → the index of the nearest rung, 0…Q-1."""
    return ((quality + QUALITY_ONE // 2) // QUALITY_ONE - 1).clamp(0, rungs - 1)


@torch.no_grad()
def export_tables(prior: FactorizedPrior) -> dict[str, Tensor]:
    """The integer tables that travel with a model: z_frequencies [Q, N, 256], r_frequencies, r_sizes [64], and
    r_offsets [64] and r_skip [1], which say nothing yet (`training/calibrate` counts them).

    Frequencies are in 1/65536 and at least 1. r's tables are -R…R and the escape, laid end to end.
    """
    pmf = prior.pmf().double().clamp_min(0).cpu().numpy()
    gaussian = [entropy.quantise(table.numpy()[None])[0] for table in rate.gaussian_pmfs()]
    return {
        "z_frequencies": torch.from_numpy(entropy.quantise(pmf.reshape(-1, Z_SYMBOLS)).astype(np.uint16)).view(
            pmf.shape
        ),
        "r_frequencies": torch.from_numpy(np.concatenate(gaussian).astype(np.uint16)),
        "r_sizes": torch.tensor([len(table) for table in gaussian], dtype=torch.int32),
        "r_offsets": torch.zeros(rate.SCALE_COUNT, dtype=torch.int16),
        "r_skip": torch.zeros(1, dtype=torch.int32),
    }
