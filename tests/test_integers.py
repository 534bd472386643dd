"""A decoder in integers: layers are what plain integers give, and a file has the same pixels in every setting."""

import hashlib
import math
import os
import subprocess
import sys
from decimal import Decimal, getcontext
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from conftest import VARIANTS, lively, threads

import slimcodec
from slimcodec import InvalidModel
from slimcodec.codec import models
from slimcodec.codec.adapt import fixed_point
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.fixed import HIDDEN, WEIGHT_LIMIT, FixedConv2d, Range
from slimcodec.codec.inference import BACKENDS
from slimcodec.codec.units import GAIN_UNIT, INDEX_STEP, STEP_UNIT, SUM_LIMIT
from slimcodec.training.integers import in_integers

GOLDEN = Path(__file__).with_name("golden") / "integer-model"
FILE = GOLDEN.with_name("integer.slim")
PIXELS = "949d33c8f7cf3c386ec11baff26e74e887b65521ae2df0e07914ed871ec2fbc9"
SMALLER = GOLDEN.with_name("integer-smaller.slim")  # coded at 3/4, in tiles
SMALLER_PIXELS = "a9fef604b91c35b2c5c2561dd81adc390d2b4b1a9bd35a18a6360f8432eb4b04"
# What makes oneDNN, PyTorch's own kernels and OpenMP choose other instructions.
OTHER = {"ONEDNN_MAX_CPU_ISA": "SSE41", "DNNL_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}
DECODE = """
import hashlib, sys, slimcodec
picture = slimcodec.load(sys.argv[1], backend=sys.argv[2]).decompress(open(sys.argv[3], "rb").read())
print(hashlib.sha256(picture.tobytes()).hexdigest())
"""


def halves_to_even(value: int, shift: int) -> int:
    """value / 2^shift, in integers alone."""
    down, rest, half = value >> shift, value & ((1 << shift) - 1), (1 << shift) // 2
    return down + (rest > half or (rest == half and shift > 0 and down % 2))


@pytest.fixture
def layer():
    """Three inputs, two outputs, sums up to the limit."""
    fixed = FixedConv2d(torch.nn.Conv2d(3, 2, 3, padding=1), Range(-2047, 2047), HIDDEN)
    random = torch.Generator().manual_seed(0)
    weight = torch.randint(-300, 301, (2, 3, 3, 3), dtype=torch.int16, generator=random)
    fixed.load_quantised(weight, torch.tensor([-77777, 4321], dtype=torch.int32), torch.tensor([9, 13]))
    return fixed.eval()


@torch.no_grad()
@pytest.mark.parametrize("packed", [False, True])
def test_a_layer_gives_what_plain_integers_give(layer, packed):
    x = np.random.default_rng(0).integers(-2047, 2048, (3, 6, 5))
    weight, bias = (values.long().numpy() for values in layer.quantised())
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1)])
    expected = np.empty((2, 6, 5), np.int64)
    for o, row, column in np.ndindex(expected.shape):
        total = int((weight[o] * padded[:, row : row + 3, column : column + 3]).sum()) + int(bias[o])
        expected[o, row, column] = min(max(halves_to_even(total, int(layer.shift[o])), 0), HIDDEN.high)
    found = (layer.pack() if packed else layer)(torch.from_numpy(x)[None].float())
    assert np.array_equal(found[0].numpy(), expected)
    assert expected.min() + 1 > 0 and expected.max() == HIDDEN.high  # both ends are reached


@torch.no_grad()
def test_a_sum_that_floats_do_not_hold_is_refused(tmp_path):
    model = models.load(GOLDEN)
    model.codec.g_s.levels[0].enter.weight.fill_(WEIGHT_LIMIT)
    assert model.codec.g_s.levels[0].enter.sum_bound().max() >= SUM_LIMIT
    with pytest.raises(InvalidModel, match=r"g_s\.levels\.0\.enter: a sum could reach 2\^24"):
        models.save(tmp_path / "model", model.codec, model.tables, role="student")


