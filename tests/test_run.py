"""run.py: every experiment composes and runs, a killed run continues, another configuration is refused."""

import csv
import json
import os
import re
import subprocess
import sys

import pytest
import torch
import warm
from PIL import Image
from run_parts import ROOT, TINY, begin, configuration, run

import slimcodec
from slimcodec import InvalidInput
from slimcodec.codec import models
from slimcodec.codec.symbols import BANK_TABLES, CORRECTION_TABLES, DEPENDENT_TABLES, FILTER_TABLES
from slimcodec.pipeline import stages
from slimcodec.pipeline.checks import checked, require_means
from slimcodec.pipeline.settings import STAGES
from slimcodec.report import plots
from slimcodec.training.photos import embedded

NAMES = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
# In miniature, these are others by another name: nothing is learned from running both.
SAME = {f"flagship_{piece}": "flagship" for piece in ("teacher", "student")} | {"flagship_gpu_more": "flagship_gpu"}
EXPERIMENTS = [name for name in NAMES if name not in SAME]
# MAC/pixel of other miniatures
MOST = {
    "flagship_encoder": ("encoder", 450),
    "family_4k": ("decoder", 194),
    "family_8k": ("decoder", 194),
    "teacher_from_slim": ("decoder", 340),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache that runs of this file have in common: what one trained, the next one takes."""
    return f"cache={tmp_path_factory.mktemp('cache')}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with the embedded photos, as files."""
    folder = tmp_path_factory.mktemp("photos")
    for split in ("train", "validation"):
        for name, pixels in embedded(split):
            Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def same(one, other):
    """Whether two networks have the same weights."""
    return all(torch.equal(*pair) for pair in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.fixture
def undrawn(monkeypatch):
    """Evaluations without figures, which take as long as all the rest: for tests that look at none."""
    monkeypatch.setattr(plots, "write_all", lambda *_: [])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_runs(experiment, tmp_path, photos, cache):
    overrides = [f"experiment={experiment}", f"run_dir={tmp_path}", *TINY, cache]
    if configuration(f"experiment={experiment}")["data"]["kind"] == "folder":
        overrides += [f"data.root={photos}", "data.held_out=2"]
    if configuration(f"experiment={experiment}")["trainer"]["accelerator"] == "gpu":
        overrides += ["trainer.accelerator=cpu"]  # the rest as it is, workers and all
    if configuration(f"experiment={experiment}")["finish"]["encoder_blocks"]:
        overrides += ["finish.encoder_blocks=[[4],[]]"]  # the miniature has two levels
    if configuration(f"experiment={experiment}")["finish"]["decoder_blocks"]:
        overrides += ["finish.decoder_blocks=[[1],[]]"]
    if configuration(f"experiment={experiment}")["finish"]["context"]:
        overrides += ["finish.context=[20,16,16,16]"]
    if (configuration(f"experiment={experiment}")["finish"]["training"] or {}).get("stored_latents"):
        overrides += ["finish.training.steps=3", "finish.training.learning_rate=0.03"]  # soap's first step is none
    if configuration(f"experiment={experiment}")["finish"]["decoder_levels"]:
        overrides += ["finish.decoder_levels=[{scale:2,channels:12,blocks:[{kind:residual,hidden:2}]}]"]
    if configuration(f"experiment={experiment}")["finish"]["encoder"]:
        overrides += ["finish.encoder={downsampling:wide,g_a:[{scale:16,channels:24}]}"]
    if configuration(f"experiment={experiment}")["finish"]["tables"]:
        overrides += ["finish.tables={photos:4,side:128,corrections:2}"]
    if configuration(f"experiment={experiment}")["finish"]["quantise"]:
        overrides += ["finish.training=null"]  # as that experiment has it
    if experiment == "family":
        overrides += ["evaluate.rounds=true"]
    if experiment == "flagship_encoder":
        overrides += ["~prune.floors", "+prune.floors={}", "prune.encoder_target_macs_per_pixel=450"]  # the miniature's
    if experiment == "smoke":
        overrides += ["evaluate.metrics=[psnr,ms_ssim]"]  # those of every run that is no miniature
    run(*overrides)
    info = json.loads((tmp_path / "student" / "model.json").read_text())
    pruned, most = MOST.get(experiment, ("decoder", 190))
    assert info[f"{pruned}_macs_per_pixel"] <= most
    training = info["configuration"]["finish"]["training"] or {"steps": 0}
    assert training["steps"] <= 3
    if parts := training.get("parts"):
        before, after = (models.load(tmp_path / folder).codec for folder in ("rounds/01", "student"))
        kept = {"g_a", "h_a", "h_scale", "h_mean", "g_s"} - set(parts)
        assert {part for part in kept if same(getattr(before, part), getattr(after, part))} == kept
        trained, old = after.context.state_dict(), before.context.state_dict()
        assert all(not torch.equal(trained[name], old[name]) for name in old if "weight" in name)
    if training.get("freeze_encoder"):
        before, after = (models.load(tmp_path / folder).codec for folder in ("rounds/01", "student"))
        assert same(before.g_a, after.g_a) and same(before.h_a, after.h_a) == (training["freeze_encoder"] is True)
        assert same(before.h_mean, after.h_mean) == info["configuration"]["finish"]["new_alone"]
        moved = after.log_gain - before.log_gain  # a second quantiser moves all of them alike, in steps of 1/16
        if training.get("stored_latents"):
            assert (moved.std() < 0.1) == training.get("freeze_gains", False)
    study = tmp_path / "evaluation" / "validation"
    rows = [row for row in csv.DictReader((study / "points.csv").open()) if row["codec"] == "student"]
    assert len(rows) == 4
    assert all(float(row["bytes"]) > 28 for row in rows)
    summary = json.loads((study / "summary.json").read_text())
    assert summary["rounds"][0] == "distilled" and summary["rounds"][-1] == "student"
    for picture in ("rounds*/rounds.png", "evaluation/validation/report.html"):
        assert [path.stat().st_size > 1000 for path in tmp_path.glob(picture)] == [True]


@pytest.mark.parametrize("name, other", SAME.items())
def test_some_experiments_are_the_same_in_miniature(name, other):
    miniatures = [configuration(f"experiment={each}", "data.root=photos", *TINY) for each in (name, other)]
    for settings in miniatures:
        for key in ("name", "run_dir", "cache"):
            settings.pop(key)
    assert miniatures[0] == miniatures[1]
    assert set(configuration(f"experiment={name}", "data.root=photos")["stages"]) <= set(STAGES)


@pytest.mark.parametrize("section", ["teacher", "student"])
def test_training_as_in_files_needs_a_model_that_was_saved(section):
    with pytest.raises(InvalidInput, match=rf"{section}\.training\.as_in_files.*finish\.training"):
        checked(configuration(f"+{section}.training.as_in_files=true"))


def test_a_negative_number_of_workers_is_named():
    with pytest.raises(InvalidInput, match=r"trainer\.crop_workers=-1: must be 0 or more"):
        checked(configuration("trainer.crop_workers=-1"))


@pytest.mark.parametrize("group", ["teacher", "student", "distill", "prune", "trainer"])
def test_every_configuration_composes(group):
    for option in sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml")):
        assert configuration(f"{group}={option}")[group]


def photo_in(folder):
    Image.fromarray(embedded("validation")[0].pixels[:64, :96]).save(folder / "photo.jpg")


@pytest.mark.usefixtures("undrawn")
def test_complete_stages_are_skipped_and_another_configuration_is_refused(tmp_path, capsys, cache, monkeypatch):
    overrides = ["experiment=smoke", f"run_dir={tmp_path}", *TINY, cache]
    run(*overrides)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights.safetensors")}
    capsys.readouterr()
    run(*overrides)
    printed = capsys.readouterr().out
    assert printed.count("skipped") == len(STAGES)
    for place in ("student", "evaluation/validation/report.html", "run.log"):
        assert f": {tmp_path / place}\n" in printed and (tmp_path / place).exists()
    photo_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    _, _, pasted = printed.partition("In Python:\n")
    assert len(pasted.splitlines()) == 3
    exec(pasted, {})
    assert Image.open("photo.png").size == (96, 64)
    assert all(path.stat().st_mtime_ns == when for path, when in files.items())
    with pytest.raises(InvalidInput, match=r"teacher\.training\.learning_rate=0\.001, not 0\.002"):
        run(*overrides, "teacher.training.learning_rate=0.002")


@pytest.mark.usefixtures("undrawn")
def test_a_finished_student_is_trained_on_in_a_run_of_its_own(tmp_path, cache):
    first, second = tmp_path / "first", tmp_path / "second"
    run("experiment=smoke", f"run_dir={first}", *TINY, cache)
    more = [
        f"teacher.load={first / 'teacher'}",
        f"finish.start={first / 'finished'}",
        "stages=[finish,evaluate,export]",
    ]
    run("experiment=smoke", f"run_dir={second}", *TINY, cache, *more)
    start, student = (models.load(path) for path in (first / "finished", second / "student"))
    assert student.info["architecture"] == start.info["architecture"] and student.sha256 != start.sha256
    assert "teacher" in student.info["figures"]["validation"]["bd_rate_percent"]  # null, so little is it trained


def test_rounds_begin_with_a_student_that_is_there_already(tmp_path, cache, capsys):
    first = run("experiment=smoke", f"run_dir={tmp_path / 'first'}", *TINY, cache, "stages=[teacher,distill]").directory
    more = [f"run_dir={tmp_path / 'second'}", *TINY, cache, f"teacher.load={first.teacher}"]
    more += [f"student.load={first.distilled}", "stages=[distill,prune]"]
    second = run("experiment=smoke", *more).directory
    assert f"distill: using {first.distilled}" in capsys.readouterr().out
    assert models.load(second.distilled).sha256 == models.load(first.distilled).sha256
    assert models.load(second.rounds("decoder") / "01").info["decoder_macs_per_pixel"] <= 190
    run("experiment=smoke", *more)
    with pytest.raises(InvalidInput, match=r"distilled: is not .*01 \(student\.load\); give another run_dir"):
        run("experiment=smoke", *more, f"student.load={second.rounds('decoder') / '01'}")
    with pytest.raises(InvalidInput, match=r"^student\.load: nobody: no model directory"):
        require_means(checked(configuration("+student.load=nobody")))


@pytest.mark.usefixtures("undrawn")
def test_a_finished_student_is_trained_on_as_its_files_are(tmp_path, cache):
    """By both quantisers, with what adapts; g_a alone is left as it was."""
    overrides = ["experiment=smoke", *TINY, cache]
    first = run(
        *overrides, f"run_dir={tmp_path / 'first'}", "++finish.tables={photos:4,side:128,corrections:3}"
    ).directory
    more = [f"teacher.load={first.teacher}", f"finish.start={first.finished}", "stages=[finish]"]
    more += [
        "finish.training.as_in_files=all",
        "+finish.training.freeze_encoder=g_a",
        "finish.training.learning_rate=1e-5",
    ]
    second = run(*overrides, f"run_dir={tmp_path / 'second'}", *more).directory
    before, after = models.load(first.finished), models.load(second.finished)
    assert torch.equal(after.tables["r_next_states"], before.tables["r_next_states"])
    torch.testing.assert_close(after.codec.log_gain, before.codec.log_gain, rtol=0, atol=0.1)
    assert same(before.codec.g_a, after.codec.g_a)
    assert not any(same(*parts) for parts in zip(parts_of(before.codec), parts_of(after.codec), strict=True))
    with pytest.raises(InvalidInput, match=r"^finish\.training\.as_in_files=all: .*set trainer\.whole_step=false$"):
        checked(configuration(*overrides, *more, "trainer.whole_step=true"))
    with pytest.raises(InvalidInput, match=r"^finish\.training\.as_in_files=both: .*set trainer\.whole_step=false$"):
        checked(configuration(*overrides, *more, "finish.training.as_in_files=both", "trainer.whole_step=true"))


def parts_of(codec):
    return codec.h_a, codec.h_scale, codec.h_mean, codec.context, codec.g_s


@pytest.mark.parametrize("training", [True, False])
def test_a_finished_student_gets_its_last_tables(tmp_path, cache, training, capsys):
    """Once it is trained, or as it is where it is not."""
    overrides = ["experiment=smoke", f"run_dir={tmp_path}", *TINY, cache, "stages=[teacher,distill,finish]"]
    overrides += ["++finish.tables={photos:4,side:128,corrections:3}"]
    overrides += [] if training else ["finish.training=null"]
    job = run(*overrides)
    said = capsys.readouterr().out
    assert "finish: corrections, 4 of 4 photos" in said and "finish: filters, 4 of 4 photos" in said
    distilled, finished = models.load(job.directory.distilled), models.load(job.directory.finished)
    more = {*BANK_TABLES, *CORRECTION_TABLES, *DEPENDENT_TABLES, *FILTER_TABLES}
    assert finished.tables.keys() - distilled.tables.keys() == more
    assert len(finished.tables["head_basis"]) == 3 and finished.info["configuration"]["finish"]["tables"]["photos"] == 4
    before, after = distilled.codec.state_dict(), finished.codec.state_dict()
    assert (before.pop("log_gain") > after.pop("log_gain")).float().mean() > 0.9 or training
    assert all(torch.equal(before[name], after[name]) for name in before) is not training
    assert job.directory.log(job.directory.finished).exists() is training
    codec, (_, pixels) = slimcodec.load(job.directory.finished), embedded("validation")[0]
    assert codec.decompress(codec.compress(pixels, 4)).size == (pixels.shape[1], pixels.shape[0])
    assert "finished: complete" in printed_by(capsys, overrides)
    with pytest.raises(InvalidInput, match=r"finish\.tables\.corrections=3, not 5"):
        run(*overrides, "finish.tables.corrections=5")


def test_a_student_is_converted_without_training(tmp_path, cache):
    """Its decoder is in integers then; y has other units, and h_a sees none of them."""
    overrides = ["experiment=smoke", f"run_dir={tmp_path}", *TINY, cache, "stages=[teacher,distill,finish]"]
    job = run(*overrides, "finish.training=null", "finish.quantise=true")
    before, after = (models.load(path).codec for path in (job.directory.distilled, job.directory.finished))
    assert after.architecture.in_integers and not before.architecture.in_integers
    assert same(before.h_a, after.h_a) and not torch.equal(before.log_gain, after.log_gain)


def printed_by(capsys, overrides):
    run(*overrides)
    return capsys.readouterr().out


def test_unknown_stage_and_missing_target_are_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"stages.*'train'"):
        checked(configuration("stages=[train]"))
    overrides = ["experiment=smoke", f"run_dir={tmp_path}", *TINY, "prune.scope=both"]
    with pytest.raises(InvalidInput, match=r"prune\.encoder_target_macs_per_pixel"):
        checked(configuration(*overrides))


@pytest.mark.usefixtures("undrawn")
def test_both_sides_are_pruned_each_to_its_target(tmp_path, cache):
    both = ["prune.scope=both", "prune.encoder_target_macs_per_pixel=450"]
    run("experiment=smoke", f"run_dir={tmp_path}", *TINY, cache, *both)
    info = json.loads((tmp_path / "student" / "model.json").read_text())
    assert info["decoder_macs_per_pixel"] <= 190
    assert 0.93 * 450 <= info["encoder_macs_per_pixel"] <= 450


@pytest.mark.usefixtures("undrawn")
def test_efforts_and_other_models_are_evaluated_beside(tmp_path, cache):
    more = ["evaluate.efforts=[1]", "evaluate.models=[slim-2k]"]
    run("experiment=smoke", f"run_dir={tmp_path}", *TINY, cache, *more)
    figures = json.loads((tmp_path / "student" / "model.json").read_text())["figures"]
    assert {"validation", "validation effort 1"} <= set(figures)
    assert figures["validation effort 1"]["curve"] != figures["validation"]["curve"]
    summary = json.loads((tmp_path / "evaluation" / "validation" / "summary.json").read_text())
    assert {"slim-2k", "student effort 1", "student", "teacher"} <= set(summary["codecs"])


def test_hydra_is_told_no_other_folder_to_work_in(tmp_path):
    """Its own name for the run directory means the same as ours."""
    log, cache = tmp_path / "log.txt", f"cache={tmp_path / 'cache'}"
    assert warm.run(["experiment=smoke", f"run_dir={tmp_path / 'a'}", cache, "hydra.job.chdir=true"], log) == 2
    assert log.read_text().splitlines() == [
        "slimcodec: hydra.job.chdir=true: paths would be of another folder; leave it out, and name run_dir=… instead"
    ]
    tiny = [override for override in TINY if not override.startswith("cache=")]
    run_dir = f"hydra.run.dir={tmp_path / 'b'}"
    assert warm.run(["experiment=smoke", *tiny, "stages=[teacher]", "logger=csv", cache, run_dir], log) == 0
    assert {path.name for path in (tmp_path / "b").iterdir()} >= {"teacher", "teacher.log", "run.log", "job.json"}
    assert not (tmp_path / "a").exists()


def test_help_is_about_this_program(tmp_path):
    log = tmp_path / "log.txt"
    assert warm.run(["--help"], log) == 0
    said = log.read_text()
    groups = {path.parent.name for path in (ROOT / "conf").glob("*/*.yaml")}
    for group in groups:
        assert re.search(rf"^{group}: ", said, re.MULTILINE), "its options"
        assert group == "architecture" or re.search(rf"^    +{group}  +\w", said, re.MULTILINE), "what it is for"
    assert "Hydra" not in said


# What exists while a stage is at work, in the order of the stages.
SIGNS = {
    "teacher": "../cache/*/teacher.work/last.ckpt",
    "distill": "../cache/*/distilled.work/last.ckpt",
    "prune": "rounds/*/pass-1.work/last.ckpt",
    "evaluate": "evaluation/validation/points.csv",
    "export": "evaluation/summary.json",
}


def test_a_run_killed_in_each_stage_continues(tmp_path):
    overrides = [f"run_dir={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}", "evaluate.metrics=[psnr]"]
    began = {}
    for sign in SIGNS.values():
        warm.kill_at(["experiment=smoke", *overrides], tmp_path / "log.txt", tmp_path / "run", sign)
        teacher = tmp_path / "run" / "teacher" / "weights.safetensors"
        if teacher.exists():
            began.setdefault("teacher", teacher.stat().st_mtime_ns)
    command = [sys.executable, str(ROOT / "run.py"), "experiment=smoke", *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert re.search(r"teacher: continues from step \d+ of 24", (tmp_path / "run" / "run.log").read_text())
    assert "teacher: complete" in finished.stdout and "distilled: complete" in finished.stdout
    assert teacher.stat().st_mtime_ns == began["teacher"]
    assert not list((tmp_path / "run").glob("**/.*.partial"))
    codec = slimcodec.load(tmp_path / "run" / "student")
    _, pixels = embedded("validation")[0]
    assert codec.decompress(codec.compress(pixels, 4)).size == (pixels.shape[1], pixels.shape[0])


@pytest.mark.usefixtures("undrawn")
def test_a_stage_is_done_once_for_all_runs_with_the_same_inputs(tmp_path, capsys):
    first, second, third = ([f"run_dir={tmp_path / name}", f"cache={tmp_path / 'cache'}"] for name in "abc")
    run("experiment=smoke", *TINY, *first)
    capsys.readouterr()
    run("experiment=smoke", *TINY, *second, "evaluate.qualities=[1,2,3,4]")
    printed = capsys.readouterr().out
    for stage in ("teacher", "distill", "finish"):
        assert f"{stage}: taken from " in printed
    assert "prune: complete in" in printed and "step" not in printed
    for place in ("teacher", "distilled", "rounds/01", "finished"):
        one, other = (tmp_path / name / place / "weights.safetensors" for name in "ab")
        assert one.read_bytes() == other.read_bytes()
    run("experiment=smoke", *TINY, *third, "distill.weights.output=0.5", "stages=[teacher,distill]")
    printed = capsys.readouterr().out
    assert "teacher: taken from" in printed and "distill: taken from" not in printed
    distilled = [(tmp_path / name / "distilled/weights.safetensors").read_bytes() for name in "ac"]
    assert distilled[0] != distilled[1]


@pytest.mark.parametrize("change", ["half_weights=false", "seed=2", "data.saturated=0.5"])
def test_what_a_stage_depends_on_is_not_taken_for_another(tmp_path, change):
    settings = [begin(configuration("experiment=smoke", f"run_dir={tmp_path}", *more)) for more in ([], [change])]
    entries = {stages.cache_entry(job, "teacher", []).path for job in settings}
    assert len(entries) == 2
