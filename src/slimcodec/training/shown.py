"""What files of pictures show, in training: x_hat with the corrections and the filter that an encoder would choose.

Networks that are trained so look at the errors that these leave. Without, half of what a short training gained was what
they would have mended anyway. They are found anew in every step, and have no gradient of their own. So what they mend
would hold g_s no more: training takes pictures that are half-way between what g_s makes and what is shown.
"""

import numpy as np
import torch
from torch import Tensor

from slimcodec.codec.adapt import BASIS
from slimcodec.codec.bilateral import NO_FILTER, filtered
from slimcodec.codec.costs import error_bits
from slimcodec.codec.grid import CELL, cells_of, whole
from slimcodec.codec.models import Model
from slimcodec.codec.network import Coded, HyperpriorCodec
from slimcodec.codec.partition import GroupFit
from slimcodec.codec.torch_networks import head_of
from slimcodec.codec.units import LEVELS, MID_GREY

IN_TRAINING = 0.5  # of the way: with all of it a training by SOAP at 4e-4 drifted away


def adapts(model: Model, codec: HyperpriorCodec) -> bool:
    """Whether files of the codec can be shown so: the model has corrections for its head, which is one, in floats."""
    if BASIS not in model.tables or codec.architecture.in_integers or codec.architecture.specialists > 1:
        return False
    weight = codec.g_s.head.conv.weight
    return model.tables[BASIS].shape[1:] == (len(weight), weight[0].numel() + 1)


class Shown:
    """By the corrections and filters of `model`, while `codec` is trained on."""

    def __init__(self, model: Model, codec: HyperpriorCodec):
        transforms = model.transforms()
        assert transforms.corrections is not None
        self.corrections, self.bilateral = transforms.corrections, transforms.bilateral
        self.codec, self.ladder = codec, codec.architecture.quality_ladder

    def __call__(self, coded: Coded, x: Tensor, quality: Tensor, share: float = 1.0) -> Tensor:
        """What is shown of pictures x [B, 3, H, W], sides multiples of 64; the gradient is that of x_hat.

        share: how far from x_hat, 0, to what is shown, 1.
        """
        self.corrections.fitted = head_of(self.codec)
        features, pixels = (tensor.detach().float().cpu().numpy() for tensor in (coded.features, x))
        shown = [self._of_one(*of_one) for of_one in zip(features, pixels, quality.tolist(), strict=True)]
        return coded.x_hat + share * (torch.from_numpy(np.stack(shown)).to(coded.x_hat) - coded.x_hat.detach())

    def _of_one(self, features: np.ndarray, pixels: np.ndarray, fixed_quality: int) -> np.ndarray:
        cells, blocks = cells_of(*pixels.shape[1:]), whole(features.shape[1:])
        fit = GroupFit(self.corrections, cells, CELL // self.corrections.ratio, keep=True)
        self.corrections.add(fit, features[None], blocks, blocks, pixels[None] - np.float32(MID_GREY))
        price = error_bits(self.ladder, fixed_quality)
        decoded = fit.decoded(fit.best(fixed_quality, price))
        (found,) = (np.ascontiguousarray(sample.found) for sample in decoded)
        filtering = self.bilateral.best(decoded, price, cells.shape) if self.bilateral else NO_FILTER
        if self.bilateral and filtering.size:
            found = filtered(found, self.bilateral.read(*filtering, cells.shape))
        return found.transpose(2, 0, 1).astype(np.float32) / LEVELS
