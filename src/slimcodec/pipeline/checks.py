"""What settings must fulfil together, in their run directory, and on this machine: told before any work, in one line.

    configuration ──checked──► each setting, and all together ──require_possible──► on this disk and this machine

Nothing here needs PyTorch.
"""

import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slimcodec import InvalidInput, InvalidModel
from slimcodec.codec import zoo
from slimcodec.codec.architecture import Architecture
from slimcodec.evaluation import anchors, metrics
from slimcodec.pipeline import results
from slimcodec.pipeline.run_directory import RunDirectory
from slimcodec.pipeline.sections import Scope
from slimcodec.pipeline.settings import STAGES, Settings, Stage, read
from slimcodec.training.inheritance import student_architecture
from slimcodec.training.names import DISTILLATION_TERMS
from slimcodec.training.records import Rules, next_attempt, read_records, rule_problem
from slimcodec.training.shards import open_shards
from slimcodec.training.started import place
from slimcodec.training.widths import COUNTS, LOWEST_SHARE_OF_WIDTH, lowest_macs_per_pixel, widths

QUALITIES_OF_A_CURVE = 4  # BD-rate needs as many
CUDA_LIBRARY = {"Windows": "nvcuda.dll"}  # elsewhere libcuda.so.1
Problems = Iterator[tuple[str, str]]  # a field and what is wrong with it; the first is told


def checked(configuration: dict[str, Any]) -> Settings:
    """The settings in a resolved configuration. Raises InvalidInput, naming the field, for the first that is wrong."""
    settings = read(configuration)
    _require_none(_disagreements(settings))
    return settings


def require_means(settings: Settings) -> None:
    """Raises InvalidInput for hardware, models and photos that a run needs and that are not there."""
    _require_none(_missing_hardware(settings))
    _require_none(_missing_files(settings))


def require_possible(settings: Settings, directory: RunDirectory) -> None:
    """Raises InvalidInput, or InvalidModel, for what would end the run later: on this machine, in this directory."""
    require_means(settings)
    directory.seconds()
    results.read(directory)
    for scope in settings.prune.scopes:
        read_records(directory.rounds(scope))
    _require_none(_missing_stages(settings, directory))
    if settings.wants("prune"):
        require_targets_above_floors(settings)


def _require_none(problems: Problems) -> None:
    for field, problem in problems:
        raise InvalidInput(f"{field}: {problem}")


# ---------------------------------------------------------------------------------------------- between settings


def _disagreements(settings: Settings) -> Problems:
    if not settings.stages:
        yield "stages", f"name at least one of {', '.join(STAGES)}"
    yield from _of_training(settings)
    yield from _of_pruning(settings)
    yield from _of_evaluation(settings)
    yield from _of_data(settings)
    yield from _of_architectures(settings)


def _of_data(settings: Settings) -> Problems:
    data = settings.data
    if data.kind == "folder" and data.root is None:
        yield "data.root", "name the folder of photos to train on"
    if data.kind == "shards" and data.root is None:
        yield "data.root", "name the folder that slimcodec shards wrote"
    if data.kind == "shards" and data.max_pixels is not None:
        remedy = "set it to null, and write the shards with --max-pixels"
        yield f"data.max_pixels={data.max_pixels}", f"photos in shards are as large as they were written; {remedy}"