def test_steps_are_the_same_with_every_exponential():
    """None of those that files can need is so near to the middle of two integers that a last digit decides."""
    getcontext().prec = 40
    step = Decimal(INDEX_STEP) / GAIN_UNIT
    exact = [(-step * shift).exp() * STEP_UNIT for shift in range(-1200, 1700)]
    for shift in range(256):
        factor, exponent = fixed_point(shift)
        exact.append((-Decimal(INDEX_STEP) * shift).exp() * 2**exponent)
        assert factor == round(exact[-1])
    assert min(abs(value % 1 - Decimal("0.5")) / value.max(1) for value in exact) > 1e-13


def test_a_converted_codec_codes_as_the_one_in_floats_did():
    crops = torch.from_numpy(skimage.data.astronaut()[:128, :128].copy()).permute(2, 0, 1)[None] / 255
    floats = lively(Architecture.from_dict(VARIANTS["four stages"]))
    fixed, quality = in_integers(floats, crops), torch.tensor([1024])
    with torch.no_grad():
        before, after = floats(crops, quality), fixed(crops, quality)
    assert torch.equal(before.z.round(), after.z.round()) and torch.allclose(before.index, after.index, atol=2e-2)
    assert (before.x_hat - after.x_hat).abs().mean() < 0.01
    assert not (after.mu % 1).any()
    assert math.isclose((before.residual.abs().mean() / after.residual.abs().mean()).item(), 1, rel_tol=0.02)


def test_what_cannot_be_in_integers_is_refused():
    with pytest.raises(InvalidModel, match=r"^architecture\.decoder: "):
        Architecture.from_dict(VARIANTS["two stages"] | {"decoder": "integer"})
    levels = [{"scale": 16, "channels": 8, "blocks": [{"kind": "attention", "hidden": 8}]}]
    with pytest.raises(InvalidModel, match="decoder: must be float where g_s has attention blocks"):
        Architecture.from_dict(VARIANTS["four stages"] | {"decoder": "integer", "g_s": levels})


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_smaller_picture_has_these_pixels(backend):
    data = SMALLER.read_bytes()
    assert (data[4], data[25]) == (5, 1 + (3 << 2))  # a correction, three quarters
    decoded = slimcodec.load(GOLDEN, backend=backend).decompress(data)
    assert (decoded.size, hashlib.sha256(decoded.tobytes()).hexdigest()) == ((133, 101), SMALLER_PIXELS)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_has_these_pixels(backend, count):
    data = FILE.read_bytes()
    assert data[4] == 3  # with a correction, so it is merged in integers
    with threads(count):
        codec = slimcodec.load(GOLDEN, backend=backend)
        whole = codec.decompress(data)
        assert hashlib.sha256(whole.tobytes()).hexdigest() == PIXELS
        part = codec.decompress(data, region=(37, 11, 60, 50))
    assert np.array_equal(np.asarray(part), np.asarray(whole)[11:61, 37:97])


def test_backends_write_files_of_which_both_make_the_same_picture():
    picture = skimage.data.astronaut()[100:260, 50:250]
    codecs = [slimcodec.load(GOLDEN, backend=backend) for backend in BACKENDS]
    for writer in codecs:
        data = writer.compress(picture, quality=5.5)
        first, second = (np.asarray(reader.decompress(data)) for reader in codecs)
        assert np.array_equal(first, second)
        assert np.array_equal(writer.encoding(picture).decoded(round(5.5 * 256)), first)


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_instructions_give_these_pixels(backend):
    command = [sys.executable, "-c", DECODE, str(GOLDEN), backend, str(FILE)]
    done = subprocess.run(command, env=os.environ | OTHER, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == PIXELS


def test_in_mixed_precision_pixels_are_the_same():
    picture = slimcodec.load(GOLDEN, precision="bfloat16").decompress(FILE.read_bytes())
    assert hashlib.sha256(picture.tobytes()).hexdigest() == PIXELS
