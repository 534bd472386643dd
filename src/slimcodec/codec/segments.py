"""The segments of codec/regions in PyTorch, on cells [n, h, w, C]."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcodec.codec.layers import PackedSubPixelConv, SubPixelConv
from slimcodec.codec.network import Synthesis
from slimcodec.codec.regions import ENTER, FIRST, LAST, Segment

Cells = tuple[Tensor, Tensor | None]  # what the next layer sees, and what its block adds to
Convolve = Callable[[Tensor, Tensor, Tensor | None, int], Tensor]  # x, weight, bias, groups


def unpadded(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1) -> Tensor:
    """What a convolution gives where it sees x alone, of all that there is of it."""
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, groups=groups).permute(0, 2, 3, 1)


class RunSegment:
    """A segment of a specialist's g_s."""

    def __init__(self, g_s: Synthesis, segment: Segment, convolve: Convolve = unpadded):
        self.layers = [(g_s.get_submodule(layer.name.removesuffix(".conv")), layer.role) for layer in segment.layers]
        self.convolve = convolve

    def __call__(self, seen: Tensor, carried: Tensor | None) -> Cells:
        found, x = seen, carried
        for layer, role in self.layers:
            if role == FIRST and x is None:
                x = found
            found = self._layer(layer, found)
            if role == LAST:
                assert x is not None  # the block's first layer is in this segment, or x was handed on
                found, x = x + found, None
            elif role != ENTER:
                found = F.relu(found, inplace=not torch.is_grad_enabled())
        return found, x

    def _layer(self, layer: nn.Module, x: Tensor) -> Tensor:
        if isinstance(layer, SubPixelConv | PackedSubPixelConv):
            return layer.shuffled(self._layer(layer.conv, x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        assert isinstance(layer, nn.Conv2d)
        return self.convolve(x, layer.weight, layer.bias, layer.groups)
