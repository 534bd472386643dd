"""Dependent quantisation: the search finds the cheapest path, and a decoder follows it."""

from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import with_short_paths

from slimcodec import InvalidFile, InvalidModel
from slimcodec.codec import bitstream, dependent, entropy, inference, models, rate, rounding
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.models import Model
from slimcodec.codec.quantise import Quantiser
from slimcodec.codec.symbols import DEPENDENT_TABLES, TABLES, entropy_tables
from slimcodec.codec.units import GAIN_UNIT, SCALE_COUNT
from slimcodec.training.dependent import (
    CODES,
    dependently_quantised,
    next_states,
    with_one_quantiser,
    with_second_quantiser,
)
from slimcodec.training.photos import embedded
from slimcodec.training.prior import FactorizedPrior, export_tables
from slimcodec.training.teach import Teach, load_trained, save_trained

SKIP, ERROR_BITS = 3, 14.0
SECOND = {"r_odd_frequencies", "r_odd_sizes", "r_odd_offsets", "r_next_states"}


@pytest.fixture(scope="module", params=[8, 256, 1024])
def tables(request):
    torch.manual_seed(0)
    found = with_second_quantiser(export_tables(FactorizedPrior(3, 2)), request.param)
    return {name: table.numpy() for name, table in found.items()} | {"r_skip": np.array([SKIP], np.int32)}


@pytest.fixture(scope="module")
def quantiser(tables):
    found = rounding.Rounding(tables, lambda values: values)
    found.error_bits = ERROR_BITS
    return found


@pytest.fixture(scope="module")
def following(tables):
    return tables["r_next_states"].astype(np.uint16)


@pytest.fixture(scope="module")
def r_tables(tables):
    return entropy_tables(tables)[1]


def residuals(channels, rows, columns, seed=0):
    """Of many scales, skipped ones among them, and now and then far too large for its scale."""
    random = np.random.default_rng(seed)
    index = random.integers(0, 40, (channels, 2 * rows, 2 * columns)).astype(np.uint8)
    scales = rate.scale(torch.from_numpy(index)).numpy()
    return (random.standard_t(4, index.shape) * scales).astype(np.float32), index


def followed(r, index, paths, following):
    """The tables of integers, symbol by symbol; `paths` go on."""
    table, states = index.copy(), paths.states
    for channel, row, column in np.ndindex(*r.shape):
        at = row // (2 * paths.side), column // (2 * paths.side)
        if index[channel, row, column] >= SKIP:
            table[channel, row, column] += SCALE_COUNT * (states[at] % 2)
            states[at] = following[states[at], abs(int(r[channel, row, column])) % 2]
    return table


def cost(quantiser, exact, r, table):
    magnitude = np.abs(r).astype(int)
    bits = np.where(table < SKIP, 0, quantiser.magnitude_bits[table, magnitude.clip(max=rounding.REACH - 1)])
    error = exact - quantiser.reconstruct(r.astype(np.float32), table)
    return float((bits + ERROR_BITS * error**2 * (table >= SKIP)).sum())


