"""run.py: every experiment composes and runs, a killed run continues, another configuration is refused."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import run
import slimcodec
from slimcodec import InvalidInput
from slimcodec.codec import models
from slimcodec.training import data

ROOT = Path(run.__file__).parent
NAMES = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
# In miniature, these are others by another name: nothing is learned from running both.
SAME = {f"flagship_{piece}": "flagship" for piece in ("teacher", "student", "rounds")} | {
    "flagship_gpu_more": "flagship_gpu"
}
EXPERIMENTS = [name for name in NAMES if name not in SAME]
# One round of pruning takes the tiny student to its target.
ONE_ROUND = [
    "prune.importance_batches=1",
    "prune.target_macs_per_pixel=190",
    "prune.shrink=0.5",
    "++prune.floors={latent:8,hyper:4,g_s.0:8,g_s.1:8}",
    "validation.side=64",
    "validation.qualities=[1,3,6,8]",
]
# Seconds instead of minutes: the models and crops of the smoke test, whatever the experiment.
TINY = [
    "teacher_cache=${run_dir}-cache",
    "stages=[teacher,distill,prune,finish,evaluate,export]",
    "teacher=tiny",
    "student=tiny",
    "teacher.training.steps=2",
    "student.training.steps=2",
    "prune.training.steps=1",
    "teacher.training.steps_per_epoch=2",
    "student.training.steps_per_epoch=2",
    "prune.training.steps_per_epoch=1",
    "prune.training.crop=64",
    "++finish.training={steps:1,batch:8,crop:64,learning_rate:1.0e-3,steps_per_epoch:1,as_in_files:true}",
    "finish.start=null",
    "teacher.load=null",
    *ONE_ROUND,
    "evaluate.qualities=[1,3,6,8]",
    "evaluate.limit=1",
    "evaluate.anchors=[]",
    "evaluate.memory=false",
    "evaluate.models=[]",
]


def configuration(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with the embedded photos, as files."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    for split in ("train", "validation"):
        for name, pixels in data.embedded(split):
            Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_runs(experiment, tmp_path, photos):
    overrides = [f"experiment={experiment}", f"run_dir={tmp_path}", *TINY]
    if configuration(f"experiment={experiment}")["data"]["kind"] == "folder":
        overrides += [f"data.root={photos}", "data.held_out=2"]
    if configuration(f"experiment={experiment}")["trainer"]["accelerator"] == "gpu":
        overrides += ["trainer.accelerator=cpu"]  # the rest as it is, workers and all
    run.Run(configuration(*overrides))()
    info = json.loads((tmp_path / "student" / "model.json").read_text())
    assert info["decoder_macs_per_pixel"] <= 190
    assert info["configuration"]["finish"]["training"]["steps"] == 1
    study = tmp_path / "evaluation" / "validation"
    rows = [row for row in csv.DictReader((study / "points.csv").open()) if row["codec"] == "student"]
    assert len(rows) == 4
    assert all(float(row["bytes"]) > 28 for row in rows)
    summary = json.loads((study / "summary.json").read_text())
    assert summary["rounds"][0] == "distilled" and summary["rounds"][-1] == "student"
    for picture in ("rounds/rounds.png", "evaluation/validation/report.html"):
        assert (tmp_path / picture).stat().st_size > 1000


@pytest.mark.parametrize("name, other", SAME.items())
def test_some_experiments_are_the_same_in_miniature(name, other):
    miniatures = [configuration(f"experiment={each}", "data.root=photos", *TINY) for each in (name, other)]
    for settings in miniatures:
        for key in ("name", "run_dir", "teacher_cache"):
            settings.pop(key)
    assert miniatures[0] == miniatures[1]
    assert set(configuration(f"experiment={name}", "data.root=photos")["stages"]) <= set(run.STAGES)


@pytest.mark.parametrize("section", ["teacher", "student"])
def test_training_as_in_files_needs_a_model_that_was_saved(section):
    with pytest.raises(InvalidInput, match=rf"{section}\.training\.as_in_files.*finish\.training"):
        run.Run(configuration(f"+{section}.training.as_in_files=true"))


def test_a_negative_number_of_workers_is_named():
    with pytest.raises(InvalidInput, match=r"trainer\.crop_workers=-1: must be 0 or more"):
        run.Run(configuration("trainer.crop_workers=-1"))


@pytest.mark.parametrize("group", ["teacher", "student", "distill", "prune", "trainer"])
def test_every_configuration_composes(group):
    for option in sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml")):
        assert configuration(f"{group}={option}")[group]


def test_complete_stages_are_skipped_and_another_configuration_is_refused(tmp_path, capsys):
    overrides = ["experiment=smoke", f"run_dir={tmp_path}", *TINY]
    first = run.Run(configuration(*overrides))
    first()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights.safetensors")}
    capsys.readouterr()
    again = run.Run(configuration(*overrides))
    again()
    printed = capsys.readouterr().out
    assert printed.count("skipped") == len(run.STAGES)
    assert all(path.stat().st_mtime_ns == when for path, when in files.items())
    with pytest.raises(InvalidInput, match=r"teacher\.training\.learning_rate=0\.001, not 0\.002"):
        run.Run(configuration(*overrides, "teacher.training.learning_rate=0.002"))()


def test_a_finished_student_is_trained_on_in_a_run_of_its_own(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run.Run(configuration("experiment=smoke", f"run_dir={first}", *TINY))()
    more = [
        f"teacher.load={first / 'teacher'}",
        f"finish.start={first / 'finished'}",
        "stages=[finish,evaluate,export]",
    ]
    run.Run(configuration("experiment=smoke", f"run_dir={second}", *TINY, *more))()
    start, student = (models.load(path) for path in (first / "finished", second / "student"))
    assert student.info["architecture"] == start.info["architecture"] and student.sha256 != start.sha256
    assert "teacher" in student.info["figures"]["validation"]["bd_rate_percent"]  # null, so little is it trained


def test_unknown_stage_and_missing_target_are_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"stages.*'train'"):
        run.Run(configuration("stages=[train]"))
    overrides = ["experiment=smoke", f"run_dir={tmp_path}", *TINY, "prune.scope=both"]
    with pytest.raises(InvalidInput, match=r"prune\.encoder_target_macs_per_pixel"):
        run.Run(configuration(*overrides))()


def test_both_sides_are_pruned_each_to_its_target(tmp_path):
    overrides = ["experiment=smoke", f"run_dir={tmp_path}", *TINY]
    job = run.Run(configuration(*overrides, "prune.scope=both", "prune.encoder_target_macs_per_pixel=450"))
    job()
    info = json.loads((tmp_path / "student" / "model.json").read_text())
    assert info["decoder_macs_per_pixel"] <= 190
    assert 0.93 * 450 <= info["encoder_macs_per_pixel"] <= 450


def test_efforts_and_other_models_are_evaluated_beside(tmp_path):
    overrides = ["experiment=smoke", f"run_dir={tmp_path}", *TINY, "evaluate.efforts=[1]"]
    run.Run(configuration(*overrides, "evaluate.models=[slim-2k]"))()
    figures = json.loads((tmp_path / "student" / "model.json").read_text())["figures"]
    assert {"validation", "validation effort 1"} <= set(figures)
    assert figures["validation effort 1"]["curve"] != figures["validation"]["curve"]
    summary = json.loads((tmp_path / "evaluation" / "validation" / "summary.json").read_text())
    assert {"slim-2k", "student effort 1", "student", "teacher"} <= set(summary["codecs"])


def _command(directory, *overrides):
    cache = f"teacher_cache={directory.parent / 'cache'}"
    return [sys.executable, str(ROOT / "run.py"), "experiment=smoke", f"run_dir={directory}", cache, *overrides]


# What exists while a stage is at work, in the order of the stages.
SIGNS = {
    "teacher": "../cache/*/teacher.work/last.ckpt",
    "distill": "distilled.work/last.ckpt",
    "prune": "rounds/*/pass-1.work/last.ckpt",
    "evaluate": "evaluation/validation/points.csv",
    "export": "evaluation/summary.json",
}


def test_a_run_killed_in_each_stage_continues(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    began = {}
    for sign in SIGNS.values():
        with open(tmp_path / "log.txt", "ab") as log:
            process = subprocess.Popen(_command(tmp_path / "run"), cwd=ROOT, env=environment, stdout=log, stderr=log)
            deadline = time.monotonic() + 120
            while not list((tmp_path / "run").glob(sign)) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
        teacher = tmp_path / "run" / "teacher" / "weights.safetensors"
        if teacher.exists():
            began.setdefault("teacher", teacher.stat().st_mtime_ns)
    finished = subprocess.run(_command(tmp_path / "run"), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "teacher: complete" in finished.stdout and "distilled: complete" in finished.stdout
    assert teacher.stat().st_mtime_ns == began["teacher"]
    assert not list((tmp_path / "run").glob("**/.*.partial"))
    codec = slimcodec.load(tmp_path / "run" / "student")
    _, pixels = data.embedded("validation")[0]
    assert codec.decompress(codec.compress(pixels, 4)).size == (pixels.shape[1], pixels.shape[0])
