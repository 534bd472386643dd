"""The viewer's pictures and codecs, on real JPEG and WebP files of small photos."""

import io

import numpy as np
import pytest
from PIL import Image
from report_parts import PSNR, PillowFile, make_photos, make_points

from slimcodec import InvalidInput, SlimcodecError
from slimcodec.evaluation.metrics import psnr_db
from slimcodec.evaluation.points import middle
from slimcodec.report.viewer import again, largest_error, media_type, nearest, stops, views


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


@pytest.fixture
def codecs():
    return {"main": PillowFile("main"), "webp": PillowFile("webp", "webp")}


def opened(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


def test_views_show_whole_pictures_at_several_qualities(photos, codecs, tmp_path):
    points = make_points(photos, list(codecs.values()), tmp_path)
    found = views(photos, points, codecs, "main", folder=tmp_path / "crops")
    assert [view.picture for view in found] == ["astronaut.png", "chelsea.png", "coffee.png"]
    for view, photo in zip(found, photos, strict=True):
        original = Image.open(photo)
        assert (view.width, view.height) == opened(view.original).size == original.size == (160, 120)
        assert psnr_db(np.asarray(original), np.asarray(opened(view.original))) > 34
        assert [shown.quality for shown in view.codecs["main"]] == [20, 40, 60]
        for shown in view.codecs["main"]:
            point = next(p for p in points if (p.codec, p.picture, p.quality) == ("main", view.picture, shown.quality))
            assert (shown.bytes, shown.bpp, shown.metrics) == (point.bytes, point.bpp, point.metrics)
            assert shown.image == codecs["main"].compress(original, shown.quality) and not shown.copied


def test_every_codec_has_the_rates_of_the_main_one(photos, codecs, tmp_path):
    points = make_points(photos, list(codecs.values()), tmp_path)
    (view, *_) = views(photos, points, codecs, "main", folder=tmp_path / "crops")
    ladder = sorted((p for p in points if (p.codec, p.picture) == ("webp", view.picture)), key=lambda p: p.bpp)
    wanted = [nearest(ladder, shown.bpp).quality for shown in view.codecs["main"]]
    assert [shown.quality for shown in view.codecs["webp"]] == wanted


def test_a_file_that_browsers_do_not_show_is_shown_as_a_copy(photos, tmp_path):
    codecs = {"main": PillowFile("main", "tiff")}
    points = make_points(photos[:1], list(codecs.values()), tmp_path)
    (view,) = views(photos[:1], points, codecs, "main", folder=tmp_path / "crops")
    assert all(shown.copied and media_type(shown.image) == "image/avif" for shown in view.codecs["main"])
    decoded = codecs["main"].decompress(codecs["main"].compress(Image.open(photos[0]), 20))
    assert psnr_db(np.asarray(decoded), np.asarray(opened(view.codecs["main"][0].image))) > 34


def test_the_kinds_of_files_that_browsers_show(photos):
    for format in ("jpeg", "webp", "avif"):
        file = io.BytesIO()
        Image.open(photos[0]).save(file, format=format)
        assert media_type(file.getvalue()) == f"image/{format}"
    assert media_type(photos[0].read_bytes()) is None and media_type(b"") is None


def test_drawn_again_it_takes_neither_photos_nor_codecs(photos, codecs, tmp_path):
    points, folder = make_points(photos, list(codecs.values()), tmp_path), tmp_path / "crops"
    assert again(points, folder) == []
    found = views(photos, points, codecs, "main", folder=folder)
    assert again(points, folder) == found
    measured_anew = [point._replace(codec_key="another") if point.codec == "webp" else point for point in points]
    assert [set(view.codecs) for view in again(measured_anew, folder)] == [{"main"}] * 3
    gone = [point for point in points if point.picture != "coffee.png"]
    assert [view.picture for view in again(gone, folder)] == ["astronaut.png", "chelsea.png"]
    for text in ("{}", "no JSON"):
        (folder / "viewer.json").write_text(text)
        with pytest.raises(SlimcodecError, match=r"viewer\.json"):
            again(points, folder)


def test_five_codecs_are_shown(photos, tmp_path):
    codecs = {name: PillowFile(name) for name in ("a", "b", "c", "main", "d", "e", "f")}
    points = make_points(photos[:1], list(codecs.values()), tmp_path)
    (view,) = views(photos[:1], points, codecs, "main", folder=tmp_path / "crops")
    assert list(view.codecs) == ["main", "a", "b", "c", "d"]


def test_a_second_call_decodes_nothing(photos, codecs, tmp_path):
    points = make_points(photos, list(codecs.values()), tmp_path)
    first = views(photos, points, codecs, "main", folder=tmp_path / "crops")
    before = {name: codec.decoded for name, codec in codecs.items()}
    photos[0].write_bytes(photos[0].read_bytes())  # the name of a crop is the picture's hash, not its date
    assert views(photos, points, codecs, "main", folder=tmp_path / "crops") == first
    assert {name: codec.decoded for name, codec in codecs.items()} == before
    assert not list((tmp_path / "crops").glob("*.tmp"))


def test_a_codec_that_fails_is_left_out_with_the_reason(photos, codecs, tmp_path):
    points = make_points(photos, list(codecs.values()), tmp_path)
    codecs = {**codecs, "webp": PillowFile("webp", broken=True), "never": PillowFile("never")}
    (view, *_) = views(photos, points, codecs, "main", folder=tmp_path / "crops")
    assert set(view.codecs) == {"main"}
    assert view.left_out == {"webp": "timed out after 600 s", "never": "not measured on this picture"}


def test_where_the_main_codec_fails_the_others_are_shown(photos, codecs, tmp_path):
    points = make_points(photos, list(codecs.values()), tmp_path)
    codecs = {**codecs, "main": PillowFile("main", broken=True)}
    (view, *_) = views(photos, points, codecs, "main", folder=tmp_path / "crops")
    assert view.box == (0, 0, 160, 120) and set(view.codecs) == {"webp"}


def test_pictures_are_spread_from_the_worst_to_the_best(photos, codecs, tmp_path):
    points = make_points(photos, list(codecs.values()), tmp_path)
    ranked = sorted((p.metrics[PSNR], p.picture) for p in points if (p.codec, p.quality) == ("main", 40))
    found = views(photos, points, codecs, "main", folder=tmp_path / "crops", pictures=2)
    assert {view.picture for view in found} == {ranked[0][1], ranked[-1][1]}


def test_a_photo_without_points_is_not_shown(photos, codecs, tmp_path):
    points = [p for p in make_points(photos, list(codecs.values()), tmp_path) if p.picture != "coffee.png"]
    found = views(photos, points, codecs, "main", folder=tmp_path / "crops")
    assert [view.picture for view in found] == ["astronaut.png", "chelsea.png"]


def test_a_main_codec_that_is_not_there_is_refused(photos, codecs, tmp_path):
    with pytest.raises(InvalidInput, match="'slim' is not among the codecs: main, webp"):
        views(photos, [], codecs, "slim", folder=tmp_path)
    with pytest.raises(InvalidInput, match="no point of 'main'"):
        views(photos, [], codecs, "main", folder=tmp_path)


def test_the_box_is_where_every_place_has_less_error():
    random = np.random.default_rng(0)
    original = random.integers(0, 256, (23, 31, 3), dtype=np.uint8)
    decoded = random.integers(0, 256, (23, 31, 3), dtype=np.uint8)
    error = np.square(original.astype(int) - decoded).sum(axis=2)
    places = [(error[y : y + 8, x : x + 8].sum(), x, y) for y in range(16) for x in range(24)]
    _, left, top = max(places)
    assert largest_error(original, decoded, 8) == (left, top, left + 8, top + 8)
    left, top, right, bottom = largest_error(original, decoded, 27)
    assert (top, bottom, right - left) == (0, 23, 27)
    assert largest_error(original, decoded, 99) == (0, 0, 31, 23)


def test_middle_and_nearest(photos, codecs, tmp_path):
    ladder = make_points(photos[:1], [codecs["main"]], tmp_path)
    assert middle(ladder).quality == 40 and middle(ladder[:1]).quality == 20
    assert nearest(ladder, ladder[2].bpp * 1.05) == ladder[2]
    assert nearest(ladder, 100) == ladder[-1]
    assert [point.quality for point in stops(ladder)] == [20, 40, 60]
    assert [point.quality for point in stops([ladder[0]._replace(quality=q) for q in range(1, 9)])] == [1, 3, 4, 6]
