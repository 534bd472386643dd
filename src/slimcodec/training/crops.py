"""Photos in memory or in shards → the crops of a training step, and the quality rung of each.

    PhotoCache, ShardCache ──crops(seed, step)──► x  [B, 3, size, size]  RGB in [0, 1]
                             rungs(seed, step) ──► quality rung of each picture  [B]

A step's batch is a pure function of (seed, step), so there is no position to save: a resumed run goes on with the very
crops it would have drawn, and a data-parallel process computes its own slice of the global batch. Workers, if there are
any, cut the crops of the next steps meanwhile.
"""

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from slimcodec import InvalidInput
from slimcodec.training.photos import Photo, names_and_sizes
from slimcodec.training.shards import Shards

# First word of each generator's key, so that crops and rungs of one (seed, step) are independent.
CROP_KEY, RUNG_KEY = 1, 2
MOST_SATURATED = 2.0


class Crop(NamedTuple):
    """A square window of one photo, in its pixels. `flip` mirrors it left to right; saturation 1 leaves its colours."""

    photo: int
    top: int
    left: int
    side: int
    flip: bool
    saturation: float = 1.0


class _Request(NamedTuple):
    """What stays the same from step to step: pictures first … first + count of each batch, of `size` pixels."""

    seed: int
    size: int
    first: int
    count: int


class Crops(ABC):
    """The crops of any training step, in two parts: what is drawn for a step, and the pictures that are cut of it."""

    device: torch.device  # of the pictures

    def crops(
        self, *, seed: int, step: int, batch: int, size: int, first: int = 0, count: int | None = None
    ) -> torch.Tensor:
        """Pictures first … first + count of the global batch of `batch` pictures at this step (default: all of them).

        Returns float32 [count, 3, size, size] in [0, 1], on `device`. Picture i depends on (seed, step, i)
        and on nothing else. Raises InvalidInput when every photo is smaller than `size` or a shard is damaged,
        ValueError when the slice is not inside the batch.
        """
        count = batch - first if count is None else count
        if not 0 <= first <= first + count <= batch:
            raise ValueError(f"pictures {first} to {first + count} are not inside a batch of {batch}")
        drawn = self.draw(seed=seed, step=step, batch=batch, size=size, first=first, count=count)
        return self.cut(drawn.to(self.device, non_blocking=True), size)

    def require(self, sizes: Iterable[int]) -> None:
        """Raises InvalidInput unless there are photos for crops of all these sizes; warns of those that are smaller."""
        for size in sorted(set(sizes)):
            self._cumulative_shares(size)

    @abstractmethod
    def draw(self, *, seed: int, step: int, batch: int, size: int, first: int, count: int) -> torch.Tensor:
        """What `cut` makes pictures of; on the CPU or on `device`."""

    @abstractmethod
    def cut(self, drawn: torch.Tensor, size: int) -> torch.Tensor:
        """What was drawn, on `device`, as float32 [count, 3, size, size] in [0, 1]. A CUDA graph can hold it."""

    def latents(self, drawn: torch.Tensor, size: int) -> torch.Tensor | None:
        """y of what `cut` makes of it, float32 [count, M, size/16, size/16]; None where g_a has to be asked."""
        return None

    @abstractmethod
    def _cumulative_shares(self, size: int) -> np.ndarray:
        """The probability that a crop of this size comes from each picture, summed up to it; the last entry is 1."""


