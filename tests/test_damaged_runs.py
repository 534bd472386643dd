"""Runs that cannot go on say so in one line, before any work: damaged files, full disks, settings that lead nowhere."""

import copy
import errno
import functools
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from run_parts import ROOT, TINY, begin, configuration
from training_parts import student

from slimcodec import InvalidInput
from slimcodec.codec.complexity import decoder_macs_per_pixel
from slimcodec.evaluation import anchors, points
from slimcodec.evaluation.photos import find_photos
from slimcodec.evaluation.summary import read as read_summary
from slimcodec.pipeline import jobs, measuring, results, stages
from slimcodec.pipeline.checks import checked, require_possible, require_targets_above_floors
from slimcodec.pipeline.run_directory import RunDirectory, require_same_configuration
from slimcodec.report import study
from slimcodec.training.checkpoints import LAST, Checkpoints

ROUND = {
    "number": 1,
    "budget": 200.0,
    "passes": 1,
    "macs_per_pixel": 190,
    "bd_rate_percent": None,
    "bd_rate_percent_against_previous": 1.5,
    "coverage": 1.0,
    "accepted": True,
    "seconds": 3.5,
    "directory": "01",
}
ROLE = {
    "photos": 2,
    "bits": "real files",
    "bd_rate_percent": {"jpeg": -3.0, "webp": None},
    "bd_rate_range_db": {"jpeg": [30.0, 40.5]},
    "date": "2026-11-28",
    "curve": {"quality": [1, 2.5], "bpp": [0.1, 0.2], "psnr_db": [30.0, 31.5]},
}
FILES = {
    "seconds.json": {"teacher": 12.5, "distill": 3},
    "rounds/rounds.json": [ROUND],
    "evaluation/summary.json": {
        "inputs": {"configuration": {}, "models": {"teacher": "a", "student": "b"}},
        "sets": {"photos": {"teacher": ROLE, "student": ROLE}},
    },
    "teacher.work/configuration.json": {"seed": 1},
    "job.json": {
        "overrides": {"seed": "1"},
        "status": "complete",
        "began": 5.0,
        "error": None,
        "seconds": None,
        "figures": None,
    },
}
DAMAGES = {
    "half": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "zeros": lambda text: "\0" * len(text),
    "list": lambda text: "[]" if text.startswith("{") else "{}",
    "null": lambda text: "null",
    "number": lambda text: "1",
    "nested": lambda text: "[" * 100_000 + "]" * 100_000,
    "nested a little": lambda text: '{"teacher":' * 200 + "1" + "}" * 200,
    "nan": lambda text: re.sub(r": -?[\d.]+", ": NaN", text),
    "other types": lambda text: text.replace("12.5", '"12.5"').replace("true", "1").replace("{}", "[]"),
}


def write(directory, file, text=None):
    path = directory / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(FILES[file], indent=1) if text is None else text)
    return path


@functools.cache
def composed():
    return configuration("experiment=smoke", *TINY)


def smoke(directory, **prune):
    """The configuration of the smallest run, with these settings of pruning."""
    settings = copy.deepcopy(composed()) | {"run_dir": str(directory), "cache": f"{directory}-cache"}
    settings["prune"] |= prune
    return settings


def possible(settings):
    """What is checked before a run's first stage."""
    found = checked(settings)
    require_possible(found, RunDirectory(Path(found.run_dir)))


def read(directory, file):
    """What reads that file when a run begins."""
    if file == "job.json":
        (found,) = jobs.read_all(directory)
        if found.error:
            raise InvalidInput(found.error)
    elif file.endswith("configuration.json"):
        require_same_configuration((directory / file).parent, {"seed": 1})
    else:
        possible(smoke(directory))


@pytest.mark.parametrize("file", FILES)
def test_whole_files_are_read(file, tmp_path):
    write(tmp_path, file)
    read(tmp_path, file)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named_with_a_remedy_before_any_work(file, damage, tmp_path):
    text = json.dumps(FILES[file], indent=1)
    damaged = DAMAGES[damage](text)
    if damaged == text:
        pytest.skip("this file has nothing of the kind")
    path = write(tmp_path, file, damaged)
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, file)
    message = str(caught.value)
    assert str(path) in message and "remove " in message and "\n" not in message and len(message) < 500


