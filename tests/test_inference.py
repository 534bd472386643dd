"""Real files: exact integers in every setting, the picture that the encoder foresaw, honest estimates, clear refusals.

tests/golden holds a tiny model and two files with the integers in them and the picture they give; and the same model
with banks and corrections, with two files of version 3. They pin the format and the integer scale path: a change that
breaks them makes old files unreadable. After such a change, made on purpose and with a new format version,
`python tests/test_inference.py` writes them anew; with `corrected` only those of version 3.
"""

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from conftest import bank_tables, correction_tables, lively, threads
from PIL import Image
from torch.nn import functional as F

from slimcodec import InvalidFile, InvalidInput, InvalidModel
from slimcodec.codec import analysis, bitstream, inference, isolation, models, transforms
from slimcodec.codec.adapt import Correction
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.grid import CELL, PLANES, Window, whole
from slimcodec.codec.rate import SCALE_COUNT
from slimcodec.codec.symbols import Symbols

GOLDEN = Path(__file__).with_name("golden")
GOLDEN_MODEL = GOLDEN / "model"
PLAIN_FILES = {"picture": {"quality": 1.9}, "tiled": {"quality": 1.3, "tile": 2}}  # the latter with alpha and ICC
CORRECTED_MODEL = GOLDEN / "corrected-model"
CORRECTED_FILES = {"corrected": {"quality": 1.9}, "corrected-tiled": {"quality": 1.3, "tile": 2}}
FILTERED_FILES = {"slim-2k"}
GOLDEN_FILES = PLAIN_FILES | CORRECTED_FILES
SHIPPED = "slim-2k"  # has a golden file as well: `python tests/test_inference.py shipped` where it is replaced
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
GOLDEN_SKIP = 12
THINNED = slice(None, None, 5), slice(None, None, 5)  # rows and columns of the golden pictures that are stored
PROFILE = b"\0" * 16 + b"RGB " + b"\0" * 108  # the header of an ICC profile, and nothing else
PICTURES = ["astronaut 100x130", "chelsea 64x64", "noise 64x64", "flat 70x50", "1x1", "1x300", "17x31"]
QUALITIES = [1, 2.3, 4, 6.50390625, 8]


@pytest.fixture(params=PICTURES)
def picture(request, pictures):
    return pictures[request.param]


def read(codec, data, window=None):
    return codec.coder.read(bitstream.unpack(data), window)


def same(one, other):
    return all(np.array_equal(mine, others) for mine, others in zip(one, other, strict=True))


def repacked(data, *, streams=None, **fields):
    """The same file with other streams or header fields, under a right checksum."""
    contents = bitstream.unpack(data)
    streams = contents.streams if streams is None else streams
    return bitstream.pack(contents.header._replace(**fields), streams, contents.correction)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_file_decodes_to_what_the_encoder_foresaw(codec, picture, quality):
    """The same integers, the same pixels, the estimated size."""
    data = codec.compress(picture, quality)
    contents = bitstream.unpack(data)
    header, (stream,) = contents.header, contents.streams
    assert (header.width, header.height, header.tile) == (picture.shape[1], picture.shape[0], 0)
    assert header.quality == round(256 * quality)
    encoding = codec.encoding(picture)
    y = encoding.y
    symbols, _ = codec.transforms.code(y, codec.transforms.hyper_latents(y, header.quality), header.quality)
    assert same(codec.coder.read(contents), symbols)
    estimate = codec.estimate(picture, quality)
    decoded = np.asarray(codec.decompress(data))
    assert decoded.dtype == np.uint8 and decoded.shape == picture.shape
    assert np.array_equal(decoded, estimate.pixels)
    assert abs(estimate.bits / 8 - len(stream)) <= 0.005 * len(stream) + 32
    own = 4 + len(contents.filtering) + len(contents.filter_map or b"")  # the features and sizes, too
    assert len(data) - len(stream) <= 40 + own


def test_the_symbols_are_not_trivial(codec, pictures):
    """What the other tests say about files they say about many values, tables, escapes and colours."""
    symbols = read(codec, codec.compress(pictures["astronaut 100x130"], 8))
    index = symbols.index
    assert len(np.unique(symbols.z)) > 8 and len(np.unique(symbols.r)) > 20
    assert len(np.unique(index)) > 25 and index.min() == 0 and index.max() == SCALE_COUNT - 1
    r_tables = codec.coder.r_tables
    reach = (r_tables.start[1:] - r_tables.start[:-1] - 3) // 2
    escaped = np.abs(symbols.r) > reach[index]
    assert 0 < escaped.mean() < 0.5
    picture = codec.estimate(pictures["astronaut 100x130"], 8).pixels
    assert len(np.unique(picture)) > 100


