"""What a run tells its loggers. The only module that knows them.

    Run ──loggers──────────────────────────────────► Trainer ──► csv, tensorboard   <stage>.log/ in the run directory
      │                                                 └──────► wandb              losses and validation by step
      └──round, curve, evaluation, pictures, model ────────────► wandb              what is no scalar by step

Weights & Biases gets one run a job, which lasts from the first thing that is told to the end of the job. Its id is kept
in the run directory, so that a resumed job goes on with it. Without an account it is kept offline, in files that
`wandb sync` uploads; a job that was resumed offline has a folder for each time, all of one id, and `wandb sync` joins
them. Nothing that W&B does or fails to do stops a job.

Lineage: every model directory is an artifact with its teacher's name and hash in its metadata, and the teacher is one
that the run used. Offline the run's file says so, and the link is made when it is uploaded. Files of artifacts are not
copied: upload an offline run before its run directory is removed.
"""

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from slimcodec import SlimcodecError
from slimcodec.codec import models, zoo
from slimcodec.codec.atomic import write_text
from slimcodec.codec.inference import Codec
from slimcodec.evaluation.curves import Curve
from slimcodec.evaluation.metrics import psnr_db
from slimcodec.pipeline.plan import Fit
from slimcodec.pipeline.results import ModelFigures
from slimcodec.pipeline.run_directory import LOG, RunDirectory
from slimcodec.pipeline.sections import Wandb
from slimcodec.pipeline.settings import Settings
from slimcodec.report import run_plots
from slimcodec.training import parallel
from slimcodec.training.photos import Photo
from slimcodec.training.records import Round, read_records

LINEAGE = ("role", "teacher", "weights_sha256", "git_commit")
LONGEST_NAME = 128  # that W&B takes for a run or an artifact
OFFLINE = "kept offline; `wandb sync` uploads it"
MEASURED = tuple(name for name in Round._fields if name != "directory")
SIZES = ("decoder_macs_per_pixel", "encoder_macs_per_pixel", "parameters")


def tracker(settings: Settings, directory: RunDirectory) -> "Tracker":
    """The tracker of a job. Of data-parallel processes only the first has a W&B run."""
    if settings.logger.wandb is None or parallel.rank():
        return Tracker(settings, directory)
    return WandbTracker(settings, directory, settings.logger.wandb)


class Tracker:
    """Makes each fit's loggers. What only W&B shows goes nowhere here.

    Used as a context manager around the job: its end is the end of the W&B run, after an error too, or the runs of a
    sweep would be merged.
    """

    def __init__(self, settings: Settings, directory: RunDirectory):
        self.settings, self.directory = settings, directory

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.finish(failed=kind is not None)

    def loggers(self, directory: Path, fit: Fit) -> list[Logger]:
        """Of the fit that works in `directory`, somewhere in the run directory."""
        wanted, found = self.settings.logger, list[Logger]()
        if wanted.csv is not None:
            found.append(CSVLogger(directory, name=LOG))
        if wanted.tensorboard is not None:
            found.append(TensorBoardLogger(directory / LOG, name="tensorboard"))
        if wanted.wandb is not None:
            found.append(StageLogger(self, fit.name))
        return found

    def log(self, stage: str, metrics: Mapping[str, float], step: int | None) -> None:
        """Metrics of a stage at its own step: steps begin again with every fit."""

    def round(self, record: Round, path: Path) -> None:
        """An attempt of the pruning rounds; `path` is the picture of all so far: BD-rate over MAC/pixel."""

    def curve(self, model: Path, curve: Curve) -> None:
        """A model's curve on the validation crops, beside those of the models before it."""

    def evaluation(self, name: str, measured: ModelFigures, path: Path) -> None:
        """The student's figures on a set, as model.json has them; `path` is the picture of its curves."""

    def pictures(self, crops: Sequence[Photo], codecs: Mapping[str, Path], device: Any) -> None:
        """The first crops, and beside each what the codecs, model directories by role, make of it."""

    def model(self, directory: Path, teacher: Path, teacher_name: str) -> None:
        """A new model directory: the teacher's own, or a student's, whose teacher was there before."""

    def finish(self, *, failed: bool) -> None:
        """The job is over."""


class StageLogger(Logger):
    """A fit's metrics, for the tracker under the stage's name."""

    def __init__(self, tracker: Tracker, stage: str):
        super().__init__()
        self.tracker, self.stage = tracker, stage

    @property
    def name(self) -> str:
        return self.stage

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.tracker.log(self.stage, metrics, step)

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """The whole configuration is with the run already."""


