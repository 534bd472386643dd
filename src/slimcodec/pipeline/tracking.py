"""What a run tells Weights & Biases. The only module that knows it. Every name is in docs/tracking.md.

    Run ──loggers─────────────────────────────────────► Trainer ──► csv, tensorboard   *.log/ in the run directory
      │                                                    └──────► wandb              losses and validation by step
      └──data, round, curve, evaluation, pictures, model, final ──► wandb              what is no scalar by step

It gets one run a job, which lasts from the first thing that is told to the end of the job. Its id is kept in the run
directory, so that a resumed job goes on with it. Without an account it is kept offline, in files that `wandb sync`
uploads; a job that was resumed offline has a folder for each time, all of one id, and `wandb sync` joins them. W&B's
own step goes on where it was, or lines of the later ones would be taken for earlier ones. Nothing that W&B does or
fails to do stops a job.

Lineage: every model directory is an artifact with its teacher's name and hash in its metadata, and the teacher is one
that the run used. Offline the run's file says so, and the link is made when it is uploaded. Files of artifacts are not
copied: upload an offline run before its run directory is removed.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from slimcodec import SlimcodecError
from slimcodec.codec import models, zoo
from slimcodec.codec.atomic import write_text
from slimcodec.codec.inference import Codec
from slimcodec.evaluation.curves import Curve
from slimcodec.evaluation.metrics import psnr_db
from slimcodec.pipeline.loggers import Tracker
from slimcodec.pipeline.plan import Fit, prune_name
from slimcodec.pipeline.qualities import Quality, curves_of
from slimcodec.pipeline.results import STUDENT
from slimcodec.pipeline.run_directory import RunDirectory
from slimcodec.pipeline.sections import Wandb
from slimcodec.pipeline.settings import Settings
from slimcodec.report import run_plots, study
from slimcodec.training import parallel
from slimcodec.training.photos import Photo
from slimcodec.training.records import Round, read_records

LINEAGE = ("role", "teacher", "weights_sha256", "git_commit")
LONGEST_NAME = 128  # that W&B takes for a run or an artifact
OFFLINE = "kept offline; `wandb sync` uploads it"
SIZES = ("decoder_macs_per_pixel", "encoder_macs_per_pixel", "parameters")
# What a summary keeps of a metric, if not its last value.
BEST = {"val/log_loss": "min", "val/psnr_db": "max", "bd_rate": "min", "macs_per_pixel": "min"}
# A round's fields by the names that they are logged under.
MEASURED = {"bd_rate_percent": "bd_rate", "bd_rate_percent_against_previous": "bd_rate_against_previous"}
MEASURED |= {name: name for name in ("macs_per_pixel", "budget", "coverage", "accepted", "passes", "seconds")}
RESERVED = 100  # of W&B's steps are taken at a time


def tracker(settings: Settings, directory: RunDirectory, *, sweeping: bool = False) -> Tracker:
    """The tracker of a job, of a sweep or alone. Of data-parallel processes only the first has a W&B run."""
    if settings.logger.wandb is None or parallel.rank():
        return Tracker(settings, directory)
    return WandbTracker(settings, directory, settings.logger.wandb, sweeping=sweeping)


class WandbTracker(Tracker):
    """Everything to Weights & Biases as well. wandb is imported at the first use: that takes a second."""

    def __init__(self, settings: Settings, directory: RunDirectory, section: Wandb, *, sweeping: bool):
        super().__init__(settings, directory)
        self.section, self.sweeping = section, sweeping
        self.curves: dict[str, Curve] = {}
        self.defined: set[str] = set()
        self.used: set[str] = set()
        self.data_told = self.has_warned = False

    def data(self, photos: Mapping[str, str]) -> None:
        if self.data_told:
            return
        self.data_told = True
        digest = hashlib.sha256(json.dumps(photos, sort_keys=True).encode()).hexdigest()
        with self._carrying_on():
            self.run.config.update({"data_sha256": digest}, allow_val_change=True)
            self._use(self._of_text(f"data-{digest[:12]}", "dataset", photos, sha256=digest))
            self._use(self._of_text(self._named("configuration"), "configuration", self.settings.configuration))

    def log(self, fit: Fit, metrics: Mapping[str, float], step: int) -> None:
        of_round = {} if fit.round is None else {f"{fit.name}/round": fit.round}
        self._send(fit.name, metrics, "step", fit.steps_before + step, of_round)

    def qualities(self, fit: Fit, rows: Sequence[Quality]) -> None:
        with self._carrying_on():
            known = [[fit.round or 0, *row] for row in rows]
            self._log({f"{fit.name}/qualities": _wandb().Table(["round", *Quality._fields], known)})

    def round(self, record: Round, path: Path) -> None:
        name, records = prune_name(path.parent.name), read_records(path.parent)
        found = {logged: getattr(record, field) for field, logged in MEASURED.items()}
        values = {logged: float(value) for logged, value in found.items() if value is not None}
        self._send(name, values, "round", record.number, {f"{name}/attempt": len(records)})
        self._send_picture(f"{name}/path", path)
        with self._carrying_on():
            table = [[getattr(each, field) for field in ("number", *MEASURED)] for each in records]
            self._log({f"{name}/attempts": _wandb().Table(["round", *MEASURED.values()], table)})

    def curve(self, model: Path, curve: Curve) -> None:
        self.curves[self.directory.stage_of(model)] = curve
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "curves.png"
            run_plots.plot_curves(self.curves, path)
            self._send_picture("validation/rate_distortion", path)

    def evaluation(self, name: str, path: Path) -> None:
        self._send_picture(f"evaluation/{name}/rate_distortion", path)

    def final(self, numbers: Mapping[str, float], studies: Mapping[str, Path]) -> None:
        with self._carrying_on():
            self.run.summary.update(dict(numbers))
        for name, folder in studies.items():
            with self._carrying_on():
                self._chart(name, folder)
                report = _wandb().Artifact(_plain(f"{self._named('report')}-{name}"), type="report")
                report.add_file(str(folder / study.PAGE), skip_cache=True, policy="immutable")
                self.run.log_artifact(report)

    def _chart(self, name: str, folder: Path) -> None:
        """The student's curve, over which W&B lays those of other runs, and a table of all curves."""
        wandb, columns = _wandb(), ["codec", "quality", "bpp", "psnr_db"]
        rows = curves_of(folder)
        own = wandb.Table(columns, [row for row in rows if row[0] == STUDENT])
        chart = wandb.plot.line(own, "bpp", "psnr_db", stroke="codec", title=f"Rate and distortion on {name}")
        self._log({f"rate_distortion/{name}": chart, f"curves/{name}": wandb.Table(columns, rows)})

    def where(self) -> str | None:
        if "run" not in vars(self) or self.run.disabled:
            return None
        found = f"run {self.run.id} of project {self.section.project}"
        folders = self.directory.path / "wandb" / "offline-run-*"
        return f"{found}; wandb sync {folders}" if self.run.offline else f"{found}, {self.run.url}"

    def pictures(self, crops: Sequence[Photo], codecs: Mapping[str, Path], device: Any) -> None:
        loaded = {role: Codec(models.load(directory), device) for role, directory in codecs.items()}
        title = self.directory.stage_of(list(codecs.values())[-1])
        for quality in self.section.qualities:
            shown = [_side_by_side(crop, loaded, quality) for crop in crops[: self.section.pictures]]
            with self._carrying_on():
                images = [_wandb().Image(pixels, caption=f"{title}, {caption}") for pixels, caption in shown]
                self._log({f"reconstructions/quality_{quality:g}": images})

    def model(self, directory: Path, teacher: Path, teacher_name: str) -> None:
        teachers = f"teacher-{teacher_name}"
        with self._carrying_on():
            if directory == teacher:
                self.run.log_artifact(_artifact(teachers, teacher))
                return
            if teachers not in self.used:
                self.used.add(teachers)
                self._use(_artifact(teachers, teacher))
            alias = _plain(self.directory.stage_of(directory))
            self.run.log_artifact(_artifact(self._named("student"), directory), aliases=["latest", alias])

    def finish(self, *, failed: bool) -> None:
        if "run" in vars(self):
            with self._carrying_on():
                self.run.finish(exit_code=int(failed))

    # ------------------------------------------------------------------------------------------------- the run

    def _named(self, kind: str) -> str:
        """The name of an artifact whose versions are this run's. Jobs of a sweep may have very long ones."""
        name, group = self.directory.path.name, self.settings.name
        name = f"{kind}-{name}" if name == group else f"{kind}-{group}-{name}"
        return name if len(name) <= LONGEST_NAME // 2 else f"{kind}-{group[: LONGEST_NAME // 4]}-{self.run.id}"

    def _use(self, artifact: Any) -> None:
        """`use_artifact` is this and then waits for the upload: it refuses to be called offline, and it would hold up
        training."""
        self.run._log_artifact(artifact, aliases=[], is_user_created=True, use_after_commit=True)

    def _of_text(self, name: str, kind: str, content: Any, **metadata: Any) -> Any:
        artifact = _wandb().Artifact(_plain(name), type=kind, metadata=metadata)
        with artifact.new_file(f"{kind}.json") as written:
            json.dump(content, written, indent=1)
        return artifact

    @cached_property
    def run(self) -> Any:
        """The job's W&B run, begun or gone on with; offline without an answer, and none if that fails too."""
        wandb = _wandb()
        for mode, otherwise in ((None, f"is {OFFLINE}"), ("offline", "goes on without it")):
            try:
                return self._begin(mode or _offline_without_key())
            except Exception as error:
                print(f"wandb: {_line(error)}; this run {otherwise}", flush=True)
                wandb.teardown()  # it still holds the run's id
        return wandb.init(mode="disabled")

    def _begin(self, mode: str | None) -> Any:
        wandb, path = _wandb(), self.directory.path
        path.mkdir(parents=True, exist_ok=True)
        quiet = {"silent": True} if mode == "offline" else {"quiet": True}  # what was chosen here was said here
        # The agent of a W&B sweep names the project and the run itself.
        named = {} if "WANDB_SWEEP_ID" in os.environ else {"project": self.section.project, "id": self._kept_id()}
        return wandb.init(
            **named,
            group=self.section.group or self.settings.name,
            job_type=self.section.job_type or self._job_type,
            name=path.name[:LONGEST_NAME],
            tags=list(dict.fromkeys([*self._chosen, *self.section.tags])),
            notes=self.section.notes,
            config=self.settings.configuration,
            dir=path,
            mode=mode,
            resume="allow",
            reinit="finish_previous",
            settings=wandb.Settings(
                **quiet,
                **_flushed_often(),
                init_timeout=self.section.init_timeout_seconds,
                finish_timeout=self.section.finish_timeout_seconds,
            ),
        )

    @property
    def _job_type(self) -> str:
        stages = self.settings.stages
        return "sweep" if self.sweeping else stages[0] if len(stages) == 1 else "run"

    @property
    def _chosen(self) -> list[str]:
        experiment = self.settings.choices.get("experiment")
        return [experiment] if experiment else []

    def _kept_id(self) -> str:
        path = self.directory.wandb_id
        kept = path.read_text().strip() if path.is_file() else None
        chosen = os.environ.get("WANDB_RUN_ID") or kept or secrets.token_hex(6)
        if chosen != kept:
            write_text(path, chosen + "\n")
        return chosen

    def _send(self, name: str, values: Mapping[str, float], axis: str, step: int, more: Mapping[str, float]) -> None:
        """Values against a step of their own: W&B's step counts everything that was ever sent, and only rises."""
        with self._carrying_on():
            for metric in values:
                if f"{name}/{metric}" not in self.defined:
                    self.run.define_metric(f"{name}/{metric}", step_metric=f"{name}/{axis}", summary=BEST.get(metric))
                    self.defined.add(f"{name}/{metric}")
            named = {f"{name}/{metric}": value for metric, value in values.items()}
            self._log({**named, **more, f"{name}/{axis}": step})

    def _send_picture(self, name: str, path: Path) -> None:
        with self._carrying_on():
            self._log({name: _wandb().Image(str(path))})

    def _log(self, values: dict[str, Any]) -> None:
        self.run.log(values, step=next(self._steps), commit=True)

    @cached_property
    def _steps(self) -> Iterator[int]:
        """W&B's own, above all that earlier commands took: a file says which, so that a kill forgets none of them."""
        path = self.directory.wandb_steps
        first = max(self.run.step, int(path.read_text()) if path.is_file() else 0)
        return self._reserved(path, first)

    @staticmethod
    def _reserved(path: Path, first: int) -> Iterator[int]:
        for step in itertools.count(first):
            if (step - first) % RESERVED == 0:
                write_text(path, f"{step + RESERVED}\n")
            yield step

    @contextlib.contextmanager
    def _carrying_on(self) -> Iterator[None]:
        """Around everything that W&B does, which raises its own errors, the system's, and those of a dead process."""
        try:
            yield
        except SlimcodecError:  # not from W&B: a signal that ends training came in between
            raise
        except Exception as error:
            if not self.has_warned:
                print(f"wandb: {_line(error)}; the run goes on, and this will not be told again", flush=True)
            self.has_warned = True