@pytest.mark.parametrize("side", [1, 2, 4])
def test_what_is_found_is_what_a_decoder_follows(quantiser, following, side):
    exact, index = residuals(6, 6, 5)
    paths, again = (dependent.start((6, 5), side) for _ in range(2))
    assert paths.states.shape == {1: (6, 5), 2: (3, 3), 4: (2, 2)}[side]
    r, table = quantiser.path(exact, index, paths)
    assert np.array_equal(table, followed(r, index, again, following))
    assert np.array_equal(paths.states, again.states) and len(np.unique(paths.states)) > 1
    assert (r[index < SKIP] == 0).all() and (np.sign(r) * np.sign(exact) >= 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_no_other_path_is_cheaper(quantiser, following, seed):
    exact, index = residuals(1, 1, 1, seed)
    index, exact = index + SKIP, exact.clip(-3, 3)
    r, table = quantiser.path(exact, index, dependent.start((1, 1)))
    near = [range(int(e) - 1, int(e) + 3) if e > 0 else range(int(e) - 2, int(e) + 2) for e in exact.ravel()]
    others = (np.array(each, np.int16).reshape(r.shape) for each in product(*near))
    least = min(
        cost(quantiser, exact, each, followed(each, index, dependent.start((1, 1)), following)) for each in others
    )
    assert cost(quantiser, exact, r, table) == pytest.approx(least, rel=1e-5)


def test_it_costs_less_than_one_quantiser(quantiser):
    """With the same steps, where there are many bits a residual and where most are 0."""
    random = np.random.default_rng(1)
    for scale, least in ((35, 0.03), (18, 0.03)):
        index = np.full((64, 16, 16), scale, np.uint8)
        sigma = float(rate.scale(torch.tensor(scale)))
        exact = (random.standard_normal(index.shape) * sigma).astype(np.float32)
        r, table = quantiser.path(exact, index, dependent.start((8, 8)))
        alone = quantiser.choose(exact, index)
        ratio = cost(quantiser, exact, r, table) / cost(quantiser, exact, alone, index)
        assert ratio < 1 - least


@pytest.mark.parametrize("side", [1, 2])
def test_blocks_and_stages_are_coded_on_their_own(quantiser, following, side):
    """A block's path is the same whatever is around it; states lead from one stage to the next."""
    exact, index = residuals(8, 2 * side, 3 * side)
    start = partial(dependent.start, (2 * side, 3 * side), side)
    r, table = quantiser.path(exact, index, start())
    block = np.s_[:, 2 * side :, 2 * side : 4 * side]
    alone = quantiser.path(exact[block], index[block], dependent.start((side, side), side))
    assert np.array_equal(alone[0], r[block]) and np.array_equal(alone[1], table[block])
    paths = start()
    first, _ = quantiser.path(exact[:4], index[:4], paths)
    second, its_table = quantiser.path(exact[4:], index[4:], paths)
    both = np.concatenate([first, second])
    assert np.array_equal(its_table, followed(both, index, start(), following)[4:])


def test_a_longer_path_costs_less(quantiser):
    """Stage by stage, as files are coded."""
    exact, index = residuals(200, 8, 8)
    found = {}
    for side in (1, 2, 4):
        paths = dependent.start((8, 8), side)
        stages = [
            quantiser.path(exact[first : first + 50], index[first : first + 50], paths) for first in range(0, 200, 50)
        ]
        found[side] = cost(quantiser, exact, *map(np.concatenate, zip(*stages, strict=True)))
    assert found[4] < found[1] and found[2] < found[1]


def test_paths_of_another_shape_are_refused(quantiser, r_tables, following):
    """Nothing beyond the arrays is looked at."""
    exact, index = residuals(4, 3, 5)
    for paths in (dependent.start((3, 5), 1), dependent.start((3, 4), 4), dependent.start((5, 3), 2)):
        wrong = paths._replace(side=2)
        with pytest.raises(ValueError, match="blocks for"):
            quantiser.path(exact, index, wrong)
        with pytest.raises(ValueError, match="blocks for"):
            dependent.read(entropy.Decoder(entropy.Encoder().finish()), index, wrong, r_tables, following)


@pytest.mark.parametrize("side", [5, 8])
def test_blocks_that_the_search_has_no_room_for_are_refused(quantiser, side):
    exact, index = residuals(4, 8, 8)
    with pytest.raises(ValueError, match=f"blocks of {side} x {side} cells"):
        quantiser.path(exact, index, dependent.start((8, 8), side))


@pytest.mark.parametrize("side", [1, 4])
def test_streams_give_back_integers_and_tables(quantiser, r_tables, following, side):
    exact, index = residuals(12, 3, 5)
    exact[3, 2, 2:5], index[3, 2, 2:5] = (900, -900, 40_000), 20  # escaped
    r, table = quantiser.path(exact, index, dependent.start((3, 5), side))
    assert np.abs(r).max() in (dependent.LARGEST, dependent.LARGEST + 1)
    encoder = entropy.Encoder()
    encoder.put(r, table, r_tables)
    decoder, paths = entropy.Decoder(encoder.finish()), dependent.start((3, 5), side)
    halves = [dependent.read(decoder, index[part], paths, r_tables, following) for part in (slice(0, 5), slice(5, 12))]
    decoder.finish()
    assert np.array_equal(np.concatenate([found for found, _ in halves]), r)
    assert np.array_equal(np.concatenate([found for _, found in halves]), table)


def test_a_stream_that_ends_early_is_refused_or_gives_zeros(quantiser, r_tables, following):
    exact, index = residuals(12, 3, 5)
    r, table = quantiser.path(exact, index, dependent.start((3, 5)))
    encoder = entropy.Encoder()
    encoder.put(r, table, r_tables)
    data = encoder.finish()[:200]
    with pytest.raises(InvalidFile, match="ends before its last symbol"):
        dependent.read(entropy.Decoder(data), index, dependent.start((3, 5)), r_tables, following)
    found, _ = dependent.read(entropy.Decoder(data, partial=True), index, dependent.start((3, 5)), r_tables, following)
    known = np.flatnonzero(found).max()
    assert np.array_equal(found.ravel()[: known + 1], r.ravel()[: known + 1]) and 0 < known < found.size - 1


@pytest.mark.parametrize("name", sorted(SECOND))
def test_a_second_quantiser_without_one_of_its_tables_is_refused(tables, name):
    rest = {key: table for key, table in tables.items() if key != name}
    with pytest.raises(InvalidModel, match=rf"tables\.{name} is missing"):
        entropy_tables(rest)


@pytest.mark.parametrize(
    "impossible",
    [
        np.zeros((8, 2)),
        np.arange(16).reshape(8, 2) // 2,
        dependent.Code(4, 1, 3).next_states,
        dependent.Code(8, 5, 6).next_states,
        dependent.Code(8, 2, 3).next_states,
        np.arange(1024).reshape(512, 2) // 2,
    ],
    ids=["one for all", "no shift register", "too few", "two parities in a half", "one half for both", "too many"],
)
def test_impossible_states_are_refused(tables, impossible):
    with pytest.raises(InvalidModel, match=r"tables\.r_next_states: must be those of a convolutional code"):
        following = np.asarray(impossible).astype(np.uint8 if len(impossible) <= 256 else np.uint16)
        entropy_tables(tables | {"r_next_states": following})


@pytest.mark.parametrize("impossible", [np.uint8(3), np.zeros(16, np.uint8), np.zeros((600, 3), np.uint16)])
def test_states_of_another_shape_are_refused(tables, impossible):
    with pytest.raises(InvalidModel, match=r"tables\.r_next_states is missing or not uint"):
        entropy_tables(tables | {"r_next_states": np.asarray(impossible)})


@pytest.mark.parametrize(("states", "dtype"), [(256, np.uint16), (1024, np.uint8), (512, np.int16)])
def test_states_of_another_type_are_refused(tables, states, dtype):
    """As many bytes as they need, so that there is one way to write a model."""
    with pytest.raises(InvalidModel, match=r"tables\.r_next_states"):
        entropy_tables(tables | {"r_next_states": next_states(states).numpy().astype(dtype)})


@pytest.mark.parametrize("states", CODES)
def test_states_are_those_of_a_convolutional_code(states):
    """Its parity checks are fulfilled by what any integers give: quantisers, and parities of integers."""
    following, random, (of_parities, of_quantisers) = (
        next_states(states).numpy(),
        np.random.default_rng(0),
        CODES[states],
    )
    parities, quantisers, state = random.integers(0, 2, 200), [], 0
    for parity in parities:
        quantisers.append(state % 2)
        state = int(following[state, parity])
    memory = states.bit_length()
    delays = range(memory)
    for now in range(memory, len(parities)):
        checked = sum(
            (of_parities >> d & 1) * parities[now - d] + (of_quantisers >> d & 1) * quantisers[now - d] for d in delays
        )
        assert checked % 2 == 0


def test_more_states_cost_less(tables):
    """Of residuals where most are 0, by the same tables."""
    random, found = np.random.default_rng(2), []
    index = np.full((128, 8, 8), 20, np.uint8)
    exact = (random.standard_normal(index.shape) * float(rate.scale(torch.tensor(20)))).astype(np.float32)
    for states in CODES:
        changed = tables | {"r_next_states": next_states(states).numpy()}
        quantiser = rounding.Rounding(changed, lambda values: values)
        quantiser.error_bits = ERROR_BITS
        found.append(cost(quantiser, exact, *quantiser.path(exact, index, dependent.start((4, 4)))))
    assert found == sorted(found, reverse=True) and found[-1] < 0.985 * found[0]


def test_impossible_offsets_are_refused(tables):
    with pytest.raises(InvalidModel, match="larger than a quantisation step"):
        entropy_tables(tables | {"r_odd_offsets": np.full(SCALE_COUNT, 300, np.int16)})


def test_the_second_quantiser_is_half_a_step_nearer_to_zero():
    for first, second in zip(rate.gaussian_pmfs(), rate.gaussian_pmfs(second=True), strict=True):
        middle = len(first) // 2 - 1
        assert float(second.sum()) == pytest.approx(1, abs=1e-9) and len(first) == len(second)
        assert second[middle] < first[middle]
        torch.testing.assert_close(second[:-1], second[:-1].flip(0))


def test_training_goes_on_with_one_quantiser_and_its_gains(tables):
    """As if the model had never had another; the second time nothing changes."""
    ladder = torch.linspace(-8, 8, 8)[:, None] * torch.tensor([1, 0.8, 1.3]) + torch.tensor([0, 2, -1])
    codec = SimpleNamespace(log_gain=torch.nn.Parameter((ladder * GAIN_UNIT).round() / GAIN_UNIT))
    one = {name: torch.from_numpy(table) for name, table in tables.items() if name not in SECOND}
    model = Model(codec, one, {}, Path())
    both = dependently_quantised(model, 64)
    assert (both.codec.log_gain < codec.log_gain - 1).all()
    other = dependently_quantised(both, 16)
    assert other.codec is both.codec and len(other.tables["r_next_states"]) == 16
    again = with_one_quantiser(both)
    torch.testing.assert_close(again.codec.log_gain, codec.log_gain, rtol=0, atol=3 / GAIN_UNIT)
    assert again.tables == one and with_one_quantiser(again) is again


def test_a_shipped_student_is_trained_further_with_one_quantiser():
    trained = load_trained("slim-2k")
    assert not rounding.is_dependent(trained.model.tables)
    assert (trained.codec.log_gain > models.load("slim-2k").codec.log_gain).float().mean() > 0.99


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [0, 2])
def test_files_of_short_paths_are_read_as_they_were(tile):
    """Those of older versions, in which each cell had a path of its own; a longer path is cheaper."""
    codec, quality = inference.load("slim-2k"), 3 * QUALITY_ONE
    photo = embedded("validation")[0].pixels[:300, :400]
    old, new = with_short_paths(codec, photo, quality, tile), codec.compress(photo, 3, tile=tile)
    contents = [bitstream.unpack(data) for data in (old, new)]
    assert [(each.header.long_paths, each.header.block) for each in contents] == [(False, 1), (True, tile or 4)]
    symbols = [codec.coder.read(each) for each in contents]
    y = codec.encoding(photo).y
    expected = [
        codec.transforms.residuals(
            y, codec.transforms.hyper_latents(y, quality), index, quality, block=each.header.block
        )
        for each in contents
        for index in [codec.coder.scale_index(symbols[0].z, quality, tile)]
    ]
    for found, (r, table, _) in zip(symbols, expected, strict=True):
        assert np.array_equal(found.r, r) and np.array_equal(found.index, table)
    steps = [(codec.transforms.latents(found, quality) - y) * codec.transforms.gain(quality) for found in symbols]
    bits = [codec.coder.information_bits(found, quality, tile) for found in symbols]
    old_cost, new_cost = (b + ERROR_BITS * np.square(s).sum() for b, s in zip(bits, steps, strict=True))
    assert new_cost < 0.998 * old_cost and np.asarray(codec.decompress(old)).shape == photo.shape


