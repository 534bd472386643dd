"""Pictures as they come: every PIL mode, arrays, orientation, profiles, and one clear sentence for what is refused."""

import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from slimcodec import InvalidInput
from slimcodec.codec import pictures as module
from slimcodec.codec.pictures import EXIF_MARKER, from_picture, open_picture, to_image

ORIENTATION, MAKER = 0x0112, 0x010F
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def photo(pictures) -> Image.Image:
    return Image.fromarray(pictures["17x31"])


def profile(space: bytes) -> bytes:
    """The header of an ICC profile of that colour space, and nothing else."""
    return b"\0" * 16 + space + b"\0" * 108


def ink_profile() -> bytes:
    """A CMYK profile in which C, M and Y are invisible, and L* goes from 100 to 0 as K goes from 0 to 255."""
    white, black = bytes([255, 128, 128]), bytes([0, 128, 128])
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes([0, 0, 0, 0, 4, 3, 2, 0]) + identity + 4 * ramp + 8 * (white + black) + 3 * ramp
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    illuminant = struct.pack(">3i", 63190, 65536, 54061)
    header = struct.pack(
        ">I4sI4s4s4s12s4s4sI4s4s8sI12s4s44s",
        *(144 + len(table), b"", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"", b"acsp", b"", 0, b"", b"", b""),
        *(0, illuminant, b"", b""),
    )
    return header + tags + table


def in_mode(photo: Image.Image, mode: str) -> Image.Image:
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(photo, srgb, lab, outputMode="LAB")
    by_way_of = {"La": "LA", "RGBa": "RGBA", "PA": "P"}
    return photo.convert(by_way_of[mode]).convert(mode) if mode in by_way_of else photo.convert(mode)


# --- modes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", module.MODES)
def test_every_mode_becomes_the_one_that_loses_nothing(photo, mode):
    image = in_mode(photo, mode)
    picture = from_picture(image)
    assert picture.pixels.shape == (image.height, image.width, 3)
    assert picture.pixels.dtype == np.uint8 and picture.pixels.flags.c_contiguous
    back = to_image(picture)
    assert back.mode == module.MODES[mode]
    assert np.array_equal(np.asarray(back), np.asarray(image.convert(back.mode)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_colour_that_stands_for_transparency_becomes_alpha(photo, mode):
    image = photo.convert(mode)
    first = image.getpixel((0, 0))
    image.info["transparency"] = first
    picture = from_picture(image)
    assert to_image(picture).mode == ("LA" if mode in ("1", "L") else "RGBA")
    seen = np.asarray(image if mode in ("P", "RGB") else image.convert("L")).reshape(image.height, image.width, -1)
    opaque = (seen != first).any(axis=2)
    assert np.array_equal(picture.alpha > 0, opaque) and not picture.alpha[0, 0]


def test_colours_under_transparency_and_opaque_alpha_are_kept(pictures):
    rgb = pictures["17x31"]
    for level in (0, 255):
        rgba = np.dstack([rgb, np.full(rgb.shape[:2], level, np.uint8)])
        for picture in (rgba, Image.fromarray(rgba)):
            assert np.array_equal(np.asarray(to_image(from_picture(picture))), rgba)


def test_arrays(pictures):
    rgb = pictures["17x31"].copy()
    assert np.shares_memory(from_picture(rgb).pixels, rgb)  # nothing is copied without need
    assert to_image(from_picture(rgb[:, :, 0])).mode == "L"
    assert np.array_equal(from_picture(rgb[::-1, ::2]).pixels, rgb[::-1, ::2])


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I"])
def test_16_bits_are_rounded_with_one_warning(mode):
    values = np.array([[0, 128, 129, 257, 32768, 65535]])
    kind = {"I": "<i4", "I;16B": ">u2"}.get(mode, "<u2")
    image = Image.frombytes(mode, (6, 1), values.astype(kind).tobytes())
    with pytest.warns(UserWarning, match="16 bits") as caught:
        picture = from_picture(image)
    assert len(caught) == 1 and picture.grey
    assert picture.pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_ink_is_converted_by_its_own_profile(photo):
    image = Image.new("CMYK", (4, 4), (10, 200, 30, 128))
    image.info["icc_profile"] = ink_profile()
    picture = from_picture(image)
    assert np.abs(picture.pixels.astype(int) - 118).max() <= 2  # L* = 50 in sRGB
    assert picture.icc is None
    image = photo.convert("CMYK")
    image.info["icc_profile"] = profile(b"CMYK")  # says so, and is broken
    assert np.array_equal(from_picture(image).pixels, np.asarray(photo))


def test_grey_is_the_mean_of_what_was_decoded(pictures):
    decoded = pictures["17x31"]
    grey = np.asarray(to_image(module.Picture(decoded, True, None, None, None)))
    assert np.array_equal(grey, np.floor(decoded.mean(axis=2) + 0.5))


# --- what comes with a picture --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "avif"])
def test_orientation_is_applied_and_taken_out_of_exif(photo, tmp_path, suffix):
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKER] = 6, "camera"
    photo.save(tmp_path / f"p.{suffix}", exif=exif)
    picture = from_picture(open_picture(tmp_path / f"p.{suffix}"))
    upright = np.rot90(np.asarray(photo), -1)
    assert picture.pixels.shape == upright.shape
    assert np.abs(picture.pixels.astype(int) - upright).mean() < 16
    if suffix != "tiff":  # whose tags are the file's own
        tags = to_image(picture).getexif()
        assert tags[MAKER] == "camera" and tags.get(ORIENTATION, 1) == 1


def test_exif_comes_back_as_it_was(photo):
    exif = Image.Exif()
    exif[MAKER] = "camera"
    photo.info["exif"] = exif.tobytes()
    picture = from_picture(photo)
    assert EXIF_MARKER + picture.exif == photo.info["exif"] == to_image(picture).info["exif"]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"", b"junk", b"Exif\0\0II*\0\xff\xff\xff\xff", Image.Exif().tobytes()])
