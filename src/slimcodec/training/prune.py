"""One structured pruning step: choose channels by importance per MAC/pixel saved, remove them, rebuild."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from slimcodec import InvalidInput
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.layers import SubPixelConv
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.training.groups import PRUNERS, Group, Member, by_input, groups, is_grouped, prune_member, roots
from slimcodec.training.prior import FactorizedPrior
from slimcodec.training.widths import COUNTS, LOWEST_SHARE_OF_WIDTH, PARTS, equal_parts, floor, multiple, resized

LOWEST_SHARE_OF_BUDGET = 0.93  # a round uses at least so much of it

# --------------------------------------------------------------------------------------------------------- importance


def _slices(member: Member, of: Callable[[nn.Parameter], Tensor]) -> Iterable[Tensor]:
    """`of(parameter)` for each parameter of a member, as [C, elements]: a row is what belongs to one channel."""
    layer, rows = member.layer, member.rows
    if isinstance(layer, FactorizedPrior | HyperpriorCodec):
        return  # gains and sets of the prior do no work that would be lost with the channel
    layer = layer.conv if isinstance(layer, SubPixelConv) else layer
    ratio = getattr(member.layer, "ratio", 1) if member.outputs else 1
    dimension = 0 if member.outputs else 1
    if isinstance(layer, nn.ConvTranspose2d):
        dimension = 1 - dimension
    if isinstance(layer, nn.Conv2d) and is_grouped(layer) and not member.outputs:
        weight = by_input(of(layer.weight), layer.groups).flatten(0, 1)
    else:
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

    Chunks of 8 or 4 channels are removed one by one: always the one that loses the least importance for each MAC/pixel
    that it saves now. A chunk that would leave less than 93 % of the budget is removed only if all would, and then the
    one that leaves most. Afterwards chunks come back as long as they fit the budget, the most important per MAC first.
    Raises InvalidInput when the budget cannot be reached.

    floors        the least widths, by path or part
    lowest_share  of each width that is left at least
    """
    count = COUNTS[scope]
    full = {path: len(scores) for path, scores in importance.items()}
    lowest = {path: max(floor(path, floors), lowest_share * width) for path, width in full.items()}
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
            raise _out_of_reach(scope, count(architecture), budget)
        current[cut.path], macs = cut.width, cut.macs_per_pixel
    while gift := max((move for move in moves(down=False) if move.macs_per_pixel <= budget), default=None):
        current[gift.path], macs = gift.width, gift.macs_per_pixel
    return current


def order_of_removal(scores: Tensor, parts: int) -> Tensor:
    """The channels, the least important first; of each of the equal parts of a width one in turn."""
    by_part = scores.unflatten(0, (parts, -1))
    first = torch.arange(parts, device=scores.device) * by_part.shape[1]
    return (by_part.argsort(dim=1) + first[:, None]).t().flatten()


def evened(scores: Tensor, parts: int) -> Tensor:
    """Importance in the order of removal, where channels that go together share theirs."""
    return scores.unflatten(0, (-1, parts)).mean(dim=1).repeat_interleave(parts)


def _out_of_reach(scope: str, macs_per_pixel: float, budget: float) -> InvalidInput:
    return InvalidInput(
        f"prune: {scope} cannot go from {macs_per_pixel:.0f} to {budget:.0f} MAC/pixel in one round above the floors; "
        "take smaller rounds (prune.shrink) or lower prune.floors"
    )


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

    For `taylor`, gradients must have been accumulated on the codec. What is rebuilt gives the outputs of the pruned
    copy, bit for bit. Raises InvalidInput when the budget cannot be reached.
    """
    if importance not in IMPORTANCE or scope not in PARTS:
        raise InvalidInput(f"prune: importance is one of {sorted(IMPORTANCE)}, scope one of {sorted(PARTS)}")
    gradients = [parameter.grad for parameter in codec.parameters()]
    codec, prior = copy.deepcopy(codec), copy.deepcopy(prior)
    for parameter, gradient in zip(codec.parameters(), gradients, strict=True):
        parameter.requires_grad_(True).grad = gradient  # frozen layers would drop out of the dependency graph
    scores, order = {}, {}
    for group in groups(codec, prior, scope):
        found, parts = IMPORTANCE[importance](group), equal_parts(codec.architecture, group.path)
        order[group.path] = order_of_removal(found, parts)
        scores[group.path] = evened(found[order[group.path]], parts)
    chosen = choose_widths(codec.architecture, scores, scope=scope, budget=budget, floors=floors)
    removed = {path: order[path][: len(order[path]) - width].tolist() for path, width in chosen.items()}
    remove_channels(codec, prior, scope, removed)
    return rebuilt(codec, prior)


def remove_channels(codec: HyperpriorCodec, prior: FactorizedPrior, scope: str, removed: dict[str, list[int]]) -> None:
    """Remove channels in place: `removed` is path → indices.

    All rows are collected before the first layer is cut, because cutting renumbers them.
    """
    doomed: dict[tuple[int, bool], tuple[nn.Module, bool, set[int]]] = {}
    for group in groups(codec, prior, scope):
        for member in group.members:
            key = id(member.layer), member.outputs
            rows = doomed.setdefault(key, (member.layer, member.outputs, set()))[2]
            rows.update(member.rows[removed.get(group.path, [])].flatten().tolist())
    for layer, outputs, rows in doomed.values():
        if rows:
            ordered = torch.tensor(sorted(rows))[:, None]
            prune_member(Member(layer, outputs, ordered), list(range(len(rows))))
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
    parts = "g_a", "g_s", "h_a", "h_scale", "h_mean", "context"
    return {path: PRUNERS[type(root)].get_out_channels(root) for path, root in roots(codec, parts).items()}


def rebuilt(codec: HyperpriorCodec, prior: FactorizedPrior) -> tuple[HyperpriorCodec, FactorizedPrior]:
    """Fresh modules from the architecture, with the pruned weights loaded strictly."""
    fresh = HyperpriorCodec(codec.architecture).to(codec.log_gain.device)
    fresh.load_state_dict(codec.state_dict(), strict=True)
    fresh_prior = FactorizedPrior(prior.hypers, prior.rungs).to(codec.log_gain.device)
    fresh_prior.load_state_dict(prior.state_dict(), strict=True)
    return fresh.train(codec.training), fresh_prior.train(prior.training)
