"""Integers to bytes and back: a range coder (rANS) over integer probability tables.

rANS as in Duda, "Asymmetric numeral systems" (arXiv:1311.2540), with 64-bit states, 32-bit words and 16-bit
precision: a symbol that owns `frequency` of the 65536 slots, the first being `start`, costs -log2(frequency / 65536)
bits. Coding knows nothing but integers, so every machine reads and writes the same bytes.

The stream, all little endian:

    state 0   u64   the state of lane 0 that decoding starts from, in [2^31, 2^63)
    state 1   u64   the same for lane 1
    words     u32   to the end of the stream, in the order in which decoding reads them

Coded symbol number i (from 0, over all puts) belongs to lane i % 2. To decode it from its lane's state x:

    slot = x mod 2^16                   find the table's symbol with start <= slot < start + frequency
    x = frequency * (x >> 16) + slot - start
    if x < 2^31: x = (x << 32) + next word

In a table with an escape the last symbol is the escape: the value follows as one more coded symbol, of start
value mod 2^16 (two's complement) and frequency 1. After the last symbol both states are 2^31 and no word is left.
Symbols of skipped tables are 0 and not in the stream: they are no coded symbols.
"""

from ctypes import byref
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from slimcodec import InvalidFile, InvalidInput, InvalidModel
from slimcodec.codec import native

PRECISION = 16
LANES = 2  # two independent states, so that the processor works on both at once; they swap after every symbol

_TOTAL = 1 << PRECISION
_BUCKET_BITS = 8
_STATES_BYTES = 8 * LANES

_INITIAL = np.uint64(1 << 31)
_STATE_END = np.uint64(1 << 63)


class Tables(NamedTuple):
    """T probability tables laid end to end; table t has L_t symbols, for the values minimum[t], minimum[t] + 1, ...

    Made by `build_tables`, which checks what coder.c relies on.
    """

    cumulative: np.ndarray  # uint32 [sum(L_t + 1)]: each table's first slots, from 0, and then 65536
    start: np.ndarray  # int64 [T + 1]: where each table begins in `cumulative`
    minimum: np.ndarray  # int32 [T]: the value of each table's first symbol
    escape: bool  # the last symbol of every table is an escape (see the module's docstring)
    lookup: np.ndarray  # uint16 [T, 256]: the symbol that owns the first slot of each bucket of 256 slots
    skip: int  # the first tables, for symbols that are always 0 and not coded

    @property
    def for_native(self) -> tuple[Any, ...]:
        """As the functions of coder.c take them."""
        return self.cumulative, self.start, self.minimum, self.lookup, self.skip, self.escape


def build_tables(
    frequencies: ArrayLike, sizes: ArrayLike, minimum: ArrayLike, *, escape: bool, skip: int = 0
) -> Tables:
    """Check integer probability tables and lay them out for coding.

    `frequencies`: [sum(sizes)] integers >= 1, all tables end to end, each table summing to 65536.
    `sizes`: [T] symbols per table, the escape included. `minimum`: [T] value of each table's first symbol; the values
    of all symbols lie in int16. `skip`: so many tables, the first ones, are not coded, their symbol is always 0.
    Raises `InvalidModel` for anything else: tables travel inside model directories.
    """
    frequencies = _vector_of_model(frequencies, "frequencies")
    sizes, minimum = _vector_of_model(sizes, "sizes"), _vector_of_model(minimum, "minimum")
    if len(sizes) == 0 or len(sizes) != len(minimum):
        raise InvalidModel(f"probability tables: {len(sizes)} sizes and {len(minimum)} minima, every table needs both")
    if sizes.min() < 1 or sizes.max() > _TOTAL or sizes.sum() != len(frequencies):
        raise InvalidModel(f"probability tables: the sizes do not add up to the {len(frequencies)} frequencies")
    if frequencies.min() < 1 or frequencies.max() > _TOTAL:
        raise InvalidModel(f"probability tables: a frequency lies outside 1..{_TOTAL}")
    ends = np.cumsum(sizes)
    totals = np.add.reduceat(frequencies, ends - sizes)
    if (totals != _TOTAL).any():
        table = int(np.argmax(totals != _TOTAL))
        raise InvalidModel(f"probability tables: table {table} sums to {totals[table]}, not to {_TOTAL}")
    if (minimum < -(1 << 15)).any() or (minimum > (1 << 15) - sizes).any():
        raise InvalidModel("probability tables: the values of a table lie outside int16")
    if not isinstance(skip, int) or not 0 <= skip <= len(sizes):
        raise InvalidModel(f"probability tables: {skip!r} of {len(sizes)} tables cannot be skipped")

    # Every table fills 65536 slots, so table t owns the slots from t * 65536 of one long common axis.
    first_slots = np.cumsum(frequencies) - frequencies
    # The symbol that owns a bucket's first slot: so many begin there or before, less one.
    first_buckets = -(-first_slots >> PRECISION - _BUCKET_BITS)
    begun = np.bincount(first_buckets, minlength=len(sizes) << _BUCKET_BITS)[: len(sizes) << _BUCKET_BITS]
    owners = np.cumsum(begun).reshape(len(sizes), -1) - 1
    return Tables(
        cumulative=np.insert(first_slots % _TOTAL, ends, _TOTAL).astype(np.uint32),
        start=np.concatenate([[0], np.cumsum(sizes + 1)]),
        minimum=minimum.astype(np.int32),
        escape=bool(escape),
        lookup=(owners - (ends - sizes)[:, None]).astype(np.uint16),
        skip=skip,
    )


