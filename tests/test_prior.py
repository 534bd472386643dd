"""The factorized prior is CompressAI's, one set a rung, and the tables it exports say what it says."""

import pytest
import torch
from compressai.entropy_models import EntropyBottleneck

from slimcodec.training.prior import FactorizedPrior, export_tables, nearest_rung

HYPERS, RUNGS = 5, 3


@pytest.fixture(scope="module")
def prior():
    """Every rung and channel with a distribution of its own, of widths from narrow to broad."""
    torch.manual_seed(0)
    prior = FactorizedPrior(HYPERS, RUNGS)
    with torch.no_grad():
        for matrix in prior.bottleneck.matrices:
            matrix.add_(0.4 * torch.randn_like(matrix))
        for factor in prior.bottleneck.factors:
            factor.add_(0.3 * torch.randn_like(factor))
    return prior


def symbols(count=4):
    return (4 * torch.randn(count, HYPERS, 6, 3, generator=torch.Generator().manual_seed(1))).round()


def only(prior, rung):
    """CompressAI's bottleneck with the sets of one rung."""
    rows = slice(rung * HYPERS, (rung + 1) * HYPERS)
    bottleneck = EntropyBottleneck(HYPERS)
    for own, other in zip(bottleneck.parameters(), prior.bottleneck.parameters(), strict=True):
        own.data.copy_(other.data[rows])
    return bottleneck.eval()


@pytest.mark.parametrize("rung", range(RUNGS))
def test_bits_are_compressai_s(prior, rung):
    z = symbols()
    _, likelihood = only(prior, rung)(z, training=False)
    bits = prior.bits(z, torch.full((4,), 256 * (rung + 1)))
    assert bits.shape == z.shape
    torch.testing.assert_close(bits, -likelihood.clamp_min(2.0**-16).log2(), rtol=1e-4, atol=1e-4)


def test_each_picture_gets_the_nearest_rung(prior):
    quality = torch.tensor([256, 383, 384, 256 * 2, 256 * 2 + 200, 256 * 3, 256 * 9])
    assert nearest_rung(quality, RUNGS).tolist() == [0, 0, 1, 1, 2, 2, 2]
    z = symbols(7)
    together = prior.bits(z, quality)
    for picture, rung in enumerate([0, 0, 1, 1, 2, 2, 2]):
        alone = prior.bits(z[picture : picture + 1], torch.tensor([256 * (rung + 1)]))
        torch.testing.assert_close(together[picture], alone[0])
    assert not torch.allclose(prior.bits(z, quality), prior.bits(z, quality.flip(0)))


def test_pmf_is_a_distribution_and_agrees_with_bits(prior):
    pmf = prior.pmf().detach()
    assert pmf.shape == (RUNGS, HYPERS, 256) and pmf.min() >= -1e-6
    torch.testing.assert_close(pmf.sum(-1), torch.ones(RUNGS, HYPERS))
    z = torch.arange(-6, 7.0).view(1, 1, 13, 1).repeat(1, HYPERS, 1, 1)
    bits = prior.bits(z, torch.tensor([512])).detach()
    torch.testing.assert_close(2 ** -bits[0, :, :, 0], pmf[1, :, 122:135], rtol=1e-3, atol=2e-5)


def test_tables_are_complete_and_cost_what_the_prior_says(prior):
    tables = export_tables(prior)
    z_frequencies = tables["z_frequencies"].long()
    assert z_frequencies.shape == (RUNGS, HYPERS, 256) and z_frequencies.min() >= 1
    assert (z_frequencies.sum(-1) == 65536).all()
    sizes = tables["r_sizes"].tolist()
    assert len(sizes) == 64 and sum(sizes) == len(tables["r_frequencies"])
    for table in tables["r_frequencies"].long().split(sizes):
        assert table.sum() == 65536 and table.min() >= 1
    assert not tables["r_offsets"].any() and tables["r_offsets"].shape == (64,) and tables["r_skip"].tolist() == [0]
    # Symbols drawn from the prior itself: the tables' rounding costs under half a per cent.
    for rung in range(RUNGS):
        drawn = torch.multinomial(prior.pmf()[rung].detach().clamp_min(0), 4000, replacement=True) - 128
        own = prior.bits(drawn.view(1, HYPERS, 80, 50).float(), torch.tensor([256 * (rung + 1)])).sum().item()
        of_tables = -(z_frequencies[rung].gather(1, drawn + 128) / 65536).log2().sum().item()
        assert of_tables == pytest.approx(own, rel=0.005)


def test_quantiles_are_frozen_with_median_zero(prior):
    assert not prior.bottleneck.quantiles.requires_grad
    assert (prior.bottleneck.quantiles[:, :, 1] == 0).all()
    trainable = {name.split(".")[1] for name, p in prior.named_parameters() if p.requires_grad}
    assert trainable == {"matrices", "biases", "factors"}
    prior.bits(symbols(), torch.tensor([256, 512, 768, 256])).sum().backward()
    assert prior.bottleneck.quantiles.grad is None
    assert all(parameter.grad.abs().sum() > 0 for parameter in prior.parameters() if parameter.requires_grad)
    prior.zero_grad()


def test_training_fits_the_prior_to_what_it_sees():
    """Zeros and ones only, at one rung: bits fall towards one a symbol there, and the other rungs stay as they were."""
    torch.manual_seed(0)
    prior = FactorizedPrior(2, 2)
    optimizer = torch.optim.Adam([p for p in prior.parameters() if p.requires_grad], lr=0.05)
    z = torch.randint(2, (1, 2, 8, 8)).float()
    before = prior.bits(z, torch.tensor([512])).mean().item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = prior.bits(z + torch.rand_like(z) - 0.5, torch.tensor([256])).mean()
        loss.backward()
        optimizer.step()
    assert prior.bits(z, torch.tensor([256])).mean() < 1.5 < before
    assert prior.bits(z, torch.tensor([512])).mean().item() == pytest.approx(before, rel=1e-3)