def test_quality_raises_rate_and_changes_the_picture(codec, pictures):
    estimates = [codec.estimate(pictures["astronaut 100x130"], quality) for quality in QUALITIES]
    bits = [estimate.bits for estimate in estimates]
    assert bits == sorted(bits) and bits[-1] > 1.5 * bits[0]
    assert not np.array_equal(estimates[0].pixels, estimates[-1].pixels)


def test_an_encoding_gives_every_quality_from_the_same_latents(codec, pictures):
    """Whatever was asked before: a cached quality is not taken for another one."""
    picture = pictures["17x31"]
    encoding = codec.encoding(picture)
    for quality in (1024, 256, 2000, 256):
        assert encoding.file(quality) == codec.compress(picture, quality / 256)
        estimate = codec.estimate(picture, quality / 256)
        assert encoding.bits(quality) + encoding.correction_bits(quality) == estimate.bits
        assert np.array_equal(encoding.decoded(quality), estimate.pixels)
    assert encoding.pixel_count == 17 * 31


def test_psnr_is_that_of_the_decoded_picture(codec, pictures):
    picture = pictures["astronaut 100x130"]
    decoded = np.asarray(codec.decompress(codec.compress(picture, 4)))
    mse = np.mean((decoded.astype(float) - picture) ** 2)
    assert codec.encoding(picture).psnr_db(1024) == pytest.approx(10 * np.log10(255**2 / mse))


def test_padding_repeats_the_edges(codec):
    pixels = np.arange(2 * 65 * 3, dtype=np.uint16).reshape(2, 65, 3).astype(np.uint8)
    expected = np.pad(pixels, ((0, 62), (0, 63), (0, 0)), mode="edge")
    for window in (whole((CELL, 2 * CELL)), Window(0, 0, 2, 65), Window(16, 48, 64, 112)):
        padded = codec.transforms.padded(pixels, window)
        assert padded.shape == (1, 3, *window.shape)
        assert np.array_equal((padded[0] * 255).round().byte().permute(1, 2, 0).numpy(), expected[*window.slices])


def test_what_comes_with_a_picture_comes_back(codec, pictures):
    image = Image.fromarray(pictures["17x31"]).convert("RGBA")
    image.putalpha(Image.fromarray(pictures["17x31"][:, :, 0]))
    exif = Image.Exif()
    exif[0x010F] = "camera"
    image.info |= {"icc_profile": PROFILE, "exif": exif.tobytes()}
    decoded = codec.decompress(codec.compress(image))
    assert decoded.mode == "RGBA"
    assert np.array_equal(np.asarray(decoded)[:, :, 3], pictures["17x31"][:, :, 0])
    assert decoded.info["icc_profile"] == PROFILE and decoded.getexif()[0x010F] == "camera"
    stripped = codec.decompress(codec.compress(image, strip=True))
    assert stripped.mode == "RGBA" and not stripped.info
    assert np.array_equal(np.asarray(stripped), np.asarray(decoded))


# --- the same integers everywhere -----------------------------------------------------------------------------------


def golden(name):
    """A golden file's bytes, its integers, and some pixels of the picture that was made of it once."""
    stored = np.load(GOLDEN / f"{name}.npz")
    return (
        (GOLDEN / f"{name}.slim").read_bytes(),
        Symbols(*(stored[part] for part in Symbols._fields)),
        stored["pixels"],
    )


def golden_model(name):
    return SHIPPED if name == SHIPPED else CORRECTED_MODEL if name in CORRECTED_FILES else GOLDEN_MODEL


def load_in(memory_format, *arguments):
    """A codec whose weights have another layout in memory than usual."""
    codec = inference.load(*arguments)
    codec.network.to(memory_format=memory_format)
    return codec


