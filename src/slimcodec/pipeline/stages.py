"""What a run does: teacher → distill → prune → finish → evaluate → export.

A stage that is complete in the run directory is skipped. One that another run has done with the same inputs is taken
from the cache. One that was interrupted continues. One that was made with another configuration is never overwritten.
"""

import functools
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning
from rich.console import Console

from slimcodec import InvalidInput
from slimcodec.codec import models, zoo
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.evaluation.locks import alone
from slimcodec.pipeline import measuring, results
from slimcodec.pipeline.checks import require_possible
from slimcodec.pipeline.photos import Photos
from slimcodec.pipeline.run_directory import (
    RunDirectory,
    copy_log,
    require_same,
    require_same_configuration,
)
from slimcodec.pipeline.sections import Scope
from slimcodec.pipeline.settings import STAGES, TRAINING, Settings, Stage
from slimcodec.pipeline.telling import Teller
from slimcodec.pipeline.tracking import tracker
from slimcodec.pipeline.training_setup import (
    Run,
    convert,
    deadline,
    distillation,
    finetune,
    learn_tables,
    prune_to,
    require_arguments,
    teaching,
    tell_data,
    train,
)
from slimcodec.training import parallel
from slimcodec.training.distill import new_student
from slimcodec.training.inheritance import inherited_parts, student_architecture
from slimcodec.training.prior import FactorizedPrior
from slimcodec.training.records import Round, next_attempt, read_records
from slimcodec.training.rounds import copy_rounds, rounds
from slimcodec.training.start import start_from_photos
from slimcodec.training.teach import load_trained


def begin(settings: Settings, console: Console | None = None, zoos: Path = Path(), *, sweeping: bool = False) -> Run:
    """A run that has not done anything yet, maybe of a sweep. `zoos` is where students/ and teachers/ are."""
    directory = RunDirectory(Path(settings.run_dir))
    return Run(
        settings,
        directory,
        Photos(settings),
        tracker(settings, directory, sweeping=sweeping),
        Teller(
            console or Console(),
            (lambda text: None) if parallel.rank() else directory.note,
            settings.trainer.say_every_seconds,
        ),
        zoos,
        deadline(settings),
    )


def go(run: Run) -> float | None:
    """Do the stages in order; the student's BD-rate against the teacher in per cent, if it was evaluated."""
    parallel.on_rank_zero(require_possible, run.settings, run.directory)
    require_arguments(run.settings)
    seconds: dict[Stage, float] = {}
    with run.tracker:
        for stage in STAGES if parallel.rank() == 0 else TRAINING:
            if run.settings.wants(stage):
                run.teller.heading(stage)
                seconds[stage] = timed(run, stage)
        return conclude(run, seconds) if parallel.rank() == 0 else None


def timed(run: Run, stage: Stage) -> float:
    """Do a stage; the seconds that it took, which are kept even if it fails."""
    began = time.monotonic()
    try:
        DO[stage](run)
    finally:
        seconds = time.monotonic() - began
        if parallel.rank() == 0:
            run.directory.add_seconds(stage, seconds)
    return seconds


# ------------------------------------------------------------------------------------------------- teacher, student


def teacher(run: Run) -> None:
    if run.settings.teacher.load:
        run.say(f"teacher: using {run.teacher}")
    else:
        cached_model(run, "teacher", run.directory.teacher, lambda model: train_teacher(run, model))


def train_teacher(run: Run, model: Path) -> None:
    settings, seed = run.settings.teacher, run.settings.seed
    lightning.seed_everything(seed, verbose=False)
    architecture = Architecture.from_dict(settings.architecture)
    codec = HyperpriorCodec(architecture)
    prior = FactorizedPrior(architecture.hypers, architecture.rungs)
    if parallel.rank() == 0:  # training begins by giving its weights to the others
        start_from_photos(codec, run.photos.first_crops(settings.training.crop))
    train(run, teaching(run, codec, prior, settings.training, seed=seed), model, settings.training, "teacher")


