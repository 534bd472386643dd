"""From a file's contents to a picture, window by window.

    streams ─► SymbolReader ─► symbols of a window and its surroundings ─► y_hat ─► pixels ─► canvas

A picture that was coded smaller is decoded whole, as far as the area needs it, and then made larger (codec/resizing).

What is live beside the canvas is the tiles around a window and what the networks make of it. An untiled picture is one
tile: its symbols are held whole. With several threads, a window's pieces pass g_s at the same time, and meanwhile the
next window's latents are made, and the integers of the one after it.
"""

import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from PIL import Image

from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec import bitstream, heads, heap, pictures, resizing, workers
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.grid import (
    CELL,
    CODING_TILE,
    LATENT_SCALE,
    LATENTS,
    QUARTERS,
    Window,
    decoding_windows,
    in_lines,
    is_big,
    whole,
)
from slimcodec.codec.progress import Progress, part_of
from slimcodec.codec.rounding import Array
from slimcodec.codec.symbols import SymbolReader, Symbols
from slimcodec.codec.transforms import Transforms
from slimcodec.codec.workers import Workers

MIB = 1 << 20
# By measurement, in bytes: what the networks take for an element of y in a window, and for a piece of g_s at its end;
# and what PyTorch, which takes more than ONNX Runtime, keeps beside.
BYTES_PER_LATENT, PIECE_BYTES, KEPT_BYTES = 28, 64 * MIB, 32 * MIB
AHEAD_BYTES = 4 + 3  # of an element of y: y_hat of this window and the symbols of the next but one


def decode(
    transforms: Transforms,
    contents: bitstream.Contents,
    area: Window,
    max_memory: int,
    progress: Progress | None = None,
) -> Image.Image:
    """The pixels of an area as `Codec.decompress` gives them. Raises InvalidFile."""
    task = _Decoding(transforms, contents, area)
    threads = task.threads_within(contents, max_memory)
    _check_memory(task.bytes_needed(contents, threads), max_memory)
    profiles = [contents.chunk(name) for name in ("icc", "exif", "xmp")]
    rows = contents.alpha_rows() if "alpha" in contents.chunks else None
    canvas = pictures.Canvas(area.shape, grey=contents.header.grey, alpha=rows is not None)
    reader = SymbolReader(transforms.coder, contents, task.cells_seen(task.area))
    for window, pixels in task.shown(reader, threads, progress):
        canvas.paste(pixels, *window.seen_from(area)[:2])
    if rows:
        canvas.set_alpha(rows, contents.header.width, area.top, area.left)
    return canvas.finish(*profiles)


def colours(transforms: Transforms, data: bytes) -> np.ndarray:
    """What the networks make of a whole file, uint8 [H, W, 3], in colour also where the picture was grey."""
    contents = bitstream.unpack(data, max_pixels=pictures.MAX_SIDE**2)
    task = _Decoding(transforms, contents, contents.header.shown)
    reader = SymbolReader(transforms.coder, contents, task.grid)
    return resizing.assembled(task.shown(reader, task.threads), contents.header.shown)


def coded_windows(
    transforms: Transforms, contents: bitstream.Contents, progress: Progress | None = None
) -> Iterator[tuple[Window, np.ndarray]]:
    """Windows of the coded picture and their pixels, uint8 [h, w, 3], which together are all of it."""
    task = _Decoding(transforms, contents, contents.header.shown)
    reader = SymbolReader(transforms.coder, contents, task.grid)
    return task.windows(reader, task.threads, progress)


