"""Points: every photo by every codec at every quality, in real files, each once."""

import csv
import io
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from slimcodec import InvalidInput
from slimcodec.evaluation.metrics import psnr_db
from slimcodec.evaluation.photos import find_photos, names_of, open_photo
from slimcodec.evaluation.points import (
    COLUMNS,
    Point,
    codec_key,
    estimated_points,
    measure,
    read_points,
    write_points,
)

QUALITIES = (10.0, 30.0, 60.0, 90.0)
METRICS = ("psnr_rgb_db", "aad")


@dataclass(frozen=True)
class Jpeg:
    """A real codec that writes down, in a folder, what it compresses."""

    name: str = "jpeg"
    kind: str = "anchor"
    settings: str = "plain"
    qualities: tuple = QUALITIES
    log: str | None = None
    fails_at: float | None = None

    def compress(self, picture, quality):
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{picture.width} {quality}\n")
        if quality == self.fails_at:
            raise ValueError("out of\npaper")
        file = io.BytesIO()
        picture.save(file, "jpeg", quality=int(quality))
        return file.getvalue()

    def decompress(self, data):
        return Image.open(io.BytesIO(data)).convert("RGB")


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


def a_point(picture="a.png", quality=1.0, bpp=1.0, psnr_rgb_db=30.0, **fields):
    return Point("jpeg", picture, quality, 100.0, bpp, 0.1, 0.2, {"psnr_rgb_db": psnr_rgb_db}, **fields)


# ---------------------------------------------------------------------------------------------------------- photos


def test_photos_are_found_in_all_folders_and_sorted(photos, tmp_path):
    assert names_of(photos) == ["b.png", "inner/a.PNG"]
    assert find_photos(tmp_path, limit=1) == photos[:1]
    (tmp_path / "empty").mkdir()
    for folder, message in ((tmp_path / "empty", "holds no picture"), (tmp_path / "missing", "not a folder")):
        with pytest.raises(InvalidInput, match=message):
            find_photos(folder)


def test_hidden_files_and_circles_are_left_out(photos, tmp_path):
    """Thumbnails, the twins that other systems leave behind, and folders that lead back to where one came from."""
    folder = tmp_path / "photos"
    data = photos[0].read_bytes()
    for name in (".thumbnails/b.png", "inner/.cache/deep/b.png", "._b.png", "inner/._a.PNG", ".png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "inner/back").symlink_to(folder)
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "folder.png").mkdir()
    assert find_photos(folder) == photos
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/b.png").write_bytes(data)
    assert names_of(find_photos(tmp_path / ".hidden")) == ["b.png"]  # a folder that was asked for by name


@pytest.fixture
def foreign(photos):
    """The first photo under a name that is not UTF-8, as older systems and cameras left them."""
    folder = os.fsencode(photos[0].parent)
    os.rename(os.fsencode(photos[0]), folder + b"/caf\xe9, \n1.png")
    return find_photos(photos[0].parent)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_name_that_is_not_utf_8_is_kept_and_found_again(foreign, tmp_path, jobs):
    name, file, log = os.fsdecode(b"caf\xe9, \n1.png"), tmp_path / "points.csv", tmp_path / "log"
    codec = Jpeg(log=str(log), settings=f"of {name}")
    measured = measure([codec], foreign, file, metrics=METRICS, jobs=jobs)
    assert measured.failures == [] and {point.picture for point in measured.points} == {name, "inner/a.PNG"}
    assert b'"caf\xe9, \n1.png"' in file.read_bytes()
    assert read_points(file) == measured.points
    before = file.read_bytes(), log.read_text()
    assert measure([codec], foreign, file, metrics=METRICS, jobs=jobs) == measured
    assert (file.read_bytes(), log.read_text()) == before


def test_photos_of_one_name_in_two_folders_are_told_apart_and_the_same_twice_is_refused(photos):
    twin = photos[1].with_name("b.png")
    twin.write_bytes(photos[0].read_bytes())
    assert names_of([photos[0], twin]) == ["b.png", "inner/b.png"]
    with pytest.raises(InvalidInput, match=r"2 photos are named b\.png"):
        names_of([photos[0], photos[0]])


def test_opening_a_photo_turns_it_as_exif_says_and_drops_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees clockwise
    synthetic_photo(16, 8, seed=0).convert("L").save(tmp_path / "turned.jpg", exif=exif, comment=b"holiday")
    photo = open_photo(tmp_path / "turned.jpg")
    assert (photo.mode, photo.size, photo.info) == ("RGB", (8, 16), {})


