"""The convolutions of a decoder in integers: of h_mean, the context's stages and g_s.

    out = clamp(round((Σ w·x + b) / 2^shift), low, high)        halves are rounded to even

w, x, b, shift and out are integers, and so is every sum: below 2^24, which a model that is saved is tested for. Float32
holds such sums in whatever order they come about, and dividing by a power of two loses nothing. So an ordinary
convolution of floats gives the one right result, with every library, on every processor. On other devices, where
algorithms with fractions and short floats are common, it is one of float64.

What an integer stands for is nobody's business but the next layer's: scales are in the weights (training/integers).
"""

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcodec.codec.layers import Prepared, SubPixelConv, clamp_ste, round_ste
from slimcodec.codec.units import LATENT_LIMIT

WEIGHT_LIMIT, WEIGHT_BITS = 2047, 11


class Range(NamedTuple):
    """The integers that something may be."""

    low: int
    high: int

    @property
    def largest(self) -> int:
        return max(-self.low, self.high)


HYPER = Range(-128, 127)  # z
HIDDEN = Range(0, 1023)  # behind a ReLU
MIXED = Range(-511, 511)  # a depthwise convolution's results in the context
LATENT = Range(-LATENT_LIMIT, LATENT_LIMIT)  # mu and y_hat
STREAM = Range(-2047, 2047)  # what the blocks of g_s add to; `Saturated` has narrower ones
LEVEL = Range(-128, 127)  # colours, less 128


