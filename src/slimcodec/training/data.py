"""Photos -> crops.

    folder_photos / embedded ──► PhotoCache ──crops(seed, step)──► x  [B, 3, size, size]  RGB in [0, 1]
                                             rungs(seed, step) ──► quality rung of each picture  [B]

A step's batch is a pure function of (seed, step). There is no position to save: a resumed run goes on with the very
crops it would have drawn, and a data-parallel process computes its own slice of the global batch. All that a training
loop has to be fed is therefore the number of the step, which is what `PhotoData` yields. Workers, if there are any, cut
the crops of the next steps meanwhile.
"""

import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from slimcodec import InvalidInput
from slimcodec.codec.grid import CELL
from slimcodec.evaluation.photos import find_photos, open_photo
from slimcodec.training import parallel

# Photos inside installed packages: (package, path in it). Only natural photos: the retina, the telescope picture and
# the tissue section that scikit-image also ships look like nothing a user compresses. Of the stereo pair one is enough.
EMBEDDED = {
    "train": (
        ("skimage", "data/astronaut.png"),
        ("skimage", "data/coffee.png"),
        ("skimage", "data/motorcycle_left.png"),
        ("skimage", "data/rocket.jpg"),
        ("sklearn", "datasets/images/china.jpg"),
    ),
    # One picture of fine texture (fur) and one of smooth background, from both ends of what is hard to code.
    "validation": (
        ("skimage", "data/chelsea.png"),
        ("sklearn", "datasets/images/flower.jpg"),
    ),
}

# First word of each generator's key, so that crops and rungs of one (seed, step) are independent.
_CROP_KEY, _RUNG_KEY = 1, 2
MOST_SATURATED = 2.0
MOST_NAMES = 10  # of photos in a warning


class Photo(NamedTuple):
    """A decoded photo: `pixels` is uint8 [H, W, 3], RGB."""

    name: str
    pixels: np.ndarray


# ----------------------------------------------------------------------------------------------------- reading photos


def embedded(split: str) -> list[Photo]:
    """The real photos inside scikit-image and scikit-learn: five for `split="train"`, two for `"validation"`.

    They are read from the installed packages, never from the network. They are for demonstrations and tests: the five
    have 1.4 Mpixel together, too little to train a codec on.
    Raises InvalidInput when a package is missing.
    """
    return [Photo(Path(path).stem, _read_embedded(package, path)) for package, path in EMBEDDED[split]]


def _read_embedded(package: str, path: str) -> np.ndarray:
    try:
        with resources.as_file(resources.files(package) / path) as file:
            return np.array(open_photo(file))
    except (ModuleNotFoundError, FileNotFoundError, InvalidInput) as error:
        raise InvalidInput(f"the embedded photo {package}/{path} is missing; pip install 'slimcodec[train]'") from error


def folder_photos(root, *, limit: int | None = None, max_pixels: int | None = None) -> list[Photo]:
    """All photos below the folder `root` (PNG, JPEG, WebP, AVIF, TIFF, BMP), named and sorted by their path in it.

    limit       take this many, evenly spaced over the sorted paths, so that a part is as varied as the whole
    max_pixels  downscale larger photos: a camera's full resolution is soft, and it costs 3 bytes of memory a pixel

    Files that cannot be read are skipped, with one warning that names them. Raises InvalidInput when `root` is no
    folder or no photo in it can be read.
    """
    paths = _evenly_spaced(find_photos(root), limit)
    photos, unreadable = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow's decoders release the GIL
        decoded = pool.map(lambda path: _try_to_read(path, max_pixels), paths)
        for path, pixels in zip(paths, tqdm(decoded, "decoding photos", len(paths), disable=None), strict=True):
            name = path.relative_to(root).as_posix()
            if pixels is None:
                unreadable.append(name)
            else:
                photos.append(Photo(name, pixels))
    if not photos:
        raise InvalidInput(f"{root}: none of its {len(paths)} photos can be read; are the files complete?")
    if unreadable:
        warnings.warn(f"{root}: skipped {len(unreadable)} unreadable photos: {', '.join(unreadable)}", stacklevel=2)
    return photos


