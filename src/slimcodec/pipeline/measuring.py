"""How a run measures its models: estimated bits on validation crops for the gate, real files on sets of photos."""

from pathlib import Path
from typing import Any

from slimcodec.codec.atomic import write_text
from slimcodec.codec.inference import Codec
from slimcodec.codec.models import load
from slimcodec.evaluation import anchors, curves, points
from slimcodec.evaluation.codecs import ModelCodec, with_steps
from slimcodec.evaluation.metrics import PSNR
from slimcodec.evaluation.photos import Photo, find_photos
from slimcodec.evaluation.summary import Summary
from slimcodec.pipeline.results import STUDENT, TEACHER, ModelFigures
from slimcodec.pipeline.sections import Scope
from slimcodec.pipeline.training_setup import Run
from slimcodec.report import run_plots, study
from slimcodec.training.records import read_records


def is_whole(study_folder: Path) -> bool:
    """Whether a study lost nothing."""
    return study.is_whole(study_folder)


def page(study_folder: Path) -> Path:
    """The report of a study."""
    return study_folder / study.PAGE


def validation_curve(run: Run, model: Path) -> curves.Curve:
    """Estimated bits on the validation crops: what the gate judges by. Kept beside the model's figures."""
    codec = Codec(load(model), run.photos.device)
    qualities, label = run.settings.validation.qualities, f"validate {model.name}"
    curve = curves.mean_curve(points.estimated_points(codec, run.photos.validation_crops, qualities, description=label))
    run.tracker.curve(model, curve)
    return curve


def draw_rounds(run: Run, scope: Scope) -> Path:
    """The picture of the rounds so far: BD-rate over MAC/pixel."""
    directory, rules = run.directory.rounds(scope), run.settings.prune.rules(scope)
    picture = run.directory.rounds_picture(scope)
    run_plots.plot_rounds(read_records(directory), picture, target_macs_per_pixel=rules.target_macs_per_pixel)
    return picture


# ------------------------------------------------------------------------------------------------------- real files


def sets_of_photos(run: Run) -> dict[str, list[Photo]]:
    """Name → photos: of each folder that is named, or the validation photos."""
    settings = run.settings.evaluate
    if not settings.folders:
        photos: list[Photo] = [*run.photos.validation]
        return {"validation": photos[: settings.limit]}
    return {Path(folder).name: list(find_photos(folder, settings.limit)) for folder in settings.folders}


def evaluate_on(run: Run, name: str, photos: list[Photo]) -> dict[str, ModelFigures]:
    """Measure teacher, student, every round and the anchors on a set; the figures of the first two."""
    settings, out = run.settings.evaluate, run.directory.study(name)
    of_run = models_of_run(run)
    models, steps = codecs_beside(run, of_run)
    codecs: list[Any] = [*models, *(anchors.codec(anchor) for anchor in settings.anchors)]
    summary = study.evaluate(
        codecs,
        photos,
        out,
        name=name,
        metrics=settings.metrics,
        rounds=steps,
        target_macs_per_pixel=run.settings.prune.rules("decoder").target_macs_per_pixel,
        jobs=settings.jobs,
        with_memory=settings.memory,
        command=f"python run.py name={run.settings.name}",
    )
    tell(run, name, summary)
    run.tracker.evaluation(name, study.picture(out, PSNR))
    return {codec.name: figures_of(summary, codec.name) for codec in of_run}


def models_of_run(run: Run) -> list[ModelCodec]:
    """Teacher and student, and the student once more for each effort."""
    settings = run.settings.evaluate
    device, qualities = str(run.photos.device), tuple(settings.qualities)
    teacher = ModelCodec.find(run.teacher, name=TEACHER, role=TEACHER, qualities=qualities, device=device)
    efforts = [(effort, tuple(settings.effort_qualities)) for effort in settings.efforts]
    return [
        teacher,
        *(
            ModelCodec.find(run.student, name=STUDENT, role=STUDENT, effort=effort, qualities=chosen, device=device)
            for effort, chosen in [*efforts, (0, qualities)]  # a study is about its last student
        ),
    ]


def codecs_beside(run: Run, of_run: list[ModelCodec]) -> tuple[list[ModelCodec], list[str]]:
    """All models to measure, and the names of those that are steps of pruning."""
    settings = run.settings.evaluate
    common: dict[str, Any] = {"device": str(run.photos.device), "qualities": tuple(settings.qualities)}
    found = [*(ModelCodec.find(other, **common) for other in settings.models), *of_run]
    if not settings.rounds:
        return found, []
    teacher, steps = run.directory.models()
    return with_steps(found, teacher, steps, **common)


def tell(run: Run, name: str, summary: Summary) -> None:
    """Print the mean curves, and where the page is."""
    shown = {label: codec.curves[PSNR] for label, codec in summary.codecs.items() if codec.role != "round"}
    table = run_plots.comparison_table(shown, STUDENT)
    write_text(run.directory.study_table(name), table + "\n")
    run.say(table)
    run.say(f"evaluate: the page of {name} is {page(run.directory.study(name))}")


def figures_of(summary: Summary, label: str) -> ModelFigures:
    """What model.json keeps of a codec in a study."""
    codec = summary.codecs[label]
    against = {anchor: entries[label][PSNR] for anchor, entries in summary.bd_rate.items() if label in entries}
    curve = codec.curves[PSNR]
    return ModelFigures(
        photos=codec.pictures,
        bits="real files",
        bd_rate_percent={anchor: entry.percent for anchor, entry in against.items()},
        bd_rate_range_db={
            anchor: [entry.low, entry.high]
            for anchor, entry in against.items()
            if entry.low is not None and entry.high is not None
        },
        date=summary.provenance.date or "",
        curve={"quality": list(curve.quality), "bpp": list(curve.bpp), "psnr_db": list(curve.values)},
    )
