"""Layers: blocks, up- and downsampling, and convolutions on integers.

Shapes are [B, C, H, W] throughout. Every block keeps H and W; only `downsample` and the two upsamplers change them.
"""

from copy import copy, deepcopy
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcodec.codec.blocks import GROUPS, KINDS, groups, is_grouped, widths

Kind = TypeVar("Kind", bound=nn.Module)
ACTIVATION_BITS = 4  # h_scale's activations, and its output in scale-index steps, come in units of 1/16

# Weights are float32 whatever PyTorch's default is at the moment.
conv2d = partial(nn.Conv2d, dtype=torch.float32)
conv_transpose2d = partial(nn.ConvTranspose2d, dtype=torch.float32)


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Floor(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.floor()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, low: float, high: float) -> Tensor:
        context.save_for_backward(x < low, x > high)
        return x.clamp(low, high)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        below, above = context.saved_tensors
        # Descent moves x against its gradient: outside the range only the step that points back inside may pass.
        blocked = (below & (gradient > 0)) | (above & (gradient < 0))
        return gradient.masked_fill(blocked, 0), None, None


def round_ste(x: Tensor) -> Tensor:
    """Round to nearest (ties to even); the gradient passes straight through."""
    return _Round.apply(x)


def floor_ste(x: Tensor) -> Tensor:
    """Round down; the gradient passes straight through."""
    return _Floor.apply(x)


def clamp_ste(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Clamp to [low, high]; outside, only gradients whose descent points back inside pass."""
    return _Clamp.apply(x, low, high)


def _relu(x: Tensor) -> Tensor:
    """In place where nothing is learned; the pruner's tracing needs it out of place."""
    return F.relu(x, inplace=not torch.is_grad_enabled())


class Prepared(nn.Module):
    """A layer that inference wants in another form."""

    def pack(self) -> nn.Module:
        """The same for inference: a new layer."""
        raise NotImplementedError


def shuffled(x: Tensor) -> Tensor:
    """Swap the middle quarters of the channels [B, C, …]: of each half, one quarter is then in each half.

    ShuffleNet's shuffle is this one, but for the order of channels inside a half. With this one it survives pruning.
    """
    return x.unflatten(1, (GROUPS, GROUPS, -1)).transpose(1, 2).flatten(1, 3)


class Block(nn.Module):
    """x + what a chain of convolutions makes of x; the kinds are in codec/blocks."""

    expand: nn.Conv2d
    project: nn.Conv2d

    def __init__(self, kind: str, channels: int, hidden: int):
        super().__init__()
        self.total: nn.Module = nn.Identity()  # of what is added
        self.names, self.is_grouped = [convolution.name for convolution in KINDS[kind]], is_grouped(kind)
        self.gates = {convolution.name for convolution in KINDS[kind] if convolution.gates}
        for convolution, inputs, outputs in widths(kind, channels, hidden):
            kernel, groups_ = convolution.kernel, groups(convolution, inputs)
            self.add_module(convolution.name, conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups_))

    def forward(self, x: Tensor) -> Tensor:
        *before, last = self.names
        found = x
        for name in before:
            convolved = self.get_submodule(name)(found)
            found = found * convolved.sigmoid() if name in self.gates else _relu(convolved)
        return self.total(x + self.get_submodule(last)(shuffled(found) if self.is_grouped else found))


