"""Train a teacher, distil a student, prune it in rounds, finish it, evaluate both on real files, export the student.

    python run.py experiment=demo

Each stage leaves complete model directories in the run directory. A stage that is complete is skipped, one that was
interrupted continues, and one that was made with another configuration is never overwritten.
"""

import errno
import functools
import json
import logging
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import hydra
import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from rich.console import Console
from rich.table import Table

from slimcodec import InvalidFile, InvalidInput, InvalidModel, SlimcodecError
from slimcodec.codec import json_files, models
from slimcodec.codec.inference import Codec
from slimcodec.codec.network import Architecture, HyperpriorCodec
from slimcodec.codec.quantise import Quantiser
from slimcodec.evaluation import anchors, curves, figures, points, provenance, study
from slimcodec.evaluation.codecs import ModelCodec, with_run
from slimcodec.evaluation.summary import PSNR
from slimcodec.training import data, parallel, sweep
from slimcodec.training.checkpoints import TrainingInterrupted
from slimcodec.training.distill import Distill, inherited_parts, new_student, student_architecture
from slimcodec.training.prior import FactorizedPrior
from slimcodec.training.prune import COUNTS, LOWEST_SHARE_OF_WIDTH, lowest_macs_per_pixel, prune
from slimcodec.training.rounds import Round, Rules, check_rules, next_attempt, read_records, rounds
from slimcodec.training.start import start_from_photos
from slimcodec.training.teach import Teach, accumulate_gradients, fit, load_trained, save_trained
from slimcodec.training.tracking import Tracker, tracker

HERE = Path(__file__).parent
TRAINING = ("teacher", "distill", "prune", "finish")  # the stages that all processes go through
STAGES = (*TRAINING, "evaluate", "export")
# What a stage's result depends on: sections of the configuration. Evaluation depends on the models' hashes besides.
TEACHER = ("seed", "data", "teacher")
DISTILL = (*TEACHER, "student", "distill")
PRUNE = (*DISTILL, "prune", "validation")
FINISH = (*PRUNE, "finish")
EVALUATE = ("evaluate", "data")
GATE_QUALITIES_NEEDED = 4
STARTING_CROPS = 64
RATES = dict[str, float | None]  # BD-rates in per cent, by what they are against
EVALUATION = "evaluation/summary.json"  # what the stage evaluate found, in a run's directory
BAD_INPUT = 2  # the exit status
# Of errors that are the disk's or the folder's: a line says so, and what was made so far is kept.
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
OF_THE_DISK |= {errno.ENOTDIR, errno.ENAMETOOLONG}
PROBE_BYTES = 1 << 20  # what a run directory must have room for: less than that a run cannot even begin with
JOIN = "--join"  # how rank zero starts the other processes
# Lightning and torch say these on every run; none asks for anything to be done.
QUIET = (
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*smaller than the logging interval.*",
    ".*LeafSpec.*is deprecated.*",
    ".*torch.jit.script.*is deprecated.*",
    ".*`broadcast_buffers` is deprecated.*",
    "Grad strides do not match bucket view strides.*",
)

console = Console()