@pytest.mark.parametrize("name", ROUND)
@pytest.mark.parametrize("value", ["gone", [1], {"a": 1}])
def test_a_round_that_is_none_is_named(name, value, tmp_path):
    entry = {key: item for key, item in ROUND.items() if value != "gone" or key != name}
    entry |= {} if value == "gone" else {name: value}
    path = write(tmp_path, "rounds/rounds.json", json.dumps([entry]))
    with pytest.raises(InvalidInput, match=rf"{name} is (missing|of the wrong type)") as caught:
        read(tmp_path, "rounds/rounds.json")
    assert str(path) in str(caught.value)


# ------------------------------------------------------------------------------------------------- a study of a run


@pytest.fixture(scope="module")
def whole_study(tmp_path_factory):
    folder, out = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("study") / "study"
    for name in "ab":
        noise = np.random.default_rng(ord(name)).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).resize((96, 80), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    settings = {"qualities": {"jpeg": (20, 40, 60, 80)}, "metrics": ["psnr_rgb_db"], "with_memory": False}
    study.evaluate([anchors.codec("jpeg")], find_photos(folder), out, name="photos", **settings)
    return out


@pytest.fixture
def a_study(whole_study, tmp_path):
    return shutil.copytree(whole_study, tmp_path / "study")


def test_points_that_were_cut_off_are_noticed(a_study):
    assert study.is_whole(a_study)
    file = a_study / study.POINTS
    text = file.read_text()
    for end in (len(text) - 1, text.rindex("\n", 0, -1), text.index("\n") + 1):
        file.write_text(text[:end])
        assert not study.is_whole(a_study), end
    file.unlink()
    assert not study.is_whole(a_study)


def test_every_line_of_points_that_is_lost_is_noticed(a_study):
    file = a_study / study.POINTS
    header, *rows = file.read_text().splitlines(keepends=True)
    for number in range(len(rows)):
        file.write_text("".join([header, *rows[:number], *rows[number + 1 :]]))
        assert not study.is_whole(a_study)


@pytest.mark.parametrize("text", ["", "codec,pic", "\0" * 100, "null\n", "[" * 1000])
def test_points_that_are_none_are_named(a_study, text):
    (a_study / study.POINTS).write_text(text)
    with pytest.raises(InvalidInput, match=r"points\.csv"):
        study.is_whole(a_study)


@pytest.mark.parametrize("cell", ["nan", "inf", "-5", "0"])
def test_a_size_that_no_file_has_is_a_damaged_row(a_study, cell):
    file = a_study / study.POINTS
    header, row, *rest = file.read_text().splitlines()
    cells = row.split(",")
    cells[points.COLUMNS.index("bytes")] = cell
    file.write_text("\n".join([header, ",".join(cells), *rest, ""]))
    with pytest.raises(InvalidInput, match=r"points\.csv, row 1 is not a point"):
        points.read_points(file)


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name not in ("other types", "nan")])
def test_a_damaged_summary_of_a_study_is_named(a_study, damage):
    path = a_study / study.SUMMARY
    path.write_text(DAMAGES[damage](path.read_text()))
    for call in (read_summary, study.draw, study.is_whole):
        with pytest.raises(InvalidInput) as caught:
            call(a_study)
        assert str(path) in str(caught.value) and "remove it" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"metrics": None}, {"codecs": {"jpeg": {}}}, {"codecs": {"jpeg": 1}}, {"data": {}}])
def test_a_summary_that_lost_its_inner_parts_is_named(a_study, change):
    path = a_study / study.SUMMARY
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidInput, match=r"summary\.json: is damaged .*remove it"):
        study.is_whole(a_study)


def test_a_complete_stage_evaluate_looks_at_its_points(a_study, tmp_path, monkeypatch, capsys):
    job, hashes = begin(smoke(tmp_path / "run")), {"teacher": "a", "student": "a"}
    sets = {"photos": {"teacher": ROLE, "student": ROLE}}
    inputs = {"configuration": job.settings.sections("evaluate"), "models": hashes}
    write(tmp_path / "run", "evaluation/summary.json", json.dumps({"inputs": inputs, "sets": sets}))
    shutil.copytree(a_study, tmp_path / "run" / "evaluation" / "photos")
    monkeypatch.setattr(stages.models, "load", lambda _: SimpleNamespace(sha256="a"))
    measured, found = [], results.read(job.directory).sets["photos"]
    monkeypatch.setattr(measuring, "sets_of_photos", lambda run: {"photos": []})
    monkeypatch.setattr(measuring, "evaluate_on", lambda run, name, photos: measured.append(name) or found)
    stages.evaluate(job)
    assert not measured and "complete" in capsys.readouterr().out
    file = tmp_path / "run" / "evaluation" / "photos" / study.POINTS
    file.write_text(file.read_text()[:-5])
    stages.evaluate(job)
    assert measured and "has lost points, they are measured again" in " ".join(capsys.readouterr().out.split())


