"""The exponential moving average of the weights: what validation uses, and what training ends with."""

from typing import Any

import lightning
import torch
from torch import Tensor


class ExponentialAverage(lightning.Callback):
    """Averages the parameters after every step, beside them on their device.

    The decay begins low and rises, so that a short run is not an average with its random start. Lightning's own
    WeightAveraging copies the whole module, photos included, and reads its counter back from a GPU after every step.

    A checkpoint's `state_dict` is the average, its `current_model_state` what training goes on from.
    """

    def __init__(self, decay: float = 0.999):
        self.decay = decay
        self.average: dict[str, Tensor] = {}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """A run that goes on has an average already, from before it was moved to its device."""
        before = self.average or dict(module.named_parameters())
        self.average = {
            name: before[name].detach().to(own.device, copy=True) for name, own in module.named_parameters()
        }

    @torch.no_grad()
    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        taken = trainer.global_step
        share = 1 - min(self.decay, taken / (9 + taken)) if taken > 1 else 1.0  # the start counts for nothing
        torch._foreach_lerp_(list(self.average.values()), list(module.parameters()), share)

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._swap(module)

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._swap(module)

    @torch.no_grad()
    def on_fit_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Not at the end of training: a run that goes on from its very last step trains nothing."""
        for name, own in module.named_parameters():
            own.copy_(self.average[name])

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        current = checkpoint["state_dict"]
        checkpoint |= {"current_model_state": current, "state_dict": current | self.average}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        names = dict(module.named_parameters())
        self.average = {name: tensor for name, tensor in checkpoint["state_dict"].items() if name in names}
        module.load_state_dict(checkpoint["current_model_state"])

    @torch.no_grad()
    def _swap(self, module: lightning.LightningModule) -> None:
        for name, own in module.named_parameters():
            kept = own.clone()
            own.copy_(self.average[name])
            self.average[name].copy_(kept)
