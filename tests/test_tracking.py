"""Loggers of a run. W&B for real, offline: what its files hold is read back."""

import contextlib
import csv
import io
import json
import os
import re
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import wandb
from PIL import Image
from run_parts import ROOT, TINY, begin, configuration, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from wandb.proto import wandb_internal_pb2

from slimcodec import InvalidInput
from slimcodec.codec import models
from slimcodec.evaluation.comparison import VTM
from slimcodec.evaluation.curves import Curve
from slimcodec.pipeline import results
from slimcodec.pipeline.checks import checked
from slimcodec.pipeline.loggers import Tracker
from slimcodec.pipeline.plan import Fit
from slimcodec.pipeline.run_directory import RunDirectory
from slimcodec.pipeline.settings import STAGES
from slimcodec.pipeline.tracking import tracker
from slimcodec.training import parallel
from slimcodec.training.errors import TrainingInterrupted
from slimcodec.training.names import DISTILLATION_TERMS
from slimcodec.training.records import Round

SECTION = {"project": "tests", "pictures": 1, "qualities": [2], "init_timeout_seconds": 2, "finish_timeout_seconds": 60}
BLOCK, HEADER = 32768, 7  # bytes; a .wandb file is a LevelDB log behind a header of its own
FULL, LAST = 1, 4


class Records(NamedTuple):
    """One .wandb file: its records by type, and its history as plain values."""

    records: list
    path: Path

    def __getitem__(self, kind: str) -> list:
        return [getattr(record, kind) for record in self.records if record.WhichOneof("record_type") == kind]

    @property
    def history(self) -> list[dict]:
        return [_plain(line.item) for line in self["history"]]

    @property
    def configuration(self) -> dict:
        updates = [*self["run"][0].config.update, *(item for record in self["config"] for item in record.update)]
        return _plain(updates)

    def metric(self, name: str) -> list:
        return [line[name] for line in self.history if name in line]

    def against(self, name: str, step: str) -> list[tuple]:
        return [(line[step], line[name]) for line in self.history if name in line]

    def tables(self, name: str) -> list[list[dict]]:
        """Of each that was logged under the name: its rows."""
        read = [json.loads((self.path.parent / "files" / path).read_text()) for path in self.metric(f"{name}/path")]
        return [[dict(zip(table["columns"], row, strict=True)) for row in table["data"]] for table in read]

    @property
    def summary(self) -> dict:
        return {name: value for update in self["summary"] for name, value in _plain(update.update).items()}

    def images(self, name: str) -> list[Path]:
        lists = self.metric(f"{name}/filenames") or [[path] for path in self.metric(f"{name}/path")]
        return [self.path.parent / "files" / path for paths in lists for path in paths]


