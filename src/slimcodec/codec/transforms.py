"""`Transforms`: a model's networks and tables, as both sides of a file use them.

    encoder   pixels ─analyse─► y ─hyper_latents─► z_hat ─residuals─► r, y_hat
    decoder   symbols ─latents─► y_hat ─synthesise─► pixels      by a g_s that the file may correct (codec/adapt)

Big pictures pass in pieces. The pixels and latents that come out are the same, but for rounding.
"""

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np

from slimcodec import InvalidFile, InvalidModel
from slimcodec.codec import bilateral, dependent, maps
from slimcodec.codec.adapt import BASIS, Corrections, Fit
from slimcodec.codec.analysis import analysed
from slimcodec.codec.arrays import array_namespace
from slimcodec.codec.bilateral import Bilateral
from slimcodec.codec.bitstream import HASH_BYTES, Contents
from slimcodec.codec.grid import BLOCK, CELL, LATENT_SCALE, LATENTS, PLANES, Window, cells_of, whole
from slimcodec.codec.heads import Corrected, Heads
from slimcodec.codec.networks import Networks, Synthesis
from slimcodec.codec.pictures import LazyPixels
from slimcodec.codec.progress import Progress, tell
from slimcodec.codec.regions import Regions
from slimcodec.codec.rounding import Array
from slimcodec.codec.rows import by_specialist
from slimcodec.codec.scales import Scales
from slimcodec.codec.symbols import SymbolCoder, Symbols
from slimcodec.codec.tiling import latent_margin, synthesis_margin
from slimcodec.codec.units import MID_GREY
from slimcodec.codec.workers import ALONE, Workers
from slimcodec.codec.zoo import WEIGHTS

RESIDUAL_LIMIT = 2**15 - 1  # an escaped residual is an int16
TRANSFORM_TILE = 64  # latents: g_s takes pieces of at most 1024 x 1024 pixels and their margins

Tables = Mapping[str, np.ndarray]


def _inference(method: Callable) -> Callable:
    @wraps(method)
    def call(self: "Transforms", *arguments: Any, **named: Any) -> Any:
        with self.networks.inference():
            return method(self, *arguments, **named)

    return call


