"""What benchmarks say of a decoder in 8 bits: its layers hold bytes, and ONNX Runtime's kernels for them are exact."""

import sys
from pathlib import Path

import pytest
import torch

from slimcodec.codec import models
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.fixed import FixedConv2d

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS.with_name("benchmarks")))

import eight_bits  # noqa: E402 - benchmarks are scripts, no package
import eight_bits_layers  # noqa: E402


@pytest.fixture(scope="module")
def exact():
    """A codec whose decoder is in integers."""
    return models.load(TESTS / "golden" / "integer-model").codec


def test_kernels_of_bytes_are_exact():
    levels = [
        {"scale": 16, "channels": 24, "blocks": [{"kind": "depthwise", "hidden": 16}]},
        {"scale": 8, "channels": 16, "blocks": [{"kind": "depthwise", "hidden": 8}]},
    ]
    architecture = Architecture.from_dict(
        {
            "latent_channels": list(range(20)),
            "hyper_channels": [0],
            "g_a": [{"scale": 16, "channels": 8}],
            "g_s": levels,
            "h_a": [1, 1],
            "h_scale": [1, 1, 1],
            "h_mean": [1, 1, 1],
            "stages": [[0, 1, 2, 3]],
            "context": [1],
        }
    )
    assert eight_bits.is_exact(architecture, eight_bits.in_eight_bits(architecture))


@torch.no_grad()
def test_layers_in_eight_bits_see_and_give_bytes(exact):
    fixed = [name for name, layer in exact.named_modules() if isinstance(layer, FixedConv2d)]
    groups = sorted({eight_bits_layers.group_of(name) for name in fixed})
    read = [group for group in groups if group not in eight_bits_layers.WHOLE]
    codec, seen = eight_bits_layers.in_eight_bits(exact, eight_bits_layers.Choice(groups, groups, read)), {}
    layers = {name: layer for name, layer in codec.named_modules() if isinstance(layer, eight_bits_layers.Eight)}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda layer, x, y, name=name: seen.update({name: (layer.read(x[0]), y)}))
    codec.g_s(torch.randint(-2047, 2048, (1, codec.architecture.latents, 4, 4)).float())
    assert {name for name in layers if name.startswith("g_s.")} == seen.keys()
    for name, (x, y) in seen.items():
        weight, bias = layers[name].quantised()
        assert weight.abs().max() == 127 or name == "g_s.head.conv"
        assert not any((values % 1).any() for values in (weight, bias, x, y))
        whole = eight_bits_layers.group_of(name) in eight_bits_layers.WHOLE
        assert x.abs().max() <= (2047 if whole else 255) and (layers[name].free or y.abs().max() <= 255)


def test_rounding_is_made_up_for_by_weights_that_are_not_rounded_yet():
    random = torch.Generator().manual_seed(0)
    weight = 20 * torch.randn(8, 16, generator=random, dtype=torch.float64)
    x = torch.randn(16, 4, generator=random, dtype=torch.float64) @ torch.randn(
        4, 200, generator=random, dtype=torch.float64
    )  # inputs that go together
    found = eight_bits_layers.rounded(weight, x @ x.T)
    assert torch.equal(found, found.round()) and found.abs().max() <= 127
    errors = [(((each - weight) @ x) ** 2).mean() for each in (found, weight.round())]
    assert errors[0] < 0.5 * errors[1]
