"""`Encoding`: a picture on its way into a file, at any quality.

    pixels ─► y, in strips ─► z ─► window by window: scale indices, residuals r ─► a stream for every tile

What is live of a big picture is a strip of y as wide as the picture and one window of all else, whatever its height.
Searches, which ask for many qualities, and effort keep all of y: 4·M / 256 bytes a pixel, twice that with effort.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np

from slimcodec.codec import bitstream, chunks, decoding, heap, pictures, resizing
from slimcodec.codec.bands import Band
from slimcodec.codec.bilateral import NO_FILTER, Filtered, Filtering
from slimcodec.codec.choice import choice_of
from slimcodec.codec.costs import STEPS, error_bits
from slimcodec.codec.grid import (
    CELL,
    LATENTS,
    QUARTERS,
    Window,
    automatic_tile,
    block_side,
    cells_of,
    coding_groups,
    coding_pieces,
    in_lines,
    is_big,
    whole,
)
from slimcodec.codec.heads import Corrected
from slimcodec.codec.isolation import isolated
from slimcodec.codec.partition import GroupFit
from slimcodec.codec.progress import Progress, part_of, tell
from slimcodec.codec.rounding import Array
from slimcodec.codec.symbols import SCALE_MARGIN, Symbols, copy_symbols, tile_number
from slimcodec.codec.tiling import hyper_margin
from slimcodec.codec.transforms import Transforms

ANALYSED = 0.85  # of the time that a big picture takes, until it is decoded for its filters


class Encoding:
    """A picture's latents, and what they cost and give at a quality (8.8).

    `effort` may be overridden: searches look at the unrefined latents. What is coded has so many `quarters` of the
    picture's width and height; bits a pixel and PSNR are those of the picture.
    """

    def __init__(
        self,
        transforms: Transforms,
        picture: pictures.Picture,
        effort: int,
        tile: int | None,
        progress: Progress | None,
        quarters: int = QUARTERS,
    ):
        self.transforms, self.picture, self.effort, self.progress = transforms, picture, effort, progress
        self.quarters, self.pixels = quarters, resizing.smaller(picture.pixels, quarters)
        self.grid = cells_of(*self.pixels.shape[:2])
        self.tile = automatic_tile(self.grid) if tile is None else tile
        self._block = block_side(self.tile)
        alpha = None if picture.alpha is None else (rows.tobytes() for rows in in_strips(picture.alpha))
        profiles = {"icc": picture.icc, "exif": picture.exif, "xmp": picture.xmp}
        self.choice = choice_of(transforms, self.pixels)
        self.chunks = chunks.compress_chunks(pixels=self.pixel_count, alpha=alpha, **profiles)
        self._refined: tuple[tuple[int, int], Array] | None = None
        self._own: tuple[tuple[int, int], _Own] | None = None
        self._latest: tuple[tuple[int, int], _Group] | None = None

    @property
    def pixel_count(self) -> int:
        height, width, _ = self.picture.pixels.shape
        return height * width

    def stream_bpp(self, data: bytes) -> float:
        """Bits a pixel of a file, less what does not depend on the quality, such as alpha."""
        return 8 * (len(data) - self.overhead_bytes) / self.pixel_count

    @cached_property
    def overhead_bytes(self) -> int:
        """The file without its streams and what `bits` counts besides."""
        cell_map = b"" if self.transforms.specialists > 1 else None
        streams = [b""] * len(self.grid.tiles(self.tile))
        return len(
            bitstream.join(
                self._header(bitstream.QUALITY_ONE), streams, self.chunks, bitstream.Adapted(cell_map=cell_map)
            )
        )

    @cached_property
    @isolated
    def y(self) -> Array:
        """All latents, [1, M, H'/16, W'/16]. They do not depend on the quality.

        With specialists: what `Transforms.analyse` gives for all.
        """
        return self.transforms.analyse(self.pixels, progress=None if self.effort else self.progress)

    @isolated
    def file(self, fixed_quality: int, *, effort: int | None = None) -> bytes:
        """The bytes of the whole .slim file."""
        streams, own = self._coded(fixed_quality, effort)
        return self._pack(streams, fixed_quality, own)

    @isolated
    def bits(self, fixed_quality: int, *, effort: int | None = None) -> float:
        """The information content of the symbols: what the streams will have, less their own overhead; and the map."""
        _ = self.y  # whoever asks for this will ask again
        information = self.transforms.coder.information_bits
        of_symbols = sum(
            information(group.symbols, fixed_quality, self.tile) for group in self._groups(fixed_quality, effort)
        )
        return of_symbols + 8 * len(self.choice.written(fixed_quality) or b"")

    @isolated
    def correction_bits(self, fixed_quality: int, *, effort: int | None = None) -> int:
        """What the picture's corrections, their map, and its filter take."""
        key = fixed_quality, self.effort if effort is None else effort
        if self._own is None or self._own[0] != key:
            _, own = self._coded(fixed_quality, effort)
            self._own = key, own
        correction, correction_map = self._written(self._own[1].corrected, fixed_quality)
        return 8 * (len(correction) + len(correction_map or b"") + self._own[1].filtering.size)

    @isolated
    def decoded(self, fixed_quality: int, *, effort: int | None = None) -> np.ndarray:
        """The colours that decoding will give, uint8 [H, W, 3]."""
        _ = self.y
        if is_big(self.grid):
            return decoding.colours(self.transforms, self.file(fixed_quality, effort=effort))
        fit = self._start_fit()
        (group,) = self._groups(fixed_quality, effort, fit)
        assert group.y_hat is not None  # it is kept, as the picture is not big
        transforms, own = self.choice.transforms(fixed_quality), self._best(fit, fixed_quality, [])
        self._own = (fixed_quality, self.effort if effort is None else effort), own
        height, width, _ = self.pixels.shape
        coded = transforms.synthesise(group.y_hat, width, height, **own._asdict())
        shown = whole(self.picture.pixels.shape[:2])
        return resizing.assembled(resizing.larger(coded, whole((height, width)), shown, shown, self.quarters), shown)

    @isolated
    def psnr_db(self, fixed_quality: int, *, effort: int | None = None) -> float:
        """On 8-bit RGB; infinite for identical pictures."""
        return psnr_db(self.picture.pixels, self.decoded(fixed_quality, effort=effort))

    @isolated
    def psnr_db_of(self, data: bytes) -> float:
        """Of a file of the picture, coded at whatever size."""
        return psnr_db(self.picture.pixels, decoding.colours(self.transforms, data))

    def _coded(self, fixed_quality: int, effort: int | None) -> tuple[list[bytes], "_Own"]:
        """The streams of all tiles, and what the picture changes about its decoder."""
        header, fit = self._header(fixed_quality), self._start_fit()
        streams = [b""] * len(self.grid.tiles(self.tile))
        for group in self._groups(fixed_quality, effort, fit):
            for tile in group.window.tiles_meeting(self.tile, group.window):
                stream = self.transforms.coder.write_tile(group.symbols, tile.seen_from(group.window), fixed_quality)
                streams[tile_number(tile, header)] = stream
        return streams, self._best(fit, fixed_quality, streams)

    def _start_fit(self) -> GroupFit | None:
        """What the picture's corrections and its filters follow from; None where the model knows none."""
        corrections, keep = self.transforms.corrections, bool(self.transforms.bilateral) and not is_big(self.grid)
        return GroupFit(corrections, self.grid, CELL // corrections.ratio, keep=keep) if corrections else None

    def _best(self, fit: GroupFit | None, fixed_quality: int, streams: list[bytes]) -> "_Own":
        """streams: of all tiles, from which a big picture is decoded to see what its filters may do."""
        if fit is None:
            return _Own(None)
        bilateral, ladder = self.transforms.bilateral, self.transforms.architecture.quality_ladder
        price = error_bits(ladder, fixed_quality)
        corrected = fit.best(fixed_quality, price)
        if bilateral is None:
            return _Own(corrected)
        decoded = (
            self._decoded_again(streams, corrected, fixed_quality) if is_big(self.grid) else fit.decoded(corrected)
        )
        return _Own(corrected, bilateral.best(decoded, price, self.grid.shape))

    def _decoded_again(
        self, streams: list[bytes], corrected: Corrected | None, fixed_quality: int
    ) -> Iterator[Filtered]:
        """Window by window, with corrections and before a filter."""
        correction, correction_map = self._written(corrected, fixed_quality)
        own = correction, self.choice.written(fixed_quality), correction_map
        contents = bitstream.Contents(self._header(fixed_quality), streams, {}, True, *own)
        report = part_of(self.progress, ANALYSED, 1)
        for window, found in decoding.coded_windows(self.transforms, contents, report):
            rows, columns = window.slices
            yield Filtered(np.asarray(self.pixels[rows, columns]), found, window.top, window.left)

    def _groups(self, fixed_quality: int, effort: int | None, fit: GroupFit | None = None) -> Iterator["_Group"]:
        """The picture in groups of tiles, coded one after the other; that of a small picture is kept.

        All of the picture has its say in `fit`, if there is one.
        """
        key = fixed_quality, self.effort if effort is None else effort
        if is_big(self.grid):
            yield from self._encode(*key, fit)
            return
        if self._latest is None or self._latest[0] != key:
            self._latest = None  # gives its memory back first
            (group,) = self._encode(*key, None)
            self._latest = key, group
        group = self._latest[1]
        if fit:
            assert group.y_hat is not None  # as the picture is not big
            transforms = self.choice.transforms(fixed_quality)
            transforms.add_to_fit(fit, group.y_hat, self.grid, self.grid, self.pixels)
        yield group

    def _encode(self, fixed_quality: int, effort: int, fit: GroupFit | None) -> Iterator["_Group"]:
        along, at_16 = self.grid.long_axis, self.grid.finer(LATENTS)
        keep_all = effort or "y" in self.__dict__ or not is_big(self.grid)
        analysed = self._kept_y if keep_all else self._new_y
        y = Band(lambda strip: self.choice.latents(analysed(strip), strip, fixed_quality), at_16, along)
        z = _HyperLatents(self.transforms, y, self.grid, fixed_quality)
        if effort:
            refined = self._refine(y, z, fixed_quality, effort)
            y = Band(lambda strip: refined[:, :, *strip.slices], at_16, along)
        for line in in_lines(coding_groups(self.grid, self.tile), along):
            for window in line:
                yield self._encode_group(y, z, window, fixed_quality, fit, refined=bool(effort))
            y.forget((line[0][along + 2] - self.transforms.latent_margin) // self._block * self._block * LATENTS)

    def _encode_group(
        self, y: Band, z: "_HyperLatents", window: Window, fixed_quality: int, fit: GroupFit | None, *, refined: bool
    ) -> "_Group":
        symbols, big = self.transforms.coder.empty(window.shape), is_big(self.grid)
        for piece in coding_pieces(window, self.grid):
            # The means within depend on what is coded around: that is coded here as well, and left out.
            seen = piece.grown(self.transforms.latent_margin, self.grid).in_blocks(self._block, self.grid)
            z_hat, index = z.take(seen, self.tile)
            heap.trim(big)
            r, table, planes = self.transforms.residuals(
                y.take(seen.finer(LATENTS)), z_hat, index, fixed_quality, block=self._block, refined=refined
            )
            copy_symbols(Symbols(z.integers[:, *seen.slices], table, r), seen, symbols, window, within=piece)
            y_hat = None if big and not fit else self.transforms.join_planes(planes)
            del r, planes, index, table
            if y_hat is not None and fit:
                transforms = self.choice.transforms(fixed_quality)
                transforms.add_to_fit(fit, y_hat, seen, piece, self.pixels)
            heap.trim(big)
        return _Group(window, symbols, None if big else y_hat)

    def _kept_y(self, strip: Window) -> Array:
        return self.y[:, :, *strip.slices]

    def _new_y(self, strip: Window) -> Array:
        along = self.grid.long_axis
        begin, end = (strip[edge] / self.grid.finer(LATENTS)[along + 2] for edge in (along, along + 2))
        share = ANALYSED if self.transforms.bilateral and is_big(self.grid) else 1
        return self.transforms.analyse(self.pixels, strip, part_of(self.progress, share * begin, share * end))

    def _refine(self, y: Band, z: "_HyperLatents", fixed_quality: int, effort: int) -> Array:
        """All of y, refined; that of the latest quality is kept."""
        from slimcodec.codec.refine import refine  # which needs PyTorch

        if self._refined is None or self._refined[0] != (fixed_quality, effort):
            self._refined = None
            refined = refine(
                self.choice.transforms(fixed_quality),
                self.pixels,
                y.take(self.grid.finer(LATENTS)),
                z.band.take(self.grid),
                fixed_quality,
                self.tile,
                STEPS[effort],
                lambda done, of: tell(self.progress, done, of),
            )
            self._refined = (fixed_quality, effort), refined
        return self._refined[1]

    def _pack(self, streams: list[bytes], fixed_quality: int, own: "_Own") -> bytes:
        correction, correction_map = self._written(own.corrected, fixed_quality)
        cell_map, header = self.choice.written(fixed_quality), self._header(fixed_quality)
        adapted = bitstream.Adapted(correction, cell_map, correction_map, *own.filtering)
        return bitstream.join(header, streams, self.chunks, adapted)

    def _written(self, corrected: Corrected | None, fixed_quality: int) -> tuple[bytes, bytes | None]:
        """As `bitstream.join` takes them."""
        if corrected is None or self.transforms.corrections is None:
            return b"", None
        return corrected.written(self.transforms.corrections, fixed_quality)

    def _header(self, fixed_quality: int) -> bitstream.Header:
        height, width, _ = self.picture.pixels.shape
        how = self.tile, self.picture.grey, self.quarters, self.transforms.rounding.dependent
        return bitstream.Header(self.transforms.model_hash, width, height, fixed_quality, *how)


class _Own(NamedTuple):
    """What a picture changes about its decoder."""

    corrected: Corrected | None
    filtering: Filtering = NO_FILTER


class _Group(NamedTuple):
    """What is coded in one go: tiles, or what of a picture that is not big there is."""

    window: Window  # of cells
    symbols: Symbols
    y_hat: Array | None  # [1, M, h, w]; of a big picture it is not kept


class _HyperLatents:
    """z_hat of a picture at a quality, made as far as it is asked for; all of it is kept, for it is small."""

    def __init__(self, transforms: Transforms, y: Band, grid: Window, fixed_quality: int):
        self.transforms, self.y, self.grid, self.fixed_quality = transforms, y, grid, fixed_quality
        self.margin = hyper_margin(transforms.architecture)
        self.integers = np.zeros((transforms.architecture.hypers, *grid.shape), np.int8)
        self.band = Band(self._make, grid, grid.long_axis)

    def take(self, window: Window, tile: int) -> tuple[Array, np.ndarray]:
        """z_hat [1, N, h, w] of a window of cells, and its scale indices in tiles of `tile` cells, [4, M, 2·h, 2·w]."""
        self.band.take(window.grown(SCALE_MARGIN, self.grid))
        return self.band.take(window), self.transforms.coder.scale_index(
            self.integers, self.fixed_quality, tile, window
        )

    def _make(self, strip: Window) -> Array:
        seen = strip.grown(self.margin, self.grid)
        z_hat = self.transforms.hyper_latents(self.y.take(seen.finer(LATENTS)), self.fixed_quality)
        z_hat = z_hat[:, :, *strip.seen_from(seen).slices]
        self.integers[:, *strip.slices] = self.transforms.networks.numpy(z_hat)[0]
        return z_hat


def psnr_db(pixels: np.ndarray | pictures.LazyPixels, decoded: np.ndarray) -> float:
    """Both uint8 [H, W, 3]."""
    error = sum(
        float(np.square(rows.astype(np.int32) - others).sum())
        for rows, others in zip(in_strips(pixels), in_strips(decoded), strict=True)
    )
    mse = error / decoded.size
    return 10 * np.log10(255**2 / mse) if mse else float("inf")


def in_strips(pixels: np.ndarray | pictures.LazyPixels) -> Iterator[np.ndarray]:
    """A few rows at a time, so that a big picture is not copied."""
    for top in range(0, pixels.shape[0], CELL):
        yield pixels[top : top + CELL]
