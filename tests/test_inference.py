"""Real files: exact integers in every setting, the picture that the encoder foresaw, honest estimates, clear refusals.

tests/golden holds a tiny model, a file and the integers in it. They pin the format and the integer scale path: a change
that breaks them makes old files unreadable. After such a change, made on purpose and with a new format version,
`python tests/test_inference.py` writes them anew.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_lively, threads
from PIL import Image

from slimcodec import InvalidFile, InvalidInput, InvalidModel
from slimcodec.codec import bitstream, entropy, inference, models
from slimcodec.codec.network import ALIGNMENT, PLANES, Architecture
from slimcodec.codec.rate import SCALE_COUNT

GOLDEN = Path(__file__).with_name("golden")
GOLDEN_MODEL, GOLDEN_FILE, GOLDEN_SYMBOLS = GOLDEN / "model", GOLDEN / "picture.slim", GOLDEN / "symbols.npz"
GOLDEN_ARCHITECTURE = {
    "latent_channels": 4,
    "hyper_channels": 3,
    "g_a": [{"scale": 4, "channels": 4}, {"scale": 16, "channels": 4}],
    "g_s": [{"scale": 16, "channels": 4}, {"scale": 4, "channels": 4}],
    "h_a": [4, 4],
    "h_scale": [6, 4, 6],
    "h_mean": [4, 4, 4],
    "stages": [[0, 3], [1, 2]],
    "context": [4, 4],
    "head_kernel": 1,
    "quality_ladder": [0.01, 0.1],
}
PICTURES = ["astronaut 100x130", "chelsea 64x64", "noise 64x64", "flat 70x50", "1x1", "1x300", "17x31"]
QUALITIES = [1, 2.3, 4, 6.50390625, 8]


@pytest.fixture(params=PICTURES)
def picture(request, pictures):
    return pictures[request.param]


def parts(data):
    header, payload = bitstream.unpack(data)
    return header, payload


def read(codec, data):
    header, payload = parts(data)
    return codec.read_symbols(payload, header.width, header.height, header.quality)


def same(one, other):
    return np.array_equal(one.z, other.z) and np.array_equal(one.r, other.r)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_file_decodes_to_what_the_encoder_foresaw(codec, picture, quality):
    """The same integers, the same pixels, the estimated size."""
    data = codec.compress(picture, quality)
    header, payload = parts(data)
    assert (header.width, header.height) == (picture.shape[1], picture.shape[0])
    assert header.quality == round(256 * quality)
    symbols, _ = codec.encode(picture, header.quality)
    assert same(read(codec, data), symbols)
    estimate = codec.estimate(picture, quality)
    decoded = np.asarray(codec.decompress(data))
    assert decoded.dtype == np.uint8 and decoded.shape == picture.shape
    assert np.array_equal(decoded, estimate.pixels)
    assert abs(estimate.bits / 8 - len(payload)) <= 0.005 * len(payload) + 32
    assert len(data) - len(payload) <= 40


def test_the_symbols_are_not_trivial(codec, pictures):
    """What the other tests say about files they say about many values, tables, escapes and colours."""
    symbols, _ = codec.encode(pictures["astronaut 100x130"], 2048)
    index = codec.scale_index(symbols.z, 2048)
    assert len(np.unique(symbols.z)) > 8 and len(np.unique(symbols.r)) > 20
    assert len(np.unique(index)) > 25 and index.min() == 0 and index.max() == SCALE_COUNT - 1
    reach = (codec.r_tables.start[1:] - codec.r_tables.start[:-1] - 3) // 2
    escaped = np.abs(symbols.r) > reach[index]
    assert 0 < escaped.mean() < 0.5
    picture = codec.estimate(pictures["astronaut 100x130"], 8).pixels
    assert len(np.unique(picture)) > 100


def test_quality_raises_rate_and_changes_the_picture(codec, pictures):
    estimates = [codec.estimate(pictures["astronaut 100x130"], quality) for quality in QUALITIES]
    bits = [estimate.bits for estimate in estimates]
    assert bits == sorted(bits) and bits[-1] > 1.5 * bits[0]
    assert not np.array_equal(estimates[0].pixels, estimates[-1].pixels)


def test_the_payload_is_z_and_then_the_stages_in_order(codec, pictures):
    """Written by hand from the parts: z, planes 0, 3, 1, 2."""
    symbols, _ = codec.encode(pictures["17x31"], 700)
    encoder = entropy.Encoder()
    channels = np.arange(8)[:, None, None] + 8 * 2  # 700 / 256 is nearest to rung 3
    encoder.put(symbols.z, np.broadcast_to(channels, symbols.z.shape), codec.z_tables)
    index = codec.scale_index(symbols.z, 700)
    for plane in (0, 3, 1, 2):
        encoder.put(symbols.r[plane], index[plane], codec.r_tables)
    assert codec.write_symbols(symbols, 700) == encoder.finish()


@pytest.mark.parametrize("quality, rung", [(256, 0), (383, 0), (384, 1), (1024, 3), (1919, 6), (1920, 7), (2048, 7)])
def test_z_uses_the_tables_of_the_nearest_rung(codec, quality, rung):
    index = codec._z_index((8, 1, 2), quality)
    assert index.shape == (8, 1, 2)
    assert index[:, 0, 1].tolist() == list(range(8 * rung, 8 * rung + 8))


def test_padding_repeats_the_edges(codec):
    pixels = np.arange(2 * 65 * 3, dtype=np.uint16).reshape(2, 65, 3).astype(np.uint8)
    padded = codec._padded(pixels)
    assert padded.shape == (1, 3, ALIGNMENT, 2 * ALIGNMENT)
    back = (padded[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(back, np.pad(pixels, ((0, 62), (0, 63), (0, 0)), mode="edge"))


# --- the same integers everywhere -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contiguous_codec(model_directory):
    """The same model with its weights as NCHW."""
    other = inference.load(model_directory)
    other.network.to(memory_format=torch.contiguous_format)
    return other


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("quality", [1, 5.2])
def test_files_decode_to_the_same_integers_in_every_setting(codec, contiguous_codec, picture, quality):
    data = codec.compress(picture, quality)
    expected = read(codec, data)
    for count in (1, 2):
        with threads(count):
            assert same(read(codec, data), expected)
    assert same(read(contiguous_codec, data), expected)
    with torch.backends.mkldnn.flags(enabled=False):
        assert same(read(codec, data), expected)


def test_a_batch_has_the_indices_of_its_pictures(codec, pictures):
    """Four pictures at four qualities through the network at once, NCHW and channels-last."""
    names, qualities = ("chelsea 64x64", "noise 64x64", "1x1", "17x31"), (256, 777, 1500, 2048)
    z = [codec.encode(pictures[name], quality)[0].z for name, quality in zip(names, qualities, strict=True)]
    expected = [codec.scale_index(one, quality) for one, quality in zip(z, qualities, strict=True)]
    network = codec.network
    with torch.inference_mode():
        shift = network.gain_shift(torch.tensor(qualities))
        for memory_format in (torch.contiguous_format, torch.channels_last):
            batch = torch.from_numpy(np.stack(z)).contiguous(memory_format=memory_format)
            index = (network.scale_index(batch, shift) + 0.5).floor().clamp(0, SCALE_COUNT - 1)
            assert np.array_equal(index.int().numpy(), np.stack(expected))


def test_golden_file():
    """A file written long ago holds these integers, and they are written as these bytes."""
    codec = inference.load(GOLDEN_MODEL)
    data = GOLDEN_FILE.read_bytes()
    expected = np.load(GOLDEN_SYMBOLS)
    symbols = read(codec, data)
    assert np.array_equal(symbols.z, expected["z"]) and np.array_equal(symbols.r, expected["r"])
    assert len(np.unique(symbols.z)) > 5 and len(np.unique(symbols.r)) > 10
    header, _ = parts(data)
    assert np.array_equal(codec.scale_index(symbols.z, header.quality), expected["index"])
    assert len(np.unique(expected["index"])) > 15
    assert bitstream.pack(header, codec.write_symbols(symbols, header.quality)) == data
    assert codec.decompress(data).size == (230, 160)


def write_golden() -> None:
    """Write tests/golden anew: a random tiny model, a drawn picture, its file, and the integers in it."""
    save_lively(GOLDEN_MODEL, Architecture.from_dict(GOLDEN_ARCHITECTURE), seed=1)
    (GOLDEN_MODEL / models.TRAINING).unlink()
    codec = inference.load(GOLDEN_MODEL)
    row, column = np.mgrid[:160, :230]
    waves = [128 + 120 * np.sign(np.sin(row / a + column / b)) for a, b in ((5, 9), (17, -4), (-8, 30))]
    data = codec.compress(np.stack(waves, axis=2).astype(np.uint8), 1.9)
    GOLDEN_FILE.write_bytes(data)
    symbols = read(codec, data)
    index = codec.scale_index(symbols.z, parts(data)[0].quality)
    np.savez_compressed(GOLDEN_SYMBOLS, z=symbols.z, r=symbols.r, index=index)


# --- pictures and settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "RGBA", "LA", "P", "CMYK", "YCbCr"])
def test_pil_pictures_of_8_bits_are_accepted(codec, pictures, mode):
    picture = Image.fromarray(pictures["chelsea 64x64"]).convert(mode)
    assert picture.mode == mode
    assert codec.compress(picture, 3) == codec.compress(np.array(picture.convert("RGB")), 3)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
        [[1, 2, 3]],
        None,
        "picture.png",
        Image.new("RGB", (0, 4)),
        Image.new("I;16", (8, 8)),
        Image.new("I", (8, 8)),
        Image.new("F", (8, 8)),
    ],
    ids=str,
)
def test_other_pictures_are_refused(codec, picture):
    for call in (codec.compress, codec.estimate):
        with pytest.raises(InvalidInput, match="picture"):
            call(picture)


def test_a_truncated_picture_file_is_refused(codec, pictures, tmp_path):
    Image.fromarray(pictures["noise 64x64"]).save(tmp_path / "noise.png")
    data = (tmp_path / "noise.png").read_bytes()
    (tmp_path / "noise.png").write_bytes(data[: len(data) // 2])
    with Image.open(tmp_path / "noise.png") as picture, pytest.raises(InvalidInput, match="cannot be read"):
        codec.compress(picture)


def test_arrays_of_any_layout_are_accepted(codec, pictures):
    pixels = pictures["chelsea 64x64"]
    frozen = pixels[::-1, ::-1].copy()
    frozen.setflags(write=False)
    assert codec.compress(pixels[::-1, ::-1]) == codec.compress(frozen) == codec.compress(np.asfortranarray(frozen))


@pytest.mark.parametrize("quality", [0, 0.99, 8.01, -1, 9, float("nan"), float("inf"), "4", None, 1j])
def test_a_quality_out_of_range_is_refused(codec, pictures, quality):
    with pytest.raises(InvalidInput, match=r"quality .*must be a number from 1 to 8"):
        codec.compress(pictures["1x1"], quality)


def test_a_quality_may_be_any_real_number(codec, pictures):
    assert codec.compress(pictures["1x1"], np.float32(4)) == codec.compress(pictures["1x1"], 4)


def test_a_device_that_is_not_there_is_refused(model_directory):
    for device in ("no such device", "cuda:77"):
        with pytest.raises(InvalidInput, match=f"device {device}"):
            inference.load(model_directory, device)


def test_broken_weights_are_the_models_fault(model_directory, pictures):
    for part in ("g_a.head", "h_mean.0", "context.1.0"):
        codec = inference.load(model_directory)
        codec.network.get_submodule(part).bias.data.fill_(float("inf"))
        codec.network.get_submodule(part).bias.data[0] = float("nan")
        with pytest.raises(InvalidModel, match="not finite"):
            codec.compress(pictures["17x31"])


# --- files that cannot be decoded -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_file(codec, pictures):
    return codec.compress(pictures["17x31"], 1)


def test_a_file_of_another_model_names_both(codec, small_file):
    other = inference.load(GOLDEN_MODEL)
    with pytest.raises(InvalidFile) as caught:
        other.decompress(small_file)
    assert codec.model.sha256[:16] in str(caught.value) and other.model.sha256[:16] in str(caught.value)


def test_every_truncation_is_refused(codec, small_file):
    for length in range(len(small_file)):
        with pytest.raises(InvalidFile):
            codec.decompress(small_file[:length])
    with pytest.raises(InvalidFile):
        codec.decompress(small_file + b"\0")


def test_every_damaged_byte_is_refused(codec, small_file):
    for position in range(len(small_file)):
        damaged = bytearray(small_file)
        damaged[position] ^= 0x10
        with pytest.raises(InvalidFile):
            codec.decompress(bytes(damaged))


def test_damage_under_a_right_checksum_ends_in_a_picture_or_a_refusal(codec, small_file):
    header, payload = parts(small_file)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(payload)
        damaged[rng.integers(len(payload))] ^= int(rng.integers(1, 256))
        try:
            assert codec.decompress(bitstream.pack(header, bytes(damaged))).size == (31, 17)
        except InvalidFile:
            refused += 1
    assert refused >= 55


@pytest.mark.parametrize("quality", [0, 255, 2049, 65535])
def test_a_quality_that_the_model_lacks_is_refused(codec, small_file, quality):
    header, payload = parts(small_file)
    with pytest.raises(InvalidFile, match="quality"):
        codec.decompress(bitstream.pack(header._replace(quality=quality), payload))


def test_a_declared_size_is_limited_by_max_pixels_only(codec, small_file):
    header, payload = parts(small_file)
    with pytest.raises(InvalidFile, match="max_pixels"):
        codec.decompress(bitstream.pack(header._replace(width=2**20, height=2**20), payload))
    with pytest.raises(InvalidFile, match="limit of 526"):
        codec.decompress(small_file, max_pixels=17 * 31 - 1)
    assert codec.decompress(small_file, max_pixels=17 * 31).size == (31, 17)


def test_a_large_flat_picture_in_few_bytes_is_decoded(codec):
    """However small a payload is, a picture of the size that it declares may be what it holds."""
    architecture = codec.network.architecture
    z = np.zeros((architecture.hypers, 8, 8), np.int32)
    symbols = inference.Symbols(z, np.zeros((PLANES, architecture.latents, 16, 16), np.int32))
    data = bitstream.pack(bitstream.Header(codec.model_hash, 512, 512, 256), codec.write_symbols(symbols, 256))
    assert codec.decompress(data).size == (512, 512)


# --- what a user needs installed ------------------------------------------------------------------------------------

ROUND_TRIP = """
import sys
for name in sys.argv[2].split():
    sys.modules[name] = None  # importing it fails
import numpy as np
import slimcodec
codec = slimcodec.load(sys.argv[1])
picture = np.random.default_rng(0).integers(0, 256, (33, 70, 3), dtype=np.uint8)
data = codec.compress(picture, quality=3.5)
assert np.array_equal(np.asarray(codec.decompress(data)), codec.estimate(picture, 3.5).pixels)
print(len(data))
"""


def test_a_round_trip_needs_no_training_library(codec, model_directory):
    absent = "lightning hydra omegaconf compressai torch_pruning wandb matplotlib bjontegaard scipy torchvision skimage"
    done = subprocess.run(
        [sys.executable, "-c", ROUND_TRIP, str(model_directory), absent], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    picture = np.random.default_rng(0).integers(0, 256, (33, 70, 3), dtype=np.uint8)
    assert int(done.stdout) == len(codec.compress(picture, quality=3.5))


if __name__ == "__main__":
    write_golden()
