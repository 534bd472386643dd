"""The integers of a picture and their streams, one a tile: z, then the residuals r stage by stage.

Everything that decides how bits are parsed is here, and all of it is integers.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from slimcodec import InvalidModel
from slimcodec.codec import bitstream, entropy, quantise
from slimcodec.codec.network import PLANES, QUALITY_ONE, HyperpriorCodec
from slimcodec.codec.rate import SCALE_COUNT
from slimcodec.codec.tiling import PLANE_CELLS, Window, whole

Z_MINIMUM = -128
TABLES = {
    "z_frequencies": (("Q", "N", 256), torch.uint16),
    "r_frequencies": (("S",), torch.uint16),
    "r_sizes": ((SCALE_COUNT,), torch.int32),
    "r_offsets": ((SCALE_COUNT,), torch.int16),
    "r_skip": ((1,), torch.int32),
}


class Symbols(NamedTuple):
    """What a file's streams say of a window of cells (rows × columns), and the scale indices that follow from z."""

    z: np.ndarray  # int8 [N, rows, columns]
    index: np.ndarray  # uint8 [4, M, 2·rows, 2·columns], planes at 1/32
    r: np.ndarray  # int16 [4, M, 2·rows, 2·columns]


class SymbolCoder:
    """Symbols ↔ streams with a model's tables. `network` gives the scale indices.

    Raises InvalidModel when a table is missing, of the wrong shape or type, or no probability table.
    """

    def __init__(self, network: HyperpriorCodec, tables: dict[str, Tensor]):
        self.network = network
        self.z_tables, self.r_tables = entropy_tables(tables)
        expected = network.architecture.rungs, network.architecture.hypers
        if tables["z_frequencies"].shape[:2] != expected:
            raise InvalidModel(f"tables.z_frequencies must begin with {expected}, rungs and channels")

    def scale_index(self, z: np.ndarray, fixed_quality: int, tile: int = 0) -> np.ndarray:
        """z int8 [N, rows, columns] → the scale-table entry of every residual, uint8 [4, M, 2·rows, 2·columns].

        Every tile of `tile` cells a side is on its own: zeros stand for the z around it, so that its stream alone is
        enough to parse it.
        """
        grid = whole(z.shape[1:])
        index = np.empty((PLANES, self.network.architecture.latents, *grid.finer(PLANE_CELLS).shape), np.uint8)
        for piece in grid.tiles(tile):
            index[:, :, *piece.finer(PLANE_CELLS).slices] = self._scale_index(z[:, *piece.slices], fixed_quality)
        return index

    @torch.inference_mode()
    def _scale_index(self, z: np.ndarray, fixed_quality: int) -> np.ndarray:
        device = self.network.log_gain.device
        shift = self.network.gain_shift(torch.tensor([fixed_quality], dtype=torch.int64, device=device))
        index = self.network.scale_index(torch.from_numpy(np.ascontiguousarray(z)).to(device)[None], shift)
        return index[0].add_(0.5).floor_().clamp_(0, SCALE_COUNT - 1).to("cpu", torch.uint8).numpy()

    def write(self, symbols: Symbols, header: bitstream.Header) -> list[bytes]:
        """The stream of every tile of a whole picture."""
        return [self._write_tile(symbols, tile, header.quality) for tile in whole(header.cells).tiles(header.tile)]

    def _write_tile(self, symbols: Symbols, tile: Window, fixed_quality: int) -> bytes:
        encoder = entropy.Encoder()
        z = symbols.z[:, *tile.slices]
        encoder.put(z, self.z_index(z.shape, fixed_quality), self.z_tables)
        rows, columns = tile.finer(PLANE_CELLS).slices
        for stage in self.network.architecture.stages:
            planes = list(stage)
            encoder.put(symbols.r[planes, :, rows, columns], symbols.index[planes, :, rows, columns], self.r_tables)
        return encoder.finish()

    def read(self, contents: bitstream.Contents, window: Window | None = None) -> Symbols:
        """The symbols of a window of cells: the inverse of `write`, of as much as is there in a partial file.

        Only the tiles that the window touches are read. Raises InvalidFile for damaged streams.
        """
        header = contents.header
        grid = whole(header.cells)
        window = window or grid
        symbols = self._empty(window.shape)
        for tile, stream in zip(grid.tiles(header.tile), contents.streams, strict=True):
            if tile.meets(window):
                found = self._read_tile(stream, tile.shape, header.quality, partial=not contents.complete)
                _copy(found, tile, symbols, window)
        return symbols

    def _read_tile(self, stream: bytes, shape: tuple[int, int], fixed_quality: int, *, partial: bool) -> Symbols:
        decoder = entropy.Decoder(stream, partial=partial)
        architecture = self.network.architecture
        z = decoder.get(self.z_index((architecture.hypers, *shape), fixed_quality), self.z_tables).astype(np.int8)
        index = self.scale_index(z, fixed_quality)
        r = np.empty(index.shape, np.int16)
        for stage in architecture.stages:
            planes = list(stage)
            r[planes] = decoder.get(index[planes], self.r_tables)
        decoder.finish()
        return Symbols(z, index, r)

    def _empty(self, shape: tuple[int, int]) -> Symbols:
        architecture = self.network.architecture
        planes = PLANES, architecture.latents, *(PLANE_CELLS * side for side in shape)
        return Symbols(np.empty((architecture.hypers, *shape), np.int8), np.empty(planes, np.uint8),
                       np.empty(planes, np.int16))  # fmt: skip

    def information_bits(self, symbols: Symbols, fixed_quality: int) -> float:
        """What the symbols cost under the tables, without the streams' own overhead."""
        bits = entropy.information_bits(symbols.z, self.z_index(symbols.z.shape, fixed_quality), self.z_tables)
        pairs = zip(symbols.r, symbols.index, strict=True)
        return bits + sum(entropy.information_bits(r, index, self.r_tables) for r, index in pairs)

    def z_index(self, shape: tuple[int, int, int], fixed_quality: int) -> np.ndarray:
        """The table of every z: that of its channel at the nearest rung."""
        rung = min((fixed_quality + QUALITY_ONE // 2) // QUALITY_ONE, self.network.architecture.rungs) - 1
        channel = np.arange(shape[0], dtype=np.int32) + rung * shape[0]
        return np.broadcast_to(channel[:, None, None], shape)


def _copy(source: Symbols, tile: Window, target: Symbols, window: Window) -> None:
    """Put what a tile and a window have in common from the symbols of one into those of the other."""
    common = tile.grown(0, window)
    inner, place = common.seen_from(tile), common.seen_from(window)
    target.z[:, *place.slices] = source.z[:, *inner.slices]
    inner, place = inner.finer(PLANE_CELLS), place.finer(PLANE_CELLS)
    for planes in ("index", "r"):
        getattr(target, planes)[:, :, *place.slices] = getattr(source, planes)[:, :, *inner.slices]


def entropy_tables(tables: dict[str, Tensor]) -> tuple[entropy.Tables, entropy.Tables]:
    """The tables of a model directory → (those of z, one a rung and channel; those of r, one a scale).

    Raises InvalidModel when one is missing, of the wrong shape or type, or no probability table.
    """
    if unknown := sorted(set(tables) - set(TABLES)):
        raise InvalidModel(f"tables.{unknown[0]} is not a table of this format")
    for name, (shape, dtype) in TABLES.items():
        if name not in tables or tables[name].dtype != dtype or not _fits(tables[name].shape, shape):
            raise InvalidModel(f"tables.{name} is missing or not {dtype} of shape {shape}")
    if (tables["r_sizes"] < 2).any() or (tables["r_sizes"] % 2).any():
        raise InvalidModel("tables.r_sizes: every table of r holds an odd number of values and the escape")
    quantise.check_tables(tables)
    z, r, sizes = (tables[name].to(torch.int32).numpy() for name in ("z_frequencies", "r_frequencies", "r_sizes"))
    channels = z.shape[0] * z.shape[1]
    z_tables = entropy.build_tables(
        z.ravel(), np.full(channels, z.shape[2]), np.full(channels, Z_MINIMUM), escape=False
    )
    # A table of r holds -R…R and the escape.
    minima, skip = -((sizes - 2) // 2), int(tables["r_skip"])
    return z_tables, entropy.build_tables(r, sizes, minima, escape=True, skip=skip)


def _fits(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    """Whether a shape is the expected one, in which a string stands for any number."""
    return len(shape) == len(expected) and all(
        isinstance(e, str) or s == e for s, e in zip(shape, expected, strict=True)
    )
