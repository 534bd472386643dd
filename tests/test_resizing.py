"""Pictures coded at quarters of their size: the filter is the format's, and nobody outside sees another size."""

import math
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

import slimcodec
import slimcodec.pillow
from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec import bitstream, decoding, inference, pictures, resizing
from slimcodec.codec.grid import QUARTERS, Window, whole

GOLDEN = Path(__file__).with_name("golden") / "integer-model"  # whose pixels are the same whatever is decoded at once
SCALES = {0.25: 1, 0.5: 2, 0.75: 3}
PHOTO = skimage.data.astronaut()[60:271, 100:403]


@pytest.fixture(scope="module")
def exact():
    return inference.load(GOLDEN)


# ---- the filter


def sinc(x: float) -> float:
    return math.sin(math.pi * x) / (math.pi * x) if x else 1.0


def weights(i: int, quarters: int, n: int) -> tuple[int, list[float]]:
    """docs/format.md's begin, and its W before they are rounded."""
    c = (i + 0.5) * quarters / 4
    begin, end = max(0, math.floor(c - 2.5)), min(n, math.floor(c + 3.5))
    w = [sinc(j + 0.5 - c) * sinc((j + 0.5 - c) / 3) for j in range(begin, end)]
    return begin, [2**22 * value / sum(w) for value in w]


def line(values: list[int], quarters: int) -> list[int]:
    found = []
    for i in range(len(values) * 4 // quarters):
        begin, exact = weights(i, quarters, len(values))
        total = 2**21 + sum(round(weight) * values[begin + at] for at, weight in enumerate(exact))
        found.append(min(max(total >> 22, 0), 255))
    return found


def larger(coded: np.ndarray, quarters: int, area: Window | None = None) -> np.ndarray:
    at, blocks = whole(coded.shape[:2]), whole(coded.shape[:2]).coarser(quarters)
    shown = blocks.finer(QUARTERS)
    return resizing.assembled(resizing.larger(coded, at, area or shown, shown, quarters), area or shown)


@pytest.mark.parametrize(
    ("quarters", "coded", "shown"),
    [
        (1, [0, 50, 255, 200], [1, 1, 0, 0, 6, 30, 75, 136, 197, 242, 255, 254, 233, 210, 191, 180]),
        (2, [0, 50, 255, 200], [1, 0, 16, 104, 223, 255, 221, 185]),
        (3, [0, 50, 255, 200, 10, 90], [1, 6, 134, 255, 225, 58, 23, 100]),
    ],
)
def test_the_lines_of_the_format(quarters, coded, shown):
    picture = np.repeat(np.array(coded, np.uint8)[None, :, None], quarters, axis=0).repeat(3, axis=2)
    assert larger(picture, quarters)[0, :, 0].tolist() == shown == line(coded, quarters)
    assert larger(picture.swapaxes(0, 1), quarters)[:, 0, 1].tolist() == shown


@pytest.mark.parametrize("quarters", SCALES.values())
@pytest.mark.parametrize("blocks", [(1, 1), (2, 5), (5, 3)])
def test_the_filter_is_the_one_that_the_format_describes(quarters, blocks):
    shape = tuple(quarters * count for count in blocks)
    coded = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    rows = np.array([[line(coded[y, :, c].tolist(), quarters) for y in range(shape[0])] for c in range(3)])
    both = np.array([[line(rows[c, :, x].tolist(), quarters) for x in range(rows.shape[2])] for c in range(3)])
    assert np.array_equal(larger(coded, quarters), both.transpose(2, 1, 0))


def test_no_weight_is_near_the_middle_of_two_integers():
    """Every place in a line is like one of these: the filter sees three pixels to either side."""
    fractions = [
        abs(weight) % 1
        for quarters in SCALES.values()
        for n in range(quarters, 24, quarters)
        for i in range(n * 4 // quarters)
        for weight in weights(i, quarters, n)[1]
    ]
    assert min(abs(fraction - 0.5) for fraction in fractions) > 1e-3


@pytest.mark.parametrize("quarters", SCALES.values())
def test_pieces_are_resized_as_the_whole(quarters, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (101, 83, 3), dtype=np.uint8)
    small = resizing.smaller(pixels, quarters)
    assert small.shape == (26 * quarters, 21 * quarters, 3)
    large = larger(small, quarters)
    monkeypatch.setattr(resizing, "PIECE", 20)
    assert np.abs(resizing.smaller(pixels, quarters).astype(int) - small).max() <= 1  # an encoder's own affair
    assert np.array_equal(larger(small, quarters), large)
    for area in (Window(0, 0, 1, 1), Window(37, 50, 91, 83), Window(99, 0, 101, 83)):
        assert np.array_equal(larger(small, quarters, area), large[area.slices])


# ---- files


def grey_with_alpha() -> Image.Image:
    alpha = Image.fromarray(np.random.default_rng(0).integers(0, 256, PHOTO.shape[:2], dtype=np.uint8))
    return Image.merge("LA", (Image.fromarray(PHOTO).convert("L"), alpha))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 65), (211, 303)])
