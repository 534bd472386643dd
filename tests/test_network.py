"""The network: validation, shapes, order of planes, gains, and above all an integer scale path that is exact."""

import json

import numpy as np
import pytest
import torch
from conftest import VARIANTS, decoded_planes, lively, threads
from safetensors.numpy import load_file

from slimcodec import InvalidModel
from slimcodec.codec import rate
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.grid import PLANES
from slimcodec.codec.layers import IntegerConv2d, clamp_ste, round_ste
from slimcodec.codec.network import HyperpriorCodec, from_planes, to_planes


def broken(**fields):
    return VARIANTS["four stages"] | fields


def levels(*scales, **more):
    return [{"scale": scale, "channels": 8} | more for scale in scales]


def random_x(batch, height, width):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def random_z(architecture, *, batch=1, rows=3, columns=4, seed=0):
    rng = np.random.default_rng(seed)
    z = np.clip(np.rint(rng.normal(0, 4, (batch, architecture.hypers, rows, columns))), -128, 127)
    z[0, 0, 0, :2] = -128, 127
    return torch.from_numpy(z.astype(np.float32))


# --- architecture ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field, values",
    [
        ("latent_channels", [0, [], [1, 1], [1.5], "12", 10**9, None]),
        ("hyper_channels", [-1, [3, 3], ["a"], {}]),
        (
            "g_a",
            [[], None, 3, [4], levels(16, 4), levels(4, 8), levels(3, 16), levels(4, 16, width=3), levels("4", 16)],
        ),
        ("g_s", [levels(4, 16), levels(16, 16), levels(16, 0), levels(16, blocks=[{"kind": "dense", "hidden": 4}])]),
        ("g_s", [levels(16, channels=0), levels(16, channels=True), levels(16, blocks=[{"kind": "residual"}])]),
        (
            "g_s",
            [levels(16, blocks=[{"kind": ["residual"], "hidden": 4}]), levels(16, channels=10**9), [{"scale": 16}]],
        ),
        ("h_a", [[8], [8, 0], [8, 8.0], 8, None]),
        ("h_scale", [[8, 8], [8, "8", 8], [8, 8, -8]]),
        ("h_mean", [[8, 8, 8, 8], [8, None, 8]]),
        (
            "stages",
            [[[0, 1, 2]], [[0, 1], [1, 2, 3]], [[0, 1, 2, 3], []], [0, 1, 2, 3], "0123", [[0, 1, 2, "3"]], None],
        ),
        ("context", [[8, 8, 8], [8, 8, 8, 0], 8]),
        ("context_kind", ["dense", None, ["full"]]),
        ("upsampling", ["nearest", 2]),
        ("upsampling_kernel", [2, 0, -1, "3", 101, None]),
        ("head_kernel", [4, [3]]),
        ("quality_ladder", [[], [0.2, 0.1], [0.1, 0.1], [0.0, 0.1], ["a"], [float("nan")], 0.1, [float("inf")]]),
        ("colour", [1]),
    ],
)
def test_every_invalid_field_is_named(field, values):
    for value in values:
        with pytest.raises(InvalidModel, match=rf"^architecture\.{field}: "):
            Architecture.from_dict(broken(**{field: value}))


@pytest.mark.parametrize("field", ["latent_channels", "g_a", "h_scale", "stages", "context"])
def test_a_missing_field_is_named(field):
    values = {name: value for name, value in VARIANTS["four stages"].items() if name != field}
    with pytest.raises(InvalidModel, match=rf"^architecture\.{field}: is missing"):
        Architecture.from_dict(values)


@pytest.mark.parametrize("values", [None, [], "small", 3])
def test_an_architecture_must_be_named_fields(values):
    with pytest.raises(InvalidModel, match="named fields"):
        Architecture.from_dict(values)


def test_architectures_survive_json(architecture):
    assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture


def test_counts_of_an_architecture(architectures):
    two = architectures["two stages"]
    assert (two.latents, two.hypers, two.rungs) == (5, 3, 3)
    assert two.latent_channels == (7, 1, 4, 2, 9)
    assert [two.context_inputs(stage) for stage in range(2)] == [10, 10 + 2 * 5]
    assert architectures["four stages"].latent_channels == tuple(range(12))


