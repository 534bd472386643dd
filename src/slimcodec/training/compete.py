"""Specialists that compete for the cells of pictures: each is trained on what it codes best.

                ┌─► specialist 1 alone ─► costs of cells ┐
 x ─► trunk ────┼─► …                                    ├─► map: a specialist for each cell, equal shares
        │       └─► specialist K alone ─► costs of cells ┘                    │
        └───────► every cell by its specialist, among the others' ◄───────────┘ ─► loss

A specialist's own are the last layer of g_a and all of g_s. The trunk, which is g_a without its last layer, and the
entropy model are one for all. So a decoder knows what a file holds before it knows the map, and each of its layers has
at every position the weights of that position's specialist.

The idea is *Spatial Competition*'s (arXiv 2605.13243). Equal shares leave no specialist without cells.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcodec import InvalidInput
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.grid import CELL
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.codec.rate import gaussian_bits
from slimcodec.training.fast import Drawn
from slimcodec.training.prior import FactorizedPrior
from slimcodec.training.teach import CodedBatch, Teach

BALANCING_TURNS = 20
SHARPNESS = 50.0  # of relative costs: 2 % more make a specialist e times less likely
SHARED = ("log_gain", "g_a.levels", "h_a", "h_scale", "h_mean", "context")

Kind = TypeVar("Kind", bound=nn.Module)


class Compete(Teach):
    """Trains specialists: codecs of one architecture, and one prior. With one it is `Teach`, number for number.

    The codecs are given the first one's trunk and entropy model.
    """

    def __init__(self, codecs: Sequence[HyperpriorCodec], prior: FactorizedPrior, **training: Any):
        super().__init__(codecs[0], prior, **training)
        for step in (0, self.schedule.steps):
            cells = self.schedule.batch_at(step) * (self.schedule.crop_at(step) // CELL) ** 2
            if cells % len(codecs):
                raise InvalidInput(f"training.batch: its {cells} cells must be a multiple of {len(codecs)} specialists")
        for other in codecs[1:]:
            for part in SHARED:
                _take(part, other, codecs[0])
        self.codecs = nn.ModuleList(codecs)
        self.places = Places()
        self._mixed = (mixed(list(codecs), self.places),)  # in a tuple: it has no weights of its own

    @property
    def mixed(self) -> HyperpriorCodec:
        """The codec that codes each cell by the specialist that `places` says."""
        return self._mixed[0]

    def coded_of(self, drawn: Drawn, noise: torch.Generator) -> CodedBatch:
        x, quality = self.pictures(drawn), drawn.quality
        features = self.codec.g_a.features(x)
        if len(self.codecs) > 1:
            self.places.map = shared_out(self.costs(x, quality, features))
        coded = self.mixed.coded(self.mixed.g_a.head(features).float(), quality, self.quantise)
        with torch.autocast(x.device.type, enabled=False):
            measured = self.rate_distortion(x, quality, coded, *self.noise(coded, noise))
        return CodedBatch(x, quality, coded, measured)

    @torch.no_grad()
    def costs(self, x: Tensor, quality: Tensor, features: Tensor) -> Tensor:
        """What each cell costs where all are one specialist's: bits + lmbda · 255² · error, [K, B, rows, columns]."""
        lmbda = self.lmbda[quality // QUALITY_ONE - 1, None, None]
        found = (self.cells(codec, x, quality, features) for codec in self.codecs)
        return torch.stack([bits + lmbda * 255**2 * error / 3 for bits, error in found])

    def cells(self, codec: Any, x: Tensor, quality: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Of each cell, with whole symbols: bits, and the squared error over colours and pixels, [B, rows, columns]."""
        coded = codec.coded(codec.g_a.head(features).float(), quality, self.quantise)
        with torch.autocast(x.device.type, enabled=False):
            r = gaussian_bits(self.integers(coded).float(), coded.index.float()).sum(dim=(1, 2))
            z = self.prior.bits(coded.z.float().round(), quality).sum(dim=1)
            error = (coded.x_hat.float().clamp(0, 1) - x).square().sum(dim=1)
        return _summed(r, 2) + z, _summed(error, CELL)


class Places:
    """Which specialist each cell of the pictures at hand belongs to."""

    map: Tensor  # int64 [B, rows, columns]

    def at(self, height: int, width: int) -> Tensor:
        """The map on a finer grid: [B, 1, height, width]."""
        return F.interpolate(self.map[:, None].float(), size=(height, width), mode="nearest")


class Choice(nn.Module):
    """A layer that has the weights of its own specialist at every position of its result."""

    def __init__(self, layers: Sequence[nn.Conv2d], places: Places):
        super().__init__()
        self.layers, self.places = nn.ModuleList(layers), places

    @property
    def weight(self) -> Tensor:
        return self.layers[0].weight

    def forward(self, x: Tensor) -> Tensor:
        found, *others = [layer(x) for layer in self.layers]
        place = self.places.at(*found.shape[2:])
        for number, other in enumerate(others, start=1):
            found = torch.where(place == number, other, found)
        return found


def mixed(modules: Sequence[Kind], places: Places) -> Kind:
    """One module of several that are alike: where they have different convolutions, it has a `Choice`."""
    first = modules[0]
    if all(module is first for module in modules):
        return first
    if isinstance(first, nn.Conv2d):
        return Choice(modules, places)  # type: ignore[arg-type,return-value]  # it does the same
    found = copy(first)
    found._modules = {
        name: mixed([module.get_submodule(name) for module in modules], places) for name, _ in first.named_children()
    }
    return found


def _take(part: str, module: nn.Module, other: nn.Module) -> None:
    """Give a module the other's part, which both then have."""
    holder, _, name = part.rpartition(".")
    setattr(module.get_submodule(holder), name, getattr(other.get_submodule(holder), name))


def _summed(values: Tensor, side: int) -> Tensor:
    return F.avg_pool2d(values, side) * side**2


@torch.no_grad()
def shared_out(costs: Tensor) -> Tensor:
    """Who trains on what: costs of cells [K, B, rows, columns] → specialists, int64 [B, rows, columns].

    A cell counts by its share of its picture's cost.
    """
    relative = costs / costs.mean(dim=(0, 2, 3), keepdim=True)
    return shares(relative.flatten(1).T).view(costs.shape[1:])


@torch.no_grad()
def shares(costs: Tensor) -> Tensor:
    """Costs [N, K] → a specialist for each row, int64 [N], as many rows for each.

    The costs together are about the least that equal shares allow. First the scores are balanced, until rows and
    columns of their exponentials have equal sums (Sinkhorn); then each specialist in turn takes those that it is best
    for in comparison with those who have not chosen yet.
    """
    rows, count = costs.shape
    scores = -SHARPNESS * (costs - costs.mean(dim=1, keepdim=True))
    for _ in range(BALANCING_TURNS):
        scores = scores - scores.logsumexp(dim=0, keepdim=True)
        scores = scores - scores.logsumexp(dim=1, keepdim=True)
    found = torch.full((rows,), count - 1, dtype=torch.int64, device=costs.device)
    taken = torch.zeros(rows, dtype=torch.bool, device=costs.device)
    for number in range(count - 1):
        lead = scores[:, number] - scores[:, number + 1 :].amax(dim=1)
        chosen = lead.masked_fill(taken, -torch.inf).topk(rows // count).indices
        found, taken = found.scatter(0, chosen, number), taken.scatter(0, chosen, True)
    return found