# ------------------------------------------------------------------------------------- settings that lead nowhere


@pytest.mark.parametrize("shrink", [1.5, 1, 0, -0.5, math.nan, math.inf, True, None, "half"])
def test_a_shrink_that_shrinks_nothing_is_refused(shrink, tmp_path):
    with pytest.raises(InvalidInput, match=r"prune\.shrink=.*: must be between 0 and 1"):
        checked(smoke(tmp_path, shrink=shrink))


@pytest.mark.parametrize(
    "setting, value",
    [
        ("max_passes", 0),
        ("max_passes", 1.5),
        ("max_halvings", -1),
        ("target_macs_per_pixel", -1),
        ("target_macs_per_pixel", math.nan),
        ("max_bd_rate_percent", math.nan),
        ("gate", "lenient"),
        ("scope", "nothing"),
    ],
)
def test_other_rules_by_which_no_round_ends_are_refused(setting, value, tmp_path):
    with pytest.raises(InvalidInput, match=f"prune.{setting}="):
        checked(smoke(tmp_path, **{setting: value}))


def test_a_target_below_the_floors_is_refused_with_the_number(tmp_path):
    floors = {"latent": 16, "hyper": 8, "g_s": 48, "h_mean": 16, "context": 16, "h_scale": 16}
    cost = decoder_macs_per_pixel(student())  # of the student as it is: by these floors nothing can go
    message = rf"prune\.target_macs_per_pixel=190: above the floors the decoder cannot have less than {cost:.1f} MAC"
    with pytest.raises(InvalidInput, match=message):
        possible(smoke(tmp_path, floors=floors))
    possible(smoke(tmp_path, floors=floors, target_macs_per_pixel=cost))
    possible(smoke(tmp_path, floors=floors) | {"stages": ["teacher", "distill"]})  # nothing is pruned


def test_a_target_of_the_encoder_below_its_floors_is_refused(tmp_path):
    both = {"scope": "both", "encoder_target_macs_per_pixel": 50}
    with pytest.raises(InvalidInput, match=r"prune\.encoder_target_macs_per_pixel=50: .* the encoder cannot have less"):
        possible(smoke(tmp_path, **both))
    possible(smoke(tmp_path, **both | {"encoder_target_macs_per_pixel": 450}))


def test_a_first_round_that_is_too_large_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"prune\.shrink=0\.1: the first round would go from .* take smaller rounds"):
        possible(smoke(tmp_path, shrink=0.1, target_macs_per_pixel=60))


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")))
def test_every_experiment_can_reach_its_target(name, tmp_path):
    settings = configuration(f"experiment={name}", f"run_dir={tmp_path}", "++data.root=photos", "teacher.load=null")
    require_targets_above_floors(checked(settings))


# --------------------------------------------------------------------------------------------------- full disks


class Writes(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(100_000))

    def training_step(self, *_):
        return self.weights.sum()

    def train_dataloader(self):
        return [0, 1]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_checkpoint_on_a_full_disk_is_named_and_leaves_nothing(tmp_path, file_size_limit):
    checkpoints = Checkpoints(tmp_path, minutes=0, deadline=None)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_epochs=1, callbacks=[checkpoints], default_root_dir=tmp_path, **quiet)
    with file_size_limit(50_000), pytest.raises(OSError, match="File too large") as caught:
        trainer.fit(Writes())
    assert caught.value.filename == str(tmp_path / LAST)
    assert not list(tmp_path.iterdir())
    assert jobs.outcome_of(caught.value, tmp_path).error.startswith(f"{tmp_path / LAST}: File too large; make room")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system", "runs/mine"),
        PermissionError(errno.EACCES, "Permission denied", "runs/mine"),
        shutil.Error([("from", "to", "No space left on device")]),
    ],
)
def test_what_a_disk_refuses_is_one_line_and_status_2(error, capsys):
    outcome = jobs.outcome_of(error, Path("runs/mine"))
    assert outcome.error.startswith("runs/mine: ") and "\n" not in outcome.error and "make room" in outcome.error
    with pytest.raises(SystemExit) as caught:
        jobs.leave(error, outcome)
    assert caught.value.code == 2 and capsys.readouterr().err == f"slimcodec: {outcome.error}\n"


