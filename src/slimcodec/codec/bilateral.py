"""A bilateral filter of decoded pixels, in integers: a pixel moves towards its neighbours, the nearer their luma the
surer. It takes no multiplication a pixel, but ten looks into a table.

    Y      (R + 2 G + B + 2) >> 2 of every pixel
    S      Σ over 20 neighbours, those of 5 x 5 without the corners, of table[their group, their Y - the own Y]
    pixel  clamp(each colour + ((S + 32) >> 6))

The table is a picture's own: a model's basis, times a few integers that the file has (K bytes). The encoder finds them
by least squares. Beyond the padded picture there are no neighbours. A picture may have several tables, and a map of
which cell has which: a pixel takes its own cell's.

Bilateral filters smooth and keep edges (Tomasi and Manduchi, ICCV 1998). Video codecs have had them, with a table of
few parameters, in the loop (Ström et al., JVET-F0034, 2017). Here least squares says what the table is.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from slimcodec import InvalidFile, InvalidModel
from slimcodec.codec import maps, native
from slimcodec.codec.bitstream import MAX_FILTERS, MAX_SEVERAL
from slimcodec.codec.grid import CELL
from slimcodec.codec.grouping import Grouping, shares, triangle
from slimcodec.codec.units import LEVELS

BASIS = "bilateral_basis"  # the name of the table
REACH = 2  # pixels around
GROUPS = 4  # of neighbours: 1 pixel straight, 1 diagonally, 2 straight, and a knight's move away
STEPS = LEVELS + 1  # of a difference without its sign
LARGEST = 127  # of a coefficient
TABLE_SHIFT, TABLE_LIMIT = 8, 1023  # so 20 of them fit into 16 bits
PIXEL_UNIT = 64  # what a table says is in 1/64 level
NEIGHBOURS = 20
RIDGE = 1e-4  # of the mean diagonal: directions that a picture says nothing about


class Filtered(NamedTuple):
    """What a picture's filter follows from: pixels and what is decoded of them, uint8 [h, w, 3], and where they are."""

    wanted: np.ndarray
    found: np.ndarray
    top: int = 0
    left: int = 0


class Filtering(NamedTuple):
    """What a file says of its filters, as `bitstream.Adapted` takes it."""

    filtering: bytes = b""
    filter_map: bytes | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.filtering) + len(self.filter_map or b"")


NO_FILTER = Filtering()


class Filters(NamedTuple):
    """Tables int16 [n, GROUPS, 2·STEPS - 1], and which of them each cell has, uint8 [rows, columns]; None of one."""

    tables: np.ndarray
    who: np.ndarray | None = None


