"""g_s where every cell of a picture has a specialist of its own: its weights and no others' run for that cell.

    y_hat ─► cells, sorted by specialist ─► segment ─► look around ─► segment ─► … ─► last layer ─► x_hat

A specialist's cells are one batch [n, side, side, C]. A segment is what it makes of them alone, as ordinary
convolutions. Before a layer that sees further than its own place every cell gets what is around it, from whichever
specialist that is: one gather by index. So each place is computed once, and costs what one specialist costs.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from slimcodec.codec.architecture import Architecture
from slimcodec.codec.arrays import array_namespace, device_of, rows_of
from slimcodec.codec.blocks import KINDS
from slimcodec.codec.grid import LATENT_SCALE, LATENTS, Window, whole
from slimcodec.codec.networks import Head, Networks, Synthesis
from slimcodec.codec.rounding import Array
from slimcodec.codec.tiling import level_margins
from slimcodec.codec.units import MID_GREY

ENTER, FIRST, MIDDLE, LAST = "enter", "first", "middle", "last"  # a layer enters a level, or is one of a block's


class Layer(NamedTuple):
    """A convolution of g_s, as the module is called."""

    name: str
    kernel: int
    role: str


class Segment(NamedTuple):
    """Layers of one level, of which the first alone may see what is around."""

    level: int
    layers: tuple[Layer, ...]

    @property
    def margin(self) -> int:
        return self.layers[0].kernel // 2

    @property
    def carries(self) -> bool:
        """Whether it begins within a block: it is given what the block will add to."""
        return self.layers[0].role != ENTER

    @property
    def hands_on(self) -> bool:
        """Whether it ends within a block."""
        return self.layers[-1].role in (FIRST, MIDDLE)


def segments(architecture: Architecture) -> list[Segment]:
    """Those of g_s without its last layer."""
    found: list[Segment] = []
    for number, level in enumerate(architecture.g_s):
        kernel = architecture.upsampling_kernel if number else 1
        layers = [Layer(f"levels.{number}.enter", kernel, ENTER)]
        for place, block in enumerate(level.blocks):
            convolutions = KINDS[block.kind]
            roles = [FIRST, *[MIDDLE] * (len(convolutions) - 2), LAST]
            layers += [
                Layer(f"levels.{number}.blocks.{place}.{convolution.name}", convolution.kernel, role)
                for convolution, role in zip(convolutions, roles, strict=True)
            ]
        begins = [0, *(place for place, layer in enumerate(layers) if place and layer.kernel > 1), len(layers)]
        found += [Segment(number, tuple(layers[begin:end])) for begin, end in pairwise(begins)]
    return found


class Cells:
    """The cells of a window in the order of their specialists: `who`, integers [rows, columns]."""

    def __init__(self, window: Window, who: np.ndarray):
        self.window, self.who = window, who
        self.order = np.argsort(who, axis=None, kind="stable")  # numbers in raster order
        names, counts = np.unique(who, return_counts=True)
        self.specialists: list[int] = names.tolist()
        self.ends: list[int] = np.cumsum(counts).tolist()
        self._around: dict[tuple[int, int], np.ndarray] = {}

    def split(self, values: Array) -> list[Array]:
        """Values of all cells, in order → those of each specialist."""
        return [values[begin:end] for begin, end in zip([0, *self.ends], self.ends, strict=False)]

    def places(self, side: int) -> np.ndarray:
        """The number in raster order of every element, [cells · side²]."""
        rows, columns = self.window.shape
        raster = np.arange(rows * columns * side**2).reshape(rows, side, columns, side)
        return raster.transpose(0, 2, 1, 3).reshape(-1, side**2)[self.order].reshape(-1)

    def positions(self, side: int) -> np.ndarray:
        """The inverse of `places`."""
        places = self.places(side)
        where = np.empty_like(places)
        where[places] = np.arange(places.size)
        return where

    def around(self, side: int, margin: int) -> np.ndarray:
        """Where the elements of cells with a margin are among those of all cells, [cells · (side + 2 · margin)²].

        Beyond the window it is their number.
        """
        if (side, margin) not in self._around:
            rows, columns = self.window.shape
            where = self.positions(side).reshape(rows * side, columns * side)
            padded = np.pad(where, margin, constant_values=where.size)
            sliding: Any = np.lib.stride_tricks.sliding_window_view
            seen: np.ndarray = sliding(padded, (side + 2 * margin,) * 2)[::side, ::side]
            self._around[side, margin] = seen.reshape(self.order.size, -1)[self.order].reshape(-1)
        return self._around[side, margin]

    def within(self, window: Window) -> "Cells":
        return self if window == self.window else Cells(window, self.who[window.seen_from(self.window).slices])

    def kept(self, window: Window) -> list[np.ndarray]:
        """Which of each specialist's cells lie in a window."""
        rows, columns = np.divmod(self.order, self.window.shape[1])
        inner = window.seen_from(self.window)
        inside = (rows >= inner.top) & (rows < inner.bottom) & (columns >= inner.left) & (columns < inner.right)
        return [np.flatnonzero(part) for part in self.split(inside)]