def _plain(items) -> dict:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def read(path: Path, *, whole: bool = True) -> Records:
    """What is in a file; `whole` waits for the end of its run, which one that was killed does not have.

    W&B writes from a process of its own, and on a busy machine that may end after `finish` has returned.
    """
    deadline = time.monotonic() + (30 if whole else 0)
    while not (found := Records(list(_records(path.read_bytes())), path))["exit"] and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _records(data: bytes):
    place, record = HEADER, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:  # the rest of a block is padding
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (FULL, LAST):
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def files(directory: Path) -> list[Path]:
    """Of the W&B runs in a run directory, the earliest first."""
    return sorted(directory.glob("wandb/*run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)


@contextlib.contextmanager
def fresh_wandb(folder: Path, **variables: str):
    """W&B as on a machine that never saw it: it reads its environment once."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        for name in ("CONFIG_DIR", "CACHE_DIR", "DATA_DIR"):
            patch.setenv(f"WANDB_{name}", str(folder / "home"))
        patch.setenv("NETRC", str(folder / "netrc"))
        for name, value in variables.items():
            patch.setenv(name, value)
        wandb.teardown()
        yield
        wandb.teardown()


@pytest.fixture
def no_account(tmp_path):
    with fresh_wandb(tmp_path):
        yield


TEACHER = Fit("teacher")


def make(directory: Path, **section) -> Tracker:
    settings = configuration("experiment=smoke", "name=sweep", f"run_dir={directory}", "stages=[teacher]")
    settings["logger"] = {"wandb": SECTION | section}
    return tracker(checked(settings), RunDirectory(directory))


# ---------------------------------------------------------------------------------------------- a whole run, read back


FITS = {
    "teacher": "teacher.log",
    "distill": "distilled.log",
    "prune": "rounds/01-190.work/pass-1.log",
    "finish": "finished.log",
}
MEASURED_WHILE_TRAINING = ("learning_rate", "pictures_per_second", "gradient_norm", "log_cost")


class Job(NamedTuple):
    directory: Path
    settings: dict
    printed: str
    first: Records  # the teacher
    second: Records  # the same command later: all that was left


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracking")
    directory, printed = folder / "run", io.StringIO()
    overrides = ["experiment=smoke", f"run_dir={directory}", *TINY, "logger=[csv,wandb]", "trainer.log_every_n_steps=1"]
    with fresh_wandb(folder), contextlib.redirect_stdout(printed):
        run(*overrides, "stages=[teacher]")
        run(*overrides)
    assert len(files(directory)) == 2
    return Job(directory, configuration(*overrides), printed.getvalue(), *map(read, files(directory)))


def test_a_resumed_job_goes_on_with_its_run(job):
    kept = (job.directory / "wandb-id.txt").read_text().strip()
    assert job.first["run"][0].run_id == job.second["run"][0].run_id == kept
    assert job.first["exit"][0].exit_code == job.second["exit"][0].exit_code == 0
    assert job.printed.count("there is no key, so this run is kept offline") == 2
    assert job.printed.count("wandb:") == 2
    folders = job.directory / "wandb" / "offline-run-*"
    assert f"W&B: run {kept} of project slimcodec; wandb sync {folders}\n" in job.printed


def test_the_run_has_configuration_group_and_type(job):
    started = job.second["run"][0]
    assert (started.project, started.run_group, started.display_name) == ("slimcodec", "smoke", "run")
    assert [records["run"][0].job_type for records in (job.first, job.second)] == ["teacher", "run"]
    assert {name: job.second.configuration[name] for name in job.settings} == job.settings
    assert job.second["stats"], "system metrics"


@pytest.mark.parametrize("name, folder", FITS.items())
def test_losses_and_validation_are_against_the_steps_of_their_stage(job, name, folder):
    """The same values as in the CSV, whose files are one a fit. Names are the same for every run."""
    records = job.first if name == "teacher" else job.second
    rows = list(csv.DictReader((job.directory / folder / "version_0" / "metrics.csv").open()))
    wanted = {f"train/{each}": f"train/{each}" for each in ("rate_distortion", "bpp", "mse", *MEASURED_WHILE_TRAINING)}
    wanted |= {"val/bpp": "val/bpp_4", "val/psnr_db": "val/psnr_4", "val/log_loss": "val/log_loss"}
    if name != "teacher":
        wanted |= {
            f"train/{term}": f"train/{term}" for term in ("output", "latent", "hyper_latent", "decoder", "hyper")
        }
    for metric, column in wanted.items():
        expected = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        assert expected, metric
        found = records.against(f"{name}/{metric}", f"{name}/step")
        assert np.array(found) == pytest.approx(np.array(expected))
    defined = {metric.name: metric for metric in records["metric"]}
    assert {defined[f"{name}/{metric}"].step_metric for metric in wanted} == {f"{name}/step"}
    assert defined[f"{name}/val/log_loss"].summary.min and defined[f"{name}/val/psnr_db"].summary.max
    (table,) = records.tables(f"{name}/qualities")
    assert [row["quality"] for row in table] == list(range(1, 9))
    last = next(row for row in reversed(rows) if row["val/bpp_1"])
    assert table[6]["bpp"] == pytest.approx(float(last["val/bpp_7"])) and table[6]["step"] == int(last["step"])
    assert not any(re.search(r"_\d+$", key) for line in records.history for key in line), "a name for each quality"


def test_rounds_are_there_with_their_path(job):
    (record,) = json.loads((job.directory / "rounds" / "rounds.json").read_text())
    assert job.second.against("prune/macs_per_pixel", "prune/round") == [(1, record["macs_per_pixel"])]
    assert job.second.metric("prune/accepted") == [1]
    assert set(job.second.metric("prune/round")) == {1}
    ((attempt,),) = job.second.tables("prune/attempts")
    assert (attempt["round"], attempt["budget"], attempt["seconds"]) == (1, record["budget"], record["seconds"])
    (path,) = job.second.images("prune/path")
    assert path.read_bytes() == (job.directory / "rounds" / "rounds.png").read_bytes()


def test_the_summary_is_of_the_exported_student(job):
    """Costs, size, BD-rates and seconds, by names that are the same for every run."""
    summary, student = job.second.summary, json.loads((job.directory / "student" / "model.json").read_text())
    for name in ("decoder_macs_per_pixel", "encoder_macs_per_pixel", "parameters"):
        assert summary[name] == student[name]
    assert summary["model_bytes"] == (job.directory / "student" / "weights.safetensors").stat().st_size
    teacher = json.loads((job.directory / "teacher" / "model.json").read_text())
    assert summary["teacher/decoder_macs_per_pixel"] == teacher["decoder_macs_per_pixel"]
    percents = student["figures"]["validation"]["bd_rate_percent"]
    assert {name: summary.get(f"bd_rate/validation/{name}") for name in percents} == percents
    seconds = json.loads((job.directory / "seconds.json").read_text())
    assert {stage: summary[f"seconds/{stage}"] for stage in STAGES} == seconds
    assert summary["seconds/total"] == pytest.approx(sum(seconds.values()))
    assert summary["prune/macs_per_pixel"] == {"min": summary["decoder_macs_per_pixel"]}


def test_an_anchor_that_was_published_is_called_by_what_it_is_of():
    assert [results.short(name) for name in (VTM, "vvc", "teacher")] == ["vtm", "vvc", "teacher"]


def test_curves_are_a_chart_that_overlays_runs_and_a_table(job):
    (chart,), (table,) = job.second.tables("rate_distortion/validation_table"), job.second.tables("curves/validation")
    assert {row["codec"] for row in chart} == {"student"} and {row["codec"] for row in table} == {"student", "teacher"}
    figures = json.loads((job.directory / "student" / "model.json").read_text())["figures"]["validation"]["curve"]
    assert [(row["bpp"], row["psnr_db"]) for row in chart] == list(zip(figures["bpp"], figures["psnr_db"], strict=True))
    described = job.second.configuration["_wandb/visualize/rate_distortion/validation"]
    assert described["panel_config"]["panelDefId"] == "wandb/line/v0"


def test_every_name_is_in_the_documentation(job):
    """And no metric has a name that only this run has."""
    page = (ROOT / "docs" / "tracking.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([\w/]+)`", page))
    known = {name.replace("STAGE", stage) for name in documented for stage in (*FITS, "evaluate", "export")}
    known |= {f"{stage}/train/{term}" for stage in FITS for term in DISTILLATION_TERMS}
    known |= {f"{stage}/step" for stage in FITS}
    known = {name.replace("SET", "validation") for name in known}
    for records in (job.first, job.second):
        axes = {metric.name for metric in records["metric"]}
        told = {name for name, value in records.summary.items() if isinstance(value, int | float | dict)}
        own = ("_runtime", "_step", "_timestamp", "_wandb")
        pictures = ("reconstructions/", "validation/", "evaluation/")  # keys of W&B's own below them
        scalars = {name for name in told if not name.startswith((*own, *pictures)) and "_type" not in name}
        of_tables = {name for name in scalars if re.search(r"/(qualities|attempts|path|validation(_table)?)/", name)}
        assert axes - known == set()
        assert scalars - of_tables - known == set()


def test_what_is_later_has_later_steps(job):
    """W&B's own steps: lines of a resumed run that had earlier ones would be taken for those."""
    first, second = ([line.step.num for line in records["history"]] for records in (job.first, job.second))
    assert first == sorted(set(first)) and second == sorted(set(second)) and first[-1] < second[0]


def test_curves_are_plots(job):
    assert len(job.second.images("validation/rate_distortion")) == 3  # teacher, distilled and the round: one more each
    (drawn,) = job.second.images("evaluation/validation/rate_distortion")
    study = job.directory / "evaluation" / "validation" / "figures"
    assert drawn.read_bytes() == (study / "psnr_rgb_db.png").read_bytes()


def test_reconstructions_are_beside_the_original_and_the_teachers(job):
    originals = begin(job.settings).photos.validation_crops
    for quality in (2, 6):
        name = f"reconstructions/quality_{quality}"
        captions = job.second.metric(f"{name}/captions")
        assert [words[0].split(",")[0] for words in captions] == ["distilled", "rounds/01", "finished"]
        assert all(" | teacher " in words[0] and " | student " in words[0] for words in captions)
        shown = [np.asarray(Image.open(path)) for path in job.second.images(name)]
        assert len(shown) == 3 * len(originals)
        for pixels, original in zip(shown, 3 * originals, strict=True):
            height, width = original.pixels.shape[:2]
            assert pixels.shape == (height, 3 * width, 3)
            assert np.array_equal(pixels[:, :width], original.pixels)
        before, after = shown[0], shown[-len(originals)]
        assert np.array_equal(before[:, width : 2 * width], after[:, width : 2 * width])  # the teacher's
        assert not np.array_equal(before[:, 2 * width :], after[:, 2 * width :])
        teacher_alone = job.first.images(name)[0]
        assert np.asarray(Image.open(teacher_alone)).shape == (height, 2 * width, 3)


def models_among(records: Records) -> list:
    return [artifact for artifact in records["artifact"] if artifact.type == "model"]


def test_report_data_and_configuration_are_artifacts(job):
    for records in (job.first, job.second):
        found = {artifact.type: artifact for artifact in records["artifact"]}
        assert found["dataset"].use_after_commit and found["configuration"].use_after_commit
        assert found["dataset"].name == f"data-{records.configuration['data_sha256'][:12]}"
        assert found["dataset"].manifest.contents[0].path == "dataset.json"
    report = found["report"].manifest.contents[0]
    assert Path(report.local_path) == job.directory / "evaluation" / "validation" / "report.html"


def test_models_are_artifacts_with_lineage(job):
    (teacher,) = models_among(job.first)
    assert (teacher.name, teacher.type, teacher.use_after_commit) == ("teacher-tiny", "model", False)
    used, *students = models_among(job.second)
    assert (used.name, used.use_after_commit, used.digest) == ("teacher-tiny", True, teacher.digest)
    aliases = [set(student.aliases) - {"latest"} for student in students]
    assert aliases == [{"distilled"}, {"rounds-01"}, {"finished"}, {"student"}]
    of_teacher = models.load(job.directory / "teacher").sha256
    for student, folder in zip(students, ("distilled", "rounds/01", "finished", "student"), strict=True):
        assert student.name == "student-smoke-run"
        metadata, info = json.loads(student.metadata), models.load(job.directory / folder).info
        assert metadata["teacher"] == {"name": "tiny", "sha256": of_teacher}
        assert metadata["weights_sha256"] == info["weights_sha256"]
        held = {entry.path: Path(entry.local_path) for entry in student.manifest.contents}
        assert held == {path.name: path for path in (job.directory / folder).iterdir()}


# --------------------------------------------------------------------------------------------------- what goes wrong


def test_without_an_answer_from_the_network_training_goes_on(tmp_path, capsys):
    overrides = ["experiment=smoke", f"run_dir={tmp_path}", *TINY, "logger=wandb", "stages=[teacher]"]
    unreachable = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": 40 * "0"}
    with fresh_wandb(tmp_path, **unreachable):
        run(*overrides, "logger.wandb.init_timeout_seconds=1", "trainer.log_every_n_steps=1")
    assert "this run is kept offline; `wandb sync` uploads it" in capsys.readouterr().out
    assert (tmp_path / "teacher" / "model.json").is_file()
    records = read(files(tmp_path)[-1])
    assert len(records.metric("teacher/train/bpp")) == 2
    assert records["run"][0].run_id == (tmp_path / "wandb-id.txt").read_text().strip()


class Answers(BaseHTTPRequestHandler):
    """As little of W&B's server as a run needs to begin."""

    owner: ClassVar = {"id": "1", "name": "me"}
    bucket: ClassVar = {"id": "1", "name": "id", "displayName": "run", "project": {"name": "p", "entity": owner}}
    known: ClassVar = {
        "Viewer": {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}},
        "RunResumeStatus": {"model": {"id": "1", "name": "p", "entity": owner, "bucket": None}},
        "UpsertBucket": {"upsertBucket": {"bucket": bucket, "inserted": True}},
    }

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"] or 0))
        operation = json.loads(asked).get("operationName") if self.path == "/graphql" else None
        answer = json.dumps({"data": self.known.get(operation, {})}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def test_when_the_network_dies_under_a_run_everything_is_kept_on_disk(tmp_path, capsys):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever).start()
    address = f"http://127.0.0.1:{server.server_port}"
    account = {"WANDB_BASE_URL": address, "WANDB_API_KEY": 40 * "0"}
    patience = {"init_timeout_seconds": 20, "finish_timeout_seconds": 2}
    with fresh_wandb(tmp_path, **account), make(tmp_path / "run", **patience) as tracked:
        tracked.log(TEACHER, {"train/bpp": 1.0}, 0)
        assert not tracked.run.offline
        server.shutdown()
        server.server_close()
        began = time.monotonic()
        for step in range(1, 100):
            tracked.log(TEACHER, {"train/bpp": 1.0}, step)
        assert time.monotonic() - began < 2
    assert "kept offline" not in capsys.readouterr().out
    assert read(files(tmp_path / "run")[0]).metric("teacher/step") == list(range(100))


def test_jobs_of_a_sweep_are_runs_of_their_own_after_an_error_too(tmp_path, no_account):
    with pytest.raises(ZeroDivisionError), make(tmp_path / "a") as first:
        first.log(TEACHER, {"train/bpp": 1.0}, 0)
        raise ZeroDivisionError
    with make(tmp_path / "b") as second:
        second.log(TEACHER, {"train/bpp": 2.0}, 0)
    (a,), (b,) = (files(tmp_path / name) for name in "ab")
    a, b = read(a), read(b)
    assert (a.metric("teacher/train/bpp"), b.metric("teacher/train/bpp")) == ([1.0], [2.0])
    assert (a["exit"][0].exit_code, b["exit"][0].exit_code) == (1, 0)
    assert a["run"][0].run_id != b["run"][0].run_id
    assert a["run"][0].run_group == b["run"][0].run_group == "sweep"


def test_each_attempt_has_its_bd_rate_and_the_run_that_the_environment_names_wins(tmp_path):
    record = Round(1, 100.0, 1, 99.0, 2.5, None, 1.0, False, 3.0, "01-100.work/pass-1")
    rounds = tmp_path / "run" / "rounds"
    rounds.mkdir(parents=True)
    (rounds / "rounds.json").write_text(json.dumps([record._asdict()]))
    Image.new("RGB", (8, 8)).save(rounds / "rounds.png")
    with fresh_wandb(tmp_path, WANDB_RUN_ID="named"), make(tmp_path / "run") as tracked:
        tracked.round(record, rounds / "rounds.png")
        tracked.curve(tmp_path / "run" / "teacher", Curve((1.0, 2.0), (0.1, 0.2), (30.0, 31.0)))
    records = read(files(tmp_path / "run")[0])
    assert records["run"][0].run_id == "named"
    assert records.against("prune/bd_rate", "prune/round") == [(1, 2.5)]
    assert records.metric("prune/accepted") == [0] and records.metric("prune/coverage") == [1]
    assert records.metric("prune/attempt") == [1]
    assert records.metric("prune/bd_rate_against_previous") == []
    assert {metric.name: metric.summary.min for metric in records["metric"]}["prune/bd_rate"]


def test_what_w_and_b_cannot_take_is_said_once_and_the_run_goes_on(tmp_path, no_account, capsys):
    with make(tmp_path / "run") as tracked:
        for step in range(3):
            tracked.round(Round(1, 1.0, 1, 1.0, 0.0, 0.0, 1.0, True, 1.0, "01"), tmp_path / "missing.png")
            tracked.log(TEACHER, {"train/bpp": 1.0}, step)
    assert capsys.readouterr().out.count("will not be told again") == 1
    assert read(files(tmp_path / "run")[0]).metric("teacher/step") == [0, 1, 2]


def test_only_the_first_process_has_a_run(tmp_path, no_account, monkeypatch):
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    with make(tmp_path / "run") as tracked:
        (logger,) = tracked.loggers(tmp_path / "run" / "teacher.work", TEACHER)
        logger.log_metrics({"train/bpp": 1.0}, 0)
    assert not (tmp_path / "run").exists()


def test_group_type_tags_and_notes_are_the_sweeps_the_experiments_and_the_commands(tmp_path, no_account):
    settings = configuration("experiment=smoke", "name=sweep", f"run_dir={tmp_path / 'run'}")
    settings |= {"logger": {"wandb": SECTION | {"tags": ["mine"], "notes": "why"}}, "choices": {"experiment": "smoke"}}
    for sweeping, more in ((True, {}), (False, {"group": "papers", "job_type": "baseline"})):
        settings["logger"]["wandb"] |= more
        with tracker(checked(settings), RunDirectory(tmp_path / "run"), sweeping=sweeping) as tracked:
            tracked.log(TEACHER, {"train/bpp": 1.0}, 0)
    started = [read(path)["run"][0] for path in files(tmp_path / "run")]
    assert [(each.run_group, each.job_type) for each in started] == [("sweep", "sweep"), ("papers", "baseline")]
    assert [(list(each.tags), each.notes) for each in started] == 2 * [(["smoke", "mine"], "why")]


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_a_mode_that_is_set_is_respected(tmp_path, mode, capsys):
    with fresh_wandb(tmp_path, WANDB_MODE=mode), make(tmp_path / "run") as tracked:
        tracked.log(TEACHER, {"train/bpp": 1.0}, 0)
    assert "no key" not in capsys.readouterr().out
    assert len(files(tmp_path / "run")) == (mode == "offline")


# ------------------------------------------------------------------------------------------------- the other loggers


@pytest.mark.parametrize(
    "override, kinds",
    [
        ([], {"csv"}),
        (["logger=csv"], {"csv"}),
        (["logger=[csv,wandb]"], {"csv", "wandb"}),
        (["logger=wandb"], {"wandb"}),
        (["logger=[tensorboard,csv]", "experiment=smoke"], {"csv", "tensorboard"}),
        (["logger=tensorboard"], {"tensorboard"}),
        (["logger=none"], set()),
        (["logger=[]"], set()),
    ],
)
def test_loggers_are_chosen_by_one_name_or_a_list(override, kinds, tmp_path):
    chosen = configuration(*override, f"run_dir={tmp_path}")
    assert set(chosen.get("logger") or {}) == kinds
    assert len(begin(chosen).tracker.loggers(tmp_path / "teacher.work", TEACHER)) == len(kinds)


def test_an_unknown_logger_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"logger\.comet"):
        checked(configuration("+logger.comet={}", f"run_dir={tmp_path}"))


