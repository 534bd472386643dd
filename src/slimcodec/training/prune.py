"""One structured pruning step: choose channels by importance per MAC/pixel saved, remove them, rebuild.

torch-pruning's dependency graph says which layers change together inside a part of the network. What crosses parts
(latent and hyper-latent channels: gains, prior sets, context planes) is listed here, and so are the layers new to it.
Every prunable width has a path, and `Architecture` and layers agree on them:

    g_a.1       trunk of the second level of g_a        h_mean.2     the third width of h_mean, P
    g_s.0.2     hidden width of the third block there   context.3    hidden width of the fourth context stage
    latent      M                                       hyper        N
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch_pruning
from torch import Tensor, nn

from slimcodec import InvalidInput
from slimcodec.codec.complexity import decoder_macs_per_pixel, encoder_macs_per_pixel
from slimcodec.codec.layers import IntegerConv2d, SubPixelConv
from slimcodec.codec.network import PLANES, Architecture, HyperpriorCodec, Level
from slimcodec.training.prior import FactorizedPrior

LOWEST_SHARE_OF_BUDGET = 0.93
LOWEST_SHARE_OF_WIDTH = 0.5  # in one round
COUNTS = {"decoder": decoder_macs_per_pixel, "encoder": encoder_macs_per_pixel}
# What each scope may prune. Latents cost on both sides; they belong to the decoder, whose context they fill.
PARTS = {"decoder": ("g_s", "h_mean", "context", "h_scale", "latent", "hyper"), "encoder": ("g_a", "h_a")}


# ------------------------------------------------------------------------------------------------------------- widths


def widths(architecture: Architecture) -> dict[str, int]:
    """Path → width, of everything that can be pruned."""
    found = {"latent": architecture.latents, "hyper": architecture.hypers}
    for part in ("g_a", "g_s"):
        for number, level in enumerate(getattr(architecture, part)):
            found[f"{part}.{number}"] = level.channels
            found |= {f"{part}.{number}.{block}": spec.hidden for block, spec in enumerate(level.blocks)}
    for part in ("h_a", "h_scale", "h_mean", "context"):
        found |= {f"{part}.{number}": width for number, width in enumerate(getattr(architecture, part))}
    return found


def resized(architecture: Architecture, new: dict[str, int]) -> Architecture:
    """The architecture with these widths (latent and hyper: the first so many channels)."""
    values = widths(architecture) | new

    def levels(part: str) -> tuple[Level, ...]:
        return tuple(
            dataclasses.replace(
                level,
                channels=values[f"{part}.{number}"],
                blocks=tuple(
                    dataclasses.replace(spec, hidden=values[f"{part}.{number}.{block}"])
                    for block, spec in enumerate(level.blocks)
                ),
            )
            for number, level in enumerate(getattr(architecture, part))
        )

    lists = {
        part: tuple(values[f"{part}.{number}"] for number in range(len(getattr(architecture, part))))
        for part in ("h_a", "h_scale", "h_mean", "context")
    }
    return dataclasses.replace(
        architecture,
        g_a=levels("g_a"),
        g_s=levels("g_s"),
        latent_channels=architecture.latent_channels[: values["latent"]],
        hyper_channels=architecture.hyper_channels[: values["hyper"]],
        **lists,
    )


def multiple(architecture: Architecture, path: str) -> int:
    """Widths are multiples of 8 at 1/16 and 1/8, which suits vector units, and of 4 elsewhere."""
    part, *place = path.split(".")
    at_eighth = part in ("g_a", "g_s") and getattr(architecture, part)[int(place[0])].scale in (8, 16)
    return 8 if at_eighth or part == "latent" else 4


# ------------------------------------------------------------------------------------------------------------- groups


class Member(NamedTuple):
    """A tensor dimension that changes with a group: row `rows[c]` of it belongs to the group's channel c."""

    layer: nn.Module
    outputs: bool  # the layer's output channels, else its input channels; always true for a depthwise convolution
    rows: Tensor  # int64 [C, k]: k rows a channel