def test_exif_that_says_nothing_is_dropped_and_the_picture_is_not(photo, exif):
    photo.info["exif"] = exif
    assert from_picture(photo).exif is None


@pytest.mark.parametrize(
    "mode, icc, kept",
    [
        ("RGB", SRGB, True),
        ("RGBA", SRGB, True),
        ("L", SRGB, False),
        ("L", profile(b"GRAY"), True),
        ("LA", profile(b"GRAY"), True),
        ("RGB", profile(b"GRAY"), False),
        ("RGB", profile(b"CMYK"), False),
        ("RGB", b"short", False),
        ("RGB", None, False),
    ],
)
def test_a_profile_is_kept_where_it_fits(photo, mode, icc, kept):
    image = photo.convert(mode)
    image.info["icc_profile"] = icc
    assert to_image(from_picture(image)).info.get("icc_profile") == (icc if kept else None)


def test_strip_drops_what_comes_with_the_picture_but_turns_it_first(photo):
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    photo.info |= {"exif": exif.tobytes(), "icc_profile": SRGB}
    picture = from_picture(photo, strip=True)
    assert (picture.icc, picture.exif) == (None, None)
    assert np.array_equal(picture.pixels, np.rot90(np.asarray(photo)))


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "picture, named",
    [
        (np.zeros((4, 4, 3), np.float32), "float32: turn it into uint8, 0..255"),
        (np.full((4, 4, 3), np.nan), "float64"),
        (np.zeros((4, 4, 3), np.uint16), "uint16"),
        (np.zeros((4, 4, 3), bool), "bool"),
        (np.zeros((4, 4, 2), np.uint8), "shape (4, 4, 2)"),
        (np.zeros((3,), np.uint8), "shape (3,)"),
        (np.zeros((1, 4, 4, 3), np.uint8), "shape (1, 4, 4, 3)"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels: it is 4 x 0"),
        (np.zeros((1, 65536, 3), np.uint8), "65536 x 1 pixels"),
        (Image.new("RGB", (0, 4)), "no pixels: it is 0 x 4"),
        (Image.new("L", (1, 65536)), "1 x 65536 pixels"),
        (Image.new("F", (4, 4)), "PIL mode F"),
        (Image.new("I", (4, 4), 65536), "outside 0..65535"),
        (Image.new("I", (4, 4), -1), "outside 0..65535"),
        (torch.zeros(3, 4, 4), "torch tensor of float32"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), "[channels, height, width]"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "shape (1, 3, 4, 4)"),
        ("photo.png", "photo.png: cannot be read"),
        (b"photo", "is not a picture"),
        ([[1]], "type list"),
        (None, "type NoneType"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(picture, named):
    with pytest.raises(InvalidInput) as caught:
        from_picture(picture)
    assert named in str(caught.value) and "\n" not in str(caught.value)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_is_opened_by_path_or_open_even_if_it_cannot_seek(photo, tmp_path):
    path = tmp_path / "photo.png"
    photo.save(path)
    pipe = BytesIO(path.read_bytes())
    pipe.seekable = lambda: False
    with open(path, "rb") as file:
        for source in (path, str(path), file, pipe):
            assert np.array_equal(np.asarray(open_picture(source)), np.asarray(photo))


def test_files_that_are_no_pictures_are_named(photo, tmp_path, monkeypatch):
    good, text, short = tmp_path / "good.png", tmp_path / "text.png", tmp_path / "short.jpg"
    photo.save(good)
    text.write_text("not a picture")
    photo.save(short, quality=95)
    short.write_bytes(short.read_bytes()[:-200])
    for path, named in (
        (text, "not a picture"),
        (short, "truncated"),
        (tmp_path, "directory"),
        (tmp_path / "no", "No such"),
    ):
        with pytest.raises(InvalidInput) as caught:
            open_picture(path)
        assert str(caught.value).startswith(f"{path}: ") and named in str(caught.value)
    with pytest.raises(InvalidInput, match=rf"^{short}: "):
        from_picture(Image.open(short))  # which reads no pixels yet
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InvalidInput, match=rf"^{good}: .*decompression bomb"):
        open_picture(good)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "GIF", "WEBP", "JPEG"])