def _vector_of_model(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidModel(f"probability tables: {name} must be a vector of integers")
    return array.astype(np.int64)


def quantise(pmf: np.ndarray) -> np.ndarray:
    """Integer frequencies >= 1 that sum to 65536 in every row, close to those that cost the fewest bits under `pmf`.

    `pmf`: [..., L] nonnegative, L <= 32768; every row is divided by its sum. Returns int64 [..., L]. Without whole
    numbers the optimum is max(1, scale * pmf) for the scale that makes the sum right; it is rounded down, and what is
    left goes, one each, to the symbols that gain most. Raises `InvalidInput`.
    """
    pmf = np.asarray(pmf, np.float64)
    if pmf.ndim == 0 or not 1 <= pmf.shape[-1] <= _TOTAL // 2:
        raise InvalidInput(f"quantise: pmf of shape {pmf.shape}, its last dimension must be 1 to {_TOTAL // 2}")
    sums = pmf.sum(axis=-1, keepdims=True)
    if not (np.isfinite(sums).all() and (pmf >= 0).all() and (sums > 0).all()):
        raise InvalidInput("quantise: a pmf must be finite and nonnegative, with a positive sum")
    pmf = pmf / sums
    ideal = pmf * _scale_with_floor_of_one(pmf)
    frequencies = np.maximum(np.floor(ideal), 1)
    left = _TOTAL - frequencies.sum(axis=-1, keepdims=True)
    by_gain = np.argsort(-pmf * np.log1p(1 / frequencies), axis=-1, kind="stable")
    rank = np.argsort(by_gain, axis=-1, kind="stable")
    return (frequencies + (rank < left)).astype(np.int64)


def _scale_with_floor_of_one(pmf: np.ndarray) -> np.ndarray:
    """`scale` [..., 1] with sum(max(1, scale * pmf)) = 65536; it falls, and raised entries only grow, till it holds."""
    raised = np.zeros(pmf.shape, bool)
    while True:
        kept = np.where(raised, 0, pmf).sum(axis=-1, keepdims=True)
        scale = (_TOTAL - raised.sum(axis=-1, keepdims=True)) / kept
        still_below = ~raised & (pmf * scale < 1)
        if not still_below.any():
            return scale
        raised |= still_below


def information_bits(symbols: np.ndarray, table_index: np.ndarray, tables: Tables) -> float:
    """-sum(log2(frequency / 65536)) over `symbols`, escapes included: what coding them costs but for the two states.

    `symbols`, `table_index`: integers of the same shape. Raises `InvalidInput` like `Encoder.put`.
    """
    return float(coded_bits(symbols, table_index, tables).sum())


def coded_bits(symbols: np.ndarray, table_index: np.ndarray, tables: Tables) -> np.ndarray:
    """`information_bits` one by one: of the symbols in C order, each escaped value after its escape; none skipped."""
    intervals = intervals_of(symbols, table_index, tables)
    bits_of_frequency = -np.log2(np.arange(1, _TOTAL + 1) / _TOTAL)
    return bits_of_frequency[intervals >> PRECISION]


class Encoder:
    """Collects symbols in the order in which they will be decoded; the bytes are made by `finish`."""

    def __init__(self) -> None:
        self._puts: list[np.ndarray] = []

    def put(self, symbols: np.ndarray, table_index: np.ndarray, tables: Tables) -> None:
        """Code `symbols`, each with table `table_index` of `tables`: integers of the same shape, taken in C order.

        Raises `InvalidInput` for a table that does not exist and for a value that its table cannot code: one outside
        int16, or outside a table without escape, or not 0 where the table is skipped.
        """
        self._puts.append(intervals_of(symbols, table_index, tables))

    def finish(self) -> bytes:
        """The whole stream as bytes."""
        words = np.empty(sum(map(len, self._puts)), np.uint32)
        states = np.full(LANES, _INITIAL)
        position = len(words)
        # What is decoded first must be encoded last.
        for intervals in reversed(self._puts):
            position = native.call("encode", intervals, len(intervals), states, words, position)
        return states[::-1].astype("<u8").tobytes() + words[position:].astype("<u4").tobytes()


class Decoder:
    """Reads back what an `Encoder` wrote: the same tables and table indices in the same order give the same symbols."""

    def __init__(self, data: bytes, *, partial: bool = False):
        """`partial`: any beginning of a stream will do; symbols that it does not determine will be 0.

        Raises `InvalidFile` for an impossible state, and unless `partial` if `data` is not two states and whole words.
        """
        if not partial and (len(data) < _STATES_BYTES or len(data) % 4):
            raise InvalidFile(f"coded stream: {len(data)} bytes, expected {_STATES_BYTES} and a multiple of 4 in all")
        self._partial = partial
        self._states = np.full(LANES, _INITIAL)
        self._words = np.empty(0, np.uint32)
        self._position = 1  # beyond the last word: exhausted
        if len(data) >= _STATES_BYTES:
            self._states[:] = np.frombuffer(data, "<u8", LANES)
            words = (len(data) - _STATES_BYTES) // 4
            self._words = np.frombuffer(data, "<u4", words, _STATES_BYTES).astype(np.uint32)
            self._position = 0
        if (self._states < _INITIAL).any() or (self._states >= _STATE_END).any():
            raise InvalidFile("coded stream: damaged, it begins with an impossible state")

    @property
    def exhausted(self) -> bool:
        """Whether the stream ended before the symbols that were asked for: the rest of them, and any more, are 0."""
        return self._position > len(self._words)

    def get(self, table_index: np.ndarray, tables: Tables) -> np.ndarray:
        """The next symbols, int16 in `table_index`'s shape. Raises `InvalidInput` for a table that does not exist and,
        unless `partial`, `InvalidFile` when the stream ends too early; damage may also give other symbols, which
        `finish` notices."""
        table_index = np.asarray(table_index)
        index = _checked_index(table_index, tables)
        symbols = np.zeros(len(index), np.int16)
        self.follow("decode", index, index.itemsize, len(index), *tables.for_native, symbols)
        return symbols.reshape(table_index.shape)

    def follow(self, name: str, *arguments: Any) -> None:
        """Read on with a function of coder.c: `decode`, or one that finds the tables as it goes. Raises `InvalidFile`
        like `get`."""
        self._position = native.call(name, self._states, self._words, len(self._words), self._position, *arguments)
        if self.exhausted and not self._partial:
            raise InvalidFile("coded stream: truncated or damaged, it ends before its last symbol")

    def finish(self) -> None:
        """Raises `InvalidFile` unless exactly everything was read: no word is left, both states are the initial one.
        A partial stream that is exhausted has nothing to compare."""
        if self._partial and self.exhausted:
            return
        if self._position != len(self._words) or (self._states != _INITIAL).any():
            raise InvalidFile("coded stream: damaged, or made with other tables: decoding did not end where it should")


def intervals_of(symbols: np.ndarray, table_index: np.ndarray, tables: Tables) -> np.ndarray:
    """What is coded for `symbols`, escaped values included and skipped tables left out: uint32, start in the low half,
    frequency - 1 in the high half."""
    symbols, table_index = np.asarray(symbols), np.asarray(table_index)
    if symbols.shape != table_index.shape:
        raise InvalidInput(f"entropy coder: symbols of shape {symbols.shape}, table indices of {table_index.shape}")
    _check_integers(symbols, -(1 << 15), (1 << 15) - 1, "symbol")
    values = np.ascontiguousarray(symbols, np.int16).reshape(-1)
    index = _checked_index(table_index, tables)
    intervals, count = np.empty(len(values) << tables.escape, np.uint32), native.COUNT()
    found = native.call(
        "look_up", values, len(values), index, index.itemsize, *tables.for_native, intervals, byref(count)
    )
    if found < len(values):
        which = "skipped table" if index[found] < tables.skip else "table"
        raise InvalidInput(f"entropy coder: {which} {index[found]} has no symbol for the value {values[found]}")
    return intervals[: count.value].copy()  # hardly any value is escaped, so half of it would be kept for nothing


def _checked_index(table_index: np.ndarray, tables: Tables) -> np.ndarray:
    """Table indices as a vector, uint8 if they were and else uint32, after checking that there are such tables.

    A copy, which nobody else changes between the check and its use.
    """
    index = np.array(table_index, order="C").reshape(-1)
    _check_integers(index, 0, len(tables.minimum) - 1, "table index")
    return index if index.dtype == np.uint8 else index.astype(np.uint32)


def _check_integers(array: np.ndarray, lowest: int, highest: int, name: str) -> None:
    if array.dtype.kind not in "iu":
        raise InvalidInput(f"entropy coder: {name} must be integers, not {array.dtype}")
    for extreme in (array.min(initial=0), array.max(initial=0)):
        if not lowest <= extreme <= highest:
            raise InvalidInput(f"entropy coder: {name} {extreme} lies outside {lowest}..{highest}")