class Regions:
    """`who`: uint8 [rows, columns], the specialist of every cell of a picture."""

    def __init__(self, networks: Networks, who: np.ndarray):
        self.networks, self.who = networks, who
        self.architecture = networks.architecture
        self.segments, self.margins = segments(self.architecture), level_margins(self.architecture)

    def features(self, y_hat: Array, seen: Window, piece: Window, grid: Window) -> tuple[Array, Window]:
        """As `Networks.features`. `seen` is a window of whole cells."""
        if alone := self._only(seen):
            return alone[1].features(y_hat, seen, piece, grid)
        found, cells = self._run(y_hat, seen, piece, grid)
        return assembled(found, cells), cells.window.finer(self._side(-1))

    def g_s(self, y_hat: Array, seen: Window, piece: Window, grid: Window, head: Head | None) -> Array:
        """As `Networks.g_s`, with a head for every specialist."""
        heads = head or self.networks.head
        if alone := self._only(seen):
            who, g_s = alone
            return g_s.g_s(y_hat, seen, piece, grid, _of(heads, who))
        found, cells = self._run(y_hat, seen, piece, grid)
        found = look_around(found, cells, self.architecture.head_kernel // 2)
        blocks = [
            self.networks.last_layer(x, _ordered(_of(heads, who)))
            for who, x in zip(cells.specialists, found, strict=True)
        ]
        x_hat = _shuffled(assembled(blocks, cells), self.architecture.g_s[-1].scale)
        return x_hat[:, :, *piece.seen_from(cells.window.finer(LATENTS)).finer(LATENT_SCALE).slices]

    def whose(self, window: Window, side: int) -> np.ndarray:
        rows, columns = (np.arange(window[axis], window[axis + 2]) // side for axis in (0, 1))
        return self.who[rows[:, None], columns]

    def alone(self, window: Window) -> Callable[[Array], Array]:
        """y_hat → x_hat, of a window of cells as a picture of its own."""
        part, at = Regions(self.networks, self.who[window.slices]), whole(window.shape).finer(LATENTS)
        return lambda y_hat: part.g_s(y_hat, at, at, at, None)

    def _only(self, seen: Window) -> tuple[int, Synthesis] | None:
        """The specialist of all of a window, and its g_s for whole pieces, if there is one."""
        who = np.unique(self.who[seen.coarser(LATENTS).slices]).tolist()
        found = self.networks.alone(who[0]) if len(who) == 1 else None
        return (who[0], found) if found else None

    def _run(self, y_hat: Array, seen: Window, piece: Window, grid: Window) -> tuple[list[Array], Cells]:
        """What the last layer sees: [n, side, side, C] for each specialist."""
        window = seen.coarser(LATENTS)
        cells = Cells(window, self.who[window.slices])
        found, carried = taken_apart(y_hat, cells), list[Array | None]()
        for number, segment in enumerate(self.segments):
            if number and segment.layers[0].role == ENTER:
                found, cells = self._trimmed(found, cells, piece, grid, segment.level - 1)
            if not segment.carries:
                carried = [None] * len(found)
            elif not self.segments[number - 1].hands_on:
                carried = list(found)
            seen_by = look_around(found, cells, segment.margin)
            parts = [
                self.networks.segment(who, number, x, adds_to)
                for who, x, adds_to in zip(cells.specialists, seen_by, carried, strict=True)
            ]
            found, carried = [x for x, _ in parts], [x for _, x in parts]
        return self._trimmed(found, cells, piece, grid, len(self.margins) - 1)

    def _trimmed(
        self, found: list[Array], cells: Cells, piece: Window, grid: Window, level: int
    ) -> tuple[list[Array], Cells]:
        """Without the cells that nothing of the piece depends on any more."""
        factor = LATENT_SCALE // self.architecture.g_s[level].scale
        left = piece.finer(factor).grown(self.margins[level], grid.finer(factor)).coarser(LATENTS * factor)
        if left == cells.window:
            return found, cells
        kept = [x[index] for x, index in zip(found, cells.kept(left), strict=True) if len(index)]
        return kept, cells.within(left)

    def _side(self, level: int) -> int:
        return LATENTS * LATENT_SCALE // self.architecture.g_s[level].scale


def by_specialist(run: Callable[[int, Array], Array], values: Array, who: np.ndarray) -> Array:
    """Every cell's part of [1, C, h, w] by its specialist: run(specialist, [n, C, …]) → [n, O, …]; all in one."""
    xp, cells = array_namespace(values), Cells(whole(who.shape), who)
    parts = [
        xp.permute_dims(run(specialist, xp.permute_dims(x, (0, 3, 1, 2))), (0, 2, 3, 1))
        for specialist, x in zip(cells.specialists, taken_apart(values, cells), strict=True)
    ]
    return assembled(parts, cells)


def taken_apart(y_hat: Array, cells: Cells) -> list[Array]:
    """[1, C, h, w] → [n, side, side, C] for each specialist."""
    xp = array_namespace(y_hat)
    _, channels, height, _ = y_hat.shape
    side = height // cells.window.shape[0]
    flat = xp.reshape(xp.permute_dims(y_hat, (0, 2, 3, 1)), (-1, channels))
    return cells.split(_rows(flat, cells.places(side), (-1, side, side, channels)))


def look_around(found: list[Array], cells: Cells, margin: int) -> list[Array]:
    """[n, side, side, C] → [n, side + 2 · margin, …, C], with zeros beyond the window."""
    if not margin:
        return found
    xp = array_namespace(*found)
    _, side, _, channels = found[0].shape
    flat = [xp.reshape(x, (-1, channels)) for x in found]
    nothing = xp.zeros((1, channels), dtype=flat[0].dtype, device=device_of(flat[0]))
    wide = side + 2 * margin
    seen = _rows(xp.concat([*flat, nothing], axis=0), cells.around(side, margin), (-1, wide, wide, channels))
    return cells.split(seen)


def assembled(found: Sequence[Array], cells: Cells) -> Array:
    """The inverse of `taken_apart`."""
    xp = array_namespace(*found)
    (rows, columns), (_, side, _, channels) = cells.window.shape, found[0].shape
    flat = xp.concat([xp.reshape(x, (-1, channels)) for x in found], axis=0)
    values = _rows(flat, cells.positions(side), (1, rows * side, columns * side, channels))
    return xp.permute_dims(values, (0, 3, 1, 2))


def _shuffled(x: Array, ratio: int) -> Array:
    """A pixel shuffle, [1, ratio²·C, h, w] → [1, C, ratio·h, ratio·w], of channels in the order row, column, c."""
    xp = array_namespace(x)
    _, channels, height, width = x.shape
    runs = xp.reshape(xp.permute_dims(x, (0, 2, 3, 1)), (height, width, ratio, channels // ratio))
    picture = xp.reshape(xp.permute_dims(runs, (0, 2, 1, 3)), (1, height * ratio, width * ratio, channels // ratio**2))
    return xp.permute_dims(picture, (0, 3, 1, 2))


def _of(heads: Head, specialist: int) -> Head:
    return Head(heads.weight[specialist], heads.bias[specialist])


def _ordered(head: Head) -> Head:
    """The outputs in the order row, column, colour, with the middle grey that is added to them."""
    colours = 3
    order = np.arange(len(head.bias)).reshape(colours, -1).T.reshape(-1)
    return Head(head.weight[order], head.bias[order] + np.float32(MID_GREY))


def _rows(values: Array, index: np.ndarray, shape: tuple[int, ...]) -> Array:
    return array_namespace(values).reshape(rows_of(values, index), shape)
