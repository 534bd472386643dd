"""The teacher's LightningModule: one rate–distortion step for every rung of the quality ladder.

The batch is the number of the step; crops, rungs and noise are functions of (seed, step), so that a resumed or a
data-parallel run draws the same. `training/distill` adds terms to this step and changes nothing else.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from slimcodec import InvalidInput
from slimcodec.codec import models, rate
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.network import Coded, HyperpriorCodec
from slimcodec.codec.quantise import Quantiser
from slimcodec.training import crops, losses, optimizers
from slimcodec.training.calibrate import calibrated
from slimcodec.training.checkpoints import Checkpoints, newest
from slimcodec.training.data import PhotoData
from slimcodec.training.errors import TrainingStopped
from slimcodec.training.names import OPTIMIZERS
from slimcodec.training.prior import FactorizedPrior, export_tables

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

    steps        optimizer steps in all; the learning rate warms up for 2 % and falls to zero over the last third
    batch, crop  pictures in the global batch, and their side in pixels (a multiple of 64)
    optimizer    adam; or soap, which costs more a step and needs far fewer of them (Zhang and Zhu, arXiv 2601.20769)
    basis_every  soap computes its eigenbases anew after this many steps, which takes a GPU long
    cache        what the crops are cut from; needed for training
    quantiser    chooses the integers of residuals as the encoder does; without it they are rounded
    compiler     such as torch.compile: training calls what it returns for the codec's forward
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
        optimizer: str = "adam",
        basis_every: int = 10,
        seed: int = 0,
        cache: crops.CropSource | None = None,
        quantiser: Quantiser | None = None,
        compiler: Callable[[Callable[..., Coded]], Callable[..., Coded]] | None = None,
    ):
        super().__init__()
        if optimizer not in OPTIMIZERS:
            raise InvalidInput(f"training.optimizer={optimizer}: must be one of {', '.join(OPTIMIZERS)}")
        if basis_every < 1:
            raise InvalidInput(f"training.basis_every={basis_every}: must be 1 or more steps")
        self.optimizer, self.basis_every = optimizer, basis_every
        self.codec, self.prior = codec, prior
        self.steps, self.batch, self.crop = steps, batch, crop
        self.learning_rate, self.seed = learning_rate, seed
        self.register_buffer("lmbda", torch.tensor(codec.architecture.quality_ladder), persistent=False)
        self.register_buffer("loss_mean", torch.zeros(len(self.lmbda)))
        self.cache, self.quantiser = cache, quantiser
        self.forward_in_training = compiler(codec.forward) if compiler else codec.forward

    def on_fit_start(self) -> None:
        if self.batch % self.trainer.world_size:
            raise InvalidInput(
                f"training.batch={self.batch}: must be a multiple of the {self.trainer.world_size} processes"
            )

    def training_step(self, step: int, _: int) -> Tensor:
        loss, figures = self.loss_at(int(step))
        self.log_dict(figures, batch_size=self.batch)
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=self.batch)
        return loss

    def loss_at(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this process's slice of a step's batch, and the whole batch's detached figures for the log.

        Raises TrainingStopped, in all processes, if the loss is not a number.
        """
        x, quality, coded, measured = self.coded_at(step)
        terms = {"rate_distortion": self.balanced(measured.cost, quality)} | self.terms(x, quality, coded)
        weighted = {name: self.weight(name) * value.mean() for name, value in terms.items()}
        loss = torch.stack(list(weighted.values())).sum()
        figures = weighted | {"bpp": (measured.bpp_r + measured.bpp_z).mean(), "mse": measured.mse.mean()}
        values = self._over_processes(torch.stack(list(figures.values())).detach(), "mean")
        if not values.isfinite().all():
            shown = ", ".join(f"{name} {value:.3g}" for name, value in zip(weighted, values.tolist(), strict=False))
            raise TrainingStopped(f"the loss is not finite at step {step} ({shown}); try a lower learning rate")
        return loss, {f"train/{name}": value for name, value in zip(figures, values, strict=True)}

    def coded_at(self, step: int) -> CodedBatch:
        x, quality = self.draw(step)
        coded = self.forward_in_training(x, quality, self.quantise)
        measured = self.rate_distortion(x, quality, coded, *self.noise(step, coded))
        return CodedBatch(x, quality, coded, measured)

    def terms(self, x: Tensor, quality: Tensor, coded: Coded) -> dict[str, Tensor]:
        """Terms beside rate–distortion, each [B]; distillation has some."""
        return {}

    def weight(self, term: str) -> float:
        return 1.0

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's slice of the step's batch: x [b, 3, crop, crop] and quality int64 [b]."""
        batch, first, count = self.batch, *self._slice()
        x = self.cache.crops(seed=self.seed, step=step, batch=batch, size=self.crop, first=first, count=count)
        rungs = crops.rungs(seed=self.seed, step=step, batch=batch, levels=len(self.lmbda))[first : first + count]
        x = x.to(self.device).contiguous(memory_format=torch.channels_last)
        return x, ((rungs + 1) * QUALITY_ONE).to(self.device)

    def noise(self, step: int, coded: Coded) -> tuple[Tensor, Tensor]:
        """Uniform noise in ±½ for the residual's planes and for z, keyed by (seed, step) and the place in the batch."""
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + step)
        first, count = self._slice()
        return tuple(
            torch.rand(self.batch, *like.shape[1:], generator=generator, device=self.device)[first : first + count]
            - 0.5
            for like in (coded.residual, coded.z)
        )

    def rate_distortion(
        self, x: Tensor, quality: Tensor, coded: Coded, noise_r: Tensor, noise_z: Tensor
    ) -> RateDistortion:
        pixels = x.shape[-1] * x.shape[-2]
        bpp_r = losses.bits_per_pixel(losses.residual_bits(coded.residual, coded.index, noise_r), pixels)
        bpp_z = losses.bits_per_pixel(self.prior.bits(coded.z.float() + noise_z, quality), pixels)
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
        return self.quantiser and self.quantiser.straight_through

    def integers(self, coded: Coded) -> Tensor:
        """The integers of the residuals, as planes."""
        if self.quantiser is None:
            return coded.residual.round()
        return self.quantiser.choose(coded.residual, rate.whole_index(coded.index))

    def validation_step(self, photo: tuple[str, Tensor], _: int) -> None:
        """One picture x [3, H, W] at every rung, with whole symbols."""
        _, x = photo
        rungs = torch.arange(1, len(self.lmbda) + 1, device=self.device)
        for rung in rungs.tolist():
            quality = torch.tensor([rung * QUALITY_ONE], device=self.device)
            coded = self.codec(x[None], quality, self.quantise)
            to_r, to_z = self.integers(coded) - coded.residual, coded.z.round() - coded.z
            measured = self.rate_distortion(x[None], quality, coded, to_r, to_z)
            bpp = measured.bpp_r + measured.bpp_z
            figures = {
                f"val/bpp_{rung}": bpp,
                f"val/psnr_{rung}": -10 * measured.mse.log10(),
                f"val/share_of_z_{rung}": measured.bpp_z / bpp,
                f"val/loss_{rung}": measured.cost,
                "val/log_loss": measured.cost.log(),  # its mean over rungs weighs all of them alike
            }
            self.log_dict({key: value.mean() for key, value in figures.items()}, batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = optimizers.MAKE[self.optimizer](self._parameter_groups(), self.learning_rate, self.basis_every)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _parameter_groups(self) -> optimizers.Parameters:
        gains, prior = self.codec.log_gain, set(self.prior.parameters())
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad and parameter is not gains]
        weights = [parameter for parameter in trained if parameter.ndim > 1 and parameter not in prior]
        chosen = set(weights)
        return optimizers.Parameters(weights, [gains], [parameter for parameter in trained if parameter not in chosen])

    def _learning_rate_factor(self, step: int) -> float:
        warm_up = min(1.0, (step + 1) / max(1, 0.02 * self.steps))
        return warm_up * min(1.0, max(0.0, 3 * (1 - step / self.steps)))

    def _over_processes(self, values: Tensor, how: str) -> Tensor:
        """The sum or mean of the processes' values while they train together."""
        return values if self._trainer is None else self.trainer.strategy.reduce(values, reduce_op=how)

    def _slice(self) -> tuple[int, int]:
        if self._trainer is None:
            return 0, self.batch
        count = self.batch // self.trainer.world_size
        return self.trainer.global_rank * count, count


