"""What the stages train with: the Trainer, processes, and one training up to its model directory."""

import functools
import inspect
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy

from slimcodec import InvalidInput
from slimcodec.codec import models, zoo
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.codec.quantise import Quantiser
from slimcodec.evaluation import provenance
from slimcodec.pipeline import plan
from slimcodec.pipeline.loggers import Tracker
from slimcodec.pipeline.photos import Photos
from slimcodec.pipeline.plan import Fit
from slimcodec.pipeline.run_directory import RunDirectory, require_same_configuration
from slimcodec.pipeline.sections import Scope, Tables, Training
from slimcodec.pipeline.settings import Settings, Stage
from slimcodec.pipeline.telling import Teller
from slimcodec.training import parallel, started
from slimcodec.training.data import PhotoData
from slimcodec.training.dependent import dependently_quantised
from slimcodec.training.distill import Distill
from slimcodec.training.grow import freeze_old, with_blocks, with_context, with_encoder, with_levels
from slimcodec.training.integers import in_integers
from slimcodec.training.latents import StoredLatents
from slimcodec.training.prior import FactorizedPrior
from slimcodec.training.prune import prune
from slimcodec.training.shards import Shards
from slimcodec.training.shown import Shown, adapts
from slimcodec.training.tables import crops_to_learn_from, with_everything
from slimcodec.training.teach import Teach, accumulate_gradients, fit, load_trained, save_trained

TIMES_TOLD = 10  # how far a pass over the photos is


@dataclass(frozen=True)
class Run:
    """What every stage is given."""

    settings: Settings
    directory: RunDirectory
    photos: Photos
    tracker: Tracker
    teller: Teller
    zoos: Path  # the folder of students/ and teachers/, for models that are promoted
    deadline: float | None  # as time.monotonic() counts
    commit: str | None = field(default_factory=provenance.commit)  # now: the checkout may be another at the end

    def say(self, text: str) -> None:
        self.teller.line(text)

    @property
    def teacher(self) -> Path:
        """The teacher's model directory."""
        load = self.settings.teacher.load
        return zoo.find(load) if load else self.directory.teacher

    @property
    def teacher_identity(self) -> dict[str, str]:
        return {"name": self.settings.teacher.name, "sha256": models.load(self.teacher).sha256}

    @property
    def student(self) -> Path:
        """The student so far."""
        return self.directory.student_so_far(self.settings.prune.scopes)


# ------------------------------------------------------------------------------------------------ Trainer, processes


def trainer(run: Run, fit: Fit, directory: Path, *, callbacks: list[Any], **settings: Any) -> lightning.Trainer:
    """A fresh Trainer for one fit, with this run's loggers."""
    chosen = run.settings.trainer
    several: dict[str, Any] = {}
    if parallel.count() > 1:
        several["strategy"] = DDPStrategy(
            process_group_backend=backend(run.settings),
            find_unused_parameters=True,  # an inherited encoder is frozen at first
            broadcast_buffers=False,  # they are the same in every process
        )
        several["use_distributed_sampler"] = False  # the crops and the validation photos are shared out already
    return lightning.Trainer(
        accelerator=chosen.accelerator,
        devices=started.place().local_count,
        num_nodes=started.place().machines,
        precision=chosen.precision,  # type: ignore[arg-type]  # the settings allow no other
        gradient_clip_val=chosen.gradient_clip_val,
        log_every_n_steps=chosen.log_every_n_steps,
        benchmark=chosen.benchmark,
        plugins=[parallel.environment()],  # under SLURM one that is alone is no cluster
        callbacks=callbacks,
        logger=(parallel.rank() == 0 and run.tracker.loggers(directory, fit)) or False,
        default_root_dir=directory,
        max_epochs=-1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        **several,
        **settings,
        **({"enable_progress_bar": False} | chosen.more),  # the run has its own
    )


def require_arguments(settings: Settings) -> None:
    """Raises InvalidInput for a name in trainer.more that lightning.Trainer does not have."""
    known = inspect.signature(lightning.Trainer).parameters
    if unknown := set(settings.trainer.more) - set(known):
        raise InvalidInput(f"trainer.more.{min(unknown)}: lightning.Trainer has no such argument; remove it")


def backend(settings: Settings) -> str:
    """How processes talk to each other."""
    return "nccl" if settings.trainer.accelerator == "gpu" else "gloo"


# ------------------------------------------------------------------------------------------------- one training


