"""MAC/pixel: the formula against an independent counter, and against published control values."""

import pytest
import torch
from compressai.models import MeanScaleHyperprior
from conftest import VARIANTS, decoded_planes
from run_parts import ROOT, configuration
from torch.utils.flop_counter import FlopCounterMode

from slimcodec.codec import zoo
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.complexity import (
    DECODER,
    attention,
    convolution,
    decoder_macs_per_pixel,
    encoder_macs_per_pixel,
    macs_per_pixel,
    modulation,
)
from slimcodec.codec.grid import PLANES
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.training.inheritance import student_architecture

CONF = ROOT / "conf"
HEIGHT, WIDTH = 64, 128


def configured(group, name):
    return configuration(f"{group}={name}")[group]


def teacher(name):
    return Architecture.from_dict(configured("teacher", name)["architecture"])


def student(name, teacher_name):
    values = configured("student", name)
    return student_architecture(
        values["architecture"], teacher(teacher_name), inherit_encoder=values["inherit_encoder"]
    )


SHIPPED = {path.name: Architecture.from_dict(zoo.read_description(path)["architecture"]) for path in zoo.directories()}
ARCHITECTURES = (
    SHIPPED
    | {name: Architecture.from_dict(values) for name, values in VARIANTS.items()}
    | {f"teacher {path.stem}": teacher(path.stem) for path in sorted(CONF.glob("teacher/*.yaml"))}
    | {
        f"student {student_path.stem} of {teacher_path.stem}": student(student_path.stem, teacher_path.stem)
        for student_path in sorted(CONF.glob("student/*.yaml"))
        for teacher_path in sorted(CONF.glob("teacher/*.yaml"))
    }
)


def counted(run, pixels=HEIGHT * WIDTH):
    """MAC/pixel by PyTorch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 2 / pixels


def built(architecture):
    """The codec, and x, y and z for it."""
    x = torch.zeros(1, 3, HEIGHT, WIDTH)
    y = torch.zeros(1, architecture.latents, HEIGHT // 16, WIDTH // 16)
    z = torch.zeros(1, architecture.hypers, HEIGHT // 64, WIDTH // 64)
    return HyperpriorCodec(architecture).eval(), x, y, z


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_part_equals_the_counter(name):
    architecture = ARCHITECTURES[name]
    codec, x, y, z = built(architecture)

    def context():
        for stage, c_k in enumerate(codec.context):
            c_k(torch.zeros(1, architecture.context_inputs(stage), HEIGHT // 32, WIDTH // 32))

    runs = {
        "g_a": lambda: codec.g_a(x),
        "h_a": lambda: codec.h_a(y),
        "h_scale": lambda: codec.h_scale(z),
        "h_mean": lambda: codec.h_mean(z),
        "context": context,
        "g_s": lambda: codec.g_s(y),
    }
    parts = macs_per_pixel(architecture)
    assert set(parts) == {*runs, "gain"}
    parts["g_s"] -= modulation(architecture) + attention(architecture.g_s)  # products that are no convolutions
    parts["g_a"] -= attention(architecture.g_a)
    for part, run in runs.items():
        assert counted(run) == pytest.approx(parts[part], rel=1e-12), part
    assert parts["gain"] == y.numel() / (HEIGHT * WIDTH)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_whole_encoder_and_decoder_equal_the_counter(name):
    """Decoder and encoder as they are run; the gain's products are no convolutions, so the counter leaves them out."""
    architecture = ARCHITECTURES[name]
    codec, x, y, z = built(architecture)
    gain = torch.ones(1, architecture.latents)

    r = torch.zeros(1, PLANES, architecture.latents, *(2 * side for side in z.shape[2:]))

    def decoder():
        codec.scale_index(z, gain)
        decoded_planes(codec, z, gain, r)
        codec.g_s(y)

    def encoder():
        codec.h_a(codec.g_a(x))
        codec.scale_index(z, gain)
        decoded_planes(codec, z, gain, r)

    gain_macs = macs_per_pixel(architecture)["gain"]
    products = gain_macs + modulation(architecture) + attention(architecture.g_s)
    assert counted(decoder) + products == pytest.approx(decoder_macs_per_pixel(architecture), rel=1e-12)
    gates = attention(architecture.g_a)
    assert counted(encoder) + 3 * gain_macs + gates == pytest.approx(encoder_macs_per_pixel(architecture), rel=1e-12)
    assert decoder_macs_per_pixel(architecture) == sum(macs_per_pixel(architecture)[part] for part in DECODER)


def test_control_value_by_formula():
    """CompressAI's mean-scale hyperprior, N=192 and M=320; GDN counts as the 1×1 convolution that it computes."""
    n, m = 192, 320
    g_s = convolution(m, n, 5, 16) + convolution(n, n, 5, 8) + convolution(n, n, 5, 4) + convolution(n, 3, 5, 2)
    gdn = sum(convolution(n, n, 1, scale) for scale in (8, 4, 2))
    h_s = convolution(n, m, 5, 64) + convolution(m, 3 * m // 2, 5, 32) + convolution(3 * m // 2, 2 * m, 3, 16)
    assert (g_s + gdn, h_s) == (93_696, 14_925)


def test_control_value_by_counter():
    model = MeanScaleHyperprior(192, 320).eval()
    assert counted(lambda: model.g_s(torch.zeros(1, 320, 4, 4)), 64 * 64) == 93_696
    assert counted(lambda: model.h_s(torch.zeros(1, 192, 1, 1)), 64 * 64) == 14_925


def test_the_shipped_student_is_within_its_target():
    for name in ("slim-2k", "slim-2k-fast-encoder", "slim-2k-symmetric"):
        assert decoder_macs_per_pixel(SHIPPED[name]) <= 2000  # and the counter says the same, above
    for name, most in (("slim-500", 500), ("slim-1k", 1000), ("slim-4k", 4000), ("slim-8k", 8000)):
        assert decoder_macs_per_pixel(SHIPPED[name]) <= most
    assert encoder_macs_per_pixel(SHIPPED["slim-2k-symmetric"]) <= 2000


@pytest.mark.parametrize("name", ["today_2k", "entropy_2k", "renderer_2k"])
def test_the_shapes_that_are_compared_have_one_size(name):
    values = configuration("teacher=shape", f"architecture@teacher.architecture={name}")["teacher"]["architecture"]
    architecture = Architecture.from_dict(values)
    assert 1975 <= decoder_macs_per_pixel(architecture) <= 2000
    entropy_model = decoder_macs_per_pixel(architecture) - macs_per_pixel(architecture)["g_s"]
    assert entropy_model == pytest.approx(1000 if name == "entropy_2k" else 220, rel=0.02)


def test_the_configured_models_have_the_sizes_they_are_named_for():
    large, small = teacher("large"), teacher("small")
    parameters = sum(parameter.numel() for parameter in built(large)[0].parameters())
    assert decoder_macs_per_pixel(large) >= 69_000 and parameters <= 5_000_000
    assert all(
        any(block.kind == "attention" for level in part for block in level.blocks) for part in (large.g_a, large.g_s)
    )
    assert 8_000 <= decoder_macs_per_pixel(small) <= 12_000
    slim = student("slim-2k", "small")
    assert 4_000 <= decoder_macs_per_pixel(slim) <= 8_000
    assert slim.g_a == small.g_a and slim.latent_channels == small.latent_channels
