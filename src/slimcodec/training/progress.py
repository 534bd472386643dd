"""How a training is going: for the loggers every few steps, and for a person a line a minute."""

import time
from collections.abc import Callable
from typing import Any

import lightning
import torch

from slimcodec.training import parallel

SECONDS_BETWEEN_LINES = 60.0


class Progress(lightning.Callback):
    """Of a `training/teach` module. Logs learning rate, crops a second and log cost whenever Lightning logs.

    tell  is given a line once a minute
    """

    def __init__(self, tell: Callable[[str], None] | None = None):
        self.tell = tell

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.step, self.since, self.told = trainer.global_step, time.monotonic(), time.monotonic()

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.step, self.since = trainer.global_step, time.monotonic()  # it is no training

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step % trainer.log_every_n_steps:
            return
        known = {
            "train/learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "train/log_cost": log_cost(module.loss_mean),
            "train/crops_per_second": self._crops_per_second(step, module),
        }
        module.log_dict(known, batch_size=1)
        self._say(step, trainer, module, known)

    def _crops_per_second(self, step: int, module: lightning.LightningModule) -> float:
        """Since it was last asked. To look at the cost has waited for a GPU to be done."""
        now = time.monotonic()
        crops, seconds = (step - self.step) * module.schedule.batch_at(step - 1), now - self.since
        self.step, self.since = step, now
        return crops / max(seconds, 1e-9)

    def _say(
        self, step: int, trainer: lightning.Trainer, module: lightning.LightningModule, known: dict[str, float]
    ) -> None:
        if self.tell is None or parallel.rank() or self.since - self.told < SECONDS_BETWEEN_LINES:
            return
        self.told = self.since
        steps, speed = module.schedule.steps, known["train/crops_per_second"]
        left = (steps - step) * module.schedule.batch_at(step) / max(speed, 1e-9)
        norm = float(trainer.callback_metrics["train/gradient_norm"])
        self.tell(
            f"step {step:,} of {steps:,}, {speed:,.0f} crops a second, {left / 60:,.0f} minutes left, "
            f"log cost {known['train/log_cost']:.4f}, gradient norm {norm:.2g}"
        )


def log_cost(means: torch.Tensor) -> float:
    """The mean of the logarithms of the rungs' costs, of those that there were: it weighs all of them alike."""
    return float(means[means > 0].log().mean())