def _of_training(settings: Settings) -> Problems:
    for section, first in (("teacher", settings.teacher.training), ("student", settings.student.training)):
        if first.as_in_files:
            remedy = "set it in prune.training or finish.training"
            yield (
                f"{section}.training.as_in_files",
                f"what files hold is known of a model that has been saved; {remedy}",
            )
        if first.freeze_gains:
            remedy = "set it in prune.training or finish.training"
            yield f"{section}.training.freeze_gains", f"a new codec's steps of quantisation are to be learned; {remedy}"
        if first.parts is not None:
            remedy = "leave it out, or set it in prune.training or finish.training"
            yield f"{section}.training.parts", f"of a new codec all is to be learned; {remedy}"
    for section, later in (("prune", settings.prune.training), ("finish", settings.finish.training)):
        if later and later.as_in_files in ("both", "all") and settings.trainer.whole_step:
            remedy = "takes the CPU in between, and a whole step is one graph; set trainer.whole_step=false"
            yield f"{section}.training.as_in_files={later.as_in_files}", remedy
    for stage in settings.stages:
        yield from _of_stored_latents(settings, stage)
    terms = {"distill.weights": settings.distill.weights, "prune.distill_weights": settings.prune.distill_weights}
    for field, weights in terms.items():
        if unknown := set(weights or {}) - set(DISTILLATION_TERMS):
            yield f"{field}.{min(unknown)}", f"there is no such term; known are {', '.join(DISTILLATION_TERMS)}"
    new = dict.fromkeys(("encoder_blocks", "decoder_blocks"), "new blocks have")
    new |= {"decoder_levels": "new levels have", "encoder": "a new encoder has", "context": "a wider context has"}
    for field, what in new.items():
        if getattr(settings.finish, field) is not None and settings.finish.training is None:
            yield f"finish.{field}", f"{what} to be trained, and finish.training is null"
    for section, later in (("prune", settings.prune.training), ("finish", settings.finish.training)):
        if later and later.parts is not None and (later.freeze_encoder or later.freeze_gains):
            yield f"{section}.training.parts", "says what stays as it is; leave freeze_encoder and freeze_gains out"
        if later and later.parts == []:
            yield f"{section}.training.parts", "names nothing to train; null trains all"
    finish = settings.finish
    grows = finish.decoder_blocks or finish.decoder_levels
    if finish.new_alone and finish.training and finish.training.parts is not None:
        yield "finish.new_alone", "only what is new would be trained, or finish.training.parts; leave one of them out"
    elif finish.new_alone and not (grows and finish.training and finish.training.freeze_encoder is True):
        remedy = "it needs finish.decoder_blocks or decoder_levels, and finish.training.freeze_encoder=true"
        yield "finish.new_alone", f"nothing would be new, or the encoder not be left alone; {remedy}"
    if settings.finish.quantise and settings.finish.training:
        yield from _of_integers(settings)
    yield from _of_processes(settings)


def _of_integers(settings: Settings) -> Problems:
    if settings.finish.training and settings.finish.training.parts is not None:
        yield "finish.training.parts", "a decoder of integers is trained whole (finish.quantise); leave it out"
    units = {name for name, weight in settings.finetuning_weights.items() if weight} & {"latent", "hyper", "decoder"}
    if units:
        yield (
            f"prune.distill_weights.{min(units)}",
            "compares values that have other units in a decoder of integers (finish.quantise); set it to 0",
        )


def _of_stored_latents(settings: Settings, stage: Stage) -> Problems:
    training = settings.training(stage)
    if training is None or not training.stored_latents:
        return
    field = f"{'student' if stage == 'distill' else stage}.training.stored_latents"
    if not training.leaves_g_a or stage not in ("prune", "finish"):
        remedy = "set prune.training.freeze_encoder or finish.training.freeze_encoder, or parts without g_a"
        yield field, f"g_a would not stay as it is; {remedy}"
    if training.late and training.late.crop != training.crop:
        yield field, f"its crops have one size, and late.crop={training.late.crop} is another; take {training.crop}"
    if settings.data.kind == "shards":
        yield field, "needs photos in memory; take data=folder, or false"


def _of_processes(settings: Settings) -> Problems:
    devices = settings.trainer.devices
    for stage in settings.stages:
        training = settings.training(stage)
        for name, batch in (training.batches if training else {}).items():
            if devices != "auto" and batch % devices:
                section = "student" if stage == "distill" else stage
                yield f"{section}.training.{name}={batch}", f"must be a multiple of the {devices} processes"
    if settings.trainer.whole_step and devices != 1:
        yield "trainer.whole_step", f"is for one process, not {devices}; take trainer=ddp, or trainer.devices=1"
    if settings.trainer.whole_step and settings.trainer.precision == "16-mixed":
        yield "trainer.whole_step", "has no scaler of float16's gradients; take trainer.precision=bf16-mixed"


