"""The teacher's LightningModule: one rate–distortion step for every rung of the quality ladder.

The batch is the number of the step; crops, rungs and noise are functions of (seed, step), so that a resumed or a
data-parallel run draws the same. `training/distill` adds terms to this step and changes nothing else.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor

from slimcodec import InvalidInput
from slimcodec.codec import models, rate
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.network import Coded, HyperpriorCodec
from slimcodec.codec.quantise import Pass, Quantiser
from slimcodec.training import crops, losses, optimizers
from slimcodec.training.average import ExponentialAverage
from slimcodec.training.calibrate import calibrated
from slimcodec.training.checkpoints import Checkpoints, newest
from slimcodec.training.data import PhotoData
from slimcodec.training.dependent import with_one_quantiser, with_second_quantiser
from slimcodec.training.fast import Drawn, WholeStep
from slimcodec.training.names import OPTIMIZERS
from slimcodec.training.prior import FactorizedPrior, export_tables
from slimcodec.training.progress import Progress, Status
from slimcodec.training.schedule import Late, Schedule
from slimcodec.training.shown import IN_TRAINING, Shown

LOSS_MEAN_MOMENTUM = 0.98


class RateDistortion(NamedTuple):
    """What a batch costs, for each picture: all [B]."""

    bpp_r: Tensor
    bpp_z: Tensor
    mse: Tensor
    cost: Tensor  # lmbda · 255² · mse + bpp


class CodedBatch(NamedTuple):
    """A step's pictures, what the codec makes of them, and what that costs."""

    x: Tensor  # [B, 3, H, W]
    quality: Tensor  # int64 [B]
    coded: Coded
    measured: RateDistortion


