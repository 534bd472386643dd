"""The plugin: Pillow opens and saves .slim files like any others."""

import copy
import importlib
import io
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, UnidentifiedImageError

import slimcodec.pillow
from slimcodec import InvalidFile, InvalidInput, SlimcodecError
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
    decompress = slimcodec.pillow.decompress
    monkeypatch.setattr(slimcodec.pillow, "decompress", lambda *_, **__: pytest.fail("decoded"))
    with Image.open(slim) as picture:
        assert (picture.format, picture.size, picture.mode) == ("SLIM", (130, 100), "RGB")
        assert picture.get_format_mimetype() == Image.MIME["SLIM"] == "image/x-slim"
        assert picture.info["icc_profile"] == PROFILE
        monkeypatch.setattr(slimcodec.pillow, "decompress", decompress)
        picture.load()
    assert np.array_equal(np.asarray(picture), np.asarray(codec.decompress(slim.read_bytes())))
    assert picture.format == "SLIM" and picture.rotate(90, expand=True).size == (100, 130)


@pytest.mark.parametrize("opened", [Path, lambda path: io.BytesIO(path.read_bytes())], ids=["path", "bytes"])
def test_threads_may_share_an_image_that_is_not_loaded_yet(slim, codec, opened, monkeypatch):
    """Whichever comes first decodes, once; the others get its pixels."""
    decode, calls = slimcodec.pillow.decompress, []
    counted = lambda *given, **more: calls.append(1) or decode(*given, **more)  # noqa: E731
    monkeypatch.setattr(slimcodec.pillow, "decompress", counted)
    expected = codec.decompress(slim.read_bytes())
    uses = (
        lambda image: np.array_equal(image, expected),
        lambda image: image.getpixel((5, 7)) == expected.getpixel((5, 7)),
        lambda image: image.load()[9, 9] == expected.getpixel((9, 9)),
        lambda image: image.convert("L").tobytes() == expected.convert("L").tobytes(),
        lambda image: image.crop((3, 4, 50, 60)).tobytes() == expected.crop((3, 4, 50, 60)).tobytes(),
        lambda image: image.resize((20, 20)).tobytes() == expected.resize((20, 20)).tobytes(),
        lambda image: pickle.loads(pickle.dumps(image)).tobytes() == expected.tobytes(),
        lambda image: copy.deepcopy(image).tobytes() == expected.tobytes(),
    )
    with ThreadPoolExecutor(len(uses)) as pool:
        for _ in range(25):
            image = Image.open(opened(slim))
            together = threading.Barrier(len(uses))
            found = pool.map(lambda use, at=together, image=image: at.wait() >= 0 and use(image), uses)
            assert all(found)
    assert len(calls) == 25


def test_threads_that_share_a_damaged_image_all_hear_of_it(slim):
    slim.write_bytes(slim.read_bytes()[:-5])
    image = Image.open(slim)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(image.load).exception() for _ in range(8)]
    assert {type(error) for error in found} == {InvalidFile}


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


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"quality": 80}, "quality 80: must be a number from 1 to 8; JPEG's 0 to 100 is another scale"),
        ({"quality": "keep"}, "quality 'keep': must be a number from 1 to 8"),
        ({"effort": 99}, "effort"),
        ({"max_bytes": 1}, "max_bytes"),
        ({"model": "nobody"}, "nobody"),
    ],
)
def test_a_file_outlives_a_wrong_setting(slim, photo, wrong, named):
    before = slim.read_bytes()
    for target in (slim, str(slim), os.fsencode(slim)):
        with pytest.raises(SlimcodecError, match=named):
            photo.save(target, **wrong)
        assert slim.read_bytes() == before
    assert sorted(path.name for path in slim.parent.iterdir()) == ["photo.slim", "students"]
    photo.save(slim, quality=2)
    assert slim.read_bytes() != before


def test_a_file_outlives_a_full_disk(slim, photo, file_size_limit):
    before = slim.read_bytes()
    with file_size_limit(100), pytest.raises(OSError, match="too large") as caught:
        photo.save(slim)
    assert slim.read_bytes() == before and caught.value.filename == str(slim)


def test_a_file_is_saved_over_itself(slim, codec):
    slim.chmod(0o600)
    decoded = codec.decompress(slim.read_bytes())
    Image.open(slim).save(slim, quality=3)
    assert slim.read_bytes() == codec.compress(decoded, 3) and slim.stat().st_mode & 0o777 == 0o600


def test_the_format_may_be_said_and_other_formats_are_as_ever(tmp_path, photo, codec, monkeypatch):
    photo.save(tmp_path / "photo", "slim")
    photo.save(tmp_path / "photo.SLIM")
    assert (tmp_path / "photo").read_bytes() == (tmp_path / "photo.SLIM").read_bytes() == codec.compress(photo)
    monkeypatch.setattr(slimcodec.pillow, "writing", lambda _: pytest.fail("not ours"))
    photo.save(tmp_path / "photo.png")
    photo.save(tmp_path / "photo.slim", "PNG")
    assert Image.open(tmp_path / "photo.slim").format == "PNG"
    with pytest.raises(ValueError, match="unknown file extension"):
        photo.save(tmp_path / "photo.xyz")


def test_importing_anew_wraps_only_once():
    before = Image.Image.save
    importlib.reload(slimcodec.pillow)
    assert Image.Image.save is before


def test_a_loop_that_skips_what_cannot_be_read_goes_on(slim, tmp_path):
    (tmp_path / "text.slim").write_text("not a picture")
    slim.write_bytes(slim.read_bytes()[:-5])
    skipped = []
    for path in (tmp_path / "missing.slim", tmp_path / "text.slim", slim):
        try:
            Image.open(path).load()
        except OSError:
            skipped.append(path)
    assert len(skipped) == 3


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
    monkeypatch.setattr(slimcodec.pillow, "decompress", lambda data, *, max_pixels, **_: limits.append(max_pixels))
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
