"""A handful of symbols as one big number: what codec/entropy does, for so few that its two states would be most of it.

The state of the coder is a number of any size, and the bytes are that number, little endian. It starts from 0 and is
back at 0 when all symbols are taken out. Tables, escapes and skipped tables are as in codec/entropy.
"""

from bisect import bisect_right

import numpy as np

from slimcodec import InvalidFile
from slimcodec.codec.entropy import PRECISION, Tables, intervals_of

_MASK = (1 << PRECISION) - 1


def encode(symbols: np.ndarray, table_index: np.ndarray, tables: Tables) -> bytes:
    """Symbols, each with its table: integers of the same shape → bytes. Raises InvalidInput as `Encoder.put`."""
    state = 0
    for interval in intervals_of(symbols, table_index, tables)[::-1].tolist():
        start, frequency = interval & _MASK, (interval >> PRECISION) + 1
        state = (state // frequency << PRECISION) + start + state % frequency
    return state.to_bytes(-(-state.bit_length() // 8), "little")


def decode(data: bytes, table_index: np.ndarray, tables: Tables) -> np.ndarray:
    """The symbols that `encode` was given, int16. Raises InvalidFile unless the bytes hold exactly so many."""
    state = int.from_bytes(data, "little")
    symbols = np.zeros(len(table_index), np.int16)
    for position, table in enumerate(table_index.tolist()):
        if table >= tables.skip:
            symbols[position], state = _taken(state, table, tables)
    if state or data.endswith(b"\0"):
        raise InvalidFile("the file's correction is damaged: it does not end where it should")
    return symbols


def _taken(state: int, table: int, tables: Tables) -> tuple[int, int]:
    """The next symbol, and the state without it."""
    slot, begin, end = state & _MASK, int(tables.start[table]), int(tables.start[table + 1])
    cumulative = tables.cumulative[begin:end].tolist()
    place = bisect_right(cumulative, slot) - 1
    first, after = cumulative[place : place + 2]
    state = (after - first) * (state >> PRECISION) + slot - first
    if tables.escape and begin + place == end - 2:
        value = state & _MASK
        return value - (value >> PRECISION - 1 << PRECISION), state >> PRECISION
    return int(tables.minimum[table]) + place, state