def test_a_picture_comes_back_in_its_own_size(exact, scale, shape):
    photo = PHOTO[: shape[0], : shape[1]]
    data = exact.compress(photo, 3, scale=scale)
    header = bitstream.unpack(data).header
    assert (data[4], header.quarters, header.height, header.width) == (5, SCALES[scale], *shape)
    decoded = np.asarray(exact.decompress(data))
    assert decoded.shape == photo.shape
    assert np.array_equal(decoded, decoding.colours(exact.transforms, data))


def test_the_encoder_knows_the_picture_that_is_shown(exact):
    encoding = exact._encoding(pictures.from_picture(PHOTO), 0, None, None, 3)
    data = encoding.file(768)
    assert np.array_equal(encoding.decoded(768), np.asarray(exact.decompress(data)))
    assert encoding.psnr_db(768) == exact.psnr_db(PHOTO, data) == encoding.psnr_db_of(data)
    assert encoding.pixel_count == 211 * 303


def test_what_comes_with_a_picture_is_that_of_the_shown_one(exact):
    picture = grey_with_alpha()
    exif = Image.Exif()
    exif[0x010F] = "camera"
    picture.info |= {"exif": exif.tobytes(), "xmp": b"<x/>"}
    data = exact.compress(picture, 3, scale=0.5)
    back = exact.decompress(data)
    assert (back.mode, back.size) == ("LA", picture.size)
    assert back.getchannel("A").tobytes() == picture.getchannel("A").tobytes()
    assert back.getexif()[0x010F] == "camera" and back.info["xmp"] == b"<x/>"
    part = exact.decompress(data, region=(77, 10, 100, 33))
    assert part.tobytes() == back.crop((77, 10, 177, 43)).tobytes()
    red, green, blue = decoding.colours(exact.transforms, data).astype(int).transpose(2, 0, 1)
    assert np.array_equal(np.asarray(back.getchannel("L")), (red + green + blue + 1) // 3)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("region", [(0, 0, 1, 1), (302, 210, 1, 1), (100, 33, 70, 151), (0, 60, 303, 5)])
def test_a_region_is_the_crop(exact, scale, region):
    data = exact.compress(PHOTO, 3, scale=scale, tile=1)
    x, y, width, height = region
    part = exact.decompress(data, region=region)
    assert part.tobytes() == exact.decompress(data).crop((x, y, x + width, y + height)).tobytes()


def test_a_partial_file_is_shown_in_its_own_size(exact):
    data = exact.compress(PHOTO, 3, scale=0.5)
    decoded = exact.decompress(data[:-40], allow_partial=True)
    assert decoded.size == (303, 211)
    part = exact.decompress(data[:-40], allow_partial=True, region=(50, 40, 60, 70))
    assert part.tobytes() == decoded.crop((50, 40, 110, 110)).tobytes()


def test_corrections_are_found_and_kept(exact):
    contents = bitstream.unpack(exact.compress(PHOTO, 3, scale=0.5))
    assert contents.correction and contents.cell_map is None and contents.complete


def test_the_plugin_shows_the_picture_s_size(exact, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.slim", quality=2, scale=0.25, model=exact)
    with Image.open(tmp_path / "photo.slim") as image:
        assert (image.size, image.mode) == ((303, 211), "RGB")
        image.verify()


def test_limits_are_those_of_the_shown_picture(exact):
    data = exact.compress(PHOTO, 3, scale=0.25)
    assert exact.decompress(data, max_pixels=303 * 211).size == (303, 211)
    with pytest.raises(InvalidFile, match="303 x 211 pixels, more than the limit"):
        exact.decompress(data, max_pixels=303 * 211 - 1)
    with pytest.raises(InvalidFile, match="max_memory"):
        exact.decompress(data, max_memory=resizing.PIECE_BYTES)


def test_files_and_batches_take_a_scale(exact, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    done = slimcodec.compress_file(tmp_path / "photo.png", tmp_path / "photo.slim", model=exact, quality=2, scale=0.5)
    assert (done.width, done.height, done.scale) == (303, 211, 0.5)
    assert done.bpp == 8 * done.bytes / (303 * 211)
    assert exact.compress_batch([PHOTO], quality=2, scale=0.5) == [(tmp_path / "photo.slim").read_bytes()]


def test_effort_is_spent_on_the_picture_that_is_coded(exact):
    photo = PHOTO[:100, :120]
    data = exact.compress(photo, 3, scale=0.5, effort=1)
    assert exact.decompress(data).size == (120, 100)


# ---- which scale


@pytest.fixture(scope="module")
def student():
    return inference.load("slim-2k")


def of(data: bytes) -> bitstream.Header:
    return bitstream.unpack(data).header


def test_full_size_is_the_default_and_scale_1(student):
    data = student.compress(PHOTO, 1)
    contents = bitstream.unpack(data)
    plain = bitstream.pack(contents.header._replace(long_paths=False), contents.streams, contents.correction)
    assert plain[4] in (2, 3) and of(data).quarters == QUARTERS and contents.correction_map is None
    assert data == student.compress(PHOTO, 1, scale=1)
    assert student.compress(PHOTO, target_bpp=0.5) == student.compress(PHOTO, target_bpp=0.5, scale=1.0)


@pytest.mark.parametrize("share", [0.8, 0.5])
def test_a_target_below_quality_1_is_met_at_the_best_scale(student, share):
    limit = int(share * len(student.compress(PHOTO, 1)))
    chosen = student.compress(PHOTO, max_bytes=limit)
    assert 0.95 * limit <= len(chosen) <= limit and of(chosen).quarters < QUARTERS
    bpp = 8 * limit / PHOTO[:, :, 0].size
    assert 8 * len(student.compress(PHOTO, target_bpp=bpp)) / PHOTO[:, :, 0].size == pytest.approx(bpp, rel=0.02)
    reached = []
    for scale in SCALES:
        try:
            reached.append(student.psnr_db(PHOTO, student.compress(PHOTO, max_bytes=limit, scale=scale)))
        except InvalidInput:
            continue  # this one takes more
    assert student.psnr_db(PHOTO, chosen) == max(reached)


def test_the_best_scale_of_a_quality_takes_no_more_bytes_and_gives_no_less(student):
    smooth = np.asarray(Image.fromarray(PHOTO).resize((606, 422), Image.Resampling.BICUBIC))
    full, best = student.compress(smooth, 1), student.compress(smooth, 1, scale="best")
    assert of(best).quarters < QUARTERS and len(best) <= len(full)
    assert student.psnr_db(smooth, best) > student.psnr_db(smooth, full)


def test_above_its_rate_the_best_is_full_size(student):
    assert student.compress(PHOTO, 6, scale="best") == student.compress(PHOTO, 6)


def test_the_best_scale_of_a_psnr_is_the_smallest_file(student):
    smooth = np.asarray(Image.fromarray(PHOTO).resize((606, 422), Image.Resampling.BICUBIC))
    wanted = student.psnr_db(smooth, student.compress(smooth, 1)) + 0.02
    full, best = (student.compress(smooth, target_psnr_db=wanted, scale=scale) for scale in (1, "best"))
    assert len(best) < len(full) and student.psnr_db(smooth, best) >= wanted


def test_a_psnr_below_quality_1_is_reached_by_fewer_bytes(student):
    least = student.psnr_db(PHOTO, student.compress(PHOTO, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = student.compress(PHOTO, target_psnr_db=least - 1)
    assert len(data) < len(student.compress(PHOTO, 1)) and student.psnr_db(PHOTO, data) >= least - 1


@pytest.mark.parametrize("scale", [0, 2, 0.3, -0.5, True, "half", "0.5", b"best", [0.5], float("nan")], ids=repr)
def test_what_is_no_scale_is_refused(exact, scale):
    with pytest.raises(InvalidInput, match=r"^scale .* must be 1, 0\.75, 0\.5, 0\.25 or 'best'$"):
        exact.compress(PHOTO, scale=scale)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_scale_may_be_a_number_of_any_kind(exact, kind):
    assert exact.compress(PHOTO, 1, scale=kind(0.75)) == exact.compress(PHOTO, 1, scale=0.75)


def test_the_plugin_opens_what_is_read_from_memory(exact):
    with Image.open(BytesIO(exact.compress(PHOTO, 1, scale=0.75))) as image:
        assert image.size == (303, 211)
