"""What is wished for is what comes out: file sizes, bits a pixel and PSNRs, or a refusal that says what is possible."""

import io
import re

import numpy as np
import pytest
import skimage.data
from PIL import Image

from slimcodec import InvalidInput
from slimcodec.codec import bitstream, encoding, inference, targets

ASTRONAUT = skimage.data.astronaut()
PHOTOS = {
    "200x300": ASTRONAUT[40:240, 120:420],
    "100x130": ASTRONAUT[80:180, 150:280],
    "17x31": ASTRONAUT[200:217, 200:231],
}


@pytest.fixture(scope="module")
def student():
    """A trained model: its PSNR rises with the quality."""
    return inference.load("slim-2k")


@pytest.fixture(params=["100x130", "17x31"])
def photo(request):
    return PHOTOS[request.param]


def psnr_db(one, other):
    return 10 * np.log10(255**2 / np.mean((np.asarray(one).astype(float) - other) ** 2))


def reach(student, photo):
    """Bytes at the lowest and at the highest quality."""
    return [len(student.compress(photo, quality)) for quality in (1, 8)]


@pytest.mark.parametrize("name, bpp", [("200x300", 0.45), ("200x300", 1), ("100x130", 0.6), ("100x130", 2.5)])
def test_bits_a_pixel_are_met_within_2_percent(student, name, bpp):
    photo = PHOTOS[name]
    data = student.compress(photo, target_bpp=bpp)
    assert 8 * len(data) / photo[:, :, 0].size == pytest.approx(bpp, rel=targets.TOLERANCE)


def test_tiny_files_are_met_to_a_word(student):
    """Their sizes are far from what a search foresees, and go up by four bytes."""
    jpeg = io.BytesIO()
    Image.fromarray(ASTRONAUT[:96, 100:196]).save(jpeg, "JPEG", quality=95)
    for quality in (3, 4, 5):
        picture = student.decompress(student.compress(Image.open(jpeg), quality))
        assert len(student.compress(picture, target_bpp=0.15)) == pytest.approx(172.8, abs=targets.WORD)


def test_a_target_counts_everything_that_is_in_the_file(student):
    """Alpha, for one, which does not depend on the quality, and what tiles cost."""
    photo = PHOTOS["100x130"]
    rgba = np.dstack([photo, np.random.default_rng(0).integers(0, 2, photo.shape[:2], dtype=np.uint8)])
    assert len(student.compress(rgba, target_bpp=2.5, tile=1)) == pytest.approx(2.5 * 13000 / 8, rel=targets.TOLERANCE)
    assert 0.97 * 4000 <= len(student.compress(rgba, max_bytes=4000, tile=1)) <= 4000


@pytest.mark.parametrize(
    "name, limit",
    [("200x300", 4000), ("200x300", 12000), ("100x130", 1000), ("100x130", 3000), ("17x31", 90), ("17x31", 120)],
)
def test_a_size_is_never_exceeded_and_used(student, name, limit):
    """Streams grow by four bytes at a time: in a file of 120 bytes, that is much."""
    size = len(student.compress(PHOTOS[name], max_bytes=limit))
    assert size <= limit and (size >= 0.97 * limit or size >= limit - 12)


def test_a_size_beyond_reach_gives_the_best_quality(student, photo):
    smallest, largest = reach(student, photo)
    for limit in (largest, 10 * largest):
        assert student.compress(photo, max_bytes=limit) == student.compress(photo, 8)
    assert len(student.compress(photo, max_bytes=smallest)) <= smallest


@pytest.mark.parametrize("name, wanted", [("200x300", 30.1), ("200x300", 34), ("100x130", 29), ("100x130", 33.3)])
def test_a_psnr_is_reached_and_hardly_exceeded(student, name, wanted):
    """A 256th of quality less would not do."""
    photo = PHOTOS[name]
    data = student.compress(photo, target_psnr_db=wanted)
    assert wanted <= psnr_db(student.decompress(data), photo) <= wanted + 0.1
    assert student.encoding(photo).psnr_db(bitstream.unpack(data).header.quality - 1) < wanted


@pytest.mark.parametrize("scale", [1, 0.5])
def test_a_psnr_below_reach_gives_the_lowest_quality(student, photo, scale):
    lowest = student.compress(photo, 1, scale=scale)
    least = student.psnr_db(photo, lowest)
    with pytest.warns(UserWarning, match=rf"^target_psnr_db 5: the lowest .* gives {least:.2f} dB here$"):
        assert student.compress(photo, target_psnr_db=5, scale=scale) == lowest