class Group(NamedTuple):
    path: str
    members: list[Member]


def groups(codec: HyperpriorCodec, prior: FactorizedPrior, scope: str) -> list[Group]:
    """All groups of channels in a scope, `decoder` or `encoder`, with all their members."""
    parts = PARTS[scope]
    graphs = {part: _graph(codec, part) for part in ("g_a", "g_s", "h_a", "h_scale", "h_mean") if part in parts}
    # The context shares p with h_mean, so the two are one graph.
    graphs |= {"context": graphs["h_mean"]} if "h_mean" in graphs else {}
    found = [_traced_group(graphs[path.split(".")[0]], path, root) for path, root in _roots(codec, parts).items()]
    if "latent" in parts:
        found += [_latent_group(codec), _hyper_group(codec, prior)]
    return found


def _roots(codec: HyperpriorCodec, parts: Iterable[str]) -> dict[str, nn.Module]:
    """Path → the layer whose output channels are that width."""
    roots = {}
    for part in ("g_a", "g_s"):
        for number, level in enumerate(getattr(codec, part).levels):
            roots[f"{part}.{number}"] = level.enter
            roots |= {f"{part}.{number}.{block}": module.expand for block, module in enumerate(level.blocks)}
    roots |= {f"h_a.{number}": codec.h_a[2 * number] for number in range(2)}
    roots |= {f"h_scale.{number}": codec.h_scale.layers[number] for number in range(3)}
    roots |= {f"h_mean.{number}": codec.h_mean[2 * number] for number in range(3)}
    roots |= {f"context.{number}": c_k[-3] for number, c_k in enumerate(codec.context)}
    return {path: root for path, root in roots.items() if path.split(".")[0] in parts}


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
            outputs = _is_depthwise(layer) or graph.is_out_channel_pruning_fn(item.dep.handler)
            rows = torch.empty(channels, dtype=torch.int64)
            rows[torch.as_tensor(item.root_idxs)] = torch.as_tensor(item.idxs)
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
            members.append(Member(c_k[0], _is_depthwise(c_k[0]), rows))
        if known and _is_depthwise(c_k[0]):  # the 1×1 that follows sees the same planes
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
    """Drop rows of a parameter along a dimension. A new Parameter: old optimizers must not train the dead one."""
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
    """The prior's sets: every tensor of the bottleneck has a row for each rung and channel."""

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


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1


def _prune_member(member: Member, channels: list[int]) -> None:
    layer, rows = member.layer, member.rows[channels].flatten().tolist()
    if _is_depthwise(layer):
        torch_pruning.prune_depthwise_conv_out_channels(layer, rows)
        return
    pruner = PRUNERS[type(layer)]
    (pruner.prune_out_channels if member.outputs else pruner.prune_in_channels)(layer, rows)


# --------------------------------------------------------------------------------------------------------- importance