def train(run: Run, module: Teach, model: Path, training: Training, stage: Stage) -> None:
    """Fit in a working directory beside, then write the model directory and remove the working directory."""
    work = run.directory.work(model)
    crops = run.photos.validation_crops
    data = PhotoData(validation_photos=crops, steps_per_epoch=training.steps_per_epoch)
    parallel.on_rank_zero(require_same_configuration, work, run.settings.sections(stage))
    minutes = run.settings.trainer.checkpoint_minutes
    training_of_run = plan.fit(run.settings, run.directory, stage, model)
    make_trainer = functools.partial(trainer, run, training_of_run)
    if run.settings.logger.any:
        parallel.on_rank_zero(run.directory.link_log, model)
    parallel.on_rank_zero(tell_data, run)
    with run.teller.training(training_of_run) as watch:
        fit(module, data, work, make_trainer, checkpoint_minutes=minutes, deadline=run.deadline, watch=watch)
    parallel.on_rank_zero(_keep_trained, run, module, model, training, stage)


def tell_data(run: Run) -> None:
    """Tell W&B of the photos, if they were read: a command that only measures needs none."""
    if run.settings.logger.wandb is not None and "all" in vars(run.photos):
        run.tracker.data(run.photos.digests)


def _keep_trained(run: Run, module: Teach, model: Path, training: Training, stage: Stage) -> None:
    run.directory.keep_log(model)
    save_trained(
        model,
        module.codec.cpu(),
        module.prior.cpu(),
        run.photos.first_crops(training.crop),
        role="teacher" if stage == "teacher" else "student",
        teacher=None if stage == "teacher" else run.teacher_identity,
        configuration=run.settings.sections(stage),
        git_commit=run.commit,
        half=run.settings.half_weights,
        states=module.quantiser.states if module.quantiser else 1,
    )
    shutil.rmtree(run.directory.work(model))


def teaching(run: Run, codec: HyperpriorCodec, prior: FactorizedPrior, training: Training, *, seed: int) -> Teach:
    """The LightningModule of a teacher."""
    return Teach(codec, prior, seed=seed, cache=run.photos.cache, **engine(run.settings), **training.of_module)


def engine(settings: Settings) -> dict[str, Any]:
    """How a LightningModule does its steps."""
    chosen = settings.trainer
    return {"compiler": torch.compile if chosen.compile else None, "whole_step": chosen.whole_step}


def distillation(
    run: Run,
    codec: HyperpriorCodec,
    prior: FactorizedPrior,
    training: Training,
    *,
    seed: int,
    weights: dict[str, float],
    **more: Any,
) -> Distill:
    """The LightningModule of a student."""
    lightning.seed_everything(seed, verbose=False)  # for the adapters
    teacher = load_trained(run.teacher)
    return Distill(
        codec,
        prior,
        teacher.codec,
        teacher.prior,
        weights=weights,
        inherited_encoder=run.settings.student.inherit_encoder,
        seed=seed,
        **{"cache": run.photos.cache} | more,
        **engine(run.settings),
        **training.of_module,
    )


def finetune(run: Run, before: Path, model: Path, training: Training, stage: Stage) -> None:
    """Train the student in the model directory `before` further, into `model`."""
    trained = load_trained(before, both_quantisers=training.as_in_files in ("both", "all"))
    # Every pass of every round sees other crops.
    place = model.relative_to(run.directory.path) if model.is_relative_to(run.directory.path) else model.name
    seed = run.settings.seed + zlib.crc32(str(place).encode()) % 2**16
    quantiser = Quantiser(trained.model.tables, run.photos.device) if training.as_in_files else None
    weights, codec = run.settings.finetuning_weights, trained.codec
    if stage == "finish":
        lightning.seed_everything(seed, verbose=False)  # for what is new
        codec = with_changes(run, codec, training)
        if run.settings.finish.new_alone:
            freeze_old(codec, trained.codec)
            trained.prior.requires_grad_(False)
    freezing: dict[str, Any] = {"freeze_share": float(bool(training.freeze_encoder))}
    if training.freeze_encoder == "g_a":
        freezing["frozen"] = ["g_a"]
    if training.parts is not None:
        train_parts(codec, trained.prior, training.parts)
        freezing["frozen"] = []
    if stage == "finish" and run.settings.finish.quantise:
        codec = quantised(run, codec, training.crop, quantiser)
        freezing = {"freeze_share": 1.0}  # y's units are those of the decoder's integers
    shown = Shown(trained.model, codec) if training.as_in_files == "all" and adapts(trained.model, codec) else None
    how: dict[str, Any] = {"seed": seed, "weights": weights, "quantiser": quantiser, "shown": shown, **freezing}
    if training.freeze_gains:
        codec.log_gain.requires_grad_(False)
    if training.stored_latents:
        how["cache"] = stored_latents(run, codec, training.crop, stage)
    module = distillation(run, codec, trained.prior, training, **how)
    train(run, module, model, training, stage)