def _wandb() -> Any:
    import wandb

    return wandb


def _offline_without_key() -> str | None:
    """The mode to begin in: None for what WANDB_MODE or W&B's settings say."""
    wandb = _wandb()
    if wandb.setup().settings.mode in ("offline", "dryrun", "disabled") or wandb.login(prompt=False, verify=False):
        return None
    print(f"wandb: there is no key, so this run is {OFFLINE}", flush=True)
    return "offline"


def _flushed_often() -> dict[str, float]:
    """W&B writes its file every 15 seconds: what a killed job told since would be lost."""
    name = "x_transaction_log_flush_interval"
    return {name: 1.0} if name in _wandb().Settings.model_fields else {}


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _plain(name: str) -> str:
    """With no other characters than W&B takes in the names of artifacts."""
    return re.sub(r"[^\w.-]+", "-", name)


def _artifact(name: str, directory: Path) -> Any:
    """A model directory, with what it is in the metadata. Its files are uploaded from where they are."""
    described = zoo.describe(directory)
    metadata = {key: getattr(described, key) for key in (*LINEAGE, *SIZES)}
    artifact = _wandb().Artifact(_plain(name), type="model", metadata=metadata)
    for path in sorted(directory.iterdir()):
        artifact.add_file(str(path), name=path.name, skip_cache=True, policy="immutable")
    return artifact


def _side_by_side(crop: Photo, codecs: Mapping[str, Codec], quality: float) -> tuple[np.ndarray, str]:
    """uint8 [H, W · (1 + codecs), 3]: the original and its reconstructions, and a caption."""
    shown, words = [crop.pixels], [f"{crop.name} at quality {quality:g}: original"]
    for role, codec in codecs.items():
        estimate = codec.estimate(crop.pixels, quality)
        bpp = estimate.bits / (crop.pixels.shape[0] * crop.pixels.shape[1])
        shown.append(estimate.pixels)
        words.append(f"{role} {bpp:.3f} bpp {psnr_db(crop.pixels, estimate.pixels):.2f} dB")
    return np.concatenate(shown, axis=1), " | ".join(words)