class SubPixelConv(Prepared):
    """[B, in, H, W] → [B, out, ratio·H, ratio·W]: a convolution to out·ratio² channels, then a pixel shuffle.

    Output channel c comes from the ratio² consecutive channels c·ratio² … of `conv`, so those are pruned together.
    """

    def __init__(self, in_channels: int, out_channels: int, ratio: int, kernel: int):
        super().__init__()
        self.ratio = ratio
        self.conv = conv2d(in_channels, out_channels * ratio**2, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffled(self.conv(x))

    def shuffled(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, self.ratio)

    def pack(self) -> "PackedSubPixelConv":
        """The same for inference: a new layer."""
        return PackedSubPixelConv(self)


class PackedSubPixelConv(nn.Module):
    """As `SubPixelConv`, with the channels of `conv` in the order (row, column, c): see `_interleave`."""

    @torch.no_grad()
    def __init__(self, layer: SubPixelConv):
        super().__init__()
        self.ratio, self.conv = layer.ratio, deepcopy(packed(layer.conv))
        order = packed_order(self.conv.out_channels, self.ratio).to(self.conv.weight.device)
        for own, other in zip(self.conv.parameters(), packed(layer.conv).parameters(), strict=True):
            own.copy_(other[order])

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffled(self.conv(x))

    def shuffled(self, x: Tensor) -> Tensor:
        return _interleave(x, self.ratio)


def packed_order(channels: int, ratio: int) -> Tensor:
    """Which channel of `SubPixelConv.conv` is where once it is packed, int64."""
    grouped = torch.arange(channels, dtype=torch.int64, device="cpu").view(-1, ratio, ratio)
    return grouped.permute(1, 2, 0).flatten()


def _interleave(x: Tensor, ratio: int) -> Tensor:
    """A pixel shuffle, [B, ratio²·C, H, W] → [B, C, ratio·H, ratio·W], of channels in the order (row, column, c).

    In channels-last memory whole runs of ratio·C values move: four times as fast as in PyTorch's order.
    """
    batch, channels, height, width = x.shape
    runs = x.permute(0, 2, 3, 1).reshape(batch, height, width, ratio, channels // ratio)
    picture = runs.transpose(2, 3).reshape(batch, height * ratio, width * ratio, channels // ratio**2)
    return picture.permute(0, 3, 1, 2)


def downsample(in_channels: int, out_channels: int, ratio: int, kernel: int) -> nn.Conv2d:
    """A strided convolution. Its window is the patch of an output, or larger, and then around the first pixel of it."""
    return conv2d(in_channels, out_channels, kernel, stride=ratio, padding=0 if kernel == ratio else kernel // 2)


class Modulation(nn.Module):
    """[B, in, H, W] → [B, out, ratio·H, ratio·W]: every element says what becomes of a code of places, learned.

    gate · relu(scale · code + shift)       scale, shift, gate: [out] of an element;  code: [out] of a place in ratio²
    """

    def __init__(self, in_channels: int, out_channels: int, ratio: int):
        super().__init__()
        self.ratio = ratio
        self.conv = conv2d(in_channels, 3 * out_channels, 1)
        self.code = nn.Parameter(
            torch.randn(out_channels, ratio, ratio, dtype=torch.float32, device=self.conv.weight.device)
        )

    def forward(self, x: Tensor) -> Tensor:
        scale, shift, gate = (part[:, :, :, None, :, None] for part in self.conv(x).chunk(3, dim=1))
        found = gate * _relu(scale * self.code[:, None, :, None, :].to(x.dtype) + shift)
        return found.flatten(4, 5).flatten(2, 3)


def upsample(kind: str, in_channels: int, out_channels: int, ratio: int, kernel: int) -> nn.Module:
    """`subpixel`: SubPixelConv with that kernel; `transposed`: a transposed convolution of kernel 2·ratio; or
    `modulated`: Modulation."""
    if kind == "subpixel":
        return SubPixelConv(in_channels, out_channels, ratio, kernel)
    if kind == "modulated":
        return Modulation(in_channels, out_channels, ratio)
    return conv_transpose2d(in_channels, out_channels, 2 * ratio, stride=ratio, padding=ratio // 2)


class IntegerConv2d(Prepared):
    """A convolution whose result is the same integer on every device, trained by fake quantisation.

    weight  float master weights; the layer computes with the int8 round(weight · 2^e), |.| ≤ 127
    input   integers in units of 1/2^input_bits: z_hat (0 bits) or the activations of the layer before (4 bits)
    output  integers in units of 1/16: floor(accumulator / 2^shift), a uint8 after the ReLU, an int32 in the last layer;
            with ratio > 1 a pixel shuffle follows: [B, out, ratio·H, ratio·W]

    e is the largest exponent at which the largest weight still fits int8. All scales are powers of two, so rounding
    dequantised weights again gives the same function, and float64 holds every accumulator exactly.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, input_bits: int, ratio: int = 1, last: bool = False
    ):
        super().__init__()
        conv = conv2d(in_channels, out_channels * ratio**2, kernel)
        self.weight, self.bias = conv.parameters()
        self.input_bits, self.ratio, self.last = input_bits, ratio, last

    def quantised(self) -> tuple[Tensor, Tensor, Tensor]:
        """(weight, bias, exponent e) as floats of integer value, differentiable by straight-through rounding."""
        with torch.no_grad():
            # frexp gives floor(log2) exactly; e ≥ 4 keeps the first layer's shift from going negative.
            exponent = torch.frexp(127 / self.weight.abs().max().clamp_min(1e-9)).exponent - 1
            exponent = exponent.clamp(ACTIVATION_BITS, 12)
        # Powers of two come from shifted integers: torch.ldexp goes through pow, which need not be exact.
        weight = clamp_ste(round_ste(self.weight * (1 << exponent)), -127, 127)
        bias = clamp_ste(round_ste(self.bias * (1 << exponent + self.input_bits)), -(2**23), 2**23)
        return weight, bias, exponent

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, exponent = self.quantised()
        shift = exponent + self.input_bits - ACTIVATION_BITS
        accumulator = F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), padding=self.weight.shape[-1] // 2)
        if not self.training:
            # In float64 the sums are within 2^-20 of integers whatever algorithm the library picks.
            accumulator = accumulator.round()
        out = floor_ste(accumulator / (1 << shift))
        return F.pixel_shuffle(out if self.last else clamp_ste(out, 0, 255), self.ratio)

    def pack(self) -> "PackedIntegerConv2d":
        """The same for inference: a new layer."""
        return PackedIntegerConv2d(self)

    @torch.no_grad()
    def load_quantised(self, weight: Tensor, bias: Tensor, exponent: Tensor) -> None:
        """Take int8 weight, int32 bias and the exponent as `quantised` gave them."""
        self.weight.copy_(weight.float() / (1 << exponent))
        self.bias.copy_(bias.float() / (1 << exponent + self.input_bits))

    @torch.no_grad()
    def accumulator_bound(self) -> int:
        """Σ|w|·max|x| + |b|, the largest over the outputs: below 2³¹ the layer runs on 8-bit multipliers too."""
        weight, bias, _ = self.quantised()
        largest_input = 255 if self.input_bits else 128
        return int((weight.abs().sum(dim=(1, 2, 3), dtype=torch.float64) * largest_input + bias.abs()).max())


class PackedIntegerConv2d(nn.Module):
    """As `IntegerConv2d` in eval mode, in place, with integers that are not made anew for every picture."""

    weight: Tensor
    bias: Tensor

    @torch.no_grad()
    def __init__(self, layer: IntegerConv2d):
        super().__init__()
        weight, bias, exponent = layer.quantised()
        self.register_buffer("weight", weight.double())
        self.register_buffer("bias", bias.double())
        self.shift = int(exponent) + layer.input_bits - ACTIVATION_BITS
        self.ratio, self.last = layer.ratio, layer.last

    def forward(self, x: Tensor) -> Tensor:
        padding = self.weight.shape[-1] // 2
        out = F.conv2d(x, self.weight, self.bias, padding=padding).round_().div_(1 << self.shift).floor_()
        return F.pixel_shuffle(out if self.last else out.clamp_(0, 255), self.ratio)


def packed(module: Kind, kinds: type[Prepared] = Prepared) -> Kind:
    """A module for inference: what its layers would do anew for every picture is done once. The module stays as it is.

    Layers that have nothing to prepare are shared with it, and those of other kinds.
    """
    if isinstance(module, kinds):
        return module.pack()  # type: ignore[return-value]  # it does the same
    found = copy(module)
    found._modules = {name: child and packed(child, kinds) for name, child in module._modules.items()}
    return found
