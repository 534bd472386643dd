"""Arrays over a picture's grid that are made in strips as far as they are asked for, and forgotten behind."""

from collections.abc import Callable, Iterator

from slimcodec.codec.arrays import array_namespace
from slimcodec.codec.grid import Window
from slimcodec.codec.rounding import Array


class Band:
    """An array [1, C, h, w] over a grid, made in strips as far as it is asked for, dropped when told to be.

    make(strip) gives the next strip: all across, and along the axis (0: rows, 1: columns) what is missing.
    """

    def __init__(self, make: Callable[[Window], Array], grid: Window, along: int):
        self.make, self.grid, self.along = make, grid, along
        self.strips: list[tuple[int, Array]] = []  # where each begins, and what it holds
        self.end = grid[along]

    def take(self, window: Window) -> Array:
        if self.end < window[self.along + 2]:
            self.strips.append((self.end, self.make(self._strip(self.end, window[self.along + 2]))))
            self.end = window[self.along + 2]
        found = [strip[:, :, *part.slices] for strip, part in self._parts(window)]
        return found[0] if len(found) == 1 else array_namespace(*found).concat(found, axis=2 + self.along)

    def forget(self, before: int) -> None:
        """Keep nothing that begins before this element of the axis."""
        window = self._strip(before, self.end)
        self.strips = [
            (max(begin, before), strip if begin >= before else _copied(strip[:, :, *part.slices]))
            for (begin, _), (strip, part) in zip(self._touched(window), self._parts(window), strict=True)
        ]

    def _parts(self, window: Window) -> Iterator[tuple[Array, Window]]:
        """The strips that the window touches, and which part of each, in its own coordinates, is in the window."""
        for begin, strip in self._touched(window):
            covered = self._strip(begin, begin + strip.shape[2 + self.along])
            yield strip, covered.grown(0, window).seen_from(covered)

    def _touched(self, window: Window) -> list[tuple[int, Array]]:
        low, high = window[self.along], window[self.along + 2]
        return [(begin, strip) for begin, strip in self.strips
                if begin < high and low < begin + strip.shape[2 + self.along]]  # fmt: skip

    def _strip(self, begin: int, end: int) -> Window:
        return self.grid.between(self.along, begin, end)


def _copied(values: Array) -> Array:
    return array_namespace(values).asarray(values, copy=True)
