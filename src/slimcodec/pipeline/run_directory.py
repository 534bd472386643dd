"""Where a run keeps what it makes. No other file knows these names.

runs/NAME/                         the same names in an entry of the cache, of stages that runs have in common
  configuration/                   what Hydra composed
  job.json  seconds.json           how the last command ended; what each stage took
  run.log                          what the commands said, with the time
  teacher/  distilled/  finished/  student/         model directories
  teacher.log/  …                  the log of a model's training
  teacher.work/  …                 a training that is under way
  finished-trained/                a model that waits for its last tables
  rounds/  rounds-encoder/         rounds.json, rounds.png, 01/, 02/, … and attempts: 01-2854.work/pass-1/
  evaluation/                      summary.json, and SET/ and SET.md for each set of photos
  wandb/  wandb-id.txt  wandb-steps.txt
  .lock                            held while a command works here
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimcodec import InvalidInput
from slimcodec.codec import json_files, zoo
from slimcodec.codec.atomic import remove_partial, write_text
from slimcodec.evaluation.locks import alone
from slimcodec.training.records import read_records

JOB = "job.json"
LOG = "log"  # the folder for loggers' files in a training's working directory
ENCODER_ROUNDS = "rounds-encoder"


@dataclass(frozen=True)
class RunDirectory:
    path: Path

    @property
    def teacher(self) -> Path:
        return self.path / "teacher"

    @property
    def distilled(self) -> Path:
        return self.path / "distilled"

    @property
    def finished(self) -> Path:
        return self.path / "finished"

    @property
    def student(self) -> Path:
        """What the stage export leaves."""
        return self.path / "student"

    @property
    def job(self) -> Path:
        return self.path / JOB

    @property
    def said(self) -> Path:
        """What the commands said, with the time."""
        return self.path / "run.log"

    def note(self, text: str) -> None:
        """A line of run.log."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.said.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    @property
    def wandb_id(self) -> Path:
        return self.path / "wandb-id.txt"

    @property
    def wandb_steps(self) -> Path:
        return self.path / "wandb-steps.txt"

    @property
    def evaluation(self) -> Path:
        """The folder of the studies."""
        return self.path / "evaluation"

    @property
    def evaluation_summary(self) -> Path:
        return self.evaluation / "summary.json"

    def study(self, name: str) -> Path:
        return self.evaluation / name

    def study_table(self, name: str) -> Path:
        return self.evaluation / f"{name}.md"

    def rounds(self, scope: str) -> Path:
        return self.path / ("rounds" if scope == "decoder" else ENCODER_ROUNDS)

    def rounds_picture(self, scope: str) -> Path:
        return self.rounds(scope) / "rounds.png"

    @contextmanager
    def alone(self, waiting: Callable[[], Any] | None = None) -> Iterator[None]:
        """Hold this directory's lock; `waiting` is called first if another command has it.

        What a killed command had half written is removed.
        """
        with alone(self.path, waiting):
            remove_partial(self.path)
            yield

    # ---------------------------------------------------------------------------------------------------- models

    @staticmethod
    def is_complete(model: Path) -> bool:
        """Whether it is a model directory: those appear whole."""
        return (model / zoo.DESCRIPTION).is_file()

    @staticmethod
    def work(model: Path) -> Path:
        """Where a model is trained that will become this model directory."""
        return model.with_name(f"{model.name}.work")

    @staticmethod
    def trained(model: Path) -> Path:
        """Where a model is that is trained and waits for its last tables."""
        return model.with_name(f"{model.name}-trained")

    @staticmethod
    def log(model: Path) -> Path:
        """Where the log of a model's training is kept."""
        return model.with_name(f"{model.name}.log")

    def link_log(self, model: Path) -> None:
        """Let the log of a training in the cache be seen here while it is written. It becomes a copy in the end."""
        if model.is_relative_to(self.path):
            return
        written, seen = self.work(model) / LOG, self.log(self.path / model.name)
        with suppress(OSError):  # a file system without links: then it is seen when it is complete
            if seen.is_symlink():
                seen.unlink()
            seen.symlink_to(written.resolve(), target_is_directory=True)

    def keep_log(self, model: Path) -> None:
        """Put the log of a training that ended beside its model."""
        copy_log(self.work(model) / LOG, self.log(model))

    def last_accepted(self, scopes: tuple[str, ...]) -> Path:
        """The student after the rounds of these scopes: of the last accepted round, or as distilled."""
        for scope in reversed(scopes):
            directory = self.rounds(scope)
            accepted = [record for record in read_records(directory) if record.accepted]
            if accepted:
                return directory / accepted[-1].directory
        return self.distilled

    def student_so_far(self, scopes: tuple[str, ...]) -> Path:
        """Finished, or of the last accepted round, or as distilled."""
        return self.finished if self.is_complete(self.finished) else self.last_accepted(scopes)

    def models(self) -> tuple[Path | None, list[tuple[str, Path]]]:
        """The teacher, if this run trained one, and the steps. Raises InvalidInput when it is no run's directory."""
        if not self.steps():
            remedy = "name the directory of a run (runs/NAME)"
            raise InvalidInput(f"{self.path}: holds neither distilled/ nor rounds/; {remedy}")
        return self.teacher if self.is_complete(self.teacher) else None, self.steps()

    def steps(self) -> list[tuple[str, Path]]:
        """The student before pruning, after each round, and finished: names and model directories."""
        named = [("distilled", self.distilled)]
        for scope, prefix in (("decoder", "round"), ("encoder", "encoder round")):
            named += [(f"{prefix} {path.name}", path) for path in sorted(self.rounds(scope).glob("[0-9][0-9]"))]
        named.append(("finished", self.finished))
        return [(name, path) for name, path in named if self.is_complete(path)]

    def stage_of(self, directory: Path) -> str:
        """What made a model or works on one: teacher, distilled, rounds/01-7125/pass-1, finished."""
        inside = directory.is_relative_to(self.path)  # else it is an entry of the cache
        name = directory.relative_to(self.path).as_posix() if inside else directory.name
        return name.replace(".work", "")

    # --------------------------------------------------------------------------------------------------- seconds

    @property
    def _seconds(self) -> Path:
        return self.path / "seconds.json"

    def seconds(self) -> dict[str, float]:
        """Stage → seconds that it took so far; none where the run is new. Raises InvalidInput for a damaged file."""
        remedy = "remove it: the times are counted anew, nothing else is lost"
        found = json_files.read(self._seconds, remedy=remedy) if self._seconds.is_file() else {}
        if wrong := [stage for stage, seconds in found.items() if type(seconds) not in (int, float)]:
            raise InvalidInput(f"{self._seconds}: is damaged (no number of seconds for {wrong[0]}); {remedy}")
        return found

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Count what a stage took over all commands that worked on it, up to its end or a time limit."""
        found = self.seconds()
        found[stage] = round(found.get(stage, 0) + seconds, 1)
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self._seconds, json.dumps(found, indent=1) + "\n")


def copy_log(source: Path, target: Path) -> None:
    """Replace a log, or a link to one, by another, if that one is there."""
    if target.is_symlink():
        target.unlink()
    shutil.rmtree(target, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, target)


# ------------------------------------------------------------------------------------------- the same configuration


def require_same_configuration(directory: Path, wanted: dict[str, Any]) -> None:
    """Keep the configuration beside unfinished work; InvalidInput where that was begun with another one."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "configuration.json"
    if path.is_file():
        remedy = f"remove {directory} to begin its training anew"
        require_same(json_files.read(path, remedy=remedy), wanted, directory)
    else:
        write_text(path, json.dumps(wanted, indent=1))


def require_same(old: dict[str, Any], new: dict[str, Any], directory: Path) -> None:
    """Raises InvalidInput, naming the first setting that differs."""
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
