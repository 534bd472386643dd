"""A kind of block is added in one file: its convolutions, what they cost, how far they see."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from slimcodec import InvalidModel
from slimcodec.codec import blocks
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.blocks import KINDS, Convolution
from slimcodec.codec.complexity import macs_per_pixel
from slimcodec.codec.layers import Block, Modulation
from slimcodec.codec.network import HyperpriorCodec


@pytest.fixture
def a_new_kind(monkeypatch):
    chain = Convolution("expand", 1), Convolution("wide", 5, depthwise=True), Convolution("project", 3)
    monkeypatch.setitem(KINDS, "new", chain)


@pytest.mark.parametrize("kind", [*KINDS, "new"])
def test_costs_and_reach_are_those_of_the_module(kind, a_new_kind):
    block, x = Block(kind, 6, 12), torch.randn(1, 6, 20, 24)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        before = block(x)
    assert counter.get_total_flops() / 2 == (blocks.macs(kind, 6, 12) - blocks.products(kind, 12)) * 20 * 24
    x[:, :, 10, 12] += 1e3
    with torch.no_grad():
        changed = (block(x) != before).any(dim=1)[0].nonzero()
    rows, reach = changed[:, 0], blocks.reach(kind)
    assert (rows.min(), rows.max()) == (10 - reach, 10 + reach)


def test_modulation_is_gate_times_relu_of_a_scaled_and_shifted_code_of_places():
    layer, x = Modulation(5, 3, ratio=4), torch.randn(2, 5, 2, 3)
    with torch.no_grad():
        found, (scale, shift, gate) = layer(x), layer.conv(x).chunk(3, dim=1)
        assert found.shape == (2, 3, 8, 12)
        for row, column in ((0, 0), (3, 5), (6, 11)):
            of = (slice(None), slice(None), row // 4, column // 4)
            expected = gate[of] * (scale[of] * layer.code[:, row % 4, column % 4] + shift[of]).relu()
            assert torch.allclose(found[:, :, row, column], expected, atol=1e-6)


def test_an_architecture_may_have_a_new_kind(a_new_kind, architectures):
    values = architectures["four stages"].to_dict()
    values["g_s"][0]["blocks"] = [{"kind": "new", "hidden": 8}]
    architecture = Architecture.from_dict(values)
    codec = HyperpriorCodec(architecture)
    y = torch.randn(1, architecture.latents, 4, 4)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert codec.g_s(y).shape == (1, 3, 64, 64)
    assert counter.get_total_flops() / 2 / 64**2 == pytest.approx(macs_per_pixel(architecture)["g_s"], rel=1e-12)


def test_a_shuffle_block_costs_half_and_each_half_sees_both():
    macs = {kind: blocks.macs(kind, 64, 96) for kind in ("depthwise", "shuffle")}
    assert macs["shuffle"] == macs["depthwise"] / 2 + 9 * 96 / 2
    block, x = Block("shuffle", 8, 16), torch.zeros(1, 8, 5, 5)
    torch.nn.init.ones_(block.expand.weight)
    x[:, 0] = 1  # of the first half
    with torch.no_grad():
        assert (block(x) != block(0 * x)).any(dim=(0, 2, 3)).all()


def test_attention_multiplies_by_the_sigmoid_of_what_is_around():
    block, x = Block("attention", 3, 5), torch.randn(1, 3, 9, 9)
    hidden = block.expand(x).relu()
    assert torch.allclose(block(x), x + block.project(hidden * block.gate(hidden).sigmoid()))
    assert blocks.macs("attention", 3, 5) == 2 * 3 * 5 + 49 * 5 + 5


def test_widths_that_fall_into_no_halves_are_refused(architectures):
    values = architectures["four stages"].to_dict()
    for hidden, wrong in ((16, False), (18, True)):
        values["g_s"][0]["blocks"] = [{"kind": "shuffle", "hidden": hidden}]
        with pytest.raises(InvalidModel, match="multiples of 2 channels, and of 4") if wrong else nullcontext():
            Architecture.from_dict(values)