class Bilateral:
    """`tables`: bilateral_basis int16 [K, GROUPS, STEPS], by the size of a difference; 0 for none."""

    def __init__(self, tables: Mapping[str, Any]):
        self.basis = np.asarray(tables[BASIS], np.int32)

    def table(self, coefficients: np.ndarray) -> np.ndarray:
        """int [K] → int16 [GROUPS, 2·STEPS - 1], by difference from -255 on."""
        sums = np.tensordot(coefficients.astype(np.int32), self.basis, axes=1)
        upper = np.clip((sums + (1 << TABLE_SHIFT - 1)) >> TABLE_SHIFT, -TABLE_LIMIT, TABLE_LIMIT)
        return _odd(upper)

    def read(self, filtering: bytes, filter_map: bytes | None, cells: tuple[int, int]) -> Filters:
        """The tables of a file's coefficients. Raises InvalidFile for bytes that no encoder writes."""
        count, left = divmod(len(filtering), len(self.basis))
        if left or not (count == 1 if filter_map is None else 2 <= count <= MAX_SEVERAL):
            raise InvalidFile("the file's filter coefficients are damaged: there is another number of them")
        coefficients = np.frombuffer(filtering, np.int8).reshape(count, -1)
        who = None if filter_map is None else maps.decode(filter_map, cells, count, "filters")
        return Filters(np.stack([self.table(each) for each in coefficients]), who)

    def best(self, parts: Iterable[Filtered], error_bits: float, cells: tuple[int, int]) -> Filtering:
        """The coefficients that a file has of a picture in parts, of so many rows and columns of cells; none where they
        do not pay.

        error_bits  what a squared error of 1, in one colour of one pixel, counts for in bits
        """
        count, scale = len(self.basis), error_bits / LEVELS**2
        curvature, slope = (scale * sums for sums in self._by_cell(parts, cells))
        all_curvature, all_slope = curvature.sum(axis=0), slope.sum(axis=0)
        ridge = RIDGE * all_curvature.diagonal().mean() + 1e-12
        q = whole_coefficients(np.linalg.solve(all_curvature + ridge * np.eye(count), all_slope))
        saved = 2 * all_slope @ q - q @ all_curvature @ q - 8 * (count + 1)
        one = Filtering(q.astype(np.int8).tobytes()) if q.any() and saved > 0 else NO_FILTER
        several, more = _several(Grouping(curvature[:, *triangle(count)], slope, 8 * count), q, cells)
        return several if more > max(saved, 0) else one

    def _by_cell(self, parts: Iterable[Filtered], cells: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """The sums of every cell."""
        count = len(self.basis)
        curvature, slope = np.zeros((*cells, count, count)), np.zeros((*cells, count))
        for part in parts:
            height, width, _ = part.found.shape
            for rows, row in _parts(part.top, height):  # one row of cells, as moves are large
                first = max(rows.start - REACH, 0)
                near, inner = slice(first, rows.stop + REACH), slice(rows.start - first, rows.stop - first)
                moves, missing = moved(Filtered(part.wanted[near], part.found[near]), self.basis)
                for columns, column in _parts(part.left, width):
                    own = moves[:, inner, columns].reshape(count, -1)
                    curvature[row, column] += 3 * (own @ own.T)
                    slope[row, column] += own @ missing[inner, columns].reshape(-1)
        return curvature.reshape(-1, count, count), slope.reshape(-1, count)


def whole_coefficients(q: np.ndarray) -> np.ndarray:
    """The nearest that a file can hold: on the way to the best all becomes better."""
    nearest: np.ndarray = (q * min(1.0, LARGEST / max(np.abs(q).max(), 1.0))).round()
    return nearest


def _several(grouping: Grouping, one: np.ndarray, cells: tuple[int, int]) -> tuple[Filtering, float]:
    """Filters of cells, and the bits that they save; none where one is better."""
    vectors = grouping.best(one, MAX_SEVERAL)
    if len(vectors) < 2:
        return NO_FILTER, 0.0
    vectors = np.stack([whole_coefficients(vector) for vector in vectors])
    whose = grouping.assigned(vectors, shares(grouping.gains(vectors).argmax(axis=1), len(vectors)))
    numbers, whose = np.unique(whose, return_inverse=True)
    if len(numbers) < 2:
        return NO_FILTER, 0.0
    gained = grouping.gains(vectors[numbers])[np.arange(len(whose)), whose].sum()
    who = maps.encode(whose.astype(np.uint8).reshape(cells), len(numbers))
    found = Filtering(vectors[numbers].astype(np.int8).tobytes(), who)
    return found, gained - 8 * (found.size + 2)


def _parts(begin: int, length: int) -> Iterator[tuple[slice, int]]:
    """Parts of a length that begins somewhere, each in one cell, and its number."""
    at = 0
    while at < length:
        number = (begin + at) // CELL
        end = min(length, (number + 1) * CELL - begin)
        yield slice(at, end), number
        at = end


def moved(sample: Filtered, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each of the tables int [K, GROUPS, STEPS] would do to the pixels, float32 [K, h, w], and what is missing of
    all their colours together, [h, w]: in levels.
    """
    luma = luma_of(sample.found)
    missing = (sample.wanted.astype(np.float32) - sample.found).sum(axis=2)
    moves = np.empty((len(basis), *luma.shape), np.float32)
    for number, upper in enumerate(basis):
        smaller = max(1.0, np.abs(upper).max() * NEIGHBOURS / np.iinfo(np.int16).max)
        found = neighbours(luma, _odd(np.rint(upper / smaller)))
        np.multiply(found, np.float32(smaller / (PIXEL_UNIT << TABLE_SHIFT)), out=moves[number])
    return moves, missing


def sums(sample: Filtered, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each of the tables would do to the pixels by each other, [K, K], and by what is missing, [K]: of squared
    errors, in levels, of all colours.
    """
    moves, missing = moved(sample, basis)
    flat = moves.reshape(len(basis), -1)
    return 3 * (flat @ flat.T).astype(np.float64), (flat @ missing.reshape(-1)).astype(np.float64)


def filtered(pixels: np.ndarray, filters: Filters, top: int = 0, left: int = 0) -> np.ndarray:
    """uint8 [H, W, 3] of a picture, from a row and a column on → the same, filtered."""
    found, luma, (tables, who) = np.empty_like(pixels), luma_of(pixels), filters
    if who is None:
        sums = neighbours(luma, tables[0])
    else:
        sums = np.zeros(luma.shape, np.int16)
        native.call("neighbours_by_cell", luma, *luma.shape, tables, who, who.shape[1], CELL, top, left, sums)
    native.call("move", pixels, sums, found, pixels.size // 3)
    return found


def luma_of(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] → uint8 [H, W]."""
    luma = np.empty(pixels.shape[:2], np.uint8)
    native.call("luma", np.ascontiguousarray(pixels), luma, luma.size)
    return luma


def neighbours(luma: np.ndarray, table: np.ndarray) -> np.ndarray:
    """uint8 [H, W] → S, int16 [H, W]."""
    found = np.zeros(luma.shape, np.int16)
    native.call("neighbours", luma, *luma.shape, table, found)
    return found


def _odd(upper: np.ndarray) -> np.ndarray:
    """By differences from 0 on → by all, int16 [GROUPS, 2·STEPS - 1]."""
    return np.concatenate([-upper[:, :0:-1], upper], axis=1).astype(np.int16)


def check_tables(tables: Mapping[str, Any]) -> None:
    """Raises InvalidModel for a basis that is none."""
    if BASIS not in tables:
        return
    basis = np.asarray(tables[BASIS])
    if not 1 <= len(basis) <= MAX_FILTERS or basis.shape[1:] != (GROUPS, STEPS) or basis[:, :, 0].any():
        shape = f"[1 to {MAX_FILTERS}, {GROUPS}, {STEPS}]"
        raise InvalidModel(f"tables.{BASIS}: must be {shape}, and 0 for no difference")
