"""The evaluation package on tiny synthetic pictures, with real JPEG files, and on the published curves."""

import math
import warnings
from types import SimpleNamespace

import bjontegaard
import numpy as np
import pytest
from PIL import Image

from slimcodec import InvalidInput
from slimcodec.evaluation.anchors import PILLOW_FORMATS, PillowCodec, quoted, quoted_names
from slimcodec.evaluation.curves import (
    Curve,
    Point,
    bd_rate,
    estimated_points,
    find_photos,
    mean_curve,
    open_photo,
    psnr_at_bpp,
    read_points,
    real_points,
    write_points,
)
from slimcodec.evaluation.metrics import psnr_db
from slimcodec.evaluation.report import comparison_table, plot_curves, plot_rounds

QUALITIES = (10, 30, 60, 90)


def synthetic_photo(width, height, seed):
    """A smooth gradient with a disc and some noise: enough detail that quality matters."""
    y, x = np.mgrid[0:height, 0:width]
    disc = 80 * ((x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 3) ** 2)
    noise = np.random.default_rng(seed).normal(0, 8, (height, width, 3))
    pixels = np.stack([x * 2, y * 2, x + y], axis=-1) + disc[..., None] + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    synthetic_photo(48, 40, seed=1).save(folder / "b.png")
    synthetic_photo(64, 32, seed=2).save(folder / "inner" / "a.PNG")
    (folder / "notes.txt").write_text("not a picture")
    return find_photos(folder)


def a_point(picture="a.png", quality=1.0, bpp=1.0, psnr_db=30.0):
    return Point(picture, quality, 100.0, bpp, psnr_db, 0.1, 0.2)


def a_curve(*, bits=1.0, gain_db=0.0):
    """Six points of about 6 dB per doubling of a rate; `bits` scales the rate, `gain_db` shifts the PSNR."""
    bpp = (0.1, 0.2, 0.35, 0.6, 1.0, 1.6)
    return Curve(
        quality=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
        bpp=tuple(bits * rate for rate in bpp),
        psnr_db=tuple(40 + gain_db + 6 * math.log2(rate) - 0.3 * math.log2(rate) ** 2 for rate in bpp),
    )


# --------------------------------------------------------------------------------------------------------- metrics


def test_psnr_is_the_textbook_value():
    black = np.zeros((2, 3, 3), np.uint8)
    one_off = black.copy()
    one_off[0, 0, 0] = 255  # a mean squared error of 255² / 18
    assert psnr_db(black, one_off) == pytest.approx(10 * math.log10(18))
    assert psnr_db(one_off, black) == psnr_db(black, one_off)
    assert psnr_db(black, black) == math.inf


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((3, 2, 3), np.uint8), "2x3"),
        (np.zeros((2, 3, 3), np.float32), "float32"),
        (np.zeros((2, 3), np.uint8), r"\[2, 3\]"),
    ],
)
def test_psnr_refuses_what_is_not_the_same_kind_of_picture(picture, message):
    with pytest.raises(InvalidInput, match=message):
        psnr_db(np.zeros((2, 3, 3), np.uint8), picture)


# ---------------------------------------------------------------------------------------------------------- photos


def test_photos_are_found_in_all_folders_and_sorted(photos, tmp_path):
    assert [photo.name for photo in photos] == ["b.png", "a.PNG"]
    assert find_photos(tmp_path, limit=1) == photos[:1]
    (tmp_path / "empty").mkdir()
    for folder, message in ((tmp_path / "empty", "holds no picture"), (tmp_path / "missing", "not a folder")):
        with pytest.raises(InvalidInput, match=message):
            find_photos(folder)


def test_opening_a_photo_turns_it_as_exif_says_and_drops_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees clockwise
    synthetic_photo(16, 8, seed=0).convert("L").save(tmp_path / "turned.jpg", exif=exif, comment=b"holiday")
    photo = open_photo(tmp_path / "turned.jpg")
    assert (photo.mode, photo.size, photo.info) == ("RGB", (8, 16), {})


def test_an_unreadable_photo_is_named(tmp_path):
    synthetic_photo(64, 64, seed=0).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:500])
    (tmp_path / "text.png").write_text("hello")
    for name in ("cut.png", "text.png", "missing.png"):
        with pytest.raises(InvalidInput, match=name):
            open_photo(tmp_path / name)


