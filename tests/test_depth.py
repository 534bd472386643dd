"""More than 8 bits a channel, keys for transparency, several frames: what files become, and what is said of it."""

import io
import sys
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from picture_files import AVIF_OF_10_BITS, JPEG2000_OF_12_BITS, JPEG2000_OF_16_BITS, dcx, png, pnm, sgi, tiff
from PIL import Image

from slimcodec import InvalidInput
from slimcodec.codec.pictures import Picture, from_picture, open_picture, to_image
from slimcodec.evaluation import photos

GREY_PROFILE = b"\0" * 16 + b"GRAY" + b"\0" * 108
RNG = np.random.default_rng(5)
DEEP = RNG.integers(0, 65536, (9, 13, 4)).astype(np.uint16)
DEEP[0, :6] = [[0] * 4, [128] * 4, [129] * 4, [65406] * 4, [65407] * 4, [65535] * 4]
GREY, RGB = DEEP[:, :, 0], DEEP[:, :, :3]


def rounded(values: np.ndarray, white: int = 65535) -> np.ndarray:
    return np.floor(values.astype(np.int64) * 255 / white + 0.5).astype(np.uint8)


def read(data: bytes) -> tuple[Picture, list[str]]:
    """The picture and the warnings: twice, opened here, and by Pillow without its pixels, which give the same."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        picture = from_picture(open_picture(io.BytesIO(data)))
    with warnings.catch_warnings(action="ignore"):
        other = from_picture(Image.open(io.BytesIO(data)))
    assert np.array_equal(picture.pixels, other.pixels) and picture[1] == other[1] and picture[3:] == other[3:]
    assert (picture.alpha is None) == (other.alpha is None)
    assert picture.alpha is None or np.array_equal(picture.alpha, other.alpha)
    return picture, [str(one.message) for one in caught]


def of_tifffile(values: np.ndarray, **settings) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **settings)
    return file.getvalue()


# --- depth ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data, expected, bits",
    [
        (png(GREY, 16, 0), rounded(GREY), 16),
        (png(GREY // 257, 16, 0), rounded(GREY // 257), 16),  # dark is dark, whatever the brightest value
        (png(RGB, 16, 2), rounded(RGB), 16),
        (tiff(GREY, 16), rounded(GREY), 16),
        (tiff(GREY, 16, photometric=0), 255 - rounded(GREY), 16),
        (tiff(GREY >> 4, 12), rounded(GREY >> 4, 4095), 12),
        (tiff(GREY.astype(np.uint32) << 16, 32), rounded(GREY.astype(np.int64) << 16, 2**32 - 1), 32),
        (tiff(RGB, 16, photometric=2), rounded(RGB), 16),
        (of_tifffile(GREY, photometric="minisblack", byteorder=">"), rounded(GREY), 16),
        (of_tifffile(GREY, photometric="minisblack", compression="zlib"), rounded(GREY), 16),
        (of_tifffile(RGB, photometric="rgb", byteorder=">"), rounded(RGB), 16),
        (of_tifffile(RGB, photometric="rgb", compression="zlib"), rounded(RGB), 16),
        (of_tifffile(RGB, photometric="rgb", compression="zlib", byteorder=">"), rounded(RGB), 16),
        (of_tifffile(RGB.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), rounded(RGB), 16),
        (pnm(GREY, 65535), rounded(GREY), 16),
        (pnm(GREY // 257, 65535), rounded(GREY // 257), 16),
        (pnm(GREY >> 4, 4095), rounded(GREY >> 4, 4095), 12),
        (pnm(GREY % 301, 300), rounded(GREY % 301, 300), 9),
        (pnm(GREY % 301, 300, plain=True), rounded(GREY % 301, 300), 9),
        (pnm(RGB, 65535), rounded(RGB), 16),
        (pnm(RGB >> 6, 1023), rounded(RGB >> 6, 1023), 10),
        (pnm(RGB >> 6, 1023, plain=True), rounded(RGB >> 6, 1023), 10),
        (AVIF_OF_10_BITS, None, 10),
        (JPEG2000_OF_12_BITS, None, 12),
    ],
)
def test_white_is_what_the_file_says_and_rounding_is_said(data, expected, bits):
    picture, said = read(data)
    assert said == [f"the file: has {bits} bits a channel, rounded to 8"]
    if expected is not None:
        assert picture.grey == (expected.ndim == 2)
        assert np.array_equal(picture.pixels, expected if expected.ndim == 3 else np.dstack([expected] * 3))


@pytest.mark.parametrize("maxval, levels", [(1, [0, 255]), (15, [0, 17, 34, 255]), (200, [0, 1, 3, 255])])
def test_few_bits_of_a_pnm_are_spread_in_silence(maxval, levels):
    values = np.array([[0, 1, 2, maxval][-len(levels) :] if len(levels) == 4 else [0, 1]])
    picture, said = read(pnm(values, maxval))
    assert picture.pixels[0, :, 0].tolist() == levels and said == []


def test_what_the_formats_with_a_head_of_their_own_become():
    assert read(AVIF_OF_10_BITS)[0].pixels[5, 0].tolist() == [4, 117, 255]
    assert read(JPEG2000_OF_12_BITS)[0].pixels[0, :, 0].tolist() == [0, 0, 0, 62, 125, 128, 255, 255]


def test_deep_colours_of_jpeg_2000_need_a_reader_of_their_own(monkeypatch):
    """Pillow makes black of white there."""
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(InvalidInput, match=r"has 16 bits a channel, .* pip install 'slimcodec\[deep\]'"):
        open_picture(io.BytesIO(JPEG2000_OF_16_BITS))


def test_deep_colours_of_jpeg_2000():
    pytest.importorskip("imagecodecs")
    picture, said = read(JPEG2000_OF_16_BITS)
    assert picture.pixels[0, 0].tolist() == [255] * 3 and picture.pixels[7, 7].tolist() == [4, 117, 254]
    assert said == ["the file: has 16 bits a channel, rounded to 8"]


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_alpha_of_16_bits(byteorder, compression):
    settings = {"photometric": "rgb", "byteorder": byteorder, "compression": compression}
    for picture, _ in (read(png(DEEP, 16, 6)), read(of_tifffile(DEEP, extrasamples=["unassalpha"], **settings))):
        assert np.array_equal(picture.pixels, rounded(RGB)) and np.array_equal(picture.alpha, rounded(DEEP[:, :, 3]))
    alpha = DEEP[:, :, 3:].astype(np.int64)
    alpha[0, :3, 0] = 0, 1, 65535
    multiplied = np.dstack([RGB * alpha // 65535, alpha]).astype(np.uint16)
    picture, _ = read(of_tifffile(multiplied, extrasamples=["assocalpha"], **settings))
    straight = np.minimum(np.floor(multiplied[:, :, :3] * 255.0 / np.maximum(alpha, 1) + 0.5), 255)
    assert np.array_equal(picture.pixels, straight) and np.array_equal(picture.alpha, rounded(alpha[:, :, 0]))


SEPARATE = of_tifffile(RGB.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", compression="zlib")


@pytest.mark.parametrize("data", [sgi(RGB), SEPARATE])
def test_where_pillow_cuts_the_low_bits_off_it_is_said(data):
    picture, said = read(data)
    assert np.array_equal(picture.pixels, RGB >> 8)
    assert said == ["the file: has 16 bits a channel, of which Pillow cuts off all but 8 without rounding"]


def test_ink_of_16_bits():
    picture, said = read(of_tifffile(DEEP, photometric="separated"))
    eight = Image.frombytes("CMYK", (13, 9), rounded(DEEP).tobytes())
    assert np.array_equal(picture.pixels, np.asarray(eight.convert("RGB"))) and len(said) == 1


def test_values_in_memory_are_never_spread_by_what_they_are():
    for mode, kind in (("I", np.int32), ("I;16", np.uint16)):
        image = Image.frombytes(mode, (2, 1), np.array([3, 255], kind).tobytes())
        with pytest.warns(UserWarning, match=rf"PIL mode {mode}, taken as 16 bits a channel \(white is 65535\)"):
            assert from_picture(image).pixels[0, :, 0].tolist() == [0, 1]


@pytest.mark.parametrize("format", ["TIFF", "XBM", "PPM", "JPEG2000", "AVIF", "PNG"])
def test_a_format_that_was_written_into_an_image_says_nothing(format):
    for image in (Image.fromarray(GREY), Image.fromarray(rounded(RGB))):
        image.format = format
        with warnings.catch_warnings(action="ignore"):
            expected = rounded(np.asarray(image)) if image.mode == "I;16" else np.asarray(image)
            assert np.array_equal(
                from_picture(image).pixels, expected if expected.ndim == 3 else np.dstack([expected] * 3)
            )


@pytest.mark.parametrize("bits", [16, 32])
def test_signed_numbers_have_no_white(bits):
    with pytest.raises(InvalidInput, match="holds signed numbers, and not what is white among them"):
        open_picture(io.BytesIO(tiff(GREY, bits, sample_format=2)))


def test_the_signed_numbers_of_fits_have_no_white():
    cards = ["SIMPLE  =                    T", "BITPIX  =                   16", "NAXIS   =                    2"]
    cards += ["NAXIS1  =                    2", "NAXIS2  =                    1", "END"]
    data = "".join(card.ljust(80) for card in cards).ljust(2880).encode() + bytes(2880)
    with pytest.raises(InvalidInput, match="holds signed numbers"):
        open_picture(io.BytesIO(data))


def test_the_ones_of_an_xbm_are_ink():
    data = b"#define i_width 8\n#define i_height 1\nstatic char i_bits[] = {\n0x05 };\n"
    assert read(data)[0].pixels[0, :, 0].tolist() == [0, 255, 0, 255, 255, 255, 255, 255]


# --- transparency ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("more", [0, 1 << 15])
def test_a_grey_that_stands_for_transparency(bits, more):
    """Of the key's 16 bits only as many count as a sample has."""
    values = (np.arange(12 * 16).reshape(12, 16) * 331) % (1 << bits)
    values[:4, :4] = key = 1 if bits == 1 else 3
    more = 0 if bits == 16 else more
    picture, _ = read(png(values, bits, 0, (b"tRNS", (key | more).to_bytes(2, "big"))))
    assert picture.grey and np.array_equal(picture.alpha, np.where(values == key, 0, 255))
    assert np.array_equal(picture.pixels[:, :, 0], rounded(values, (1 << bits) - 1))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_colour_that_stands_for_transparency(bits):
    values = (np.arange(12 * 16 * 3).reshape(12, 16, 3) * 331) % (1 << bits)
    values[:4, :4] = key = [5, 77, (1 << bits) - 2]
    values[0, 0, 2] += 1  # another colour, though at 16 bits the same one of 8
    picture, _ = read(png(values, bits, 2, (b"tRNS", np.array(key, ">u2").tobytes())))
    assert np.array_equal(picture.alpha, np.where((values == key).all(axis=2), 0, 255)) and picture.alpha[0, 0] == 255
    assert np.array_equal(picture.pixels, rounded(values, (1 << bits) - 1))


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_and_alpha_stay_and_so_does_their_profile(bits):
    values = DEEP[:, :, :2] >> (16 - bits)
    icc = b"grey\0\0" + zlib.compress(GREY_PROFILE)
    picture, _ = read(png(values, bits, 4, (b"iCCP", icc)))
    image = to_image(picture)
    assert image.mode == "LA" and image.info["icc_profile"] == GREY_PROFILE
    assert np.array_equal(np.asarray(image), rounded(values, (1 << bits) - 1))