BEGINNINGS = "2 steps", "continues from step 1 of 2"


def test_a_training_is_seen_where_the_run_is_while_it_goes_on(tmp_path, capsys):
    """It is done in the cache. What is seen of one that was stopped is what is seen of one under way."""
    overrides = ["experiment=smoke", f"run_dir={tmp_path / 'run'}", *TINY, "trainer.log_every_n_steps=1"]
    overrides += ["stages=[teacher]", "logger=tensorboard"]
    with pytest.raises(TrainingInterrupted):
        run(*overrides, "trainer.max_time=00:00:00:00")
    assert (tmp_path / "run" / "teacher.log").is_symlink()
    shown = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "run")).Reload()
    assert list(shown.Runs()) == ["teacher.log/tensorboard/version_0"]
    run(*overrides)
    assert "teacher: continues from step 1 of 2" in capsys.readouterr().out
    said = (tmp_path / "run" / "run.log").read_text()
    begun, gone_on = (re.search(rf"(?m)^[-\d]+ [:\d]+ teacher: {words}$", said) for words in BEGINNINGS)
    assert begun and gone_on and begun.start() < gone_on.start()
    folder = tmp_path / "run" / "teacher.log"
    assert folder.is_dir() and not folder.is_symlink()
    found = [EventAccumulator(str(events)).Reload() for events in sorted(folder.rglob("events.out.*"))]
    assert [scalar.step for log in found for scalar in log.Scalars("train/rate_distortion")] == [0, 1]
    assert found[-1].Scalars("val/psnr_8")[0].value > 0


def test_no_logger_writes_nothing(tmp_path):
    run("experiment=smoke", f"run_dir={tmp_path}", *TINY, "stages=[teacher]", "logger=none")
    assert {path.name for path in tmp_path.iterdir()} == {"teacher", "seconds.json", "run.log"}
