"""The entropy coder: exact round trips, pinned bytes, size, and refusal of what is damaged."""

from bisect import bisect_right

import numpy as np
import pytest

from slimcodec import InvalidFile, InvalidInput, InvalidModel
from slimcodec.codec.entropy import Decoder, Encoder, build_tables, information_bits, quantise

GOLDEN = bytes.fromhex("67876ac6ea120000de110c75182d00005cf22e45f40198ff")


def gaussian_tables(scales, *, escape=True, skip=0):
    """Tables of zero-mean Gaussians, 3 scales wide on either side; the escape takes the tails."""
    frequencies, minimum = [], []
    for scale in scales:
        reach = int(np.ceil(3 * scale))
        density = np.exp(-0.5 * (np.arange(-reach, reach + 1) / scale) ** 2)
        frequencies.append(quantise(np.append(density, 0.003 * density.sum()) if escape else density))
        minimum.append(-reach)
    return build_tables(np.concatenate(frequencies), list(map(len, frequencies)), minimum, escape=escape, skip=skip)


def random_tables(rng, *, count=5, escape=False):
    sizes = rng.integers(1, 300, count)
    frequencies = np.concatenate([quantise(rng.dirichlet(np.full(size, 0.3))) for size in sizes])
    return build_tables(frequencies, sizes, rng.integers(-200, 100, count), escape=escape)


def random_symbols(rng, table_index, tables):
    """Values inside the tables, every symbol of a table as likely as any other."""
    sizes = np.diff(tables.start) - 1 - tables.escape
    return tables.minimum[table_index] + (rng.random(table_index.shape) * sizes[table_index]).astype(np.int32)


def encode(*puts):
    encoder = Encoder()
    for put in puts:
        encoder.put(*put)
    return encoder.finish()


def small_stream():
    """Eleven symbols, escapes of both signs among them, that every look at damage uses."""
    narrow = [9000, 47000, 9000, 536]
    wide = [2000, 7000, 14000, 19000, 14000, 7000, 2000, 536]
    flat = [1500] * 41 + [4036]
    tables = build_tables(narrow + wide + flat, [4, 8, 42], [-1, -3, -20], escape=True)
    table_index = np.array([0, 0, 1, 1, 2, 2, 0, 1, 2, 1, 0], np.int32)
    symbols = np.array([0, -1, 3, 7, -20, 500, 0, -32768, 11, -2, 1], np.int32)
    return symbols, table_index, tables


class UndeterminedError(Exception):
    """A symbol depends on a word that is not there."""


def decode_by_the_specification(data, table_index, tables):
    """The stream layout of the module's docstring, transcribed. Returns the values that any beginning determines."""
    states = [int.from_bytes(data[at : at + 8], "little") if len(data) >= at + 8 else None for at in (0, 8)]
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(16, len(data) - 3, 4)]
    coded = 0

    def advance(start_and_frequency):
        nonlocal coded
        x = states[coded % 2]
        if x is None:
            raise UndeterminedError
        slot = x % 2**16
        start, frequency = start_and_frequency(slot)
        x = frequency * (x >> 16) + slot - start
        if x < 2**31:
            x = (x << 32) + words.pop(0) if words else None
        states[coded % 2] = x
        coded += 1
        return start

    def decode(table):
        if table < tables.skip:
            return 0
        slots = tables.cumulative[tables.start[table] : tables.start[table + 1]].tolist()

        def owner(slot):
            symbol = bisect_right(slots, slot) - 1
            return slots[symbol], slots[symbol + 1] - slots[symbol]

        symbol = slots.index(advance(owner))
        if tables.escape and symbol == len(slots) - 2:
            value = advance(lambda slot: (slot, 1))
            return value - 2**16 if value >= 2**15 else value
        return int(tables.minimum[table]) + symbol

    values = []
    for table in table_index.ravel():
        try:
            values.append(decode(table))
        except UndeterminedError:
            return values
    assert words == [] and (None in states or states == [2**31, 2**31])
    return values


# ---- round trips


