"""Pictures to files and back: the same bytes as the codec's, the right model, whole files or none."""

import contextlib
import io
import os
import pickle
import threading

import numpy as np
import pytest
from PIL import Image

import slimcodec
from slimcodec import InvalidFile, InvalidInput, InvalidModel, compress_file, decompress_file
from slimcodec.codec import files, models, zoo


@pytest.fixture
def photo(tmp_path, pictures):
    """A photo as a camera leaves it: with a profile and EXIF."""
    exif = Image.Exif()
    exif[0x010F] = "camera"
    path = tmp_path / "photo.png"
    profile = b"\0" * 16 + b"RGB " + b"\0" * 108
    Image.fromarray(pictures["astronaut 100x130"]).save(path, exif=exif, icc_profile=profile)
    return path


@pytest.fixture
def slim(tmp_path, photo, codec):
    path = tmp_path / "photo.slim"
    path.write_bytes(codec.compress(Image.open(photo)))
    return path


@pytest.fixture
def installed(tmp_path, model_directory, monkeypatch):
    """The only student there is."""
    models.copy(model_directory, tmp_path / "students/mine")
    monkeypatch.setattr(zoo, "zoos", lambda: [tmp_path / "students"])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_hold_what_the_codec_makes(tmp_path, photo, codec):
    done = compress_file(photo, tmp_path / "out.slim", model=codec, quality=5.5)
    data = (tmp_path / "out.slim").read_bytes()
    assert data == codec.compress(Image.open(photo), 5.5)
    assert done[:4] == (len(data), 130, 100, 5.5) and done.bpp == 8 * len(data) / 13000
    assert done.seconds > 0 and done.psnr_db is None
    assert decompress_file(tmp_path / "out.slim", tmp_path / "out.png", model=codec)[:3] == (130, 100, "RGB")
    decoded = Image.open(tmp_path / "out.png")
    assert np.array_equal(np.asarray(decoded), np.asarray(codec.decompress(data)))
    for key in ("icc_profile", "exif"):
        assert decoded.info[key] == Image.open(photo).info[key]
    assert names(tmp_path) == ["out.png", "out.slim", "photo.png"]


def test_open_files_are_read_and_written(photo, codec):
    packed, unpacked = io.BytesIO(), io.BytesIO()
    compress_file(io.BytesIO(photo.read_bytes()), packed, model=codec)
    assert packed.getvalue() == codec.compress(Image.open(photo))
    decompress_file(io.BytesIO(packed.getvalue()), unpacked, model=codec)
    assert Image.open(unpacked).format == "PNG"
    decompress_file(io.BytesIO(packed.getvalue()), unpacked, model=codec, format="webp")


def test_the_model_is_the_only_student_or_the_one_in_the_file(tmp_path, photo, installed, codec):
    compress_file(photo, tmp_path / "a.slim")
    assert (tmp_path / "a.slim").read_bytes() == codec.compress(Image.open(photo))
    decompress_file(tmp_path / "a.slim", tmp_path / "a.png")
    assert files._codec(None, "cpu", zoo.default_student) is files._codec("mine", "cpu", zoo.default_student)


def test_a_model_that_is_not_there(tmp_path, slim, photo, monkeypatch):
    monkeypatch.setattr(zoo, "zoos", lambda: [])
    with pytest.raises(InvalidFile, match=rf"^{slim}: made with model [0-9a-f]{{16}}, which is not installed"):
        decompress_file(slim, tmp_path / "a.png")
    with pytest.raises(InvalidInput, match=r"^name a model"):
        compress_file(photo, tmp_path / "a.slim")
    with pytest.raises(InvalidModel, match=r"^nobody: "):
        compress_file(photo, tmp_path / "a.slim", model="nobody")
    assert names(tmp_path) == ["photo.png", "photo.slim"]


def test_a_region_is_passed_on(tmp_path, slim, codec):
    assert decompress_file(slim, tmp_path / "a.png", model=codec, region=(8, 16, 24, 32))[:2] == (24, 32)


@pytest.mark.parametrize("suffix, format", [(".jpg", "JPEG"), (".webp", "WEBP"), (".tif", "TIFF"), (".AVIF", "AVIF")])
def test_the_suffix_is_the_format_and_keeps_what_comes_with_the_picture(tmp_path, slim, codec, suffix, format):
    target = tmp_path / f"out{suffix}"
    decompress_file(slim, target, model=codec)
    picture = Image.open(target)
    assert picture.format == format and picture.getexif()[0x010F] == "camera"
    assert len(picture.info["icc_profile"]) == 128
    expected = np.asarray(codec.decompress(slim.read_bytes())).astype(int)
    assert np.abs(np.asarray(picture) - expected).mean() < 6


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_cannot_be_a_jpeg_and_this_is_found_before_the_work(tmp_path, mode, photo, codec, monkeypatch):
    slim = tmp_path / "a.slim"
    slim.write_bytes(codec.compress(Image.open(photo).convert(mode)))
    assert decompress_file(slim, tmp_path / "a.png", model=codec).mode == Image.open(tmp_path / "a.png").mode == mode
    monkeypatch.setattr(codec, "decompress", None)
    with pytest.raises(InvalidInput, match=rf"a\.jpg: a picture of mode {mode} cannot be written as JPEG .* try \.png"):
        decompress_file(slim, tmp_path / "a.jpg", model=codec)


@pytest.mark.parametrize(
    "name, named", [("a", "ends in ''"), ("a.xyz", "'.xyz'"), ("a.slim", "'.slim'"), ("a.h5", "HDF5")]
)
def test_a_target_that_is_no_picture_is_refused_before_the_work(tmp_path, slim, name, named):
    with pytest.raises(InvalidInput) as caught:
        decompress_file(slim, tmp_path / name, model=None)
    assert str(caught.value).startswith(f"{tmp_path / name}: ") and named in str(caught.value)


