"""Several codecs that compete for pictures: each is trained on what it codes best, and so becomes a specialist.

              ┌─► specialist 1 ─► costs ┐                       ┌─► its B/K pictures ─► loss
 x ─► trunk ──┼─► …                     ├─► who trains on what ─┼─► …
              └─► specialist K ─► costs ┘                       └─► its B/K pictures ─► loss

The trunk is g_a without its last layer: most of an encoder, and one for all. The entropy model may be one for all too.
Everything else is a specialist's own.
A file names the codec that made it, so a picture may be coded by the best of them and a decoder does nothing more.

The idea is *Spatial Competition*'s (arXiv 2605.13243). Every specialist has the same share of every batch: none is left
without pictures, and shapes stay the same, as a CUDA graph needs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimcodec import InvalidInput
from slimcodec.codec.network import Coded, HyperpriorCodec
from slimcodec.training.fast import Drawn
from slimcodec.training.prior import FactorizedPrior
from slimcodec.training.teach import CodedBatch, RateDistortion, Teach

BALANCING_TURNS = 20
TRUNK = ("g_a.levels",)
ENTROPY_MODEL = ("log_gain", "h_a", "h_scale", "h_mean", "context")  # and a prior
SHARPNESS = 50.0  # of log costs: 2 % more bits make a specialist e times less likely


class Compete(Teach):
    """Trains several codecs of one architecture and their priors. With one it is `Teach`, number for number.

    shared  names of a codec's parts, modules or weights: the codecs are given the first one's
    priors  one for every codec; it may be the same for all
    """

    def __init__(
        self,
        codecs: Sequence[HyperpriorCodec],
        priors: Sequence[FactorizedPrior],
        *,
        shared: Sequence[str] = TRUNK,
        **training: Any,
    ):
        super().__init__(codecs[0], priors[0], **training)
        for batch in {self.schedule.batch, self.schedule.batch_at(self.schedule.steps)}:
            if batch % len(codecs):
                raise InvalidInput(f"training.batch={batch}: must be a multiple of the {len(codecs)} specialists")
        self.codecs, self.priors = nn.ModuleList(codecs), nn.ModuleList(priors)
        for other in codecs[1:]:
            for part in shared:
                _take(part, other, codecs[0])

    def coded_of(self, drawn: Drawn, noise: torch.Generator) -> CodedBatch:
        """The batch in the order of the specialists."""
        x, quality = self.pictures(drawn), drawn.quality
        features = self.codec.g_a.features(x)
        who = shares(self.log_costs(x, quality, features))
        parts = [
            self._coded_by(number, x[chosen], quality[chosen], features[chosen], noise)
            for number, chosen in enumerate(who.unbind())
        ]
        order = who.flatten()
        return CodedBatch(
            x[order],
            quality[order],
            Coded(*map(torch.cat, zip(*(coded for coded, _ in parts), strict=True))),
            RateDistortion(*map(torch.cat, zip(*(measured for _, measured in parts), strict=True))),
        )

    @torch.no_grad()
    def log_costs(self, x: Tensor, quality: Tensor, features: Tensor) -> Tensor:
        """What every picture would cost with every specialist, rounded as in files: [B, K]."""
        return torch.stack(
            [self.coded_whole(number, x, quality, features)[1].cost.log() for number in range(len(self.codecs))], dim=1
        )

    def coded_whole(self, number: int, x: Tensor, quality: Tensor, features: Tensor) -> tuple[Coded, RateDistortion]:
        """What a specialist makes of pictures, with whole symbols."""
        coded = self._code(number, quality, features)
        to_r, to_z = self.integers(coded) - coded.residual, coded.z.round() - coded.z
        return coded, self._measured(number, x, quality, coded, to_r, to_z)

    def _coded_by(
        self, number: int, x: Tensor, quality: Tensor, features: Tensor, noise: torch.Generator
    ) -> tuple[Coded, RateDistortion]:
        coded = self._code(number, quality, features)
        return coded, self._measured(number, x, quality, coded, *self.noise(coded, noise))

    def _code(self, number: int, quality: Tensor, features: Tensor) -> Coded:
        codec: Any = self.codecs[number]
        return codec.coded(codec.g_a.head(features).float(), quality, self.quantise)

    def _measured(self, number: int, x: Tensor, quality: Tensor, coded: Coded, *noise: Tensor) -> RateDistortion:
        with torch.autocast(x.device.type, enabled=False):
            return self.rate_distortion(x, quality, coded, *noise, self.priors[number])


def _take(part: str, module: nn.Module, other: nn.Module) -> None:
    """Give a module the other's part, which both then have."""
    holder, _, name = part.rpartition(".")
    setattr(module.get_submodule(holder), name, getattr(other.get_submodule(holder), name))


@torch.no_grad()
def shares(log_costs: Tensor) -> Tensor:
    """Who trains on what: int64 [K, B/K], the pictures of every specialist, whose costs are [B, K].

    The costs together are about the least that equal shares allow. First the scores are balanced, until rows and
    columns of their exponentials have equal sums (Sinkhorn); then each specialist in turn takes those that it is best
    for in comparison with those who have not chosen yet.
    """
    batch, count = log_costs.shape
    scores = -SHARPNESS * (log_costs - log_costs.mean(dim=1, keepdim=True))
    for _ in range(BALANCING_TURNS):
        scores = scores - scores.logsumexp(dim=0, keepdim=True)
        scores = scores - scores.logsumexp(dim=1, keepdim=True)
    taken = torch.zeros(batch, dtype=torch.bool, device=scores.device)
    found = []
    for number in range(count):
        lead = scores[:, number]
        if number + 1 < count:
            lead = lead - scores[:, number + 1 :].amax(dim=1)
        chosen = lead.masked_fill(taken, -torch.inf).topk(batch // count).indices.sort().values
        taken = taken.scatter(0, chosen, True)
        found.append(chosen)
    return torch.stack(found)