class Saturated(nn.Module):
    """Integers → the same, clamped to ±limit of their channel."""

    limit: Tensor  # int16 [C]

    def __init__(self, channels: int, most: Range, device: torch.device):
        super().__init__()
        self.register_buffer("limit", torch.full((channels,), most.high, dtype=torch.int16, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """[..., C, h, w]"""
        limit = self.limit.to(x.dtype)[:, None, None]
        return clamp_ste(x, -limit, limit) if torch.is_grad_enabled() else x.clamp(-limit, limit)


class FixedConv2d(Prepared):
    """The layer above, trained by fake quantisation.

    weight  float masters: w = round(weight · 2^10), |w| at most WEIGHT_LIMIT
    bias    float masters: b = round(bias · 2^(shift + bits of `outputs`))
    free    the result is not clamped: it is added to something, or `Saturated`
    """

    shift: Tensor  # int8 [O]

    def __init__(self, conv: Any, inputs: "Range | Saturated", outputs: Range, *, free: bool = False):
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.padding, self.groups, self.out_channels = conv.padding, conv.groups, conv.out_channels
        self.inputs, self.outputs, self.free = (inputs,), outputs, free  # a module in a tuple is no part of this one
        self.register_buffer("shift", torch.zeros(self.out_channels, dtype=torch.int8, device=conv.weight.device))

    @property
    def unit(self) -> Tensor:
        """2^shift, float32 [O]. From shifted integers: a power of floats need not be exact."""
        return (1 << self.shift.int()).float()

    @property
    def bias_unit(self) -> Tensor:
        return self.unit * (1 << self.outputs.high.bit_length())

    def quantised(self) -> tuple[Tensor, Tensor]:
        """(w, b) as floats of integer value, differentiable by straight-through rounding."""
        weight = clamp_ste(round_ste(self.weight * (1 << WEIGHT_BITS)), -WEIGHT_LIMIT, WEIGHT_LIMIT)
        return weight, round_ste(self.bias * self.bias_unit)

    def scaled(self) -> tuple[Tensor, Tensor]:
        """(w, b) / 2^shift."""
        weight, bias = self.quantised()
        return weight / self.unit[:, None, None, None], bias / self.unit

    def forward(self, x: Tensor) -> Tensor:
        return _rounded(x, *self.scaled(), None if self.free else self.outputs, self.padding, self.groups)

    def pack(self) -> "PackedFixedConv2d":
        return PackedFixedConv2d(self)

    @torch.no_grad()
    def load_quantised(self, weight: Tensor, bias: Tensor, shift: Tensor) -> None:
        """Take int16 weight, int32 bias and the shifts."""
        self.shift.copy_(shift)
        self.weight.copy_(weight.float() / (1 << WEIGHT_BITS))
        self.bias.copy_(bias.float() / self.bias_unit)

    @torch.no_grad()
    def sum_bound(self) -> Tensor:
        """Σ|w|·max|x| + |b| of every output, float64 [O]."""
        weight, bias = self.quantised()
        return weight.abs().sum(dim=(2, 3), dtype=torch.float64) @ self.limits + bias.abs()

    @property
    def limits(self) -> Tensor:
        """max|x| of every input that an output has, float64 [C]."""
        (inputs,) = self.inputs
        if isinstance(inputs, Saturated):
            return inputs.limit.double()
        channels, device = self.weight.shape[1], self.weight.device
        return torch.full((channels,), inputs.largest, dtype=torch.float64, device=device)


class PackedFixedConv2d(nn.Module):
    """As `FixedConv2d`, with weights that are not made anew for every picture."""

    @torch.no_grad()
    def __init__(self, layer: FixedConv2d):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(values, requires_grad=False) for values in layer.scaled())
        self.padding, self.groups, self.out_channels = layer.padding, layer.groups, layer.out_channels
        self.outputs = None if layer.free else layer.outputs

    def forward(self, x: Tensor) -> Tensor:
        return _rounded(x, self.weight, self.bias, self.outputs, self.padding, self.groups)


def _rounded(x: Tensor, weight: Tensor, bias: Tensor, outputs: Range | None, padding: Any, groups: int) -> Tensor:
    wide = torch.float32 if x.device.type == "cpu" else torch.float64
    exact = torch.autocast(x.device.type, enabled=False) if torch.is_autocast_enabled(x.device.type) else nullcontext()
    with exact:
        out = F.conv2d(x.to(wide), weight.to(wide), bias.to(wide), padding=padding, groups=groups).float()
    out = round_ste(out) if torch.is_grad_enabled() else out.round_()
    if outputs is None:
        return out
    return clamp_ste(out, *outputs) if torch.is_grad_enabled() else out.clamp_(*outputs)


def fix(h_mean: Any, context: Any, g_s: Any, latents: Saturated) -> None:
    """Turn the convolutions of a decoder's networks into those of integers, in place."""
    h_mean[0] = FixedConv2d(h_mean[0], HYPER, HIDDEN)
    h_mean[2].conv = FixedConv2d(h_mean[2].conv, HIDDEN, HIDDEN)
    h_mean[4] = FixedConv2d(h_mean[4], HIDDEN, HIDDEN)
    for stage in context:
        *before, mix, _, last = range(len(stage))
        seen = LATENT  # or p, whose integers are smaller
        for number in before:
            stage[number], seen = FixedConv2d(stage[number], seen, MIXED), MIXED
        stage[mix] = FixedConv2d(stage[mix], seen, HIDDEN)
        stage[last] = FixedConv2d(stage[last], HIDDEN, LATENT)
    stream = latents
    for level in g_s.levels:
        stream = _fix_level(level, stream)
    g_s.head.conv = FixedConv2d(g_s.head.conv, stream, LEVEL)


def _fix_level(level: Any, inputs: Saturated) -> Saturated:
    """→ what clamps its result."""
    if isinstance(level.enter, SubPixelConv):
        level.enter.conv = FixedConv2d(level.enter.conv, inputs, STREAM, free=True)  # type: ignore[assignment]
        channels = level.enter.conv.out_channels // level.enter.ratio**2
    else:
        level.enter = FixedConv2d(level.enter, inputs, STREAM, free=True)
        channels = level.enter.out_channels
    device = inputs.limit.device
    level.entered = seen = Saturated(channels, STREAM, device)
    for block in level.blocks:
        *before, last = block.names
        inside: Range | Saturated = seen
        for name in before:
            block.add_module(name, FixedConv2d(block.get_submodule(name), inside, HIDDEN))
            inside = HIDDEN
        block.add_module(last, FixedConv2d(block.get_submodule(last), inside, STREAM, free=True))
        block.total = seen = Saturated(channels, STREAM, device)
    return seen