def test_a_psnr_below_reach_at_every_scale_gives_the_smallest_file(student, photo):
    files = [student.compress(photo, 1, scale=scale) for scale in targets.SCALES]
    with pytest.warns(UserWarning, match="^target_psnr_db 5: the lowest"):
        assert len(student.compress(photo, target_psnr_db=5)) == min(map(len, files))


def test_the_psnr_of_a_grey_picture_is_reached(student):
    grey = PHOTOS["100x130"][:, :, 1]
    assert psnr_db(student.decompress(student.compress(grey, target_psnr_db=31)), grey) >= 31


@pytest.mark.parametrize("wish", ["target_bpp", "max_bytes"])
@pytest.mark.parametrize("scale", [None, 1])
def test_a_size_that_is_too_small_is_refused_with_what_is_possible(student, photo, wish, scale):
    pixels = photo[:, :, 0].size
    smallest = min(len(student.compress(photo, 1, scale=s)) for s in (targets.SCALES if scale is None else [scale]))
    limit = {"target_bpp": 8 * 0.9 * smallest / pixels, "max_bytes": smallest - 1}[wish]
    size = re.escape(f"{smallest:,} bytes ({8 * smallest / pixels:.3f} bpp)")
    with pytest.raises(InvalidInput, match=rf"^{wish} .* too small .*{size} or more of it$"):
        student.compress(photo, **{wish: limit}, scale=scale)


def test_bits_a_pixel_that_are_too_many_are_refused(student, monkeypatch):
    """At once: one file says that they are, and two say what is possible."""
    made, file = [], encoding.Encoding.file

    def counted(self, fixed_quality, **settings):
        made.append(fixed_quality)
        return file(self, fixed_quality, **settings)

    monkeypatch.setattr(encoding.Encoding, "file", counted)
    with pytest.raises(InvalidInput, match=r"^target_bpp 20: cannot be met .* bytes .* to .* bytes"):
        student.compress(PHOTOS["17x31"], target_bpp=20)
    assert made == [2048, 256, 2048]


def test_a_psnr_that_is_too_high_is_refused_with_the_best_there_is(student, photo):
    best = psnr_db(student.decompress(student.compress(photo, 8)), photo)
    with pytest.raises(InvalidInput, match=rf"^target_psnr_db 99: the best .* {best:.2f} dB"):
        student.compress(photo, target_psnr_db=99)


@pytest.mark.parametrize("value", [0, -1, -0.5, float("nan"), float("inf"), "1", True, [1], 1j, b"9"], ids=repr)
@pytest.mark.parametrize("wish", ["target_bpp", "max_bytes", "target_psnr_db"])
def test_what_is_no_positive_number_is_refused(student, wish, value):
    with pytest.raises(InvalidInput, match=f"^{wish} .*must be a positive number"):
        student.compress(PHOTOS["17x31"], **{wish: value})


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_numbers_of_every_kind_are_taken(student, kind):
    for wish, value in (("target_bpp", 1), ("max_bytes", 300), ("target_psnr_db", 37)):
        wished = {wish: kind(value)}
        assert student.compress(PHOTOS["17x31"], **wished) == student.compress(PHOTOS["17x31"], **{wish: value})


@pytest.mark.parametrize(
    "wishes",
    [
        {"quality": 4, "target_bpp": 1},
        {"quality": 4, "max_bytes": 300},
        {"target_bpp": 1, "max_bytes": 300},
        {"max_bytes": 300, "target_psnr_db": 30},
        {"quality": 1, "target_bpp": 1, "max_bytes": 300, "target_psnr_db": 30},
    ],
    ids=" ".join,
)
def test_two_wishes_are_refused(student, wishes):
    with pytest.raises(InvalidInput, match=f"^{' and '.join(wishes)}: only one"):
        student.compress(PHOTOS["17x31"], **wishes)


def test_the_estimate_of_a_search_is_the_file_s_size(student, photo):
    """But for its corrections and filters, which are not known before all is coded."""
    encoding = student.encoding(photo)
    for quality in (256, 1000, 2048):
        own = encoding.correction_bits(quality) / 8
        assert abs(targets.estimated_bytes(encoding, quality) + own - len(encoding.file(quality))) <= 22
