"""One command's job: its settings are checked, its run is done, and how it ended is kept and told.

    configuration ──► settings ──► stages ──► job.json: running, complete, stopped or failed

An error that is for people becomes one line. Nothing here imports PyTorch before the settings are known to be good.
"""

import errno
import json
import logging
import math
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rich.console import Console

from slimcodec import InvalidFile, InvalidInput, InvalidModel, SlimcodecError
from slimcodec.codec import json_files
from slimcodec.codec.atomic import write_text
from slimcodec.pipeline import results
from slimcodec.pipeline.checks import checked, processes, require_possible
from slimcodec.pipeline.results import Figures
from slimcodec.pipeline.run_directory import JOB, RunDirectory
from slimcodec.pipeline.settings import Settings
from slimcodec.training.errors import TrainingInterrupted
from slimcodec.training.started import place

RUNNING, COMPLETE, STOPPED, FAILED = "running", "complete", "stopped", "failed"
BAD_INPUT = 2  # the exit status
TRY_AGAIN = 75  # of a job that was stopped and can go on
# Of errors that are the disk's or the folder's: a line says so, and what was made so far is kept.
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
OF_THE_DISK |= {errno.ENOTDIR, errno.ENAMETOOLONG}
PROBE_BYTES = 1 << 20  # what a run directory must have room for: less than that a run cannot even begin with
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


class Job(NamedTuple):
    """How a job stands. `running` is also what a job that was killed says of itself."""

    directory: str  # relative to the sweep's
    overrides: dict[str, str]
    status: str
    began: float  # seconds since the epoch
    error: str | None = None
    seconds: float | None = None  # of all stages, over all commands
    figures: Figures | None = None


class Outcome(NamedTuple):
    status: str
    error: str | None = None
    figures: Figures | None = None


# ------------------------------------------------------------------------------------------------------ one job


def do(
    directory: RunDirectory,
    compose: Callable[[], dict[str, Any]],
    *,
    overrides: Sequence[str],
    command: list[str],
    sweeping: bool,
    zoos: Path,
) -> float | None:
    """Do a job in a run directory, alone; its objective, the student's BD-rate against its teacher in per cent.

    compose    gives the resolved configuration
    overrides  Hydra's, which made it
    command    is this job's: several processes of it do a data-parallel job
    sweeping   an error is kept for the end of the multirun, and NaN returned; otherwise it ends the command
    zoos       where students/ and teachers/ are
    """
    if place().rank:
        follow(compose, directory)
        return None
    if (count := _processes_to_start(compose)) > 1:
        return _by_processes(count, command, directory, sweeping)
    console = Console()
    waiting = f"another command works in {directory.path}, waiting for it; afterwards this one does what is left"
    with directory.alone(lambda: console.print(waiting, markup=False)):
        began = time.time()
        try:
            record(directory, overrides, began, Outcome(RUNNING))
            settings = checked(compose() | {"run_dir": str(directory.path)})
            require_possible(settings, directory)  # before the seconds that the imports of the stages take
            objective, figures = _run(settings, console, zoos, sweeping)
            record(directory, overrides, began, Outcome(COMPLETE, figures=figures))
            return objective
        except Exception as error:
            outcome = outcome_of(error, directory.path)
            with suppress(OSError):  # where the disk is full, what was kept before has to do
                record(directory, overrides, began, outcome)
                directory.note(f"{outcome.status}: {outcome.error}")
            if not sweeping or outcome.status == STOPPED:  # the time is up for the jobs to come too
                leave(error, outcome)
            console.print(f"{outcome.status}: {outcome.error}", markup=False)
            return math.nan


def _run(settings: Settings, console: Console, zoos: Path, sweeping: bool) -> tuple[float | None, Figures | None]:
    prepare_process()
    from slimcodec.pipeline import stages, training_setup  # late: they import PyTorch
    from slimcodec.training import parallel

    with parallel.connected(training_setup.backend(settings)):
        run = stages.begin(settings, console, zoos, sweeping=sweeping)
        objective = stages.go(run)
        return objective, results.figures(run.directory, run.teacher, run.student)


def _processes_to_start(compose: Callable[[], dict[str, Any]]) -> int:
    """1 where they were started already, or where something is wrong with the settings: that is told elsewhere."""
    if place().count > 1:
        return 1
    try:
        return processes(checked(compose()))
    except InvalidInput:
        return 1


def _by_processes(count: int, command: list[str], directory: RunDirectory, sweeping: bool) -> float | None:
    """Let processes do the job, of which the first keeps and tells how it ended."""
    from slimcodec.training import parallel

    status = parallel.launch(count, command)
    if status == 0:
        return results.objective(results.read(directory))
    ended = read(directory.job, directory.path.name) if directory.job.is_file() else None
    if ended and ended.status == STOPPED:
        status = TRY_AGAIN
    if not sweeping or status == TRY_AGAIN:
        raise SystemExit(status)
    return math.nan


