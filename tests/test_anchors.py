"""The other codecs on a small crop of scikit-image's astronaut, ffmpeg as a process, and the published curves."""

import io
import math
import os
import pickle
import stat
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from slimcodec import InvalidInput
from slimcodec.evaluation import anchors, ffmpeg
from slimcodec.evaluation.anchors import NAMES, codec
from slimcodec.evaluation.curves import bd_rate
from slimcodec.evaluation.metrics import psnr_db
from slimcodec.evaluation.published import quoted, quoted_names

IN_FFMPEG = ("jxl", "hevc", "vvc")


@pytest.fixture(scope="module")
def picture():
    """96x80, a face: edges, skin and hair."""
    from skimage.data import astronaut

    return Image.fromarray(astronaut()[20:100, 180:276])


def db(picture, decoded):
    return psnr_db(np.asarray(picture), np.asarray(decoded))


@pytest.fixture
def no_program(monkeypatch):
    """imageio-ffmpeg is not installed, as far as this process sees."""
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    caches = (ffmpeg.executable, ffmpeg.version, ffmpeg.encoder_version, ffmpeg._names)
    for function in caches:
        function.cache_clear()
    yield
    for function in caches:
        function.cache_clear()


def a_program(folder, monkeypatch, *lines):
    """A shell script in place of ffmpeg."""
    path = folder / "ffmpeg"
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(ffmpeg, "executable", lambda: str(path))


# --------------------------------------------------------------------------------------------------------- anchors


@pytest.mark.parametrize("name", NAMES)
def test_rate_and_psnr_rise_along_the_ladder(name, picture):
    anchor = pickle.loads(pickle.dumps(codec(name)))
    assert anchor == codec(name) and anchor.unavailable() is None and anchor.kind == "anchor"
    assert 6 <= len(anchor.qualities) <= 11
    files = [anchor.compress(picture, quality) for quality in anchor.qualities[1::4][:2]]
    decoded = [anchor.decompress(data) for data in files]
    assert all((image.mode, image.size) == ("RGB", picture.size) for image in decoded)
    assert len(files[1]) > 1.3 * len(files[0])
    assert db(picture, decoded[1]) > db(picture, decoded[0]) + 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (17, 31), (33, 2)])
def test_any_size_comes_back(name, size, picture):
    small = picture.resize(size)
    anchor = codec(name)
    decoded = anchor.decompress(anchor.compress(small, anchor.qualities[-2]))
    assert decoded.size == size
    if name != "jpeg2000":  # at a rate of bits per pixel a tiny picture gets little more than its header
        assert db(small, decoded) > 20


@pytest.mark.parametrize("name", NAMES)
def test_a_codec_gives_the_same_bytes_again_and_leaves_the_picture_alone(name, picture):
    anchor, before = codec(name), picture.copy()
    assert anchor.compress(picture, anchor.qualities[3]) == anchor.compress(picture, anchor.qualities[3])
    assert picture == before


@pytest.mark.parametrize("name", NAMES)
def test_only_pixels_are_written(name, picture):
    described = picture.copy()
    described.info = {"icc_profile": bytes(5000), "comment": b"holiday" * 100, "exif": b"Exif\0\0" + bytes(500)}
    anchor = codec(name)
    assert anchor.compress(described, anchor.qualities[2]) == anchor.compress(picture, anchor.qualities[2])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("jpeg", ("libjpeg-turbo", "libjpeg_turbo", "4:2:0")),
        ("webp", ("libwebp", "webp", "4:2:0")),
        ("jpeg2000", ("OpenJPEG", "jpg_2000", "9/7")),
        ("avif", ("libavif", "avif", "4:4:4 8 bit", "speed 4", "tune psnr")),
    ],
)
def test_settings_name_the_library_and_what_it_was_told(name, parts):
    library, feature, *rest = parts
    assert f"{library} {features.version(feature)}" in codec(name).settings
    assert all(part in codec(name).settings for part in rest)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("jxl", ("libjxl", "-effort 8")),
        ("hevc", ("libx265 ", "4:4:4 10 bit", "BT.709", "-tune psnr", "-preset placebo")),
        ("vvc", ("libvvenc ", "4:2:0 10 bit", "BT.709", "-qpa 0", "-preset medium")),
    ],
)
def test_settings_name_ffmpeg_and_its_encoder(name, parts):
    assert f"ffmpeg {ffmpeg.version()}, " in codec(name).settings
    assert all(part in codec(name).settings for part in parts)
    if name != "jxl":
        assert any(character.isdigit() for character in ffmpeg.encoder_version(codec(name).encoder))


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_jpeg_and_webp_are_written_as_compressai_writes_them(name, picture):
    """Its published curves are of `save(format=..., quality=...)` and nothing else."""
    for quality in (5, 50, 95):
        plain = io.BytesIO()
        picture.save(plain, format=name, quality=quality)
        assert codec(name).compress(picture, quality) == plain.getvalue()


