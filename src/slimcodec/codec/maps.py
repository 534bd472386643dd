"""Which specialist, or correction, every cell has, as bytes: a range coder whose probabilities are counted as it goes.

Cells follow each other in raster order. Up to three questions are asked of a cell, until one says whose it is:

    is it the left one's?      counted apart where the one above is the same, and where it is another
    is it the one's above?     if that is another, and there are more than these two specialists
    which of the rest is it?   by how often each has been

At the left edge the cell above stands for the one at the left, in the first row the left one for the one above, and
specialist 0 for both at the first cell. The coder is Martin's of 1979, with 32 bits and carries as in LZMA. All of it
is integers; docs/format.md describes it.
"""

from typing import Protocol

import numpy as np

from slimcodec import InvalidFile

_LEAST_RANGE, _MASK = 1 << 24, (1 << 32) - 1
_STEP, _MOST = 2, 1 << 15  # what a count rises by, from 1; at what sum all are halved


def encode(who: np.ndarray, specialists: int) -> bytes:
    """uint8 [rows, columns] → bytes without zeros at their end; perhaps none."""
    encoder = _Encoder()
    _code(encoder, who.shape, specialists, who.ravel().tolist())
    return encoder.finish()


def decode(data: bytes, shape: tuple[int, int], specialists: int, what: str = "specialists") -> np.ndarray:
    """The inverse. Raises InvalidFile, which says a map of what it is, for bytes that `encode` did not make."""
    found = np.array(_code(_Decoder(data), shape, specialists, None), np.uint8).reshape(shape)
    if encode(found, specialists) != data:
        raise InvalidFile(f"the file's map of {what} is damaged: it does not end where it should")
    return found


class _Coder(Protocol):
    def code(self, counts: list[int], answer: int | None) -> int:
        """The answer to a question, which a decoder is not given; answers come as often as their counts say."""


def _code(coder: _Coder, shape: tuple[int, ...], specialists: int, cells: list[int] | None) -> list[int]:
    """The cells in raster order, which a decoder is not given."""
    rows, columns = shape
    as_left, as_above, often = ([1, 1], [1, 1]), [1, 1], [1] * specialists
    found: list[int] = []
    for number in range(rows * columns):
        actual = None if cells is None else cells[number]
        left, above = _neighbours(found, columns)
        if _asked(coder, as_left[left == above], actual, left):
            who = left
        elif above != left and (specialists == 2 or _asked(coder, as_above, actual, above)):
            who = above
        else:
            who = coder.code([0 if k in (left, above) else count for k, count in enumerate(often)], actual)
        _count(often, who)
        found.append(who)
    return found


def _neighbours(found: list[int], columns: int) -> tuple[int, int]:
    """The specialists at the left of the next cell and above it."""
    if not found:
        return 0, 0
    above = found[-columns] if len(found) >= columns else found[-1]
    return found[-1] if len(found) % columns else above, above


def _asked(coder: _Coder, counts: list[int], actual: int | None, other: int) -> bool:
    """Whether a cell is the other's."""
    answer = coder.code(counts, None if actual is None else int(actual == other))
    _count(counts, answer)
    return bool(answer)


def _count(counts: list[int], answer: int) -> None:
    counts[answer] += _STEP
    if sum(counts) >= _MOST:
        counts[:] = [(count + 1) // 2 for count in counts]


class _Encoder:
    def __init__(self) -> None:
        self.low, self.range, self.bytes = 0, _MASK, bytearray()

    def code(self, counts: list[int], answer: int | None) -> int:
        assert answer is not None  # who encodes knows
        self.range //= sum(counts)
        self.low += self.range * sum(counts[:answer])
        self.range *= counts[answer]
        while self.range < _LEAST_RANGE:
            self._shift()
        return answer

    def finish(self) -> bytes:
        """The shortest number that stands for what was coded."""
        for bits in (32, 24, 16, 8, 0):
            rounded = self.low + (1 << bits) - 1 >> bits << bits
            if rounded < self.low + self.range:
                break
        self.low = rounded
        for _ in range(4):
            self._shift()
        return bytes(self.bytes).rstrip(b"\0")

    def _shift(self) -> None:
        """Moves the highest byte out, and what it carries into those before."""
        if self.low > _MASK:
            place = len(self.bytes) - 1
            while self.bytes[place] == 255:
                self.bytes[place] = 0
                place -= 1
            self.bytes[place] += 1
        self.bytes.append(self.low >> 24 & 255)
        self.low, self.range = self.low << 8 & _MASK, self.range << 8


class _Decoder:
    def __init__(self, data: bytes):
        self.bytes, self.next = data, 4
        self.value, self.range = int.from_bytes(data[:4].ljust(4, b"\0"), "big"), _MASK

    def code(self, counts: list[int], answer: int | None) -> int:
        self.range //= sum(counts)
        place, answer = min(self.value // self.range, sum(counts) - 1), 0
        while place >= counts[answer]:
            place -= counts[answer]
            answer += 1
        self.value -= self.range * sum(counts[:answer])
        self.range *= counts[answer]
        while self.range < _LEAST_RANGE:
            following = self.bytes[self.next] if self.next < len(self.bytes) else 0
            self.value, self.range = (self.value << 8 | following) & _MASK, self.range << 8
            self.next += 1
        return answer