class WandbTracker(Tracker):
    """Everything to Weights & Biases as well. wandb is imported at the first use: that takes a second."""

    def __init__(self, settings: Settings, directory: RunDirectory, section: Wandb):
        super().__init__(settings, directory)
        self.section = section
        self.curves: dict[str, Curve] = {}
        self.defined: set[str] = set()
        self.used: set[str] = set()
        self.has_warned = False

    def log(self, stage: str, metrics: Mapping[str, float], step: int | None) -> None:
        self._send({f"{stage}/{name}": value for name, value in metrics.items()}, f"{stage}/step", step)

    def round(self, record: Round, path: Path) -> None:
        scope = path.parent.name  # rounds, or rounds-encoder
        values = {f"{scope}/{name}": float(value) for name in MEASURED if (value := getattr(record, name)) is not None}
        self._send(values, f"{scope}/attempt", len(read_records(path.parent)))
        self._send_picture(f"{scope}/path", path)

    def curve(self, model: Path, curve: Curve) -> None:
        self.curves[self.directory.stage_of(model)] = curve
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "curves.png"
            run_plots.plot_curves(self.curves, path)
            self._send_picture("validation/rate_distortion", path)

    def evaluation(self, name: str, measured: ModelFigures, path: Path) -> None:
        percents = {anchor: percent for anchor, percent in measured.bd_rate_percent.items() if percent is not None}
        with self._carrying_on():
            self.run.summary.update({f"evaluation/{name}/bd_rate_percent/{a}": value for a, value in percents.items()})
        self._send_picture(f"evaluation/{name}/rate_distortion", path)

    def pictures(self, crops: Sequence[Photo], codecs: Mapping[str, Path], device: Any) -> None:
        loaded = {role: Codec(models.load(directory), device) for role, directory in codecs.items()}
        title = self.directory.stage_of(list(codecs.values())[-1])
        for quality in self.section.qualities:
            shown = [_side_by_side(crop, loaded, quality) for crop in crops[: self.section.pictures]]
            with self._carrying_on():
                images = [_wandb().Image(pixels, caption=f"{title}, {caption}") for pixels, caption in shown]
                self.run.log({f"reconstructions/quality_{quality:g}": images})

    def model(self, directory: Path, teacher: Path, teacher_name: str) -> None:
        teachers = f"teacher-{teacher_name}"
        with self._carrying_on():
            if directory == teacher:
                self.run.log_artifact(_artifact(teachers, teacher))
                return
            if teachers not in self.used:
                self.used.add(teachers)
                # `use_artifact` is this and then waits for the upload: it refuses to be called offline, and it would
                # hold up training.
                used = _artifact(teachers, teacher)
                self.run._log_artifact(used, aliases=[], is_user_created=True, use_after_commit=True)
            alias = re.sub(r"[^\w.-]+", "-", self.directory.stage_of(directory))
            self.run.log_artifact(_artifact(self.students, directory), aliases=["latest", alias])

    def finish(self, *, failed: bool) -> None:
        if "run" in vars(self):
            with self._carrying_on():
                self.run.finish(exit_code=int(failed))

    # ------------------------------------------------------------------------------------------------- the run

    @property
    def students(self) -> str:
        """The name of the artifact whose versions are this run's students. Jobs of a sweep may have very long ones."""
        name, group = self.directory.path.name, self.settings.name
        name = f"student-{name}" if name == group else f"student-{group}-{name}"
        return name if len(name) <= LONGEST_NAME else f"student-{group[: LONGEST_NAME // 2]}-{self.run.id}"

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
            group=self.settings.name,
            name=path.name[:LONGEST_NAME],
            tags=list(self.settings.stages),
            config=self.settings.configuration,
            dir=path,
            mode=mode,
            resume="allow",
            reinit="finish_previous",
            settings=wandb.Settings(
                **quiet,
                init_timeout=self.section.init_timeout_seconds,
                finish_timeout=self.section.finish_timeout_seconds,
            ),
        )

    def _kept_id(self) -> str:
        path = self.directory.wandb_id
        kept = path.read_text().strip() if path.is_file() else None
        chosen = os.environ.get("WANDB_RUN_ID") or kept or secrets.token_hex(6)
        if chosen != kept:
            write_text(path, chosen + "\n")
        return chosen

    def _send(self, values: Mapping[str, float], step_name: str, step: int | None) -> None:
        """Values against a step of their own: W&B's step counts everything that was ever sent, and only rises."""
        with self._carrying_on():
            for name in set(values) - self.defined:
                self.run.define_metric(name, step_metric=step_name)
            self.defined |= set(values)
            self.run.log({**values, step_name: step})

    def _send_picture(self, name: str, path: Path) -> None:
        with self._carrying_on():
            self.run.log({name: _wandb().Image(str(path))})

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


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _artifact(name: str, directory: Path) -> Any:
    """A model directory, with what it is in the metadata. Its files are uploaded from where they are."""
    described = zoo.describe(directory)
    metadata = {key: getattr(described, key) for key in (*LINEAGE, *SIZES)}
    artifact = _wandb().Artifact(re.sub(r"[^\w.-]+", "-", name), type="model", metadata=metadata)
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