# ---------------------------------------------------------------------------------------------------------- points


def test_real_points_are_those_of_the_real_files(photos):
    codec = PillowCodec("jpeg")
    points = real_points(codec, photos, QUALITIES)
    expected_order = [(photo.name, quality) for photo in photos for quality in QUALITIES]
    assert [(point.picture, point.quality) for point in points] == expected_order

    picture = open_photo(photos[0])
    data = codec.compress(picture, QUALITIES[0])
    assert points[0].bytes == len(data)
    assert points[0].bpp == 8 * len(data) / (48 * 40)
    assert points[0].psnr_db == psnr_db(np.asarray(picture), np.asarray(codec.decompress(data)))
    assert all(point.encode_seconds > 0 and point.decode_seconds > 0 for point in points)


def test_a_measurement_continues_from_what_is_done(photos):
    compressed = []

    class RecordingJpeg(PillowCodec):
        def compress(self, picture, quality):
            compressed.append((picture.size, quality))
            return super().compress(picture, quality)

    whole = real_points(PillowCodec("jpeg"), photos, QUALITIES)
    new = []
    continued = real_points(RecordingJpeg("jpeg"), photos, QUALITIES, done=whole[:6], on_point=new.append)
    assert compressed == [((64, 32), 60), ((64, 32), 90)]
    assert new == continued[6:]
    assert continued[:6] == whole[:6]
    assert mean_curve(continued) == mean_curve(whole)


def test_photos_of_the_same_name_are_refused(photos):
    with pytest.raises(InvalidInput, match=r"2 photos are named b\.png"):
        real_points(PillowCodec("jpeg"), [photos[0], photos[0]], QUALITIES)


def test_a_decoded_picture_of_another_size_is_refused(photos):
    codec = SimpleNamespace(compress=lambda picture, quality: b"", decompress=lambda data: Image.new("RGB", (8, 8)))
    with pytest.raises(InvalidInput, match="8x8"):
        real_points(codec, photos, QUALITIES)


def test_estimated_points_have_the_sizes_and_pixels_of_the_estimate(photos):
    def estimate(picture, quality):
        return SimpleNamespace(bits=10.5 * quality, pixels=255 - np.asarray(picture))

    first = estimated_points(SimpleNamespace(estimate=estimate), photos, (2.0, 4.0))[0]
    original = np.asarray(open_photo(photos[0]))
    assert (first.picture, first.quality, first.bytes, first.bpp) == ("b.png", 2.0, 21 / 8, 21 / (48 * 40))
    assert first.psnr_db == psnr_db(original, 255 - original)
    assert math.isnan(first.encode_seconds) and math.isnan(first.decode_seconds)


def test_points_survive_a_file_exactly(tmp_path):
    points = [a_point('with, "quotes" and ü.png', quality=1 / 3, bpp=0.1 + 0.2), a_point(psnr_db=math.inf)]
    write_points(points, tmp_path / "points.csv")
    assert read_points(tmp_path / "points.csv") == points
    assert [path.name for path in tmp_path.iterdir()] == ["points.csv"]


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "points.csv"
    write_points([a_point()], path)

    def interrupted():
        yield a_point("b.png")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_points(interrupted(), path)
    assert read_points(path) == [a_point()]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read"),
        ("name,size\n", "must have the columns"),
        (",".join(Point._fields) + "\na.png,1,2,3\n", "row 1"),
        (",".join(Point._fields) + "\na.png,1,2,3,4,5,much\n", "row 1"),
    ],
)
def test_a_damaged_points_file_is_refused(tmp_path, text, message):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(InvalidInput, match=message):
        read_points(tmp_path / "points.csv")


# ---------------------------------------------------------------------------------------------------------- curves


def test_a_mean_curve_averages_bpp_and_db_over_the_pictures():
    points = [
        a_point("a.png", quality=2, bpp=1.0, psnr_db=40),
        a_point("a.png", quality=1, bpp=0.5, psnr_db=30),
        a_point("b.png", quality=1, bpp=0.3, psnr_db=20),
        a_point("b.png", quality=2, bpp=0.6, psnr_db=30),
    ]
    curve = mean_curve(points)
    assert curve == Curve(quality=(1, 2), bpp=(0.4, 0.8), psnr_db=(25, 35))
    assert curve.points == ((0.4, 25), (0.8, 35))