@pytest.mark.parametrize("escape", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_random_tables_round_trip(seed, escape):
    rng = np.random.default_rng(seed)
    tables = random_tables(rng, escape=escape)
    table_index = rng.integers(0, 5, 2001)
    sizes = np.diff(tables.start) - 1
    # A table that holds nothing but its escape has no value of its own.
    table_index = table_index[sizes[table_index] > 1]
    symbols = random_symbols(rng, table_index, tables)
    decoder = Decoder(encode((symbols, table_index, tables)))
    np.testing.assert_array_equal(decoder.get(table_index, tables), symbols)
    decoder.finish()


def test_puts_with_different_tables_and_shapes():
    rng = np.random.default_rng(0)
    escaping, plain = gaussian_tables([0.2, 1.0, 40.0]), random_tables(rng)
    puts = []
    for tables, shape in [(plain, (3, 7)), (escaping, (2, 3, 5)), (plain, (0, 4)), (escaping, ()), (plain, 9)]:
        table_index = rng.integers(0, len(tables.minimum), shape, dtype=np.int32)
        puts.append((random_symbols(rng, table_index, tables), table_index, tables))
    decoder = Decoder(encode(*puts))
    for symbols, table_index, tables in puts:
        decoded = decoder.get(table_index, tables)
        assert decoded.dtype == np.int16 and decoded.shape == table_index.shape
        np.testing.assert_array_equal(decoded, symbols)
    decoder.finish()


def test_a_stream_may_be_read_in_other_pieces_than_it_was_written_in():
    symbols, table_index, tables = small_stream()
    decoder = Decoder(encode((symbols, table_index, tables)))
    pieces = [decoder.get(piece, tables) for piece in (table_index[:5], table_index[5:6], table_index[6:])]
    np.testing.assert_array_equal(np.concatenate(pieces), symbols)
    decoder.finish()


def test_strided_arrays_are_taken_in_c_order():
    rng = np.random.default_rng(0)
    tables = random_tables(rng)
    table_index = rng.integers(0, 5, (6, 8)).T[::2]
    symbols = random_symbols(rng, table_index, tables)
    data = encode((symbols, table_index, tables))
    assert data == encode((symbols.ravel(), table_index.ravel(), tables))
    np.testing.assert_array_equal(Decoder(data).get(table_index, tables), symbols)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, ">i4"])
def test_integers_of_every_kind_are_taken(dtype):
    symbols, table_index, tables = small_stream()
    table_index = table_index.astype(dtype)
    assert encode((symbols.astype(np.int64), table_index, tables)) == GOLDEN
    assert encode((symbols.astype(">i2"), table_index, tables)) == GOLDEN
    np.testing.assert_array_equal(Decoder(GOLDEN).get(table_index, tables), symbols)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_arguments_stay_as_they_were(dtype):
    symbols, table_index, tables = small_stream()
    symbols, table_index = symbols.astype(np.int16), table_index.astype(dtype)
    encoder = Encoder()
    encoder.put(symbols, table_index, tables)
    assert symbols.flags.writeable and table_index.flags.writeable
    symbols[:] = 0  # a put is not affected by what happens to its arrays
    assert encoder.finish() == GOLDEN
    Decoder(GOLDEN).get(table_index, tables)
    assert table_index.flags.writeable


def test_every_int16_value_survives_the_escape():
    tables = gaussian_tables([0.3])
    symbols = np.arange(-(1 << 15), 1 << 15, dtype=np.int32)
    table_index = np.zeros_like(symbols)
    decoder = Decoder(encode((symbols, table_index, tables)))
    np.testing.assert_array_equal(decoder.get(table_index, tables), symbols)
    decoder.finish()


def test_table_of_one_symbol_costs_nothing():
    tables = build_tables([65536], [1], [-7], escape=False)
    data = encode((np.full(1000, -7), np.zeros(1000, int), tables))
    assert data == encode() and information_bits([-7], [0], tables) == 0
    np.testing.assert_array_equal(Decoder(data).get(np.zeros(1000, int), tables), -7)


def test_empty_stream_is_the_two_initial_states():
    data = encode()
    assert data == (2**31).to_bytes(8, "little") * 2
    Decoder(data).finish()


# ---- skipped tables


def skipping_stream(*, count=60, escape=True):
    """Table 0 is skipped; no other symbol is 0, so that zeros show what was not decoded."""
    rng = np.random.default_rng(count)
    scales = np.array([0.2, 0.6, 3.0, 40.0])
    tables = gaussian_tables(scales, escape=escape, skip=1)
    table_index = rng.integers(0, len(scales), count, dtype=np.uint8)
    reach = -tables.minimum[table_index]
    symbols = np.rint(rng.normal(size=count) * scales[table_index]).clip(-reach, reach).astype(np.int16)
    symbols[symbols == 0] = 1
    symbols[::13] = 9 if escape else 1
    symbols[table_index == 0] = 0
    return symbols, table_index, tables


