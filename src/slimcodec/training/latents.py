"""Crops that are cut once, and what a frozen g_a makes of them: training without an encoder.

    photos, each at four sizes ──cut into squares──► crops ──g_a, once──► y
                                     draw(seed, step)──► which of them ──► x and y

g_a is most of a step where the decoder is small. Latents are those of the crops and not of parts of whole pictures:
the networks that follow pad a crop's edges with zeros, as they do at the edges of a picture, and g_a has to have seen
the same edges.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from slimcodec import InvalidInput
from slimcodec.codec.grid import LATENT_SCALE
from slimcodec.codec.network import Analysis
from slimcodec.training.crops import CROP_KEY, MOST_SATURATED, Crops, downscale, saturate, warn_of_small
from slimcodec.training.photos import Photo
from slimcodec.training.pyramid import require_memory

SHRINKING = (1.0, 1.25, 1.5, 2.0)  # how many times smaller each of the sizes is
CUT_KEY = 3  # beside those of training/crops
FEWER = "take fewer by data.limit, or stored_latents=false"

Tell = Callable[[int, int], None]  # how many photos of how many are done


class StoredLatents(Crops):
    """The crops of any training step, out of those that photos are cut into, with their latents.

    g_a        of the codec that is trained, which leaves it as it is
    size       of all crops, in pixels: a multiple of 64
    saturated  share of the crops whose colours are made stronger, up to MOST_SATURATED times

    Both are kept on `device`: 3 bytes a pixel, and two for every latent. Raises InvalidInput when there are no photos,
    none as large as a crop, or more than the device has memory for.
    """

    def __init__(
        self,
        photos: Sequence[tuple[str, np.ndarray]],
        g_a: Analysis,
        size: int,
        *,
        device: torch.device | str = "cpu",
        saturated: float = 0.0,
        seed: int = 0,
        tell: Tell = lambda done, photos: None,
    ):
        if not photos:
            raise InvalidInput("there are no photos to train on; name a folder that holds some")
        self.device, self.size = torch.device(device), size
        named = [Photo(*photo) for photo in photos]
        warn_of_small([photo for photo in named if min(photo.pixels.shape[:2]) < size], len(named), size)
        rng = np.random.default_rng((CUT_KEY, seed))
        count, place = sum(_count(photo.pixels, size) for photo in named), 0
        of_picture = (3, size, size)
        of_latents = (g_a.head.out_channels, size // LATENT_SCALE, size // LATENT_SCALE)
        require_memory(
            count * (math.prod(of_picture) + 2 * math.prod(of_latents)), self.device, "crops and latents", FEWER
        )
        self._pictures = torch.empty(count, *of_picture, dtype=torch.uint8, device=self.device)
        self._y = torch.empty(count, *of_latents, dtype=torch.float16, device=self.device)
        for number, photo in enumerate(named):
            for crop in _cut(photo.pixels, size, rng, saturated):
                self._pictures[place] = crop
                self._y[place] = _latents(g_a, self._pictures[place])
                place += 1
            tell(number + 1, len(named))

    def __len__(self) -> int:
        return len(self._pictures)

    def draw(self, *, seed: int, step: int, batch: int, size: int, first: int, count: int) -> Tensor:
        """int64 [count] on the CPU: which of the crops."""
        self._cumulative_shares(size)
        chosen = np.random.default_rng((CROP_KEY, seed, step)).integers(len(self), size=batch)
        return torch.from_numpy(chosen[first : first + count])

    def cut(self, drawn: Tensor, size: int) -> Tensor:
        """float32 [count, 3, size, size] in [0, 1], in channels-last memory."""
        found = self._pictures[drawn].contiguous(memory_format=torch.channels_last)
        return found.float().div_(255)

    def latents(self, drawn: Tensor, size: int) -> Tensor:
        """y of the same crops, float32 [count, M, size/16, size/16], in channels-last memory."""
        return self._y[drawn].contiguous(memory_format=torch.channels_last).float()

    def _cumulative_shares(self, size: int) -> np.ndarray:
        if size != self.size:
            raise InvalidInput(f"crops of {size} pixels: those with stored latents have {self.size}")
        return np.arange(1, len(self) + 1) / len(self)


def _count(photo: np.ndarray, size: int) -> int:
    """How many crops there is room for side by side, at all sizes."""
    sides = [[int(side / times) // size for side in photo.shape[:2]] for times in SHRINKING]
    return sum(rows * columns for rows, columns in sides)


def _cut(photo: np.ndarray, size: int, rng: np.random.Generator, saturated: float) -> Iterator[Tensor]:
    """As many squares side by side as `_count` says, uint8 [3, size, size], from anywhere in it at every size."""
    whole = torch.from_numpy(photo).permute(2, 0, 1)
    for times in SHRINKING:
        height, width = (int(side / times) for side in whole.shape[1:])
        picture = downscale(whole, (height, width)) if times > 1 else whole
        top, left = (int(rng.integers(side % size, endpoint=True)) for side in (height, width))
        for row in range(top, height - size + 1, size):
            for column in range(left, width - size + 1, size):
                crop = picture[:, row : row + size, column : column + size]
                if rng.random() < saturated:
                    crop = saturate(crop, rng.uniform(1, MOST_SATURATED))
                yield crop.flip(-1) if rng.random() < 0.5 else crop


@torch.no_grad()
def _latents(g_a: Analysis, picture: Tensor) -> Tensor:
    """Of a crop, in float32 whatever training's precision is: [M, size/16, size/16]."""
    x = (picture.float() / 255)[None].contiguous(memory_format=torch.channels_last)
    found: Tensor = g_a(x)[0]
    return found
