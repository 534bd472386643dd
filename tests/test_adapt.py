"""Corrections of g_s.head: a handful of integers and back, what they do to the head, and which an encoder takes."""

import math
from copy import deepcopy
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import correction_tables, lively

from slimcodec import InvalidFile, InvalidInput, InvalidModel
from slimcodec.codec import adapt, bitstream, entropy, handful, models
from slimcodec.codec.adapt import BASIS, LARGEST, MAX_SHIFT, SCALES, Correction, Fit, integers
from slimcodec.codec.bitstream import MAX_CORRECTION_BYTES, MAX_CORRECTIONS, QUALITY_ONE
from slimcodec.codec.grid import Window, whole
from slimcodec.codec.rate import INDEX_STEP, SCALE_COUNT, SCALE_MIN
from slimcodec.codec.symbols import CORRECTION_TABLES, SymbolCoder
from slimcodec.training.prior import FactorizedPrior, export_tables

QUALITY = 2 * QUALITY_ONE


@pytest.fixture(scope="module")
def r_tables():
    """Gaussians on the 64 scales, the first five of which are skipped."""
    torch.manual_seed(0)
    tables = export_tables(FactorizedPrior(1, 1))
    sizes = tables["r_sizes"].numpy()
    frequencies = tables["r_frequencies"].to(torch.int32).numpy()
    return entropy.build_tables(frequencies, sizes, -((sizes - 2) // 2), escape=True, skip=5)


def model_of(architecture, **more):
    """A lively model with a basis that is not in any directory."""
    torch.manual_seed(0)
    tables = export_tables(FactorizedPrior(architecture.hypers, architecture.rungs))
    tables |= correction_tables(architecture) | more
    return models.Model(lively(architecture), tables, {"weights_sha256": "ab" * 32}, Path("nowhere"))


@pytest.fixture(scope="module")
def model(architecture):
    return model_of(architecture)


@pytest.fixture(scope="module")
def transforms(model):
    return model.transforms()


@pytest.fixture(scope="module")
def corrections(transforms):
    return transforms.corrections


# --- a handful of symbols -------------------------------------------------------------------------------------------

HANDFULS = {
    "nothing": ([], []),
    "one": ([3], [30]),
    "one 0": ([0], [30]),
    "many zeros": ([0] * 64, [20] * 64),
    "of many tables": ([2, -1, 0, 5, -40, 100, 0, 1], [12, 8, 7, 20, 40, 63, 33, 5]),
    "skipped tables": ([0, 2, 0, 0, -1, 0], [0, 12, 4, 1, 10, 3]),
    "nothing but skipped tables": ([0, 0, 0], [0, 4, 1]),
    "escapes": ([32767, -32768, 3000, -3000, 1, 9], [5, 20, 20, 7, 10, 5]),
    "the lowest value of its table last": ([4, -2], [30, 6]),
}


@pytest.mark.parametrize("name", HANDFULS)
def test_a_handful_comes_back(r_tables, name):
    symbols, index = np.array(HANDFULS[name][0], np.int16), np.array(HANDFULS[name][1], np.uint8)
    data = handful.encode(symbols, index, r_tables)
    found = handful.decode(data, index, r_tables)
    assert found.dtype == np.int16 and np.array_equal(found, symbols)
    # As good as what they hold, and a symbol more. Two states alone would be 16 bytes.
    assert len(data) <= math.ceil((entropy.information_bits(symbols, index, r_tables) + 16) / 8)


@pytest.mark.parametrize("seed", range(20))
def test_many_symbols_come_back(r_tables, seed):
    rng = np.random.default_rng(seed)
    index = rng.integers(0, SCALE_COUNT, 64).astype(np.uint8)
    symbols = np.rint(rng.laplace(0, 20, 64)).astype(np.int16) * (index >= r_tables.skip)
    assert np.array_equal(handful.decode(handful.encode(symbols, index, r_tables), index, r_tables), symbols)


@pytest.mark.parametrize("name", HANDFULS)
def test_a_damaged_handful_is_refused_or_gives_other_integers(r_tables, name):
    symbols, index = np.array(HANDFULS[name][0], np.int16), np.array(HANDFULS[name][1], np.uint8)
    data, refused = handful.encode(symbols, index, r_tables), 0
    flipped = [data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for at in range(len(data)) for bit in range(8)]
    for damaged in [
        *(data[:length] for length in range(len(data))),
        *(data + bytes([b]) for b in range(256)),
        *flipped,
    ]:
        try:
            found = handful.decode(damaged, index, r_tables)
        except InvalidFile as error:
            assert "correction is damaged" in str(error) and "\n" not in str(error)
            refused += 1
        else:
            assert found.dtype == np.int16 and found.shape == symbols.shape
            assert not found[index < r_tables.skip].any()
            assert name == "escapes" or not np.array_equal(found, symbols)  # an escape can hold any value
    assert refused > 0


def test_what_a_skipped_table_cannot_hold_is_refused(r_tables):
    with pytest.raises(InvalidInput, match="skipped table 3 has no symbol for the value 1"):
        handful.encode(np.array([1], np.int16), np.array([3], np.uint8), r_tables)


# --- written and read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0, 1, 17, 60, MAX_SHIFT])
def test_a_correction_comes_back_at_every_quality(corrections, shift):
    rng, count, rungs = np.random.default_rng(shift), len(corrections.basis), len(corrections.scales)
    for quality in (1, 255, *range(QUALITY_ONE, QUALITY_ONE * rungs + 1, 100), QUALITY_ONE * rungs, 65535):
        for q in (np.zeros(count), rng.integers(-LARGEST, LARGEST + 1, count), rng.integers(-32768, 32768, count)):
            correction = Correction(shift, q.astype(np.int16))
            data = corrections.write(correction, quality)
            assert data[0] == shift and len(data) <= MAX_CORRECTION_BYTES
            found = corrections.read(data, quality)
            assert found.shift == shift and np.array_equal(found.q, correction.q)


def test_the_tables_are_those_of_the_nearest_rung_moved_by_the_step(architectures):
    architecture = architectures["four stages"]
    scales = torch.arange(40, dtype=torch.int16).view(8, 5)
    corrections = model_of(architecture, **{SCALES: scales}).transforms().corrections
    q = np.array([3, -2, 0, 7, 1], np.int16)
    for quality, rung in ((256, 0), (383, 0), (384, 1), (1024, 3), (1919, 6), (1920, 7), (2048, 7)):
        for shift in (0, 9, 60):
            index = np.minimum(np.arange(5 * rung, 5 * rung + 5) + shift, SCALE_COUNT - 1).astype(np.uint8)
            by_hand = bytes([shift]) + handful.encode(q, index, corrections.r_tables)
            assert corrections.write(Correction(shift, q), quality) == by_hand


@pytest.mark.parametrize("extreme", [-(2**15), 2**15 - 1])
def test_the_most_extreme_scales_overflow_nothing(architectures, extreme):
    architecture = architectures["one stage"]
    scales = torch.full((1, 5), extreme, dtype=torch.int16)
    corrections = model_of(architecture, **{SCALES: scales}).transforms().corrections
    correction = Correction(MAX_SHIFT, np.array([0, 5, -31, 2000, 1], np.int16))
    assert np.array_equal(corrections.read(corrections.write(correction, QUALITY), QUALITY).q, correction.q)


def test_coefficients_are_integers_times_the_step():
    found = Correction(7, np.array([0, 1, -3], np.int16)).coefficients
    assert found.dtype == np.float64
    assert found.tolist() == pytest.approx([0, math.exp(-7 * INDEX_STEP), -3 * math.exp(-7 * INDEX_STEP)])


# --- the head -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_corrected_head_is_one_whose_weights_were_changed_by_hand(model, transforms, corrections):
    """In the order of the weights as they are stored, before they are packed."""
    correction = Correction(20, np.array([4, -2, 1, -31, 9], np.int16))
    g_s = deepcopy(model.codec.g_s)
    for c, row in zip(correction.coefficients.tolist(), model.tables[BASIS], strict=True):
        g_s.head.conv.weight += c * row[:, :-1].view_as(g_s.head.conv.weight)
        g_s.head.conv.bias += c * row[:, -1]
    y_hat = torch.randn(1, model.codec.architecture.latents, 4, 8)
    networks = transforms.networks
    expected, before = g_s(y_hat), networks.codec.g_s(y_hat)
    found = networks.with_head(corrections.applied(correction))(y_hat)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - before).abs().max() > 0.1


def test_corrections_are_added_in_their_order(corrections):
    """Bit for bit: the order of a matrix product's sums depends on the library and its threads."""
    correction = Correction(20, np.array([4, -2, 1, -31, 9], np.int16))
    change = np.zeros_like(corrections.basis[0])
    for c, row in zip(correction.coefficients, corrections.basis, strict=True):
        change = change + np.float32(c) * row
    head, found = corrections.head, corrections.applied(correction)
    assert np.array_equal(found.weight, head.weight + change[:, :-1].reshape(head.weight.shape))
    assert np.array_equal(found.bias, head.bias + change[:, -1])


@torch.no_grad()
def test_applying_leaves_the_model_as_it_was(transforms, corrections):
    network = transforms.networks.codec
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    head = corrections.applied(Correction(0, np.array([1, 0, 0, 0, 1], np.int16)))
    corrected = transforms.networks.with_head(head)
    assert corrected is not network.g_s and corrected.head is not network.g_s.head
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    # All that comes before the head is shared, not copied.
    assert corrected.levels is network.g_s.levels
    assert not any(parameter.requires_grad for parameter in corrected.parameters())


@torch.no_grad()
def test_zeros_correct_nothing(corrections):
    nothing = corrections.applied(Correction(0, np.zeros(5, np.int16)))
    for mine, others in zip(nothing, corrections.head, strict=True):
        assert np.array_equal(mine, others)


# --- which integers -------------------------------------------------------------------------------------------------


def cost(q, curvature, slope, bits):
    return q @ curvature @ q - 2 * slope @ q + bits[np.arange(len(q)), np.abs(q)].sum()


def random_problem(seed, count):
    """A curvature whose directions go together a little, slopes, and bits that rise with the magnitude."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, 16 * count))
    curvature = mixed @ mixed.T / (16 * count) * rng.uniform(0.1, 8)
    slope = rng.normal(0, 20, count)
    bits = np.cumsum(rng.uniform(0.1, 4, (count, LARGEST + 1)), axis=1)
    return curvature, slope, bits


@pytest.mark.parametrize("count", [1, 2, 7, MAX_CORRECTIONS])
@pytest.mark.parametrize("seed", range(5))
def test_no_single_change_of_the_integers_is_cheaper(seed, count):
    curvature, slope, bits = random_problem(seed, count)
    q, saved = integers(curvature, slope, bits)
    assert q.dtype == np.int16 and np.abs(q).max() <= LARGEST and (q.any() or count < 7)
    found = cost(q.astype(int), curvature, slope, bits)
    assert saved == pytest.approx(-found)
    assert found <= cost(np.zeros(count, int), curvature, slope, bits)
    for k, step in product(range(count), (-1, 1)):
        other = q.astype(int)
        other[k] += step
        if abs(other[k]) <= LARGEST:
            assert cost(other, curvature, slope, bits) >= found - 1e-9


def test_one_integer_is_the_best_of_all():
    for seed in range(20):
        curvature, slope, bits = random_problem(seed, 1)
        (q,), _ = integers(curvature, slope, bits)
        costs = [cost(np.array([value]), curvature, slope, bits) for value in range(-LARGEST, LARGEST + 1)]
        assert costs[q + LARGEST] == min(costs)


def test_what_cannot_be_coded_is_not_chosen():
    curvature, slope, bits = random_problem(0, 3)
    bits[1, 1:], bits[2, 5:] = np.inf, np.inf
    q, saved = integers(curvature, 1000 * slope, bits)
    assert q[1] == 0 and abs(q[2]) == 4 and math.isfinite(saved)


def test_where_bits_are_dear_all_are_0():
    curvature, slope, bits = random_problem(0, 6)
    q, saved = integers(curvature, slope, bits + 1e6 * (np.arange(LARGEST + 1) > 0))
    assert not q.any() and saved == pytest.approx(-bits[:, 0].sum())


# --- the fit --------------------------------------------------------------------------------------------------------


def sums(fit):
    return torch.from_numpy(fit.inner), torch.from_numpy(fit.outer), torch.tensor(fit.squared_error).double()


def test_a_fit_holds_the_sums_of_errors_and_features():
    torch.manual_seed(0)
    features, errors = torch.randn(5, 5, 10), torch.randn(6, 5, 10)
    fit = Fit(5, 6)
    fit.add(features.numpy(), errors.numpy(), whole((5, 10)))
    flat, error = features.flatten(1), errors.flatten(1)
    expected = flat @ flat.T, flat @ error.T, error.square().sum()
    for mine, others in zip(sums(fit), expected, strict=True):
        torch.testing.assert_close(mine, others.double(), rtol=1e-4, atol=1e-3)


def test_pieces_add_up_to_the_whole():
    torch.manual_seed(0)
    features, errors = torch.randn(5, 6, 10).numpy(), torch.randn(6, 6, 10).numpy()
    at_once, in_pieces = Fit(5, 6), Fit(5, 6)
    at_once.add(features, errors, whole((6, 10)))
    for part in (Window(0, 0, 1, 10), Window(1, 0, 6, 3), Window(1, 3, 6, 10)):
        in_pieces.add(features[:, *part.slices], errors[:, *part.slices], part)
    for mine, others in zip(sums(in_pieces), sums(at_once), strict=True):
        torch.testing.assert_close(mine, others, rtol=1e-5, atol=1e-4)


def start(corrections):
    return Fit(*corrections.basis.shape[:0:-1])


def fitted(transforms, pixels, y_hat, pieces=0):
    """The fit of a picture, in pieces of so many cells; each sees all of y_hat."""
    cells = whole(tuple(side // 4 for side in y_hat.shape[2:]))
    fit = start(transforms.corrections)
    for piece in cells.tiles(pieces):
        transforms.add_to_fit(fit, y_hat, cells, piece, pixels)
    return fit


def coded(transforms, pixels, quality=QUALITY_ONE):
    y = transforms.analyse(pixels)
    return transforms.code(y, transforms.hyper_latents(y, quality), quality)[1]


def error_after(corrections, fit, correction):
    """The squared error of the corrected picture, as its sums foresee it."""
    change = np.tensordot(correction.coefficients, corrections.basis.astype(np.float64), axes=1)
    return fit.squared_error + float((change @ fit.inner * change).sum() - 2 * (change.T * fit.outer).sum())


@pytest.mark.parametrize("size", [(128, 192), (100, 130), (70, 50)])
def test_a_picture_in_pieces_gives_the_same_fit(transforms, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    y_hat = coded(transforms, pixels)
    at_once = fitted(transforms, pixels, y_hat)
    assert at_once.squared_error > 0
    for pieces in (1, 2):
        for mine, others in zip(sums(fitted(transforms, pixels, y_hat, pieces)), sums(at_once), strict=True):
            torch.testing.assert_close(mine, others, rtol=1e-3, atol=1e-3 * float(others.abs().max()))


def test_the_fit_is_of_the_decoders_errors(transforms):
    """Its squared error is that of the picture before it is rounded, and a correction changes it as foreseen."""
    pixels = np.random.default_rng(1).integers(60, 190, (64, 128, 3), dtype=np.uint8)
    y_hat = coded(transforms, pixels)
    fit, corrections = fitted(transforms, pixels, y_hat), transforms.corrections
    original = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255

    def error(head):
        with torch.no_grad():
            return float((transforms.networks.with_head(head)(y_hat) - original).double().square().sum())

    assert fit.squared_error == pytest.approx(error(None), rel=1e-4)
    correction, _ = corrections.best(fit, QUALITY_ONE, 1000.0)
    foreseen = error_after(corrections, fit, correction)
    assert foreseen < fit.squared_error
    assert error(corrections.applied(correction)) == pytest.approx(foreseen, rel=1e-3)


def test_the_best_correction_follows_what_an_error_costs(transforms):
    """Finer steps and less error where an error costs more; none where it costs nothing, or nothing is wrong."""
    pixels = np.random.default_rng(1).integers(150, 256, (64, 128, 3), dtype=np.uint8)
    y_hat = coded(transforms, pixels)
    fit, corrections = fitted(transforms, pixels, y_hat), transforms.corrections
    found = [corrections.best(fit, QUALITY_ONE, error_bits)[0] for error_bits in (0.03, 0.3, 3.0)]
    assert all(correction.q.any() and np.abs(correction.q).max() <= LARGEST for correction in found)
    # A random modulated g_s hardly moves along two of the directions: their large integers make steps coarse.
    if transforms.architecture.upsampling != "modulated":
        assert found[0].shift < found[1].shift < found[2].shift
    removed = [fit.squared_error - error_after(corrections, fit, correction) for correction in found]
    assert 0 < removed[0] < removed[1] < removed[2]
    assert corrections.best(fit, QUALITY_ONE, 1e-6) == (None, 0)
    assert corrections.best(start(corrections), QUALITY_ONE, 100.0) == (None, 0)


@pytest.mark.parametrize("error_bits", [1e4, 1e8, 1e16, 1e30])
def test_where_the_step_is_small_for_what_is_wrong_it_is_made_coarser(transforms, error_bits):
    """As in big pictures: the integers are at most 31, and nearly all that can be gained is gained all the same."""
    pixels = np.random.default_rng(1).integers(150, 256, (64, 128, 3), dtype=np.uint8)
    fit, corrections = fitted(transforms, pixels, coded(transforms, pixels)), transforms.corrections
    flat = corrections.basis.astype(np.float64)
    inner = np.einsum("koi,ij,loj->kl", flat, fit.inner, flat, optimize=True)
    slope = np.einsum("koi,io->k", flat, fit.outer)
    possible = float(slope @ np.linalg.solve(inner, slope))
    correction, _ = corrections.best(fit, QUALITY_ONE, error_bits)
    assert np.abs(correction.q).max() <= LARGEST and correction.shift <= MAX_SHIFT
    assert fit.squared_error - error_after(corrections, fit, correction) > 0.9 * possible


def test_where_every_table_is_skipped_nothing_is_corrected(architectures):
    architecture = architectures["one stage"]
    skipping = {"r_skip": torch.tensor([SCALE_COUNT], dtype=torch.int32)}
    transforms = model_of(architecture, **skipping).transforms()
    pixels = np.full((64, 64, 3), 255, np.uint8)
    fit = fitted(transforms, pixels, torch.zeros(1, architecture.latents, 4, 4))
    assert transforms.corrections.best(fit, QUALITY_ONE, 1000.0) == (None, 0)


def test_a_correction_that_no_file_can_hold_is_not_made(architectures):
    """Where scales are far too small each of 64 integers is an escape of 32 bits. A picture must not be refused."""
    architecture = architectures["four stages"]
    tiny = torch.full((architecture.rungs, MAX_CORRECTIONS), -(2**15), dtype=torch.int16)
    many = correction_tables(architecture, count=MAX_CORRECTIONS) | {SCALES: tiny}
    corrections = model_of(architecture, **many).transforms().corrections
    flat, fit = corrections.basis.astype(np.float64), start(corrections)
    fit.inner = np.eye(flat.shape[2])
    fit.outer = flat.sum(0).T  # all coefficients should be 1
    escapes = Correction(0, np.full(MAX_CORRECTIONS, 20, np.int16))
    assert len(corrections.write(escapes, QUALITY_ONE)) > MAX_CORRECTION_BYTES
    assert corrections.best(fit, QUALITY_ONE, 1e9) == (None, 0)
    right = many | {SCALES: torch.full_like(tiny, round(math.log(1 / SCALE_MIN) / INDEX_STEP))}
    found, _ = model_of(architecture, **right).transforms().corrections.best(fit, QUALITY_ONE, 1e9)
    assert found.coefficients == pytest.approx(np.ones(MAX_CORRECTIONS), abs=0.3)


def test_a_picture_smaller_than_a_block_is_not_corrected(architectures):
    transforms = model_of(architectures["four stages"]).transforms()  # whose head makes blocks of 4 x 4 pixels
    pixels = np.full((3, 64, 3), 255, np.uint8)
    fit = fitted(transforms, pixels, coded(transforms, pixels))
    assert fit.squared_error == 0 and transforms.corrections.best(fit, QUALITY_ONE, 1e4) == (None, 0)


# --- tables ---------------------------------------------------------------------------------------------------------


def refusal(model, **tables):
    with pytest.raises(InvalidModel) as caught:
        SymbolCoder(model.codec.scales(), model.tables | tables)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_basis_of_another_shape_is_named(model):
    basis = model.tables[BASIS]
    _, outputs, inputs = basis.shape
    expected = f"tables.{BASIS}: must be [1 to {MAX_CORRECTIONS}, {outputs}, {inputs}]"
    many = basis[:1].repeat(MAX_CORRECTIONS + 1, 1, 1)
    for wrong in (basis[:, :-1], basis[:, :, :-1], basis[:0], basis.transpose(1, 2), many):
        assert refusal(model, **{BASIS: wrong}) == expected
    scales = torch.zeros(model.codec.architecture.rungs, MAX_CORRECTIONS, dtype=torch.int16)
    SymbolCoder(model.codec.scales(), model.tables | {BASIS: many[1:], SCALES: scales})


def test_scales_of_another_shape_are_named(model):
    scales = model.tables[SCALES]
    for wrong in (scales[:, :-1], scales[:0], scales.repeat(2, 1), scales.T[:-1]):
        assert refusal(model, **{SCALES: wrong}) == f"tables.{SCALES}: must be of shape {tuple(scales.shape)}"


@pytest.mark.parametrize("name", CORRECTION_TABLES)
def test_a_basis_has_scales_and_no_table_is_of_another_kind(model, name):
    table = model.tables[name]
    without = {key: value for key, value in model.tables.items() if key != name}
    for damaged in (without, *(model.tables | {name: other} for other in (table.double(), table.int(), table[None]))):
        with pytest.raises(InvalidModel, match=rf"^tables\.{name} is missing or not (float32|int16) of") as caught:
            SymbolCoder(model.codec.scales(), damaged)
        assert "\n" not in str(caught.value)


def test_the_names_and_limits_are_those_of_the_format():
    assert (BASIS, SCALES, MAX_CORRECTIONS, MAX_CORRECTION_BYTES) == ("head_basis", "head_scales", 64, 255)
    assert (bitstream.VERSION, bitstream.CORRECTED, adapt.MAX_SHIFT) == (2, 3, 255)


def test_rows_of_the_basis_are_in_the_order_of_the_stored_weights(model, corrections):
    assert np.array_equal(corrections.basis, model.tables[BASIS])
