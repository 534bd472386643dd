"""Starting from the photos' principal components: a codec that works before it is trained."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from training_parts import ARCHITECTURES, QUALITY, lively, one_stage, pictures, student, teacher

from slimcodec import InvalidInput
from slimcodec.codec import complexity
from slimcodec.codec.architecture import Block, Level
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.training.crops import PhotoCache
from slimcodec.training.grow import freeze_old, with_blocks, with_context, with_encoder, with_levels
from slimcodec.training.photos import embedded
from slimcodec.training.start import start_from_photos


@pytest.fixture(scope="module")
def crops():
    return PhotoCache(embedded("train")).crops(seed=1, step=0, batch=16, size=128)


def error_db(codec, x):
    """Of the transforms alone: no rounding, no context."""
    with torch.no_grad():
        return float(-10 * (codec.g_s(codec.g_a(x)) - x).square().mean().log10())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_linear_transform_keeps_what_its_latents_can(name, crops):
    codec = HyperpriorCodec(ARCHITECTURES[name])
    before = error_db(codec, crops)
    start_from_photos(codec, crops)
    assert error_db(codec, crops) > max(22, before + 8)
    # y are the strongest components, so their variances fall and they are not correlated.
    y = codec.g_a(crops).detach().transpose(0, 1).flatten(1)
    power = y.square().mean(dim=1)
    assert (power.diff() <= 1e-4 * power[0]).all()
    correlation = (y @ y.t() / y.shape[1]) / (power[:, None] * power[None]).sqrt()
    assert (correlation - torch.eye(len(y))).abs().max() < 0.02


def test_it_is_fitted_to_the_photos_it_is_given(crops):
    fitted, other = HyperpriorCodec(ARCHITECTURES["teacher"]), HyperpriorCodec(ARCHITECTURES["teacher"])
    start_from_photos(fitted, crops)
    start_from_photos(other, torch.rand_like(crops))
    assert error_db(fitted, crops) > error_db(other, crops) + 3


def test_an_inherited_encoder_is_kept_and_g_s_is_fitted_to_it(crops):
    codec = HyperpriorCodec(ARCHITECTURES["student"])
    parts = codec.g_a, codec.h_scale
    inherited = [tensor.clone() for part in parts for tensor in part.state_dict().values()]
    before = error_db(codec, crops)
    start_from_photos(codec, crops, keep=("g_a", "h_scale"))
    kept = [tensor for part in parts for tensor in part.state_dict().values()]
    assert all(torch.equal(*pair) for pair in zip(kept, inherited, strict=True))
    assert error_db(codec, crops) > before + 5


def test_the_scale_of_y_is_known_from_the_start(crops):
    codec = HyperpriorCodec(ARCHITECTURES["teacher"])
    start_from_photos(codec, crops)
    bias = codec.h_scale.layers[-1].bias.view(4, -1)
    assert torch.equal(bias[0], bias[3]) and bias[0, 0] > bias[0, -1]  # the first coefficient varies most


def test_another_encoder_starts_near_the_one_before(crops):
    codec, _ = lively(one_stage("full"))
    start_from_photos(codec, crops)
    blocks = [{"kind": "depthwise", "hidden": 8}]
    levels = [{"scale": 8, "channels": 64, "blocks": blocks}, {"scale": 16, "channels": 48}]
    changed = with_encoder(codec, crops, downsampling="patches", g_a=levels)
    assert changed.architecture.g_a[0].channels == 64 and changed.g_a.levels[0].enter.kernel_size == (8, 8)
    kept = [name for name in codec.state_dict() if not name.startswith("g_a.")]
    assert all(torch.equal(codec.state_dict()[name], changed.state_dict()[name]) for name in kept)
    with torch.no_grad():
        wanted, found = codec.g_a(crops), changed.g_a(crops)
    spread = wanted - wanted.mean(dim=(0, 2, 3), keepdim=True)
    assert (found - wanted).square().mean() < 0.5 * spread.square().mean()
    with pytest.raises(InvalidInput, match=r"finish\.encoder\.downsampling=wide: h_a would not fit any more"):
        with_encoder(codec, crops, downsampling="wide", g_a=levels)


@pytest.mark.parametrize("part, kind, side", [("g_a", "residual", "encoder"), ("g_s", "depthwise", "decoder")])
def test_more_blocks_change_nothing_until_they_are_trained(part, kind, side):
    codec, _ = lively(student())
    before = getattr(codec.architecture, part)
    wanted = [[8, 4], *[[12]] * (len(before) - 1)]
    grown = with_blocks(codec, part, kind, wanted)
    for level, old, widths in zip(getattr(grown.architecture, part), before, wanted, strict=True):
        assert [block.hidden for block in level.blocks] == [*(block.hidden for block in old.blocks), *widths]
    x, quality = pictures(), QUALITY
    for found, expected in zip(grown.eval()(x, quality), codec(x, quality), strict=True):
        assert torch.equal(found, expected)
    grown.train()(x, quality).x_hat.square().mean().backward()
    assert getattr(grown, part).levels[0].blocks[-1].project.weight.grad.abs().max() > 0
    freeze_old(grown, codec)
    number = len(before[0].blocks)
    trained = {name.split(".blocks.")[0] for name, weight in grown.named_parameters() if weight.requires_grad}
    assert trained == {f"{part}.levels.{level}" for level in range(len(before))}
    assert not grown.get_submodule(f"{part}.levels.0.blocks.{number - 1}").expand.weight.requires_grad
    with pytest.raises(InvalidInput, match=rf"finish\.{side}_blocks: names 3 levels, and the {side} has {len(before)}"):
        with_blocks(codec, part, kind, [[8]] * 3)


def test_a_wider_context_changes_nothing_until_it_is_trained():
    codec, _ = lively(student())
    before = codec.architecture.context
    wanted = [before[0], *(hidden + 8 for hidden in before[1:])]
    grown = with_context(codec, wanted)
    assert grown.architecture == dataclasses.replace(codec.architecture, context=tuple(wanted))
    x, quality = pictures(), QUALITY
    for found, expected in zip(grown.eval()(x, quality), codec(x, quality), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    grown.train()(x, quality).x_hat.square().mean().backward()
    *_, last = grown.context[1].children()
    assert last.weight.grad[:, before[1] :].abs().max() > 0
    for wrong in ([8], [hidden - 1 for hidden in before]):
        with pytest.raises(InvalidInput, match=rf"finish\.context: must be {len(before)} numbers, .* or more"):
            with_context(codec, wrong)


FINER = [
    {"scale": 16, "channels": 32, "blocks": [{"kind": "attention", "hidden": 8}]},
    {"scale": 4, "channels": 56, "blocks": [{"kind": "residual", "hidden": 8}]},
    {"scale": 2, "channels": 12, "blocks": [{"kind": "residual", "hidden": 4}]},
]


@pytest.fixture(scope="module")
def coarse():
    """A codec whose head makes 8 × 8 pixels at once."""
    levels = Level(16, 32, (Block("depthwise", 16),)), Level(8, 16)
    return lively(dataclasses.replace(student(), g_s=levels, head_kernel=1))[0]


def test_finer_levels_change_nothing_until_they_are_trained(coarse):
    grown, x = with_levels(coarse, FINER).eval(), pictures()
    assert [level.scale for level in grown.architecture.g_s] == [16, 8, 4, 2]
    made, before = (codec(x, QUALITY)._asdict() for codec in (grown, coarse))
    assert made.pop("features").shape != before.pop("features").shape
    torch.testing.assert_close(made, before, rtol=0, atol=1e-5)
    freeze_old(grown, coarse)
    grown.train()(x, QUALITY).x_hat.square().mean().backward()
    trained = {name for name, weight in grown.named_parameters() if weight.grad is not None}
    blocks = {name.split(".expand.")[0] for name in trained if name.endswith(".expand.weight")}
    assert blocks == {"g_s.levels.0.blocks.1", "g_s.levels.2.blocks.0", "g_s.levels.3.blocks.0"}
    assert "g_s.levels.2.enter.conv.weight" in trained and "g_s.head.conv.weight" not in trained


def test_what_finer_levels_cost_is_what_is_counted(coarse):
    grown = with_levels(coarse, FINER)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        grown.g_s(torch.zeros(1, grown.architecture.latents, 4, 4))
    gates = complexity.attention(grown.architecture.g_s)
    assert counter.get_total_flops() / 2 / 64**2 == complexity.macs_per_pixel(grown.architecture)["g_s"] - gates


@pytest.mark.parametrize(
    "levels, problem",
    [
        ([{"scale": 8, "channels": 24}], "g_s has 16 channels at scale 8"),
        ([{"scale": 4, "channels": 47}], "scale 4 needs 48 channels or more"),
    ],
)
def test_levels_that_could_not_do_what_g_s_did_are_refused(coarse, levels, problem):
    with pytest.raises(InvalidInput, match=f"finish.decoder_levels: {problem}"):
        with_levels(coarse, levels)


def test_only_a_float_g_s_with_a_pointwise_head_goes_on_finer():
    codec, _ = lively(teacher())
    with pytest.raises(InvalidInput, match="only a float g_s of subpixel upsampling and a 1×1 head goes on finer"):
        with_levels(codec, [{"scale": 2, "channels": 12}])
    blocks = [{"kind": "pointwise", "hidden": 8}]
    assert len(with_levels(codec, [{"scale": 4, "channels": 24, "blocks": blocks}]).g_s.levels[2].blocks) == 2