def test_jpegs_are_420_and_one_has_its_own_huffman_tables(picture):
    luma_is_sampled_twice = b"\x11\x08\x00\x50\x00\x60\x03\x01\x22\x00"  # 8 bits, 80x96, 3 components
    standard_tables_start = b"\xff\xc4\x00\x1f\x00\x00\x01\x05\x01\x01"
    plain, optimised = (codec(name).compress(picture, 50) for name in ("jpeg", "jpeg-optimised"))
    assert luma_is_sampled_twice in plain and luma_is_sampled_twice in optimised
    assert standard_tables_start in plain and standard_tables_start not in optimised
    assert codec("jpeg").decompress(plain).tobytes() == codec("jpeg").decompress(optimised).tobytes()


def test_jpeg2000_keeps_to_its_rate(picture):
    for bpp in (0.8, 1.6, 2.4):
        assert 0.9 < 8 * len(codec("jpeg2000").compress(picture, bpp)) / (96 * 80) / bpp < 1.02


def test_a_video_frame_ends_with_the_padding_it_needed(picture):
    for name, size, padding in (("hevc", (33, 40), (0, 0)), ("vvc", (33, 41), (1, 1)), ("vvc", (17, 40), (15, 0))):
        assert tuple(codec(name).compress(picture.resize(size), 30)[-2:]) == padding
    assert b"x265" not in codec("hevc").compress(picture, 30)  # no advertisement in the bytes that are counted


@pytest.mark.parametrize("halved", [False, True])
def test_ycbcr_is_bt709_and_reversible(halved, picture):
    white, grey, red = (Image.new("RGB", (2, 2), colour) for colour in ("white", (128, 128, 128), "red"))
    for image, expected in ((white, (1023, 512, 512)), (grey, (514, 512, 512)), (red, (217, 395, 1023))):
        samples = np.frombuffer(anchors._frame(np.asarray(image), halved), "<u2")
        chroma = 1 if halved else 4
        assert (samples[0], samples[4], samples[4 + chroma]) == expected
    pixels = np.asarray(picture)
    back = anchors._pixels(anchors._frame(pixels, halved), 96, 80, halved)
    if halved:
        assert psnr_db(pixels, back) > 35
    else:
        assert np.abs(pixels.astype(int) - back).max() <= 1 and psnr_db(pixels, back) > 60


@pytest.mark.parametrize(
    ("name", "quality", "message"),
    [
        ("jpeg", 7.5, r"jpeg: quality is a whole number from 1 to 100, not 7\.5"),
        ("webp", 0, "from 1 to 100, not 0"),
        ("hevc", 52, "hevc: QP is a whole number from 0 to 51, not 52"),
        ("jxl", 15.5, "Butteraugli distance is a number from 0.05 to 15"),
        ("jpeg2000", 0, "bits per pixel"),
        ("avif", math.nan, "not nan"),
    ],
)
def test_a_quality_off_the_scale_is_refused(name, quality, message, picture):
    with pytest.raises(InvalidInput, match=message):
        codec(name).compress(picture, quality)


def test_what_cannot_be_used_is_refused_in_one_line(picture):
    with pytest.raises(InvalidInput, match="'gif' is not an anchor; choose from jpeg, jpeg-optimised, webp, jpeg2000"):
        codec("gif")
    with pytest.raises(InvalidInput, match="8-bit RGB, not L"):
        codec("jpeg").compress(picture.convert("L"), 50)
    with pytest.raises(InvalidInput, match=r"webp: cannot compress 16384x1 at 50: .*16383"):
        codec("webp").compress(Image.new("RGB", (16384, 1)), 50)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name != "jxl"]
)  # a cut-off JPEG XL waits for the time limit
def test_damaged_bytes_are_refused_in_one_line(name):
    for data in (b"", b"hello" * 50):
        with pytest.raises(InvalidInput, match=f"{name}: cannot decompress {len(data)} bytes: ") as refused:
            codec(name).decompress(data)
        assert "\n" not in str(refused.value) and "0x" not in str(refused.value)