def distill(run: Run) -> None:
    if run.settings.student.load:
        parallel.on_rank_zero(take_student, run, zoo.find(run.settings.student.load))
        return
    cached_model(run, "distill", run.directory.distilled, lambda model: train_student(run, model), after=[run.teacher])


def take_student(run: Run, student: Path) -> None:
    """Let the rounds begin with a student that is there already."""
    distilled = run.directory.distilled
    if not run.directory.is_complete(distilled):
        models.copy(student, distilled)
    elif models.load(distilled).sha256 != models.load(student).sha256:
        raise InvalidInput(f"{distilled}: is not {student} (student.load); give another run_dir, or remove it")
    run.say(f"distill: using {student}")


def train_student(run: Run, model: Path) -> None:
    settings, seed = run.settings.student, run.settings.seed + 1
    lightning.seed_everything(seed, verbose=False)
    inherit = settings.inherit_encoder
    teacher = load_trained(run.teacher)
    of_teacher = teacher.codec.architecture
    architecture = student_architecture(settings.architecture, of_teacher, inherit_encoder=inherit)
    codec, prior = new_student(architecture, teacher.codec, teacher.prior, inherit_encoder=inherit)
    if parallel.rank() == 0:
        kept = inherited_parts(architecture, of_teacher, inherit_encoder=inherit)
        start_from_photos(codec, run.photos.first_crops(settings.training.crop), keep=kept)
    how = run.settings.distill
    weights, freeze_share = how.weights, how.freeze_share
    module = distillation(run, codec, prior, settings.training, seed=seed, weights=weights, freeze_share=freeze_share)
    train(run, module, model, settings.training, "distill")


def finish(run: Run) -> None:
    """finished/: the student of the last round, or of finish.start, trained on and given its last tables."""
    settings = run.settings.finish
    if settings.training is None and settings.tables is None and not settings.quantise:
        run.say("finish: nothing to do, finish.training and finish.tables are null")
        return
    start = zoo.find(settings.start) if settings.start else run.directory.last_accepted(run.settings.prune.scopes)
    cached_model(
        run,
        "finish",
        run.directory.finished,
        lambda model: finish_student(run, start, model),
        after=[run.teacher, start],
    )


def finish_student(run: Run, start: Path, model: Path) -> None:
    settings = run.settings.finish
    trained = run.directory.trained(model) if settings.tables else model
    if not run.directory.is_complete(trained):
        if settings.training:
            finetune(run, start, trained, settings.training, "finish")
        elif settings.quantise:
            parallel.on_rank_zero(convert, run, start, trained)
    if settings.tables:
        changed = settings.training or settings.quantise
        parallel.on_rank_zero(learn_tables, run, trained if changed else start, model, settings.tables)
        parallel.on_rank_zero(copy_log, run.directory.log(trained), run.directory.log(model))


# ---------------------------------------------------------------------------------------------------------- rounds


def prune(run: Run) -> None:
    entry = cache_entry(run, "prune", after=[run.teacher, run.directory.distilled])
    with waiting_for(run, "prune", entry):
        for scope in run.settings.prune.scopes:
            prune_scope(run, scope, entry.rounds(scope))


def prune_scope(run: Run, scope: Scope, cached: Path) -> None:
    """All rounds of the decoder or the encoder. Every one that is over is put into the cache."""
    directory, rules = run.directory.rounds(scope), run.settings.prune.rules(scope)
    start = run.directory.last_accepted(run.settings.prune.scopes[: run.settings.prune.scopes.index(scope)])
    parallel.on_rank_zero(require_same_configuration, directory, run.settings.sections("prune"))
    parallel.on_rank_zero(copy_rounds, cached, directory)
    before = read_records(directory)
    if next_attempt(before, getattr(zoo.describe(start), f"{scope}_macs_per_pixel"), rules) is None:
        run.say(f"prune: complete in {directory}, skipped")
    else:
        for record in rounds(
            start,
            parallel.on_rank_zero(measuring.validation_curve, run, run.teacher),
            directory=directory,
            scope=scope,
            rules=rules,
            prune_to=lambda base, budget, out: prune_to(run, scope, base, budget, out),
            finetune=lambda before, out: finetune(run, before, out, run.settings.prune.training, "prune"),
            measure=lambda model: measuring.validation_curve(run, model),
        ):
            run.say(results.sentence(record))
            if record not in before:
                parallel.on_rank_zero(track_round, run, scope, record)
                parallel.on_rank_zero(copy_rounds, directory, cached)
    if read_records(directory):
        run.say(f"prune: curve of the rounds in {parallel.on_rank_zero(measuring.draw_rounds, run, scope)}")