@pytest.mark.parametrize(
    "points",
    [
        [],
        [a_point("a.png", 1), a_point("b.png", 1), a_point("a.png", 2)],
        [a_point("a.png", 1), a_point("a.png", 2), a_point("a.png", 2)],
    ],
    ids=["none", "one is missing", "one is there twice"],
)
def test_a_mean_over_different_pictures_is_refused(points):
    with pytest.raises(InvalidInput):
        mean_curve(points)


@pytest.mark.parametrize(
    ("name", "percent"),
    [
        ("compressai:hm", 23.3),
        ("compressai:bpg_444_x265_ycbcr", 22.0),
        ("compressai:compressai-mbt2018-mean_mse_cuda", 21.3),
        ("compressai:paper-elic2022_mse", -7.0),
        ("cool-chic-v5.0", -6.6),
        ("compressai:webp", 78.8),
        ("compressai:jpeg", 208.5),
    ],
)
def test_published_bd_rates_are_reproduced(name, percent):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = bd_rate(quoted("compressai:vtm"), quoted(name))
    assert result.percent == pytest.approx(percent, abs=0.3)
    assert result.monotonic


def test_bd_rate_over_the_full_overlap_is_the_packages():
    anchor, test = quoted("compressai:vtm").curve, quoted("compressai:jpeg").curve
    expected = bjontegaard.bd_rate(
        *(anchor.bpp, anchor.psnr_db, test.bpp, test.psnr_db), "pchip", require_matching_points=False, min_overlap=0
    )
    assert bd_rate(anchor, test).percent == pytest.approx(expected, abs=1e-9)


def test_bd_rate_of_scaled_rates_is_the_scale_in_any_range_and_order():
    anchor, test = a_curve(), a_curve(bits=1.25)
    assert bd_rate(anchor, test).percent == pytest.approx(25)
    assert bd_rate(anchor, test, range_db=(25, 30)).percent == pytest.approx(25)
    assert bd_rate(anchor, test.points[::-1]) == bd_rate(anchor.points, test)
    assert bd_rate(anchor, anchor).percent == pytest.approx(0)


def test_bd_rate_states_the_range_and_how_much_of_the_wanted_one_it_is():
    anchor, test = a_curve(), a_curve(gain_db=2)
    low, high = anchor.psnr_db[0], anchor.psnr_db[-1]
    full = bd_rate(anchor, test)
    assert (full.low_db, full.high_db) == (low + 2, high)
    assert full.coverage == pytest.approx((high - low - 2) / (high - low))
    assert full.percent < 0

    inside = bd_rate(anchor, test, range_db=(25, 30))
    assert inside[1:] == (25, 30, 1.0, True)
    assert inside.percent != pytest.approx(full.percent, abs=0.01)

    clipped = bd_rate(anchor, test, range_db=(low, low + 4))
    assert (clipped.low_db, clipped.high_db) == (low + 2, low + 4)
    assert clipped.coverage == pytest.approx(0.5)


def test_bd_rate_of_a_curve_that_falls_is_not_a_number():
    points = list(a_curve().points)
    points[2] = (points[2][0], points[1][1] - 0.1)
    result = bd_rate(a_curve(), points)
    assert not result.monotonic
    assert math.isnan(result.percent)
    assert result.coverage == 1


@pytest.mark.parametrize(
    ("test", "range_db", "message"),
    [
        (a_curve().points[:3], None, "4 points"),
        (a_curve(gain_db=60), None, "shares no range"),
        (a_curve(), (50, 60), "inside"),
        ([(0.0, 30), *a_curve().points], None, "positive"),
        ([(9.0, math.inf), *a_curve().points], None, "finite"),
        ([1.0, 2.0, 3.0, 4.0], None, "pairs"),
    ],
)
def test_bd_rate_refuses_what_it_cannot_compare(test, range_db, message):
    with pytest.raises(InvalidInput, match=message):
        bd_rate(a_curve(), test, range_db=range_db)


def test_psnr_at_a_rate_passes_through_the_points_and_stops_at_the_ends():
    curve = a_curve()
    assert [psnr_at_bpp(curve, bpp) for bpp in curve.bpp] == pytest.approx(curve.psnr_db)
    assert curve.psnr_db[1] < psnr_at_bpp(curve, 0.25) < curve.psnr_db[2]
    assert psnr_at_bpp(curve, 0.099) is None
    assert psnr_at_bpp(curve, 1.601) is None
    straight = [(0.1, 20), (1, 30), (10, 40)]  # in the logarithm of the rate
    assert psnr_at_bpp(straight, math.sqrt(0.1)) == pytest.approx(25)
    with pytest.raises(InvalidInput, match="different bpp"):
        psnr_at_bpp([(0.1, 20), (0.1, 21)], 0.1)