@pytest.mark.filterwarnings("ignore:.*16 bits")
def test_sixteen_bits_become_the_nearest_eight(tmp_path):
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(open_photo(tmp_path / "deep.png"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_an_unreadable_photo_is_named(tmp_path):
    for name, format in (("cut.png", "png"), ("cut.avif", "avif")):
        file = io.BytesIO()
        synthetic_photo(64, 64, seed=0).save(file, format)
        (tmp_path / name).write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    (tmp_path / "text.png").write_text("hello")
    for name in ("cut.png", "cut.avif", "text.png", "missing.png"):
        with pytest.raises(InvalidInput, match=name):
            open_photo(tmp_path / name)


# -------------------------------------------------------------------------------------------------------- measuring


def test_points_are_those_of_the_real_files(photos, tmp_path):
    points, failures = measure([Jpeg()], photos, tmp_path / "points.csv", metrics=METRICS)
    assert failures == []
    expected = [(name, quality) for name in ("b.png", "inner/a.PNG") for quality in QUALITIES]
    assert [(point.picture, point.quality) for point in points] == expected
    picture = open_photo(photos[0])
    data = Jpeg().compress(picture, QUALITIES[0])
    assert (points[0].bytes, points[0].bpp) == (len(data), 8 * len(data) / (48 * 40))
    psnr = psnr_db(np.asarray(picture), np.asarray(Jpeg().decompress(data)))
    assert points[0].metrics["psnr_rgb_db"] == pytest.approx(psnr, abs=1e-6)
    assert all(point.metrics.keys() == set(METRICS) for point in points)
    assert all(point.encode_seconds > 0 and point.decode_seconds > 0 for point in points)
    assert read_points(tmp_path / "points.csv") == points


def test_processes_at_a_time_give_the_same_points(photos, tmp_path):
    alone, together = (
        measure([Jpeg()], photos, tmp_path / f"{jobs}.csv", metrics=METRICS, jobs=jobs).points for jobs in (1, 2)
    )
    untimed = [[point._replace(encode_seconds=0, decode_seconds=0) for point in run] for run in (alone, together)]
    assert untimed[0] == untimed[1]


def test_what_is_done_is_not_done_again(photos, tmp_path):
    log, file = tmp_path / "log", tmp_path / "points.csv"
    codec = Jpeg(log=str(log))
    first = measure([codec], photos, file, metrics=METRICS, qualities={"jpeg": QUALITIES[:3]}).points
    log.unlink()
    assert measure([codec], photos, file, metrics=METRICS[:1], qualities={"jpeg": QUALITIES[:3]}).points == first
    assert not log.exists()
    measure([codec], photos, file, metrics=METRICS)
    assert sorted(log.read_text().splitlines()) == ["48 90.0", "64 90.0"]
    log.unlink()
    more = measure([codec], photos, file, metrics=["psnr_y_db"], qualities={"jpeg": QUALITIES[:1]}).points
    assert len(log.read_text().splitlines()) == 2
    assert set(more[0].metrics) == {*METRICS, "psnr_y_db"}  # what was there before is still there


@pytest.mark.parametrize("change", ["the picture", "the settings"])
def test_what_has_changed_is_measured_again(photos, tmp_path, change):
    log, file = tmp_path / "log", tmp_path / "points.csv"
    other = Jpeg(name="other")
    measure([Jpeg(), other], photos, file, metrics=METRICS)
    codec = Jpeg(log=str(log), settings="newer" if change == "the settings" else "plain")
    if change == "the picture":
        synthetic_photo(56, 40, seed=3).save(photos[0])
    points = measure([codec], photos, file, metrics=METRICS).points
    again = {"the picture": [photos[0]], "the settings": photos}[change]
    assert len(log.read_text().splitlines()) == len(QUALITIES) * len(again)
    assert {point.codec_key for point in points} == {codec_key(codec)}
    kept = read_points(file)
    assert len(kept) == 2 * len(photos) * len(QUALITIES)
    assert [point for point in kept if point.codec == "jpeg"] == points


def test_a_killed_measurement_goes_on_where_it_was(photos, tmp_path):
    """A process that is killed after some points; then the same in this one, which does the rest alone."""
    log, file = tmp_path / "log", tmp_path / "points.csv"
    script = f"""
import sys, time
sys.path.insert(0, {os.path.dirname(__file__)!r})
import test_points as t
from pathlib import Path
class Slow(t.Jpeg):
    def compress(self, picture, quality):
        time.sleep(0.2)
        return super().compress(picture, quality)
t.measure([Slow()], t.find_photos({str(tmp_path / "photos")!r}), Path({str(file)!r}), metrics=t.METRICS)
"""
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while (not file.exists() or len(file.read_text().splitlines()) < 4) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    done = file.read_text().count("\n") - 1
    assert 3 <= done < 2 * len(QUALITIES)
    with open(file, "a") as journal:
        journal.write("jpeg,b.png,90,12")  # a line that was being written
    points = measure([Jpeg(log=str(log))], photos, file, metrics=METRICS).points
    assert len(log.read_text().splitlines()) == 2 * len(QUALITIES) - done
    whole = measure([Jpeg()], photos, tmp_path / "whole.csv", metrics=METRICS).points
    untimed = [[point._replace(encode_seconds=0, decode_seconds=0) for point in run] for run in (points, whole)]
    assert untimed[0] == untimed[1]


def test_a_corrupt_photo_and_a_failing_codec_are_told_and_the_rest_goes_on(photos, tmp_path):
    broken = tmp_path / "photos" / "broken.png"
    broken.write_bytes(photos[0].read_bytes()[:300])
    codecs = [Jpeg(), Jpeg(name="jam", fails_at=60.0)]
    points, failures = measure(codecs, find_photos(tmp_path / "photos"), tmp_path / "points.csv", metrics=METRICS)
    assert len(points) == 2 * (4 + 3)
    assert [(f.picture, f.codec, f.quality) for f in failures] == [
        ("b.png", "jam", 60.0),
        ("broken.png", None, None),
        ("inner/a.PNG", "jam", 60.0),
    ]
    assert failures[0].reason == "out of paper" and str(broken) in failures[1].reason


def test_a_metric_that_a_picture_cannot_have_is_kept_with_its_reason(photos, tmp_path):
    log, file = tmp_path / "log", tmp_path / "points.csv"
    for _ in range(2):
        points = measure([Jpeg(log=str(log))], photos, file, metrics=["psnr_rgb_db", "ms_ssim"]).points
    assert len(log.read_text().splitlines()) == 2 * len(QUALITIES)  # the second time nothing
    assert all("ms_ssim" not in point.metrics and point.missing["ms_ssim"] for point in points)
    assert f"cannot: {points[0].missing['ms_ssim']}" in file.read_text()


def test_a_decoded_picture_of_another_size_is_a_failure(photos, tmp_path):
    class Small(Jpeg):
        def decompress(self, data):
            return Image.new("RGB", (8, 8))

    points, failures = measure([Small()], photos, tmp_path / "points.csv", metrics=METRICS)
    assert points == [] and all("8x8" in failure.reason for failure in failures)


def test_two_codecs_of_one_name_are_refused(photos, tmp_path):
    with pytest.raises(InvalidInput, match="2 codecs are named jpeg"):
        measure([Jpeg(), Jpeg(settings="other")], photos, tmp_path / "points.csv")


def test_estimated_points_have_the_sizes_and_pixels_of_the_estimate(photos):
    def estimate(picture, quality):
        return SimpleNamespace(bits=10.5 * quality, pixels=255 - np.asarray(picture))

    first = estimated_points(SimpleNamespace(estimate=estimate), photos, (2.0, 4.0))[0]
    original = np.asarray(open_photo(photos[0]))
    assert (first.picture, first.quality, first.bytes, first.bpp) == ("b.png", 2.0, 21 / 8, 21 / (48 * 40))
    assert first.metrics == {"psnr_rgb_db": psnr_db(original, 255 - original)}
    assert math.isnan(first.encode_seconds) and math.isnan(first.decode_seconds)


# ------------------------------------------------------------------------------------------------------------ files


def test_points_survive_a_file_exactly(tmp_path):
    points = [
        a_point('with, "quotes" and ü\u2028.png', quality=1 / 3, bpp=0.1 + 0.2),
        a_point(psnr_rgb_db=math.inf, missing={"ms_ssim": "too small, sadly"}, picture_sha256="ab", codec_key="cd"),
    ]
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
        (",".join(COLUMNS) + "\njpeg,a.png,1,2,3\n", "row 1"),
        (",".join(COLUMNS) + "\njpeg,a.png,1,2,3,4,much" + "," * (len(COLUMNS) - 7) + "\n", "row 1"),
    ],
)
def test_a_damaged_points_file_is_refused(tmp_path, text, message):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(InvalidInput, match=message):
        read_points(tmp_path / "points.csv")


def test_the_columns_are_those_that_a_reader_expects(tmp_path):
    write_points([a_point()], tmp_path / "points.csv")
    (row,) = csv.DictReader((tmp_path / "points.csv").open())
    assert (row["codec"], row["picture"], row["psnr_rgb_db"], row["ms_ssim"]) == ("jpeg", "a.png", "30.0", "")
