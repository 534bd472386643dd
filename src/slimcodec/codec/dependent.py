"""Dependent quantisation: two quantisers take turns, and what was coded before says which is next.

As in H.266/VVC, which has 4 or 8 states (Schwarz et al., "Hybrid video coding with trellis-coded quantization", DCC
2019). More of them cost a decoder nothing. The first quantiser has the values 0, ±1, ±2, …, the second 0, ±½, ±3⁄2, …,
in steps as wide as those of one quantiser alone. Together their values are twice as dense, and the encoder chooses a
path: over a whole cell of 64 x 64 pixels it costs least, in bits and errors.

Every cell is in a state. It begins in state 0, at the first residual of the file's first stage. In odd states the
second quantiser is used. A residual that is coded leads to the next state by its parity: a model's table says to which.

A model that quantises so has tables for both: those of the second quantiser are behind the others, and its offsets hold
the half step. So a residual's table, which is its scale index or 64 more, says all that its value depends on.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from slimcodec import InvalidModel
from slimcodec.codec import entropy, native
from slimcodec.codec.grid import PLANE_CELLS
from slimcodec.codec.units import SCALE_COUNT

TABLE = "r_odd_frequencies"  # a model that has it quantises so
NEXT = "r_next_states"  # uint8 [states, 2]: where an even and an odd integer lead
MOST_STATES = 256
LARGEST = 2**15 - 2  # of a magnitude whose neighbours are int16


def odd(name: str) -> str:
    """The second quantiser's table beside that of the first: r_sizes → r_odd_sizes."""
    return name.replace("r_", "r_odd_", 1)


def check(tables: Mapping[str, Any]) -> None:
    """Raises InvalidModel unless two steps lead to each state."""
    following = np.asarray(tables[NEXT])
    states = len(following)
    twice = np.arange(2 * states) // 2
    if states > MOST_STATES or states % 2 or not np.array_equal(np.sort(following, axis=None), twice):
        raise InvalidModel(f"tables.{NEXT}: two steps must lead to each state, an even number up to {MOST_STATES}")


def steps_to(following: np.ndarray) -> np.ndarray:
    """The states after each [states, 2] → the two steps that lead to each, uint16 [states, 2]. A step is the state that
    it leaves, times two, and the parity of the integer there."""
    return np.argsort(following, axis=None, kind="stable").astype(np.uint16).reshape(-1, 2)


def start(cells: tuple[int, ...]) -> np.ndarray:
    """The states of so many rows and columns of cells, uint8."""
    return np.zeros(cells, np.uint8)


def search(
    exact: np.ndarray,
    index: np.ndarray,
    states: np.ndarray,
    bits: np.ndarray,
    offsets: np.ndarray,
    error_bits: float,
    skip: int,
    steps: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Real residuals float32 [..., 2·rows, 2·columns] and their scale indices uint8 → integers int16, and tables uint8.

    bits [128, REACH], offsets [128]: of both quantisers. steps: from `steps_to`. `states` [rows, columns]
    goes on to where the cells end.
    """
    exact = np.ascontiguousarray(exact.clip(-LARGEST, LARGEST), np.float32)
    table, r = np.array(index, np.uint8, order="C"), np.zeros(exact.shape, np.int16)
    channels = exact.size // (states.size * PLANE_CELLS**2)
    room = np.empty(16 * channels, np.int16), np.empty(4 * channels * len(steps), np.uint8)
    native.call(
        "search", exact.reshape(-1), table.reshape(-1), channels, *states.shape, bits, offsets, SCALE_COUNT,
        error_bits, skip, steps, len(steps), states, *room, r.reshape(-1),
    )  # fmt: skip
    return r, table


def read(
    decoder: entropy.Decoder, index: np.ndarray, states: np.ndarray, tables: entropy.Tables, following: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The next symbols, int16, and their tables, uint8, for scale indices uint8 [..., 2·rows, 2·columns].

    following: the states after each, as a model has them. Raises InvalidFile as `Decoder.get`.
    """
    table, r = np.array(index, np.uint8, order="C"), np.zeros(index.shape, np.int16)
    channels = index.size // (states.size * PLANE_CELLS**2)
    decoder.follow(
        "decode_dependent", table.reshape(-1), channels, *states.shape, *tables.for_native, SCALE_COUNT,
        following, states, r.reshape(-1),
    )  # fmt: skip
    return r, table
