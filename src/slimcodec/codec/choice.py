"""Which specialist codes which cell of a picture: the one with which its bits and its errors together cost least.

    y of every specialist ─► what a file of it alone would hold, and its picture ─► cost of every cell ─► the least

What a cell costs beside a cell of another specialist is not looked at. The choice is made at the nearest rung: searches
ask for many qualities.
"""

import numpy as np

from slimcodec.codec import maps
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.costs import error_bits
from slimcodec.codec.grid import CELL, CODING_TILE, LATENTS, PLANE_CELLS, Window, cells_of, is_big, whole
from slimcodec.codec.pictures import LazyPixels
from slimcodec.codec.rounding import Array
from slimcodec.codec.symbols import Symbols
from slimcodec.codec.transforms import Transforms

UNKNOWN = 255
MARGIN = 1  # cells around a piece that is coded for its costs


class Alone:
    """Of a model without specialists: there is no choice."""

    def __init__(self, transforms: Transforms, pixels: np.ndarray | LazyPixels):
        self._transforms, self.pixels = transforms, pixels

    def latents(self, analysed: Array, strip: Window, fixed_quality: int) -> Array:
        """What `Transforms.analyse` gave for a window of latents → y."""
        return analysed

    def transforms(self, fixed_quality: int) -> Transforms:
        """Those that know the specialists of all cells whose latents were asked for."""
        return self._transforms

    def written(self, fixed_quality: int) -> bytes | None:
        """The map as a file has it, if it has one."""
        return None


class Choice(Alone):
    """Made as far as latents are asked for."""

    def __init__(self, transforms: Transforms, pixels: np.ndarray | LazyPixels):
        super().__init__(transforms, pixels)
        self.grid = cells_of(*pixels.shape[:2])
        self.maps: dict[int, np.ndarray] = {}

    def latents(self, analysed: Array, strip: Window, fixed_quality: int) -> Array:
        cells, quality = strip.coarser(LATENTS), self._nearest(fixed_quality)
        chosen = self._map(fixed_quality)[cells.slices]
        if (chosen == UNKNOWN).any():
            for piece in cells.even_tiles(CODING_TILE // 2 if is_big(self.grid) else CODING_TILE**2):
                seen = piece.grown(MARGIN, cells)
                features = analysed[:, :, *seen.seen_from(cells).finer(LATENTS).slices]
                costs = [self._costs(k, features, seen, quality) for k in range(self._transforms.specialists)]
                inner = np.stack(costs)[:, *piece.seen_from(seen).slices]
                chosen[piece.seen_from(cells).slices] = inner.argmin(axis=0)
        return self._transforms.latents_by(analysed, chosen)

    def transforms(self, fixed_quality: int) -> Transforms:
        return self._transforms.with_map(self._map(fixed_quality))

    def written(self, fixed_quality: int) -> bytes:
        return maps.encode(self._map(fixed_quality), self._transforms.specialists)

    def _map(self, fixed_quality: int) -> np.ndarray:
        """uint8 [rows, columns]: filled as latents are asked for."""
        return self.maps.setdefault(self._nearest(fixed_quality), np.full(self.grid.shape, UNKNOWN, np.uint8))

    def _nearest(self, fixed_quality: int) -> int:
        """The rung's quality."""
        rung = (fixed_quality + QUALITY_ONE // 2) // QUALITY_ONE
        return QUALITY_ONE * min(rung, self._transforms.architecture.rungs)

    def _costs(self, specialist: int, features: Array, cells: Window, fixed_quality: int) -> np.ndarray:
        """What every one of the cells costs, in bits, where all of them are one specialist's: [rows, columns]."""
        alone = self._transforms.with_map(np.full(cells.shape, specialist, np.uint8))
        y = alone.latents_of(specialist, features)
        symbols, y_hat = alone.code(y, alone.hyper_latents(y, fixed_quality), fixed_quality)
        area = cells.finer(CELL).grown(0, whole(self.pixels.shape[:2]))
        at = whole(cells.shape)
        found = alone.synthesise_area(y_hat, at, whole(area.shape), at, None)
        error = np.square(np.array(self.pixels[area.slices], np.float32) - found).sum(axis=2)
        padding = [(0, CELL * cells.shape[axis] - error.shape[axis]) for axis in (0, 1)]
        weight = error_bits(alone.architecture.quality_ladder, fixed_quality) / 255**2
        return self._bits(symbols, fixed_quality) + weight * _by_cell(np.pad(error, padding), CELL)

    def _bits(self, symbols: Symbols, fixed_quality: int) -> np.ndarray:
        """What the cells' symbols cost, [rows, columns]."""
        transforms = self._transforms
        table, skip = transforms.networks.numpy(transforms.rounding.magnitude_bits), transforms.rounding.skip
        bits = np.where(symbols.index < skip, 0, table[symbols.index, np.abs(symbols.r).clip(max=table.shape[1] - 1)])
        of_z = transforms.coder.coded_bits_of_z(symbols.z, fixed_quality)
        return _by_cell(bits.sum(axis=(0, 1)), PLANE_CELLS) + of_z.sum(axis=0)


def choice_of(transforms: Transforms, pixels: np.ndarray | LazyPixels) -> Alone:
    return (Choice if transforms.specialists > 1 else Alone)(transforms, pixels)


def _by_cell(values: np.ndarray, side: int) -> np.ndarray:
    """[side · rows, side · columns] → the sums of each cell, [rows, columns]."""
    height, width = values.shape
    sums: np.ndarray = values.reshape(height // side, side, width // side, side).sum(axis=(1, 3))
    return sums
