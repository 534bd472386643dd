"""Big pictures pass window by window: what comes out is what one pass gives, and what is live has a bound.

Here a picture of more than 4 × 4 cells is big.
"""

import time

import numpy as np
import pytest
from PIL import Image
from test_tiling import assert_same_pixels

from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec import bitstream, encoding, grid, heads, pictures
from slimcodec.codec.grid import Window, whole
from slimcodec.codec.symbols import SymbolReader

SIZE = 400, 500  # 7 x 8 cells, the last ones padded
MIB = 1 << 20


@pytest.fixture(scope="module")
def photo():
    import skimage.data

    return np.ascontiguousarray(skimage.data.astronaut()[: SIZE[0], : SIZE[1]])


@pytest.fixture(params=["rows", "columns"])
def turned(request, photo):
    """Windows follow each other along the longer side."""
    return photo if request.param == "columns" else np.ascontiguousarray(photo.transpose(1, 0, 2))


def small_windows(monkeypatch):
    monkeypatch.setattr(grid, "CODING_TILE", 4)


@pytest.mark.parametrize("tile", [0, 1, 3, 4, 6, 255])
def test_windows_give_the_file_and_the_pixels_of_one_pass(codec, turned, monkeypatch, tile):
    """Floats that are nearly half-way may round the other way: the files agree but for a few symbols, and so do what
    they correct."""
    at_once = codec.compress(turned, 3, tile=tile)
    decoded = codec.decompress(at_once)
    small_windows(monkeypatch)
    windowed = codec.compress(turned, 3, tile=tile)
    one, other = (codec.coder.read(bitstream.unpack(data)) for data in (at_once, windowed))
    assert np.array_equal(one.z, other.z) and np.array_equal(one.index, other.index)
    assert (one.r != other.r).mean() < 1e-4
    contents = [bitstream.unpack(data) for data in (at_once, windowed)]
    whole_one, in_pieces = (heads.read(part, codec.transforms.corrections) for part in contents)
    assert np.array_equal(whole_one.who, in_pieces.who) and whole_one.who.any()
    for mine, others in zip(whole_one.corrections, in_pieces.corrections, strict=True):
        assert mine.shift == others.shift and mine.q.any()
        assert np.abs(mine.q - others.q).max() <= 1
    assert_same_pixels(codec.decompress(at_once), decoded)


def test_what_an_encoding_of_a_big_picture_foresees(codec, photo, monkeypatch):
    small_windows(monkeypatch)
    foreseen = codec.encoding(photo)
    data = foreseen.file(1024)
    assert data == codec.compress(photo, 4)  # whether latents are kept, as for searches, or not
    assert foreseen.bits(1024) / 8 == pytest.approx(sum(map(len, bitstream.unpack(data).streams)), rel=0.02)
    assert foreseen.file(1024) == data
    decoded = np.asarray(codec.decompress(data))
    assert np.array_equal(foreseen.decoded(1024), decoded)
    mse = np.mean((decoded.astype(float) - photo) ** 2)
    assert foreseen.psnr_db(1024) == pytest.approx(10 * np.log10(255**2 / mse))


def test_targets_and_effort_of_a_big_picture(codec, photo, monkeypatch):
    small_windows(monkeypatch)
    limit = len(codec.compress(photo, 4))
    data = codec.compress(photo, max_bytes=limit)
    assert 0.9 * limit < len(data) <= limit
    refined = codec.compress(photo, 4, effort=1)
    assert refined != codec.compress(photo, 4) and codec.decompress(refined).size == SIZE[::-1]


def test_a_big_picture_keeps_alpha_grey_and_metadata(codec, photo, monkeypatch):
    small_windows(monkeypatch)
    monkeypatch.setattr(pictures, "LAZY_PIXELS", 1000)
    alpha = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)
    grey = Image.fromarray(photo).convert("L")
    grey.putalpha(Image.fromarray(alpha))
    grey.info["xmp"] = b"<x:xmpmeta/>"
    data = codec.compress(grey, 4)
    decoded = codec.decompress(data)
    assert decoded.mode == "LA" and decoded.info["xmp"] == b"<x:xmpmeta/>"
    assert np.array_equal(np.asarray(decoded)[:, :, 1], alpha)
    part = codec.decompress(data, region=(70, 33, 300, 201))
    assert np.array_equal(np.asarray(part)[:, :, 1], alpha[33:234, 70:370])
    assert_same_pixels(np.asarray(part)[:, :, 0], np.asarray(decoded)[33:234, 70:370, 0])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_pixels_are_read_from_a_big_image_where_they_are_needed(photo, monkeypatch, mode):
    image = Image.fromarray(photo).convert(mode)
    at_once = pictures.from_picture(image)
    monkeypatch.setattr(pictures, "LAZY_PIXELS", 1000)
    lazy = pictures.from_picture(image)
    assert lazy.pixels.shape == at_once.pixels.shape and not isinstance(lazy.pixels, np.ndarray)
    for at in (slice(3, 9), (slice(390, 999), slice(0, 7)), (slice(0, 400), slice(0, 500)), (slice(5, 5), slice(0, 3))):
        assert np.array_equal(lazy.pixels[at], at_once.pixels[at])
    assert np.array_equal(np.asarray(lazy.pixels), at_once.pixels)
    if mode.endswith("A"):
        assert np.array_equal(lazy.alpha[17:40], at_once.alpha[17:40])


