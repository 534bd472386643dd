"""The last layers of g_s that a picture has of its own: one for all of it, or several that its cells choose from.

file ─► Corrected: the corrections, and which cell has which ─► Heads ─► x_hat, every cell by its own layer
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from slimcodec import InvalidFile
from slimcodec.codec import maps
from slimcodec.codec.adapt import Correction, Corrections
from slimcodec.codec.arrays import array_namespace, rows_of
from slimcodec.codec.bitstream import MAX_SEVERAL, Contents
from slimcodec.codec.grid import CELL, LATENT_SCALE, Window
from slimcodec.codec.networks import Head, Networks, Synthesis, Weights
from slimcodec.codec.rounding import Array
from slimcodec.codec.rows import Rows
from slimcodec.codec.units import LEVELS, MID_GREY, MIDDLE


class Corrected(NamedTuple):
    """What a file says of its picture's last layers."""

    corrections: tuple[Correction, ...]
    who: np.ndarray | None = None  # uint8 [rows, columns], the number of every cell's; None: there is one for all

    def written(self, corrections: Corrections, fixed_quality: int) -> tuple[bytes, bytes | None]:
        """As `bitstream.join` takes them."""
        found = [corrections.write(correction, fixed_quality) for correction in self.corrections]
        if self.who is None:
            return found[0], None
        return b"".join(bytes([len(each)]) + each for each in found), maps.encode(self.who, len(found))


def read(contents: Contents, corrections: Corrections | None) -> Corrected | None:
    """What a file holds; None if it holds nothing. Raises InvalidFile for what no encoder writes."""
    if not contents.correction and contents.correction_map is None:
        return None
    if corrections is None:
        raise InvalidFile("the file corrects its model, but this model knows no corrections; load the file's own")
    quality, left = contents.header.quality, contents.correction
    if contents.correction_map is None:
        return Corrected((corrections.read(left, quality),))
    found: list[Correction] = []
    while left:
        end = 1 + left[0]
        if not 1 < end <= len(left) or len(found) == MAX_SEVERAL:
            raise InvalidFile("the file's corrections are damaged: they do not end where they should")
        found.append(corrections.read(left[1:end], quality))
        left = left[end:]
    if len(found) < 2:
        raise InvalidFile(f"the file says that it has several corrections, but has {len(found)}; it is damaged")
    who = maps.decode(contents.correction_map, contents.header.cells, len(found), "corrections")
    return Corrected(tuple(found), who)


class Heads:
    """Last layers, and the number of every cell's, uint8 [rows, columns]; None where there is but one.

    With specialists each of them is one for all of these, as `Networks.head` is.
    """

    def __init__(self, layers: list[Head], who: np.ndarray | None = None):
        self.layers, self.who = layers, who

    def g_s(
        self, synthesis: Synthesis, networks: Networks, y_hat: Array, seen: Window, piece: Window, grid: Window
    ) -> Array:
        """As `Synthesis.g_s`."""
        scale = networks.architecture.g_s[-1].scale
        wanted = piece.finer(LATENT_SCALE // scale)
        numbers = [0] if self.who is None else np.unique(of_elements(self.who, wanted, CELL // scale)).tolist()
        if len(numbers) == 1:
            return synthesis.g_s(y_hat, seen, piece, grid, self.layers[numbers[0]])
        found, rows = synthesis.rows(y_hat, seen, piece, grid)
        order, rows = rows.sorted_by(self._numbers(synthesis, rows.window, CELL // scale))
        found, count = rows_of(found, order), networks.architecture.specialists

        def head(number: int) -> Head:
            layer = self.layers[number // count]
            return layer if count == 1 else of_specialist(layer, number % count)

        return rendered(networks, found, rows, wanted, head)

    def _numbers(self, synthesis: Synthesis, window: Window, side: int) -> np.ndarray:
        """Of every element of a window: its layer, and its specialist if there are several."""
        assert self.who is not None
        layers, specialists = of_elements(self.who, window, side), synthesis.whose(window, side)
        count = 1 if specialists is None else self.layers[0].weight.shape[0]
        return layers.astype(np.int32) * count + (0 if specialists is None else specialists)


def of_elements(who: np.ndarray, window: Window, side: int) -> np.ndarray:
    """What is known of cells, [rows, columns], of the elements of a window; cells have `side` of them."""
    rows, columns = (np.arange(window[axis], window[axis + 2]) // side for axis in (0, 1))
    return who[rows[:, None], columns]


def rendered(networks: Networks, seen: Array, rows: Rows, window: Window, head: Callable[[int], Head]) -> Array:
    """What last layers see, [rows, C] → x_hat [1, 3, ratio · h, ratio · w] of a window of it; head(number of a row)."""
    architecture = networks.architecture
    ratio = architecture.g_s[-1].scale
    blocks, sees = rows.room(seen, 3 * ratio**2), rows.seen(seen, architecture.head_kernel)
    last = {number: _last_layer(head(number), networks) for number in rows.specialists}
    for number, part in rows.parts(networks.rows_at_once):
        networks.linear(sees(part), last[number], out=blocks[part], exact=True)
    if architecture.in_integers:
        xp = array_namespace(blocks)
        blocks = (xp.clip(xp.round(blocks), min=-MIDDLE, max=LEVELS - MIDDLE) + MIDDLE) / LEVELS
    return rows.on_grid(blocks, window, ratio)


def of_specialist(heads: Head, specialist: int) -> Head:
    return Head(heads.weight[specialist], heads.bias[specialist])


def _last_layer(head: Head, networks: Networks) -> Weights:
    """Its outputs in the order row, column, colour; of floats with the middle grey that is added to them."""
    colours, grey = 3, np.float32(0 if networks.architecture.in_integers else MID_GREY)
    order = np.arange(len(head.bias)).reshape(colours, -1).T.reshape(-1)
    places = head.weight[order].transpose(0, 2, 3, 1).reshape(len(order), -1)
    return Weights(networks.native(np.ascontiguousarray(places)), networks.native(head.bias[order] + grey))