class CropSource(Crops):
    """Crops of any size, cut one by one, wherever the photos are: a subclass has them.

    A photo is drawn in proportion to its pixels, so that every pixel is seen about equally often. A photo smaller than
    the crop is never drawn, and a warning names those: padding would teach the codec unreal pictures.

    device     of the crops
    saturated  share of the crops whose colours are made stronger, up to MOST_SATURATED times: few photos have any as
               strong as those of signs and paint, and a codec codes badly what it has not seen
    workers    processes that cut the crops of the next steps on the CPU, for a GPU that trains faster than it cuts
    """

    _heights: np.ndarray  # of the photos, in pixels: integers [N]
    _widths: np.ndarray
    _cut_on: torch.device | str  # where the photos' windows are

    def __init__(self, *, device: torch.device | str = "cpu", saturated: float = 0.0, workers: int = 0):
        self.device = torch.device(device)
        self.saturated = saturated
        self._ahead = _Ahead(self._cut_all, workers, pin_memory=self.device.type == "cuda") if workers else None
        self._shares: dict[int, np.ndarray] = {}

    @abstractmethod
    def _window(self, crop: Crop) -> torch.Tensor:
        """The pixels that a crop is made of: uint8 [3, side, side], a view of [side, side, 3]."""

    @abstractmethod
    def _photos_at(self, indices: np.ndarray) -> Sequence[Photo]:
        """The photos of these numbers."""

    def draw(self, *, seed: int, step: int, batch: int, size: int, first: int, count: int) -> torch.Tensor:
        """The crops as uint8 [count, 3, size, size], wherever they were cut."""
        self._cumulative_shares(size)  # warns here, not in every worker
        request = _Request(seed, size, first, count)
        return self._ahead(step, request) if self._ahead else self._cut_all(step, request)

    def cut(self, drawn: torch.Tensor, size: int) -> torch.Tensor:
        return drawn.float().div_(255)

    def _cut_all(self, step: int, request: _Request) -> torch.Tensor:
        """A step's crops as uint8 [count, 3, size, size]."""
        seed, size, first, count = request
        pictures = torch.empty(count, 3, size, size, dtype=torch.uint8, device=self._cut_on)
        for picture, index in zip(pictures, range(first, first + count), strict=True):
            rng = np.random.default_rng((CROP_KEY, seed, step, index))
            picture.copy_(self._cut(self._draw(rng, size), size))
        return pictures

    def _draw(self, rng: np.random.Generator, size: int) -> Crop:
        """Half of the crops are taken as they are, half from a window of up to twice the side, to be downscaled."""
        photo = int(np.searchsorted(self._cumulative_shares(size), rng.random(), side="right"))
        height, width = int(self._heights[photo]), int(self._widths[photo])
        side = size
        if rng.random() < 0.5:
            side = int(rng.integers(size, min(2 * size, height, width), endpoint=True))
        return Crop(
            photo,
            top=int(rng.integers(height - side, endpoint=True)),
            left=int(rng.integers(width - side, endpoint=True)),
            side=side,
            flip=bool(rng.random() < 0.5),
            saturation=rng.uniform(1, MOST_SATURATED) if rng.random() < self.saturated else 1.0,
        )

    def _cut(self, crop: Crop, size: int) -> torch.Tensor:
        """The crop as uint8 [3, size, size]."""
        window = self._window(crop)
        if crop.side != size:
            window = downscale(window, (size, size))
        if crop.saturation != 1:
            window = saturate(window, crop.saturation)
        return window.flip(-1) if crop.flip else window

    def _cumulative_shares(self, size: int) -> np.ndarray:
        if size not in self._shares:
            large = np.minimum(self._heights, self._widths) >= size
            warn_of_small(self._photos_at(np.flatnonzero(~large)), len(large), size)
            pixels = np.where(large, self._heights.astype(np.int64) * self._widths, 0)
            self._shares[size] = np.cumsum(pixels) / pixels.sum()
        return self._shares[size]


def warn_of_small(unused: Sequence[Photo], count: int, size: int) -> None:
    """One warning names photos that are smaller than the crop. Raises InvalidInput when all of `count` are."""
    if len(unused) == count:
        raise InvalidInput(f"no photo is as large as the {size}x{size} crop; use larger photos or smaller crops")
    if unused:
        warnings.warn(
            f"{len(unused)} of {count} photos are smaller than the {size}x{size} crop and left out of "
            f"training, for which both sides must have {size} pixels: {names_and_sizes(unused)}",
            stacklevel=5,
        )


class PhotoCache(CropSource):
    """Photos that are decoded once and stay in memory, 3 bytes a pixel: on a GPU, if there are no workers."""

    def __init__(
        self,
        photos: Sequence[tuple[str, np.ndarray]],
        *,
        device: torch.device | str = "cpu",
        saturated: float = 0.0,
        workers: int = 0,
    ):
        """Raises InvalidInput when there are no photos."""
        if not photos:
            raise InvalidInput("there are no photos to train on; name a folder that holds some")
        super().__init__(device=device, saturated=saturated, workers=workers)
        self._cut_on = "cpu" if workers else device
        self._named = [Photo(*photo) for photo in photos]
        self._heights, self._widths = np.array([pixels.shape[:2] for _, pixels in photos]).T
        # These views [3, H, W] of [H, W, 3] are in channels-last order, in which uint8 resizing is fast.
        self._photos = [torch.from_numpy(pixels).to(self._cut_on).permute(2, 0, 1) for _, pixels in photos]

    def _window(self, crop: Crop) -> torch.Tensor:
        rows, columns = slice(crop.top, crop.top + crop.side), slice(crop.left, crop.left + crop.side)
        return self._photos[crop.photo][:, rows, columns]

    def _photos_at(self, indices: np.ndarray) -> list[Photo]:
        return [self._named[index] for index in indices]