class _Decoding:
    """How an area of a picture is decoded: `wanted`, pixels of what is shown, by `area`, those of what is coded."""

    def __init__(self, transforms: Transforms, contents: bitstream.Contents, wanted: Window):
        self.transforms, self.header, self.wanted = transforms.for_file(contents), contents.header, wanted
        self.area = resizing.seen(wanted, self.header.shown, self.header.quarters)
        self.grid = whole(self.header.cells)
        self.heads = transforms.heads(heads.read(contents, transforms.corrections))
        self.filters = transforms.filters(contents.filtering, contents.filter_map, self.grid.shape)
        self.latent_margin = transforms.latent_margin
        self.pixel_margin = transforms.synthesis_margin + (self.filters is not None)  # a latent, for the filter's reach
        self.reach = self.latent_margin + -(-self.pixel_margin // LATENTS)  # cells that a pixel depends on

    @property
    def threads(self) -> int:
        """How many there are for the pieces of a picture. The one piece of a small one has all of them."""
        return min(self.transforms.networks.threads, workers.MOST) if is_big(self.grid) else 1

    def threads_within(self, contents: bitstream.Contents, max_memory: int) -> int:
        """As many of them as fit into the memory; at least one."""
        return next((n for n in range(self.threads, 1, -1) if self.bytes_needed(contents, n) <= max_memory), 1)

    def shown(
        self, reader: SymbolReader, threads: int, progress: Progress | None = None
    ) -> Iterator[tuple[Window, np.ndarray]]:
        """Windows that make up what is wanted, and their pixels, uint8 [h, w, 3]."""
        windows = self.windows(reader, threads, progress)
        if self.header.quarters == QUARTERS:
            return windows
        coded = resizing.assembled(windows, self.area)
        return resizing.larger(coded, self.area, self.wanted, self.header.shown, self.header.quarters)

    def windows(
        self, reader: SymbolReader, threads: int, progress: Progress | None = None
    ) -> Iterator[tuple[Window, np.ndarray]]:
        """Windows that make up the area and their pixels, uint8 [h, w, 3], in an order in which tiles serve once."""
        cells = [window for line in in_lines(self._cells, self.area.long_axis) for window in line]
        with workers.begin(threads) as helpers:
            symbols = helpers.one_ahead(lambda window: self._symbols(reader, window), cells)
            found = helpers.one_ahead(self._latents, symbols)
            for done, (at, y_hat) in enumerate(zip(cells, found, strict=True)):
                window, report = self._pixels_of(at), part_of(progress, done / len(cells), (done + 1) / len(cells))
                yield window, self._pixels(y_hat, window, helpers, report)

    def _symbols(self, reader: SymbolReader, cells: Window) -> Symbols:
        """Of what a window of cells sees."""
        along = self.area.long_axis
        reader.forget(cells[along] - self.reach, along)
        heap.trim(is_big(self.grid))
        return reader.read(self.cells_seen(self._pixels_of(cells)))

    def _latents(self, symbols: Symbols) -> Array | None:
        """y_hat; None where there is nothing but zeros."""
        if is_big(self.grid) and self._cells_are_alike and not (symbols.z.any() or symbols.r.any()):
            return None
        y_hat = self.transforms.latents(symbols, self.header.quality)
        heap.trim(is_big(self.grid))
        return y_hat

    @property
    def _cells_are_alike(self) -> bool:
        """Where there is nothing but zeros: those of several specialists, corrections or filters are not."""
        several = (own is not None and own.who is not None for own in (self.heads, self.filters))
        return self.transforms.specialists == 1 and not any(several)

    def _pixels(self, y_hat: Array | None, window: Window, helpers: Workers, report: Progress | None) -> np.ndarray:
        if y_hat is None:
            return self._flat(window)
        cells = self.cells_seen(window)
        own = self.heads, report, helpers, self.filters
        return self.transforms.synthesise_area(y_hat, cells, window, self.grid, *own)

    @cached_property
    def _cells(self) -> list[Window]:
        return decoding_windows(self.area.coarser(CELL), self.reach)

    def _pixels_of(self, cells: Window) -> Window:
        return cells.finer(CELL).grown(0, self.area)

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
        return self.transforms.synthesise_area(y_hat, cells, cells.finer(CELL), cells, self.heads, filters=self.filters)

    def bytes_needed(self, contents: bitstream.Contents, threads: int) -> int:
        """What decoding takes beyond the library, the model and the file's own bytes, at most."""
        architecture = self.transforms.architecture
        mode_bytes = 1 if self.header.grey and "alpha" not in contents.chunks else 4  # as Pillow keeps them
        canvas = mode_bytes * math.prod(self.wanted.shape)
        if self.header.quarters < QUARTERS:
            canvas += 3 * math.prod(self.area.shape) + resizing.PIECE_BYTES
        return canvas + self._working_bytes(architecture, threads)

    def _working_bytes(self, architecture: Architecture, threads: int) -> int:
        wanted = self.cells_seen(self.area).shape
        in_window = [min(side, CODING_TILE + 2 * self.reach) for side in wanted] if is_big(self.grid) else wanted
        latents = architecture.latents * LATENTS**2  # of a cell
        tile = min(self.header.tile or max(self.header.cells), max(self.header.cells))
        kept = min(max(wanted), max(tile, CODING_TILE) + 2 * self.reach) * min(wanted)
        parsed = math.prod(min(tile, side) for side in self.header.cells)
        of_window = BYTES_PER_LATENT + (AHEAD_BYTES if threads > 1 else 0)
        return latents * (of_window * math.prod(in_window) + 3 * kept + parsed) + PIECE_BYTES * threads + KEPT_BYTES


def _check_memory(needed: int, limit: int) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidInput(f"max_memory {limit!r}: must be a whole number of bytes, from 1")
    if needed > limit:
        raise InvalidFile(
            f"decoding takes up to {-(-needed // MIB):,} MiB, more than the limit of {limit // MIB:,}; "
            "pass a larger max_memory (decompress --max-memory) to allow it, or decode a region"
        )
