"""Bits of the residual: against scipy, and against the integer tables that files are coded with."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from slimcodec.codec import entropy, rate
from slimcodec.training.prior import FactorizedPrior, export_tables

SCALES = rate.scale(torch.arange(rate.SCALE_COUNT, dtype=torch.float64))


def test_scales_are_log_spaced_between_the_ends():
    assert SCALES[0] == pytest.approx(0.11) and SCALES[-1] == pytest.approx(256)
    ratios = SCALES[1:] / SCALES[:-1]
    assert torch.allclose(ratios, ratios[:1])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 2e-3)])
def test_gaussian_bits_agree_with_scipy(dtype, tolerance):
    index = torch.linspace(0, 63, 127, dtype=dtype)[:, None]
    sigma = rate.scale(index.double())
    r = torch.linspace(-3.7, 3.7, 41, dtype=torch.float64) * sigma
    bits = rate.gaussian_bits(r.to(dtype), index.expand_as(r)).double().numpy()
    upper, lower = -np.abs(r) + 0.5, -np.abs(r) - 0.5  # in the lower tail scipy does not cancel
    expected = -np.log2(np.maximum(norm.cdf(upper / sigma) - norm.cdf(lower / sigma), rate.LIKELIHOOD_MIN))
    assert np.abs(bits - expected).max() < tolerance
    assert expected.max() == 16 and expected.min() < 1e-4


def test_an_index_outside_the_table_is_clamped_and_can_come_back():
    r = torch.tensor([0.0, 400.0])
    index = torch.tensor([-5.0, 70.0], requires_grad=True)
    bits = rate.gaussian_bits(r, index)
    assert torch.equal(bits, rate.gaussian_bits(r, torch.tensor([0.0, 63.0])))
    rate.gaussian_bits(torch.tensor([3.0, 0.0]), index).sum().backward()
    assert index.grad[0] <= 0 <= index.grad[1]  # descent raises the first and lowers the second


def test_a_file_s_index_is_the_nearest_and_halves_go_up():
    index = torch.tensor([-3.0, -0.5, 0.4375, 0.5, 10.5625, 62.5, 63.5, 900.0])
    assert rate.whole_index(index).tolist() == [0, 0, 0, 1, 11, 63, 63, 63]


def test_the_best_index_is_the_true_scale():
    for index in (10, 30, 50):
        r = torch.from_numpy(np.random.default_rng(index).normal(0, SCALES[index], 20_000)).round()
        cost = [rate.gaussian_bits(r, torch.full_like(r, other)).sum() for other in range(index - 6, index + 7)]
        assert abs(int(np.argmin(cost)) - 6) <= 1


def test_pmfs_are_symmetric_and_complete():
    pmfs = rate.gaussian_pmfs()
    assert len(pmfs) == rate.SCALE_COUNT
    for sigma, pmf in zip(SCALES.tolist(), pmfs, strict=True):
        inside, beyond = pmf[:-1], pmf[-1]
        assert len(inside) % 2 == 1 and torch.allclose(inside, inside.flip(0))
        assert pmf.sum() == pytest.approx(1, abs=1e-12) and (pmf >= 0).all()
        radius = len(inside) // 2
        assert beyond == pytest.approx(2 * norm.sf((radius + 0.5) / sigma), abs=1e-12)
        assert beyond < 2**-13


@pytest.fixture(scope="module")
def tables():
    torch.manual_seed(0)
    return export_tables(FactorizedPrior(3, 2))


def test_exported_tables_are_complete(tables):
    assert tables["z_frequencies"].shape == (2, 3, 256)
    assert (tables["z_frequencies"].int().sum(dim=-1) == 65536).all()
    sizes = tables["r_sizes"].tolist()
    assert len(sizes) == rate.SCALE_COUNT and sum(sizes) == len(tables["r_frequencies"])
    for frequencies in tables["r_frequencies"].int().split(sizes):
        assert frequencies.sum() == 65536 and frequencies.min() >= 1
        assert (frequencies[:-1] - frequencies[:-1].flip(0)).abs().max() <= 1


def test_tables_cost_what_the_gaussian_says(tables):
    """Expected bits per symbol of a table, escapes and rounding included, against the Gaussian's."""
    sizes = tables["r_sizes"].numpy()
    frequencies = tables["r_frequencies"].int().numpy()
    built = entropy.build_tables(frequencies, sizes, -((sizes - 2) // 2), escape=True)
    rng = np.random.default_rng(0)
    for index, sigma in enumerate(SCALES.tolist()):
        r = np.rint(rng.normal(0, sigma, 20_000)).astype(np.int32)
        by_table = entropy.information_bits(r, np.full_like(r, index), built)
        gaussian = rate.gaussian_bits(torch.from_numpy(r).double(), torch.full((len(r),), float(index))).sum()
        assert by_table == pytest.approx(float(gaussian), rel=0.005, abs=100)


def test_estimated_bits_of_z_are_those_of_the_tables(tables):
    torch.manual_seed(0)
    prior = FactorizedPrior(3, 2)
    z = torch.randn(1, 3, 20, 20).mul(3).round()
    for quality, rung in ((256, 0), (383, 0), (384, 1), (512, 1)):
        frequencies = tables["z_frequencies"][rung].double()
        chosen = frequencies.gather(1, (z[0].flatten(1) + 128).long())
        by_table = -torch.log2(chosen / 65536).sum()
        estimated = prior.bits(z, torch.tensor([quality])).sum()
        assert estimated.item() == pytest.approx(float(by_table), rel=0.005)