class Teach(lightning.LightningModule):
    """Trains `codec` and `prior` together with one optimizer.

    schedule     how many steps, and how large their batches, crops and learning rates are
    optimizer    adam; or soap, which costs more a step and needs far fewer of them (Zhang and Zhu, arXiv 2601.20769)
    basis_every  soap computes its eigenbases anew after this many steps, which takes a GPU long
    cache        what the crops are cut from; needed for training
    quantiser    chooses the integers of residuals as the encoder does; without it they are rounded
    shown        what files show of the pictures; without it, what g_s makes of them
    compiler     such as torch.compile: training calls what it returns for the codec's forward
    whole_step   do the whole step at once, on a GPU as one CUDA graph (training/fast)
    """

    lmbda: Tensor  # [Q]
    loss_mean: Tensor  # [Q]: running mean of the cost at each rung

    def __init__(
        self,
        codec: HyperpriorCodec,
        prior: FactorizedPrior,
        *,
        steps: int,
        batch: int,
        crop: int,
        learning_rate: float,
        decay_from: float = 2 / 3,
        restarts: int = 0,
        late: Late | None = None,
        optimizer: str = "adam",
        basis_every: int = 10,
        seed: int = 0,
        cache: crops.Crops | None = None,
        quantiser: Quantiser | None = None,
        shown: Shown | None = None,
        compiler: Callable[[Callable[..., Coded]], Callable[..., Coded]] | None = None,
        whole_step: bool = False,
    ):
        super().__init__()
        if optimizer not in OPTIMIZERS:
            raise InvalidInput(f"training.optimizer={optimizer}: must be one of {', '.join(OPTIMIZERS)}")
        if basis_every < 1:
            raise InvalidInput(f"training.basis_every={basis_every}: must be 1 or more steps")
        self.optimizer, self.basis_every = optimizer, basis_every
        self.codec, self.prior = codec, prior
        self.schedule = Schedule(steps, batch, crop, decay_from, restarts, late)
        self.learning_rate, self.seed = learning_rate, seed
        self.register_buffer("lmbda", torch.tensor(codec.architecture.quality_ladder), persistent=False)
        self.register_buffer("loss_mean", torch.zeros(len(self.lmbda)))
        self.cache, self.quantiser, self.shown = cache, quantiser, shown
        self.forward_in_training = compiler(codec.forward) if compiler else codec.forward
        self.whole_step = WholeStep(self) if whole_step else None
        self._generator: torch.Generator | None = None
        self.figures: dict[str, Tensor] = {}  # of the last step

    def on_fit_start(self) -> None:
        for batch in {self.schedule.batch, self.schedule.batch_at(self.schedule.steps)}:
            if batch % self.trainer.world_size:
                raise InvalidInput(
                    f"training.batch={batch}: must be a multiple of the {self.trainer.world_size} processes"
                )

    def training_step(self, step: int, _: int) -> Tensor:
        loss, figures = self.whole_step(int(step)) if self.whole_step else self.loss_at(int(step))
        self.figures = figures
        self.log_dict(figures, batch_size=1)  # a whole batch's: it is no weight
        return loss

    def loss_at(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this process's slice of a step's batch, and the whole batch's detached figures for the log.

        Raises TrainingStopped, in all processes, if the loss is not a number.
        """
        loss, figures = self.loss_of(self.drawn(step), self.seeded(step))
        losses.require_finite(step, figures)
        return loss, figures

    def loss_of(self, drawn: Drawn, noise: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The same of what was drawn: tensors alone, so that a graph can repeat it."""
        x, quality, coded, measured = self.coded_of(drawn, noise)
        terms = {"rate_distortion": self.balanced(measured.cost, quality)} | self.terms(x, quality, coded)
        weighted = {name: self.weight(name) * value.mean() for name, value in terms.items()}
        loss = torch.stack(list(weighted.values())).sum()
        figures = weighted | {"bpp": (measured.bpp_r + measured.bpp_z).mean(), "mse": measured.mse.mean()}
        values = self._over_processes(torch.stack(list(figures.values())).detach(), "mean")
        return loss, {f"train/{name}": value for name, value in zip(figures, values.unbind(), strict=True)}

    def coded_at(self, step: int) -> CodedBatch:
        return self.coded_of(self.drawn(step), self.seeded(step))

    def coded_of(self, drawn: Drawn, noise: torch.Generator) -> CodedBatch:
        x, quality, y = self.pictures(drawn), drawn.quality, self.cache.latents(drawn.crops, drawn.size)
        coded = self.as_shown(x, quality, self.forward_in_training(x, quality, self.quantise, y), IN_TRAINING)
        with torch.autocast(x.device.type, enabled=False):  # bits and errors are small differences of large numbers
            measured = self.rate_distortion(x, quality, coded, *self.noise(coded, noise))
        return CodedBatch(x, quality, coded, measured)

    def as_shown(self, x: Tensor, quality: Tensor, coded: Coded, share: float = 1.0) -> Coded:
        return coded._replace(x_hat=self.shown(coded, x, quality, share)) if self.shown else coded

    def terms(self, x: Tensor, quality: Tensor, coded: Coded) -> dict[str, Tensor]:
        """Terms beside rate–distortion, each [B]; distillation has some."""
        return {}

    def weight(self, term: str) -> float:
        return 1.0

    def drawn(self, step: int) -> Drawn:
        """What this process draws for its slice of a step's batch."""
        batch, size = self.schedule.batch_at(step), self.schedule.crop_at(step)
        first, count = self._slice(batch)
        keys = {"seed": self.seed, "step": step, "batch": batch}
        places = self.cache.draw(**keys, size=size, first=first, count=count)
        rungs = crops.rungs(**keys, levels=len(self.lmbda))[first : first + count]
        return Drawn(self._to_device(places), self._to_device((rungs + 1) * QUALITY_ONE), size)

    def pictures(self, drawn: Drawn) -> Tensor:
        """x [b, 3, crop, crop]."""
        return self.cache.cut(drawn.crops, drawn.size).contiguous(memory_format=torch.channels_last)

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda" and not tensor.is_cuda:
            tensor = tensor.pin_memory()  # or the copy would wait for the GPU's work before it
        return tensor.to(self.device, non_blocking=True)

    def seeded(self, step: int) -> torch.Generator:
        """The generator of noise as it stands when a step begins: by (seed, step)."""
        if self._generator is None or self._generator.device != self.device:
            self._generator = torch.Generator(self.device)
        return self._generator.manual_seed(self.seed * 1_000_003 + step)

    def noise(self, coded: Coded, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Uniform noise in ±½ for the residual's planes and for z, by the place in the whole batch."""
        batch = len(coded.z) * (1 if self._trainer is None else self.trainer.world_size)
        first, count = self._slice(batch)
        return tuple(
            torch.rand(batch, *like.shape[1:], generator=generator, device=like.device)[first : first + count] - 0.5
            for like in (coded.residual, coded.z)
        )

    def rate_distortion(
        self,
        x: Tensor,
        quality: Tensor,
        coded: Coded,
        noise_r: Tensor,
        noise_z: Tensor,
        prior: FactorizedPrior | None = None,
    ) -> RateDistortion:
        pixels = x.shape[-1] * x.shape[-2]
        bpp_r = losses.bits_per_pixel(losses.residual_bits(coded.residual, coded.index, noise_r), pixels)
        bpp_z = losses.bits_per_pixel((prior or self.prior).bits(coded.z.float() + noise_z, quality), pixels)
        mse = losses.mse(coded.x_hat.float(), x)
        lmbda = self.lmbda[quality // QUALITY_ONE - 1]
        return RateDistortion(bpp_r, bpp_z, mse, losses.rate_distortion(mse, bpp_r + bpp_z, lmbda))

    def balanced(self, cost: Tensor, quality: Tensor) -> Tensor:
        """cost [B] divided by the running mean of the cost at its rung, or the top rungs would dominate the gradient.

        The mean itself has no gradient.
        """
        rung = quality // QUALITY_ONE - 1
        with torch.no_grad():
            zero = torch.zeros_like(self.loss_mean)
            sums = torch.stack([zero.index_add(0, rung, values) for values in (torch.ones_like(cost), cost)])
            count, total = self._over_processes(sums, "sum")
            new = total / count.clamp_min(1)
            old = torch.where(self.loss_mean > 0, self.loss_mean, new)
            moved = LOSS_MEAN_MOMENTUM * old + (1 - LOSS_MEAN_MOMENTUM) * new
            self.loss_mean.copy_(torch.where(count > 0, moved, self.loss_mean))
        return cost / self.loss_mean[rung]

    @property
    def quantise(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """For one pass."""
        return self.quantiser and self.quantiser.for_pass()

    def integers(self, coded: Coded) -> Tensor:
        """The integers of the residuals, as planes. With one quantiser."""
        if self.quantiser is None:
            return coded.residual.round()
        return self.quantiser.choose(coded.residual, rate.whole_index(coded.index))

    def validation_step(self, photo: tuple[str, Tensor], _: int) -> None:
        """One picture x [3, H, W] at every rung, with whole symbols."""
        _, x = photo
        rungs = torch.arange(1, len(self.lmbda) + 1, device=self.device)
        for rung in rungs.tolist():
            quality = torch.tensor([rung * QUALITY_ONE], device=self.device)
            measured = self.with_whole_symbols(x[None], quality)
            bpp = measured.bpp_r + measured.bpp_z
            figures = {
                f"val/bpp_{rung}": bpp,
                f"val/psnr_{rung}": -10 * measured.mse.log10(),
                f"val/share_of_z_{rung}": measured.bpp_z / bpp,
                f"val/loss_{rung}": measured.cost,
                "val/log_loss": measured.cost.log(),  # its mean over rungs weighs all of them alike
            }
            self.log_dict({key: value.mean() for key, value in figures.items()}, batch_size=1, sync_dist=True)

    def with_whole_symbols(self, x: Tensor, quality: Tensor) -> RateDistortion:
        """With two quantisers bits are those of the model's tables, otherwise of Gaussians."""
        quantise = self.quantise
        coded = self.as_shown(x, quality, self.codec(x, quality, quantise))
        to_z = coded.z.round() - coded.z
        if not isinstance(quantise, Pass):
            return self.rate_distortion(x, quality, coded, self.integers(coded) - coded.residual, to_z)
        measured = self.rate_distortion(x, quality, coded, torch.zeros_like(coded.residual), to_z)
        bpp_r = losses.bits_per_pixel(quantise.bits[:, None], x.shape[-1] * x.shape[-2])
        return measured._replace(bpp_r=bpp_r, cost=measured.cost - measured.bpp_r + bpp_r)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = optimizers.MAKE[self.optimizer](self._parameter_groups(), self.learning_rate, self.basis_every)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule.learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, *_: Any, **__: Any
    ) -> None:
        self.log("train/gradient_norm", self.clip(gradient_clip_val), batch_size=1)

    def clip(self, largest: float | None) -> Tensor:
        """Shorten the gradients to a norm of at most `largest`; the norm before that."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.nn.utils.clip_grad_norm_(parameters, math.inf if largest is None else largest)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Nothing to go on from is written of weights that are no numbers. Whole steps look at theirs now and then."""
        if self.figures:
            losses.require_finite(checkpoint["global_step"] - 1, self.figures)

    # A whole step is over when Lightning would begin with its parts.

    def optimizer_zero_grad(self, *arguments: Any) -> None:
        if self.whole_step is None:
            super().optimizer_zero_grad(*arguments)

    def backward(self, loss: Tensor, *arguments: Any, **named: Any) -> None:
        if self.whole_step is None:
            super().backward(loss, *arguments, **named)

    def optimizer_step(self, epoch: int, number: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if self.whole_step is None:
            super().optimizer_step(epoch, number, optimizer, optimizer_closure)
        else:
            optimizer_closure()

    def _parameter_groups(self) -> optimizers.Parameters:
        gains, prior = self.codec.log_gain, set(self.prior.parameters())
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad and parameter is not gains]
        weights = [parameter for parameter in trained if parameter.ndim > 1 and parameter not in prior]
        chosen = set(weights)
        return optimizers.Parameters(weights, [gains], [parameter for parameter in trained if parameter not in chosen])

    def _over_processes(self, values: Tensor, how: str) -> Tensor:
        """The sum or mean of the processes' values while they train together."""
        return values if self._trainer is None else self.trainer.strategy.reduce(values, reduce_op=how)

    def _slice(self, batch: int) -> tuple[int, int]:
        if self._trainer is None:
            return 0, batch
        count = batch // self.trainer.world_size
        return self.trainer.global_rank * count, count


def fit(
    module: Teach,
    photos: PhotoData,
    directory: Path,
    make_trainer: Callable[..., lightning.Trainer],
    *,
    checkpoint_minutes: float = 10,
    deadline: float | None = None,
    watch: Callable[[Status], None] | None = None,
) -> None:
    """Train to the module's last step, from the newest checkpoint in `directory` if there is one.

    make_trainer  make_trainer(directory, max_steps=…, callbacks=…) gives a fresh Trainer
    deadline      of time.monotonic(): after it, training stops at the end of a step
    watch         is told how far it is

    Raises TrainingInterrupted when it is stopped by the deadline, SIGTERM or SIGINT, with a checkpoint written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(directory, minutes=checkpoint_minutes, deadline=deadline)
    callbacks = [checkpoints, ExponentialAverage(), Progress(watch)]
    trainer = make_trainer(directory, max_steps=module.schedule.steps, callbacks=callbacks)
    resume = newest(directory)
    module.train()  # a codec that was loaded is in eval mode
    trainer.fit(module, datamodule=photos, ckpt_path=resume, weights_only=True if resume else None)


def save_trained(
    directory: Path,
    codec: HyperpriorCodec,
    prior: FactorizedPrior,
    crops: Tensor | None = None,
    *,
    states: int = 1,
    **fields: Any,
) -> Path:
    """Write a model directory that can also be trained further; `fields` as for models.save.

    The tables of r are counted on crops [B, 3, H, W]. Without crops they are those of Gaussians, and the model has no
    offsets and skips nothing. With more states than one it quantises dependently.
    """
    training = {f"prior.{name}": tensor for name, tensor in prior.state_dict().items()}
    tables = export_tables(prior)
    if states > 1:
        tables = with_second_quantiser(tables, states)
    if crops is not None:
        tables = calibrated(codec, tables, crops)
    return models.save(directory, codec, tables, training=training, **fields)


class Trained(NamedTuple):
    """A model that can be trained further."""

    codec: HyperpriorCodec  # with float weights
    prior: FactorizedPrior
    model: models.Model


def load_trained(name_or_directory: str | Path, *, both_quantisers: bool = False) -> Trained:
    """A model directory's codec and prior, to be trained further. Raises InvalidModel.

    both_quantisers  leave a model that quantises dependently both, for training with residuals as its files have them
    """
    loaded = models.load(name_or_directory)
    state, model = models.load_training_state(loaded), loaded if both_quantisers else with_one_quantiser(loaded)
    prior = FactorizedPrior(model.codec.architecture.hypers, model.codec.architecture.rungs)
    prior.load_state_dict({name.removeprefix("prior."): tensor for name, tensor in state.items()})
    return Trained(model.codec, prior, model)


def accumulate_gradients(module: Teach, batches: int) -> None:
    """Leave on the codec's parameters the gradients of the balanced cost, summed over some batches, for `taylor`.

    Distillation's terms are left out: the adapters of a new module are random, and so would their gradients be.
    """
    module.codec.train().requires_grad_(True)
    module.zero_grad()
    for step in range(batches):
        batch = module.coded_at(step)
        module.balanced(batch.measured.cost, batch.quality).mean().backward()