@contextlib.contextmanager
def inexact_convolutions(error):
    """As with libraries whose algorithms compute with fractions: every result in float64 is off by up to `error`."""
    generator = torch.Generator().manual_seed(0)

    def inexact(x, *arguments, exact=F.conv2d, **keywords):
        out = exact(x, *arguments, **keywords)
        noise = 2 * torch.rand(out.shape, generator=generator, dtype=out.dtype) - 1
        return out + error * noise if out.dtype == torch.float64 else out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "conv2d", inexact)
        yield


@contextlib.contextmanager
def without_onednn():
    """PyTorch's other convolutions, which the codec does not take by itself."""
    with pytest.MonkeyPatch.context() as patch, torch.backends.mkldnn.flags(enabled=False):
        patch.setattr(isolation, "_settings", list)
        yield


SETTINGS = {
    "one thread": ("float32", lambda: threads(1)),
    "two threads": ("float32", lambda: threads(2)),
    "without oneDNN": ("float32", without_onednn),
    "inexact convolutions": ("float32", lambda: inexact_convolutions(0.49)),
    "bfloat16": ("bfloat16", contextlib.nullcontext),
    "bfloat16 without oneDNN": ("bfloat16", without_onednn),
}


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("name", [*GOLDEN_FILES, SHIPPED])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
def test_golden_files_decode_to_the_stored_integers_in_every_setting(name, setting, memory_format):
    """Read at once and part by part; at the same precision pixels are within one level of the stored ones."""
    data, expected, pixels = golden(name)
    precision, context = SETTINGS[setting]
    codec = load_in(memory_format, golden_model(name), "cpu", precision)
    with context():
        assert same(read(codec, data), expected)
        for window in (Window(0, 0, 1, 1), Window(1, 1, 3, 3), Window(2, 3, 3, 4), Window(0, 2, 3, 4)):
            z, planes = window.slices, window.finer(2).slices
            part = Symbols(expected.z[:, *z], expected.index[:, :, *planes], expected.r[:, :, *planes])
            assert same(read(codec, data, window), part)
        difference = np.abs(np.asarray(codec.decompress(data))[THINNED].astype(int) - pixels)
    if precision == "bfloat16":
        assert difference.max() <= 8 and difference.mean() < 1
    else:
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden_files_are_written_as_they_were(name):
    """The integers give the very same streams; the pictures and what comes with them are there."""
    codec = inference.load(golden_model(name))
    data, symbols, pixels = golden(name)
    contents = bitstream.unpack(data)
    header = contents.header
    corrected, filters = name in CORRECTED_FILES, name in FILTERED_FILES
    assert data[4] == (bitstream.FEATURED if filters else bitstream.CORRECTED if corrected else bitstream.VERSION)
    assert bool(contents.correction) == corrected and bool(contents.filtering) == filters
    assert (header.width, header.height, header.tile) == (230, 160, GOLDEN_FILES[name].get("tile", 0))
    assert codec.coder.write(symbols, header) == contents.streams
    assert np.array_equal(codec.coder.scale_index(symbols.z, header.quality, header.tile), symbols.index)
    if name.endswith("tiled"):
        assert len(contents.streams) == 4 and contents.chunk("icc") == PROFILE
        assert np.array_equal(
            np.frombuffer(contents.chunk("alpha"), np.uint8).reshape(160, 230)[THINNED], pixels[:, :, 3]
        )
    else:
        own = {"correction": contents.correction, "filtering": contents.filtering}
        assert bitstream.pack(header, contents.streams, **own) == data


