"""Loggers of a run. W&B for real, offline: what its files hold is read back."""

import contextlib
import csv
import io
import json
import os
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
from run_parts import TINY, begin, configuration, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from slimcodec import InvalidInput
from slimcodec.codec import models
from slimcodec.evaluation.curves import Curve
from slimcodec.pipeline.checks import checked
from slimcodec.pipeline.run_directory import RunDirectory
from slimcodec.pipeline.settings import STAGES
from slimcodec.pipeline.tracking import Tracker, tracker
from slimcodec.training import parallel
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
        return {item.key: json.loads(item.value_json) for item in self["run"][0].config.update}

    def metric(self, name: str) -> list:
        return [line[name] for line in self.history if name in line]

    def against(self, name: str, step: str) -> list[tuple]:
        return [(line[step], line[name]) for line in self.history if name in line]

    def images(self, name: str) -> list[Path]:
        lists = self.metric(f"{name}/filenames") or [[path] for path in self.metric(f"{name}/path")]
        return [self.path.parent / "files" / path for paths in lists for path in paths]


def _plain(items) -> dict:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def read(path: Path) -> Records:
    """W&B writes from a process of its own, and on a busy machine that may end after `finish` has returned."""
    deadline = time.monotonic() + 30
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


def make(directory: Path, **section) -> Tracker:
    settings = configuration("experiment=smoke", "name=sweep", f"run_dir={directory}", "stages=[teacher]")
    settings["logger"] = {"wandb": SECTION | section}
    return tracker(checked(settings), RunDirectory(directory))


# ---------------------------------------------------------------------------------------------- a whole run, read back


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


def test_the_run_has_configuration_tags_and_group(job):
    started = job.second["run"][0]
    assert (started.project, started.run_group, started.display_name) == ("slimcodec", "smoke", "run")
    assert list(started.tags) == list(STAGES)
    assert {name: job.second.configuration[name] for name in job.settings} == job.settings
    assert job.second["stats"], "system metrics"


@pytest.mark.parametrize("stage", ["teacher", "distilled", "rounds/01-190/pass-1", "finished"])
def test_losses_and_validation_are_against_the_steps_of_their_stage(job, stage):
    """The same values as in the CSV, whose files are one a fit."""
    records = job.first if stage == "teacher" else job.second
    folder = job.directory / (stage.replace("190/", "190.work/") + ".log")
    rows = list(csv.DictReader((folder / "version_0" / "metrics.csv").open()))
    wanted = ["train/rate_distortion", "train/bpp", "train/mse", "val/bpp_1", "val/psnr_8", "val/log_loss"]
    if stage != "teacher":
        wanted += ["train/output", "train/latent", "train/hyper_latent", "train/decoder", "train/hyper"]
    for name in wanted:
        expected = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        assert expected, name
        found = records.against(f"{stage}/{name}", f"{stage}/step")
        assert np.array(found) == pytest.approx(np.array(expected))
    axes = {metric.name: metric.step_metric for metric in records["metric"]}
    assert axes[f"{stage}/val/psnr_8"] == axes[f"{stage}/train/bpp"] == f"{stage}/step"


def test_rounds_are_there_with_their_path(job):
    (record,) = json.loads((job.directory / "rounds" / "rounds.json").read_text())
    assert job.second.against("rounds/macs_per_pixel", "rounds/attempt") == [(1, record["macs_per_pixel"])]
    assert job.second.metric("rounds/accepted") == [1]
    (path,) = job.second.images("rounds/path")
    assert path.read_bytes() == (job.directory / "rounds" / "rounds.png").read_bytes()


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


def test_models_are_artifacts_with_lineage(job):
    (teacher,) = job.first["artifact"]
    assert (teacher.name, teacher.type, teacher.use_after_commit) == ("teacher-tiny", "model", False)
    used, *students = job.second["artifact"]
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
        tracked.log("teacher", {"train/bpp": 1.0}, 0)
        assert not tracked.run.offline
        server.shutdown()
        server.server_close()
        began = time.monotonic()
        for step in range(1, 100):
            tracked.log("teacher", {"train/bpp": 1.0}, step)
        assert time.monotonic() - began < 2
    assert "kept offline" not in capsys.readouterr().out
    assert read(files(tmp_path / "run")[0]).metric("teacher/step") == list(range(100))


def test_jobs_of_a_sweep_are_runs_of_their_own_after_an_error_too(tmp_path, no_account):
    with pytest.raises(ZeroDivisionError), make(tmp_path / "a") as first:
        first.log("teacher", {"train/bpp": 1.0}, 0)
        raise ZeroDivisionError
    with make(tmp_path / "b") as second:
        second.log("teacher", {"train/bpp": 2.0}, 0)
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
    assert records.against("rounds/bd_rate_percent", "rounds/attempt") == [(1, 2.5)]
    assert records.metric("rounds/accepted") == [0] and records.metric("rounds/coverage") == [1]
    assert records.metric("rounds/bd_rate_percent_against_previous") == []


def test_what_w_and_b_cannot_take_is_said_once_and_the_run_goes_on(tmp_path, no_account, capsys):
    with make(tmp_path / "run") as tracked:
        for step in range(3):
            tracked.round(Round(1, 1.0, 1, 1.0, 0.0, 0.0, 1.0, True, 1.0, "01"), tmp_path / "missing.png")
            tracked.log("teacher", {"train/bpp": 1.0}, step)
    assert capsys.readouterr().out.count("will not be told again") == 1
    assert read(files(tmp_path / "run")[0]).metric("teacher/step") == [0, 1, 2]


def test_only_the_first_process_has_a_run(tmp_path, no_account, monkeypatch):
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    with make(tmp_path / "run") as tracked:
        (logger,) = tracked.loggers(tmp_path / "run" / "teacher.work")
        logger.log_metrics({"train/bpp": 1.0}, 0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_a_mode_that_is_set_is_respected(tmp_path, mode, capsys):
    with fresh_wandb(tmp_path, WANDB_MODE=mode), make(tmp_path / "run") as tracked:
        tracked.log("teacher", {"train/bpp": 1.0}, 0)
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
    assert len(begin(chosen).tracker.loggers(tmp_path / "teacher.work")) == len(kinds)


def test_an_unknown_logger_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"logger\.comet"):
        checked(configuration("+logger.comet={}", f"run_dir={tmp_path}"))


def test_tensorboard_has_the_scalars_and_none_writes_nothing(tmp_path):
    overrides = ["experiment=smoke", f"run_dir={tmp_path}", *TINY, "stages=[teacher]", "trainer.log_every_n_steps=1"]
    run(*overrides, "logger=tensorboard")
    (events,) = (tmp_path / "teacher.log").rglob("events.out.*")
    found = EventAccumulator(str(events)).Reload()
    assert [scalar.step for scalar in found.Scalars("train/rate_distortion")] == [0, 1]
    assert found.Scalars("val/psnr_8")[0].value > 0
    other = tmp_path / "other"
    run(*overrides, f"run_dir={other}", "logger=none")
    assert {path.name for path in other.iterdir()} == {"teacher", "seconds.json"}