@pytest.mark.parametrize("escape", [False, True])
def test_skipped_symbols_are_not_in_the_stream(escape):
    symbols, table_index, tables = skipping_stream(escape=escape)
    there = table_index >= 1
    assert 0 < there.sum() < len(symbols)
    put, without = (symbols, table_index, tables), (symbols[there], table_index[there], tables._replace(skip=0))
    data = encode(put)
    assert data == encode(without) and information_bits(*put) == information_bits(*without)
    decoder = Decoder(data)
    np.testing.assert_array_equal(decoder.get(table_index, tables), symbols)
    decoder.finish()
    assert decode_by_the_specification(data, table_index, tables) == symbols.tolist()


def test_all_tables_may_be_skipped():
    tables = gaussian_tables([0.5, 1.0], skip=2)
    nothing, table_index = np.zeros(1000, np.int16), np.tile([0, 1], 500)
    assert encode((nothing, table_index, tables)) == encode() and information_bits(nothing, table_index, tables) == 0
    decoder = Decoder(encode())
    assert not decoder.get(table_index, tables).any()
    decoder.finish()


def test_a_skipped_symbol_must_be_0():
    tables = gaussian_tables([0.5, 1.0], skip=1)
    for code in (Encoder().put, information_bits):
        with pytest.raises(InvalidInput, match="skipped table 0 has no symbol for the value -1"):
            code([3, 0, -1], [1, 0, 0], tables)


@pytest.mark.parametrize("skip", [-1, 3, 1.0])
def test_only_tables_that_exist_can_be_skipped(skip):
    with pytest.raises(InvalidModel, match=f"{skip} of 2 tables"):
        gaussian_tables([0.5, 1.0], skip=skip)


# ---- the format and its size


def test_golden_stream():
    assert encode(small_stream()).hex() == GOLDEN.hex()


def test_the_documented_layout_decodes_the_golden_stream():
    symbols, table_index, tables = small_stream()
    assert decode_by_the_specification(GOLDEN, table_index, tables) == symbols.tolist()


def test_information_bits_are_exact():
    tables = build_tables([32768, 16384, 16384, 65535, 1], [3, 2], [0, 5], escape=True)
    assert information_bits([0, 1, 0], [0, 0, 0], tables) == 1 + 2 + 1
    assert information_bits([[0], [-9]], [[0], [0]], tables) == 1 + (2 + 16)
    assert information_bits([0], [1], tables) == 16 + 16
    assert information_bits([5], [1], tables) == -np.log2(65535 / 65536)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50, 100_000])
def test_a_stream_is_within_16_bytes_of_its_information(count):
    rng = np.random.default_rng(count)
    scales = np.geomspace(0.11, 256, 64)
    tables = gaussian_tables(scales)
    table_index = rng.integers(0, 64, count)
    symbols = np.rint(rng.normal(size=count) * scales[table_index]).astype(np.int32)
    information_bytes = information_bits(symbols, table_index, tables) / 8
    size = len(encode((symbols, table_index, tables)))
    assert information_bytes < size <= 1.001 * information_bytes + 16


# ---- damage


def test_every_truncation_is_refused():
    data = encode(small_stream())
    _, table_index, tables = small_stream()
    for length in range(len(data)):
        with pytest.raises(InvalidFile):
            decoder = Decoder(data[:length])
            decoder.get(table_index, tables)
            decoder.finish()


def test_damaged_byte_is_refused_or_gives_other_symbols():
    symbols, table_index, tables = small_stream()
    data = encode((symbols, table_index, tables))
    for at in range(len(data)):
        for value in set(range(256)) - {data[at]}:
            damaged = data[:at] + bytes([value]) + data[at + 1 :]
            try:
                decoder = Decoder(damaged)
                decoded = decoder.get(table_index, tables)
                decoder.finish()
            except InvalidFile:
                continue
            assert decoded.shape == symbols.shape and (decoded != symbols).any()