class ExponentialAverage(WeightAveraging):
    """Moving average of the weights. Validation uses it, and training ends with it.

    The decay begins low and rises, so that a short run is not an average with its random start.
    """

    def __init__(self, decay: float = 0.999):
        @torch.no_grad()
        def update(average: list[Tensor], current: list[Tensor], steps: Tensor) -> None:
            share = 1 - min(decay, (1 + int(steps)) / (10 + int(steps)))
            torch._foreach_lerp_(average, current, share)

        super().__init__(multi_avg_fn=update, use_buffers=False)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # A run resumed from its very last step trains nothing, and Lightning then skips on_train_end.
        self.on_train_end(trainer, pl_module)


def fit(
    module: Teach,
    photos: PhotoData,
    directory: Path,
    make_trainer: Callable[..., lightning.Trainer],
    *,
    checkpoint_minutes: float = 10,
    deadline: float | None = None,
) -> None:
    """Train to the module's last step, from the newest checkpoint in `directory` if there is one.

    make_trainer  make_trainer(directory, max_steps=…, callbacks=…) gives a fresh Trainer
    deadline      of time.monotonic(): after it, training stops at the end of a step

    Raises TrainingInterrupted when it is stopped by the deadline, SIGTERM or SIGINT, with a checkpoint written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(directory, minutes=checkpoint_minutes, deadline=deadline)
    trainer = make_trainer(directory, max_steps=module.steps, callbacks=[checkpoints, ExponentialAverage()])
    resume = newest(directory)
    module.train()  # a codec that was loaded is in eval mode
    trainer.fit(module, datamodule=photos, ckpt_path=resume, weights_only=True if resume else None)


def save_trained(
    directory: Path, codec: HyperpriorCodec, prior: FactorizedPrior, crops: Tensor | None = None, **fields: Any
) -> Path:
    """Write a model directory that can also be trained further; `fields` as for models.save.

    The tables of r are counted on crops [B, 3, H, W]. Without crops they are those of Gaussians, and the model has no
    offsets and skips nothing.
    """
    training = {f"prior.{name}": tensor for name, tensor in prior.state_dict().items()}
    tables = export_tables(prior)
    if crops is not None:
        tables = calibrated(codec, tables, crops)
    return models.save(directory, codec, tables, training=training, **fields)


class Trained(NamedTuple):
    """A model that can be trained further."""

    codec: HyperpriorCodec  # with float weights
    prior: FactorizedPrior
    model: models.Model


def load_trained(name_or_directory: str | Path) -> Trained:
    """A model directory's codec and prior, to be trained further. Raises InvalidModel."""
    model = models.load(name_or_directory)
    state = models.load_training_state(model)
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