def _evenly_spaced(paths: list[Path], limit: int | None) -> list[Path]:
    if limit is None or limit >= len(paths):
        return paths
    return [paths[i * len(paths) // limit] for i in range(limit)]


def _try_to_read(path: Path, max_pixels: int | None) -> np.ndarray | None:
    try:
        picture = open_photo(path)
        return np.array(picture if max_pixels is None else _shrunk(picture, max_pixels))
    except Exception:  # on a damaged file Pillow's decoders raise almost anything
        return None


def _shrunk(picture: Image.Image, max_pixels: int) -> Image.Image:
    scale = (max_pixels / (picture.width * picture.height)) ** 0.5
    if scale >= 1:
        return picture
    size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def for_validation(photos: Sequence[Photo]) -> list[Photo]:
    """The photos that validation can use: those of at least 64 pixels on both sides, `CELL`.

    One warning names the others. Raises InvalidInput when there is none.
    """
    large = [photo for photo in photos if min(photo.pixels.shape[:2]) >= CELL]
    needed = f"{CELL} pixels on both sides, which validation needs"
    if not large:
        raise InvalidInput(f"none of the {len(photos)} validation photos has {needed}; name larger ones")
    if small := [photo for photo in photos if min(photo.pixels.shape[:2]) < CELL]:
        warnings.warn(f"left out of validation, with less than {needed}: {_named(small)}", stacklevel=2)
    return large


def _named(photos: Sequence[Photo]) -> str:
    """Their names and sizes, of the first ten."""
    names = [f"{photo.name} ({photo.pixels.shape[1]}x{photo.pixels.shape[0]})" for photo in photos[:MOST_NAMES]]
    more = [f"and {len(photos) - MOST_NAMES} more"] if len(photos) > MOST_NAMES else []
    return ", ".join(names + more)


# ------------------------------------------------------------------------------------------------------ drawing crops


def centre_crops(photos: Sequence[Photo], side: int) -> list[Photo]:
    """The middle of each photo, at most `side` pixels high and wide: validation that is quick to repeat."""
    return [Photo(name, np.ascontiguousarray(_centre(_centre(pixels, side, 0), side, 1))) for name, pixels in photos]


def _centre(pixels: np.ndarray, side: int, axis: int) -> np.ndarray:
    length = min(side, pixels.shape[axis])
    first = (pixels.shape[axis] - length) // 2
    return pixels.take(range(first, first + length), axis)


class Crop(NamedTuple):
    """A square window of one photo, in its pixels; `flip` mirrors it left to right, saturation 1 leaves its colours."""

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


class PhotoCache:
    """Decoded photos in memory (or on a GPU, `device`), 3 bytes a pixel, and the crops of any training step.

    A photo is drawn in proportion to its pixels, so that every pixel is seen about equally often. A photo smaller than
    the crop is never drawn, and a warning names those: padding would teach the codec unreal pictures.

    device     of the crops, and of the photos if there are no workers
    saturated  share of the crops whose colours are made stronger, up to MOST_SATURATED times: few photos have any that
               are as strong as signs and paint, and a codec that has not seen those is far off on them
    workers    processes that cut the crops of the next steps on the CPU, for a GPU that trains faster than it cuts
    """

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
        self.device = torch.device(device)
        of_photos = "cpu" if workers else device
        # A view [3, H, W] of [H, W, 3] is in channels-last order, the one that uint8 resizing is fast in.
        self._named = [Photo(*photo) for photo in photos]
        self._photos = [torch.from_numpy(pixels).to(of_photos).permute(2, 0, 1) for _, pixels in photos]
        self._saturated = saturated
        self._ahead = _Ahead(self._cut_all, workers, pin_memory=self.device.type == "cuda") if workers else None
        self._shares: dict[int, np.ndarray] = {}

    def crops(
        self, *, seed: int, step: int, batch: int, size: int, first: int = 0, count: int | None = None
    ) -> torch.Tensor:
        """Pictures first … first + count of the global batch of `batch` pictures at this step (default: all of them).

        Returns float32 [count, 3, size, size] in [0, 1], on the cache's device. Picture i depends on (seed, step, i)
        and on nothing else. Raises InvalidInput when every photo is smaller than `size`, ValueError when the slice is
        not inside the batch.
        """
        count = batch - first if count is None else count
        if not 0 <= first <= first + count <= batch:
            raise ValueError(f"pictures {first} to {first + count} are not inside a batch of {batch}")
        self._cumulative_shares(size)  # warns here, not in every worker
        request = _Request(seed, size, first, count)
        pictures = self._ahead(step, request) if self._ahead else self._cut_all(step, request)
        return pictures.to(self.device, non_blocking=True).float().div_(255)

    def require(self, sizes: Iterable[int]) -> None:
        """Raises InvalidInput unless there are photos for crops of all these sizes; warns of those that are smaller."""
        for size in sorted(set(sizes)):
            self._cumulative_shares(size)

    def _cut_all(self, step: int, request: _Request) -> torch.Tensor:
        """A step's crops as uint8 [count, 3, size, size]."""
        seed, size, first, count = request
        pictures = torch.empty(count, 3, size, size, dtype=torch.uint8, device=self._photos[0].device)
        for picture, index in zip(pictures, range(first, first + count), strict=True):
            rng = np.random.default_rng((_CROP_KEY, seed, step, index))
            picture.copy_(self._cut(self._draw(rng, size), size))
        return pictures

    def _draw(self, rng: np.random.Generator, size: int) -> Crop:
        """Half of the crops are taken as they are, half from a window of up to twice the side, to be downscaled."""
        photo = int(np.searchsorted(self._cumulative_shares(size), rng.random(), side="right"))
        height, width = self._photos[photo].shape[1:]
        side = size
        if rng.random() < 0.5:
            side = int(rng.integers(size, min(2 * size, height, width), endpoint=True))
        return Crop(
            photo,
            top=int(rng.integers(height - side, endpoint=True)),
            left=int(rng.integers(width - side, endpoint=True)),
            side=side,
            flip=bool(rng.random() < 0.5),
            saturation=rng.uniform(1, MOST_SATURATED) if rng.random() < self._saturated else 1.0,
        )

    def _cut(self, crop: Crop, size: int) -> torch.Tensor:
        """The crop as uint8 [3, size, size]."""
        rows, columns = slice(crop.top, crop.top + crop.side), slice(crop.left, crop.left + crop.side)
        window = self._photos[crop.photo][:, rows, columns]
        if crop.side != size:
            window = _downscale(window, size)
        if crop.saturation != 1:
            window = _saturate(window, crop.saturation)
        return window.flip(-1) if crop.flip else window

    def _cumulative_shares(self, size: int) -> np.ndarray:
        """The probability that a crop of this size comes from each photo, summed up to it; the last entry is 1."""
        if size not in self._shares:
            shapes = [photo.shape[1:] for photo in self._photos]
            pixels = np.array([height * width if min(height, width) >= size else 0 for height, width in shapes])
            if not pixels.any():
                raise InvalidInput(
                    f"no photo is as large as the {size}x{size} crop; use larger photos or smaller crops"
                )
            if unused := [photo for photo, count in zip(self._named, pixels, strict=True) if count == 0]:
                warnings.warn(
                    f"{len(unused)} of {len(shapes)} photos are smaller than the {size}x{size} crop and left out of "
                    f"training, for which both sides must have {size} pixels: {_named(unused)}",
                    stacklevel=4,
                )
            self._shares[size] = np.cumsum(pixels) / pixels.sum()
        return self._shares[size]


class _Ahead:
    """What `cut(step, request)` gives, from worker processes that are some steps ahead of whoever asks in order."""

    def __init__(self, cut: Callable[[int, _Request], torch.Tensor], workers: int, *, pin_memory: bool):
        self._cut, self._workers, self._pin_memory = cut, workers, pin_memory
        self._expected: tuple[int, _Request] | None = None
        self._found: Iterator[torch.Tensor] = iter(())

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
        return next(self._found)


class _Cut(Dataset):
    """The crops of every step, by its number."""

    def __init__(self, cut: Callable[[int, _Request], torch.Tensor], request: _Request):
        self._cut, self._request = cut, request

    def __getitem__(self, step: int) -> torch.Tensor:
        return self._cut(step, self._request)


def _downscale(window: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 [3, side, side] -> uint8 [3, size, size], bicubic and antialiased.

    The CPU has a kernel for uint8 that is three times faster than float's; a GPU has none. Their roundings differ in
    one sample of six, mostly by one level, so crops are the same only on the same kind of device.
    """
    if window.device.type == "cpu":
        return F.interpolate(window[None], (size, size), mode="bicubic", antialias=True)[0]
    resized = F.interpolate(window[None].float(), (size, size), mode="bicubic", antialias=True)[0]
    return resized.round().clamp(0, 255).to(torch.uint8)


def _saturate(window: torch.Tensor, times: float) -> torch.Tensor:
    """uint8 [3, H, W] -> the same with every pixel's colour so many times as far from the mean of its three values."""
    grey = window.float().mean(dim=0, keepdim=True)
    return grey.lerp(window.float(), times).round_().clamp_(0, 255).to(torch.uint8)


def rungs(*, seed: int, step: int, batch: int, levels: int) -> torch.Tensor:
    """The quality rung (0 … levels − 1) of each picture in the global batch of this step: int64 [batch], on the CPU.

    Each consecutive group of `levels` pictures has every rung once, in random order: a batch covers the ladder evenly.
    """
    groups = -(-batch // levels)
    ladders = np.tile(np.arange(levels, dtype=np.int64), (groups, 1))
    shuffled = np.random.default_rng((_RUNG_KEY, seed, step)).permuted(ladders, axis=1)
    return torch.from_numpy(shuffled.reshape(-1)[:batch])


# -------------------------------------------------------------------------------------------------- feeding Lightning


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