# --- shapes, planes, stages -----------------------------------------------------------------------------------------


def test_shapes(architecture):
    codec = lively(architecture)
    coded = codec(random_x(2, 64, 128), torch.tensor([QUALITY_ONE, QUALITY_ONE * architecture.rungs]))
    planes = (2, PLANES, architecture.latents, 2, 4)
    assert coded.x_hat.shape == (2, 3, 64, 128)
    assert coded.z.shape == (2, architecture.hypers, 1, 2)
    assert coded.gain.shape == (2, 1, architecture.latents, 1, 1)
    assert {tensor.shape for tensor in (coded.y, coded.mu, coded.residual, coded.index)} == {planes}


def test_planes_are_ordered_by_row_then_column():
    y = torch.arange(2 * 3 * 4 * 6).float().view(2, 3, 4, 6)
    planes = to_planes(y)
    assert planes.shape == (2, PLANES, 3, 2, 3)
    for row in range(2):
        for column in range(2):
            assert torch.equal(planes[:, 2 * row + column], y[:, :, row::2, column::2])
    assert torch.equal(from_planes(planes), y)


def test_a_stage_sees_only_the_stages_before(architectures):
    """Changing r of one plane changes mu of the later stages and of no earlier one."""
    for architecture in architectures.values():
        codec = lively(architecture)
        z_hat, gain = random_z(architecture), torch.ones(1, architecture.latents)
        r = torch.randn(1, PLANES, architecture.latents, 6, 8).round()
        order = {plane: stage for stage, planes in enumerate(architecture.stages) for plane in planes}
        for changed in range(PLANES):
            other = r.clone()
            other[:, changed] += 5
            _, mu = decoded_planes(codec, z_hat, gain, r)
            _, moved = decoded_planes(codec, z_hat, gain, other)
            for plane in range(PLANES):
                assert torch.equal(mu[:, plane], moved[:, plane]) == (order[plane] <= order[changed])


def test_decoding_repeats_what_training_saw(architecture):
    """forward's x_hat is what the decoder's stages and g_s make of its rounded symbols."""
    codec = lively(architecture)
    quality = torch.tensor([QUALITY_ONE * architecture.rungs])
    coded = codec(random_x(1, 64, 64), quality)
    r = coded.residual.round()
    assert r.abs().max() > 2 and r.unique().numel() > 5
    gain = codec.gain(codec.gain_shift(quality))
    y_hat, mu = decoded_planes(codec, coded.z.round().clamp(-128, 127), gain, r)
    assert torch.allclose(mu, coded.mu, atol=1e-4)
    assert torch.allclose(codec.g_s(from_planes(y_hat)), coded.x_hat, atol=1e-4)
    assert (y_hat - coded.y).abs().max() <= 0.5 / gain.min() + 1e-4


# --- gain -----------------------------------------------------------------------------------------------------------


def test_gain_shift_is_the_fixed_point_formula(architecture):
    codec = lively(architecture)
    log_gain = [[round(value * 16) for value in row] for row in codec.log_gain.tolist()]
    qualities = range(QUALITY_ONE, QUALITY_ONE * architecture.rungs + 1)
    shifts = codec.gain_shift(torch.tensor(qualities))
    assert len(set(np.ravel(log_gain))) > 4
    for quality, row in zip(qualities, shifts.tolist(), strict=True):
        rung, f = quality // 256 - 1, quality % 256
        below, above = log_gain[rung], log_gain[min(rung + 1, architecture.rungs - 1)]
        assert row == [(s0 * (256 - f) + s1 * f + 128) >> 8 for s0, s1 in zip(below, above, strict=True)]


def test_gain_shift_is_exact_at_the_ends_of_int16(architectures):
    codec = HyperpriorCodec(architectures["four stages"])
    with torch.no_grad():
        codec.log_gain.copy_(torch.tensor([-(2**15), 2**15 - 1]).repeat(4)[:, None] / 16)
    qualities = range(QUALITY_ONE, 2 * QUALITY_ONE)
    expected = [(-(2**15) * (512 - q) + (2**15 - 1) * (q - 256) + 128) >> 8 for q in qualities]
    assert codec.gain_shift(torch.tensor(qualities))[:, 0].tolist() == expected


