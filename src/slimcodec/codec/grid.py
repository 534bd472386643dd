"""The grids of a picture: pixels, y at 1/16, its planes at 1/32, z at 1/64; and windows of them.

    pixel ×16 ─► latent, an element of y ×2 ─► element of a plane ×2 ─► cell, an element of z

Only this file knows these numbers. Nothing here needs PyTorch.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise, product
from typing import NamedTuple

CELL = 64  # pixels along the side of a cell: H and W are padded to multiples of it
LATENT_SCALE = 16  # pixels along the side of a latent
PLANES = 4  # of y: each has one element of every 2×2
PLANE_SCALE = 2 * LATENT_SCALE  # planes, p and the context are at 1/32
LATENTS = CELL // LATENT_SCALE  # latents along the side of a cell
PLANE_CELLS = CELL // PLANE_SCALE  # elements of a plane along the side of a cell
QUARTERS = 4  # of a side of a picture: it may be coded with fewer, in blocks of 4 x 4 of its pixels
BLOCK = 4  # cells along the side of a block, whose residuals are chosen together. Means see as far: no piece must grow
CODING_TILE = 32  # cells: a picture of more than 2048 x 2048 pixels is big, coded in tiles and windows of that size


class Window(NamedTuple):
    """The rows top…bottom-1 and columns left…right-1 of a grid: of pixels, of latents (16 pixels), of cells (64)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    @property
    def long_axis(self) -> int:
        """0 if it has at least as many rows as columns, else 1: its edges there are self[axis] and self[axis + 2]."""
        return 0 if self.shape[0] >= self.shape[1] else 1

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def grown(self, margin: int, within: "Window") -> "Window":
        """With a margin all around, as far as the grid goes."""
        return Window(
            max(self.top - margin, within.top),
            max(self.left - margin, within.left),
            min(self.bottom + margin, within.bottom),
            min(self.right + margin, within.right),
        )

    def finer(self, factor: int) -> "Window":
        """The same area on a grid whose elements are `factor` times smaller."""
        return Window(*(factor * edge for edge in self))

    def coarser(self, factor: int) -> "Window":
        """The elements of a grid `factor` times coarser that the area touches."""
        return Window(self.top // factor, self.left // factor, -(-self.bottom // factor), -(-self.right // factor))

    def in_blocks(self, side: int, grid: "Window") -> "Window":
        """With all else of a grid of cells that is in the same blocks."""
        return self.coarser(side).finer(side).grown(0, grid)

    def seen_from(self, outer: "Window") -> "Window":
        """The same area in the coordinates of a window that contains it."""
        rows, columns = outer.top, outer.left
        return Window(self.top - rows, self.left - columns, self.bottom - rows, self.right - columns)

    def between(self, axis: int, begin: int, end: int) -> "Window":
        """All across, and from one row (axis 0) or column (1) to another."""
        return self._replace(**({"top": begin, "bottom": end} if axis == 0 else {"left": begin, "right": end}))

    def meets(self, other: "Window") -> bool:
        return (
            self.top < other.bottom and other.top < self.bottom and self.left < other.right and other.left < self.right
        )

    def tiles(self, side: int) -> list["Window"]:
        """Squares of that side in raster order, the last of a row or column smaller; side 0: all in one."""
        side = side or max(self.shape)
        return [
            Window(top, left, min(top + side, self.bottom), min(left + side, self.right))
            for top, left in product(range(self.top, self.bottom, side), range(self.left, self.right, side))
        ]

    def tiles_meeting(self, side: int, other: "Window") -> Iterator["Window"]:
        """Those of `tiles` that share an element with another window within this one, without looking at the rest."""
        side = side or max(self.shape)
        for top, left in product(range(*_reached(self.top, other.top, other.bottom, side), side),
                                 range(*_reached(self.left, other.left, other.right, side), side)):  # fmt: skip
            yield Window(top, left, min(top + side, self.bottom), min(left + side, self.right))

    def strips(self, height: int) -> list["Window"]:
        """From top to bottom, the last one lower."""
        return [
            self._replace(top=top, bottom=min(top + height, self.bottom))
            for top in range(self.top, self.bottom, height)
        ]

    def even_strips(self, axis: int, extent: int) -> list["Window"]:
        """As few pieces along an axis as at most so many elements allow, all of about the same size."""
        return [self.between(axis, *edges) for edges in _even(self[axis], self[axis + 2], extent)]

    def even_tiles(self, side: int) -> list["Window"]:
        """As few pieces as sides of at most `side` allow, all of about the same size."""
        rows = list(_even(self.top, self.bottom, side))
        columns = list(_even(self.left, self.right, side))
        return [Window(top, left, bottom, right) for (top, bottom), (left, right) in product(rows, columns)]


def whole(shape: Sequence[int]) -> Window:
    """All of a grid of so many rows and columns."""
    rows, columns = shape
    return Window(0, 0, rows, columns)


def cells_of(height: int, width: int) -> Window:
    """All cells of a picture of so many pixels, which the last ones exceed."""
    return whole((-(-height // CELL), -(-width // CELL)))


def _reached(origin: int, begin: int, end: int, side: int) -> tuple[int, int]:
    """Where the first tile of a row or column that reaches begin…end-1 starts, and `end`."""
    return origin + (begin - origin) // side * side, end


def _even(begin: int, end: int, side: int) -> Iterator[tuple[int, int]]:
    count = -(-(end - begin) // side)
    edges = [begin + (end - begin) * i // count for i in range(count + 1)]
    return pairwise(edges)


def is_big(cells: Window) -> bool:
    """Whether so many cells are coded and decoded window by window."""
    return math.prod(cells.shape) > CODING_TILE**2


def automatic_tile(grid: Window) -> int:
    """The side of a picture's tiles, in cells, unless another is asked for; 0: one tile."""
    return CODING_TILE if is_big(grid) else 0


def block_side(tile: int) -> int:
    """Cells along the side of a block where tiles have so many, and 0 means one tile: every tile is made of blocks."""
    return math.gcd(tile, BLOCK)


def coding_groups(grid: Window, tile: int) -> list[Window]:
    """Windows of whole tiles that are coded together, none larger than it must be."""
    if not is_big(grid):
        return [grid]
    return grid.tiles(CODING_TILE // tile * tile if 0 < tile < CODING_TILE else tile)


def coding_pieces(group: Window, grid: Window) -> list[Window]:
    """The windows in which a group's residuals are computed, wide rather than square: each takes its margin along."""
    if not is_big(grid):
        return [group]
    return [piece for tile in group.tiles(CODING_TILE) for piece in tile.strips(max(1, CODING_TILE // 2))]


def in_lines(windows: list[Window], along: int) -> list[list[Window]]:
    """Windows that begin at the same row (along 0) or column (1), from the first to the last."""

    def begin(window: Window) -> int:
        return window[along]

    return [list(line) for _, line in groupby(sorted(windows, key=begin), key=begin)]


def decoding_windows(area: Window, lag: int) -> list[Window]:
    """The windows of an area, both of cells, that are decoded one after the other.

    With the `lag` cells that a pixel depends on they end where coded tiles do.
    """
    if not is_big(area):
        return [area]
    rows, columns = (
        pairwise(sorted({begin, end, *(e for e in range(-lag % CODING_TILE, end, CODING_TILE) if e > begin)}))
        for begin, end in ((area.top, area.bottom), (area.left, area.right))
    )
    return [Window(top, left, bottom, right) for (top, bottom), (left, right) in product(rows, list(columns))]