def test_random_bytes_are_refused():
    rng = np.random.default_rng(0)
    _, table_index, tables = small_stream()
    for length in rng.integers(0, 100, 300):
        with pytest.raises(InvalidFile):
            decoder = Decoder(rng.bytes(length))
            decoder.get(np.tile(table_index, 20), tables)
            decoder.finish()


def test_bytes_left_over_are_refused():
    _, table_index, tables = small_stream()
    decoder = Decoder(encode(small_stream()) + bytes(4))
    decoder.get(table_index, tables)
    with pytest.raises(InvalidFile, match="did not end where it should"):
        decoder.finish()


def test_a_decoder_that_ran_out_of_bytes_keeps_refusing():
    _, table_index, tables = small_stream()
    decoder = Decoder(encode(small_stream()))
    for _ in range(3):
        with pytest.raises(InvalidFile, match="ends before its last symbol"):
            decoder.get(np.tile(table_index, 50), tables)


# ---- beginnings of streams


def escapes_only():
    tables = gaussian_tables([0.3])
    symbols = np.arange(100, 130, dtype=np.int16)
    return symbols, np.zeros(30, np.uint8), tables


def nearly_free():
    """Many symbols in few words: most leave their state without a refill."""
    tables = build_tables([65000, 300, 236], [3], [-1], escape=True)
    symbols = np.where(np.arange(2000) % 97 == 0, 500, -1).astype(np.int16)
    return symbols, np.zeros(2000, np.int32), tables


STREAMS = {
    "skips and escapes": skipping_stream,
    "skips": lambda: skipping_stream(count=90, escape=False),
    "escapes only": escapes_only,
    "nearly free": nearly_free,
    "empty": lambda: skipping_stream(count=0),
}


@pytest.mark.parametrize("stream", STREAMS)
def test_every_beginning_gives_the_first_symbols_and_zeros(stream):
    symbols, table_index, tables = STREAMS[stream]()
    data = encode((symbols, table_index, tables))
    before = 0
    for cut in range(len(data) + 1):
        decoder = Decoder(data[:cut], partial=True)
        decoded = decoder.get(table_index, tables)
        decoder.finish()
        length = int(np.flatnonzero(decoded).max(initial=-1)) + 1
        np.testing.assert_array_equal(decoded[:length], symbols[:length])
        determined = decode_by_the_specification(data[:cut], table_index, tables)
        assert before <= length <= len(determined)
        assert np.count_nonzero(decoded[: len(determined)] != determined) <= 1  # at most one is given up
        assert decoder.exhausted == (cut < len(data))
        before = length
    np.testing.assert_array_equal(decoded, symbols)


def test_a_beginning_may_be_read_in_pieces():
    symbols, table_index, tables = skipping_stream()
    data = encode((symbols, table_index, tables))
    for cut in range(len(data) + 1):
        decoder = Decoder(data[:cut], partial=True)
        pieces = [decoder.get(piece, tables) for piece in np.split(table_index, [0, 7, 8, 30])]
        whole = Decoder(data[:cut], partial=True).get(table_index, tables)
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
        decoder.finish()
        assert not decoder.exhausted or not decoder.get(table_index, tables).any()


def test_a_whole_stream_is_still_checked_by_a_partial_decoder():
    symbols, table_index, tables = small_stream()
    decoder = Decoder(GOLDEN, partial=True)
    np.testing.assert_array_equal(decoder.get(table_index, tables), symbols)
    assert not decoder.exhausted
    decoder.finish()
    decoder = Decoder(GOLDEN + bytes(4), partial=True)
    decoder.get(table_index, tables)
    with pytest.raises(InvalidFile, match="did not end where it should"):
        decoder.finish()
    with pytest.raises(InvalidFile, match="impossible state"):
        Decoder(bytes(16), partial=True)


# ---- what cannot be coded


@pytest.mark.parametrize(
    "symbols, table_index, message",
    [
        ([5], [0], "no symbol for the value 5"),
        ([0, -3], [0, 0], "no symbol for the value -3"),
        ([1 << 15], [0], "symbol 32768 lies outside"),
        ([0], [2], "table index 2 lies outside 0..1"),
        ([0], [-1], "table index -1 lies outside 0..1"),
        ([0, 0], [0], "shape"),
        ([0.5], [0], "must be integers"),
        ([0], [0.0], "must be integers"),
    ],
)
def test_what_a_table_without_escape_refuses(symbols, table_index, message):
    tables = gaussian_tables([0.5, 1.0], escape=False)
    with pytest.raises(InvalidInput, match=message):
        Encoder().put(symbols, table_index, tables)
    with pytest.raises(InvalidInput, match=message):
        information_bits(symbols, table_index, tables)