# --- what ends early ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [0, 2])
@pytest.mark.parametrize("size", [(2000, 700), (700, 2000), (1500, 1500)])
def test_a_picture_of_nothing_is_what_the_networks_make_of_zeros(codec, monkeypatch, tile, size):
    """It is put together from a few cells."""
    head = bitstream.Header(codec.model_hash, *size, 1024, tile)
    rows, columns = head.tiles
    data = bitstream.pack(head, [bytes(20)] * (rows * columns))[: -20 * rows * columns]
    expected = codec.decompress(data, allow_partial=True)
    small_windows(monkeypatch)
    found = codec.decompress(data, allow_partial=True)
    assert found.size == size
    assert_same_pixels(found, expected)


def test_a_region_of_a_picture_that_is_not_there_takes_no_time(codec):
    head = bitstream.pack(bitstream.Header(codec.model_hash, 14142, 14142, 1024), [bytes(1000)])[:44]
    began = time.process_time()
    assert codec.decompress(head, allow_partial=True, region=(9000, 9000, 64, 64)).size == (64, 64)
    assert time.process_time() - began < 5


# --- limits ---------------------------------------------------------------------------------------------------------


def test_more_memory_than_the_limit_is_refused_by_the_header(codec, photo):
    data = codec.compress(photo, 2)
    head = bitstream.pack(bitstream.Header(codec.model_hash, 14142, 14142, 1024), [bytes(1000)])
    large = {"max_memory": 512 * MIB}
    for refused, settings in (
        (data, {"max_memory": MIB}),
        (head, large),
        (head[:44], large | {"allow_partial": True}),
        (head[:44], large | {"allow_partial": True, "region": (0, 0, 14142, 14000)}),
    ):
        with pytest.raises(InvalidFile, match=r"decoding takes up to [\d,]+ MiB, more than the limit of [\d,]+;"):
            codec.decompress(refused, **settings)
    assert codec.decompress(data, max_memory=200 * MIB).size == SIZE[::-1]
    for wrong in (0, -1, 1.5, True, "1 GB", None):
        with pytest.raises(InvalidInput, match="max_memory"):
            codec.decompress(data, max_memory=wrong)


# --- parts ----------------------------------------------------------------------------------------------------------


def test_a_reader_forgets_what_has_served(codec, photo):
    data = codec.compress(photo, 4, tile=2)
    contents = bitstream.unpack(data)
    every = codec.coder.read(contents)
    reader = SymbolReader(codec.coder, contents, whole(contents.header.cells))
    reader.read(Window(0, 0, 4, 8))
    reader.forget(3, 0)
    assert {covered.top for covered, _ in reader.kept.values()} == {3} and len(reader.kept) == 4
    part = reader.read(Window(3, 1, 7, 8))
    assert np.array_equal(part.z, every.z[:, 3:7, 1:8]) and np.array_equal(part.r, every.r[:, :, 6:14, 2:16])
    assert np.array_equal(part.index, every.index[:, :, 6:14, 2:16])


def test_a_band_makes_what_is_asked_for_once():
    import torch

    made = []

    def make(strip):
        made.append(strip)
        return torch.arange(strip.left, strip.right, dtype=torch.float32).expand(1, 2, strip.bottom - strip.top, -1)

    band = encoding.Band(make, whole((3, 20)), 1)
    assert band.take(Window(0, 0, 3, 5)).shape == (1, 2, 3, 5)
    assert band.take(Window(1, 2, 2, 9))[0, 0].tolist() == [[2, 3, 4, 5, 6, 7, 8]]
    band.forget(4)
    assert band.take(Window(0, 4, 3, 12))[0, 1, 2].tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    assert made == [Window(0, 0, 3, 5), Window(0, 5, 3, 9), Window(0, 9, 3, 12)]
    assert sum(strip.shape[3] for _, strip in band.strips) == 8
