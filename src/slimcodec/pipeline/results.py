"""What a run comes to: the figures of its models on sets of photos, its final table, and what a sweep compares.

a study's Summary ──figures_of──► ModelFigures ──keep──► evaluation/summary.json ──► model.json, table, Figures
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from slimcodec import InvalidInput
from slimcodec.codec import json_files, zoo
from slimcodec.codec.atomic import write_text
from slimcodec.pipeline.run_directory import RunDirectory
from slimcodec.pipeline.sections import Scope
from slimcodec.pipeline.settings import Settings
from slimcodec.training.records import Round

REMEDY = "remove it, and run the stage evaluate again: nothing is measured twice"
TEACHER, STUDENT = "teacher", "student"


class ModelFigures(NamedTuple):
    """What model.json keeps of a model on a set of photos."""

    photos: int
    bits: str  # how they were counted
    bd_rate_percent: dict[str, float | None]  # by what it is against; None where the curves have no range in common
    bd_rate_range_db: dict[str, list[float]]
    date: str
    curve: dict[str, list[float | None]]  # quality, bpp, psnr_db


class Evaluation(NamedTuple):
    """What the stage evaluate found."""

    configuration: dict[str, Any]  # of the sections that it depends on
    models: dict[str, str]  # teacher and student → sha256 of the weights
    sets: dict[str, dict[str, ModelFigures]]  # set of photos → teacher, student, `student effort 3` → figures

    def is_of(self, configuration: dict[str, Any], models: dict[str, str]) -> bool:
        same = json.loads(json.dumps(configuration))  # as it is kept: lists for tuples
        return self.configuration == same and self.models == models


class Figures(NamedTuple):
    """What a run comes to: costs of its student, and BD-rates by RGB PSNR on its first evaluation set, in per cent."""

    decoder_macs_per_pixel: float
    encoder_macs_per_pixel: float
    bd_rate_percent: dict[str, float | None]  # of the student against the teacher and the anchors
    teacher_bd_rate_percent: dict[str, float | None]
    teacher_macs_per_pixel: float


# ------------------------------------------------------------------------------------------------- on the disk


def keep(directory: RunDirectory, evaluation: Evaluation) -> None:
    sets = {
        name: {label: figures._asdict() for label, figures in found.items()} for name, found in evaluation.sets.items()
    }
    inputs = {"configuration": evaluation.configuration, "models": evaluation.models}
    write_text(directory.evaluation_summary, json.dumps({"inputs": inputs, "sets": sets}, indent=1))


def read(directory: RunDirectory) -> Evaluation | None:
    """What the stage evaluate kept; None before. Raises InvalidInput when it is damaged."""
    path = directory.evaluation_summary
    if not path.is_file():
        return None
    found = json_files.read(path, remedy=REMEDY)
    try:
        inputs, sets = found["inputs"], found["sets"]
        values = {"configuration": inputs["configuration"], "models": inputs["models"], "sets": {}}
        for name, labels in sets.items():
            figures = {label: json_files.record(ModelFigures, item) for label, item in labels.items()}
            if missing := {TEACHER, STUDENT} - set(figures):
                raise ValueError(f"{name} has no {min(missing)}")
            values["sets"][name] = figures
        if not sets:
            raise ValueError("no set of photos")
        return json_files.record(Evaluation, values)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidInput(f"{path}: is damaged ({error!r}); {REMEDY}") from error


def of_model(role: str, evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """A model's figures for model.json, by the name of the set, and the effort if there was one: `kodak effort 3`."""
    return {
        name + label.removeprefix(role): figures._asdict()
        for name, labels in evaluation.sets.items()
        for label, figures in labels.items()
        if label.startswith(role)
    }


# ------------------------------------------------------------------------------------------------- to people


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f} %"


def sentence(record: Round) -> str:
    return (
        f"round {record.number}: {record.macs_per_pixel:,.0f} MAC/pixel (budget {record.budget:,.0f}), "
        f"BD-rate {percent(record.bd_rate_percent)} against the teacher, "
        f"{percent(record.bd_rate_percent_against_previous)} against the step before, "
        f"{'accepted' if record.accepted else 'rejected'}, {record.seconds:.0f} s"
    )