@pytest.mark.parametrize("value", [-(1 << 15) - 1, 1 << 15, 1 << 31, -(1 << 40)])
def test_an_escape_holds_int16_only(value):
    with pytest.raises(InvalidInput, match=r"outside -32768\.\.32767"):
        Encoder().put(np.array([0, value]), np.array([0, 0]), gaussian_tables([0.5]))


@pytest.mark.parametrize("table_index", [[3], [-1], [1 << 40]])
def test_decoder_refuses_tables_that_do_not_exist(table_index):
    _, _, tables = small_stream()
    with pytest.raises(InvalidInput, match=r"outside 0\.\.2"):
        Decoder(encode(small_stream())).get(table_index, tables)


# ---- tables


@pytest.mark.parametrize(
    "frequencies, sizes, minimum, message",
    [
        ([65536, 65535], [1, 1], [0, 0], "table 1 sums to 65535"),
        ([65536, 0], [2], [0], "a frequency lies outside"),
        ([65537, -1], [2], [0], "a frequency lies outside"),
        (np.full(2, 1 << 63, np.uint64), [2], [0], "a frequency lies outside"),
        ([65536], [1, 1], [0, 0], "sizes do not add up"),
        ([65536], [1, 0], [0, 0], "sizes do not add up"),
        ([65536], [2, -1], [0, 0], "sizes do not add up"),
        ([65536], [1], [0, 0], "1 sizes and 2 minima"),
        (np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), "0 sizes"),
        ([65535, 1], [2], [32767], "outside int16"),
        ([65535, 1], [2], [-32769], "outside int16"),
        ([65535, 1], [2], [(1 << 63) - 1], "outside int16"),
        ([65535.0, 1.0], [2], [0], "frequencies must be a vector of integers"),
        ([[65536]], [1], [0], "frequencies must be a vector of integers"),
    ],
)
def test_damaged_tables_are_refused(frequencies, sizes, minimum, message):
    with pytest.raises(InvalidModel, match=message):
        build_tables(frequencies, sizes, minimum, escape=False)


def test_lookup_names_the_owner_of_each_bucket():
    tables = random_tables(np.random.default_rng(3))
    for table in range(5):
        slots = tables.cumulative[tables.start[table] : tables.start[table + 1]]
        assert slots[0] == 0 and slots[-1] == 65536
        owners = np.searchsorted(slots, np.arange(0, 65536, 256), side="right") - 1
        np.testing.assert_array_equal(tables.lookup[table], owners)


@pytest.mark.parametrize("size", [1, 2, 300, 32768])
def test_quantised_rows_are_complete(size):
    rows = np.random.default_rng(size).dirichlet(np.full(size, 0.1), (2, 2))
    frequencies = quantise(rows)
    assert frequencies.shape == rows.shape and frequencies.min() >= 1
    np.testing.assert_array_equal(frequencies.sum(axis=-1), 65536)
    np.testing.assert_array_equal(frequencies[1, 0], quantise(rows[1, 0]))


def test_quantise_is_as_good_as_the_greedy_optimum():
    """Giving the slots away one by one, each to the symbol that gains most, is optimal: the cost is convex."""
    distance = np.abs(np.arange(40) - 20)
    for pmf in (np.random.default_rng(0).dirichlet(np.full(40, 0.5)), 0.5**distance, 0.02**distance):
        pmf = pmf / pmf.sum()
        greedy = np.ones(40)
        for _ in range(65536 - 40):
            greedy[np.argmax(pmf * np.log1p(1 / greedy))] += 1
        excess_bits = (pmf * np.log2(greedy / quantise(pmf))).sum()
        assert excess_bits < 1e-7


@pytest.mark.parametrize("pmf", [[0.5, np.nan], [1.5, -0.5], [0.0, 0.0], [np.inf, 1], [], 1.0, np.ones(32769)])
def test_quantise_refuses_what_is_no_pmf(pmf):
    with pytest.raises(InvalidInput, match="quantise"):
        quantise(pmf)
