"""The integers of a picture and their streams, one a tile: z, then the residuals r stage by stage.

Everything that decides how bits are parsed is here, and all of it is integers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from slimcodec import InvalidModel
from slimcodec.codec import adapt, bilateral, bitstream, dependent, entropy, rounding
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.contexts import BankCoder
from slimcodec.codec.grid import PLANE_CELLS, PLANES, Window, whole
from slimcodec.codec.scales import Scales
from slimcodec.codec.units import SCALE_COUNT

Z_MINIMUM = -128
SCALE_TILE = 32  # cells: h_scale, whose float64 is large, takes pieces of at most so many a side
SCALE_MARGIN = 2  # cells around its own that a scale index depends on: a 3x3 convolution at 1/64 and one at 1/32
CHUNK_SYMBOLS = 1 << 20  # residuals that are decoded at a time
Shapes = dict[str, tuple[tuple[int | str, ...], type]]
TABLES: Shapes = {
    "z_frequencies": (("Q", "N", 256), np.uint16),
    "r_frequencies": (("S",), np.uint16),
    "r_sizes": ((SCALE_COUNT,), np.int32),
    "r_offsets": ((SCALE_COUNT,), np.int16),
    "r_skip": ((1,), np.int32),
}
# A model has all of a group or none.
COST_TABLES: Shapes = {"r_error_bits": ((1,), np.int16)}  # which only encoders look at; see codec/rounding
BANK_TABLES: Shapes = {  # they take z_frequencies' place; see codec/contexts
    "z_bank_frequencies": (("K", 256), np.uint16),
    "z_banks": (("Q", "N", "S", "A"), np.uint8),
    "z_weights": (("Q", "N"), np.int32),
    "z_sum_edges": (("Q", "N", "S - 1"), np.int32),
    "z_activity_edges": (("Q", "N", "A - 1"), np.int32),
}
CORRECTION_TABLES: Shapes = {  # see codec/adapt
    adapt.BASIS: (("K", "O", "I"), np.float32),
    adapt.SCALES: (("Q", "K"), np.int16),
}
INTEGER_CORRECTION: Shapes = {
    adapt.BASIS: (("K", "O", "I"), np.int16),
    adapt.EXPONENT: ((1,), np.int16),
}
DEPENDENT_TABLES: Shapes = {  # the second quantiser's; see codec/dependent
    **{dependent.odd(name): TABLES[name] for name in rounding.OF_RESIDUALS},
    dependent.NEXT: (("T", 2), np.uint8),
}
MANY_STATES: Shapes = {dependent.NEXT: (("T", 2), np.uint16)}
FILTER_TABLES: Shapes = {bilateral.BASIS: (("K", bilateral.GROUPS, bilateral.STEPS), np.int16)}  # see codec/bilateral


class Symbols(NamedTuple):
    """What a file's streams say of a window of cells (rows × columns), and the scale indices that follow from z."""

    z: np.ndarray  # int8 [N, rows, columns]
    # uint8 [4, M, 2·rows, 2·columns], planes at 1/32: the table of every residual. That is its scale index, and
    # with dependent quantisation perhaps 64 more.
    index: np.ndarray  # type: ignore[assignment]
    r: np.ndarray  # int16 [4, M, 2·rows, 2·columns]