class Run:
    """One run: its configuration as plain containers, its directory, its photos, and a method for every stage."""

    def __init__(self, configuration: dict[str, Any]):
        self.configuration = configuration
        self.directory = Path(configuration["run_dir"])
        self.seconds: dict[str, float] = {}
        self.commit = provenance.commit()  # now: the checkout may be another when training ends
        limit = configuration["trainer"]["max_time"]
        self.deadline = None if limit is None else time.monotonic() + _seconds(limit)
        if unknown := set(configuration["stages"]) - set(STAGES):
            raise InvalidInput(f"stages: there is no stage {sorted(unknown)[0]!r}; known are {', '.join(STAGES)}")
        if len(configuration["validation"]["qualities"]) < GATE_QUALITIES_NEEDED:
            raise InvalidInput(f"validation.qualities: BD-rate needs at least {GATE_QUALITIES_NEEDED} qualities")
        if (workers := configuration["trainer"]["crop_workers"]) < 0:
            raise InvalidInput(f"trainer.crop_workers={workers}: must be 0 or more processes")
        if "prune" in configuration["stages"]:
            for scope in self.scopes:
                check_rules(self.rules(scope))
        for section in ("teacher", "student"):
            if configuration[section]["training"].get("as_in_files"):
                raise InvalidInput(
                    f"{section}.training.as_in_files: what files hold is known of a model that has been saved; "
                    "set it in prune.training or finish.training"
                )

    def __call__(self) -> float | None:
        """Run the stages in order; the student's BD-rate against the teacher in per cent, if it was evaluated."""
        known = STAGES if parallel.rank() == 0 else TRAINING
        parallel.on_rank_zero(self.check)
        with self.tracker:
            for stage in [stage for stage in known if stage in self.configuration["stages"]]:
                console.rule(f"[bold]{stage}")
                began = time.monotonic()
                try:
                    getattr(self, stage)()
                finally:
                    self.seconds[stage] = time.monotonic() - began
                    if parallel.rank() == 0:
                        self.keep_seconds(stage)
            return self.summary() if parallel.rank() == 0 else None

    def check(self) -> None:
        """Raises InvalidInput, before any work, for what would end the run after hours."""
        sweep.read_seconds(self.directory)
        self.evaluation()
        for scope in self.scopes:
            read_records(self.rounds_directory(scope))
        if "prune" in self.configuration["stages"]:
            self.require_targets_above_floors()

    def require_targets_above_floors(self) -> None:
        floors, architecture = self.configuration["prune"]["floors"], self.new_architecture
        for number, scope in enumerate(self.scopes):
            rules, place = self.rules(scope), "encoder_target" if scope == "encoder" else "target"
            target = rules.target_macs_per_pixel
            before = self.scopes[:number]
            lowest = lowest_macs_per_pixel(architecture, scope=scope, floors=floors, pruned=before)
            if target < lowest:
                raise InvalidInput(
                    f"prune.{place}_macs_per_pixel={target:g}: above the floors the {scope} cannot have less than "
                    f"{lowest:,.1f} MAC/pixel; raise the target or lower prune.floors"
                )
            if not before:
                self.require_first_round(scope, rules)

    def require_first_round(self, scope: str, rules: Rules) -> None:
        """What later rounds start from nobody knows yet; those of the encoder start when the decoder is done."""
        floors, architecture = self.configuration["prune"]["floors"], self.new_architecture
        attempt = next_attempt([], COUNTS[scope](architecture), rules)
        share = LOWEST_SHARE_OF_WIDTH
        lowest = lowest_macs_per_pixel(architecture, scope=scope, floors=floors, lowest_share=share)
        if attempt and attempt.budget < lowest:
            raise InvalidInput(
                f"prune.shrink={rules.shrink:g}: the first round would go from {attempt.base_macs_per_pixel:,.1f} to "
                f"{attempt.budget:,.1f} MAC/pixel, and one round cannot go below {lowest:,.1f}; take smaller rounds"
            )

    # -------------------------------------------------------------------------------------------------- stages

    def teacher(self) -> None:
        settings = self.configuration["teacher"]
        if settings["load"]:
            console.print(f"teacher: using {models.find(settings['load'])}")
            return
        directory = self.directory / "teacher"
        if self.is_complete(directory, TEACHER):
            return
        cached = Path(self.configuration["teacher_cache"]) / sweep.identity(self.sections(TEACHER)) / "teacher"
        waiting = f"teacher: another job trains it, waiting for {cached.parent}"
        first = parallel.rank() == 0
        with sweep.alone(cached.parent, lambda: console.print(waiting)) if first else nullcontext():
            parallel.barrier()
            if not self.is_complete(cached, TEACHER):
                self.train_teacher(cached, settings)
        parallel.on_rank_zero(self.take_teacher, cached, directory)

    def take_teacher(self, cached: Path, directory: Path) -> None:
        if _log(cached).is_dir():
            shutil.copytree(_log(cached), _log(directory), dirs_exist_ok=True)
        models.copy(cached, directory)
        self.track(directory)

    def train_teacher(self, directory: Path, settings: dict[str, Any]) -> None:
        lightning.seed_everything(self.configuration["seed"], verbose=False)
        architecture = Architecture.from_dict(settings["architecture"])
        codec = HyperpriorCodec(architecture)
        prior = FactorizedPrior(architecture.hypers, architecture.rungs)
        if parallel.rank() == 0:  # training begins by giving its weights to the others
            start_from_photos(codec, self.first_crops(settings["training"]))
        module = Teach(codec, prior, seed=self.configuration["seed"], **_of_module(settings["training"]))
        self.train(module, directory, settings["training"], TEACHER, role="teacher")

    def distill(self) -> None:
        if self.is_complete(self.directory / "distilled", DISTILL):
            return
        settings = self.configuration["student"]
        seed = self.configuration["seed"] + 1
        lightning.seed_everything(seed, verbose=False)
        inherit = settings["inherit_encoder"]
        teacher, teacher_prior, _ = load_trained(self.teacher_directory)
        architecture = student_architecture(settings["architecture"], teacher.architecture, inherit_encoder=inherit)
        codec, prior = new_student(architecture, teacher, teacher_prior, inherit_encoder=inherit)
        if parallel.rank() == 0:
            kept = inherited_parts(architecture, teacher.architecture, inherit_encoder=inherit)
            start_from_photos(codec, self.first_crops(settings["training"]), keep=kept)
        module = self.distillation(codec, prior, settings["training"], seed=seed, **self.configuration["distill"])
        self.train(module, self.directory / "distilled", settings["training"], DISTILL, role="student")
        self.track(self.directory / "distilled")

    def prune(self) -> None:
        settings = self.configuration["prune"]
        for scope in self.scopes:
            directory, start = self.rounds_directory(scope), self.rounds_start(scope)
            parallel.on_rank_zero(self.require_same_configuration, directory, PRUNE)
            start_macs = models.load(start).info[f"{scope}_macs_per_pixel"]
            before = read_records(directory)
            if next_attempt(before, start_macs, self.rules(scope)) is None:
                console.print(f"prune: complete in {directory}, skipped")
            else:
                for record in rounds(
                    start,
                    parallel.on_rank_zero(self.validation_curve, self.teacher_directory),
                    directory=directory,
                    scope=scope,
                    rules=self.rules(scope),
                    prune_to=lambda base, budget, out, scope=scope: self.prune_to(scope, base, budget, out),
                    finetune=lambda before, out: self.finetune(before, out, settings["training"], PRUNE),
                    measure=self.validation_curve,
                ):
                    console.print(_sentence(record))
                    if record not in before:
                        parallel.on_rank_zero(self.track_round, scope, record)
            if read_records(directory):
                console.print(f"prune: curve of the rounds in {parallel.on_rank_zero(self.draw_rounds, scope)}")

    def finish(self) -> None:
        """finished/: the student of the last round or `start`, trained on for as long as the configuration says."""
        start, training = (self.configuration["finish"][name] for name in ("start", "training"))
        directory = self.directory / "finished"
        if training is None:
            console.print("finish: nothing to do, finish.training is null")
        elif not self.is_complete(directory, FINISH):
            before = models.find(start) if start else self.last_accepted(self.scopes[-1])
            self.finetune(before, directory, training, FINISH)
            self.track(directory)

    def evaluate(self) -> None:
        settings = self.configuration["evaluate"]
        directory = self.directory / "evaluation"
        directory.mkdir(parents=True, exist_ok=True)
        codecs = {"teacher": self.teacher_directory, "student": self.student_directory}
        hashes = {name: models.load(path).sha256 for name, path in codecs.items()}
        inputs, before = {"configuration": self.sections(EVALUATE), "models": hashes}, self.evaluation()
        if before and before["inputs"] == inputs:
            if all(study.is_whole(directory / name) for name in before["sets"]):
                console.print(f"evaluate: complete in {directory}, skipped")
                return
            console.print(f"evaluate: {study.POINTS} in {directory} has lost points, they are measured again")
        photos = {Path(folder).name: points.find_photos(folder) for folder in settings["folders"]}
        sets = {
            name: self.evaluate_on(name, photos[: settings["limit"]], codecs, directory)
            for name, photos in (photos or {"validation": self.validation_photos}).items()
        }
        models.write_text(self.directory / EVALUATION, json.dumps({"inputs": inputs, "sets": sets}, indent=1))

    def export(self) -> None:
        """student/: the final student with its figures; on `promote`, copies of both models in the zoos."""
        path, summary = self.directory / EVALUATION, self.evaluation()
        if summary is None:
            raise InvalidInput(f"{path}: missing; run the stage evaluate first")
        if summary["inputs"]["models"]["student"] != models.load(self.student_directory).sha256:
            raise InvalidInput(f"{path}: is of another student; run the stage evaluate again")
        student, teacher = (self.configuration[role]["name"] for role in ("student", "teacher"))
        copies = {self.directory / "student": (self.student_directory, "student")}
        if self.configuration["promote"]:
            copies[HERE / "students" / student] = (self.student_directory, "student")
            if not self.configuration["teacher"]["load"]:
                copies[HERE / "teachers" / teacher] = (self.teacher_directory, "teacher")
        for copy, (source, role) in copies.items():
            figures = _figures_of(role, summary["sets"])
            if _is_exported(copy, source, figures):
                console.print(f"export: complete in {copy}, skipped")
                continue
            with sweep.alone(copy.parent):  # into a zoo, runs of different directories promote theirs
                models.copy(source, copy)
                models.add_figures(copy, figures)
            if copy == self.directory / "student":
                self.tracker.model(copy, self.teacher_directory, self.configuration["teacher"]["name"])
            console.print(f"export: {copy}")

    def keep_seconds(self, stage: str) -> None:
        """seconds.json: what each stage took over all commands that worked on it, up to its end or a time limit."""
        found = sweep.read_seconds(self.directory)
        found[stage] = round(found.get(stage, 0) + self.seconds[stage], 1)
        self.directory.mkdir(parents=True, exist_ok=True)
        models.write_text(self.directory / sweep.SECONDS, json.dumps(found, indent=1) + "\n")

    def evaluation(self) -> dict[str, Any] | None:
        """What the stage evaluate kept of its inputs and sets; None before. Raises InvalidInput when it is damaged."""
        path = self.directory / EVALUATION
        if not path.is_file():
            return None
        remedy = "remove it, and run the stage evaluate again: nothing is measured twice"
        found = json_files.read(path, remedy=remedy)
        try:
            inputs, sets = found["inputs"], found["sets"]
            parts = [(inputs["configuration"], dict[str, Any]), (inputs["models"], dict[str, str])]
            parts += [(sets[name][role]["bd_rate_percent"], RATES) for name in sets for role in ("teacher", "student")]
            if wrong := [part for part, kind in parts if not json_files.fits(part, kind)]:
                raise ValueError(f"{str(wrong[0])[:40]} is of the wrong type")
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"{path}: is damaged ({error!r}); {remedy}") from error
        return found

    # ------------------------------------------------------------------------------------------------ training

    def train(self, module: Teach, directory: Path, training: dict, sections: tuple[str, ...], *, role: str) -> None:
        """Fit in a working directory beside, then write the model directory and remove the working directory."""
        work = _work(directory)
        photos = data.PhotoData(
            cache=self.cache, validation_photos=self.validation_crops, steps_per_epoch=training["steps_per_epoch"]
        )
        parallel.on_rank_zero(self.require_same_configuration, work, sections)
        settings = self.configuration["trainer"]
        more = {"checkpoint_minutes": settings["checkpoint_minutes"], "compile": settings["compile"]}
        fit(module, photos, work, self.trainer, deadline=self.deadline, **more)
        parallel.on_rank_zero(self.keep_trained, module, directory, training, sections, role=role)

    def keep_trained(
        self, module: Teach, directory: Path, training: dict, sections: tuple[str, ...], *, role: str
    ) -> None:
        work = _work(directory)
        shutil.rmtree(_log(directory), ignore_errors=True)
        if (work / "log").is_dir():
            shutil.copytree(work / "log", _log(directory))
        save_trained(
            directory,
            module.codec.cpu(),
            module.prior.cpu(),
            self.first_crops(training),
            role=role,
            teacher=self.teacher_identity if role == "student" else None,
            configuration=self.sections(sections),
            git_commit=self.commit,
            half=self.configuration["half_weights"],
        )
        shutil.rmtree(work)

    def distillation(
        self,
        codec: HyperpriorCodec,
        prior: FactorizedPrior,
        training: dict[str, Any],
        *,
        weights: dict[str, float],
        seed: int,
        freeze_share: float,
    ) -> Distill:
        lightning.seed_everything(seed, verbose=False)  # for the adapters
        teacher, teacher_prior, _ = load_trained(self.teacher_directory)
        return Distill(
            codec,
            prior,
            teacher,
            teacher_prior,
            weights=weights,
            inherited_encoder=self.configuration["student"]["inherit_encoder"],
            freeze_share=freeze_share,
            seed=seed,
            **_of_module(training),
        )

    def prune_to(self, scope: str, base: Path, budget: float, out: Path) -> None:
        settings = self.configuration["prune"]
        codec, prior, _ = load_trained(base)
        if settings["importance"] == "taylor":
            module = Teach(codec, prior, seed=self.configuration["seed"], **_of_module(settings["training"]))
            accumulate_gradients(module.to(self.cache.device), self.cache, settings["importance_batches"])
        codec, prior = prune(
            codec,
            prior,
            scope=scope,
            budget=budget,
            importance=settings["importance"],
            floors=settings["floors"],
        )
        half = self.configuration["half_weights"]
        save_trained(out, codec.cpu(), prior.cpu(), role="student", teacher=self.teacher_identity, half=half)

    def finetune(self, before: Path, out: Path, training: dict, sections: tuple[str, ...]) -> None:
        codec, prior, model = load_trained(before)
        # Every pass of every round sees other crops.
        seed = self.configuration["seed"] + zlib.crc32(str(out.relative_to(self.directory)).encode()) % 2**16
        weights = self.configuration["prune"]["distill_weights"]
        weights = self.configuration["distill"]["weights"] if weights is None else weights
        module = self.distillation(codec, prior, training, weights=weights, seed=seed, freeze_share=0)
        if training.get("as_in_files"):
            module.quantiser = Quantiser(model.tables, self.cache.device)
        self.train(module, out, training, sections, role="student")

    def trainer(self, directory: Path, *, callbacks: list, **settings: Any) -> lightning.Trainer:
        """A fresh Trainer from conf/trainer, with this run's loggers."""
        ours = ("max_time", "checkpoint_minutes", "compile", "crop_workers")
        chosen = {name: value for name, value in self.configuration["trainer"].items() if name not in ours}
        if "strategy" in chosen:
            chosen["devices"] = parallel.count()
        return hydra.utils.instantiate(
            chosen,
            callbacks=callbacks,
            logger=(parallel.rank() == 0 and self.tracker.loggers(directory)) or False,
            default_root_dir=directory,
            max_epochs=-1,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            **settings,
            _convert_="object",
        )

    # ----------------------------------------------------------------------------------------------- tracking

    @cached_property
    def tracker(self) -> Tracker:
        return tracker(
            self.configuration.get("logger") or {},  # logger=[] leaves no section
            self.directory,
            group=self.configuration["name"],
            stages=self.configuration["stages"],
            configuration=self.configuration,
        )

    def track(self, model: Path) -> None:
        """A model directory that is new, and what the codec in it makes of the first validation crops."""
        teacher = self.teacher_directory
        self.tracker.model(model, teacher, self.configuration["teacher"]["name"])
        codecs = {"teacher": teacher} if model == teacher else {"teacher": teacher, "student": model}
        self.tracker.pictures(self.validation_crops, codecs, self.cache.device)

    def track_round(self, scope: str, record: Round) -> None:
        self.tracker.round(record, self.draw_rounds(scope))
        if record.accepted:
            self.track(self.rounds_directory(scope) / record.directory)

    # --------------------------------------------------------------------------------------------- evaluation

    def validation_curve(self, model: Path) -> curves.Curve:
        """Estimated bits on the validation crops: what the gate judges by. Kept beside the model's figures."""
        codec = Codec(models.load(model), self.cache.device)
        qualities = self.configuration["validation"]["qualities"]
        label = f"validate {model.name}"
        found = points.estimated_points(codec, self.validation_crops, qualities, description=label)
        curve = curves.mean_curve(found)
        self.tracker.curve(model, curve)
        return curve

    def evaluate_on(self, name: str, photos: list, directories: dict[str, Path], directory: Path) -> dict[str, Any]:
        """Real files of teacher, student, every round and the anchors on one set; the figures of the first two."""
        settings, out = self.configuration["evaluate"], directory / name
        common = {"device": str(self.cache.device), "qualities": tuple(settings["qualities"])}
        refined = common | {"qualities": tuple(settings["effort_qualities"])}
        efforts = {"teacher": [0], "student": [*settings["efforts"], 0]}  # a study is about its last student
        found = [
            ModelCodec.find(path, name=role, role=role, effort=effort, **(refined if effort else common))
            for role, path in directories.items()
            for effort in efforts[role]
        ]
        labels, steps = [codec.name for codec in found], []
        found = [*(ModelCodec.find(other, **common) for other in settings["models"]), *found]
        if settings["rounds"]:
            found, steps = with_run(found, self.directory, **common)
        summary = study.evaluate(
            [*found, *(anchors.codec(anchor) for anchor in settings["anchors"])],
            photos,
            out,
            name=name,
            metrics=settings["metrics"],
            rounds=steps,
            target_macs_per_pixel=self.rules("decoder").target_macs_per_pixel,
            jobs=settings["jobs"],
            with_memory=settings["memory"],
            command=f"python run.py name={self.configuration['name']}",
        )
        shown = {label: codec for label, codec in summary["codecs"].items() if codec["role"] != "round"}
        averages = {label: curves.Curve(**codec["curves"][PSNR]) for label, codec in shown.items()}
        table = figures.comparison_table(averages, "student")
        models.write_text(directory / f"{name}.md", table + "\n")
        console.print(table, markup=False)
        console.print(f"evaluate: the page of {name} is {out / study.PAGE}")
        found = {label: _figures(summary, label) for label in labels}
        self.tracker.evaluation(name, found["student"], out / study.FIGURES / f"{PSNR}.png")
        return found

    def draw_rounds(self, scope: str) -> Path:
        directory, target = self.rounds_directory(scope), self.rules(scope).target_macs_per_pixel
        figures.plot_rounds(read_records(directory), directory / "rounds.png", target_macs_per_pixel=target)
        return directory / "rounds.png"

    def summary(self) -> float | None:
        """Print the final table; the student's BD-rate against the teacher on the first evaluation set, or None."""
        sets = (self.evaluation() or {"sets": {}})["sets"]
        bd_rate = None
        table = Table(title=f"run {self.configuration['name']}", title_justify="left")
        for heading in ("", "teacher", "student"):
            table.add_column(heading, justify="left" if not heading else "right")
        directories = [self.teacher_directory, self.student_directory]
        if not all((directory / models.DESCRIPTION).is_file() for directory in directories):
            return None
        infos = [models.load(directory).info for directory in directories]
        for label, key in (
            ("decoder MAC/pixel", "decoder_macs_per_pixel"),
            ("encoder MAC/pixel", "encoder_macs_per_pixel"),
            ("parameters", "parameters"),
        ):
            table.add_row(label, *(f"{info[key]:,.0f}" for info in infos))
        for name, roles in sets.items():
            for anchor in roles["student"]["bd_rate_percent"]:
                cells = [_percent(roles[role]["bd_rate_percent"].get(anchor)) for role in ("teacher", "student")]
                table.add_row(f"BD-rate on {name} against {anchor}", *cells)
            bd_rate = roles["student"]["bd_rate_percent"]["teacher"] if bd_rate is None else bd_rate
        table.add_row("model directory", *(str(directory) for directory in self.final_directories))
        console.print(table)
        console.print("seconds: " + ", ".join(f"{stage} {value:.0f}" for stage, value in self.seconds.items()))
        for scope in self.scopes:
            target = self.rules(scope).target_macs_per_pixel
            if (macs := infos[1][f"{scope}_macs_per_pixel"]) > target:
                console.print(
                    f"[bold]The target of {target:,.0f} MAC/pixel for the {scope} was NOT reached: {macs:,.0f}. "
                    f"The rounds are in {self.rounds_directory(scope)}."
                )
        return bd_rate

    def figures(self) -> sweep.Figures | None:
        """What a sweep compares; None before there are a student and its evaluation."""
        evaluation = self.evaluation()
        if evaluation is None:
            return None
        found = next(iter(evaluation["sets"].values()))
        teacher, student = (models.load(path).info for path in (self.teacher_directory, self.student_directory))
        return sweep.Figures(
            decoder_macs_per_pixel=student["decoder_macs_per_pixel"],
            encoder_macs_per_pixel=student["encoder_macs_per_pixel"],
            bd_rate_percent=found["student"]["bd_rate_percent"],
            teacher_bd_rate_percent=found["teacher"]["bd_rate_percent"],
            teacher_macs_per_pixel=teacher["decoder_macs_per_pixel"],
        )

    # -------------------------------------------------------------------------------- where things are, and data

    @property
    def teacher_directory(self) -> Path:
        load = self.configuration["teacher"]["load"]
        return models.find(load) if load else self.directory / "teacher"

    @property
    def teacher_identity(self) -> dict[str, str]:
        return {"name": self.configuration["teacher"]["name"], "sha256": models.load(self.teacher_directory).sha256}

    @property
    def student_directory(self) -> Path:
        """The student so far: finished, or of the last accepted round, or as distilled."""
        finished = self.directory / "finished"
        return finished if (finished / models.DESCRIPTION).is_file() else self.last_accepted(self.scopes[-1])

    @property
    def final_directories(self) -> list[Path]:
        exported = self.directory / "student"
        return [self.teacher_directory, exported if exported.is_dir() else self.student_directory]

    @property
    def new_architecture(self) -> Architecture:
        """Of the student before it is pruned."""
        teacher, student = self.configuration["teacher"], self.configuration["student"]
        if teacher["load"]:
            directory = models.find(teacher["load"])
            values = models.read_description(directory)["architecture"]
        else:
            values = teacher["architecture"]
        of_teacher, inherit = Architecture.from_dict(values), student["inherit_encoder"]
        return student_architecture(student["architecture"], of_teacher, inherit_encoder=inherit)

    @property
    def scopes(self) -> list[str]:
        scope = self.configuration["prune"]["scope"]
        if scope not in ("decoder", "encoder", "both"):
            raise InvalidInput(f"prune.scope={scope}: must be decoder, encoder or both")
        return ["decoder", "encoder"] if scope == "both" else [scope]

    def rounds_directory(self, scope: str) -> Path:
        return self.directory / ("rounds" if scope == "decoder" else f"rounds-{scope}")

    def rounds_start(self, scope: str) -> Path:
        """The encoder is pruned after the decoder."""
        before = self.scopes[: self.scopes.index(scope)]
        return self.last_accepted(before[-1]) if before else self.directory / "distilled"

    def last_accepted(self, scope: str) -> Path:
        directory = self.rounds_directory(scope)
        accepted = [record for record in read_records(directory) if record.accepted]
        return directory / accepted[-1].directory if accepted else self.rounds_start(scope)

    def rules(self, scope: str) -> Rules:
        settings = self.configuration["prune"]
        field = "target_macs_per_pixel" if scope == "decoder" else "encoder_target_macs_per_pixel"
        if not settings[field]:
            raise InvalidInput(f"prune.{field}: prune.scope={settings['scope']} needs it")
        named = {name: settings[name] for name in Rules._fields if name in settings}
        return Rules(**(named | {"target_macs_per_pixel": settings[field]}))

    @cached_property
    def photos(self) -> tuple[list[data.Photo], list[data.Photo]]:
        """Training and validation photos, decoded once."""
        settings = self.configuration["data"]
        if settings["kind"] == "embedded":
            return data.embedded("train"), data.embedded("validation")
        if settings["kind"] != "folder":
            raise InvalidInput(f"data.kind={settings['kind']}: must be embedded or folder")
        limits = {"limit": settings["limit"], "max_pixels": settings["max_pixels"]}
        train = data.folder_photos(settings["root"], **limits)
        if settings["validation_root"]:
            return train, data.folder_photos(settings["validation_root"])
        held_out = settings["held_out"]
        if len(train) <= held_out:
            raise InvalidInput(f"data.held_out={held_out}: {settings['root']} has only {len(train)} photos")
        return train[:-held_out], train[-held_out:]

    @property
    def validation_photos(self) -> list[data.Photo]:
        return self.photos[1]

    @cached_property
    def validation_crops(self) -> list[data.Photo]:
        settings = self.configuration["validation"]
        if settings["side"] < data.ALIGNMENT:
            raise InvalidInput(f"validation.side={settings['side']}: must be at least {data.ALIGNMENT} pixels")
        return data.centre_crops(data.for_validation(self.validation_photos)[: settings["limit"]], settings["side"])

    @cached_property
    def cache(self) -> data.PhotoCache:
        on_gpu = self.configuration["trainer"]["accelerator"] == "gpu"
        device = parallel.device() if on_gpu else "cpu"
        cores = max(1, os.cpu_count() // parallel.count())
        cache = data.PhotoCache(
            self.photos[0],
            device=device,
            saturated=self.configuration["data"]["saturated"],
            workers=min(self.configuration["trainer"]["crop_workers"], cores),
        )
        cache.require(self.crop_sizes())  # of all stages now, not when the last of them begins
        return cache

    def crop_sizes(self) -> list[int]:
        """The sides of the crops of every stage that trains."""
        sections = {"teacher": "teacher", "distill": "student", "prune": "prune", "finish": "finish"}
        settings = [
            self.configuration[sections[stage]]["training"]
            for stage in self.configuration["stages"]
            if stage in sections
        ]
        return [training["crop"] for training in settings if training]

    def first_crops(self, training: dict[str, Any]) -> torch.Tensor:
        """What a new codec starts from: more crops than a batch, for its covariances."""
        seed, size = self.configuration["seed"], training["crop"]
        return self.cache.crops(seed=seed, step=0, batch=STARTING_CROPS, size=size).cpu()

    # ------------------------------------------------------------------------------------------- configuration

    def sections(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: self.configuration[name] for name in names}

    def is_complete(self, directory: Path, sections: tuple[str, ...]) -> bool:
        """Whether the stage left its model directory; InvalidInput if it did with another configuration."""
        if not (directory / models.DESCRIPTION).is_file():
            return False
        _require_same(models.load(directory).info["configuration"], self.sections(sections), directory)
        if parallel.rank() == 0:
            shutil.rmtree(_work(directory), ignore_errors=True)  # left if the run was killed just before removing it
        console.print(f"{directory.name}: complete in {directory}, skipped")
        return True

    def require_same_configuration(self, directory: Path, sections: tuple[str, ...]) -> None:
        """Keep the configuration beside unfinished work, and refuse to continue it with another one."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "configuration.json"
        if path.is_file():
            remedy = f"remove {directory} to begin its training anew"
            _require_same(json_files.read(path, remedy=remedy), self.sections(sections), directory)
        else:
            models.write_text(path, json.dumps(self.sections(sections), indent=1))


def _work(directory: Path) -> Path:
    """Where a model is trained that will become this model directory."""
    return directory.with_name(directory.name + ".work")


def _log(directory: Path) -> Path:
    """Where the log of a model's training is kept."""
    return directory.with_name(directory.name + ".log")


def _seconds(limit: str) -> float:
    """trainer.max_time in seconds."""
    parts = re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", str(limit))
    if not parts:
        raise InvalidInput(f"trainer.max_time={limit}: must be days:hours:minutes:seconds, such as 00:01:30:00")
    days, hours, minutes, seconds = map(int, parts.groups())
    return ((24 * days + hours) * 60 + minutes) * 60 + seconds


def _is_exported(copy: Path, source: Path, figures: dict[str, Any]) -> bool:
    if not (copy / models.DESCRIPTION).is_file():
        return False
    info, plain = models.load(copy).info, json.loads(json.dumps(figures))
    return info["weights_sha256"] == models.load(source).sha256 and plain.items() <= info["figures"].items()


def _of_module(training: dict[str, Any]) -> dict[str, Any]:
    """The training settings that the LightningModule takes itself."""
    return {name: value for name, value in training.items() if name not in ("steps_per_epoch", "as_in_files")}


def _figures_of(role: str, sets: dict[str, Any]) -> dict[str, Any]:
    """A model's figures by the name of the set, and of the effort where there was one: `kodak effort 3`."""
    return {
        name + label.removeprefix(role): figures
        for name, labels in sets.items()
        for label, figures in labels.items()
        if label.startswith(role)
    }


def _figures(summary: dict[str, Any], name: str) -> dict[str, Any]:
    """What model.json keeps of an evaluation; a BD-rate is None where the curves have no range in common."""
    against = {anchor: entries[name][PSNR] for anchor, entries in summary["bd_rate"].items() if name in entries}
    curve = summary["codecs"][name]["curves"][PSNR]
    return {
        "photos": summary["codecs"][name]["pictures"],
        "bits": "real files",
        "bd_rate_percent": {anchor: entry["percent"] for anchor, entry in against.items()},
        "bd_rate_range_db": {a: [entry["low"], entry["high"]] for a, entry in against.items() if "low" in entry},
        "date": summary["provenance"]["date"],
        "curve": {"quality": curve["quality"], "bpp": curve["bpp"], "psnr_db": curve["values"]},
    }


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f} %"


