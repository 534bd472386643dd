"""What a run tells of itself, and the loggers of its trainings. Weights & Biases is in pipeline/tracking."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from slimcodec.evaluation.curves import Curve
from slimcodec.pipeline.plan import Fit
from slimcodec.pipeline.qualities import AT_QUALITY, Qualities, Quality, by_quality
from slimcodec.pipeline.run_directory import LOG, RunDirectory
from slimcodec.pipeline.settings import Settings
from slimcodec.training.photos import Photo
from slimcodec.training.progress import middle
from slimcodec.training.records import Round


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
            found.append(StageLogger(self, fit, directory / LOG))
        return found

    def data(self, photos: Mapping[str, str]) -> None:
        """The photos to train on: name → sha256 of the pixels."""

    def log(self, fit: Fit, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of a training at its own step."""

    def qualities(self, fit: Fit, rows: Sequence[Quality]) -> None:
        """What a training's validations found at each quality."""

    def round(self, record: Round, path: Path) -> None:
        """An attempt of the pruning rounds; `path` is the picture of all so far: BD-rate over MAC/pixel."""

    def curve(self, model: Path, curve: Curve) -> None:
        """A model's curve on the validation crops, beside those of the models before it."""

    def evaluation(self, name: str, path: Path) -> None:
        """A set of photos was measured; `path` is the picture of the curves."""

    def pictures(self, crops: Sequence[Photo], codecs: Mapping[str, Path], device: Any) -> None:
        """The first crops, and beside each what the codecs, model directories by role, make of it."""

    def model(self, directory: Path, teacher: Path, teacher_name: str) -> None:
        """A new model directory: the teacher's own, or a student's, whose teacher was there before."""

    def final(self, numbers: Mapping[str, float], studies: Mapping[str, Path]) -> None:
        """What the run comes to, and the folder of the study of each set."""

    def where(self) -> str | None:
        """How people find what was told; None where nothing was."""
        return None

    def finish(self, *, failed: bool) -> None:
        """The job is over."""


class StageLogger(Logger):
    """A training's metrics, for the tracker. What is measured at each quality becomes one table."""

    def __init__(self, tracker: Tracker, fit: Fit, folder: Path):
        super().__init__()
        self.tracker, self.fit, self.table = tracker, fit, Qualities(folder)

    @property
    def name(self) -> str:
        return self.fit.name

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        rows = by_quality(metrics, step or 0)
        self.table.add(rows)
        scalars = {name: value for name, value in metrics.items() if not AT_QUALITY.fullmatch(name) and name != "epoch"}
        if rows:
            at = rows[middle(len(rows)) - 1]
            scalars |= {"val/bpp": at.bpp, "val/psnr_db": at.psnr_db}
        self.tracker.log(self.fit, scalars, step or 0)

    def finalize(self, status: str) -> None:
        if rows := self.table.read():
            self.tracker.qualities(self.fit, rows)

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """The whole configuration is with the run already."""
