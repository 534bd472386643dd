"""Which specialist, or correction, every cell has, as bytes: a range coder whose probabilities are counted as it goes.

Cells follow each other in raster order. Up to three questions are asked of a cell, until one says whose it is:

    is it the left one's?      counted apart where the one above is the same, and where it is another
    is it the one's above?     if that is another, and there are more than these two specialists
    which of the rest is it?   by how often each has been

At the left edge the cell above stands for the one at the left, in the first row the left one for the one above, and
specialist 0 for both at the first cell. The coder is Martin's of 1979, with 32 bits and carries as in LZMA. All of it
is integers; docs/format.md describes it.
"""

import numpy as np

from slimcodec import InvalidFile
from slimcodec.codec import native

_CELL_BYTES, _END_BYTES = 6, 8  # at most: three answers of 15 bits each, and what the range loses to rounding


def encode(who: np.ndarray, specialists: int) -> bytes:
    """uint8 [rows, columns], 2 to 256 kinds → bytes without zeros at their end; perhaps none."""
    found = np.empty(_CELL_BYTES * who.size + _END_BYTES, np.uint8)
    size = native.call("map", np.array(who, np.uint8), *who.shape, specialists, found, found.size, 1)
    return found[:size].tobytes().rstrip(b"\0")


def decode(data: bytes, shape: tuple[int, int], specialists: int, what: str = "specialists") -> np.ndarray:
    """The inverse. Raises InvalidFile, which says a map of what it is, for bytes that `encode` did not make."""
    found, given = np.zeros(shape, np.uint8), np.frombuffer(data, np.uint8).copy()
    native.call("map", found, *shape, specialists, given, given.size, 0)
    if encode(found, specialists) != data:
        raise InvalidFile(f"the file's map of {what} is damaged: it does not end where it should")
    return found