def test_a_run_directory_that_cannot_be_written_is_one_line(tmp_path, capsys, file_size_limit):
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(SystemExit) as caught:
            jobs.require_writable(directory)
        error = capsys.readouterr().err
        assert caught.value.code == 2 and error.count("\n") == 1 and str(directory) in error and "run_dir" in error
    with file_size_limit(100_000), pytest.raises(SystemExit):
        jobs.require_writable(tmp_path / "run")
    assert "File too large" in capsys.readouterr().err and not list((tmp_path / "run").iterdir())


# ---------------------------------------------------------------------------------------------- whole commands


def command(directory, *overrides):
    cache = f"cache={directory.parent / 'cache'}"
    return [
        sys.executable,
        str(ROOT / "run.py"),
        "experiment=smoke",
        *TINY[1:],
        f"run_dir={directory}",
        cache,
        *overrides,
    ]


@pytest.mark.slow
def test_a_damaged_file_ends_the_command_with_one_line_and_status_2(tmp_path):
    path = write(tmp_path / "run", "rounds/rounds.json", "[{")
    done = subprocess.run(command(tmp_path / "run"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("slimcodec: ")]
    assert str(path) in line and not (tmp_path / "cache").exists()
    assert json.loads((tmp_path / "run" / "job.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_two_identical_commands_at_once_do_the_work_once(tmp_path):
    stages = "stages=[teacher]"
    both = [
        subprocess.Popen(
            command(tmp_path / "run", stages), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    printed = [output for output, _ in outputs]
    assert sorted("complete" in text for text in printed) == [False, True]
    assert json.loads((tmp_path / "run" / "job.json").read_text())["status"] == "complete"
    assert not list(tmp_path.glob("**/.*.partial"))


# --------------------------------------------------------------------------------------------------- photos too small


@pytest.fixture
def mixed_photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in {"a": (200, 150), "b": (150, 90), "narrow": (300, 40), "tiny": (20, 20)}.items():
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)).save(
            folder / f"{name}.png"
        )
    return folder


def folder_run(tmp_path, photos, **more):
    settings = smoke(tmp_path / "run", **more)
    data = {"kind": "folder", "root": str(photos), "validation_root": str(photos), "held_out": 0}
    return settings | {"data": {"limit": None, "max_pixels": None, "saturated": 0.0} | data}


def test_photos_that_are_too_small_are_named_before_training(tmp_path, mixed_photos):
    job = begin(folder_run(tmp_path, mixed_photos))
    with pytest.warns(UserWarning, match=r"left out of validation.*narrow\.png \(300x40\), tiny\.png \(20x20\)"):
        assert [photo.name for photo in job.photos.validation_crops] == ["a.png", "b.png"]
    with pytest.warns(UserWarning, match=r"2 of 4 photos are smaller than the 64x64 crop .* narrow\.png \(300x40\)"):
        assert job.photos.cache


def test_crops_that_no_photo_has_room_for_are_refused_before_the_first_stage(tmp_path, mixed_photos):
    settings = folder_run(tmp_path, mixed_photos)
    settings["finish"]["training"]["crop"] = 512
    with pytest.raises(InvalidInput, match="no photo is as large as the 512x512 crop"), pytest.warns(UserWarning):
        stages.teacher(begin(settings))
    assert not list(tmp_path.glob("run-cache/*/teacher*"))


def test_only_small_validation_photos_end_the_run_before_training(tmp_path, mixed_photos):
    small = tmp_path / "small"
    small.mkdir()
    shutil.copy(mixed_photos / "narrow.png", small)
    settings = folder_run(tmp_path, mixed_photos)
    settings["data"]["validation_root"] = str(small)
    settings["validation"]["limit"] = 1
    with pytest.raises(InvalidInput, match="none of the 1 validation photos"), pytest.warns(UserWarning):
        stages.teacher(begin(settings))
    assert not list(tmp_path.glob("run-cache/*/teacher*"))
    settings = folder_run(tmp_path, mixed_photos)
    settings["validation"]["side"] = 32
    with pytest.raises(InvalidInput, match=r"validation\.side=32: must be at least 64"):
        checked(settings)