def _sentence(record: Round) -> str:
    return (
        f"round {record.number}: {record.macs_per_pixel:,.0f} MAC/pixel (budget {record.budget:,.0f}), "
        f"BD-rate {_percent(record.bd_rate_percent)} against the teacher, "
        f"{_percent(record.bd_rate_percent_against_previous)} against the step before, "
        f"{'accepted' if record.accepted else 'rejected'}, {record.seconds:.0f} s"
    )


def _require_same(old: dict[str, Any], new: dict[str, Any], directory: Path) -> None:
    old, new = (_flat(json.loads(json.dumps(value))) for value in (old, new))
    for key in sorted(set(old) | set(new)):
        if old.get(key) != new.get(key):
            raise InvalidInput(
                f"{directory} was made with {key}={old.get(key)}, not {new.get(key)}: "
                "give this run another name (name=…), or remove the directory to start again"
            )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: leaf for name, item in value.items() for key, leaf in _flat(item, f"{prefix}{name}.").items()}
    return {prefix[:-1]: value}


class Sweep(Callback):
    """What a multirun adds: jobs named by what varies; at the end a table, sweep.csv, a plot, and the errors again."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        _require_writable(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self.began = time.time()
        _require_writable(Path(config.hydra.sweep.dir))
        overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        swept = {override.key_or_group for override in overrides if override.is_sweep_override()}
        if swept:
            unnamed = "hydra.job.config.override_dirname.exclude_keys"
            constant = {override.key_or_group for override in overrides} - swept
            keys = [*OmegaConf.select(config, unnamed), *sorted(constant)]
            # Every job composes its configuration anew, from these.
            config.hydra.overrides.hydra.append(f"{unnamed}=[{','.join(keys)}]")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        directory = Path(config.hydra.sweep.dir)
        found = sweep.jobs(directory)
        console.print(sweep.table(found))
        sweep.write_csv(found, directory / sweep.CSV)
        console.print(f"sweep: {len(found)} jobs in {directory / sweep.CSV}")
        if spots := sweep.spots(found):
            panels, named_by = dict(list(spots.items())[:2]), ", ".join(sweep.varied(found))
            figures.plot_pareto(panels, directory / sweep.PLOT, named_by=named_by)
            console.print(f"sweep: MAC/pixel and BD-rate in {directory / sweep.PLOT}")
        ended = [job for job in found if job.began >= self.began]  # others are of earlier commands
        for job in (job for job in ended if job.error):
            console.print(f"{job.status} {job.directory}: {job.error}", markup=False)
        # Hydra would turn an Exception of a callback into a warning.
        if status := sweep.exit_status(job.status for job in ended):
            raise SystemExit(status)


def job(configuration: DictConfig) -> float | None:
    """Run a command's job, or one of a multirun: there an error is kept for the end, and the next job goes on.

    Returns the objective of a sweep: the student's BD-rate against its teacher in per cent, NaN for a job that failed.
    """
    _prepare_process()
    directory = Path(os.path.relpath(HydraConfig.get().runtime.output_dir))
    waiting = f"another command works in {directory}, waiting for it; afterwards this one does what is left"
    with sweep.alone(directory, lambda: console.print(waiting, markup=False)):
        return _job_in(directory, configuration)


def _job_in(directory: Path, configuration: DictConfig) -> float | None:
    of_hydra = HydraConfig.get()
    sweeping = of_hydra.mode == RunMode.MULTIRUN
    keep = functools.partial(sweep.record, directory, list(of_hydra.overrides.task), time.time())
    try:
        keep(sweep.Outcome(sweep.RUNNING))
        settings = OmegaConf.to_container(configuration, resolve=True, throw_on_missing=True)
        settings |= {"run_dir": str(directory)} if sweeping else {}
        with _processes(settings):
            run = Run(settings)
            objective = run()
        keep(sweep.Outcome(sweep.COMPLETE, figures=run.figures()))
        return objective
    except Exception as error:
        outcome = _outcome(error, directory)
        with suppress(OSError):  # where the disk is full, what was kept before has to do
            keep(outcome)
        if not sweeping or outcome.status == sweep.STOPPED:  # the time is up for the jobs to come too
            _leave(error, outcome)
        console.print(f"{outcome.status}: {outcome.error}", markup=False)
        return math.nan


def _outcome(error: Exception, directory: Path) -> sweep.Outcome:
    if isinstance(error, MissingMandatoryValue):
        return sweep.Outcome(sweep.FAILED, f"{error.full_key} has no default: add {error.full_key}=…")
    if isinstance(error, SlimcodecError):
        return sweep.Outcome(sweep.STOPPED if isinstance(error, TrainingInterrupted) else sweep.FAILED, str(error))
    if _is_of_the_disk(error):
        reason = error.strerror if error.errno else error.args[0][0][-1]  # copytree's errors are a list
        return sweep.Outcome(
            sweep.FAILED,
            f"{error.filename or directory}: {reason}; make room, or name another run_dir, and give the command again",
        )
    return sweep.Outcome(sweep.FAILED, "".join(traceback.format_exception(error)))


def _is_of_the_disk(error: BaseException | None) -> bool:
    return isinstance(error, shutil.Error) or (isinstance(error, OSError) and error.errno in OF_THE_DISK)


def _leave(error: Exception, outcome: sweep.Outcome) -> NoReturn:
    """End the command: with one line if the error is for people, otherwise as Python does."""
    bad_input = isinstance(error, InvalidInput | InvalidFile | InvalidModel | MissingMandatoryValue)
    if not (bad_input or isinstance(error, SlimcodecError) or _is_of_the_disk(error)):
        raise error
    print(f"slimcodec: {outcome.error}", file=sys.stderr)
    status = BAD_INPUT if bad_input or _is_of_the_disk(error) else sweep.exit_status([outcome.status])
    raise SystemExit(status) from None


def _require_writable(directory: Path) -> None:
    """End the command with one line where nothing can be written: Hydra, which writes first, would show a traceback."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
    except OSError as error:
        reason = f"{directory}: nothing can be written there ({error.strerror})"
        print(f"slimcodec: {reason}; make room, or name another folder (run_dir=…)", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from None


@contextmanager
def _processes(configuration: dict[str, Any]) -> Iterator[None]:
    """As many processes as the trainer wants, of which this is the first."""
    trainer = configuration["trainer"]
    if "strategy" not in trainer:
        yield
        return
    devices, gpus = trainer["devices"], torch.cuda.device_count()
    count = gpus if devices == "auto" else devices
    most = gpus if trainer["accelerator"] == "gpu" else os.cpu_count()
    if not isinstance(count, int) or not 1 <= count <= most:
        raise InvalidInput(f"trainer.devices={devices}: must be a number of processes; this machine has {gpus} GPUs")
    command = [sys.executable, str(HERE / "run.py"), JOIN]
    with parallel.processes(count, command, configuration, backend=_backend(configuration)):
        yield


def _backend(configuration: dict[str, Any]) -> str:
    return configuration["trainer"]["strategy"]["process_group_backend"]


def join() -> None:
    """Be one of the processes that rank zero started: train with it, and say nothing that it says."""
    console.quiet = True
    warnings.simplefilter("ignore")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # rank zero decides
    _prepare_process()
    try:
        Run(parallel.join(sys.stdin, _backend))()
    except TrainingInterrupted:
        pass
    except SlimcodecError as error:
        time.sleep(2 * parallel.GRACE_SECONDS)  # where rank zero has the same error, it says so and ends this process
        raise SystemExit(f"slimcodec: {error}") from None


def _prepare_process() -> None:
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_float32_matmul_precision("high")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(configuration: DictConfig) -> float | None:
    # Launchers send this function to other processes by value: everything else it has to find there by name.
    import run

    return run.job(configuration)


if __name__ == "__main__":
    # For the processes of launchers that are started in other folders.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    join() if sys.argv[1:] == [JOIN] else main()
