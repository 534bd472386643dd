"""Photos at five sizes on a GPU, from which a crop is one gather: what a whole step in one CUDA graph cuts.

The crops are those of `training/crops` in kind: half of them are as in the photo, half are from a smaller copy of it,
of five sizes down to a half. What is drawn, a few numbers a picture, is drawn on the CPU by (seed, step, index), so
that a crop is the same one on every device; the pixels never leave the GPU.
"""

from collections.abc import Sequence

import numpy as np
import torch

from slimcodec import InvalidInput
from slimcodec.training.crops import CROP_KEY, MOST_SATURATED, Crops, downscale, warn_of_small
from slimcodec.training.photos import Photo

SHRINKING = (1.0, 2**0.25, 2**0.5, 2**0.75, 2.0)  # how many times smaller each of the sizes is
AS_THEY_ARE = 0.5  # share of the crops that are surely of the first size; the others are of any
MOST_OF_THE_MEMORY = 0.6  # what training itself needs is not known beforehand
SATURATION_UNIT = 2**16
REMEDY = "add trainer.crop_workers=12, which cuts them on the CPU, or take fewer by data.limit"


class PhotoPyramid(Crops):
    """Decoded photos on a device, and the crops of any training step.

    saturated  share of the crops whose colours are made stronger, up to MOST_SATURATED times

    Raises InvalidInput when there are no photos, or more than the device has memory for.
    """

    def __init__(
        self, photos: Sequence[tuple[str, np.ndarray]], *, device: torch.device | str = "cpu", saturated: float = 0.0
    ):
        if not photos:
            raise InvalidInput("there are no photos to train on; name a folder that holds some")
        self.device = torch.device(device)
        self._named, self._saturated = [Photo(*photo) for photo in photos], saturated
        self._shares: dict[int, np.ndarray] = {}
        shapes = [_shapes(*pixels.shape[:2]) for _, pixels in photos]
        self._shapes = np.array(shapes).reshape(-1, 2)  # of the pictures, five for each photo
        self._starts = np.concatenate([[0], np.cumsum(3 * self._shapes.prod(axis=1))])  # of each picture in `pixels`
        require_memory(int(self._starts[-1]), self.device, "the photos at five sizes", REMEDY)
        self.pixels = torch.empty(int(self._starts[-1]), dtype=torch.uint8, device=self.device)
        for number, (_, photo) in enumerate(photos):
            self._fill(number * len(SHRINKING), torch.from_numpy(photo).to(self.device))

    def _fill(self, first: int, photo: torch.Tensor) -> None:
        """Put a photo [H, W, 3] at all sizes into its place."""
        for picture in range(first, first + len(SHRINKING)):
            size = tuple(map(int, self._shapes[picture]))
            shrunk = photo if picture == first else downscale(photo.permute(2, 0, 1), size).permute(1, 2, 0)
            self.pixels[self._starts[picture] : self._starts[picture + 1]] = shrunk.flatten()

    def draw(self, *, seed: int, step: int, batch: int, size: int, first: int, count: int) -> torch.Tensor:
        """int64 [count, 4] on the CPU: where each crop starts in `pixels`, its picture's width, flip, saturation."""
        chances = np.random.default_rng((CROP_KEY, seed, step)).random((batch, 6))[first : first + count]
        which, top, left, flip, saturates, saturation = chances.T
        picture = np.searchsorted(self._cumulative_shares(size), which, side="right")
        heights, widths = self._shapes[picture].T
        rows, columns = (place * (side - size + 1) for place, side in ((top, heights), (left, widths)))
        start = self._starts[picture] + 3 * (rows.astype(np.int64) * widths + columns.astype(np.int64))
        times = np.where(saturates < self._saturated, 1 + (MOST_SATURATED - 1) * saturation, 1)
        drawn = np.stack([start, widths, flip < 0.5, (times * SATURATION_UNIT).astype(np.int64)], axis=1)
        return torch.from_numpy(drawn.astype(np.int64))

    def cut(self, drawn: torch.Tensor, size: int) -> torch.Tensor:
        """float32 [count, 3, size, size] in [0, 1], in channels-last memory."""
        start, width, flip, saturation = (column[:, None] for column in drawn.unbind(1))
        side = torch.arange(size, device=self.device)
        rows = start + 3 * width * side
        columns = 3 * torch.where(flip > 0, size - 1 - side, side)
        places = rows[:, :, None, None] + columns[:, None, :, None] + torch.arange(3, device=self.device)
        pictures = self.pixels[places].float()
        grey = pictures.mean(dim=-1, keepdim=True)
        times = (saturation.float() / SATURATION_UNIT)[:, :, None, None]
        # Where the saturation is 1, rounding gives back the very bytes.
        return grey.lerp(pictures, times).round_().clamp_(0, 255).div_(255).permute(0, 3, 1, 2)

    def _cumulative_shares(self, size: int) -> np.ndarray:
        """A size of a photo that is too small for the crop leaves its share to the photo as it is."""
        if size not in self._shares:
            fits = (self._shapes.min(axis=1) >= size).reshape(-1, len(SHRINKING))
            warn_of_small([self._named[photo] for photo in np.flatnonzero(~fits[:, 0])], len(fits), size)
            shares = fits * ((1 - AS_THEY_ARE) / len(SHRINKING))
            shares[:, 0] += fits[:, 0] * (1 - shares.sum(axis=1))
            shares *= self._shapes[:: len(SHRINKING)].prod(axis=1)[:, None]  # as the photo's pixels
            self._shares[size] = np.cumsum(shares.flatten()) / shares.sum()
        return self._shares[size]


def _shapes(height: int, width: int) -> list[tuple[int, int]]:
    return [(max(1, int(height / times)), max(1, int(width / times))) for times in SHRINKING]


def require_memory(needed: int, device: torch.device, what: str, remedy: str) -> None:
    """Raises InvalidInput when so many bytes would take more of a GPU's memory than training can spare."""
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    if needed > MOST_OF_THE_MEMORY * free:
        raise InvalidInput(
            f"{what} take {needed / 1e9:.1f} GB, of which this GPU has {free / 1e9:.1f} GB free: {remedy}"
        )
