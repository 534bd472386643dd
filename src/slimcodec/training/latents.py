"""Photos and what a frozen g_a makes of them, both in memory: training without an encoder.

    photos, each at two sizes ──g_a, once──► y
                              ──draw(seed, step)──► windows of 16-pixel steps ──► x, and y of the same window

g_a is most of a step where the decoder is small. Its latents are those of whole pictures, as in files: at its edge a
crop's latents know of the pixels beyond, and g_s lacks the latents there: errors in the outermost 16 pixels, up to four
times as large, are not counted. Crops begin at multiples of 16 pixels and are never mirrored. A picture's
colours are made stronger once, and not anew for every crop.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from slimcodec import InvalidInput
from slimcodec.training.crops import CROP_KEY, MOST_SATURATED, Crops, downscale, saturate, warn_of_small
from slimcodec.training.photos import Photo

STEP = 16  # pixels of a latent
SHRINKING = (1.0, 1.5)  # how many times smaller each of the sizes is
SATURATION_KEY = 3  # beside those of training/crops

Tell = Callable[[int, int], None]  # how many photos of how many are done


class StoredLatents(Crops):
    """Crops of any training step that come with their latents.

    g_a        of the codec that is trained, which leaves it as it is
    saturated  share of the pictures whose colours are made stronger, up to MOST_SATURATED times

    Both are kept on `device`: 3 bytes a pixel, and two for every latent. Raises InvalidInput when there are no photos.
    """

    margin = STEP

    def __init__(
        self,
        photos: Sequence[tuple[str, np.ndarray]],
        g_a: nn.Module,
        *,
        device: torch.device | str = "cpu",
        saturated: float = 0.0,
        seed: int = 0,
        tell: Tell = lambda done, photos: None,
    ):
        if not photos:
            raise InvalidInput("there are no photos to train on; name a folder that holds some")
        self.device, self._photos = torch.device(device), [Photo(*photo) for photo in photos]
        shapes = [_shapes(*pixels.shape[:2]) for _, pixels in photos]
        self._shapes = np.array(shapes).reshape(-1, 2)  # of the pictures, two for each photo, in latents
        self._starts = np.concatenate([[0], np.cumsum(self._shapes.prod(axis=1))])  # of each picture's latents
        self._shares: dict[int, np.ndarray] = {}
        self._pixels = torch.empty(int(self._starts[-1]) * STEP**2, 3, dtype=torch.uint8, device=self.device)
        self._y = torch.empty(0)
        rng = np.random.default_rng((SATURATION_KEY, seed))
        stronger = rng.random(len(self._shapes)) < saturated
        times = np.where(stronger, rng.uniform(1, MOST_SATURATED, len(stronger)), 1.0)
        for number, (_, photo) in enumerate(photos):
            for picture in range(number * len(SHRINKING), (number + 1) * len(SHRINKING)):
                self._fill(picture, torch.from_numpy(photo).permute(2, 0, 1), float(times[picture]), g_a)
            tell(number + 1, len(photos))

    @torch.no_grad()
    def _fill(self, picture: int, photo: Tensor, times: float, g_a: nn.Module) -> None:
        """Put a photo [3, H, W] at one size into its place, and its latents, in float32 whatever training's are."""
        if not self._shapes[picture].all():
            return
        side = SHRINKING[picture % len(SHRINKING)]
        if side > 1:
            photo = downscale(photo, (int(photo.shape[1] / side), int(photo.shape[2] / side)))
        height, width = (int(count) * STEP for count in self._shapes[picture])
        photo = photo[:, :height, :width].to(self.device)
        if times > 1:
            photo = saturate(photo, times)
        first, last = (int(place) for place in self._starts[picture : picture + 2])
        self._pixels[first * STEP**2 : last * STEP**2] = photo.permute(1, 2, 0).reshape(-1, 3)
        x = (photo.float() / 255)[None].contiguous(memory_format=torch.channels_last)
        y = g_a(x)[0].permute(1, 2, 0).reshape(last - first, -1)
        if not len(self._y):
            self._y = torch.empty(int(self._starts[-1]), y.shape[1], dtype=torch.float16, device=self.device)
        self._y[first:last] = y

    def draw(self, *, seed: int, step: int, batch: int, size: int, first: int, count: int) -> Tensor:
        """int64 [count, 4] on the CPU: each crop's picture's first latent and width, and the row and column."""
        chances = np.random.default_rng((CROP_KEY, seed, step)).random((batch, 3))[first : first + count]
        which, top, left = chances.T
        picture = np.searchsorted(self._cumulative_shares(size), which, side="right")
        heights, widths = self._shapes[picture].T
        rows, columns = (
            (place * (side - size // STEP + 1)).astype(np.int64) for place, side in ((top, heights), (left, widths))
        )
        return torch.from_numpy(np.stack([self._starts[picture], widths, rows, columns], axis=1).astype(np.int64))

    def cut(self, drawn: Tensor, size: int) -> Tensor:
        """float32 [count, 3, size, size] in [0, 1], in channels-last memory."""
        start, width, row, column = (each[:, None] for each in drawn.unbind(1))
        found = self._pixels[_places(start * STEP**2, width * STEP, row * STEP, column * STEP, size)]
        return found.permute(0, 3, 1, 2).float().div_(255)

    def latents(self, drawn: Tensor, size: int) -> Tensor:
        """y of the same crops, float32 [count, M, size/16, size/16], in channels-last memory."""
        start, width, row, column = (each[:, None] for each in drawn.unbind(1))
        return self._y[_places(start, width, row, column, size // STEP)].permute(0, 3, 1, 2).float()

    def _cumulative_shares(self, size: int) -> np.ndarray:
        """By their pixels, so that the photos as they are make up two thirds."""
        if size not in self._shares:
            fits = self._shapes.min(axis=1) >= size // STEP
            as_they_are = fits[:: len(SHRINKING)]
            warn_of_small([self._photos[photo] for photo in np.flatnonzero(~as_they_are)], len(as_they_are), size)
            pixels = fits * self._shapes.prod(axis=1)
            self._shares[size] = np.cumsum(pixels) / pixels.sum()
        return self._shares[size]


def _places(start: Tensor, width: Tensor, row: Tensor, column: Tensor, side: int) -> Tensor:
    """Where the elements of square windows are, [count, side, side]; what is given is [count, 1]."""
    inside = torch.arange(side, device=start.device)
    rows = start + width * (row + inside)
    return rows[:, :, None] + (column + inside)[:, None, :]


def _shapes(height: int, width: int) -> list[tuple[int, int]]:
    return [(int(height / times) // STEP, int(width / times) // STEP) for times in SHRINKING]
