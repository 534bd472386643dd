"""The viewer's pictures, crops and codecs, on real JPEG and WebP files of small photos."""

import io

import numpy as np
import pytest
from PIL import Image
from report_parts import PSNR, PillowFile, make_photos, make_points

from slimcodec import InvalidInput
from slimcodec.report.viewer import largest_error, middle, nearest, views


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


@pytest.fixture
def codecs():
    return {"main": PillowFile("main"), "webp": PillowFile("webp", "webp")}


def opened(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


def test_views_show_what_the_codecs_decode(photos, codecs, tmp_path):
    points = make_points(photos, list(codecs.values()), tmp_path)
    found = views(photos, points, codecs, "main", folder=tmp_path / "crops", side=64)
    assert [view.picture for view in found] == ["astronaut.png", "chelsea.png", "coffee.png"]
    for view, photo in zip(found, photos, strict=True):
        left, top, right, bottom = view.box
        assert (right - left, bottom - top, view.width, view.height) == (64, 64, 160, 120)
        original = Image.open(photo)
        assert opened(view.original).tobytes() == original.crop(view.box).tobytes()
        assert max(opened(view.thumbnail).size) == 160
        shown = view.codecs["main"]
        point = next(p for p in points if (p.codec, p.picture, p.quality) == ("main", view.picture, shown.quality))
        assert (shown.quality, shown.bpp, shown.metrics) == (40, point.bpp, point.metrics)
        decoded = codecs["main"].decompress(codecs["main"].compress(original, 40))
        assert opened(shown.image).tobytes() == decoded.crop(view.box).tobytes()


def test_a_second_call_decodes_nothing(photos, codecs, tmp_path):
    points = make_points(photos, list(codecs.values()), tmp_path)
    first = views(photos, points, codecs, "main", folder=tmp_path / "crops", side=64)
    before = {name: codec.decoded for name, codec in codecs.items()}
    photos[0].write_bytes(photos[0].read_bytes())  # the name of a crop is the picture's hash, not its date
    assert views(photos, points, codecs, "main", folder=tmp_path / "crops", side=64) == first
    assert {name: codec.decoded for name, codec in codecs.items()} == before
    assert not list((tmp_path / "crops").glob("*.tmp"))


def test_a_codec_that_fails_is_left_out_with_the_reason(photos, codecs, tmp_path):
    points = make_points(photos, list(codecs.values()), tmp_path)
    codecs = {**codecs, "webp": PillowFile("webp", broken=True), "never": PillowFile("never")}
    (view, *_) = views(photos, points, codecs, "main", folder=tmp_path / "crops", side=64)
    assert set(view.codecs) == {"main"}
    assert view.left_out == {"webp": "timed out after 600 s", "never": "not measured on this picture"}


def test_where_the_main_codec_fails_the_middle_is_shown(photos, codecs, tmp_path):
    points = make_points(photos, list(codecs.values()), tmp_path)
    codecs = {**codecs, "main": PillowFile("main", broken=True)}
    (view, *_) = views(photos, points, codecs, "main", folder=tmp_path / "crops", side=64)
    assert view.box == (48, 28, 112, 92) and set(view.codecs) == {"webp"}


def test_a_smaller_picture_is_shown_whole(photos, codecs, tmp_path):
    points = make_points(photos, list(codecs.values()), tmp_path)
    (view, *_) = views(photos, points, codecs, "main", folder=tmp_path / "crops")
    assert view.box == (0, 0, 160, 120)


def test_pictures_are_spread_from_the_worst_to_the_best(photos, codecs, tmp_path):
    points = make_points(photos, list(codecs.values()), tmp_path)
    ranked = sorted((p.metrics[PSNR], p.picture) for p in points if (p.codec, p.quality) == ("main", 40))
    found = views(photos, points, codecs, "main", folder=tmp_path / "crops", side=64, pictures=2)
    assert {view.picture for view in found} == {ranked[0][1], ranked[-1][1]}


def test_a_photo_without_points_is_not_shown(photos, codecs, tmp_path):
    points = [p for p in make_points(photos, list(codecs.values()), tmp_path) if p.picture != "coffee.png"]
    found = views(photos, points, codecs, "main", folder=tmp_path / "crops", side=64)
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
