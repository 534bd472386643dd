"""The trainings of a run: what each is called, and how much is to come after it."""

from pathlib import Path
from typing import NamedTuple

from slimcodec.pipeline.checks import new_architecture
from slimcodec.pipeline.run_directory import ENCODER_ROUNDS, RunDirectory
from slimcodec.pipeline.sections import Scope, Training
from slimcodec.pipeline.settings import TRAINING, Settings, Stage
from slimcodec.training.records import count_planned, read_records
from slimcodec.training.schedule import Schedule
from slimcodec.training.widths import COUNTS


class Fit(NamedTuple):
    """One training."""

    name: str  # the stage's; of the encoder's rounds prune_encoder
    steps_before: int = 0  # of earlier trainings of this name: the rounds
    round: int | None = None
    pixels_after: int = 0  # of the crops of the trainings that are to come in this run
    is_last_work: bool = False  # nothing but training is to come

    @property
    def label(self) -> str:
        """What people read."""
        return self.name.replace("_", " ") + ("" if self.round is None else f" round {self.round}")


def fit(settings: Settings, directory: RunDirectory, stage: Stage, model: Path) -> Fit:
    """The training of a stage that makes this model directory."""
    after, only = _pixels_after(settings, directory, stage), not settings.wants("evaluate")
    if stage != "prune":
        return Fit(stage, pixels_after=after, is_last_work=only and not settings.wants("prune"))
    scope: Scope = "encoder" if model.is_relative_to(directory.rounds("encoder")) else "decoder"
    records = read_records(directory.rounds(scope))
    return Fit(
        name=prune_name(directory.rounds(scope).name),
        steps_before=len(records) * settings.prune.training.steps,
        round=1 + sum(record.accepted for record in records),
        pixels_after=after,
    )


def prune_name(folder: str) -> str:
    """What rounds in this folder of a run are called."""
    return "prune_encoder" if folder == ENCODER_ROUNDS else "prune"


def _pixels_after(settings: Settings, directory: RunDirectory, stage: Stage) -> int:
    """Of the trainings after one in this stage. Nobody knows yet what the cache has of them."""
    later = [each for each in TRAINING[TRAINING.index(stage) + 1 :] if settings.wants(each)]
    found = sum(_pixels_of(settings, directory, each) for each in later)
    if stage == "prune":
        found += _pixels_of(settings, directory, stage) - pixels(settings.prune.training)
    return found


def _pixels_of(settings: Settings, directory: RunDirectory, stage: Stage) -> int:
    """Of what a stage has still to train."""
    training = settings.training(stage)
    if training is None or (stage == "distill" and directory.is_complete(directory.distilled)):
        return 0
    return pixels(training) * (_attempts(settings, directory) if stage == "prune" else 1)


def _attempts(settings: Settings, directory: RunDirectory) -> int:
    """Of both scopes, if every one is accepted: how often the gate says no nobody knows."""
    start = new_architecture(settings)
    return sum(
        count_planned(read_records(directory.rounds(scope)), COUNTS[scope](start), settings.prune.rules(scope))
        for scope in settings.prune.scopes
    )


def pixels(training: Training) -> int:
    """Of all crops of a training."""
    names = ("steps", "batch", "crop", "decay_from", "restarts", "late")
    return Schedule(**{name: training.of_module[name] for name in names}).pixels(0, training.steps)