def track_round(run: Run, scope: Scope, record: Round) -> None:
    run.tracker.round(record, measuring.draw_rounds(run, scope))
    if record.accepted:
        track(run, run.directory.rounds(scope) / record.directory)


# ----------------------------------------------------------------------------------------------- evaluation, export


def evaluate(run: Run) -> None:
    directory, models_ = run.directory, {results.TEACHER: run.teacher, results.STUDENT: run.student}
    directory.evaluation.mkdir(parents=True, exist_ok=True)
    hashes = {role: models.load(path).sha256 for role, path in models_.items()}
    configuration, before = run.settings.sections("evaluate"), results.read(directory)
    if before and before.is_of(configuration, hashes):
        if all(measuring.is_whole(directory.study(name)) for name in before.sets):
            run.say(f"evaluate: complete in {directory.evaluation}, skipped")
            return
        run.say(f"evaluate: a study in {directory.evaluation} has lost points, they are measured again")
    sets = {name: measuring.evaluate_on(run, name, photos) for name, photos in measuring.sets_of_photos(run).items()}
    results.keep(directory, results.Evaluation(configuration, hashes, sets))


def export(run: Run) -> None:
    """student/: the final student with its figures; on `promote`, copies of both models in the zoos."""
    path, evaluation = run.directory.evaluation_summary, results.read(run.directory)
    if evaluation is None:
        raise InvalidInput(f"{path}: missing; run the stage evaluate first")
    if evaluation.models[results.STUDENT] != models.load(run.student).sha256:
        raise InvalidInput(f"{path}: is of another student; run the stage evaluate again")
    copies = {run.directory.student: (run.student, results.STUDENT)}
    if run.settings.promote:
        copies[run.zoos / "students" / run.settings.student.name] = (run.student, results.STUDENT)
        if not run.settings.teacher.load:
            copies[run.zoos / "teachers" / run.settings.teacher.name] = (run.teacher, results.TEACHER)
    for copy, (source, role) in copies.items():
        export_to(run, copy, source, results.of_model(role, evaluation))


def export_to(run: Run, copy: Path, source: Path, figures: dict[str, Any]) -> None:
    if is_exported(copy, source, figures):
        run.say(f"export: complete in {copy}, skipped")
        return
    with alone(copy.parent):  # into a zoo, runs of different directories promote theirs
        models.copy(source, copy)
        models.add_figures(copy, figures)
        if copy != run.directory.student:
            add_graphs(run, copy)
    if copy == run.directory.student:
        run.tracker.model(copy, run.teacher, run.settings.teacher.name)
    run.say(f"export: {copy}")


def add_graphs(run: Run, model: Path) -> None:
    """What users load runs without PyTorch."""
    try:
        from slimcodec.training import onnx_export
    except ModuleNotFoundError as error:
        run.say(
            f"export: {model} needs PyTorch, for {error.name} is missing; `slimcodec export {model} --graphs` later"
        )
        return
    onnx_export.add_graphs(model)


def is_exported(copy: Path, source: Path, figures: dict[str, Any]) -> bool:
    if not RunDirectory.is_complete(copy):
        return False
    there, plain = zoo.describe(copy), json.loads(json.dumps(figures))
    return there.weights_sha256 == models.load(source).sha256 and plain.items() <= there.figures.items()