class SymbolCoder:
    """Symbols ↔ streams with a model's tables, arrays or tensors. `scales` gives the scale indices.

    Raises InvalidModel when a table is missing, of the wrong shape or type, or no probability table.
    """

    def __init__(self, scales: Scales, tables: Mapping[str, Any]):
        self.scales, self.architecture = scales, scales.architecture
        tables = {name: np.asarray(table) for name, table in tables.items()}
        self.z_tables, self.r_tables = entropy_tables(tables)
        following = tables.get(dependent.NEXT)
        self.next_states = None if following is None else following.astype(np.uint16)
        adapt.check_tables(tables, self.architecture)
        bilateral.check_tables(tables)
        expected = self.architecture.rungs, self.architecture.hypers
        if tables["z_frequencies"].shape[:2] != expected:
            raise InvalidModel(f"tables.z_frequencies must begin with {expected}, rungs and channels")
        self.banks = BankCoder(tables, *expected) if "z_banks" in tables else None

    def scale_index(self, z: np.ndarray, fixed_quality: int, tile: int = 0, window: Window | None = None) -> np.ndarray:
        """z int8 [N, rows, columns] → the scale-table entry of every residual, uint8 [4, M, 2·rows, 2·columns].

        Every tile of `tile` cells a side is on its own: zeros stand for the z around it, so that its stream alone is
        enough to parse it. `window`: only these cells. Big windows are computed piece by piece, to the same integers.
        """
        grid = whole(z.shape[1:])
        window = window or grid
        shape = PLANES, self.architecture.latents, *window.finer(PLANE_CELLS).shape
        index = np.empty(shape, np.uint8)
        for coded in grid.tiles_meeting(tile, window):
            for piece in coded.grown(0, window).tiles(SCALE_TILE):
                seen = piece.grown(SCALE_MARGIN, coded)
                found = self.scales.index(z[:, *seen.slices], fixed_quality)
                inner, place = piece.seen_from(seen).finer(PLANE_CELLS), piece.seen_from(window).finer(PLANE_CELLS)
                index[:, :, *place.slices] = found[:, :, *inner.slices]
        return index

    def write(self, symbols: Symbols, header: bitstream.Header) -> list[bytes]:
        """The stream of every tile of a whole picture."""
        return [self.write_tile(symbols, tile, header.quality) for tile in whole(header.cells).tiles(header.tile)]

    def write_tile(self, symbols: Symbols, tile: Window, fixed_quality: int) -> bytes:
        """The stream of a tile of the window that the symbols are of, in that window's coordinates."""
        encoder = entropy.Encoder()
        self._put_z(encoder, symbols.z[:, *tile.slices], fixed_quality)
        rows, columns = tile.finer(PLANE_CELLS).slices
        for stage in self.architecture.stages:
            planes = list(stage)
            encoder.put(symbols.r[planes, :, rows, columns], symbols.index[planes, :, rows, columns], self.r_tables)
        return encoder.finish()

    def read(self, contents: bitstream.Contents, window: Window | None = None) -> Symbols:
        """The symbols of a window of cells: the inverse of `write`, of as much as is there in a partial file.

        Only the tiles that the window touches are read. Raises InvalidFile for damaged streams.
        """
        window = window or whole(contents.header.cells)
        return SymbolReader(self, contents, window).read(window)

    def read_tile(
        self, stream: bytes, tile: Window, wanted: Window, header: bitstream.Header, *, partial: bool
    ) -> Symbols:
        """A tile's stream → its symbols in `wanted`, a window within the tile, which is all that is kept of it.

        Residuals of a partial stream that ends before them are 0, and then their scale indices are 0 too.
        """
        decoder = entropy.Decoder(stream, partial=partial)
        architecture = self.architecture
        z = self._get_z(decoder, (architecture.hypers, *tile.shape), header.quality)
        inner = wanted.seen_from(tile)
        if decoder.exhausted:
            symbols = _no_residuals(z[:, *inner.slices].copy(), architecture.latents)
        else:
            symbols = self.empty(wanted.shape)
            symbols.z[:] = z[:, *inner.slices]
            paths = dependent.start(tile.shape, header.block)
            self._read_residuals(decoder, self.scale_index(z, header.quality), paths, inner, symbols)
        decoder.finish()
        return symbols

    def _read_residuals(
        self, decoder: entropy.Decoder, index: np.ndarray, paths: dependent.Paths, inner: Window, symbols: Symbols
    ) -> None:
        """Fill the planes of `symbols`, the window `inner` of a tile; `index` is the whole tile's."""
        rows, columns = inner.finer(PLANE_CELLS).slices
        channels = max(1, CHUNK_SYMBOLS // index[0, 0].size)
        for plane in (plane for stage in self.architecture.stages for plane in stage):
            for first in range(0, index.shape[1], channels):
                chunk = slice(first, first + channels)
                r, table = self._get_residuals(decoder, index[plane, chunk], paths)
                symbols.r[plane, chunk], symbols.index[plane, chunk] = r[:, rows, columns], table[:, rows, columns]

    def _get_residuals(
        self, decoder: entropy.Decoder, index: np.ndarray, paths: dependent.Paths
    ) -> tuple[np.ndarray, np.ndarray]:
        """Residuals and their tables, [channels, 2·rows, 2·columns]; `paths` go on."""
        if self.next_states is not None:
            return dependent.read(decoder, index, paths, self.r_tables, self.next_states)
        return decoder.get(index, self.r_tables), index

    def empty(self, shape: tuple[int, int]) -> Symbols:
        """Room for the symbols of so many rows and columns of cells."""
        architecture = self.architecture
        planes = PLANES, architecture.latents, *(PLANE_CELLS * side for side in shape)
        return Symbols(np.empty((architecture.hypers, *shape), np.int8), np.empty(planes, np.uint8),
                       np.empty(planes, np.int16))  # fmt: skip

    def information_bits(self, symbols: Symbols, fixed_quality: int, tile: int = 0) -> float:
        """What the symbols cost under the tables, in tiles of `tile` cells, without the streams' own overhead."""
        pairs = zip(symbols.r, symbols.index, strict=True)
        r_bits = sum(entropy.information_bits(r, index, self.r_tables) for r, index in pairs)
        return self.z_bits(symbols.z, fixed_quality, tile) + r_bits

    def z_bits(self, z: np.ndarray, fixed_quality: int, tile: int = 0) -> float:
        """What z int8 [N, rows, columns] costs of that."""
        tiles = whole(z.shape[1:]).tiles(tile)
        return sum(float(self.coded_bits_of_z(z[:, *part.slices], fixed_quality).sum()) for part in tiles)

    def coded_bits_of_z(self, z: np.ndarray, fixed_quality: int) -> np.ndarray:
        """What every hyper-latent of one tile costs, [N, rows, columns]."""
        if self.banks:
            return self.banks.coded_bits(z, self._rung(fixed_quality))
        return entropy.coded_bits(z, self.z_index(z.shape, fixed_quality), self.z_tables).reshape(z.shape)

    def _put_z(self, encoder: entropy.Encoder, z: np.ndarray, fixed_quality: int) -> None:
        if self.banks:
            self.banks.put(encoder, z, self._rung(fixed_quality))
        else:
            encoder.put(z, self.z_index(z.shape, fixed_quality), self.z_tables)

    def _get_z(self, decoder: entropy.Decoder, shape: tuple[int, ...], fixed_quality: int) -> np.ndarray:
        if self.banks:
            return self.banks.get(decoder, shape, self._rung(fixed_quality))
        return decoder.get(self.z_index(shape, fixed_quality), self.z_tables).astype(np.int8)

    def z_index(self, shape: tuple[int, ...], fixed_quality: int) -> np.ndarray:
        """The table of every z in a model without banks: that of its channel at the nearest rung."""
        channel = np.arange(shape[0], dtype=np.int32) + self._rung(fixed_quality) * shape[0]
        return np.broadcast_to(channel[:, None, None], shape)

    def _rung(self, fixed_quality: int) -> int:
        """The nearest, from 0."""
        return min((fixed_quality + QUALITY_ONE // 2) // QUALITY_ONE, self.architecture.rungs) - 1


class SymbolReader:
    """The symbols of a file, window by window. A tile is decoded once and kept until it is told to be forgotten.

    `wanted`: the cells that will be asked for; of a tile beyond them nothing is kept.
    """

    def __init__(self, coder: SymbolCoder, contents: bitstream.Contents, wanted: Window):
        self.coder, self.contents, self.wanted = coder, contents, wanted
        self.grid = whole(contents.header.cells)
        self.kept: dict[Window, tuple[Window, Symbols]] = {}  # tile → what of it is kept

    def read(self, window: Window) -> Symbols:
        """Raises InvalidFile for damaged streams."""
        symbols = self.coder.empty(window.shape)
        for tile in self.grid.tiles_meeting(self.contents.header.tile, window):
            if tile not in self.kept:
                self.kept[tile] = self._read_tile(tile)
            covered, found = self.kept[tile]
            copy_symbols(found, covered, symbols, window)
        return symbols

    def forget(self, before: int, along: int) -> None:
        """Drop what is before this row (along 0) or column (1) of cells."""
        left = self.wanted._replace(**{"left" if along else "top": before})
        kept = {tile: found for tile, found in self.kept.items() if tile[along + 2] > before}
        self.kept = {tile: self._cut(*found, left) for tile, found in kept.items()}

    def _cut(self, covered: Window, symbols: Symbols, window: Window) -> tuple[Window, Symbols]:
        part = covered.grown(0, window)
        if part == covered:
            return covered, symbols
        inner = part.seen_from(covered)
        rows, columns = inner.finer(PLANE_CELLS).slices
        z, index, r = symbols.z[:, *inner.slices], symbols.index[:, :, rows, columns], symbols.r[:, :, rows, columns]
        # Copies, so that the rest goes; of what takes no memory there is none.
        return part, Symbols(z.copy(), *(values.copy() if any(values.strides) else values for values in (index, r)))

    def _read_tile(self, tile: Window) -> tuple[Window, Symbols]:
        header, covered = self.contents.header, tile.grown(0, self.wanted)
        stream = self.contents.streams[tile_number(tile, header)]
        found = self.coder.read_tile(stream, tile, covered, header, partial=not self.contents.complete)
        if found.r.dtype == np.int8:
            return covered, found
        small = found.r.astype(np.int8)  # hardly any residual needs 16 bits
        return covered, found._replace(r=small) if np.array_equal(small, found.r) else found


def _no_residuals(z: np.ndarray, latents: int) -> Symbols:
    """Zeros, which take no memory however many they are."""
    planes = PLANES, latents, *(PLANE_CELLS * side for side in z.shape[1:])
    return Symbols(z, *(np.broadcast_to(dtype(0), planes) for dtype in (np.uint8, np.int8)))


def tile_number(tile: Window, header: bitstream.Header) -> int:
    """The place of a tile in raster order."""
    side = header.tile or max(header.cells)
    return tile.top // side * header.tiles[1] + tile.left // side


def copy_symbols(
    source: Symbols, covered: Window, target: Symbols, window: Window, *, within: Window | None = None
) -> None:
    """Put what `covered`, which `source` is of, and `window` have in common into `target`; only what is `within`."""
    common = covered.grown(0, window).grown(0, within or window)
    inner, place = common.seen_from(covered), common.seen_from(window)
    target.z[:, *place.slices] = source.z[:, *inner.slices]
    inner, place = inner.finer(PLANE_CELLS), place.finer(PLANE_CELLS)
    for planes in ("index", "r"):
        getattr(target, planes)[:, :, *place.slices] = getattr(source, planes)[:, :, *inner.slices]


def entropy_tables(tables: Mapping[str, Any]) -> tuple[entropy.Tables, entropy.Tables]:
    """The tables of a model directory → (those of z, one a rung and channel; those of r, one a scale).

    Raises InvalidModel when one is missing, of the wrong shape or type, or no probability table.
    """
    integer = INTEGER_CORRECTION if adapt.EXPONENT in tables else {}
    many = MANY_STATES if np.asarray(tables.get(dependent.NEXT, ())).size > 2 * dependent.BYTES else {}
    groups = COST_TABLES, BANK_TABLES, CORRECTION_TABLES | integer, DEPENDENT_TABLES | many, FILTER_TABLES
    if unknown := sorted(set(tables).difference(TABLES, *groups)):
        raise InvalidModel(f"tables.{unknown[0]} is not a table of this format")
    needed = [TABLES, *(group for group in groups if not tables.keys().isdisjoint(group))]
    tables = {name: np.asarray(table) for name, table in tables.items()}
    for name, (shape, dtype) in (item for group in needed for item in group.items()):
        if name not in tables or tables[name].dtype != dtype or not _fits(tables[name].shape, shape):
            raise InvalidModel(f"tables.{name} is missing or not {dtype.__name__} of shape {shape}")
    z, r, sizes = (each.astype(np.int32) for each in (tables["z_frequencies"], *rounding.both_quantisers(tables)[:2]))
    if (sizes < 2).any() or (sizes % 2).any():
        raise InvalidModel("tables.r_sizes: every table of r holds an odd number of values and the escape")
    rounding.check_tables(tables)
    channels = z.shape[0] * z.shape[1]
    z_tables = entropy.build_tables(
        z.ravel(), np.full(channels, z.shape[2]), np.full(channels, Z_MINIMUM), escape=False
    )
    # A table of r holds -R…R and the escape.
    minima, skip = -((sizes - 2) // 2), int(tables["r_skip"][0])
    return z_tables, entropy.build_tables(r, sizes, minima, escape=True, skip=skip)


def _fits(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    """Whether a shape is the expected one, in which a string stands for any number."""
    return len(shape) == len(expected) and all(
        isinstance(e, str) or s == e for s, e in zip(shape, expected, strict=True)
    )