def test_the_gain_scales_sigma_and_residual_alike(architecture):
    codec = lively(architecture)
    shift = codec.gain_shift(torch.arange(QUALITY_ONE, QUALITY_ONE * architecture.rungs + 1, 37))
    gain = codec.gain(shift)
    for index in (5.0, 30.0):
        moved = rate.scale(index + shift.double() / 16) / rate.scale(torch.tensor(index, dtype=torch.float64))
        assert torch.allclose(gain.double(), moved, rtol=1e-5)


# --- the integer scale path -----------------------------------------------------------------------------------------


def reference_h_scale(tensors, z):
    """h_scale on int64 alone, from the exported tensors: z [N, h, w] → [4·M, 2h, 2w]."""
    x = z.astype(np.int64)
    for number in range(4):
        weight, bias, exponent = (
            tensors[f"h_scale.layers.{number}.{part}"].astype(np.int64) for part in ("weight", "bias", "exponent")
        )
        kernel = weight.shape[-1]
        padded = np.pad(x, ((0, 0), (kernel // 2,) * 2, (kernel // 2,) * 2))
        rows, columns = x.shape[1:]
        accumulator = np.broadcast_to(bias[:, None, None], (len(weight), rows, columns)).copy()
        for dy in range(kernel):
            for dx in range(kernel):
                window = padded[:, dy : dy + rows, dx : dx + columns].reshape(len(x), -1)
                accumulator += (weight[:, :, dy, dx] @ window).reshape(accumulator.shape)
        assert np.abs(accumulator).max() < 2**31
        x = accumulator >> int(exponent) + (4 if number else 0) - 4
        if number < 3:
            x = np.clip(x, 0, 255)
        if number == 1:  # pixel shuffle
            x = x.reshape(-1, 2, 2, rows, columns).transpose(0, 3, 1, 4, 2).reshape(-1, 2 * rows, 2 * columns)
    return x


def test_scale_index_is_plain_integer_arithmetic(codec, model_directory):
    tensors = load_file(model_directory / "weights.safetensors")
    network = codec.network
    assert tensors["h_scale.layers.0.weight"].dtype == np.int8
    for quality in (256, 700, 1024, 2048):
        z = random_z(network.architecture, seed=quality)[0].numpy().astype(np.int32)
        at_gain_one = reference_h_scale(tensors, z).reshape(PLANES, -1, 6, 8)
        rung, f = quality // 256 - 1, quality % 256
        steps = tensors["log_gain"].astype(np.int64)
        s = (steps[rung] * (256 - f) + steps[min(rung + 1, len(steps) - 1)] * f + 128) >> 8
        expected = np.clip((at_gain_one + s[:, None, None] + 8) >> 4, 0, 63)
        assert len(np.unique(expected)) > 20
        assert np.array_equal(codec.coder.scale_index(z, quality), expected)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@torch.no_grad()
def test_h_scale_is_the_same_in_every_setting(architecture):
    h_scale = lively(architecture).h_scale
    z_hat = random_z(architecture, batch=4, rows=5, columns=7)
    expected = h_scale(z_hat)
    assert expected.unique().numel() > 50
    assert torch.equal(torch.cat([h_scale(one[None]) for one in z_hat]), expected)
    for count in (1, 2):
        with threads(count):
            assert torch.equal(h_scale(z_hat), expected)
    assert torch.equal(h_scale(z_hat.to(memory_format=torch.channels_last)), expected)
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(h_scale(z_hat), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(h_scale(z_hat), expected)
    assert torch.equal(h_scale.to(memory_format=torch.channels_last)(z_hat), expected)


@torch.no_grad()
def test_fake_quantisation_in_training_is_the_integer_network(architecture):
    h_scale = lively(architecture).h_scale
    z_hat = random_z(architecture, batch=2)
    exact = h_scale(z_hat)
    assert exact.dtype == torch.float64
    assert torch.equal(h_scale.train()(z_hat).double(), exact)


@pytest.mark.parametrize("input_bits", [0, 4])
@pytest.mark.parametrize("exponent", range(4, 13))
def test_stored_integers_come_back_exactly(exponent, input_bits):
    """For every exponent there is, all weights from -127 to 127 and the largest biases."""
    layer = IntegerConv2d(51, 5, 1, input_bits=input_bits)
    weight = torch.arange(-127, 128, dtype=torch.int8).view(5, 51, 1, 1)
    bias = torch.tensor([-(2**23), -1, 0, 12345, 2**23], dtype=torch.int32)
    layer.load_quantised(weight, bias, torch.tensor(exponent, dtype=torch.int32))
    again = layer.quantised()
    assert [tensor.tolist() for tensor in again] == [weight.tolist(), bias.tolist(), exponent]


@pytest.mark.parametrize("size", [0, 1e-12, 1e-5, 0.02, 0.2479, 0.24805, 1, 7.9, 30])
def test_quantising_twice_changes_nothing(size):
    torch.manual_seed(0)
    layer = IntegerConv2d(8, 6, 3, input_bits=4).eval()
    with torch.no_grad():
        layer.weight.mul_(size / layer.weight.abs().max())
        layer.bias.mul_(size)
    weight, bias, exponent = (tensor.detach() for tensor in layer.quantised())
    assert weight.abs().max() <= 127 and 4 <= exponent <= 12
    assert size in (0, 1e-12, 1e-5) or weight.abs().max() >= 64  # seven bits are used
    x = torch.randint(0, 256, (1, 8, 5, 5)).double()
    out = layer(x)
    layer.load_quantised(weight.to(torch.int8), bias.to(torch.int32), exponent)
    for before, after in zip((weight, bias, exponent), layer.quantised(), strict=True):
        assert torch.equal(before, after)
    assert torch.equal(layer(x), out)


def test_the_accumulator_bound_is_reached():
    layer = IntegerConv2d(3, 2, 3, input_bits=4, last=True).eval()
    weight = torch.tensor([100, -50], dtype=torch.int8)[:, None, None, None].expand(2, 3, 3, 3)
    layer.load_quantised(weight, torch.tensor([7, -9], dtype=torch.int32), torch.tensor(4))
    assert layer.accumulator_bound() == 27 * 100 * 255 + 7
    largest = layer(torch.full((1, 3, 3, 3), 255.0, dtype=torch.float64))[0, 0, 1, 1]
    assert largest == layer.accumulator_bound() // 2**4


def test_gradients_reach_the_master_weights(architectures):
    codec = lively(architectures["four stages"]).train()
    coded = codec(random_x(2, 64, 64), torch.tensor([300, 2048]))
    (coded.x_hat.mean() + coded.index.mean() + coded.residual.mean()).backward()
    for name, parameter in codec.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_clamp_passes_gradients_that_point_back_inside():
    x = torch.tensor([-2.0, -2.0, 0.5, 0.5, 3.0, 3.0], requires_grad=True)
    y = clamp_ste(x, 0, 1)
    assert y.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    y.backward(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]))
    assert x.grad.tolist() == [0, -1, 1, -1, 1, 0]


def test_rounding_passes_gradients():
    x = torch.tensor([0.4, 1.5, 2.5, -0.6], requires_grad=True)
    y = round_ste(x)
    assert y.tolist() == [0, 2, 2, -1]
    y.sum().backward()
    assert x.grad.tolist() == [1, 1, 1, 1]


# --- packing --------------------------------------------------------------------------------------------------------


def test_packing_leaves_the_network_as_it_was_and_may_be_done_twice(architecture):
    codec = lively(architecture).requires_grad_(False)
    x, quality = random_x(1, 64, 128), torch.tensor([QUALITY_ONE])
    before, weights = codec(x, quality), {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    packed = codec.pack()
    for network in (packed, codec.pack(), packed.pack()):
        with torch.no_grad():
            found = network(x, quality)
        assert torch.equal(found.index, before.index)
        torch.testing.assert_close(found.x_hat, before.x_hat)
    assert codec.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in codec.state_dict().items())
    assert torch.equal(codec(x, quality).x_hat, before.x_hat)
