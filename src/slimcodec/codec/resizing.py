"""Pictures that are coded at one, two or three quarters of their width and height.

    shown ─► blocks of 4 × 4, the last ones padded ─► blocks of k × k, coded and decoded ─► blocks of 4 × 4 ─► shown

Both ways it is Pillow's Lanczos filter. Blocks begin at whole pixels of both pictures, so the filter has the same
weights in all of them: a piece with enough blocks around it comes out as in the whole picture, bit for bit.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from slimcodec.codec.grid import QUARTERS, Window, whole
from slimcodec.codec.pictures import LazyPixels

REACH = 3  # coded pixels on either side that a shown one depends on, and that depend on it
PIECE = 1024  # shown pixels along the side of what is resized at a time
PIECE_BYTES = 16 * PIECE**2  # that this takes


def seen(area: Window, shown: Window, quarters: int) -> Window:
    """The pixels of the coded picture that an area of the shown one depends on."""
    return area if quarters == QUARTERS else _around(area, shown, quarters).finer(quarters)


def smaller(pixels: np.ndarray | LazyPixels, quarters: int) -> np.ndarray | LazyPixels:
    """The shown picture → the one that is coded, uint8 [H, W, 3] both."""
    if quarters == QUARTERS:
        return pixels
    shown = whole(pixels.shape[:2])
    coded = shown.coarser(QUARTERS).finer(quarters)
    found = np.empty((*coded.shape, 3), np.uint8)
    for piece in coded.coarser(quarters).even_tiles(PIECE // QUARTERS):
        around = _around(piece.finer(QUARTERS), shown, quarters)
        made = _resized(_padded(pixels, around.finer(QUARTERS)), around.finer(quarters))
        found[piece.finer(quarters).slices] = made[piece.seen_from(around).finer(quarters).slices]
    return found


def larger(
    decoded: np.ndarray, at: Window, area: Window, shown: Window, quarters: int
) -> Iterator[tuple[Window, np.ndarray]]:
    """Windows that make up an area of the shown picture, and their pixels, uint8 [h, w, 3].

    decoded: those of the window `at` of the coded picture, which holds what the area depends on.
    """
    if quarters == QUARTERS:
        yield area, decoded[area.seen_from(at).slices]
        return
    for piece in area.even_tiles(PIECE):
        around = _around(piece, shown, quarters)
        made = _resized(decoded[around.finer(quarters).seen_from(at).slices], around.finer(QUARTERS))
        yield piece, made[piece.seen_from(around.finer(QUARTERS)).slices]


def assembled(windows: Iterable[tuple[Window, np.ndarray]], area: Window) -> np.ndarray:
    """Windows that make up an area, and their pixels → uint8 [H, W, 3]."""
    found = np.empty((*area.shape, 3), np.uint8)
    for window, pixels in windows:
        found[window.seen_from(area).slices] = pixels
    return found


def _around(area: Window, shown: Window, quarters: int) -> Window:
    """The blocks that an area of the shown picture has to do with."""
    return area.coarser(QUARTERS).grown(-(-REACH // quarters), shown.coarser(QUARTERS))


def _padded(pixels: np.ndarray | LazyPixels, window: Window) -> np.ndarray:
    """A window of a picture; beyond the picture its edges are repeated."""
    found = np.asarray(pixels[window.slices])
    missing = [(0, window.shape[axis] - found.shape[axis]) for axis in (0, 1)]
    return np.pad(found, [*missing, (0, 0)], mode="edge")


def _resized(pixels: np.ndarray, window: Window) -> np.ndarray:
    height, width = window.shape
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
