"""Which channels of which layers belong together, and how they are removed.

torch-pruning's dependency graph says which layers change together inside a part of the network. Latent and hyper-latent
channels cross parts, with gains, sets of the prior and planes of the context: their groups are written out here. So are
the pruning functions of layers that torch-pruning does not know.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch_pruning
from torch import Tensor, nn

from slimcodec import InvalidInput
from slimcodec.codec.grid import PLANES
from slimcodec.codec.layers import IntegerConv2d, SubPixelConv, shuffled
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.training.prior import FactorizedPrior
from slimcodec.training.widths import PARTS


class Member(NamedTuple):
    """One side of a layer that changes with a group: its rows `rows[c]` belong to the group's channel c."""

    layer: nn.Module
    outputs: bool  # the layer's output channels, else its input channels; always true for a depthwise convolution
    rows: Tensor  # int64 [C, k]: k rows a channel


class Group(NamedTuple):
    path: str
    members: list[Member]


def groups(codec: HyperpriorCodec, prior: FactorizedPrior, scope: str) -> list[Group]:
    """All groups of channels in a scope, `decoder` or `encoder`, with all their members."""
    if scope == "decoder" and codec.architecture.upsampling == "modulated":
        raise InvalidInput("prune: what is modulated cannot be pruned; build its g_s at its size, and leave out prune")
    parts = PARTS[scope]
    graphs = {part: _graph(codec, part) for part in ("g_a", "g_s", "h_a", "h_scale", "h_mean") if part in parts}
    # The context shares p with h_mean, so the two are one graph.
    graphs |= {"context": graphs["h_mean"]} if "h_mean" in graphs else {}
    found = [_traced_group(graphs[path.split(".")[0]], path, root) for path, root in roots(codec, parts).items()]
    if "latent" in parts:
        found += [_latent_group(codec), _hyper_group(codec, prior)]
    return found


def roots(codec: HyperpriorCodec, parts: Iterable[str]) -> dict[str, nn.Module]:
    """Path → the layer whose output channels are that width."""
    found: dict[str, nn.Module] = {}
    for part in ("g_a", "g_s"):
        for number, level in enumerate(getattr(codec, part).levels):
            found[f"{part}.{number}"] = level.enter
            found |= {f"{part}.{number}.{block}": module.expand for block, module in enumerate(level.blocks)}
    found |= {f"h_a.{number}": codec.h_a[2 * number] for number in range(2)}
    found |= {f"h_scale.{number}": codec.h_scale.layers[number] for number in range(3)}
    found |= {f"h_mean.{number}": codec.h_mean[2 * number] for number in range(3)}
    found |= {f"context.{number}": c_k[-3] for number, c_k in enumerate(codec.context)}
    return {path: root for path, root in found.items() if path.split(".")[0] in parts}


class _HyperDecoder(nn.Module):
    """h_mean and the context stages, with planes of y_hat that are constants: what the dependency graph traces."""

    def __init__(self, codec: HyperpriorCodec):
        super().__init__()
        self.h_mean, self.context, self.architecture = codec.h_mean, codec.context, codec.architecture

    def forward(self, z_hat: Tensor) -> list[Tensor]:
        p = self.h_mean(z_hat)
        outputs = []
        for stage, c_k in enumerate(self.context):
            known = self.architecture.context_inputs(stage) - p.shape[1]
            planes = p.new_zeros(len(p), known, *p.shape[2:])
            outputs.append(c_k(torch.cat([p, planes], dim=1) if known else p))
        return outputs


def _graph(codec: HyperpriorCodec, part: str) -> torch_pruning.DependencyGraph:
    architecture = codec.architecture
    module = _HyperDecoder(codec) if part == "h_mean" else getattr(codec, part)
    channels, size = {
        "g_a": (3, 64),
        "g_s": (architecture.latents, 4),
        "h_a": (architecture.latents, 8),
        "h_scale": (architecture.hypers, 2),
        "h_mean": (architecture.hypers, 2),
    }[part]
    # Fresh containers: the library's defaults are shared between instances and mutated. It also calls eval().
    return torch_pruning.DependencyGraph().build_dependency(
        module,
        torch.rand(1, channels, size, size, device=codec.log_gain.device),
        customized_pruners={SubPixelConv: SubPixelPruner(), IntegerConv2d: IntegerPruner()},
        ignored_layers=[],
        unwrapped_parameters=[],
        verbose=False,
    )