def test_max_pixels_takes_the_place_of_pillows_limit(photo, format, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    file = BytesIO()
    photo.save(file, format)
    with pytest.raises(InvalidInput, match=r"decompression bomb.*compress takes --max-pixels \(max_pixels=\)"):
        open_picture(file)
    with warnings.catch_warnings(action="error"):
        assert open_picture(file, max_pixels=17 * 31).size == photo.size
        with pytest.raises(InvalidInput, match=r"31 x 17 pixels, more than the limit of 526\. .*--max-pixels"):
            open_picture(file, max_pixels=526)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "many"])
def test_a_max_pixels_that_is_no_number_of_pixels(photo, tmp_path, wrong):
    photo.save(tmp_path / "photo.png")
    with pytest.raises(InvalidInput, match=r"max_pixels .*: must be a whole number from 1"):
        open_picture(tmp_path / "photo.png", max_pixels=wrong)


def test_threads_do_not_lose_pillows_limit(photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    before = Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda more: open_picture(tmp_path / "photo.png", max_pixels=600 + more), range(200)))
    assert before == Image.MAX_IMAGE_PIXELS


def test_an_animation_gives_its_first_picture_and_a_warning(photo, tmp_path):
    path = tmp_path / "film.png"
    photo.save(path, save_all=True, append_images=[photo.rotate(180)])
    with pytest.warns(UserWarning, match=r"film\.png: only the first of its 2 frames"):
        image = open_picture(path)
    assert np.array_equal(from_picture(image).pixels, np.asarray(photo))