class Transforms:
    """The integers of a file depend on nothing that the networks may be. `run(tables)` gives them, once the tables are
    known to be good.

    Raises InvalidModel for tables that are none.
    """

    def __init__(
        self,
        run: Callable[[Tables], Networks],
        scales: Scales,
        tables: Tables,
        directory: Path,
        sha256: str,
    ):
        self.scales, self.directory = scales, directory
        self.architecture = architecture = scales.architecture
        self.model_hash = bytes.fromhex(sha256)[:HASH_BYTES]
        try:
            self.coder = SymbolCoder(scales, tables)
        except InvalidModel as error:
            raise InvalidModel(f"{directory / WEIGHTS}: {error}") from error
        self.networks = networks = run(tables)
        self.synthesis: Synthesis = networks
        self.rounding = networks.rounding
        self.corrections: Corrections | None = None
        if BASIS in tables:
            bits = networks.numpy(self.rounding.magnitude_bits)
            self.corrections = Corrections(networks.head, architecture.g_s[-1].scale, tables, self.coder.r_tables, bits)
        self.bilateral = Bilateral(tables) if bilateral.BASIS in tables else None
        self.latent_margin, self.synthesis_margin = latent_margin(architecture), synthesis_margin(architecture)

    @property
    def specialists(self) -> int:
        return self.architecture.specialists

    def with_map(self, who: np.ndarray) -> "Transforms":
        """The same for a picture whose cells have these specialists, uint8 [rows, columns]."""
        found = copy(self)
        found.synthesis = Regions(self.networks, who)
        return found

    def for_file(self, contents: Contents) -> "Transforms":
        """The same, with the file's specialists. Raises InvalidFile where only one of file and model knows any."""
        if (contents.cell_map is None) != (self.specialists == 1):
            has, model = ("no map", "some") if contents.cell_map is None else ("a map", "none")
            raise InvalidFile(f"the file has {has} of specialists, but its model has {model}; the file is damaged")
        if contents.cell_map is None:
            return self
        return self.with_map(maps.decode(contents.cell_map, contents.header.cells, self.specialists))

    @_inference
    def analyse(
        self, pixels: np.ndarray | LazyPixels, window: Window | None = None, progress: Progress | None = None
    ) -> Array:
        """uint8 [H, W, 3] → y [1, M, h, w] of a window of latents; without one of the whole padded picture.

        With specialists: what the last layer of g_a, which is each one's own, sees.
        """
        grid = cells_of(*pixels.shape[:2]).finer(LATENTS)
        return analysed(self.networks, partial(self.padded, pixels), window or grid, grid, progress)

    @_inference
    def latents_of(self, specialist: int, features: Array) -> Array:
        """What `analyse` gave → a specialist's y."""
        return self.networks.latents(specialist, features)

    @_inference
    def latents_by(self, features: Array, who: np.ndarray) -> Array:
        """What `analyse` gave for a window of cells that have these specialists → y."""
        return by_specialist(self.networks.latents, features, np.kron(who, np.ones((LATENTS, LATENTS), np.uint8)))

    @_inference
    def hyper_latents(self, y: Array, fixed_quality: int) -> Array:
        """y → z_hat [1, N, H'/64, W'/64]."""
        xp = array_namespace(y)
        z = self.networks.h_a(y * self.gain(fixed_quality))
        self._require_finite(y, "latents")
        self._require_finite(z, "latents")
        return xp.round(xp.clip(z, min=-128, max=127))

    def code(self, y: Array, z_hat: Array, fixed_quality: int, tile: int = 0) -> tuple[Symbols, Array]:
        """y, z_hat → the file's integers, and the latents y_hat [1, M, H'/16, W'/16] that a decoder makes of them."""
        z = self.networks.numpy(z_hat)[0].astype(np.int8)
        index = self.coder.scale_index(z, fixed_quality, tile)
        r, table, y_hat = self.residuals(y, z_hat, index, fixed_quality)
        return Symbols(z, table, r), self.join_planes(y_hat)

    # The two sides of a file, stage by stage.

    @_inference
    def residuals(
        self,
        y: Array,
        z_hat: Array,
        index: np.ndarray,
        fixed_quality: int,
        *,
        block: int = BLOCK,
        refined: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, list[Array]]:
        """y, z_hat and scale indices → r int16 and its tables uint8 [4, M, 2·rows, 2·columns], and y_hat's four planes,
        [1, M, …] each.

        block: the side of codec/dependent's, in cells. refined: y comes from `refine`.
        """
        xp, gain = array_namespace(y), self.gain(fixed_quality)[:, None]
        r, table = np.empty(index.shape, np.int16), np.empty_like(index)
        paths = dependent.start(z_hat.shape[2:], block)
        features, y_hat = [self.networks.h_mean(z_hat)], dict[int, Array]()
        for stage, chosen in enumerate(map(list, self.architecture.stages)):
            mu = self._means(stage, features)
            exact = (xp.stack([plane_of(y, plane) for plane in chosen], axis=1) - mu) * gain
            self._require_finite(exact, "means")
            stage_r, tables = self._chosen(exact, index[chosen], paths, refined)
            r[chosen], table[chosen] = (self.networks.numpy(found)[0] for found in (stage_r, tables))
            self._keep(self._latent(mu, stage_r, tables, fixed_quality), chosen, features, y_hat)
        return r, table, [y_hat[plane] for plane in range(PLANES)]

    def _chosen(self, exact: Array, index: np.ndarray, paths: dependent.Paths, refined: bool) -> tuple[Array, Array]:
        """exact [1, n, M, h, w] and its scale indices → r, integers as floats, and its tables."""
        native, xp = self.networks.native, array_namespace(exact)
        if self.rounding.dependent:
            r, table = self.rounding.path(self.networks.numpy(exact)[0], index, paths)
            return native(r[None].astype(np.float32)), native(table[None])
        scales = native(index[None])
        r = self.rounding.choose(exact, scales, refined=refined)
        return xp.clip(r, min=-RESIDUAL_LIMIT, max=RESIDUAL_LIMIT), scales

    @_inference
    def latents(self, symbols: Symbols, fixed_quality: int) -> Array:
        """The integers of a window of cells → y_hat [1, M, 4·rows, 4·columns]."""
        z_hat = self.networks.native(symbols.z[None].astype(np.float32))
        features, y_hat = [self.networks.h_mean(z_hat)], dict[int, Array]()
        for stage, chosen in enumerate(map(list, self.architecture.stages)):
            mu, tables = self._means(stage, features), self.networks.native(symbols.index[None, chosen])
            stage_r = self.networks.native(symbols.r[None, chosen].astype(np.float32))
            self._keep(self._latent(mu, stage_r, tables, fixed_quality), chosen, features, y_hat)
        return self.join_planes([y_hat[plane] for plane in range(PLANES)])

    def _means(self, stage: int, features: list[Array]) -> Array:
        """mu of a stage's planes, [1, n, M, h, w], from p and what the stages before gave."""
        mu = self.networks.context(stage, features)
        planes = len(self.architecture.stages[stage])
        return array_namespace(mu).reshape(mu, (1, planes, -1, *mu.shape[2:]))

    def _latent(self, mu: Array, r: Array, tables: Array, fixed_quality: int) -> Array:
        """mu, r [1, n, M, h, w] and the tables of r → y_hat: of a decoder in integers, integers."""
        added = self.rounding.reconstruct(r, tables)
        if not self.architecture.in_integers:
            return mu + added / self.gain(fixed_quality)[:, None]
        assert self.scales.limits is not None  # as the decoder is one of integers
        xp, integers = array_namespace(mu), (self.scales.step(fixed_quality), self.scales.limits)
        step, limit = (self.networks.native(values)[:, None, None] for values in integers)
        y_hat = mu + xp.round(xp.astype(added, xp.float64) * step)
        return xp.astype(xp.clip(y_hat, min=-limit, max=limit), xp.float32)

    def _keep(self, found: Array, chosen: list[int], features: list[Array], y_hat: dict[int, Array]) -> None:
        """What a stage gave, [1, n, M, h, w], for the stages after it and for the whole."""
        xp = array_namespace(found)
        features.append(xp.reshape(found, (1, -1, *found.shape[3:])))
        y_hat.update((plane, found[:, number]) for number, plane in enumerate(chosen))

    def join_planes(self, planes: list[Array]) -> Array:
        """Four planes [1, M, h, w] → [1, M, 2h, 2w]."""
        _, channels, height, width = planes[0].shape
        y = self.networks.empty(channels, 2 * height, 2 * width)
        for number, plane in enumerate(planes):
            y[:, :, number // 2 :: 2, number % 2 :: 2] = plane
        return y

    def _require_finite(self, values: Array, what: str) -> None:
        xp = array_namespace(values)
        if not xp.all(xp.isfinite(values)):
            raise InvalidModel(f"{self.directory}: gives {what} that are not finite; its weights are broken")

    def heads(self, corrected: Corrected | None) -> Heads | None:
        """g_s's last layers that a picture has of its own; None if it has none. Raises InvalidFile."""
        if corrected is None:
            return None
        assert self.corrections is not None  # whoever has a correction has it from there
        return Heads([self.corrections.applied(each) for each in corrected.corrections], corrected.who)

    @_inference
    def add_to_fit(self, fit: Fit, y_hat: Array, cells: Window, piece: Window, pixels: np.ndarray | LazyPixels) -> None:
        """Let a piece of a picture have its say in the correction. y_hat: of `cells`, the piece and what is around.

        Where y_hat ends and the picture does not, or y_hat is not quite what a decoder has, the fit is a little worse.
        """
        assert self.corrections is not None  # or there is no fit
        block = self.architecture.g_s[-1].scale
        blocks = whole((pixels.shape[0] // block, pixels.shape[1] // block))  # none that the picture's edge cuts
        for part in piece.finer(LATENTS).even_tiles(TRANSFORM_TILE):
            seen = self._whole_cells(part.grown(self.synthesis_margin, cells.finer(LATENTS)))
            latents = y_hat[:, :, *seen.seen_from(cells.finer(LATENTS)).slices]
            features, at = self.synthesis.features(latents, seen, part, cells.finer(LATENTS))
            within = part.finer(LATENT_SCALE // block).grown(0, blocks)
            if min(within.shape) > 0:
                target = self.networks.numpy(self.padded(pixels, within.finer(block))) - np.float32(MID_GREY)
                whose = self.synthesis.whose(within, CELL // block)
                self.corrections.add(fit, self.networks.numpy(features), at, within, target, whose)

    def filters(self, filtering: bytes, filter_map: bytes | None, cells: tuple[int, int]) -> bilateral.Filters | None:
        """Those that a picture of so many cells has of its own; None if it has none. Raises InvalidFile."""
        if not filtering and filter_map is None:
            return None
        if self.bilateral is None:
            raise InvalidFile("the file filters its picture, but this model knows no such filter; load the file's own")
        return self.bilateral.read(filtering, filter_map, cells)

    def synthesise(
        self,
        y_hat: Array,
        width: int,
        height: int,
        *,
        corrected: Corrected | None = None,
        filtering: bilateral.Filtering = bilateral.NO_FILTER,
    ) -> np.ndarray:
        """The latents of a whole picture → uint8 [H, W, 3]."""
        cells, own = whole(tuple(side // LATENTS for side in y_hat.shape[2:])), self.heads(corrected)
        filters = self.filters(*filtering, cells.shape)
        return self.synthesise_area(y_hat, cells, whole((height, width)), cells, own, filters=filters)

    def synthesise_area(
        self,
        y_hat: Array,
        cells: Window,
        area: Window,
        grid: Window,
        heads: Heads | None,
        progress: Progress | None = None,
        workers: Workers = ALONE,
        filters: bilateral.Filters | None = None,
    ) -> np.ndarray:
        """y_hat of a window of cells → the pixels of an area within, uint8 [h, w, 3].

        grid     the picture's cells
        filters  if the picture has any: they see a few pixels around the area
        """
        if filters is None:
            return self._unfiltered(y_hat, cells, area, grid, heads, progress, workers, TRANSFORM_TILE)
        seen, most = area.grown(bilateral.REACH, grid.finer(CELL)), TRANSFORM_TILE + 2  # or pieces would be halved
        pixels = self._unfiltered(y_hat, cells, seen, grid, heads, progress, workers, most)
        # In one piece, or to make it bytes takes longer than to filter it.
        found = bilateral.filtered(pixels, filters, seen.top, seen.left)
        return np.ascontiguousarray(found[area.seen_from(seen).slices])

    def _unfiltered(
        self,
        y_hat: Array,
        cells: Window,
        area: Window,
        grid: Window,
        heads: Heads | None,
        progress: Progress | None,
        workers: Workers,
        most: int,
    ) -> np.ndarray:
        """Piece by piece, of at most so many latents a side."""
        pixels = np.empty((*area.shape, 3), np.uint8)
        pieces = area.coarser(LATENT_SCALE).even_tiles(most)

        def make(piece: Window) -> None:
            seen = self._whole_cells(piece.grown(self.synthesis_margin, grid.finer(LATENTS)))
            latents = y_hat[:, :, *seen.seen_from(cells.finer(LATENTS)).slices]
            wanted = piece.finer(LATENT_SCALE).grown(0, area)
            with self.networks.inference():  # which a worker's thread does not know of yet
                x_hat = self._x_hat(latents, seen, piece, grid.finer(LATENTS), heads)
                inner = x_hat[0, :, *wanted.seen_from(piece.finer(LATENT_SCALE)).slices]
                self.networks.levels(inner, pixels[wanted.seen_from(area).slices])

        for done, _ in enumerate(workers.map(make, pieces), start=1):
            tell(progress, done, len(pieces))
        return pixels

    def _x_hat(self, y_hat: Array, seen: Window, piece: Window, grid: Window, heads: Heads | None) -> Array:
        if heads:
            return heads.g_s(self.synthesis, self.networks, y_hat, seen, piece, grid)
        return self.synthesis.g_s(y_hat, seen, piece, grid, None)

    def _whole_cells(self, latents: Window) -> Window:
        """A window grown to whole cells, if these have specialists."""
        return latents.coarser(LATENTS).finer(LATENTS) if self.specialists > 1 else latents

    def padded(self, pixels: np.ndarray | LazyPixels, window: Window) -> Array:
        """uint8 [H, W, 3] → float [1, 3, h, w] in [0, 1] of a window; beyond the picture its edges are repeated."""
        height, width, _ = pixels.shape
        top, left = min(window.top, height - 1), min(window.left, width - 1)
        found = np.array(pixels[top : min(window.bottom, height), left : min(window.right, width)])
        missing = [(0, window.shape[axis] - found.shape[axis]) for axis in (0, 1)]
        if any(after for _, after in missing):
            found = np.pad(found, [*missing, (0, 0)], mode="edge")
        return self.networks.picture(found)

    def gain(self, fixed_quality: int) -> Array:
        """What multiplies the residuals, [1, M, 1, 1]."""
        return self.networks.native(self.scales.gain(fixed_quality))[None, :, None, None]


def plane_of(y: Array, number: int) -> Array:
    """[1, M, 2h, 2w] → plane 2·dy + dx [1, M, h, w]: the elements at row dy and column dx of each 2×2."""
    return y[:, :, number // 2 :: 2, number % 2 :: 2]
