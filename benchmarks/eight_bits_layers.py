"""Layers of a decoder in 8 bits, for benchmarks/eight_bits_loss.py: from those of today's integers, and fitted to them.

Weights are int8 with a scale of their own for every output; hidden activations are uint8. What blocks add to keeps its
12 bits, and is rounded to a byte where a layer reads it. Layers that read it whole read two bytes, and run twice.
All sums are of integers; floats stand for them here.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.fixed import HIDDEN, MIXED, FixedConv2d, Range, Saturated
from slimcodec.codec.layers import Prepared, clamp_ste, round_ste
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.codec.quantise import Quantiser

GROUPS = "h_mean", "context", "enter 0", "blocks 0", "enter 1", "blocks 1", "head"
WHOLE = "context", "enter 0", "head"  # read two bytes
BYTE, UNSIGNED, LIMIT = Range(-128, 127), Range(0, 255), 127
# Of what a channel is clamped to today: bytes clamp what is rarer, and have finer steps. 0.4 and 0.8 lost more.
REACH = 0.6
HIDDEN_UNIT = REACH * 4  # what a byte counts in
FIT_QUALITIES, RIDGE = (3, 6, 8), 1e-4


class Choice(NamedTuple):
    """The groups of which something has 8 bits."""

    weights: Sequence[str] = ()
    hidden: Sequence[str] = ()
    read: Sequence[str] = ()


ALL = Choice(GROUPS, GROUPS, tuple(group for group in GROUPS if group not in WHOLE))


class Eight(Prepared):
    """A layer of integers with weights, inputs or results of 8 bits, trained by fake quantisation.

    reads    what its inputs count in, once they are bytes: of all, or [I]; rounds: it rounds them itself
    results  what its results count in
    """

    reads: Tensor  # float32 [I, 1, 1]
    scale: Tensor  # float32 [O]: weights and biases are whole numbers over it

    def __init__(
        self, layer: FixedConv2d, *, narrow: bool, reads: Tensor | float, rounds: bool, results: float, power: bool
    ):
        super().__init__()
        weight, bias = layer.scaled()
        self.register_buffer("reads", torch.as_tensor(reads, dtype=torch.float32).reshape(-1, 1, 1))
        weight, bias = weight.detach() * self.reads / results, bias.detach() / results
        self.padding, self.groups, self.out_channels = layer.padding, layer.groups, layer.out_channels
        self.rounds, self.free, self.narrow = rounds, layer.free, narrow
        self.outputs = None if layer.free else layer.outputs
        if results != 1:
            self.outputs = UNSIGNED if layer.outputs.low == 0 else BYTE
        scale = LIMIT / weight.abs().amax(dim=(1, 2, 3)).clamp_min(1e-9)
        if power:
            scale = 2.0 ** scale.log2().floor()
        self.register_buffer("scale", scale)
        # What is trained is about 1, so that a learning rate means the same to all layers.
        self.most = float(layer.outputs.high / results)
        self.weight = nn.Parameter(weight * self.unit)
        self.bias = nn.Parameter(bias / self.most)

    @property
    def unit(self) -> Tensor:
        return self.scale[:, None, None, None] / LIMIT

    @property
    def floats(self) -> tuple[Tensor, Tensor]:
        return self.weight / self.unit, self.bias * self.most

    def quantised(self) -> tuple[Tensor, Tensor]:
        """Whole numbers, differentiable by straight-through rounding."""
        weight = clamp_ste(round_ste(self.weight * LIMIT), -LIMIT, LIMIT)
        return weight, round_ste(self.bias * (self.most * self.scale))

    def scaled(self) -> tuple[Tensor, Tensor]:
        if not self.narrow:
            return self.floats
        weight, bias = self.quantised()
        return weight / self.scale[:, None, None, None], bias / self.scale

    def read(self, x: Tensor) -> Tensor:
        return clamp_ste(round_ste(x / self.reads), *BYTE) if self.rounds else x

    def forward(self, x: Tensor) -> Tensor:
        out = round_ste(F.conv2d(self.read(x), *self.scaled(), padding=self.padding, groups=self.groups))
        return out if self.outputs is None else clamp_ste(out, *self.outputs)

    def pack(self) -> nn.Module:
        return PackedEight(self)


class PackedEight(nn.Module):
    """The same for inference."""

    def __init__(self, layer: Eight):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(t.detach(), requires_grad=False) for t in layer.scaled())
        self.padding, self.groups, self.out_channels = layer.padding, layer.groups, layer.out_channels
        self.read, self.outputs = layer.read, layer.outputs

    def forward(self, x: Tensor) -> Tensor:
        out = F.conv2d(self.read(x), self.weight, self.bias, padding=self.padding, groups=self.groups).round()
        return out if self.outputs is None else out.clamp(*self.outputs)


def stream_unit(inputs: Saturated | Range) -> Tensor:
    limit = inputs.limit.float() if isinstance(inputs, Saturated) else torch.tensor(float(inputs.high))
    return limit * (REACH / LIMIT)


def group_of(name: str) -> str:
    if not name.startswith("g_s."):
        return name.partition(".")[0]
    if name.startswith("g_s.head"):
        return "head"
    _, _, level, part, *_ = name.split(".")
    return f"{part} {level}"


def in_eight_bits(codec: HyperpriorCodec, choice: Choice) -> HyperpriorCodec:
    """A copy of a codec whose decoder is in integers."""
    found = copy.deepcopy(codec)
    for name, layer in list(found.named_modules()):
        if not isinstance(layer, FixedConv2d):
            continue
        group, (inputs,) = group_of(name), layer.inputs
        of_hidden = inputs in (HIDDEN, MIXED) and group in choice.hidden
        rounds = inputs not in (HIDDEN, MIXED) and group in choice.read and not name.startswith("h_mean.0")
        # p, the last result of h_mean, is read whole.
        narrow_result = layer.outputs in (HIDDEN, MIXED) and group in choice.hidden and name != "h_mean.4"
        parent, _, last = name.rpartition(".")
        eight = Eight(
            layer,
            narrow=group in choice.weights,
            reads=stream_unit(inputs) if rounds else HIDDEN_UNIT if of_hidden else 1.0,
            rounds=rounds,
            results=HIDDEN_UNIT if narrow_result else 1.0,
            power=group == "head",
        )
        found.get_submodule(parent)._modules[last] = eight
    return found


# --- fitting without training ---------------------------------------------------------------------------------------


@torch.no_grad()
def fit(codec: HyperpriorCodec, exact: HyperpriorCodec, y_hat: Tensor) -> None:
    """The weights of g_s whose rounding is made up for by those not rounded yet (GPTQ, Frantar et al., 2023).

    Of 1×1 layers without a ReLU, one after the other: least squares to what today's decoder makes of y_hat
    [B, M, h, w].
    """
    for name, layer in codec.g_s.named_modules():
        if not isinstance(layer, Eight) or not (layer.free or name == "head.conv") or layer.weight.shape[-1] > 1:
            continue
        seen = seen_by(codec.g_s, name, y_hat)
        wanted = made_by(exact.g_s, name, y_hat)
        if name.endswith("project"):
            block = name.rpartition(".")[0]
            wanted = made_by(exact.g_s, block, y_hat) - seen_by(codec.g_s, block, y_hat)
        inputs = layer.read(seen).transpose(0, 1).flatten(1).double()
        fit_layer(layer, inputs, wanted.transpose(0, 1).flatten(1).double())


def seen_by(network: nn.Module, name: str, y_hat: Tensor) -> Tensor:
    found: list[Tensor] = []
    hook = network.get_submodule(name).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].clone()))
    network(y_hat)
    hook.remove()
    return found[0]


def made_by(network: nn.Module, name: str, y_hat: Tensor) -> Tensor:
    found: list[Tensor] = []
    hook = network.get_submodule(name).register_forward_hook(lambda _, __, output: found.append(output.clone()))
    network(y_hat)
    hook.remove()
    return found[0]


def fit_layer(layer: Eight, inputs: Tensor, wanted: Tensor) -> None:
    """inputs [I, n], wanted [O, n], float64"""
    inputs = torch.cat([inputs, torch.ones_like(inputs[:1])])
    inner, ridge = inputs @ inputs.T, torch.zeros(len(inputs), dtype=torch.float64)
    ridge[:-1] = RIDGE * inner.diagonal()[:-1].mean()
    weight, bias = layer.floats
    before = torch.cat([weight.flatten(1), bias[:, None]], dim=1).double()
    best = torch.linalg.solve(inner + torch.diag(ridge), (wanted @ inputs.T + before * ridge).T).T
    means = inner[:-1, -1] / inner[-1, -1]
    centred = inner[:-1, :-1] - inner[-1, -1] * torch.outer(means, means)
    scale = layer.scale.double()[:, None]
    weight = rounded(best[:, :-1] * scale, centred) / scale
    layer.bias.copy_((best[:, -1] + (best[:, :-1] - weight) @ means) / layer.most)
    layer.weight.copy_((weight.view_as(layer.weight) * layer.unit).float())


def rounded(weight: Tensor, inner: Tensor) -> Tensor:
    """Whole numbers near weight [O, I]; what rounding one adds to the error is taken off the ones after it."""
    order = inner.diagonal().argsort(descending=True)
    inner = inner[order][:, order] + RIDGE * inner.diagonal().mean() * torch.eye(len(inner), dtype=torch.float64)
    factor = torch.linalg.cholesky(torch.linalg.inv(inner), upper=True)
    left, found = weight[:, order].clone(), torch.empty_like(weight)
    for i, column in enumerate(order):
        found[:, column] = left[:, i].round().clamp(-LIMIT, LIMIT)
        error = (left[:, i] - found[:, column]) / factor[i, i]
        left[:, i + 1 :] -= error[:, None] * factor[i, i + 1 :]
    return found


@torch.no_grad()
def latents_to_fit(codec: HyperpriorCodec, y: Tensor, quantiser: Quantiser) -> Tensor:
    """y_hat of examples at several qualities."""
    found: list[Tensor] = []
    hook = codec.g_s.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].clone()))
    for quality in FIT_QUALITIES:
        for one in y:
            codec.coded(one[None], torch.tensor([quality * QUALITY_ONE]), quantiser.straight_through)
    hook.remove()
    return torch.cat(found)