class ShardCache(CropSource):
    """Photos that stay on the disk, in shards, and are read when they are drawn: memory does not grow with them.

    Crops are cut on the CPU. They are those of a PhotoCache of the same photos, bit for bit.
    """

    def __init__(self, shards: Shards, *, device: torch.device | str = "cpu", saturated: float = 0.0, workers: int = 0):
        super().__init__(device=device, saturated=saturated, workers=workers)
        self._cut_on, self._photos = "cpu", shards
        self._heights, self._widths = shards.heights, shards.widths

    def _window(self, crop: Crop) -> torch.Tensor:
        window = self._photos.window(crop.photo, crop.top, crop.left, crop.side)
        return torch.from_numpy(window).permute(2, 0, 1)

    def _photos_at(self, indices: np.ndarray) -> Shards:
        return self._photos.at(indices)


class _Ahead:
    """`cut(step, request)`, computed ahead by worker processes for a caller that asks for the steps in order."""

    def __init__(self, cut: Callable[[int, _Request], torch.Tensor], workers: int, *, pin_memory: bool):
        self._cut, self._workers, self._pin_memory = cut, workers, pin_memory
        self._expected: tuple[int, _Request] | None = None
        self._found: Iterator[torch.Tensor | InvalidInput] = iter(())

    def __call__(self, step: int, request: _Request) -> torch.Tensor:
        if (step, request) != self._expected:
            loader = DataLoader(
                _Cut(self._cut, request),
                batch_size=None,
                sampler=itertools.count(step),
                num_workers=self._workers,
                pin_memory=self._pin_memory,
            )
            self._found = iter(loader)
        self._expected = (step + 1, request)
        found = next(self._found)
        if isinstance(found, InvalidInput):
            raise found
        return found


class _Cut(Dataset):
    """The crops of every step, by its number, or the error: raised in a worker, it would come with its traceback."""

    def __init__(self, cut: Callable[[int, _Request], torch.Tensor], request: _Request):
        self._cut, self._request = cut, request

    def __getitem__(self, step: int) -> torch.Tensor | InvalidInput:
        try:
            return self._cut(step, self._request)
        except InvalidInput as error:
            return error


def downscale(window: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """uint8 [3, H, W] -> uint8 [3, *size], bicubic and antialiased.

    The CPU has a kernel for uint8 that is three times faster than float's; a GPU has none. Their roundings differ in
    one sample of six, mostly by one level, so crops are the same only on the same kind of device.
    """
    if window.device.type == "cpu":
        return F.interpolate(window[None], size, mode="bicubic", antialias=True)[0]
    resized = F.interpolate(window[None].float(), size, mode="bicubic", antialias=True)[0]
    return resized.round().clamp(0, 255).to(torch.uint8)


def saturate(window: torch.Tensor, times: float) -> torch.Tensor:
    """uint8 [3, H, W] -> the same, with the three values of every pixel `times` as far from their mean."""
    grey = window.float().mean(dim=0, keepdim=True)
    return grey.lerp(window.float(), times).round_().clamp_(0, 255).to(torch.uint8)


def rungs(*, seed: int, step: int, batch: int, levels: int) -> torch.Tensor:
    """The quality rung (0 … levels − 1) of each picture in the global batch of this step: int64 [batch], on the CPU.

    Each consecutive group of `levels` pictures has every rung once, in random order: a batch covers the ladder evenly.
    """
    groups = -(-batch // levels)
    ladders = np.tile(np.arange(levels, dtype=np.int64), (groups, 1))
    shuffled = np.random.default_rng((RUNG_KEY, seed, step)).permuted(ladders, axis=1)
    return torch.from_numpy(shuffled.reshape(-1)[:batch])
