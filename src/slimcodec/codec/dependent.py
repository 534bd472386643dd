"""Dependent quantisation: two quantisers take turns, and what was coded before says which is next.

As in H.266/VVC, which has 4 or 8 states (Schwarz et al., "Hybrid video coding with trellis-coded quantization", DCC
2019). More of them cost a decoder nothing. The first quantiser has the values 0, ±1, ±2, …, the second 0, ±½, ±3⁄2, …,
in steps as wide as those of one quantiser alone. Together their values are twice as dense, and the encoder chooses a
path: over a whole block of cells it costs least, in bits and errors.

Every block is in a state. It begins in state 0, at the first residual of the file's first stage. In odd states the
second quantiser is used. A residual that is coded leads to the next state by its parity: a model's table says to which.

Where a path begins there is no choice yet, and none is left where a stage ends: a block costs about 3 bits a stage more
than it would as a part of a longer path. So blocks are of 4 x 4 cells, and not of one as in older files.

A model that quantises so has tables for both: those of the second quantiser are behind the others, and its offsets hold
the half step. So a residual's table, which is its scale index or 64 more, says all that its value depends on.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from slimcodec import InvalidModel
from slimcodec.codec import entropy, native
from slimcodec.codec.grid import BLOCK, PLANE_CELLS
from slimcodec.codec.units import SCALE_COUNT

TABLE = "r_odd_frequencies"  # a model that has it quantises so
NEXT = "r_next_states"  # [states, 2]: where an even and an odd integer lead
STATES = 8, 16, 32, 64, 128, 256, 512, 1024
BYTES = 256  # that many states, and not more, are uint8 in a model
LARGEST = 2**15 - 2  # of a magnitude whose neighbours are int16


def odd(name: str) -> str:
    """The second quantiser's table beside that of the first: r_sizes → r_odd_sizes."""
    return name.replace("r_", "r_odd_", 1)


class Code(NamedTuple):
    """Of a convolutional code: how many states, and which bits of one what comes next changes."""

    states: int
    of_parities: int  # an odd integer
    of_quantisers: int  # that the second quantiser was used

    @property
    def next_states(self) -> np.ndarray:
        """Where an even and an odd integer lead, [states, 2]: uint8 up to 256 states, uint16 for more."""
        state = np.arange(self.states)
        even = state >> 1 ^ np.where(state & 1, self.of_quantisers, 0)
        dtype = np.uint8 if self.states <= BYTES else np.uint16
        return np.stack([even, even ^ self.of_parities], axis=1).astype(dtype)


def code_of(tables: Mapping[str, Any]) -> Code:
    """Raises InvalidModel for states that are not those of a convolutional code."""
    following = np.asarray(tables[NEXT])
    states = len(following)
    if states in STATES:
        code = Code(states, int(following[0, 1]), int(following[1, 0]))
        expected = code.next_states
        in_halves = code.of_parities < states // 2 <= code.of_quantisers
        if in_halves and following.dtype == expected.dtype and np.array_equal(following, expected):
            return code
    raise InvalidModel(f"tables.{NEXT}: must be those of a convolutional code of {STATES[0]} to {STATES[-1]} states")


class Paths(NamedTuple):
    """How far the paths of a window of cells have come, which goes on with every residual."""

    states: np.ndarray  # uint16, rows and columns of blocks
    side: int  # of a block, in cells; the last ones may be smaller


def start(cells: tuple[int, ...], side: int = BLOCK) -> Paths:
    """Of so many rows and columns of cells."""
    return Paths(np.zeros([-(-count // side) for count in cells], np.uint16), side)


def search(
    exact: np.ndarray,
    index: np.ndarray,
    paths: Paths,
    bits: np.ndarray,
    offsets: np.ndarray,
    error_bits: float,
    skip: int,
    code: Code,
) -> tuple[np.ndarray, np.ndarray]:
    """Real residuals float32 [..., 2·rows, 2·columns] and their scale indices uint8 → integers int16, and tables uint8.

    bits [128, REACH], offsets [128]: of both quantisers. `paths` go on to where the blocks end.
    """
    exact = np.ascontiguousarray(exact.clip(-LARGEST, LARGEST), np.float32)
    table, r = np.array(index, np.uint8, order="C"), np.zeros(exact.shape, np.int16)
    shape = channels, _, _, side = _shape(exact, paths)
    most = min(exact.size, channels * (PLANE_CELLS * side) ** 2)  # residuals of a block
    room = np.empty(4 * most, np.int16), np.empty(most * code.states, np.uint8)
    refused = native.call(
        "search", exact.reshape(-1), table.reshape(-1), *shape, bits, offsets, SCALE_COUNT, error_bits, skip, *code,
        paths.states, *room, r.reshape(-1),
    )  # fmt: skip
    if refused:
        raise ValueError(f"blocks of {side} x {side} cells: the search has room for {BLOCK} x {BLOCK}")
    return r, table


def read(
    decoder: entropy.Decoder, index: np.ndarray, paths: Paths, tables: entropy.Tables, following: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The next symbols, int16, and their tables, uint8, for scale indices uint8 [..., 2·rows, 2·columns].

    following: the states after each, uint16. Raises InvalidFile as `Decoder.get`.
    """
    table, r = np.array(index, np.uint8, order="C"), np.zeros(index.shape, np.int16)
    decoder.follow(
        "decode_dependent", table.reshape(-1), *_shape(index, paths), *tables.for_native, SCALE_COUNT,
        following, paths.states, r.reshape(-1),
    )  # fmt: skip
    return r, table


def _shape(planes: np.ndarray, paths: Paths) -> tuple[int, int, int, int]:
    """Channels of planes [..., 2·rows, 2·columns], all in one, rows and columns of cells, and the side of blocks."""
    rows, columns = (side // PLANE_CELLS for side in planes.shape[-2:])
    expected = tuple(-(-count // paths.side) for count in (rows, columns))
    if paths.states.shape != expected:
        raise ValueError(f"paths of {paths.states.shape} blocks for {expected}")
    return planes.size // (rows * columns * PLANE_CELLS**2), rows, columns, paths.side
