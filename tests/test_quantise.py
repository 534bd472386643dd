"""Rate-distortion quantisation: never worse than rounding, the cheaper of two neighbours, and the decoder's offsets."""

import numpy as np
import pytest
import torch

from slimcodec import InvalidModel
from slimcodec.codec import entropy
from slimcodec.codec.quantise import Quantiser
from slimcodec.codec.rate import SCALE_COUNT, gaussian_pmfs, scale
from slimcodec.codec.rounding import (
    DEFAULT_ERROR_BITS,
    ERROR_BITS_UNIT,
    ESCAPE_BITS,
    OFFSET_UNIT,
    REACH,
    check_tables,
    magnitude_bits,
)

CPU = torch.device("cpu")
COUNT = 20_000


@pytest.fixture(scope="module")
def tables():
    """The tables of r that every model has, with an offset of their own for every scale."""
    frequencies = [entropy.quantise(pmf.numpy()) for pmf in gaussian_pmfs()]
    return {
        "r_frequencies": torch.from_numpy(np.concatenate(frequencies).astype(np.uint16)),
        "r_sizes": torch.tensor([len(table) for table in frequencies], dtype=torch.int32),
        "r_offsets": torch.arange(SCALE_COUNT, dtype=torch.int16) - 8,
        "r_skip": torch.zeros(1, dtype=torch.int32),
    }


