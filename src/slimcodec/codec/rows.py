"""The elements of a grid as rows, those of a specialist together, and where each row's neighbours are."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from slimcodec.codec import native
from slimcodec.codec.arrays import array_namespace, device_of, rows_of
from slimcodec.codec.grid import Window, whole
from slimcodec.codec.networks import Weights
from slimcodec.codec.rounding import Array

ROWS_AT_ONCE = 2048  # that pass several layers on the CPU, so that what is between them stays in its cache


class Rows:
    """The elements of a window in the order of their specialists: `where`, numbers [h, w] of the elements' rows."""

    def __init__(self, window: Window, where: np.ndarray, specialists: list[int], ends: list[int]):
        self.window, self.where, self.specialists, self.ends = window, where, specialists, ends
        self._around: dict[int, np.ndarray] = {}

    @classmethod
    def of(cls, window: Window, who: np.ndarray) -> "Rows":
        """who: the elements' specialists, [h, w]."""
        names, counts = np.unique(who, return_counts=True)
        order = np.argsort(who, axis=None, kind="stable")
        return cls(window, _inverse(order).reshape(who.shape), names.tolist(), np.cumsum(counts).tolist())

    @property
    def order(self) -> np.ndarray:
        """The number in raster order of every row's element."""
        return _inverse(self.where.reshape(-1))

    def parts(self, most: int | None = None) -> Iterator[tuple[int, slice]]:
        """Each specialist and its rows, at most so many at a time."""
        for specialist, (begin, end) in zip(self.specialists, pairwise([0, *self.ends]), strict=True):
            pieces = 1 if most is None else -(-(end - begin) // most)
            edges = [begin + (end - begin) * piece // pieces for piece in range(pieces + 1)]
            yield from ((specialist, slice(*pair)) for pair in pairwise(edges))

    def around(self, kernel: int) -> np.ndarray:
        """The rows that each row's convolution sees, int32 [rows, kernel²]; beyond the window it is their number."""
        if kernel not in self._around:
            (height, width), rows = self.where.shape, self.where.size
            padded = np.pad(self.where.astype(np.int32), kernel // 2, constant_values=rows)
            seen = [padded[y : y + height, x : x + width] for y in range(kernel) for x in range(kernel)]
            self._around[kernel] = np.stack(seen, axis=-1).reshape(rows, -1)[self.order]
        return self._around[kernel]

    def finer(self, ratio: int) -> "Rows":
        """After a pixel shuffle: each row has become ratio² that follow each other."""
        if ratio == 1:
            return self
        height, width = self.where.shape
        within = np.arange(ratio**2).reshape(ratio, 1, ratio)
        where = (self.where[:, None, :, None] * ratio**2 + within).reshape(height * ratio, width * ratio)
        return Rows(self.window.finer(ratio), where, self.specialists, [end * ratio**2 for end in self.ends])

    def seen(self, values: Array, kernel: int) -> Callable[[slice], Array]:
        """What a layer that is not depthwise sees of some rows of [rows, C]: [n, kernel² · C]."""
        if kernel == 1:
            return lambda part: values[part]
        xp, around = array_namespace(values), self.around(kernel)
        nothing = xp.zeros((1, values.shape[1]), dtype=values.dtype, device=device_of(values))
        padded = xp.concat([values, nothing], axis=0)
        return lambda part: xp.reshape(rows_of(padded, around[part].reshape(-1)), (part.stop - part.start, -1))

    def within(self, window: Window) -> tuple[np.ndarray, "Rows"]:
        """Which rows are those of a smaller window, and these alone."""
        where = self.where[window.seen_from(self.window).slices]
        inside = np.zeros(self.where.size, bool)
        inside[where] = True
        before = np.concatenate([[0], np.cumsum(inside)])
        counts = np.diff(before[[0, *self.ends]])
        left = [(who, end) for who, count, end in zip(self.specialists, counts, self.ends, strict=True) if count]
        ends = [int(before[end]) for _, end in left]
        return np.flatnonzero(inside), Rows(window, before[where], [who for who, _ in left], ends)

    def room(self, like: Array, channels: int) -> Array:
        """float32 [rows, channels], not filled, where another array is."""
        xp = array_namespace(like)
        return xp.empty((self.where.size, channels), dtype=xp.float32, device=device_of(like))

    def sorted_by(self, numbers: np.ndarray) -> tuple[np.ndarray, "Rows"]:
        """Which rows follow each other where those of a number do, numbers [h, w], and these."""
        found = Rows.of(self.window, numbers)
        return self.where.reshape(-1)[found.order], found

    def taken_from(self, values: Array) -> Array:
        """[1, C, h, w] → [rows, C]."""
        xp = array_namespace(values)
        return rows_of(xp.reshape(xp.permute_dims(values, (0, 2, 3, 1)), (-1, values.shape[1])), self.order)

    def on_grid(self, values: Array, window: Window | None = None, ratio: int = 1) -> Array:
        """[rows, ratio² · C] in the order row, column, C → [1, C, ratio · h, ratio · w], of a window alone."""
        xp, window = array_namespace(values), window or self.window
        where = self.where[window.seen_from(self.window).slices][:, None] * ratio + np.arange(ratio)[:, None]
        found = rows_of(xp.reshape(values, (len(values) * ratio, -1)), where.reshape(-1))
        height, width = window.shape
        return xp.permute_dims(xp.reshape(found, (1, height * ratio, width * ratio, -1)), (0, 3, 1, 2))


def in_raster_order(values: Array, at: Window, window: Window) -> tuple[Array, Rows]:
    """[1, C, h, w] of the window `at` → [n, C] of a window within, and its rows."""
    xp, channels = array_namespace(values), values.shape[1]
    found = xp.permute_dims(values[0, :, *window.seen_from(at).slices], (1, 2, 0))
    return xp.reshape(found, (-1, channels)), Rows.of(window, np.zeros(window.shape, np.uint8))


def _inverse(order: np.ndarray) -> np.ndarray:
    found = np.empty_like(order)
    found[order] = np.arange(order.size)
    return found


def depthwise(x: np.ndarray, around: np.ndarray, layer: Weights, out: np.ndarray | None = None) -> np.ndarray:
    """As `Networks.depthwise`, on the CPU."""
    found = np.empty((len(around), x.shape[1]), np.float32) if out is None else out
    nothing = np.zeros_like(layer.bias)
    native.call("depthwise", x, *x.shape, around, len(around), *layer, nothing, found)
    return found


def by_specialist(run: Callable[[int, Array], Array], values: Array, who: np.ndarray) -> Array:
    """What layers that see one element make of [1, C, h, w], each element by its specialist: who [h, w].

    run(specialist, [1, C, n, 1]) → [1, O, n, 1]
    """
    rows, xp = Rows.of(whole(who.shape), who), array_namespace(values)
    found = rows.taken_from(values)
    parts = [
        run(specialist, xp.permute_dims(found[part], (1, 0))[None, :, :, None])[0, :, :, 0]
        for specialist, part in rows.parts()
    ]
    return rows.on_grid(xp.permute_dims(xp.concat(parts, axis=1), (1, 0)))
