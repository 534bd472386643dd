"""What Lightning is fed with: the numbers of the steps, and validation photos.

A step's batch follows from its number (`training/crops`), so the number is all that a training step is given.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader

from slimcodec.codec.grid import CELL
from slimcodec.training import parallel
from slimcodec.training.photos import Photo


class Steps:
    """What Lightning iterates over instead of a DataLoader: step numbers, from `first()` to the end of its epoch.

    `first` is asked whenever iterating begins, so a run that is resumed inside an epoch goes on where it stopped.
    """

    def __init__(self, first: Callable[[], int], per_epoch: int):
        self._first = first
        self._per_epoch = per_epoch

    def __len__(self) -> int:
        return self._per_epoch

    def __iter__(self) -> Iterator[int]:
        start = self._first()
        return iter(range(start, (start // self._per_epoch + 1) * self._per_epoch))

    # Lightning warns about resuming with a loader that has no state. Here `first()` is the position: nothing to save.
    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


class PhotoData(lightning.LightningDataModule):
    """The steps' numbers, and validation photos as a list.

    `training_step` gets the number of the step. `validation_step` gets one photo: its name and float32 [3, H, W] in
    [0, 1], H and W cut to multiples of 64. Each of several processes gets its share of the photos; all of them, if
    there are too few to share.
    """

    def __init__(self, *, validation_photos: Sequence[Photo], steps_per_epoch: int):
        super().__init__()
        self.validation_photos = list(validation_photos)
        self.steps_per_epoch = steps_per_epoch

    def train_dataloader(self) -> Steps:
        return Steps(lambda: self.trainer.global_step, self.steps_per_epoch)

    def val_dataloader(self) -> DataLoader:
        photos = share(self.validation_photos, parallel.rank(), parallel.count())
        return DataLoader(photos, batch_size=None, collate_fn=_aligned)


def share(photos: Sequence[Any], rank: int, processes: int) -> Sequence[Any]:
    """What one of several processes validates: every photo once among them, or all, if there are too few to share."""
    return photos[rank::processes] if len(photos) >= processes else photos


def _aligned(photo: tuple[str, np.ndarray]) -> tuple[str, torch.Tensor]:
    """A photo as `validation_step` takes it; cut rather than padded, as padding would count as picture in the loss."""
    name, pixels = photo
    height, width = (side // CELL * CELL for side in pixels.shape[:2])
    return name, torch.from_numpy(pixels[:height, :width]).permute(2, 0, 1) / 255