def train_parts(codec: HyperpriorCodec, prior: FactorizedPrior, parts: Sequence[str]) -> None:
    """Let training leave all but these parts as they are."""
    for name, parameter in codec.named_parameters():
        parameter.requires_grad_(name.split(".")[0] in parts)
    prior.requires_grad_("prior" in parts)


def stored_latents(run: Run, codec: HyperpriorCodec, size: int, stage: Stage) -> StoredLatents:
    """Crops of the training photos with their latents."""
    photos = run.photos.all[0]
    assert not isinstance(photos, Shards)  # that was checked
    settings, device = run.settings, run.photos.device
    how: dict[str, Any] = {"device": device, "saturated": settings.data.saturated, "seed": settings.seed}
    return StoredLatents(photos, codec.to(device).g_a, size, **how, tell=telling(run, f"{stage}: latents"))


def telling(run: Run, what: str) -> Callable[[int, int], None]:
    """Says now and then how many photos are done."""

    def tell(done: int, photos: int) -> None:
        if done == photos or done % max(1, photos // TIMES_TOLD) == 0:
            run.say(f"{what}, {done:,} of {photos:,} photos")

    return tell


def quantised(run: Run, codec: HyperpriorCodec, crop: int, quantiser: Quantiser | None) -> HyperpriorCodec:
    """The codec with its decoder in integers."""
    if codec.architecture.in_integers:
        return codec
    return in_integers(codec, run.photos.first_crops(crop), quantiser)


def convert(run: Run, before: Path, model: Path) -> None:
    """Write the student in the model directory `before` with its decoder in integers, and no training."""
    trained, crop = load_trained(before, both_quantisers=True), run.settings.student.training.crop
    quantiser = Quantiser(trained.model.tables, torch.device("cpu"))
    codec = quantised(run, trained.codec, crop, quantiser)
    fields = {"configuration": run.settings.sections("finish"), "git_commit": run.commit}
    how = {"role": "student", "teacher": run.teacher_identity, "half": run.settings.half_weights}
    save_trained(model, codec, trained.prior, run.photos.first_crops(crop), states=quantiser.states, **how, **fields)


def with_changes(run: Run, codec: HyperpriorCodec, training: Training) -> HyperpriorCodec:
    """The codec with another encoder and more blocks, as finish asks for."""
    finish = run.settings.finish
    if finish.encoder:
        codec = with_encoder(codec, run.photos.first_crops(training.crop), **vars(finish.encoder))
    if finish.encoder_blocks:
        codec = with_blocks(codec, "g_a", "residual", finish.encoder_blocks)
    if finish.decoder_blocks:
        codec = with_blocks(codec, "g_s", "depthwise", finish.decoder_blocks)
    if finish.context:
        codec = with_context(codec, finish.context)
    return with_levels(codec, finish.decoder_levels) if finish.decoder_levels else codec


def learn_tables(run: Run, before: Path, model: Path, how: Tables) -> None:
    """Write the student in the model directory `before`, with tables that fit it and the training photos."""
    photos = crops_to_learn_from(run.photos.to_learn_from(how.side, how.photos), how.side, how.photos)
    crops = run.photos.first_crops(how.side)

    def tell(what: str, done: int, photos: int) -> None:
        telling(run, f"finish: {what}")(done, photos)

    student = models.load(before)
    if how.states > 1:
        student = dependently_quantised(student, how.states)
    learned = with_everything(student, crops, photos, how.corrections, how.filters, tell, how.kinds)
    fields = {"configuration": run.settings.sections("finish"), "git_commit": run.commit}
    models.copy_with_tables(before, model, learned.tables, log_gain=learned.codec.log_gain, **fields)


def prune_to(run: Run, scope: Scope, base: Path, budget: float, out: Path) -> None:
    """Write the model directory of a student that is pruned to a budget of MAC/pixel."""
    settings = run.settings.prune
    trained = load_trained(base)
    if settings.importance == "taylor":
        module = teaching(run, trained.codec, trained.prior, settings.training, seed=run.settings.seed)
        accumulate_gradients(module.to(run.photos.device), settings.importance_batches)
    codec, prior = prune(
        trained.codec,
        trained.prior,
        scope=scope,
        budget=budget,
        importance=settings.importance,
        floors=settings.floors,
    )
    half, training = run.settings.half_weights, settings.training
    crops = run.photos.first_crops(training.crop) if training.as_in_files else None  # for the tables of what files hold
    save_trained(out, codec.cpu(), prior.cpu(), crops, role="student", teacher=run.teacher_identity, half=half)


def deadline(settings: Settings) -> float | None:
    """When the time of this command is up, as time.monotonic() counts."""
    seconds = settings.trainer.max_seconds
    return None if seconds is None else time.monotonic() + seconds