# --------------------------------------------------------------------------------------------------------- anchors


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


@pytest.mark.parametrize("name", PILLOW_FORMATS)
def test_pillow_anchors_give_a_rising_curve(name, photos):
    codec = PillowCodec(name)
    curve = mean_curve(real_points(codec, photos, codec.qualities[::2]))
    assert list(curve.bpp) == sorted(curve.bpp)
    assert curve.psnr_db[-1] > curve.psnr_db[0] + 3
    with pytest.raises(InvalidInput, match=r"not 7\.5"):
        codec.compress(open_photo(photos[0]), 7.5)


def test_the_jpeg_anchor_is_420_and_optimised(photos):
    picture = open_photo(photos[0])
    data = PillowCodec("jpeg").compress(picture, 50)
    assert b"\xff\xc0\x00\x11\x08\x00\x28\x00\x30\x03\x01\x22\x00" in data  # 8 bits, 40x48, luma sampled 2x2
    standard_huffman_tables_start = b"\xff\xc4\x00\x1f\x00\x00\x01\x05\x01\x01"
    assert standard_huffman_tables_start not in data


def test_an_unknown_anchor_is_refused():
    with pytest.raises(InvalidInput, match="choose from jpeg, webp"):
        PillowCodec("gif")


# ---------------------------------------------------------------------------------------------------------- report


def drawn(path):
    """The picture in a PNG as an array [H, W, 3], after checking that it is the only file in its folder."""
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return np.asarray(Image.open(path).convert("RGB"))


def test_plotted_curves_are_in_the_figure(tmp_path):
    path = tmp_path / "curves.png"
    plot_curves({"one": a_curve()}, path, title="Synthetic")
    one = drawn(path)
    plot_curves({"one": a_curve(), "two": a_curve(bits=1.5)}, path, title="Synthetic")
    vermilion = (0xD5, 0x5E, 0x00)
    assert not (one == vermilion).all(axis=-1).any()
    assert (drawn(path) == vermilion).all(axis=-1).sum() > 100


def test_plotted_rounds_show_accepted_and_rejected_and_the_target(tmp_path):
    def a_round(macs_per_pixel, bd_rate_percent, accepted):
        return SimpleNamespace(macs_per_pixel=macs_per_pixel, bd_rate_percent=bd_rate_percent, accepted=accepted)

    path = tmp_path / "rounds.png"
    accepted = [a_round(8000, -1.0, True), a_round(5000, 0.4, True), a_round(3500, None, False)]
    plot_rounds(accepted, path, target_macs_per_pixel=2000)
    without_rejected = drawn(path)
    plot_rounds([*accepted, a_round(3000, 2.5, False)], path, target_macs_per_pixel=2000)
    vermilion, blue = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)
    assert (without_rejected == blue).all(axis=-1).any()
    assert not (without_rejected == vermilion).all(axis=-1).any()
    assert (drawn(path) == vermilion).all(axis=-1).any()


def test_rounds_can_be_plotted_before_there_are_any(tmp_path):
    plot_rounds([], tmp_path / "rounds.png", target_macs_per_pixel=2000)
    assert drawn(tmp_path / "rounds.png").shape[2] == 3


def test_the_comparison_table_interpolates_at_the_reference_rates():
    slim = Curve(quality=(1, 2.5), bpp=(0.5, 5.0), psnr_db=(30, 40))
    jpeg = Curve(quality=(10, 90), bpp=(0.1, 1.0), psnr_db=(20, 30))
    assert comparison_table({"slim": slim, "jpeg": jpeg}, "slim").splitlines() == [
        "| quality |    bpp | slim (dB) | jpeg (dB) |",
        "|--------:|-------:|----------:|----------:|",
        "|       1 | 0.5000 |     30.00 |     26.99 |",
        "|     2.5 | 5.0000 |     40.00 |         – |",
    ]
    with pytest.raises(InvalidInput, match="'other' is not among"):
        comparison_table({"slim": slim}, "other")