def _slices(member: Member, of: Callable[[nn.Parameter], Tensor]) -> Iterable[Tensor]:
    """For each parameter tensor of a member, `of` it as [C, elements]: what each channel owns."""
    layer, rows = member.layer, member.rows
    if isinstance(layer, FactorizedPrior | HyperpriorCodec):
        return  # a gain or a prior set is not lost work: it goes where the channel goes
    layer = layer.conv if isinstance(layer, SubPixelConv) else layer
    ratio = getattr(member.layer, "ratio", 1) if member.outputs else 1
    dimension = 0 if member.outputs else 1
    if isinstance(layer, nn.ConvTranspose2d):
        dimension = 1 - dimension
    weight = of(layer.weight).transpose(0, dimension)
    weight = weight.reshape(weight.shape[0] // ratio**2, -1)
    yield weight[rows.to(weight.device)].flatten(1)
    if member.outputs:
        bias = of(layer.bias).reshape(-1, ratio**2)
        yield bias[rows.to(bias.device)].flatten(1)


def magnitude(group: Group) -> Tensor:
    """Mean square of each channel's weights relative to its group's mean, [C]: no data needed."""
    total = sum(part.square().mean(dim=1) for member in group.members for part in _slices(member, lambda p: p.detach()))
    return total / total.mean()


def taylor(group: Group) -> Tensor:
    """First-order effect on the loss of removing each channel, [C]: Σ over members of |Σ w·∂L/∂w|.

    Molchanov et al., CVPR 2019, equation 8, without squaring. Needs gradients accumulated on the parameters.
    """

    def effect(parameter: nn.Parameter) -> Tensor:
        if parameter.grad is None:
            return torch.zeros_like(parameter)
        return (parameter * parameter.grad).detach()

    return sum(abs(sum(part.sum(dim=1) for part in _slices(member, effect))) for member in group.members)


IMPORTANCE = {"magnitude": magnitude, "taylor": taylor}


# -------------------------------------------------------------------------------------------------------- pruning step


class Move(NamedTuple):
    """A width that may be changed next, and what that would lead to; ordered by price."""

    importance_per_mac: float
    path: str
    width: int
    macs_per_pixel: float  # of the scope's side


def choose_widths(
    architecture: Architecture,
    importance: dict[str, Tensor],
    *,
    scope: str,
    budget: float,
    floors: dict[str, int],
    lowest_share: float = LOWEST_SHARE_OF_WIDTH,
) -> dict[str, int]:
    """The widths that fit the scope's MAC/pixel budget, losing the least importance per MAC.

    Chunks of 8 or 4 channels go one by one, always the one of least importance per MAC/pixel that its removal saves
    now; if every chunk would leave less than 93 % of the budget, the one that leaves most. Then chunks come back, the
    most important per MAC first, as long as they fit the budget. `floors` are absolute, by path or part; a step never
    takes more than 1 - `lowest_share` of a width. Raises InvalidInput when the budget cannot be reached.
    """
    count = COUNTS[scope]
    full = {path: len(scores) for path, scores in importance.items()}
    lowest = {path: max(_floor(path, floors), lowest_share * width) for path, width in full.items()}
    # lost[path][n]: the importance of the n least important channels
    lost = {path: [0.0, *scores.double().sort().values.cumsum(0).tolist()] for path, scores in importance.items()}
    current, macs = dict(full), count(architecture)

    def moves(down: bool) -> Iterator[Move]:
        for path, width in current.items():
            chunk = multiple(architecture, path)
            new = width - (width % chunk or chunk) if down else min(width + chunk, full[path])
            if new == width or new < max(1, lowest[path]):
                continue
            moved = count(resized(architecture, current | {path: new}))
            value = lost[path][full[path] - new] - lost[path][full[path] - width]
            yield Move(value / (macs - moved), path, new, moved)

    lowest_macs = LOWEST_SHARE_OF_BUDGET * budget
    while macs > budget:
        cut = min(moves(down=True), key=lambda move: (max(0, lowest_macs - move.macs_per_pixel), move), default=None)
        if cut is None:
            raise InvalidInput(
                f"prune: {scope} cannot go from {count(architecture):.0f} to {budget:.0f} MAC/pixel in one round above "
                "the floors; take smaller rounds (prune.shrink) or lower prune.floors"
            )
        current[cut.path], macs = cut.width, cut.macs_per_pixel
    while gift := max((move for move in moves(down=False) if move.macs_per_pixel <= budget), default=None):
        current[gift.path], macs = gift.width, gift.macs_per_pixel
    return current


def lowest_macs_per_pixel(
    architecture: Architecture,
    *,
    scope: str,
    floors: dict[str, int],
    pruned: Sequence[str] = (),
    lowest_share: float = 0.0,
) -> float:
    """The least MAC/pixel of the scope's side that pruning can come to above the floors, in any number of rounds.

    pruned        scopes that are pruned before, down to their own floors
    lowest_share  of each width that stays at least: with LOWEST_SHARE_OF_WIDTH, what one round can come to
    """
    parts = [part for each in (scope, *pruned) for part in PARTS[each]]
    lowest = {}
    for path, width in widths(architecture).items():
        if path.split(".")[0] in parts:
            chunk = multiple(architecture, path)
            least = max(1, _floor(path, floors), lowest_share * width)
            lowest[path] = min(width, chunk * math.ceil(least / chunk))  # as many whole chunks, or not pruned at all
    return COUNTS[scope](resized(architecture, lowest))


def _floor(path: str, floors: dict[str, int]) -> int:
    return floors.get(path, floors.get(path.split(".")[0], 8))


def prune(
    codec: HyperpriorCodec,
    prior: FactorizedPrior,
    *,
    scope: str,
    budget: float,
    importance: str,
    floors: dict[str, int],
) -> tuple[HyperpriorCodec, FactorizedPrior]:
    """Prune a copy to the budget (MAC/pixel of the scope's side) and rebuild it from its new architecture.

    For `taylor`, gradients must have been accumulated on the codec. The result's outputs are those of the pruned copy,
    bit for bit, and its parameters are new. Raises InvalidInput when the budget cannot be reached.
    """
    if importance not in IMPORTANCE or scope not in PARTS:
        raise InvalidInput(f"prune: importance is one of {sorted(IMPORTANCE)}, scope one of {sorted(PARTS)}")
    gradients = [parameter.grad for parameter in codec.parameters()]
    codec, prior = copy.deepcopy(codec), copy.deepcopy(prior)
    for parameter, gradient in zip(codec.parameters(), gradients, strict=True):
        parameter.requires_grad_(True).grad = gradient  # frozen layers would drop out of the dependency graph
    scores = {group.path: IMPORTANCE[importance](group) for group in groups(codec, prior, scope)}
    chosen = choose_widths(codec.architecture, scores, scope=scope, budget=budget, floors=floors)
    removed = {path: scores[path].argsort()[: len(scores[path]) - width].tolist() for path, width in chosen.items()}
    remove_channels(codec, prior, scope, removed)
    return rebuilt(codec, prior)


def remove_channels(codec: HyperpriorCodec, prior: FactorizedPrior, scope: str, removed: dict[str, list[int]]) -> None:
    """Remove channels in place, path → indices. All groups are found before the first is cut: rows refer to then."""
    doomed: dict[tuple[int, bool], tuple[nn.Module, bool, set[int]]] = {}
    for group in groups(codec, prior, scope):
        for member in group.members:
            key = id(member.layer), member.outputs
            rows = doomed.setdefault(key, (member.layer, member.outputs, set()))[2]
            rows.update(member.rows[removed.get(group.path, [])].flatten().tolist())
    for layer, outputs, rows in doomed.values():
        if rows:
            ordered = torch.tensor(sorted(rows))[:, None]
            _prune_member(Member(layer, outputs, ordered), list(range(len(rows))))
    latents, hypers = (
        tuple(channel for position, channel in enumerate(channels) if position not in set(removed.get(path, [])))
        for path, channels in (
            ("latent", codec.architecture.latent_channels),
            ("hyper", codec.architecture.hyper_channels),
        )
    )
    codec.architecture = dataclasses.replace(
        resized(codec.architecture, _layer_widths(codec)), latent_channels=latents, hyper_channels=hypers
    )
    prior.hypers = len(hypers)


def _layer_widths(codec: HyperpriorCodec) -> dict[str, int]:
    """Path → the width that the layers now have."""
    roots = _roots(codec, ("g_a", "g_s", "h_a", "h_scale", "h_mean", "context"))
    return {path: PRUNERS[type(root)].get_out_channels(root) for path, root in roots.items()}


def rebuilt(codec: HyperpriorCodec, prior: FactorizedPrior) -> tuple[HyperpriorCodec, FactorizedPrior]:
    """Fresh modules from the architecture, with the pruned weights loaded strictly."""
    fresh = HyperpriorCodec(codec.architecture).to(codec.log_gain.device)
    fresh.load_state_dict(codec.state_dict(), strict=True)
    fresh_prior = FactorizedPrior(prior.hypers, prior.rungs).to(codec.log_gain.device)
    fresh_prior.load_state_dict(prior.state_dict(), strict=True)
    return fresh.train(codec.training), fresh_prior.train(prior.training)