def _of_pruning(settings: Settings) -> Problems:
    if not settings.wants("prune"):
        return
    prune = settings.prune
    for scope in prune.scopes:
        rules, target = prune.rules(scope), prune.target(scope)
        if rules.target_macs_per_pixel is None:
            yield f"prune.{target}", f"prune.scope={prune.scope} needs it"
        for name, value in rules._asdict().items():
            if problem := rule_problem(name, value):
                yield f"prune.{target if name == 'target_macs_per_pixel' else name}={value}", problem


def _of_evaluation(settings: Settings) -> Problems:
    evaluate = settings.evaluate
    if len(settings.validation.qualities) < QUALITIES_OF_A_CURVE:
        yield "validation.qualities", f"BD-rate needs at least {QUALITIES_OF_A_CURVE} qualities"
    if not evaluate.qualities:
        yield "evaluate.qualities", "name at least one quality"
    if evaluate.efforts and not evaluate.effort_qualities:
        yield "evaluate.effort_qualities", "name at least one quality"
    if unknown := [name for name in evaluate.anchors if name not in anchors.NAMES]:
        yield f"evaluate.anchors={unknown[0]}", f"there is no such codec; known are {', '.join(anchors.NAMES)}"
    try:
        metrics.resolve(evaluate.metrics)
    except InvalidInput as error:
        yield "evaluate.metrics", str(error)
    if len({Path(folder).name for folder in evaluate.folders}) < len(evaluate.folders):
        yield "evaluate.folders", "two of them have the same name, and each set is called like its folder; rename one"


def _of_architectures(settings: Settings) -> Problems:
    """Of widths that make no network, of floors below none of them, and of qualities beyond the ladder."""
    if settings.teacher.load:
        return  # another's, which is not read yet
    try:
        teacher = Architecture.from_dict(settings.teacher.architecture)
    except InvalidModel as error:
        yield _below("teacher", error)
        return
    try:
        _student_of(settings, teacher)
    except InvalidModel as error:
        yield _below("student", error)
    lists = {"validation": settings.validation.qualities, "evaluate": settings.evaluate.qualities}
    for section, qualities in lists.items():
        if max(qualities) > teacher.rungs:
            yield f"{section}.qualities={max(qualities):g}", f"must be at most {teacher.rungs}"


def _below(section: str, error: InvalidModel) -> tuple[str, str]:
    """`architecture.g_s: …` as a field of the section and what is wrong with it."""
    field, _, problem = str(error).partition(": ")
    return f"{section}.{field}", problem


def _student_of(settings: Settings, teacher: Architecture) -> Architecture:
    student = settings.student
    return student_architecture(student.architecture, teacher, inherit_encoder=student.inherit_encoder)


# ---------------------------------------------------------------------------------------- this disk, this machine


def _missing_hardware(settings: Settings) -> Problems:
    trainer, here = settings.trainer, place()
    gpus = count_gpus() if trainer.accelerator == "gpu" else None
    if gpus == 0:
        yield "trainer.accelerator=gpu", "this machine has no CUDA GPU; take trainer=cpu"
    if here.count > 1:
        if trainer.devices not in ("auto", here.count):
            yield (
                f"trainer.devices={trainer.devices}",
                f"{here.count} processes were started together; take trainer.devices=auto",
            )
    elif trainer.devices == "auto" and gpus is None:
        yield "trainer.devices=auto", "is for GPUs, and for processes that torchrun started; name a number of processes"
    most = (os.cpu_count() or 1) if gpus is None else gpus
    if (wanted := processes(settings) if here.count == 1 else here.local_count) > most:
        has = f"{most} CPU cores" if gpus is None else f"{most} GPUs"
        yield f"trainer.devices={wanted}", f"must be a number of processes; this machine has {has}"


def processes(settings: Settings) -> int:
    """How many processes a command is to start."""
    devices = settings.trainer.devices
    return max(1, count_gpus()) if devices == "auto" else devices


def count_gpus() -> int:
    """CUDA devices, by the driver's own library: to ask PyTorch would take seconds to import it."""
    count = ctypes.c_int(0)
    try:
        cuda = ctypes.CDLL(CUDA_LIBRARY.get(platform.system(), "libcuda.so.1"))
    except OSError:
        return 0
    failed = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value


