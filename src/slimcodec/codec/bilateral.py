"""A bilateral filter of decoded pixels, in integers: a pixel moves towards its neighbours, the nearer their luma the
surer. It takes no multiplication a pixel, but ten looks into a table.

    Y      (R + 2 G + B + 2) >> 2 of every pixel
    S      Σ over 20 neighbours, those of 5 x 5 without the corners, of table[their group, their Y - the own Y]
    pixel  clamp(each colour + ((S + 32) >> 6))

The table is a picture's own: a model's basis, times a few integers that the file has (K bytes). The encoder finds them
by least squares. Beyond the padded picture there are no neighbours.

Bilateral filters smooth and keep edges (Tomasi and Manduchi, ICCV 1998). Video codecs have had them, with a table of
few parameters, in the loop (Ström et al., JVET-F0034, 2017). Here least squares says what the table is.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from slimcodec import InvalidFile, InvalidModel
from slimcodec.codec import native
from slimcodec.codec.bitstream import MAX_FILTERS
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
    """What a picture's filter follows from: pixels, and what is decoded of them, uint8 [h, w, 3]."""

    wanted: np.ndarray
    found: np.ndarray


class Bilateral:
    """`tables`: bilateral_basis int16 [K, GROUPS, STEPS], by the size of a difference; 0 for none."""

    def __init__(self, tables: Mapping[str, Any]):
        self.basis = np.asarray(tables[BASIS], np.int32)

    def table(self, coefficients: np.ndarray) -> np.ndarray:
        """int [K] → int16 [GROUPS, 2·STEPS - 1], by difference from -255 on."""
        sums = np.tensordot(coefficients.astype(np.int32), self.basis, axes=1)
        upper = np.clip((sums + (1 << TABLE_SHIFT - 1)) >> TABLE_SHIFT, -TABLE_LIMIT, TABLE_LIMIT)
        return _odd(upper)

    def read(self, data: bytes) -> np.ndarray:
        """The table of a file's coefficients. Raises InvalidFile for bytes that no encoder writes."""
        if len(data) != len(self.basis):
            raise InvalidFile("the file's filter coefficients are damaged: there is another number of them")
        return self.table(np.frombuffer(data, np.int8))

    def best(self, samples: list[Filtered], error_bits: float, pixels: int) -> bytes:
        """The coefficients of a picture of so many pixels, as a file has them; none where they do not pay.

        error_bits  what a squared error of 1, in one colour of one pixel, counts for in bits
        """
        count = len(self.basis)
        curvature, slope, seen = np.zeros((count, count)), np.zeros(count), 0
        for sample in samples:
            inner, outer = sums(sample, self.basis)
            curvature, slope, seen = curvature + inner, slope + outer, seen + sample.found.size // 3
        if not seen:
            return b""
        ridge = RIDGE * curvature.diagonal().mean() + 1e-12
        q = np.linalg.solve(curvature + ridge * np.eye(count), slope)
        q = (q * min(1.0, LARGEST / max(np.abs(q).max(), 1.0))).round()  # on the way to the best all becomes better
        saved = error_bits / LEVELS**2 * pixels / seen * (2 * slope @ q - q @ curvature @ q)
        return q.astype(np.int8).tobytes() if q.any() and saved > 8 * (count + 1) else b""


def sums(sample: Filtered, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each of the tables int [K, GROUPS, STEPS] would do to the pixels, by each other, [K, K], and by what is
    missing, [K]: of squared errors, in levels, of all colours.
    """
    luma = luma_of(sample.found)
    missing = (sample.wanted.astype(np.float32) - sample.found).sum(axis=2).reshape(-1)
    moves = np.empty((len(basis), luma.size), np.float32)
    for number, upper in enumerate(basis):
        smaller = max(1.0, np.abs(upper).max() * NEIGHBOURS / np.iinfo(np.int16).max)
        found = neighbours(luma, _odd(np.rint(upper / smaller)))
        moves[number] = found.reshape(-1) * np.float32(smaller / (PIXEL_UNIT << TABLE_SHIFT))
    return 3 * (moves @ moves.T).astype(np.float64), (moves @ missing).astype(np.float64)


def filtered(pixels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3], and a table as `Bilateral.table` gives it → the same, filtered."""
    found = np.empty_like(pixels)
    native.call("move", pixels, neighbours(luma_of(pixels), table), found, pixels.size // 3)
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
