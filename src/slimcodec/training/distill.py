"""The student's LightningModule: the teacher's training step and, on top of it, the terms of distillation."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slimcodec import InvalidInput
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.grid import CELL
from slimcodec.codec.network import Coded, HyperpriorCodec
from slimcodec.training import losses
from slimcodec.training.inheritance import inherited_parts
from slimcodec.training.names import DISTILLATION_TERMS, FEATURE_TERMS
from slimcodec.training.prior import FactorizedPrior
from slimcodec.training.teach import Teach


class Tap(NamedTuple):
    """A module whose output is compared, and the channels of that output."""

    module: nn.Module
    channels: int


class FeatureTaps:
    """Keeps the latest output of every level of g_a and g_s, and p, under names that teacher and student share."""

    def __init__(self, codec: HyperpriorCodec):
        architecture = codec.architecture
        taps = {"hyper": Tap(codec.h_mean, architecture.h_mean[2])}
        for part, transform, levels in (
            ("encoder", codec.g_a, architecture.g_a),
            ("decoder", codec.g_s, architecture.g_s),
        ):
            taps |= {
                f"{part}.{level.scale}": Tap(module, level.channels)
                for module, level in zip(transform.levels, levels, strict=True)
            }
        self.channels = {name: tap.channels for name, tap in taps.items()}
        self.features: dict[str, Tensor] = {}
        for name, tap in taps.items():
            tap.module.register_forward_hook(self._keeper(name))

    def _keeper(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def keep(_module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
            self.features[name] = output

        return keep


class Distill(Teach):
    """Trains a student (`codec`, `prior`) against a frozen teacher.

    weights            per term: rate_distortion, output, decoder, encoder, hyper (features), latent, hyper_latent (KL);
                       a term of weight 0 is not computed
    inherited_encoder  the student's g_a and h_a came from the teacher, so the distributions of z can be compared
    freeze_share       share of the steps, from the first on, in which an inherited encoder is not trained
    frozen             the parts of it that are not
    """

    teacher_pmf: Tensor  # [Q, N, 256]
    latent_positions: Tensor  # int64 [M]: where the student's latents are among the teacher's

    def __init__(
        self,
        codec: HyperpriorCodec,
        prior: FactorizedPrior,
        teacher: HyperpriorCodec,
        teacher_prior: FactorizedPrior,
        *,
        weights: dict[str, float],
        inherited_encoder: bool,
        freeze_share: float = 1 / 3,
        frozen: Sequence[str] = ("g_a", "h_a"),
        **training: Any,
    ):
        super().__init__(codec, prior, **training)
        self.weights = {"rate_distortion": 1.0} | dict(weights)
        if unknown := set(self.weights) - set(DISTILLATION_TERMS):
            raise InvalidInput(f"distill.weights.{sorted(unknown)[0]}: there is no such term")
        self.freeze_steps = int(freeze_share * self.schedule.steps) if inherited_encoder else 0
        self.frozen = tuple(frozen)
        self.inherited_encoder = inherited_encoder
        # In a tuple the teacher is no submodule, so it is not trained, not averaged and not in the checkpoint.
        self._teacher = (teacher.eval().requires_grad_(False),)
        if inherited_encoder:
            channels = _positions(codec.architecture, teacher.architecture, "hyper_channels")
            self.register_buffer("teacher_pmf", teacher_prior.pmf().detach()[:, channels], persistent=False)
        latents = torch.tensor(_positions(codec.architecture, teacher.architecture, "latent_channels"))
        self.register_buffer("latent_positions", latents, persistent=False)
        self._taps = FeatureTaps(codec), FeatureTaps(teacher)
        self.adapters = nn.ModuleDict(self._adapters())

    @property
    def teacher(self) -> HyperpriorCodec:
        return self._teacher[0]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.teacher.to(self.device, memory_format=torch.channels_last)

    def on_train_batch_start(self, step: int, _: int) -> None:
        frozen = int(step) < self.freeze_steps
        for part in self.frozen:
            self.codec.get_submodule(part).requires_grad_(not frozen)

    def weight(self, term: str) -> float:
        return self.weights.get(term, 0.0)

    def terms(self, x: Tensor, quality: Tensor, coded: Coded) -> dict[str, Tensor]:
        wanted = {name for name, weight in self.weights.items() if weight and name != "rate_distortion"}
        if not wanted:
            return {}
        with torch.no_grad():
            taught = self.teacher(x, quality)
        cost = self.loss_mean[quality // QUALITY_ONE - 1]  # in units of the rate–distortion cost, like the main term
        terms = {}
        if "output" in wanted:
            error = losses.mse(coded.x_hat.float(), taught.x_hat.float())
            terms["output"] = losses.rate_distortion(error, 0, self.lmbda[quality // QUALITY_ONE - 1]) / cost
        if "latent" in wanted:
            terms["latent"] = self.latent_waste(coded, taught, x) / cost
        if "hyper_latent" in wanted and self.inherited_encoder:
            terms["hyper_latent"] = self.hyper_latent_waste(quality) / cost
        for term in FEATURE_TERMS:  # in this order in every process, or sums and logs would depend on the hash seed
            if term in wanted:
                terms[term] = self.feature_error(term)
        return terms

    def latent_waste(self, coded: Coded, taught: Coded, x: Tensor) -> Tensor:
        """KL of the Gaussians of y on `latent_channels`, in bits per pixel: [B]."""
        chosen = self.latent_positions
        kl = losses.gaussian_kl_bits(
            taught.mu[:, :, chosen],
            losses.latent_sigma(taught.index, taught.gain)[:, :, chosen],
            coded.mu,
            losses.latent_sigma(coded.index, coded.gain),
        )
        return losses.bits_per_pixel(kl, x.shape[-1] * x.shape[-2])

    def hyper_latent_waste(self, quality: Tensor) -> Tensor:
        """KL of the factorized priors of z at each picture's rung, in bits per pixel: [B]."""
        by_rung = losses.table_kl_bits(self.teacher_pmf, self.prior.pmf()).sum(dim=1) / CELL**2
        return by_rung[quality // QUALITY_ONE - 1]

    def feature_error(self, term: str) -> Tensor:
        """Mean over the term's features of the normalised error through their 1×1 adapters: [B]."""
        student, teacher = self._taps
        names = [name for name in self.adapter_names if name.split(".")[0] == term]
        squares = torch.stack([teacher.features[name].float().square().mean() for name in names])
        errors = [
            losses.feature(
                self.adapters[name.replace(".", "_")](student.features[name]), teacher.features[name], square
            )
            for name, square in zip(names, self._over_processes(squares, "mean"), strict=True)
        ]
        return torch.stack(errors).mean(dim=0)

    def _adapters(self) -> dict[str, nn.Module]:
        """1×1 convolutions from the student's features to the teacher's, identities where the widths agree."""
        student, teacher = (tap.channels for tap in self._taps)
        self.adapter_names = [name for name in student if name in teacher and self.weight(name.split(".")[0])]
        adapters = {}
        for name in self.adapter_names:
            adapter = nn.Conv2d(student[name], teacher[name], 1)
            if student[name] == teacher[name]:
                nn.init.dirac_(adapter.weight)
                nn.init.zeros_(adapter.bias)
            adapters[name.replace(".", "_")] = adapter  # ModuleDict allows no dots
        return adapters


def new_student(
    architecture: Architecture, teacher: HyperpriorCodec, teacher_prior: FactorizedPrior, *, inherit_encoder: bool
) -> tuple[HyperpriorCodec, FactorizedPrior]:
    """A student to be trained. What it does not inherit is random; with the encoder come the gains and the prior."""
    codec = HyperpriorCodec(architecture)
    prior = FactorizedPrior(architecture.hypers, architecture.rungs)
    for part in inherited_parts(architecture, teacher.architecture, inherit_encoder=inherit_encoder):
        getattr(codec, part).load_state_dict(getattr(teacher, part).state_dict())
    if inherit_encoder:
        codec.log_gain.data.copy_(teacher.log_gain.data)
        prior.load_state_dict(teacher_prior.state_dict())
    return codec, prior


def _positions(student: Architecture, teacher: Architecture, field: str) -> list[int]:
    """Where each of the student's channels stands among the teacher's."""
    available = getattr(teacher, field)
    missing = [channel for channel in getattr(student, field) if channel not in available]
    if missing:
        raise InvalidInput(f"student.architecture.{field}: channel {missing[0]} is not among the teacher's")
    return [available.index(channel) for channel in getattr(student, field)]
