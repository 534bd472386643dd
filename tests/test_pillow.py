"""The plugin: Pillow opens and saves .slim files like any others."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFile, UnidentifiedImageError

import slimcodec.pillow
from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec import models, zoo

PROFILE = b"\0" * 16 + b"RGB " + b"\0" * 108


@pytest.fixture(autouse=True)
def installed(tmp_path, model_directory, monkeypatch):
    """The only student there is."""
    models.copy(model_directory, tmp_path / "students/mine")
    monkeypatch.setattr(zoo, "zoos", lambda: [tmp_path / "students"])


@pytest.fixture
def photo(pictures):
    picture = Image.fromarray(pictures["astronaut 100x130"])
    picture.info["icc_profile"] = PROFILE
    return picture


@pytest.fixture
def slim(tmp_path, photo, codec):
    path = tmp_path / "photo.slim"
    path.write_bytes(codec.compress(photo))
    return path


def test_opening_reads_the_header_and_loading_decodes(slim, codec, monkeypatch):
    decode = slimcodec.pillow.decode
    monkeypatch.setattr(slimcodec.pillow, "decode", lambda *_, **__: pytest.fail("decoded"))
    with Image.open(slim) as picture:
        assert (picture.format, picture.size, picture.mode) == ("SLIM", (130, 100), "RGB")
        assert picture.get_format_mimetype() == Image.MIME["SLIM"] == "image/x-slim"
        assert picture.info["icc_profile"] == PROFILE
        monkeypatch.setattr(slimcodec.pillow, "decode", decode)
        picture.load()
    assert np.array_equal(np.asarray(picture), np.asarray(codec.decompress(slim.read_bytes())))
    assert picture.format == "SLIM" and picture.rotate(90, expand=True).size == (100, 130)


def test_opening_reads_as_much_as_it_takes(codec, monkeypatch):
    noise = np.random.default_rng(1).integers(0, 256, (300, 300, 4), dtype=np.uint8)
    with Image.open(io.BytesIO(codec.compress(noise))) as picture:  # alpha alone is larger than what is read at first
        assert picture.mode == "RGBA"
        assert np.array_equal(np.asarray(picture)[:, :, 3], noise[:, :, 3])
    data = codec.compress(noise[:, :, :3])
    monkeypatch.setattr(slimcodec.pillow, "HEAD_BYTES", 100)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.fp.tell() < len(data)


def test_saving_is_compressing(tmp_path, photo, codec):
    photo.save(tmp_path / "a.slim", quality=5)
    assert (tmp_path / "a.slim").read_bytes() == codec.compress(photo, 5)
    file = io.BytesIO()
    photo.save(file, "SLIM", strip=True, model=codec)
    assert file.getvalue() == codec.compress(photo, strip=True)
    assert np.array_equal(np.asarray(Image.open(file)), np.asarray(codec.decompress(file.getvalue())))
    with pytest.raises(InvalidInput, match="quality 90"):
        photo.save(tmp_path / "b.slim", quality=90)
    assert not (tmp_path / "b.slim").exists()


def test_a_profile_and_exif_may_be_given_as_everywhere_in_pillow(photo):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x010F] = "camera"
    photo.save(file, "SLIM", exif=exif, icc_profile=None)
    with Image.open(file) as picture:
        assert picture.getexif()[0x010F] == "camera" and "icc_profile" not in picture.info
    assert photo.info == {"icc_profile": PROFILE}


def test_other_files_still_open(tmp_path, photo):
    photo.save(tmp_path / "photo.png")
    assert Image.open(tmp_path / "photo.png").format == "PNG"


def test_a_wrong_header_is_no_picture(tmp_path, slim):
    data = slim.read_bytes()
    for wrong in (data[:10], data[:4] + b"\x63" + data[5:], b"SLIN" + data[4:], data[:14] + b"\0\0" + data[16:]):
        slim.write_bytes(wrong)
        with pytest.raises(UnidentifiedImageError):
            Image.open(slim)


def test_a_damaged_or_truncated_file_is_found_when_it_is_loaded(slim, monkeypatch):
    data = slim.read_bytes()
    for wrong, named in ((data[:-1] + bytes([data[-1] ^ 1]), "checksum"), (data[:-5], "truncated")):
        slim.write_bytes(wrong)
        with Image.open(slim) as picture, pytest.raises(InvalidFile, match=named):
            picture.load()
        with Image.open(slim) as picture, pytest.raises(InvalidFile, match=named):
            picture.verify()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    Image.open(slim).load()


def test_loading_follows_pillows_limit(slim, monkeypatch):
    picture = Image.open(slim)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6499)
    with pytest.raises(InvalidFile, match="more than the limit of 12,998"):
        picture.load()
    with pytest.raises(Image.DecompressionBombError):
        Image.open(slim)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6500)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(slim).load()
    limits = []
    monkeypatch.setattr(slimcodec.pillow, "decode", lambda data, *, max_pixels, **_: limits.append(max_pixels))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(AttributeError):  # of the None that stands for a picture
        Image.open(slim).load()
    assert limits == [65535**2]


def test_xmp_is_kept(photo, codec):
    photo.info["xmp"] = b"<x:xmpmeta/>"
    file = io.BytesIO()
    photo.save(file, "SLIM")
    assert Image.open(file).info["xmp"] == b"<x:xmpmeta/>"
    photo.save(file := io.BytesIO(), "SLIM", xmp=b"<other/>")
    assert Image.open(file).info["xmp"] == b"<other/>" and photo.info["xmp"] == b"<x:xmpmeta/>"
    photo.save(file := io.BytesIO(), "SLIM", strip=True)
    assert "xmp" not in Image.open(file).info


def test_nothing_heavy_is_imported_before_it_is_needed(slim):
    script = (
        "import sys, slimcodec.pillow; from PIL import Image; Image.open(sys.argv[1])\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, slim], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