def _traced_group(graph: torch_pruning.DependencyGraph, path: str, root: nn.Module) -> Group:
    channels = graph.get_out_channels(root)
    group = graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, list(range(channels)))
    members = []
    for item in group:
        layer = item.dep.target.module
        if isinstance(layer, PRUNABLE):
            outputs = is_depthwise(layer) or graph.is_out_channel_pruning_fn(item.dep.handler)
            rows = torch.empty(channels, dtype=torch.int64)
            rows[torch.as_tensor(item.root_idxs)] = torch.as_tensor(item.idxs)
            if root is not layer and is_grouped(layer) and is_grouped(root):  # the end of a shuffle block, from inside
                rows = shuffled(rows[None])[0]
            members.append(Member(layer, outputs, rows[:, None]))
    return Group(path, members)


def _latent_group(codec: HyperpriorCodec) -> Group:
    """M: the ends of g_a and h_scale, the beginnings of h_a and g_s, gains, and the planes in every context stage."""
    architecture = codec.architecture
    latents = architecture.latents
    channel = torch.arange(latents)[:, None]
    members = [
        Member(codec.g_a.head, True, channel),
        Member(codec.h_a[0], False, channel),
        Member(codec.h_scale.layers[-1], True, channel + latents * torch.arange(PLANES)),
        Member(codec.g_s.levels[0].enter, False, channel),
        Member(codec, True, channel),  # log_gain
    ]
    for stage, (planes, c_k) in enumerate(zip(architecture.stages, codec.context, strict=True)):
        known = (architecture.context_inputs(stage) - architecture.h_mean[2]) // latents
        rows = architecture.h_mean[2] + channel + latents * torch.arange(known)
        if known:
            members.append(Member(c_k[0], is_depthwise(c_k[0]), rows))
        if known and is_depthwise(c_k[0]):  # the 1×1 that follows sees the same planes
            members.append(Member(c_k[1], False, rows))
        members.append(Member(c_k[-1], True, channel + latents * torch.arange(len(planes))))
    return Group("latent", members)


def _hyper_group(codec: HyperpriorCodec, prior: FactorizedPrior) -> Group:
    """N: the end of h_a, the beginnings of h_scale and h_mean, and every rung's set of the prior."""
    channel = torch.arange(codec.architecture.hypers)[:, None]
    return Group(
        "hyper",
        [
            Member(codec.h_a[-1], True, channel),
            Member(codec.h_scale.layers[0], False, channel),
            Member(codec.h_mean[0], False, channel),
            Member(prior, True, channel + codec.architecture.hypers * torch.arange(prior.rungs)),
        ],
    )


# ---------------------------------------------------------------------------------------------------- pruning functions


def _remove(layer: nn.Module, name: str, dimension: int, rows: list[int]) -> None:
    """Drop rows of a parameter along a dimension. The rest is a new Parameter, which no old optimizer trains."""
    parameter = getattr(layer, name)
    keep = torch.ones(parameter.shape[dimension], dtype=torch.bool)
    keep[rows] = False
    kept = parameter.detach().index_select(dimension, keep.nonzero()[:, 0].to(parameter.device))
    setattr(layer, name, nn.Parameter(kept, requires_grad=parameter.requires_grad))


def _sub_pixel_rows(rows: list[int], ratio: int) -> list[int]:
    """The ratio² consecutive convolution outputs that a pixel shuffle turns into each channel."""
    return [row * ratio**2 + offset for row in rows for offset in range(ratio**2)]


