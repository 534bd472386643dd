"""From a file's contents to a picture, window by window.

    streams ─► SymbolReader ─► symbols of a window and its surroundings ─► y_hat ─► pixels ─► canvas

What is live beside the canvas is the tiles around a window and what the networks make of it. An untiled picture is one
tile: its symbols are held whole.
"""

import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from PIL import Image

from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec import bitstream, heap, pictures
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.grid import (
    CELL,
    CODING_TILE,
    LATENT_SCALE,
    LATENTS,
    Window,
    decoding_windows,
    in_lines,
    is_big,
    whole,
)
from slimcodec.codec.progress import Progress, part_of
from slimcodec.codec.symbols import SymbolReader
from slimcodec.codec.transforms import Transforms

MIB = 1 << 20
# By measurement, in bytes: what the networks take for an element of y in a window, and for a piece of g_s at its end.
BYTES_PER_LATENT, PIECE_BYTES = 28, 64 * MIB


def decode(
    transforms: Transforms,
    contents: bitstream.Contents,
    area: Window,
    max_memory: int,
    progress: Progress | None = None,
) -> Image.Image:
    """The pixels of an area as `Codec.decompress` gives them. Raises InvalidFile."""
    task = _Decoding(transforms, contents, area)
    _check_memory(task.bytes_needed(contents), max_memory)
    profiles = [contents.chunk(name) for name in ("icc", "exif", "xmp")]
    rows = contents.alpha_rows() if "alpha" in contents.chunks else None
    canvas = pictures.Canvas(area.shape, grey=contents.header.grey, alpha=rows is not None)
    for window, pixels in task.windows(SymbolReader(transforms.coder, contents, task.cells_seen(area)), progress):
        canvas.paste(pixels, *window.seen_from(area)[:2])
    if rows:
        canvas.set_alpha(rows, contents.header.width, area.top, area.left)
    return canvas.finish(*profiles)


def colours(transforms: Transforms, data: bytes) -> np.ndarray:
    """What the networks make of a whole file, uint8 [H, W, 3], in colour also where the picture was grey."""
    contents = bitstream.unpack(data, max_pixels=pictures.MAX_SIDE**2)
    area = whole((contents.header.height, contents.header.width))
    task = _Decoding(transforms, contents, area)
    found = np.empty((*area.shape, 3), np.uint8)
    for window, pixels in task.windows(SymbolReader(transforms.coder, contents, task.grid), None):
        found[window.slices] = pixels
    return found


class _Decoding:
    """How an area of a picture, in pixels, is decoded by a codec."""

    def __init__(self, transforms: Transforms, contents: bitstream.Contents, area: Window):
        self.transforms, self.header, self.area = transforms, contents.header, area
        self.grid = whole(self.header.cells)
        self.head = transforms.head(transforms.read_correction(contents.correction, self.header.quality))
        _, self.latent_margin, self.pixel_margin = transforms.margins
        self.reach = self.latent_margin + -(-self.pixel_margin // LATENTS)  # cells that a pixel depends on

    def windows(self, reader: SymbolReader, progress: Progress | None) -> Iterator[tuple[Window, np.ndarray]]:
        """Windows that make up the area and their pixels, uint8 [h, w, 3], in an order in which tiles serve once."""
        along = self.area.long_axis
        cells = decoding_windows(self.area.coarser(CELL), self.reach)
        done = 0
        for line in in_lines(cells, along):
            for window in (cell.finer(CELL).grown(0, self.area) for cell in line):
                report = part_of(progress, done / len(cells), (done + 1) / len(cells))
                yield window, self._pixels(reader, window, report)
                done += 1
            reader.forget(line[0][along + 2] - self.reach, along)

    def _pixels(self, reader: SymbolReader, window: Window, progress: Progress | None) -> np.ndarray:
        cells = self.cells_seen(window)
        heap.trim(is_big(self.grid))
        symbols = reader.read(cells)
        if is_big(self.grid) and not (symbols.z.any() or symbols.r.any()):
            return self._flat(window)
        y_hat = self.transforms.latents(symbols, self.header.quality)
        heap.trim(is_big(self.grid))
        return self.transforms.synthesise_area(y_hat, cells, window, self.grid, self.head, progress)

    def cells_seen(self, area: Window) -> Window:
        """The cells whose symbols an area of pixels depends on."""
        at_16 = self.grid.finer(LATENTS)
        latents = area.coarser(LATENT_SCALE).grown(self.pixel_margin, at_16)
        return latents.coarser(LATENTS).grown(self.latent_margin, self.grid)

    def _flat(self, window: Window) -> np.ndarray:
        """The pixels where there is nothing but zeros, as in a file that ends early."""
        rows, columns = (self._alike(np.arange(window[axis], window[axis + 2]), self.grid[axis + 2]) for axis in (0, 1))
        return self._flat_picture[rows[:, None], columns]

    def _alike(self, pixels: np.ndarray, cells: int) -> np.ndarray:
        """Rows or columns of a picture of so many cells → those of `_flat_picture` that look the same."""
        reach = self.reach
        if cells <= 2 * reach + 1:
            return pixels
        cell = pixels // CELL
        alike = np.select([cell < reach, cell >= cells - reach], [cell, cell - cells + 2 * reach + 1], reach)
        return alike * CELL + pixels % CELL

    @cached_property
    def _flat_picture(self) -> np.ndarray:
        """The smallest picture of zeros with a cell that no edge reaches; between edges every cell looks like it."""
        cells = whole(tuple(min(side, 2 * self.reach + 1) for side in self.grid.shape))
        symbols = self.transforms.coder.empty(cells.shape)
        for values in symbols:
            values.fill(0)
        y_hat = self.transforms.latents(symbols, self.header.quality)
        return self.transforms.synthesise_area(y_hat, cells, cells.finer(CELL), cells, self.head)

    def bytes_needed(self, contents: bitstream.Contents) -> int:
        """What decoding takes beyond the library, the model and the file's own bytes, at most."""
        architecture = self.transforms.architecture
        mode_bytes = 1 if self.header.grey and "alpha" not in contents.chunks else 4  # as Pillow keeps them
        return mode_bytes * math.prod(self.area.shape) + self._working_bytes(architecture)

    def _working_bytes(self, architecture: Architecture) -> int:
        wanted = self.cells_seen(self.area).shape
        in_window = [min(side, CODING_TILE + 2 * self.reach) for side in wanted] if is_big(self.grid) else wanted
        latents = architecture.latents * LATENTS**2  # of a cell
        tile = min(self.header.tile or max(self.header.cells), max(self.header.cells))
        kept = min(max(wanted), max(tile, CODING_TILE) + 2 * self.reach) * min(wanted)
        parsed = math.prod(min(tile, side) for side in self.header.cells)
        return latents * (BYTES_PER_LATENT * math.prod(in_window) + 3 * kept + parsed) + PIECE_BYTES


def _check_memory(needed: int, limit: int) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidInput(f"max_memory {limit!r}: must be a whole number of bytes, from 1")
    if needed > limit:
        raise InvalidFile(
            f"decoding takes up to {-(-needed // MIB):,} MiB, more than the limit of {limit // MIB:,}; "
            "pass a larger max_memory (decompress --max-memory) to allow it, or decode a region"
        )