# --- training with both -----------------------------------------------------------------------------------------------


def test_in_training_a_pass_takes_what_files_of_its_pictures_would(tables, quantiser):
    """Stage after stage, every picture on its own paths; the gradient is that of the residuals."""
    training = Quantiser(tables, torch.device("cpu"))
    training.error_bits = ERROR_BITS
    one_pass, paths = training.for_pass(), [dependent.start((2, 3)) for _ in range(2)]
    total = torch.zeros(2)
    for seed in range(3):
        pictures = [residuals(5, 2, 3, 2 * seed + number) for number in range(2)]
        exact = torch.tensor(np.stack([exact for exact, _ in pictures]), requires_grad=True)
        index = torch.tensor(np.stack([index for _, index in pictures])).float() + 0.4
        value = one_pass(exact, index)
        for number, (of_one, scales) in enumerate(pictures):
            r, table = quantiser.path(of_one, scales, paths[number])
            expected = torch.from_numpy(quantiser.reconstruct(r.astype(np.float32), table))
            torch.testing.assert_close(value[number], expected, rtol=0, atol=1e-4)
            error = ERROR_BITS * ((of_one - expected.numpy()) ** 2 * (scales >= SKIP)).sum()
            total[number] += cost(quantiser, of_one, r, table) - float(error)
        weight = torch.randn(exact.shape)
        (value * weight).sum().backward()
        assert torch.equal(exact.grad, weight)
    torch.testing.assert_close(one_pass.bits, total, rtol=1e-4, atol=0.1)
    again = training.for_pass()(exact, index)
    assert not torch.equal(again, value)  # from state 0 on


