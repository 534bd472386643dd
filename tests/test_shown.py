"""Training sees what files show: the pixels of real files, with corrections and a filter, and their bits."""

import numpy as np
import pytest
import torch

import slimcodec
from slimcodec.codec import models
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.quantise import Quantiser
from slimcodec.training.photos import embedded
from slimcodec.training.shown import Shown, adapts
from slimcodec.training.teach import Teach, load_trained

PIXELS = embedded("validation")[0].pixels[:256, :384]
X = torch.tensor(PIXELS).permute(2, 0, 1)[None] / 255


@pytest.fixture
def trained():
    return load_trained("slim-2k", both_quantisers=True)


def coded(codec, rung):
    return codec(X, torch.tensor([rung * QUALITY_ONE]))


@pytest.mark.parametrize("rung", [1, 6])
def test_pixels_and_bits_are_those_of_a_file(trained, rung):
    """Nearly: a residual that is between two integers may fall to the other side, and the path then is another one."""
    codec, prior, model = trained
    shown, quantiser = Shown(model, codec), Quantiser(model.tables, torch.device("cpu"))
    settings = {"steps": 1, "batch": 1, "crop": 64, "learning_rate": 1e-4}
    module = Teach(codec, prior, quantiser=quantiser, shown=shown, **settings).eval()
    with torch.no_grad():
        measured = module.with_whole_symbols(X, torch.tensor([rung * QUALITY_ONE]))
    shipped = slimcodec.load("slim-2k")
    data = shipped.compress(PIXELS, rung)
    error = np.asarray(shipped.decompress(data), np.float64) - PIXELS
    assert measured.mse.item() == pytest.approx((error**2).mean() / 255**2, rel=2e-3)
    bits = (measured.bpp_r + measured.bpp_z).item() * X[0, 0].numel()
    assert 0 < 8 * len(data) - bits < 800  # the header, the corrections, and the filter


def test_the_gradient_is_that_of_x_hat_and_the_head_the_one_that_is_trained(trained):
    codec, _, model = trained
    shown, found = Shown(model, codec), coded(codec, 3)
    x_hat = found.x_hat.detach().requires_grad_(True)
    pixels = shown(found._replace(x_hat=x_hat), X, torch.tensor([3 * QUALITY_ONE]))
    torch.testing.assert_close(pixels * 255, (pixels * 255).round(), rtol=0, atol=1e-3)  # levels, as decoded
    weight = torch.randn(pixels.shape)
    (pixels * weight).sum().backward()
    assert torch.equal(x_hat.grad, weight)
    half = shown(found._replace(x_hat=x_hat), X, torch.tensor([3 * QUALITY_ONE]), 0.5)
    torch.testing.assert_close(half, (pixels + x_hat) / 2, rtol=0, atol=1e-6)
    before = (pixels - X).square().mean()
    with torch.no_grad():
        codec.g_s.head.conv.weight.mul_(0.7)  # far less than corrections can mend
        worse = (shown(coded(codec, 3), X, torch.tensor([3 * QUALITY_ONE])) - X).square().mean()
    assert worse > 1.2 * before


def test_a_model_without_corrections_or_with_another_head_shows_what_g_s_makes(trained):
    codec, _, model = trained
    assert adapts(model, codec)
    for name in ("small", "slim-2k-exact"):
        other = models.load(name)
        assert not adapts(other, other.codec)
    assert not adapts(model, models.load("small").codec)
