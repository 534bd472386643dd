"""Banks of z: which table follows from the neighbours, streams that use them, and how banks are counted."""

import numpy as np
import pytest
import torch
from conftest import lively
from test_symbols import QUALITY, assert_they_come_back, header

from slimcodec import InvalidFile, InvalidModel
from slimcodec.codec import entropy, inference, models
from slimcodec.codec.contexts import OWN, BankCoder, bank_index
from slimcodec.codec.symbols import BANK_TABLES, SymbolCoder, Symbols
from slimcodec.training import banks
from slimcodec.training.prior import FactorizedPrior, export_tables

RUNG = 2  # of QUALITY, from 0


def photos_z(hypers, rungs, count=60, side=4):
    """z of photos that are quiet or busy as a whole, one channel more than the next, and smooth: [N, h, w]."""
    rng = np.random.default_rng(3)
    found = [[] for _ in range(rungs)]
    for _ in range(count):
        loud = rng.choice([0.3, 8.0]) * (1 + np.arange(hypers))[:, None, None]
        level = rng.normal(0, 1, (hypers, 1, 1))
        for rung in range(rungs):
            z = loud * (level + rng.normal(0, 0.5, (hypers, side, side)))
            found[rung].append(np.clip(np.rint(z), -128, 127).astype(np.int8))
    return found


@pytest.fixture(scope="module")
def network(architectures):
    return lively(architectures["four stages"])


@pytest.fixture(scope="module")
def photos(network):
    return photos_z(network.architecture.hypers, network.architecture.rungs)


@pytest.fixture(scope="module")
def plain(network):
    torch.manual_seed(0)
    return export_tables(FactorizedPrior(network.architecture.hypers, network.architecture.rungs))


@pytest.fixture(scope="module")
def tables(plain, photos):
    return banks.with_banks(plain, photos)


@pytest.fixture(scope="module")
def coder(network, tables):
    return SymbolCoder(network.scales(), tables)


def random_symbols(coder, cells, tile=0, *, wild=False):
    rng = np.random.default_rng(5)
    shape = coder.architecture.hypers, *cells
    z = rng.integers(-128, 128, shape) if wild else np.clip(rng.laplace(0, 6, shape), -128, 127)
    z = z.astype(np.int8)
    index = coder.scale_index(z, QUALITY, tile)
    return Symbols(z, index, rng.integers(-9, 10, index.shape).astype(np.int16))


def arrays(tables):
    return {name: table.numpy() for name, table in tables.items()}


def bank_by_the_book(rule, z, n, y, x):
    """As docs/format.md says it, one hyper-latent at a time, in Python's integers."""
    nothing = [0] * len(z)
    left = z[:, y, x - 1] if x else z[:, y - 1, 0] if y else nothing
    above = z[:, y - 1, x] if y else left
    near = [int(w) * (abs(int(a)) + abs(int(b))) for w, a, b in zip(rule.weights, left, above, strict=True)]
    known = [2 * int(w) * abs(int(v)) for w, v in zip(rule.weights[:n], z[:n, y, x], strict=True)]
    total, activity = int(left[n]) + int(above[n]), sum(known) + sum(near[n:]) + OWN * near[n]
    s = sum(total > edge for edge in rule.sum_edges[n].tolist())
    a = sum(activity > edge for edge in rule.activity_edges[n].tolist())
    return rule.banks[n, s, a]


@pytest.mark.parametrize("wild", [False, True])
def test_the_bank_is_the_one_of_the_format(coder, wild):
    rule, z = coder.banks.rules[RUNG], random_symbols(coder, (3, 4), wild=wild).z
    expected = [[[bank_by_the_book(rule, z, n, y, x) for x in range(4)] for y in range(3)] for n in range(len(z))]
    found = bank_index(z, rule)
    assert found.dtype == np.uint8 and np.array_equal(found, expected)
    assert len(np.unique(found)) > 10