@pytest.mark.parametrize("name", CORRECTED_FILES)
def test_golden_corrections_are_read_and_written_as_they_were(name):
    """The integers, and what they do to the weights."""
    codec, stored = inference.load(CORRECTED_MODEL), np.load(GOLDEN / f"{name}.npz")
    contents = bitstream.unpack((GOLDEN / f"{name}.slim").read_bytes())
    quality = contents.header.quality
    correction = codec.transforms.corrections.read(contents.correction, quality)
    assert correction.shift == stored["shift"] and np.array_equal(correction.q, stored["q"])
    assert codec.transforms.corrections.write(correction, quality) == contents.correction
    assert correction.shift > 9 and (correction.q != 0).sum() > 3
    head = codec.transforms.networks.with_head(codec.transforms.corrections.applied(correction)).head.conv
    np.testing.assert_allclose(head.weight.numpy(), stored["head_weight"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(head.bias.numpy(), stored["head_bias"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PLAIN_FILES)
def test_a_model_without_a_basis_writes_version_2_as_ever(name):
    """What older readers read: version 2, whose first stream begins with its states."""
    codec = inference.load(GOLDEN_MODEL)
    contents = bitstream.unpack((GOLDEN / f"{name}.slim").read_bytes())
    picture = np.asarray(codec.decompress((GOLDEN / f"{name}.slim").read_bytes()))
    assert codec.transforms.corrections is None and contents.correction == b""
    for again in (codec.compress(picture, **GOLDEN_FILES[name]), codec.compress(255 - picture, 2)):
        assert again[4] == 2 and bitstream.unpack(again).correction == b""


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden_files_are_not_trivial(name):
    codec = inference.load(golden_model(name))
    _, symbols, pixels = golden(name)
    assert codec.coder.r_tables.skip == GOLDEN_SKIP and codec.quantiser.offsets.unique().numel() > 8
    skipped = symbols.index < GOLDEN_SKIP
    assert 0.02 < skipped.mean() < 0.5 and not symbols.r[skipped].any()
    assert len(np.unique(symbols.z)) > 5 and len(np.unique(symbols.r)) > 10 and len(np.unique(symbols.index)) > 15
    assert len(np.unique(pixels[:, :, :3])) > 100


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("quality", [1, 5.2])
def test_files_decode_to_the_same_integers_and_pixels_in_every_setting(codec, model_directory, picture, quality):
    data = codec.compress(picture, quality)
    expected, pixels = read(codec, data), np.asarray(codec.decompress(data)).astype(int)
    other = load_in(torch.contiguous_format, model_directory)
    settings = (threads(1), codec), (threads(2), codec), (contextlib.nullcontext(), other), (without_onednn(), codec)
    for context, one in settings:
        with context:
            assert same(read(one, data), expected)
            # A level of one pixel may round the filter of another one.
            assert np.abs(np.asarray(one.decompress(data)) - pixels).max() <= 2


@pytest.mark.parametrize("quality", [1, 5.2])
def test_precision_changes_pixels_only(codec, model_directory, picture, quality):
    """A file made at either precision has the same integers at both; the encoder foresees the picture at its own."""
    rough = inference.load(model_directory, precision="bfloat16")
    for writer in (codec, rough):
        data = writer.compress(picture, quality)
        assert same(read(codec, data), read(rough, data))
        assert np.array_equal(np.asarray(writer.decompress(data)), writer.estimate(picture, quality).pixels)


def test_a_batch_has_the_indices_of_its_pictures(codec, pictures):
    """Four pictures at four qualities through the network at once, NCHW and channels-last."""
    names, qualities = ("chelsea 64x64", "noise 64x64", "1x1", "17x31"), (256, 777, 1500, 2048)
    files = [codec.compress(pictures[name], quality / 256) for name, quality in zip(names, qualities, strict=True)]
    z, expected, _ = (np.stack(parts) for parts in zip(*(read(codec, data) for data in files), strict=True))
    network = codec.network
    with torch.inference_mode():
        shift = network.gain_shift(torch.tensor(qualities))
        for memory_format in (torch.contiguous_format, torch.channels_last):
            batch = torch.from_numpy(z).contiguous(memory_format=memory_format)
            index = (network.scale_index(batch, shift) + 0.5).floor().clamp(0, SCALE_COUNT - 1)
            assert np.array_equal(index.int().numpy(), expected)


def write_golden() -> None:
    """Write tests/golden anew: a random tiny model, and two drawn pictures with their files and integers."""
    from slimcodec.training.prior import FactorizedPrior, export_tables

    torch.manual_seed(1)
    architecture = Architecture.from_dict(GOLDEN_ARCHITECTURE)
    tables = export_tables(FactorizedPrior(architecture.hypers, architecture.rungs))
    tables["r_offsets"] = (40 * torch.sin(torch.arange(SCALE_COUNT) / 4)).round().to(torch.int16)
    tables["r_skip"] = torch.tensor([GOLDEN_SKIP], dtype=torch.int32)
    models.save(GOLDEN_MODEL, lively(architecture, seed=1), tables, role="student")
    write_golden_files(GOLDEN_MODEL, PLAIN_FILES)
    write_golden_corrected()


def write_golden_corrected() -> None:
    """Write what of tests/golden is of version 3: the model that is there, with banks and corrections."""
    model = models.load(GOLDEN_MODEL)
    architecture = model.codec.architecture
    tables = model.tables | bank_tables(architecture) | correction_tables(architecture)
    models.copy_with_tables(GOLDEN_MODEL, CORRECTED_MODEL, tables)
    write_golden_files(CORRECTED_MODEL, CORRECTED_FILES)


def write_golden_files(model: Path, files: dict) -> None:
    """Two drawn pictures, the second with alpha and ICC."""
    codec = inference.load(model)
    row, column = np.mgrid[:160, :230]
    waves = [128 + 120 * np.sign(np.sin(row / a + column / b)) for a, b in ((5, 9), (17, -4), (-8, 30))]
    rgb = np.stack(waves, axis=2).astype(np.uint8)
    rgba = Image.fromarray(np.dstack([rgb, (row + column) % 256]).astype(np.uint8))
    rgba.info["icc_profile"] = PROFILE
    for (name, settings), picture in zip(files.items(), (rgb, rgba), strict=True):
        write_golden_file(name, codec, codec.compress(picture, **settings))


def write_golden_file(name: str, codec: inference.Codec, data: bytes) -> None:
    (GOLDEN / f"{name}.slim").write_bytes(data)
    pixels = np.asarray(codec.decompress(data))[THINNED]
    contents, more = bitstream.unpack(data), {}
    if contents.correction and contents.correction_map is None:
        correction = codec.transforms.corrections.read(contents.correction, contents.header.quality)
        head = codec.transforms.networks.with_head(codec.transforms.corrections.applied(correction)).head.conv
        more = correction._asdict() | {"head_weight": head.weight.numpy(), "head_bias": head.bias.numpy()}
    np.savez_compressed(GOLDEN / f"{name}.npz", pixels=pixels, **more, **read(codec, data)._asdict())


def write_golden_of_shipped() -> None:
    """Whenever the student that is shipped is replaced: a file of it, as they are in users' hands."""
    codec = inference.load(SHIPPED, backend="torch")
    write_golden_file(SHIPPED, codec, codec.compress(skimage.data.astronaut()[:192, 100:356], 4.5))


# --- pictures and settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "RGBA", "LA", "P", "CMYK", "YCbCr"])
def test_pil_pictures_of_8_bits_are_accepted(codec, pictures, mode):
    picture = Image.fromarray(pictures["chelsea 64x64"]).convert(mode)
    assert picture.mode == mode
    standard = {"1": "L", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}.get(mode, mode)
    data = codec.compress(picture, 3)
    assert data == codec.compress(picture.convert(standard), 3)
    assert codec.decompress(data).mode == standard


def test_arrays_are_pictures_too(codec, pictures):
    pixels = pictures["chelsea 64x64"]
    rgba = np.dstack([pixels, pixels[:, :, :1]])
    for array in (pixels, pixels[:, :, 0], rgba):
        assert codec.compress(array, 3) == codec.compress(Image.fromarray(array), 3)
    frozen = pixels[::-1, ::-1].copy()
    frozen.setflags(write=False)
    assert codec.compress(pixels[::-1, ::-1]) == codec.compress(frozen) == codec.compress(np.asfortranarray(frozen))


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
        [[1, 2, 3]],
        None,
        "picture.png",
        Image.new("RGB", (0, 4)),
        Image.new("F", (8, 8)),
    ],
    ids=lambda picture: f"{picture.mode} {picture.size}" if isinstance(picture, Image.Image) else str(picture),
)
def test_other_pictures_are_refused(codec, picture):
    for call in (codec.compress, codec.estimate, codec.encoding):
        with pytest.raises(InvalidInput, match="picture"):
            call(picture)


def test_a_truncated_picture_file_is_refused(codec, pictures, tmp_path):
    Image.fromarray(pictures["noise 64x64"]).save(tmp_path / "noise.png")
    data = (tmp_path / "noise.png").read_bytes()
    (tmp_path / "noise.png").write_bytes(data[: len(data) // 2])
    with Image.open(tmp_path / "noise.png") as picture, pytest.raises(InvalidInput, match=r"noise\.png: .*damaged"):
        codec.compress(picture)


@pytest.mark.parametrize("quality", [0, 0.99, 8.01, -1, 9, float("nan"), float("inf"), "4", 1j, True])
def test_a_quality_out_of_range_is_refused(codec, pictures, quality):
    for call in (codec.compress, codec.estimate):
        with pytest.raises(InvalidInput, match=r"quality .*must be a number from 1 to 8"):
            call(pictures["1x1"], quality)


def test_a_quality_may_be_any_real_number(codec, pictures):
    picture = pictures["1x1"]
    assert codec.compress(picture) == codec.compress(picture, 4) == codec.compress(picture, np.float32(4))


@pytest.mark.parametrize("name", ["effort", "tile"])
@pytest.mark.parametrize("value", [-1, 256, 0.5, "1", float("nan")])
def test_other_settings_out_of_range_are_refused(codec, pictures, name, value):
    with pytest.raises(InvalidInput, match=f"^{name} .*must be a whole number"):
        codec.compress(pictures["1x1"], **{name: value})


def test_progress_rises_to_1_and_changes_nothing(codec, pictures, monkeypatch):
    monkeypatch.setattr(transforms, "TRANSFORM_TILE", 1)
    monkeypatch.setattr(analysis, "PIECE", 3)
    picture, compressing, decompressing = pictures["astronaut 100x130"], [], []
    data = codec.compress(picture, progress=compressing.append)
    assert data == codec.compress(picture)
    codec.decompress(data, progress=decompressing.append)
    for shares in (compressing, decompressing):
        assert len(shares) > 4 and shares[0] > 0 and shares == sorted(shares) and shares[-1] == 1


def test_a_device_that_is_not_there_is_refused(model_directory):
    for device in ("no such device", "cuda:77"):
        with pytest.raises(InvalidInput, match=f"device {device}"):
            inference.load(model_directory, device)


@pytest.mark.parametrize("precision", ["float16", "", None])
def test_a_precision_that_is_not_there_is_refused(model_directory, precision):
    with pytest.raises(InvalidInput, match=r"precision .*float32, bfloat16"):
        inference.load(model_directory, precision=precision)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["g_a.head", "h_mean.0", "context.1.0", "context.3.3"])
def test_broken_weights_are_the_models_fault(model_directory, pictures, part, value):
    codec = inference.load(model_directory)
    codec.network.get_submodule(part).bias.data[0] = value
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
    (stream,) = bitstream.unpack(small_file).streams
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(stream)
        damaged[rng.integers(len(stream))] ^= int(rng.integers(1, 256))
        try:
            assert codec.decompress(repacked(small_file, streams=[bytes(damaged)])).size == (31, 17)
        except InvalidFile:
            refused += 1
    assert refused >= 55


@pytest.mark.parametrize("quality", [0, 255, 2049, 65535])
def test_a_quality_that_the_model_lacks_is_refused(codec, small_file, quality):
    with pytest.raises(InvalidFile, match="quality"):
        codec.decompress(repacked(small_file, quality=quality))


def test_a_declared_size_is_limited_by_max_pixels_only(codec, small_file):
    with pytest.raises(InvalidFile, match="max_pixels"):
        codec.decompress(repacked(small_file, width=65535, height=65535))
    with pytest.raises(InvalidFile, match="limit of 526"):
        codec.decompress(small_file, max_pixels=17 * 31 - 1)
    assert codec.decompress(small_file, max_pixels=17 * 31).size == (31, 17)


def test_a_large_flat_picture_in_few_bytes_is_decoded(codec):
    """However small a stream is, a picture of the size that it declares may be what it holds."""
    architecture = codec.network.architecture
    z = np.zeros((architecture.hypers, 8, 8), np.int8)
    index = codec.coder.scale_index(z, 256)
    symbols = Symbols(z, index, np.zeros((PLANES, architecture.latents, 16, 16), np.int16))
    header = bitstream.Header(codec.model_hash, 512, 512, 256)
    data = bitstream.pack(header, codec.coder.write(symbols, header))
    assert codec.decompress(data).size == (512, 512)


# --- files that end early -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student():
    """A trained model: only such a one makes a better picture of more bytes."""
    return inference.load(SHIPPED)


@pytest.fixture(scope="module")
def photo():
    import skimage.data

    return skimage.data.astronaut()[40:240, 120:420]


def psnr_db(one, other):
    return 10 * np.log10(255**2 / np.mean((np.asarray(one).astype(float) - other) ** 2))


@pytest.mark.parametrize("tile", [0, 2])
def test_a_partial_file_gives_a_picture_that_improves_with_its_length(student, photo, tile):
    data = student.compress(photo, 4, tile=tile)
    begin = len(data) - sum(map(len, bitstream.unpack(data).streams))
    quality = []
    for length in np.linspace(begin, len(data), 24).astype(int):
        if length < len(data):
            with pytest.raises(InvalidFile, match=r"truncated: .*allow_partial"):
                student.decompress(data[:length])
        decoded = student.decompress(data[:length], allow_partial=True)
        assert decoded.size == (300, 200) and decoded.mode == "RGB"
        quality.append(psnr_db(decoded, photo))
    assert quality[-1] == max(quality) > quality[0] + 10
    assert (np.diff(quality) > -0.5).all()
    assert np.array_equal(np.asarray(decoded), np.asarray(student.decompress(data)))


def test_a_partial_tiled_file_keeps_its_first_tiles(codec, pictures):
    """The integers of all complete tiles, and zeros for the others."""
    data = codec.compress(pictures["astronaut 100x130"], tile=1)
    streams = bitstream.unpack(data).streams
    assert len(streams) == 6
    expected = read(codec, data)
    cut = data[: len(data) - sum(map(len, streams[4:]))]
    found = codec.coder.read(bitstream.unpack(cut, allow_partial=True))
    for tile, cell in enumerate(whole((2, 3)).tiles(1)):
        rows, columns = cell.finer(2).slices
        if tile < 4:
            assert np.array_equal(found.z[:, *cell.slices], expected.z[:, *cell.slices])
            assert np.array_equal(found.r[:, :, rows, columns], expected.r[:, :, rows, columns])
        else:
            assert not found.z[:, *cell.slices].any() and not found.r[:, :, rows, columns].any()


def test_any_beginning_decodes_to_some_picture(codec, small_file):
    begin = len(small_file) - len(bitstream.unpack(small_file).streams[0])
    for length in range(len(small_file)):
        if length < begin:
            with pytest.raises(InvalidFile):
                codec.decompress(small_file[:length], allow_partial=True)
        else:
            assert codec.decompress(small_file[:length], allow_partial=True).size == (31, 17)


def test_a_region_of_a_partial_file_is_that_of_its_picture(student, photo):
    data = student.compress(photo, 4, tile=2)
    for length in (len(data) // 2, len(data) - 1):
        partial = np.asarray(student.decompress(data[:length], allow_partial=True)).astype(int)
        region = student.decompress(data[:length], allow_partial=True, region=(100, 60, 90, 80))
        assert np.abs(partial[60:140, 100:190] - np.asarray(region)).max() <= 1


def test_a_partial_file_may_be_damaged_without_more_than_a_refusal(codec, small_file):
    rng = np.random.default_rng(0)
    begin = len(small_file) - len(bitstream.unpack(small_file).streams[0])
    for _ in range(60):
        damaged = bytearray(small_file[: rng.integers(begin + 1, len(small_file))])
        damaged[rng.integers(begin, len(damaged))] ^= int(rng.integers(1, 256))
        with contextlib.suppress(InvalidFile):
            assert codec.decompress(bytes(damaged), allow_partial=True).size == (31, 17)


# --- corrections ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corrected(codec, pictures):
    """A file with a correction, tiled, and what it holds."""
    data = codec.compress(pictures["astronaut 100x130"], 3, tile=1)
    return data, bitstream.unpack(data)


def uncorrected(contents):
    return bitstream.pack(contents.header, contents.streams)


def test_files_of_pictures_are_corrected_and_tiny_ones_are_not(codec, pictures):
    """So that what the other tests say about files, they say about those with a correction."""
    versions = {name: codec.compress(pictures[name], 4)[4] for name in PICTURES}
    assert versions == dict.fromkeys(PICTURES, bitstream.FEATURED) | {"1x1": 2, "1x300": 2}
    described = Image.fromarray(pictures["chelsea 64x64"]).convert("LA")
    described.info["icc_profile"] = PROFILE
    assert (
        codec.compress(described, 4)[4]
        == codec.compress(pictures["chelsea 64x64"], 4, effort=1)[4]
        == bitstream.FEATURED
    )


@pytest.mark.parametrize("name", ["astronaut 100x130", "chelsea 64x64", "flat 70x50", "17x31"])
@pytest.mark.parametrize("quality", QUALITIES)
def test_a_correction_makes_the_picture_better(codec, pictures, name, quality):
    data = codec.compress(pictures[name], quality)
    contents = bitstream.unpack(data)
    plain, filtering = uncorrected(contents), contents.filtering
    features = 1 if filtering else 0
    assert len(data) - len(plain) == features + 1 + len(contents.correction) + len(filtering) + features < 25
    better, before = (psnr_db(codec.decompress(file), pictures[name]) for file in (data, plain))
    assert better > before + 0.2


def test_a_correction_is_of_the_whole_picture_whatever_its_tiles(codec, pictures):
    """The integers are those of the picture in tiles: their first stream has it, and the others know it from there."""
    picture = pictures["astronaut 100x130"]
    found = [bitstream.unpack(codec.compress(picture, 3, tile=tile)).correction for tile in (0, 1, 2)]
    assert all(found)
    for tile in (0, 1, 2):
        data = codec.compress(picture, 3, tile=tile)
        pixels = np.asarray(codec.decompress(data)).astype(int)
        for x, y, width, height in ((0, 0, 130, 100), (100, 70, 30, 30), (64, 64, 1, 1)):
            region = np.asarray(codec.decompress(data, region=(x, y, width, height))).astype(int)
            assert np.abs(region - pixels[y : y + height, x : x + width]).max() <= 1


def test_a_model_without_a_basis_refuses_a_corrected_file_in_one_line(codec, corrected):
    """As it could be of a model directory whose tables were taken out: the hash is the same here."""
    data, contents = corrected
    tables = {name: table for name, table in codec.model.tables.items() if not name.startswith("head_")}
    other = inference.Codec(codec.model._replace(tables=tables))
    with pytest.raises(
        InvalidFile, match=r"^the file corrects its model, but this model knows no corrections"
    ) as found:
        other.decompress(data)
    assert "\n" not in str(found.value)
    assert np.array_equal(other.decompress(uncorrected(contents)), codec.decompress(uncorrected(contents)))


def test_the_beginning_of_a_corrected_file_has_its_correction(codec, pictures, corrected):
    """It is at the front, so that every partial picture is the better for it."""
    data, contents = corrected
    plain, picture = uncorrected(contents), pictures["astronaut 100x130"]
    front = len(data) - sum(map(len, contents.streams))
    before = front - 1 - len(contents.filtering)
    for length in range(before - len(contents.correction) - 1, front):
        what = "correction does" if length < before else "filter's coefficients do"
        with pytest.raises(InvalidFile, match=f"it ends before its {what}"):
            codec.decompress(data[:length], allow_partial=True)
    for share in (0.25, 0.5, 0.75, 1):
        there = int(share * (len(data) - front))
        with_it = codec.decompress(data[: front + there], allow_partial=True)
        without = codec.decompress(plain[: len(plain) - (len(data) - front) + there], allow_partial=True)
        assert psnr_db(with_it, picture) > psnr_db(without, picture) + 0.1


def test_damage_in_a_correction_ends_in_a_picture_or_a_refusal(codec, corrected):
    _, contents = corrected
    size, refused = len(contents.correction), 0
    damages = [bytes([*contents.correction[:at], contents.correction[at] ^ 1 << bit, *contents.correction[at + 1 :]])
               for at in range(size) for bit in range(8)]  # fmt: skip
    damages += [contents.correction[:length] for length in range(1, size)] + [
        contents.correction + b"\1",
        b"\xff" * 255,
    ]
    for damaged in damages:
        try:
            data = bitstream.pack(contents.header, contents.streams, damaged)
            assert codec.decompress(data).size == (130, 100)
        except InvalidFile as error:
            assert str(error).startswith("the file's correction is damaged") and "\n" not in str(error)
            refused += 1
    assert 0 < refused < len(damages)


def test_the_largest_correction_that_can_be_written_gives_a_picture(codec, corrected):
    """Whatever it does to the weights, pixels stay between 0 and 255."""
    _, contents = corrected
    for extreme in (-32768, 32767):
        correction = Correction(0, np.full(5, extreme, np.int16))
        written = codec.transforms.corrections.write(correction, contents.header.quality)
        picture = codec.decompress(bitstream.pack(contents.header, contents.streams, written))
        assert {0, 255} <= set(np.unique(picture).tolist())


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
    writers = {"shipped": write_golden_of_shipped, "corrected": write_golden_corrected, "": write_golden}
    writers["".join(sys.argv[1:])]()