def _missing_files(settings: Settings) -> Problems:
    models = [("teacher.load", settings.teacher.load), ("finish.start", settings.finish.start)]
    models += [("student.load", settings.student.load)]
    models += [("evaluate.models", model) for model in settings.evaluate.models if settings.wants("evaluate")]
    for field, model in models:
        try:
            model and zoo.find(model)
        except InvalidModel as error:
            yield field, str(error)
    folders = [("data.root", settings.data.root), ("data.validation_root", settings.data.validation_root)]
    folders += [("evaluate.folders", folder) for folder in settings.evaluate.folders if settings.wants("evaluate")]
    for field, folder in folders:
        if folder and not os.path.isdir(folder):
            yield f"{field}={folder}", "there is no such folder"
    if settings.data.kind == "shards" and settings.data.root:
        try:
            open_shards(settings.data.root)
        except InvalidInput as error:
            yield "data.root", str(error)


def _missing_stages(settings: Settings, directory: RunDirectory) -> Problems:
    """Stages whose beginnings are neither asked for nor there."""
    there: dict[Stage, bool] = {
        "teacher": bool(settings.teacher.load) or directory.is_complete(directory.teacher),
        "distill": directory.is_complete(directory.distilled),
        "evaluate": results.read(directory) is not None,
    }
    finished = bool(settings.finish.start) or directory.is_complete(directory.finished)
    student: list[Stage] = ["teacher"] if finished else ["teacher", "distill"]
    needs: dict[Stage, list[Stage]] = {
        "distill": ["teacher"],
        "prune": ["teacher", "distill"],
        "finish": student,
        "evaluate": student,
        "export": ["evaluate"],
    }
    for stage in settings.stages:
        for need in needs.get(stage, []):
            if not there[need] and need not in settings.stages:
                yield "stages", f"{stage} needs what the stage {need} leaves in {directory.path}; add it to stages"


# ------------------------------------------------------------------------------------------------ targets and floors


def require_targets_above_floors(settings: Settings) -> None:
    """Raises InvalidInput for a target that pruning cannot reach, or rounds that are too large."""
    architecture, floors = new_architecture(settings), settings.prune.floors
    if unknown := [path for path in floors if not _names_width(path, architecture)]:
        known = ", ".join(widths(architecture))
        raise InvalidInput(f"prune.floors.{unknown[0]}: the student has no such width; known are {known}")
    for number, scope in enumerate(settings.prune.scopes):
        rules, before = settings.prune.rules(scope), settings.prune.scopes[:number]
        lowest = lowest_macs_per_pixel(architecture, scope=scope, floors=floors, pruned=before)
        if rules.target_macs_per_pixel < lowest:
            raise InvalidInput(
                f"prune.{settings.prune.target(scope)}={rules.target_macs_per_pixel:g}: above the floors the {scope} "
                f"cannot have less than {lowest:,.1f} MAC/pixel; raise the target or lower prune.floors"
            )
        if not before:
            _require_first_round(architecture, floors, scope, rules)


def _names_width(path: str, architecture: Architecture) -> bool:
    """Whether a floor's path is a width, or a part that has widths."""
    return any(width == path or width.startswith(f"{path}.") for width in widths(architecture))


def _require_first_round(architecture: Architecture, floors: dict[str, int], scope: Scope, rules: Rules) -> None:
    """What later rounds start from nobody knows yet; those of the encoder start when the decoder is done."""
    attempt = next_attempt([], COUNTS[scope](architecture), rules)
    share = LOWEST_SHARE_OF_WIDTH
    lowest = lowest_macs_per_pixel(architecture, scope=scope, floors=floors, lowest_share=share)
    if attempt and attempt.budget < lowest:
        raise InvalidInput(
            f"prune.shrink={rules.shrink:g}: the first round would go from {attempt.base_macs_per_pixel:,.1f} to "
            f"{attempt.budget:,.1f} MAC/pixel, and one round cannot go below {lowest:,.1f}; take smaller rounds"
        )


def new_architecture(settings: Settings) -> Architecture:
    """Of the student before it is pruned."""
    if settings.student.load:
        return zoo.describe(zoo.find(settings.student.load)).architecture
    if not settings.teacher.load:
        return _student_of(settings, Architecture.from_dict(settings.teacher.architecture))
    return _student_of(settings, zoo.describe(zoo.find(settings.teacher.load)).architecture)