@pytest.mark.parametrize("wild", [False, True])
@pytest.mark.parametrize("cells", [(1, 1), (2, 3), (5, 1)])
@pytest.mark.parametrize("tile", [0, 1, 2, 4])
def test_symbols_come_back_at_once_and_window_by_window(coder, cells, tile, wild):
    symbols, head = random_symbols(coder, cells, tile, wild=wild), header(coder, cells, tile)
    assert_they_come_back(coder, symbols, head)


def test_a_stream_is_z_position_by_position_and_then_the_stages(coder):
    symbols, rule = random_symbols(coder, (2, 3)), coder.banks.rules[RUNG]
    encoder = entropy.Encoder()
    for y, x in np.ndindex(2, 3):
        index = np.array([bank_by_the_book(rule, symbols.z, n, y, x) for n in range(8)])
        encoder.put(symbols.z[:, y, x], index, coder.banks.tables)
    for plane in (0, 3, 1, 2):
        encoder.put(symbols.r[plane], symbols.index[plane], coder.r_tables)
    assert coder.write(symbols, header(coder, (2, 3))) == [encoder.finish()]


def test_the_largest_z_and_weights_overflow_nothing(network, tables):
    heavy = tables | {"z_weights": torch.full_like(tables["z_weights"], 2**31 - 1)}
    coder = SymbolCoder(network.scales(), heavy)
    z = np.full((8, 2, 3), -128, np.int8)
    encoder = entropy.Encoder()
    coder.banks.put(encoder, z, 0)
    assert np.array_equal(coder.banks.get(entropy.Decoder(encoder.finish()), z.shape, 0), z)
    assert bank_index(z, coder.banks.rules[0])[7, 1, 2] == bank_by_the_book(coder.banks.rules[0], z, 7, 1, 2)


@pytest.mark.parametrize("tile", [0, 1])
def test_information_is_what_the_streams_take(coder, tile):
    symbols = random_symbols(coder, (3, 3), tile)
    streams = coder.write(symbols, header(coder, (3, 3), tile))
    size, bits = sum(map(len, streams)), coder.information_bits(symbols, QUALITY, tile)
    assert bits / 8 <= size <= 1.005 * bits / 8 + 32 * len(streams)
    assert coder.z_bits(symbols.z, QUALITY) != coder.z_bits(symbols.z, QUALITY, 1)


def z_stream(coder, z):
    encoder = entropy.Encoder()
    coder.banks.put(encoder, z, RUNG)
    return encoder.finish()


def test_a_beginning_gives_the_first_vectors_and_zeros(coder):
    z = random_symbols(coder, (4, 5), wild=True).z
    stream, known = z_stream(coder, z), []
    for length in range(0, len(stream) + 1, 4):
        found = coder.banks.get(entropy.Decoder(stream[:length], partial=True), z.shape, RUNG)
        right = (found == z).transpose(1, 2, 0).ravel()
        known.append(len(right) if right.all() else int(right.argmin()))
        assert not found.transpose(1, 2, 0).ravel()[known[-1] :].any()
    assert known == sorted(known) and known[0] == 0 and known[-1] == z.size


def test_damage_is_refused_or_gives_other_integers(coder):
    z = random_symbols(coder, (4, 5)).z
    stream, rng = z_stream(coder, z), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(stream)
        damaged[rng.integers(len(stream))] ^= 1 << int(rng.integers(8))
        with pytest.raises(InvalidFile, match="coded stream"):
            decoder = entropy.Decoder(bytes(damaged))
            assert coder.banks.get(decoder, z.shape, RUNG).shape == z.shape
            decoder.finish()


@pytest.mark.parametrize("name", BANK_TABLES)
def test_a_table_that_is_missing_or_of_another_kind_is_named(network, tables, name):
    table = tables[name]
    others = [{name: wrong} for wrong in (table.float(), table.long(), table[None], table[:-1], table[:, :-1])]
    without = {key: value for key, value in tables.items() if key != name}
    for damaged in (without, *(tables | other for other in others)):
        with pytest.raises(InvalidModel, match=rf"tables\.{name}|tables\.z_banks|probability tables"):
            SymbolCoder(network.scales(), damaged)