def test_refusals_name_the_file(tmp_path, photo, slim, codec):
    broken, text = tmp_path / "broken.slim", tmp_path / "text"
    text.write_text("not a picture")
    broken.write_bytes(slim.read_bytes()[:-1])
    for call, error, source in (
        (lambda: compress_file(photo, tmp_path / "a.slim", model=codec, quality=99), InvalidInput, photo),
        (lambda: compress_file(text, tmp_path / "a.slim", model=codec), InvalidInput, text),
        (lambda: decompress_file(photo, tmp_path / "a.png", model=codec), InvalidFile, photo),
        (lambda: decompress_file(broken, tmp_path / "a.png", model=codec), InvalidFile, broken),
        (lambda: decompress_file(slim, tmp_path / "a.png", model=codec, max_pixels=99), InvalidFile, slim),
        (lambda: decompress_file(tmp_path / "no", tmp_path / "a.png", model=codec), InvalidFile, tmp_path / "no"),
    ):
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value).startswith(f"{source}: ") and str(caught.value).count(str(source)) == 1
    assert names(tmp_path) == ["broken.slim", "photo.png", "photo.slim", "text"]
    assert decompress_file(broken, tmp_path / "a.png", model=codec, allow_partial=True)[:2] == (130, 100)


def test_a_file_that_cannot_be_read_is_an_os_error_of_one_line(slim, tmp_path, codec):
    """As for any picture library: `except OSError` skips what is damaged or missing."""
    slim.write_bytes(slim.read_bytes()[:-1])
    for source, named in ((slim, "truncated"), (tmp_path / "missing.slim", "No such file")):
        with pytest.raises(OSError) as caught:
            decompress_file(source, tmp_path / "a.png", model=codec)
        error = pickle.loads(pickle.dumps(caught.value))
        assert isinstance(error, InvalidFile) and (error.errno, error.strerror, error.filename) == (None, None, None)
        assert str(error).startswith(f"{source}: ") and named in str(error) and "\n" not in str(error)


# --- pipes ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def piped(data):
    """The path of a pipe that gives these bytes, as <(command) is one."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    yield f"/dev/fd/{reader}"
    os.close(reader)


def test_pictures_come_through_pipes(tmp_path, photo, slim, codec):
    with piped(photo.read_bytes()) as source:
        compress_file(source, tmp_path / "a.slim", model=codec)
    assert (tmp_path / "a.slim").read_bytes() == slim.read_bytes()
    with piped(slim.read_bytes()) as source:
        decompress_file(source, tmp_path / "a.png", model=codec)
    assert Image.open(tmp_path / "a.png").size == (130, 100)
    with piped(b"not a picture") as source, pytest.raises(InvalidInput, match=f"^{source}: is not a picture"):
        compress_file(source, tmp_path / "b.slim", model=codec)


@pytest.mark.parametrize("suffix, format", [("", "PNG"), (".jpg", "JPEG")])
def test_pictures_go_through_pipes(tmp_path, slim, codec, suffix, format):
    pipe = tmp_path / f"pipe{suffix}"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    thread = threading.Thread(target=decompress_file, args=(slim, pipe), kwargs={"model": codec})
    thread.start()
    with open(reader, "rb") as file:
        data = b""
        while thread.is_alive() or not data:
            data += file.read()
    assert Image.open(io.BytesIO(data)).format == format


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_a_picture_that_the_disk_has_no_room_for(tmp_path, slim, codec, suffix, file_size_limit):
    """Pillow's own writers take no notice of a write that took only a part."""
    with file_size_limit(1000), pytest.raises(OSError, match="too large"):
        decompress_file(slim, tmp_path / f"a{suffix}", model=codec)
    assert names(tmp_path) == ["photo.png", "photo.slim"]


# --- whole files or none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError("no number")])
def test_whatever_breaks_a_file_off_leaves_the_one_from_before(tmp_path, error):
    target = tmp_path / "file"
    target.write_bytes(b"before")
    with pytest.raises(type(error) if isinstance(error, OSError) else error), files.writing(target) as file:
        file.write(b"half")
        raise error
    assert target.read_bytes() == b"before" and names(tmp_path) == ["file"]
    with files.writing(target) as file:
        file.write(b"after")
    assert target.read_bytes() == b"after" and names(tmp_path) == ["file"]


def test_a_full_disk_names_the_target_and_leaves_nothing(tmp_path, file_size_limit):
    target = tmp_path / "file"
    with file_size_limit(1000), pytest.raises(OSError) as caught, files.writing(target) as file:
        file.write(bytes(100_000))
    assert caught.value.filename == str(target) and caught.value.errno
    assert names(tmp_path) == []


def test_a_target_that_cannot_be_is_named_before_the_work(tmp_path):
    for target in (tmp_path / "missing/file", tmp_path):
        with pytest.raises(OSError) as caught, files.writing(target):
            pytest.fail("the block was entered")
        assert caught.value.filename == str(target)


def test_links_and_devices_are_not_replaced(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(file)
    with files.writing(link) as out:
        out.write(b"through")
    assert link.is_symlink() and file.read_bytes() == b"through"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with files.writing(tmp_path / "pipe") as out:
        out.write(b"through")
    assert os.read(reader, 99) == b"through" and not (tmp_path / "pipe").is_file()
    os.close(reader)


def test_the_package_has_the_names():
    assert {"compress_file", "decompress_file"} <= set(slimcodec.__all__)