def conclude(run: Run, seconds: dict[Stage, float]) -> float | None:
    """Tell what the run came to, and where it is; the student's BD-rate against the teacher, or None."""
    exported = run.directory.student
    student = exported if exported.is_dir() else run.student
    evaluation = results.read(run.directory)
    tell_data(run)
    if not all(map(RunDirectory.is_complete, (run.teacher, student))):
        run.tracker.final(results.seconds(run.directory), {})
        return None
    studies = {name: run.directory.study(name) for name in (evaluation.sets if evaluation else ())}
    final = {results.TEACHER: run.teacher, results.STUDENT: student}
    run.tracker.final(results.numbers(run.directory, final, evaluation), studies)
    run.teller.table(results.final_table(run.settings.name, final, evaluation))
    run.say("seconds: " + ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items()))
    for sentence in results.missed_targets(run.settings, run.directory, student):
        run.say(sentence)
    pages = [measuring.page(folder) for folder in studies.values()]
    for line in results.places(run.directory, student, pages, run.tracker.where()):
        run.say(line)
    return results.objective(evaluation)


DO: dict[Stage, Callable[[Run], None]] = {
    "teacher": teacher,
    "distill": distill,
    "prune": prune,
    "finish": finish,
    "evaluate": evaluate,
    "export": export,
}


# -------------------------------------------------------------------------------------------------------- the cache


def cached_model(
    run: Run, stage: Stage, model: Path, make: Callable[[Path], None], *, after: Sequence[Path] = ()
) -> None:
    """A stage's model directory: there already, or taken from the cache, where `make` puts it first if need be.

    after  the model directories that the stage begins with
    """
    if is_complete(run, stage, model):
        return
    entry = cache_entry(run, stage, after)
    cached = entry.path / model.name
    with waiting_for(run, stage, entry):
        if entry.is_complete(cached):
            run.say(f"{stage}: taken from {cached}, which has the same inputs")
        else:
            make(cached)
    parallel.on_rank_zero(take, run, cached, model)


def is_complete(run: Run, stage: Stage, model: Path) -> bool:
    """Whether the stage left its model directory; InvalidInput if it did with another configuration."""
    if not run.directory.is_complete(model):
        return False
    require_same(zoo.describe(model).configuration, run.settings.sections(stage), model)
    if parallel.rank() == 0:
        shutil.rmtree(run.directory.work(model), ignore_errors=True)  # left by a kill just before it was removed
    run.say(f"{model.name}: complete in {model}, skipped")
    return True


def cache_entry(run: Run, stage: Stage, after: Sequence[Path]) -> RunDirectory:
    """Where the cache keeps what a stage makes of these settings and these models."""
    inputs = run.settings.sections(stage) | {
        "half_weights": run.settings.half_weights,
        "after": [models.load(model).sha256 for model in after],
    }
    return RunDirectory(Path(run.settings.cache) / f"{stage}-{identity(inputs)}")


def identity(inputs: Mapping[str, Any]) -> str:
    """Digits that are the same for the same values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def waiting_for(run: Run, stage: Stage, entry: RunDirectory) -> Iterator[None]:
    """Be the only run that does this stage with these inputs."""
    waiting = functools.partial(run.say, f"{stage}: another job does it, waiting for {entry.path}")
    with entry.alone(waiting) if parallel.rank() == 0 else nullcontext():
        parallel.barrier()
        yield


def take(run: Run, cached: Path, model: Path) -> None:
    copy_log(RunDirectory.log(cached), RunDirectory.log(model))
    models.copy(cached, model)
    track(run, model)


def track(run: Run, model: Path) -> None:
    """Tell the loggers of a model directory that is new, and what the codec in it makes of the first crops."""
    run.tracker.model(model, run.teacher, run.settings.teacher.name)
    codecs = {results.TEACHER: run.teacher} | ({} if model == run.teacher else {results.STUDENT: model})
    run.tracker.pictures(run.photos.validation_crops, codecs, run.photos.device)