# --- several frames -------------------------------------------------------------------------------------------------


def frames_as(format: str) -> bytes:
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("#000000", "#f0f0f0", "#808080")]
    file = io.BytesIO()
    if format == "DCX":
        pages = []
        for frame in frames:
            page = io.BytesIO()
            frame.save(page, "PCX")
            pages.append(page.getvalue())
        return dcx(pages)
    frames[0].save(file, format, save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize("format", ["GIF", "TIFF", "PNG", "WEBP", "AVIF", "DCX", "MPO"])
def test_the_first_frame_is_used_with_one_warning(format, tmp_path):
    path = tmp_path / "frames"
    path.write_bytes(frames_as(format))
    pipe = io.BytesIO(path.read_bytes())
    pipe.seekable = lambda: False
    expected = [] if format == "MPO" else ["only the first of its 3 frames is used"]
    for source in (path, io.BytesIO(path.read_bytes()), pipe):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            picture = from_picture(open_picture(source))
        assert [str(one.message).partition(": ")[2] for one in caught] == expected
        assert picture.pixels.shape == (16, 24, 3) and picture.pixels.max() < 8
    with warnings.catch_warnings(action="ignore"):
        assert photos.open_photo(path).size == (24, 16)  # what is measured, and what is trained on


def test_a_damaged_second_page_does_not_cost_the_first():
    data = frames_as("TIFF")
    at = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[at : at + 2], "little")
    following = at + 2 + 12 * entries
    data = data[:following] + (len(data) + 99).to_bytes(4, "little") + data[following + 4 :]
    with pytest.warns(UserWarning, match="only the first of its several frames is used"):
        assert open_picture(io.BytesIO(data)).size == (24, 16)


def test_deep_pages_are_read_where_they_are():
    file = io.BytesIO()
    tifffile.imwrite(file, np.stack([RGB, RGB[::-1]]), photometric="rgb")
    image = Image.open(file)
    image.seek(1)
    with pytest.warns(UserWarning, match="rounded to 8"):
        assert np.array_equal(from_picture(image).pixels, rounded(RGB[::-1]))