def test_a_bank_that_does_not_exist_is_refused(network, tables):
    few = tables | {"z_bank_frequencies": tables["z_bank_frequencies"][:3].clone()}
    with pytest.raises(InvalidModel, match=r"z_banks: names a bank beyond the 3"):
        SymbolCoder(network.scales(), few)
    none = tables | {"z_banks": tables["z_banks"][..., :0], "z_activity_edges": tables["z_activity_edges"][..., :0]}
    with pytest.raises(InvalidModel, match=r"tables\.z_"):
        SymbolCoder(network.scales(), none)


def test_counted_banks_are_cheaper_on_other_photos(plain, tables, photos):
    """Where every photo is quiet or busy as a whole, what is around tells which."""
    _, hypers, _ = plain["z_frequencies"].shape
    others = photos_z(hypers, 1, count=20, side=6)[0]
    coder = BankCoder(arrays(tables), 8, hypers)
    counted = np.zeros((hypers, 256)) + 0.5
    for z in photos[0]:
        np.add.at(counted, (np.arange(hypers)[:, None, None], z.astype(int) + 128), 1)
    channels = entropy.build_tables(
        entropy.quantise(counted).ravel(), np.full(hypers, 256), np.full(hypers, -128), escape=False
    )
    by_channel = np.broadcast_to(np.arange(hypers)[:, None, None], others[0].shape)
    today = sum(entropy.information_bits(z, by_channel, channels) for z in others)
    assert sum(coder.information_bits(z, 0) for z in others) < 0.9 * today


def test_a_context_that_no_photo_had_keeps_about_its_channels_table(plain, network):
    hypers, rungs = network.architecture.hypers, network.architecture.rungs
    silent = [[np.zeros((hypers, 1, 1), np.int8)] for _ in range(rungs)]
    coder = BankCoder(arrays(banks.with_banks(plain, silent)), rungs, hypers)
    z = random_symbols(SymbolCoder(network.scales(), plain), (6, 6)).z
    bits = SymbolCoder(network.scales(), plain).z_bits(z, 256 * (RUNG + 1))
    assert coder.information_bits(z, RUNG) < 1.1 * bits


def test_a_copy_with_banks_codes_pictures_and_has_the_same_weights(model_directory, tmp_path, photos, pictures):
    model = models.load(model_directory)
    tables = banks.with_banks(model.tables, photos_z(model.codec.architecture.hypers, model.codec.architecture.rungs))
    models.copy_with_tables(model_directory, tmp_path / "banks", tables)
    copied = models.load(tmp_path / "banks")
    assert all(torch.equal(tables[name], copied.tables[name]) for name in tables)
    assert all(torch.equal(t, copied.codec.state_dict()[name]) for name, t in model.codec.state_dict().items())
    assert models.load_training_state(copied).keys() == models.load_training_state(model).keys()
    one, other = inference.Codec(model), inference.Codec(copied)
    for picture in list(pictures.values() if isinstance(pictures, dict) else pictures)[:2]:
        data = other.compress(picture, quality=3.3)
        assert np.array_equal(other.decompress(data), one.decompress(one.compress(picture, quality=3.3)))


def test_hyper_latents_are_those_of_files(model_directory):
    model = models.load(model_directory)
    codec = inference.Codec(model)
    pixels = np.random.default_rng(0).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    crop = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
    found = banks.hyper_latents(model.codec, [crop])
    y = codec.transforms.analyse(pixels)
    for rung in (0, 5):
        (z,) = found[rung]
        expected = codec.transforms.hyper_latents(y, 256 * (rung + 1))[0].numpy()
        assert (z == expected).mean() > 0.99