def test_training_as_in_files_sees_the_bits_and_pixels_of_files():
    """Nearly: a residual that is between two integers may fall to the other side, and the path then is another one."""
    codec, prior, model = load_trained("slim-2k", both_quantisers=True)
    quantiser = Quantiser(model.tables, torch.device("cpu"))
    module = Teach(codec, prior, steps=1, batch=1, crop=64, learning_rate=1e-4, quantiser=quantiser).eval()
    pixels, quality = embedded("validation")[0].pixels[:256, :384], 3 * QUALITY_ONE
    transforms = model.transforms()
    y = transforms.analyse(pixels)
    symbols, y_hat = transforms.code(y, transforms.hyper_latents(y, quality), quality)
    coded = symbols.index % SCALE_COUNT >= quantiser.skip
    bits = entropy.information_bits(symbols.r[coded], symbols.index[coded], transforms.coder.r_tables)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        measured = module.with_whole_symbols(x, torch.tensor([quality]))
        mse = (codec.g_s(torch.as_tensor(y_hat)) - x).square().mean()
    assert measured.bpp_r.item() == pytest.approx(bits / (256 * 384), rel=2e-3)
    assert measured.mse.item() == pytest.approx(mse.item(), rel=2e-3)


def test_a_student_that_was_trained_with_both_is_saved_with_both(tmp_path):
    codec, prior, model = load_trained("slim-2k", both_quantisers=True)
    quantiser = Quantiser(model.tables, torch.device("cpu"))
    saved = models.load(save_trained(tmp_path, codec, prior, states=quantiser.states, role="student", teacher=None))
    assert torch.equal(saved.codec.log_gain, models.load("slim-2k").codec.log_gain)
    assert torch.equal(saved.tables["r_next_states"], model.tables["r_next_states"])
    assert saved.tables.keys() == {*TABLES, *DEPENDENT_TABLES}