class IntegerPruner(torch_pruning.BasePruningFunc):
    """IntegerConv2d, whose outputs may pass a pixel shuffle."""

    def prune_out_channels(self, layer: IntegerConv2d, idxs: list[int]) -> nn.Module:
        for name in ("weight", "bias"):
            _remove(layer, name, 0, _sub_pixel_rows(idxs, layer.ratio))
        return layer

    def prune_in_channels(self, layer: IntegerConv2d, idxs: list[int]) -> nn.Module:
        _remove(layer, "weight", 1, idxs)
        return layer

    def get_out_channels(self, layer: IntegerConv2d) -> int:
        return layer.weight.shape[0] // layer.ratio**2

    def get_in_channels(self, layer: IntegerConv2d) -> int:
        return layer.weight.shape[1]


class SubPixelPruner(torch_pruning.BasePruningFunc):
    """SubPixelConv: a channel is ratio² consecutive outputs of its convolution."""

    def prune_out_channels(self, layer: SubPixelConv, idxs: list[int]) -> nn.Module:
        torch_pruning.prune_conv_out_channels(layer.conv, _sub_pixel_rows(idxs, layer.ratio))
        return layer

    def prune_in_channels(self, layer: SubPixelConv, idxs: list[int]) -> nn.Module:
        torch_pruning.prune_conv_in_channels(layer.conv, idxs)
        return layer

    def get_out_channels(self, layer: SubPixelConv) -> int:
        return layer.conv.out_channels // layer.ratio**2

    def get_in_channels(self, layer: SubPixelConv) -> int:
        return layer.conv.in_channels


class GainPruner(torch_pruning.BasePruningFunc):
    """The codec's log_gain [Q, M]: a latent channel is a column."""

    def prune_out_channels(self, layer: HyperpriorCodec, idxs: list[int]) -> nn.Module:
        _remove(layer, "log_gain", 1, idxs)
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: HyperpriorCodec) -> int:
        return layer.log_gain.shape[1]

    get_in_channels = get_out_channels


class PriorPruner(torch_pruning.BasePruningFunc):
    """The prior's sets: every parameter of the bottleneck has a row for each rung and channel."""

    def prune_out_channels(self, layer: FactorizedPrior, idxs: list[int]) -> nn.Module:
        for name, _ in list(layer.bottleneck.named_parameters()):
            owner, _, last = name.rpartition(".")  # such as matrices.0, or quantiles of the bottleneck itself
            _remove(layer.bottleneck.get_submodule(owner), last, 0, idxs)
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: FactorizedPrior) -> int:
        return layer.hypers * layer.rungs

    get_in_channels = get_out_channels


PRUNERS = {
    IntegerConv2d: IntegerPruner(),
    SubPixelConv: SubPixelPruner(),
    HyperpriorCodec: GainPruner(),
    FactorizedPrior: PriorPruner(),
    nn.ConvTranspose2d: torch_pruning.pruner.function.ConvPruner(),
    nn.Conv2d: torch_pruning.pruner.function.ConvPruner(),
}
PRUNABLE = tuple(PRUNERS)


def is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels


def is_grouped(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups < layer.in_channels


def by_input(weight: Tensor, groups: int) -> Tensor:
    """The weight of a grouped convolution, [out, in/groups, …] → [groups, in/groups, out/groups, …]: a row an input."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2)


def _prune_grouped_inputs(layer: nn.Conv2d, rows: list[int]) -> None:
    """Every group must lose as many."""
    keep = torch.ones(layer.in_channels, dtype=torch.bool, device=layer.weight.device)
    keep[rows] = False
    kept = by_input(layer.weight.detach(), layer.groups).flatten(0, 1)[keep].unflatten(0, (layer.groups, -1))
    layer.weight = nn.Parameter(kept.transpose(1, 2).flatten(0, 1).contiguous(), layer.weight.requires_grad)
    layer.in_channels -= len(rows)


def prune_member(member: Member, channels: list[int]) -> None:
    layer, rows = member.layer, member.rows[channels].flatten().tolist()
    if is_depthwise(layer):
        torch_pruning.prune_depthwise_conv_out_channels(layer, rows)
        return
    if isinstance(layer, nn.Conv2d) and is_grouped(layer) and not member.outputs:
        _prune_grouped_inputs(layer, rows)
        return
    pruner = PRUNERS[type(layer)]
    (pruner.prune_out_channels if member.outputs else pruner.prune_in_channels)(layer, rows)
