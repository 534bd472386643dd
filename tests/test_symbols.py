"""Streams and symbols: the order of a stream, its tables, what is skipped, and tables that no model has."""

import numpy as np
import pytest
import torch
from conftest import lively

from slimcodec import InvalidModel
from slimcodec.codec import bitstream, entropy
from slimcodec.codec.grid import whole
from slimcodec.codec.rate import SCALE_COUNT
from slimcodec.codec.symbols import TABLES, SymbolCoder, Symbols, entropy_tables
from slimcodec.training.prior import FactorizedPrior, export_tables

QUALITY = 700


@pytest.fixture(scope="module")
def network(architectures):
    return lively(architectures["four stages"])


@pytest.fixture(scope="module")
def tables(network):
    torch.manual_seed(0)
    return export_tables(FactorizedPrior(network.architecture.hypers, network.architecture.rungs))


@pytest.fixture(scope="module", params=[0, 20, SCALE_COUNT])
def coder(request, network, tables):
    return SymbolCoder(network.scales(), tables | {"r_skip": torch.tensor([request.param], dtype=torch.int32)})


def random_symbols(coder, cells, tile=0, *, seed=0):
    """As an encoder makes them: r is 0 where it is skipped, and some are escaped."""
    rng = np.random.default_rng(seed)
    architecture = coder.architecture
    z = rng.integers(-128, 128, (architecture.hypers, *cells)).astype(np.int8)
    index = coder.scale_index(z, QUALITY, tile)
    r = np.where(index < coder.r_tables.skip, 0, rng.integers(-9, 10, index.shape)).astype(np.int16)
    r[..., :1] *= 3000
    return Symbols(z, index, r)


def header(coder, cells, tile=0):
    rows, columns = cells
    return bitstream.Header(bytes(8), 64 * columns - 5, 64 * rows - 60, QUALITY, tile)


def same(one, other):
    return all(
        np.array_equal(mine, others) and mine.dtype == others.dtype for mine, others in zip(one, other, strict=True)
    )


def assert_they_come_back(coder, symbols, head):
    """At once, and window by window."""
    contents = bitstream.Contents(head, coder.write(symbols, head), {}, True)
    cells = whole(symbols.z.shape[1:])
    assert len(contents.streams) == len(cells.tiles(head.tile))
    assert same(coder.read(contents), symbols)
    for window in cells.tiles(1) + cells.tiles(3):
        planes = window.finer(2).slices
        part = Symbols(symbols.z[:, *window.slices], *(array[:, :, *planes] for array in symbols[1:]))
        assert same(coder.read(contents, window), part)


@pytest.mark.parametrize("cells", [(1, 1), (2, 3), (5, 1)])
@pytest.mark.parametrize("tile", [0, 1, 2, 4])
def test_symbols_come_back_at_once_and_window_by_window(coder, cells, tile):
    symbols, head = random_symbols(coder, cells, tile), header(coder, cells, tile)
    assert_they_come_back(coder, symbols, head)


def test_a_stream_is_z_and_then_the_stages_in_order(coder):
    """Written by hand from the parts: z, planes 0, 3, 1, 2."""
    symbols = random_symbols(coder, (2, 3))
    encoder = entropy.Encoder()
    channels = np.arange(8)[:, None, None] + 8 * 2  # 700 / 256 is nearest to rung 3
    encoder.put(symbols.z, np.broadcast_to(channels, symbols.z.shape), coder.z_tables)
    for plane in (0, 3, 1, 2):
        encoder.put(symbols.r[plane], symbols.index[plane], coder.r_tables)
    assert coder.write(symbols, header(coder, (2, 3))) == [encoder.finish()]


def test_information_is_what_the_streams_take(coder):
    symbols = random_symbols(coder, (3, 3))
    for tile in (0, 1):
        symbols = random_symbols(coder, (3, 3), tile)
        streams = coder.write(symbols, header(coder, (3, 3), tile))
        size, bits = sum(map(len, streams)), coder.information_bits(symbols, QUALITY)
        assert bits / 8 <= size <= 1.005 * bits / 8 + 32 * len(streams)


def test_every_tile_has_the_indices_of_a_picture_of_its_own(coder):
    symbols = random_symbols(coder, (5, 4), 2)
    for cell in whole((5, 4)).tiles(2):
        alone = coder.scale_index(symbols.z[:, *cell.slices], QUALITY)
        assert np.array_equal(symbols.index[:, :, *cell.finer(2).slices], alone)
    assert not np.array_equal(symbols.index, coder.scale_index(symbols.z, QUALITY))


@pytest.mark.parametrize("quality, rung", [(256, 0), (383, 0), (384, 1), (1024, 3), (1919, 6), (1920, 7), (2048, 7)])
def test_z_uses_the_tables_of_the_nearest_rung(coder, quality, rung):
    index = coder.z_index((8, 1, 2), quality)
    assert index.shape == (8, 1, 2)
    assert index[:, 0, 1].tolist() == list(range(8 * rung, 8 * rung + 8))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_missing_or_of_another_kind_is_named(tables, name):
    table = tables[name]
    others = [{name: wrong} for wrong in (table.float(), table.long(), table[None], table.flatten()[1:])]
    without = {key: value for key, value in tables.items() if key != name}
    for damaged in (without, *(tables | other for other in others)):
        with pytest.raises(InvalidModel, match=f"tables.{name}|probability tables"):
            entropy_tables(damaged)


def test_tables_of_another_architecture_are_refused(architectures, tables):
    with pytest.raises(InvalidModel, match=r"tables\.z_frequencies must begin with \(3, 3\)"):
        SymbolCoder(lively(architectures["two stages"]).scales(), tables)


def test_tables_that_are_none_are_refused(tables):
    for name in ("z_frequencies", "r_frequencies"):
        damaged = tables[name].to(torch.int32).clone()
        damaged.view(-1)[0] += 1
        with pytest.raises(InvalidModel, match="probability tables: table 0 sums to"):
            entropy_tables(tables | {name: damaged.to(torch.uint16)})


def test_the_tables_of_r_hold_both_signs_alike_and_an_escape(tables):
    _, r = entropy_tables(tables)
    sizes = tables["r_sizes"].numpy()
    assert r.escape and (sizes % 2 == 0).all()
    assert (r.minimum == -(sizes - 2) // 2).all()