@pytest.fixture(scope="module")
def coded_tables(tables):
    """The same as the entropy coder has them."""
    sizes = tables["r_sizes"].numpy()
    return entropy.build_tables(
        tables["r_frequencies"].to(torch.int32).numpy(), sizes, -((sizes - 2) // 2), escape=True
    )


@pytest.fixture(scope="module")
def residuals():
    """Real residuals and their scale indices: Gaussians three times as wide as foreseen, ties, and outliers."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(SCALE_COUNT, (COUNT,), generator=generator)
    exact = 3 * scale(index.float()) * torch.randn(COUNT, generator=generator)
    exact[::7] = exact[::7].mul(2).round() / 2  # ties
    exact[::501] *= 1000
    return exact, index.to(torch.uint8)


def costing(error_bits):
    """The table of a model whose errors cost that."""
    return {"r_error_bits": torch.tensor([round(error_bits * ERROR_BITS_UNIT)], dtype=torch.int16)}


def cost(quantiser, exact, r, index, error_bits=DEFAULT_ERROR_BITS):
    return quantiser.bits(r, index) + error_bits * (exact - r) ** 2


def test_it_never_costs_more_than_rounding(tables, residuals):
    exact, index = residuals
    quantiser = Quantiser(tables, CPU)
    r, rounded = quantiser.choose(exact, index), exact.round()
    assert (cost(quantiser, exact, r, index) <= cost(quantiser, exact, rounded, index) + 1e-3).all()
    assert 0.001 < (r != rounded).double().mean() < 0.2


@pytest.mark.parametrize("error_bits", [0.5, 8.75, DEFAULT_ERROR_BITS, 100])
def test_it_is_the_cheaper_of_the_nearest_integer_and_the_one_below(tables, residuals, error_bits):
    exact, index = residuals
    quantiser = Quantiser(tables | costing(error_bits), CPU)
    nearest = exact.abs().round()
    below = (nearest - 1).clamp_min(0)
    candidates = torch.stack([nearest, below]).double() * exact.sign()
    costs = torch.stack([cost(quantiser, exact.double(), r, index, error_bits) for r in candidates])
    best = torch.where((costs[1] < costs[0]) & (nearest < REACH), candidates[1], candidates[0])
    chosen = quantiser.choose(exact, index)
    undecided = (costs[0] - costs[1]).abs() < 1e-3
    assert torch.equal(chosen.double()[~undecided], best[~undecided])
    assert undecided.double().mean() < 0.5  # zeros, mostly: both candidates are the same


def test_magnitudes_beyond_reach_are_rounded(tables):
    exact = torch.tensor([REACH + 0.5, REACH - 0.4, 1e4 + 0.3, -(REACH + 1.5), -3e4])
    for index in (0, 20, SCALE_COUNT - 1):
        chosen = Quantiser(tables | costing(1 / ERROR_BITS_UNIT), CPU).choose(exact, torch.full((5,), index))
        assert torch.equal(chosen, exact.round())


def test_a_scale_that_is_skipped_has_zeros_only(tables, residuals):
    exact, index = residuals
    chosen = Quantiser(tables | {"r_skip": torch.tensor([20])}, CPU).choose(exact, index)
    assert (chosen[index < 20] == 0).all()
    assert torch.equal(chosen[index >= 20], Quantiser(tables, CPU).choose(exact, index)[index >= 20])


def test_without_a_price_of_errors_it_rounds(tables, residuals):
    exact, index = residuals
    quantiser = Quantiser(tables, CPU)
    quantiser.error_bits = None
    assert torch.equal(quantiser.choose(exact, index), exact.round())


def test_the_model_says_what_errors_cost_and_without_it_they_cost_what_they_did(tables, residuals):
    plain, same, cheap = (
        Quantiser(given, CPU) for given in (tables, tables | costing(DEFAULT_ERROR_BITS), tables | costing(9))
    )
    assert (plain.error_bits, same.error_bits, cheap.error_bits) == (DEFAULT_ERROR_BITS, DEFAULT_ERROR_BITS, 9)
    chosen = plain.choose(*residuals)
    assert torch.equal(same.choose(*residuals), chosen)
    assert (cheap.choose(*residuals) == 0).sum() > (chosen == 0).sum()


def test_the_argument_stays_as_it_was(tables, residuals):
    exact, index = (tensor.clone() for tensor in residuals)
    Quantiser(tables | {"r_skip": torch.tensor([20])}, CPU).choose(exact, index)
    assert torch.equal(exact, residuals[0]) and torch.equal(index, residuals[1])


def test_the_offset_moves_towards_zero(tables):
    index = torch.tensor([8, 8, 8, 40, 40, 0])
    r = torch.tensor([-2.0, 0, 3, 1, -1, 5])
    offset = torch.tensor([0, 0, 0, 32, -32, -8]) / OFFSET_UNIT  # that of scale 0 is negative: away from zero
    assert torch.equal(Quantiser(tables, CPU).reconstruct(r, index), r - offset)


def test_in_training_the_value_is_the_file_s_and_the_gradient_that_of_the_residual(tables, residuals):
    quantiser = Quantiser(tables, CPU)
    exact, index = residuals[0].clone().requires_grad_(True), residuals[1].float() + 0.49
    value = quantiser.straight_through(exact, index)
    expected = quantiser.reconstruct(quantiser.choose(exact.detach(), residuals[1]), residuals[1])
    torch.testing.assert_close(value, expected)
    weight = torch.randn(COUNT)
    (value * weight).sum().backward()
    assert torch.equal(exact.grad, weight)


def test_magnitude_bits_are_those_of_the_entropy_coder(tables, coded_tables):
    bits = magnitude_bits(tables["r_frequencies"], tables["r_sizes"])
    assert bits.shape == (SCALE_COUNT, REACH)
    for index in range(SCALE_COUNT):
        for magnitude in (0, 1, 2, 5, REACH - 1):
            expected = entropy.information_bits(np.array([magnitude]), np.array([index]), coded_tables)
            assert bits[index, magnitude] == pytest.approx(expected, abs=1e-3), (index, magnitude)
    assert bits[0, -1] == pytest.approx(16 + ESCAPE_BITS, abs=3)  # escaped


def test_bits_count_both_signs_as_the_entropy_coder_does(tables, coded_tables, residuals):
    """On the whole: a table's two tails may differ by one slot, and what is beyond REACH is taken to cost no more."""
    exact, index = residuals
    r = exact.round().clamp(1 - REACH, REACH - 1)
    expected = entropy.information_bits(r.short().numpy(), index.numpy(), coded_tables)
    assert Quantiser(tables, CPU).bits(r, index).sum().item() == pytest.approx(expected, rel=1e-3)


def test_bits_between_integers_are_in_proportion_and_have_a_gradient(tables):
    quantiser = Quantiser(tables, CPU)
    index = torch.tensor([20, 30, 30, 40])
    r = torch.tensor([0.25, -2.5, 3.75, REACH + 5.0], requires_grad=True)
    at = quantiser.magnitude_bits
    bits = quantiser.bits(r, index)
    expected = [
        0.75 * at[20, 0] + 0.25 * at[20, 1],
        at[30, 2:4].mean(),
        0.25 * at[30, 3] + 0.75 * at[30, 4],
        at[40, -1],
    ]
    torch.testing.assert_close(bits.detach(), torch.stack(expected))
    bits.sum().backward()
    slopes = [at[20, 1] - at[20, 0], at[30, 2] - at[30, 3], at[30, 4] - at[30, 3], torch.zeros(())]
    torch.testing.assert_close(r.grad, torch.stack(slopes))


@pytest.mark.parametrize("skip", [-1, SCALE_COUNT + 1])
def test_a_skip_beyond_the_scales_is_refused(tables, skip):
    with pytest.raises(InvalidModel, match=r"tables\.r_skip"):
        check_tables(tables | {"r_skip": torch.tensor([skip])})


@pytest.mark.parametrize("offset", [OFFSET_UNIT + 1, -OFFSET_UNIT - 1, 2**15 - 1, -(2**15)])
def test_an_offset_of_more_than_a_step_is_refused(tables, offset):
    with pytest.raises(InvalidModel, match=r"tables\.r_offsets"):
        check_tables(tables | {"r_offsets": torch.full((SCALE_COUNT,), offset, dtype=torch.int16)})


@pytest.mark.parametrize("error_bits", [0, -1 / ERROR_BITS_UNIT, -30])
def test_errors_that_cost_nothing_are_refused(tables, error_bits):
    with pytest.raises(InvalidModel, match=r"tables\.r_error_bits"):
        check_tables(tables | costing(error_bits))


def test_the_extremes_are_accepted(tables):
    for skip, offset in ((0, -OFFSET_UNIT), (SCALE_COUNT, OFFSET_UNIT)):
        offsets = torch.full((SCALE_COUNT,), offset, dtype=torch.int16)
        check_tables(tables | {"r_skip": torch.tensor([skip]), "r_offsets": offsets})
