"""The factorized prior is CompressAI's, one set a rung, and the tables it exports say what it says."""

from pathlib import Path

import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from safetensors.torch import load_file

from slimcodec.training.prior import Bottleneck, FactorizedPrior, export_tables, nearest_rung

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


def both(channels=24):
    """Ours and CompressAI's, each started from the same seed."""
    torch.manual_seed(3)
    ours, draws = Bottleneck(channels), torch.rand(3)
    torch.manual_seed(3)
    theirs = EntropyBottleneck(channels)
    assert torch.equal(draws, torch.rand(3))  # neither drew more than the other
    return ours, theirs


def test_the_bottleneck_starts_as_compressai_s_and_in_the_same_order():
    ours, theirs = both()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert ours.state_dict()[name].dtype == tensor.dtype and torch.equal(ours.state_dict()[name], tensor), name
    # An optimizer's state in a checkpoint goes by the order of the parameters.
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]


@pytest.mark.parametrize("values", ["rounded", "noisy"])
def test_likelihoods_and_gradients_are_compressai_s_bit_for_bit(values):
    ours, theirs = both()
    for steps in range(3):
        x = 3 * torch.randn(24, 1, 40)
        x = x.round() if values == "rounded" else x
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        likelihoods = ours.likelihood(inputs[0]), theirs._likelihood(inputs[1])[0]
        assert torch.equal(*likelihoods), steps
        for likelihood in likelihoods:
            likelihood.clamp_min(2.0**-16).log2().sum().neg().backward()
        assert torch.equal(inputs[0].grad, inputs[1].grad), steps
        named = dict(theirs.named_parameters())
        for name, parameter in ours.named_parameters():
            if parameter.requires_grad:
                assert torch.equal(parameter.grad, named[name].grad) and parameter.grad.any(), name
        for bottleneck in (ours, theirs):
            torch.optim.Adam(bottleneck.parameters(), lr=0.1).step()
            bottleneck.zero_grad()


@pytest.mark.parametrize("model", ["students/slim-2k", "teachers/small"])
def test_shipped_priors_load_strictly_and_have_no_more_names(model):
    state = load_file(Path(__file__).parents[1] / model / "training.safetensors")
    state = {name.removeprefix("prior."): tensor for name, tensor in state.items() if name.startswith("prior.")}
    prior = FactorizedPrior(len(state["bottleneck.quantiles"]) // 8, 8)
    prior.load_state_dict(state, strict=True)
    assert prior.state_dict().keys() == state.keys()


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
