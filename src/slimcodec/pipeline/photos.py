"""The photos of a run: those to train on and to validate with, and what crops are cut from."""

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from slimcodec import InvalidInput
from slimcodec.pipeline.settings import Settings
from slimcodec.training import parallel, photos, started
from slimcodec.training.crops import Crops, PhotoCache, ShardCache
from slimcodec.training.pyramid import PhotoPyramid
from slimcodec.training.shards import Shards, open_shards

STARTING_CROPS = 64  # more than a batch, for the covariances that a new codec starts from
MOST_SAMPLED = 1000  # photos of shards that tables are learned on: their middles are in memory together


class Photos:
    """The photos of a run, read when they are first needed."""

    def __init__(self, settings: Settings):
        self.settings = settings

    @cached_property
    def all(self) -> tuple[Sequence[photos.Photo], list[photos.Photo]]:
        """Training and validation photos, decoded once; training photos in shards are read when they are needed."""
        settings = self.settings.data
        if settings.kind == "embedded":
            return photos.embedded("train"), photos.embedded("validation")
        train = self._of_root()
        if settings.validation_root:
            return train, photos.folder_photos(settings.validation_root)
        kept = len(train) - settings.held_out
        if kept <= 0:
            raise InvalidInput(f"data.held_out={settings.held_out}: {settings.root} has only {len(train)} photos")
        return train[:kept], list(train[kept:])

    def _of_root(self) -> Sequence[photos.Photo]:
        settings = self.settings.data
        assert settings.root is not None  # for these kinds it was checked
        if settings.kind == "shards":
            return open_shards(settings.root).evenly_spaced(settings.limit)
        return photos.folder_photos(settings.root, limit=settings.limit, max_pixels=settings.max_pixels)

    @property
    def validation(self) -> list[photos.Photo]:
        return self.all[1]

    @cached_property
    def validation_crops(self) -> list[photos.Photo]:
        settings = self.settings.validation
        return photos.centre_crops(photos.for_validation(self.validation)[: settings.limit], settings.side)

    @property
    def device(self) -> torch.device:
        """What this process computes on."""
        return parallel.device() if self.settings.trainer.accelerator == "gpu" else torch.device("cpu")

    @cached_property
    def cache(self) -> Crops:
        """What crops are cut from. Raises InvalidInput where a stage's crops fit into no photo."""
        cores = max(1, (os.cpu_count() or 1) // started.place().local_count)
        workers = min(self.settings.trainer.crop_workers, cores)
        how: dict[str, Any] = {"device": self.device, "saturated": self.settings.data.saturated}
        train = self.all[0]
        cache: Crops
        if isinstance(train, Shards):
            cache = ShardCache(train, workers=workers, **how)
        elif self.settings.trainer.whole_step and not workers:
            cache = PhotoPyramid(train, **how)
        else:
            cache = PhotoCache(train, workers=workers, **how)
        wanted = [self.settings.training(stage) for stage in self.settings.stages]
        sides = [side for training in wanted if training for side in training.crops]
        if (tables := self.settings.finish.tables) and self.settings.wants("finish"):
            sides.append(tables.side)
        cache.require(sides)  # now, not when the last stage begins
        return cache

    def first_crops(self, size: int) -> torch.Tensor:
        """[64, 3, size, size]: what a new codec starts from, and what a trained one's tables are counted on."""
        crops = self.cache.crops(seed=self.settings.seed, step=0, batch=STARTING_CROPS, size=size)
        return crops.cpu()

    @cached_property
    def digests(self) -> dict[str, str]:
        """Training photo → sha256 of its pixels. Of shards it is their index, which is read sooner than they are."""
        train = self.all[0]
        if isinstance(train, Shards):
            return {"index": train.sha256}
        return {photo.name: hashlib.sha256(photo.pixels.tobytes()).hexdigest() for photo in train}

    def to_learn_from(self, side: int, count: int | None) -> Sequence[photos.Photo]:
        """Training photos for tables. Of shards it is the middles of `count`, or of MOST_SAMPLED, evenly spaced."""
        train = self.all[0]
        if not isinstance(train, Shards):
            return train
        return photos.centre_crops(train.evenly_spaced(min(count or MOST_SAMPLED, MOST_SAMPLED)), side)