def test_padding_larger_than_the_frame_is_refused(picture):
    with pytest.raises(InvalidInput, match="255 and 3 samples of padding in a frame of 96x80"):
        codec("hevc").decompress(codec("hevc").compress(picture, 40)[:-2] + bytes((255, 3)))


# ---------------------------------------------------------------------------------------------------------- ffmpeg


def test_a_missing_ffmpeg_is_the_reason(no_program, picture):
    for name in IN_FFMPEG:
        assert codec(name).unavailable() == "imageio-ffmpeg is not installed; pip install 'slimcodec[eval]'"
        assert "not available" in codec(name).settings
        with pytest.raises(InvalidInput, match=f"{name}: cannot compress 96x80 at 7: imageio-ffmpeg is not installed"):
            codec(name).compress(picture, 7)
    assert codec("jpeg").unavailable() is None


def test_a_missing_encoder_or_filter_is_the_reason():
    assert ffmpeg.has(encoder="libx265", decoder="vvc", filter="libvmaf")
    assert not ffmpeg.has(encoder="libx265", filter="nonesuch")
    assert ffmpeg.unavailable(filter="libvmaf") is None
    assert "has no filter nonesuch; pip install" in ffmpeg.unavailable(filter="nonesuch")
    assert "has no encoder nonesuch; pip install" in ffmpeg.unavailable(encoder="nonesuch")


def test_a_format_that_pillow_lacks_is_the_reason(monkeypatch, picture):
    monkeypatch.setattr(features, "check", lambda feature: False)
    assert "was built without libavif; pip install 'pillow>=11.3'" in codec("avif").unavailable()
    with pytest.raises(InvalidInput, match=r"avif: cannot compress 96x80 at 50: .*without libavif"):
        codec("avif").compress(picture, 50)


def test_a_timeout_is_one_line_and_ends_the_process(tmp_path, monkeypatch):
    a_program(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid", "exec sleep 60")
    with pytest.raises(InvalidInput, match=r"^ffmpeg took longer than 0\.5 seconds and was stopped$"):
        ffmpeg.run([], seconds=0.5)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["echo '[libx265 @ 0x55c9] Image size is too small.' >&2", "echo 'Conversion failed!' >&2"],
            "Image size is too",
        ),
        (["kill -9 $$"], "ended by signal 9"),
        (["exit 3"], "exit code 3"),
        (["echo 'Conversion failed!' >&2", "exit 1"], "Conversion failed!"),
    ],
)
def test_a_failure_is_the_last_line_that_means_something(tmp_path, monkeypatch, lines, message):
    a_program(tmp_path, monkeypatch, *lines, "exit 1")
    with pytest.raises(InvalidInput, match=f"^ffmpeg failed: {message}[^\n]*$"):
        ffmpeg.run([])


def test_a_program_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(ffmpeg, "executable", lambda: str(tmp_path / "nothing"))
    with pytest.raises(InvalidInput, match=r"cannot start .*nothing: No such file or directory; pip install"):
        ffmpeg.run([])


def test_ffmpeg_names_what_it_does_not_know():
    with pytest.raises(InvalidInput, match=r"^ffmpeg failed: Unknown input format: 'nonesuch'$"):
        ffmpeg.run(["-f", "nonesuch", "-i", "x", "-"])


def test_no_file_is_written(tmp_path, monkeypatch, picture):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        anchor = codec(name)
        anchor.decompress(anchor.compress(picture, anchor.qualities[0]))
    assert list(Path(tmp_path).iterdir()) == []


# --------------------------------------------------------------------------------------------------------- quoted


def test_every_published_curve_rises_and_names_its_source():
    assert len(quoted_names()) > 40
    for entry in map(quoted, quoted_names()):
        assert entry.source
        assert entry.points == tuple(sorted(entry.points)), entry.name
        assert len(entry.points) >= 4, entry.name
        assert bd_rate(entry, entry).monotonic, entry.name
    assert quoted("cool-chic-v5.0").decoder_kmacs_per_pixel == 2.0
    assert quoted("compressai:vtm").decoder_kmacs_per_pixel is None
    with pytest.raises(InvalidInput, match="compressai:vtm"):
        quoted("vtm")
