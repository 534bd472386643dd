"""How a training is going: for the loggers every few steps, and for those who watch it."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import lightning
import torch

from slimcodec.training import parallel
from slimcodec.training.schedule import Schedule


class Status(NamedTuple):
    """How far a training is. What is not known yet is None."""

    step: int
    steps: int
    quality: int  # the middle of the ladder: where bpp and psnr_db are
    bpp: float | None = None  # of the validation photos, when they were last measured
    psnr_db: float | None = None
    loss: float | None = None  # rate + lambda · distortion, the geometric mean over the rungs
    pictures_per_second: float | None = None
    seconds_left: float | None = None
    pixels_per_second: float | None = None  # of crops, validation and all included


class Progress(lightning.Callback):
    """Of a `training/teach` module. Logs learning rate, pictures a second and log cost whenever Lightning logs.

    watch  is told the status when training begins, whenever Lightning logs, and after validation
    """

    def __init__(self, watch: Callable[[Status], None] | None = None):
        self.watch = watch

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.step = trainer.global_step
        self.began = self.since = time.monotonic()
        self.origin: tuple[int, float] | None = None  # the step and the time from which speed is counted
        self.speed: float | None = None  # pixels a second
        self.status = Status(self.step, module.schedule.steps, quality=middle(len(module.lmbda)))
        self._tell()

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.step, self.since = trainer.global_step, time.monotonic()  # it is no training
        found = trainer.callback_metrics
        bpp, psnr_db = (found.get(f"val/{name}_{self.status.quality}") for name in ("bpp", "psnr"))
        if bpp is not None and psnr_db is not None:
            self.status = self.status._replace(bpp=float(bpp), psnr_db=float(psnr_db))
            self._update(self.step, module, self.status.pictures_per_second)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step % trainer.log_every_n_steps:
            return
        known = {
            "train/learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "train/log_cost": log_cost(module.loss_mean),
            "train/pictures_per_second": self._pictures_per_second(step, module),
        }
        module.log_dict(known, batch_size=1)
        self._update(step, module, known["train/pictures_per_second"])

    def _pictures_per_second(self, step: int, module: lightning.LightningModule) -> float:
        """Since it was last asked. To look at the cost has waited for a GPU to be done."""
        now = time.monotonic()
        pictures, seconds = (step - self.step) * module.schedule.batch_at(step - 1), now - self.since
        self.step, self.since = step, now
        return pictures / max(seconds, 1e-9)

    def _update(self, step: int, module: lightning.LightningModule, pictures_per_second: float | None) -> None:
        schedule = module.schedule
        if (speed := self._pixels_per_second(step, schedule)) is None:
            return  # resumed at the end of an epoch, nothing was trained before it was validated
        self.status = self.status._replace(
            step=step,
            loss=math.exp(log_cost(module.loss_mean)),
            pictures_per_second=pictures_per_second,
            seconds_left=schedule.pixels(step, schedule.steps) / speed,
            pixels_per_second=speed,
        )
        self._tell()

    def _pixels_per_second(self, step: int, schedule: Schedule) -> float | None:
        """In pixels, for late crops are larger; validation is time like any other, the first slow steps are not."""
        now = time.monotonic()
        first, began = self.origin or (self.status.step, self.began)
        if pixels := schedule.pixels(first, step):
            self.speed = pixels / max(now - began, 1e-9)
        if self.speed is not None and self.origin is None:
            self.origin = step, now
        return self.speed

    def _tell(self) -> None:
        if self.watch is not None and not parallel.rank():
            self.watch(self.status)


def middle(rungs: int) -> int:
    """The quality that stands for a ladder: 4 of 8."""
    return (rungs + 1) // 2


def log_cost(means: torch.Tensor) -> float:
    """The mean of the logarithms of the rungs' costs, of those that there were: it weighs all of them alike."""
    return float(means[means > 0].log().mean())