def follow(compose: Callable[[], dict[str, Any]], directory: RunDirectory) -> None:
    """Be one of the processes behind the first one: train with it, and say nothing that it says."""
    warnings.simplefilter("ignore")
    prepare_process()
    from slimcodec.pipeline import stages, training_setup
    from slimcodec.training import parallel

    settings = checked(compose() | {"run_dir": str(directory.path)})
    with parallel.connected(training_setup.backend(settings)):
        try:
            stages.go(stages.begin(settings, Console(quiet=True)))
        except SlimcodecError:  # the first one has it too, and says so
            parallel.wait_for_rank_zero_to_end()
            raise SystemExit(1) from None


def prepare_process() -> None:
    """Quieten the libraries, and let a GPU multiply in TF32."""
    import lightning.pytorch  # noqa: F401 - now, for its import sets the level of its log
    import torch

    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_float32_matmul_precision("high")


# ----------------------------------------------------------------------------------------------------- how it ended


def outcome_of(error: Exception, directory: Path) -> Outcome:
    if isinstance(error, SlimcodecError):
        return Outcome(STOPPED if isinstance(error, TrainingInterrupted) else FAILED, str(error))
    if isinstance(error, OSError) and _is_of_the_disk(error):  # shutil.Error is one
        reason = error.strerror if error.errno else error.args[0][0][-1]  # copytree's errors are a list
        return Outcome(
            FAILED,
            f"{error.filename or directory}: {reason}; make room, or name another run_dir, and give the command again",
        )
    return Outcome(FAILED, "".join(traceback.format_exception(error)))


def _is_of_the_disk(error: BaseException) -> bool:
    return isinstance(error, shutil.Error) or (isinstance(error, OSError) and error.errno in OF_THE_DISK)


def leave(error: Exception, outcome: Outcome) -> NoReturn:
    """End the command: with one line if the error is for people, otherwise as Python does."""
    bad_input = isinstance(error, InvalidInput | InvalidFile | InvalidModel) or _is_of_the_disk(error)
    if not (bad_input or isinstance(error, SlimcodecError)):
        raise error
    refuse(str(outcome.error), BAD_INPUT if bad_input else exit_status([outcome.status]))


def refuse(line: str, status: int = BAD_INPUT) -> NoReturn:
    """End the command with one line."""
    print(f"slimcodec: {line}", file=sys.stderr)
    raise SystemExit(status) from None


def exit_status(statuses: Iterable[str]) -> int:
    """Of a command with such jobs: 0; 75, try again later, where one was stopped and can go on; 1 where one failed."""
    found = set(statuses)
    return 1 if found & {FAILED, RUNNING} else TRY_AGAIN if STOPPED in found else 0


def require_writable(directory: Path) -> None:
    """End the command with one line where nothing can be written: Hydra, which writes first, would show a traceback."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
    except OSError as error:
        reason = f"{directory}: nothing can be written there ({error.strerror})"
        refuse(f"{reason}; make room, or name another folder (run_dir=…)")


# ------------------------------------------------------------------------------------------------------- job.json


def record(directory: RunDirectory, overrides: Sequence[str], began: float, outcome: Outcome) -> None:
    """Keep in a run directory how its job stands; `overrides` are Hydra's: `key=value`, `+key=value`."""
    directory.path.mkdir(parents=True, exist_ok=True)
    try:
        seconds = directory.seconds()
    except InvalidInput:  # the run itself says so; how it stands must be kept all the same
        seconds = {}
    entry = {
        "overrides": dict(override.lstrip("+").split("=", 1) for override in overrides),
        "status": outcome.status,
        "began": began,
        "error": outcome.error,
        "seconds": sum(seconds.values()) if seconds else None,
        "figures": outcome.figures and outcome.figures._asdict(),
    }
    write_text(directory.job, json.dumps(entry, indent=1) + "\n")


def read_all(directory: Path) -> list[Job]:
    """All jobs below a sweep's directory, by name. One whose record is damaged is a failed one, which says so."""
    return [read(path, path.parent.relative_to(directory).as_posix()) for path in sorted(directory.rglob(JOB))]


def read(path: Path, name: str) -> Job:
    remedy = "remove it, and give the command again"
    try:
        entry = json_files.read(path, remedy=remedy)
        figures = entry.pop("figures", None)
        found = json_files.record(Job, entry | {"directory": name})
        return found._replace(figures=None if figures is None else json_files.record(Figures, figures))
    except InvalidInput as error:
        return Job(name, {}, FAILED, math.inf, str(error))
    except ValueError as error:
        return Job(name, {}, FAILED, math.inf, f"{path}: is damaged ({error}); {remedy}")