def final_table(name: str, models: Mapping[str, Path], evaluation: Evaluation | None) -> Table:
    """Costs and BD-rates of the teacher and the student, which `models` has by role."""
    table = Table(title=f"run {name}", title_justify="left")
    for heading in ("", *models):
        table.add_column(heading, justify="right" if heading else "left")
    costs = [zoo.describe(directory) for directory in models.values()]
    table.add_row("decoder MAC/pixel", *(f"{cost.decoder_macs_per_pixel:,.0f}" for cost in costs))
    table.add_row("encoder MAC/pixel", *(f"{cost.encoder_macs_per_pixel:,.0f}" for cost in costs))
    table.add_row("parameters", *(f"{cost.parameters:,.0f}" for cost in costs))
    for set_name, found in evaluation.sets.items() if evaluation else ():
        for anchor in found[STUDENT].bd_rate_percent:
            cells = [percent(found[role].bd_rate_percent.get(anchor)) for role in models]
            table.add_row(f"BD-rate on {set_name} against {anchor}", *cells)
    table.add_row("model directory", *(str(directory) for directory in models.values()))
    return table


def objective(evaluation: Evaluation | None) -> float | None:
    """The student's BD-rate against the teacher on the first set where it has one, in per cent."""
    sets = evaluation.sets.values() if evaluation else ()
    found = [figures[STUDENT].bd_rate_percent.get(TEACHER) for figures in sets]
    return next((value for value in found if value is not None), None)


def seconds(directory: RunDirectory) -> dict[str, float]:
    """What each stage took, and all of them, over all commands."""
    found = directory.seconds()
    return {f"seconds/{stage}": value for stage, value in (found | {"total": sum(found.values())}).items()}


def numbers(directory: RunDirectory, models: Mapping[str, Path], evaluation: Evaluation | None) -> dict[str, float]:
    """What a run comes to, by names that are the same for every run: of the student unless they say otherwise."""
    student, teacher = (zoo.describe(models[role]) for role in (STUDENT, TEACHER))
    found = seconds(directory) | {
        "decoder_macs_per_pixel": student.decoder_macs_per_pixel,
        "encoder_macs_per_pixel": student.encoder_macs_per_pixel,
        "parameters": student.parameters,
        "model_bytes": (models[STUDENT] / zoo.WEIGHTS).stat().st_size,
        "teacher/decoder_macs_per_pixel": teacher.decoder_macs_per_pixel,
        "teacher/parameters": teacher.parameters,
    }
    for name, figures in evaluation.sets.items() if evaluation else ():
        for role, prefix in ((STUDENT, "bd_rate"), (TEACHER, "teacher/bd_rate")):
            percents = figures[role].bd_rate_percent
            found |= {f"{prefix}/{name}/{short(a)}": value for a, value in percents.items() if value is not None}
    return found


def short(anchor: str) -> str:
    """A published curve is called by what it is of: vtm."""
    return anchor.rpartition(":")[2]


def places(directory: RunDirectory, student: Path, pages: Sequence[Path], tracked: str | None) -> list[str]:
    """Where everything is, and how the student is used: lines that can be pasted."""
    model = repr(os.path.abspath(student))  # from whatever folder
    return [
        f"model: {student}",
        *(f"report: {page}" for page in pages),
        f"log: {directory.said}",
        *([f"W&B: {tracked}"] if tracked else []),
        "In Python:",
        "import slimcodec",
        f"slimcodec.compress_file('photo.jpg', 'photo.slim', model={model})",
        f"slimcodec.decompress_file('photo.slim', 'photo.png', model={model})",
    ]


def missed_targets(settings: Settings, directory: RunDirectory, student: Path) -> list[str]:
    """A sentence for each target that the student is above."""
    costs: dict[Scope, float] = {
        "decoder": zoo.describe(student).decoder_macs_per_pixel,
        "encoder": zoo.describe(student).encoder_macs_per_pixel,
    }
    targets = {scope: settings.prune.rules(scope).target_macs_per_pixel for scope in settings.prune.scopes}
    return [
        f"The target of {target:,.0f} MAC/pixel for the {scope} was NOT reached: {costs[scope]:,.0f}. "
        f"The rounds are in {directory.rounds(scope)}."
        for scope, target in targets.items()
        if costs[scope] > target
    ]


def figures(directory: RunDirectory, teacher: Path, student: Path) -> Figures | None:
    """What a sweep compares; None before there are a student and its evaluation."""
    evaluation = read(directory)
    if evaluation is None:
        return None
    found = next(iter(evaluation.sets.values()))
    return Figures(
        decoder_macs_per_pixel=zoo.describe(student).decoder_macs_per_pixel,
        encoder_macs_per_pixel=zoo.describe(student).encoder_macs_per_pixel,
        bd_rate_percent=found[STUDENT].bd_rate_percent,
        teacher_bd_rate_percent=found[TEACHER].bd_rate_percent,
        teacher_macs_per_pixel=zoo.describe(teacher).decoder_macs_per_pixel,
    )
