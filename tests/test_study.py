"""A study: real models and codecs on real photos, the summary, and what is left when something goes wrong."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import skimage.data
from PIL import Image

from slimcodec import InvalidInput
from slimcodec.cli import main
from slimcodec.cli.studies import default_jobs
from slimcodec.codec import complexity as codec_complexity
from slimcodec.evaluation import anchors, memory
from slimcodec.evaluation.codecs import ModelCodec, code_version, with_steps
from slimcodec.evaluation.comparison import complexity, is_kodak, references
from slimcodec.evaluation.photos import find_photos
from slimcodec.evaluation.points import Failure, read_points
from slimcodec.evaluation.summary import Width, plain, to_json
from slimcodec.evaluation.summary import read as read_summary
from slimcodec.pipeline.run_directory import RunDirectory
from slimcodec.report import study
from slimcodec.report.style import main_codec

PSNR = "psnr_rgb_db"
QUALITIES = (1.0, 3.0, 5.0, 8.0)
JPEG_QUALITIES = (20.0, 40.0, 60.0, 80.0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "chelsea", "coffee"):
        Image.fromarray(getattr(skimage.data, name)()[100:196, 120:248]).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def model(model_directory):
    return ModelCodec.find(model_directory, name="lively", qualities=QUALITIES)


def evaluated(codecs, folder, out, **settings):
    qualities = {"jpeg": JPEG_QUALITIES}
    settings = {"metrics": ["psnr_rgb_db", "aad"], "qualities": qualities, "with_memory": False} | settings
    return study.evaluate(codecs, find_photos(folder), out, name=folder.name, **settings)


def without_times(summary):
    """What must be the same however often a study was interrupted."""
    timed = ("encode_ms_per_megapixel", "decode_ms_per_megapixel")
    codecs = {n: {k: v for k, v in plain(c).items() if k not in timed} for n, c in summary.codecs.items()}
    return plain(summary) | {"codecs": codecs, "provenance": None}


def test_a_study_leaves_points_summary_figures_and_page(model, photos, tmp_path):
    summary = evaluated([model, anchors.codec("jpeg")], photos, tmp_path, command="slimcodec evaluate …")
    assert json.loads((tmp_path / study.SUMMARY).read_text()) == plain(summary)
    assert summary.data.pictures == ["astronaut.png", "chelsea.png", "coffee.png"]
    assert summary.data.megapixels == pytest.approx(3 * 96 * 128 / 1e6)
    assert set(summary.codecs) == {"lively", "jpeg"} and summary.anchors == ["jpeg"]
    curve = summary.codecs["jpeg"].curves[PSNR]
    assert curve.quality == JPEG_QUALITIES and list(curve.bpp) == sorted(curve.bpp)
    assert summary.codecs["lively"].complexity.decoder_macs_per_pixel > 0
    assert summary.codecs["jpeg"].encode_ms_per_megapixel > 0
    assert summary.quoted == {} and summary.failures == [] and summary.unavailable == {}
    entry = summary.bd_rate["jpeg"]["lively"][PSNR]
    assert entry.percent is not None or entry.reason
    assert (tmp_path / study.PAGE).stat().st_size > 10_000
    assert list((tmp_path / study.FIGURES).glob("*.png")) and list((tmp_path / study.FIGURES).glob("*.svg"))
    machine = summary.provenance.machine
    assert machine.cores >= 1 and machine.python.startswith("3.") and "torch" in machine.libraries


def test_a_second_study_adds_to_the_first_and_nothing_is_redone(model, photos, tmp_path, monkeypatch):
    first = evaluated([model], photos, tmp_path)
    written = (tmp_path / study.POINTS).read_text()
    second = evaluated([anchors.codec("jpeg")], photos, tmp_path)
    assert set(second.codecs) == {"lively", "jpeg"}
    assert second.codecs["lively"].curves == first.codecs["lively"].curves
    assert (tmp_path / study.POINTS).read_text().startswith(written)
    monkeypatch.setattr(ModelCodec, "compress", None)  # would fail
    third = evaluated([model, anchors.codec("jpeg")], photos, tmp_path)
    assert third == second._replace(provenance=third.provenance)


def test_killed_and_repeated_it_gives_the_same_summary(model_directory, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "peak_mib", lambda *_: None)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    model = ["evaluate", photos, "--model", model_directory, "--qualities", "1,3,5,8", "--codec", "jpeg"]
    arguments = [str(a) for a in (*model, "--metrics", "psnr", "--jobs", 1, "--out", killed)]
    points, done = killed / study.POINTS, []
    with subprocess.Popen([sys.executable, "-m", "slimcodec", *arguments], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while len(done) < 3 and process.poll() is None and time.monotonic() < deadline:
            done = points.read_text().split("\n")[1:-1] if points.exists() else []
        process.send_signal(signal.SIGKILL)
    assert 3 <= len(done) < 3 * (4 + 11)
    assert command(*arguments) == 0
    assert set(done) <= set(points.read_text().split("\n"))  # with their seconds: none was measured again
    assert command(*arguments[:-1], whole) == 0
    killed, whole = (without_times(read_summary(folder)) for folder in (killed, whole))
    assert killed == whole


def test_a_corrupt_picture_is_left_out_and_named(model, photos, tmp_path):
    folder = tmp_path / "with a broken one"
    folder.mkdir()
    for photo in photos.iterdir():
        (folder / photo.name).write_bytes(photo.read_bytes())
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    summary = evaluated([model], folder, tmp_path / "out")
    assert list(summary.data.left_out) == ["broken.png"]
    assert summary.codecs["lively"].pictures == 3
    for photo in photos.iterdir():
        (folder / photo.name).unlink()
    with pytest.raises(InvalidInput, match=r"nothing could be measured; .*broken\.png"):
        evaluated([model], folder, tmp_path / "nothing")


def test_a_picture_of_the_same_name_in_another_study_does_not_count(model, photos, tmp_path):
    evaluated([anchors.codec("jpeg")], photos, tmp_path / "out")
    folder = tmp_path / "others"
    folder.mkdir()
    (folder / "chelsea.png").write_bytes((photos / "coffee.png").read_bytes())
    (folder / "coffee.png").write_bytes((photos / "coffee.png").read_bytes())
    summary = evaluated([model], folder, tmp_path / "out")
    assert {name: codec.pictures for name, codec in summary.codecs.items()} == {"jpeg": 1, "lively": 2}


def test_one_quality_has_points_and_no_bd_rate(model, photos, tmp_path):
    qualities = {"lively": (4.0,), "jpeg": (50.0,)}
    summary = evaluated([model, anchors.codec("jpeg")], photos, tmp_path, qualities=qualities)
    entry = summary.bd_rate["jpeg"]["lively"][PSNR]
    assert entry.percent is None and "points" in entry.reason
    assert len(summary.codecs["lively"].curves[PSNR].bpp) == 1


def test_a_codec_that_is_not_there_is_named_and_the_others_go_on(model, photos, tmp_path, monkeypatch):
    jpeg = anchors.codec("jpeg")
    monkeypatch.setattr(type(jpeg), "unavailable", lambda self: "not installed here; install it")
    summary = evaluated([model, jpeg], photos, tmp_path)
    assert set(summary.codecs) == {"lively"}
    assert summary.failures == [Failure("", "jpeg", None, "not installed here; install it")]
    with pytest.raises(InvalidInput, match="jpeg: not installed here"):
        evaluated([jpeg], photos, tmp_path / "alone")


def test_a_folder_without_a_study_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="run slimcodec evaluate first"):
        study.draw(tmp_path)
    (tmp_path / study.SUMMARY).write_text("{}")
    with pytest.raises(InvalidInput, match="is no summary of a study"):
        study.draw(tmp_path)


def test_a_run_gives_its_teacher_and_every_step_once(model_directory, tmp_path):
    run = tmp_path / "run"
    for place in ("teacher", "distilled", "rounds/01", "rounds/02"):
        (run / place).mkdir(parents=True)
        description = json.loads((model_directory / "model.json").read_text())
        description["weights_sha256"] = hashlib.sha256(place.encode()).hexdigest()
        (run / place / "model.json").write_text(json.dumps(description))
    student = ModelCodec.find(run / "rounds" / "02", name="student")
    codecs, rounds = with_steps([student], *RunDirectory(run).models())
    assert [codec.name for codec in codecs] == ["student", "teacher", "distilled", "round 01"]
    assert rounds == ["distilled", "round 01", "student"]
    with pytest.raises(InvalidInput, match="name the directory of a run"):
        RunDirectory(tmp_path).models()


def test_complexity_adds_up_to_that_of_the_codec(architecture):
    found = complexity(architecture, parameters=7)
    assert found.decoder_macs_per_pixel == pytest.approx(codec_complexity.decoder_macs_per_pixel(architecture))
    assert found.encoder_macs_per_pixel == pytest.approx(codec_complexity.encoder_macs_per_pixel(architecture))
    assert found.widths["y (M)"] == Width("y (M)", architecture.latents, of=None)


def test_settings_tell_codecs_apart(model_directory):
    fast, slow = (ModelCodec.find(model_directory, effort=effort) for effort in (0, 3))
    assert (fast.name, slow.name) == ("lively", "lively effort 3")
    assert fast.settings != slow.settings and code_version() in fast.settings


def test_peak_memory_is_that_of_a_process(model, photos):
    photo = find_photos(photos)[0]
    of_jpeg, of_model = memory.peak_mib(anchors.codec("jpeg"), photo, 50), memory.peak_mib(model, photo, 4)
    assert 20 < of_jpeg < of_model < 4000
    assert memory.peak_mib(anchors.codec("jpeg"), Path("missing.png"), 50) is None


def test_small_things():
    assert is_kodak(f"kodim{n:02}.png" for n in range(1, 25)) and not is_kodak(["kodim01.png"])
    roles = {"slim": "student", "t": "teacher", "jpeg": None, "vvc": None}
    codecs = {name: SimpleNamespace(role=role) for name, role in roles.items()}
    assert references(codecs, kodak=True) == ["compressai:vtm", "vvc", "jpeg", "t"]
    assert references(codecs, kodak=False) == ["vvc", "jpeg", "t"]
    text = to_json({"a": (1 / 3, float("inf"), 2), "b": [float("nan"), "x, [y]"], "c": [{"d": [1]}]})
    assert json.loads(text) == {"a": [0.333333, None, 2], "b": [None, "x, [y]"], "c": [{"d": [1]}]}
    assert "[0.333333, null, 2]" in text


# -------------------------------------------------------------------------------------------------- the command line


def command(*arguments):
    return main([str(argument) for argument in arguments])


def test_one_command_makes_the_page(model_directory, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "peak_mib", lambda *_: None)
    more = ["--qualities", "1,3,5,8", "--codec", "jpeg", "--metrics", "psnr_rgb_db", "--jobs", 1]
    assert command("evaluate", photos, "--model", model_directory, "--out", tmp_path, *more) == 0
    printed = capsys.readouterr()
    assert "BD-rate against jpeg" in printed.out and str(tmp_path / study.PAGE) in printed.out
    assert command("anchors", photos, "--codec", "webp", "--qualities", "20,40,60,80", "--out", tmp_path) == 0
    assert set(read_summary(tmp_path).codecs) == {model_directory.name, "jpeg", "webp"}
    (tmp_path / study.PAGE).unlink()
    arguments = ["report", tmp_path, "--data", photos, "--pictures", 2, "--figures", tmp_path / "drawn"]
    assert command(*arguments) == 0
    page = (tmp_path / study.PAGE).read_bytes()
    assert page.count(b'"original":"data:image/avif') == 2 and list((tmp_path / "drawn").iterdir())
    assert command("report", tmp_path) == 0  # without the photos the same pictures are shown
    assert (tmp_path / study.PAGE).read_bytes() == page


def test_a_model_beside_the_one_that_the_study_is_about(model_directory, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "peak_mib", lambda *_: None)
    rival = tmp_path / "rival"
    shutil.copytree(model_directory, rival)
    description = json.loads((rival / "model.json").read_text())
    (rival / "model.json").write_text(json.dumps(description | {"role": "student"}))
    arguments = ["evaluate", photos, "--model", model_directory, "--qualities", "1,3,5,8", "--metrics", "psnr_rgb_db"]
    arguments += ["--jobs", 1, "--limit", 1, "--effort", 1, "--out", tmp_path / "out"]
    assert command(*arguments, "--codec", f"jpeg,{model_directory}") == 0  # what is measured anyway is not taken twice
    assert list(read_summary(tmp_path / "out").codecs) == ["lively effort 1", "jpeg"]
    monkeypatch.setattr(ModelCodec, "settings", property(lambda codec: codec.name))
    assert command(*arguments, "--codec", f"jpeg,{rival}") == 0
    summary = read_summary(tmp_path / "out")
    assert {name: entry.role for name, entry in summary.codecs.items()} == {
        "lively effort 1": "student",
        "jpeg": None,
        "rival effort 1": "rival",
    }
    assert main_codec(summary) == "lively effort 1" and summary.anchors == ["jpeg", "rival effort 1"]
    assert set(summary.bd_rate["rival effort 1"]) == {"lively effort 1", "jpeg"}


def test_the_study_is_about_the_model_that_is_named_now_and_later(
    model_directory, photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(memory, "peak_mib", lambda *_: None)
    other = tmp_path / "other"
    shutil.copytree(model_directory, other)
    arguments = ["evaluate", photos, "--qualities", "1,3,5,8", "--metrics", "psnr_rgb_db", "--codec", "jpeg"]
    arguments += ["--jobs", 1, "--limit", 1, "--out", tmp_path / "out"]
    both = ["--model", model_directory, "--model", other]
    assert command(*arguments, *both, "--main", "jpeg") == 2
    assert "--main jpeg: is no model of this study; those are lively, other" in capsys.readouterr().err
    assert not (tmp_path / "out" / study.POINTS).exists()
    assert command(*arguments, *both) == 0 and main_codec(read_summary(tmp_path / "out")) == "other"
    assert command(*arguments, "--model", other, "--main", "lively") == 0
    assert command(*arguments, "--model", other) == 0
    assert main_codec(read_summary(tmp_path / "out")) == "lively"


def test_names_that_are_not_utf_8(model_directory, photos, tmp_path, capsys, monkeypatch):
    """Of a photo, of the folders, of the model: kept in points.csv and summary.json, spelt for people on the page."""
    monkeypatch.setattr(memory, "peak_mib", lambda *_: None)
    model, data, out = (Path(os.fsdecode(os.fsencode(tmp_path / name) + b"\xe9")) for name in ("model", "data", "out"))
    shutil.copytree(model_directory, model)
    data.mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy(photos / "coffee.png", data / name)
    arguments = ["evaluate", data, "--model", model, "--out", out, "--codec", "jpeg", "--metrics", "psnr_rgb_db"]
    arguments += ["--qualities", "1,3,5,8", "--jobs", 1]
    assert command(*arguments) == 0
    summary, points = read_summary(out), read_points(out / study.POINTS)
    assert summary.data.pictures == [name] and summary.data.name == data.name
    assert set(summary.codecs) == {model.name, "jpeg"} and data.name in summary.provenance.commands[-1].command
    assert {(point.codec, point.picture) for point in points} == {(model.name, name), ("jpeg", name)}
    before = (out / study.POINTS).read_bytes()
    assert command(*arguments) == 0 and (out / study.POINTS).read_bytes() == before  # with its times: nothing is redone
    page = (out / study.PAGE).read_text(encoding="utf-8")
    assert r"caf\\xe9.png" in page and r"model\xe9" in page and list((out / study.FIGURES).iterdir())
    assert command("report", out, "--data", data) == 0


def test_a_model_on_another_device_is_measured_by_one_process(model):
    assert default_jobs([model, anchors.codec("jpeg")]) == os.cpu_count()
    assert default_jobs([replace(model, device="cuda"), anchors.codec("jpeg")]) == 1


def test_what_goes_wrong_on_the_command_line_is_one_line(model_directory, photos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    model, out = ["--model", model_directory], ["--out", tmp_path / "out"]
    for arguments, message in (
        (["evaluate", tmp_path / "empty", *model, *out], "holds no picture"),
        (["evaluate", photos, *out], "name a model to evaluate"),
        (["evaluate", photos, "--model", "nobody", *out], "known names"),
        (["evaluate", photos, *model, *out, "--codec", "gif"], "'gif' is no codec; choose from jpeg"),
        (["evaluate", photos, *model, *out, "--metrics", "beauty"], "beauty"),
        (["evaluate", photos, *out, "--run", tmp_path], "name the directory of a run"),
        (["anchors", photos, *out, "--codec", "jpeg,webp", "--qualities", "1,2"], "a scale of its own"),
        (["report", tmp_path / "empty"], "run slimcodec evaluate first"),
    ):
        assert command(*arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_a_corrupt_picture_ends_in_code_2_with_everything_else_done(
    model_directory, photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(memory, "peak_mib", lambda *_: None)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.png").write_bytes((photos / "chelsea.png").read_bytes())
    (folder / "bad.png").write_bytes(b"no picture")
    more = ["--qualities", "4", "--codec", "jpeg", "--metrics", "psnr_rgb_db", "--jobs", 1]
    assert command("evaluate", folder, "--model", model_directory, "--out", tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert "left out" in error and "bad.png" in error
    assert "no BD-rate of" in error and "needs 4 points" in error
    assert (tmp_path / "out" / study.PAGE).exists()


def test_what_measuring_needs_is_named_where_it_is_not_installed(model_directory, photos, tmp_path):
    script = "import sys; sys.modules['joblib'] = None\nfrom slimcodec.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["evaluate", str(photos), "--model", str(model_directory), "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'slimcodec[eval]'" in done.stderr and "Traceback" not in done.stderr
