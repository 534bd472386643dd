"""Several files in one command: which becomes which, and a line about each."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from slimcodec import InvalidInput, InvalidModel, SlimcodecError
from slimcodec.cli import streams
from slimcodec.cli.streams import BAD_INPUT, STREAM
from slimcodec.codec import atomic, bitstream

BAR_AFTER_SECONDS = 1.0

Progress = Callable[[float], None]  # takes the share that is done, 0 to 1
Work = Callable[[Any, Any, Progress], str]  # (source, target, progress) → what to say of it


class Job(NamedTuple):
    source: str
    target: str


# --- which file becomes which ---------------------------------------------------------------------------------------


def plan(inputs: list[str], output: str, suffix: str) -> list[Job]:
    """A job for each input. Raises InvalidInput before anything is written."""
    several = len(inputs) > 1
    if output == STREAM and (several or sys.stdout.isatty()):
        raise InvalidInput(f"{STREAM}: stdout is for one picture, and not for a terminal; name a file or a folder")
    if not several and not os.path.isdir(output) and not output.endswith(os.sep):
        jobs = [Job(inputs[0], output)]
    else:
        jobs = _into_folder(inputs, output, suffix)
    _check_targets(jobs, suffix)
    return jobs


def _into_folder(inputs: list[str], folder: str, suffix: str) -> list[Job]:
    if STREAM in inputs:
        raise InvalidInput(f"{STREAM}: stdin has no name to write its picture under; make it the only IN and name OUT")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InvalidInput(f"{folder}: is not a folder, and there are {len(inputs)} pictures to write to it")
    sources: dict[str, str] = {}
    for source in inputs:
        target = os.path.join(folder, Path(source).stem + suffix)
        if target in sources:
            raise InvalidInput(f"{target}: both {sources[target]} and {source} would be written to it; use two folders")
        sources[target] = source
    os.makedirs(folder, exist_ok=True)
    return [Job(source, target) for target, source in sources.items()]


def _check_targets(jobs: list[Job], suffix: str) -> None:
    """Raises InvalidInput where a picture would be overwritten because OUT was forgotten: `compress *.png`."""
    sources = {_identity(job.source) for job in jobs if job.source != STREAM}
    for _, target in jobs:
        if target == STREAM or atomic.is_stream(target):
            continue
        if _identity(target) in sources:
            raise InvalidInput(f"{target}: is an input as well; name another OUT")
        if suffix == bitstream.EXTENSION and os.path.isfile(target) and not target.endswith(suffix):
            raise InvalidInput(
                f"{target}: is there already and no {suffix} file; the last name is OUT, was it forgotten?"
            )


def _identity(name: str) -> Any:
    """The same for all names of one file, hard links among them."""
    try:
        status = os.stat(name)
    except OSError:
        return os.path.realpath(name)
    return status.st_dev, status.st_ino


# --- the work -------------------------------------------------------------------------------------------------------


def run(jobs: list[Job], work: Work) -> int:
    """Do every job, with a line about each; returns the exit code.

    A picture that fails does not stop the others. A missing or damaged model does: it would fail them all.
    """
    code = 0
    messages = sys.stderr if streams.stands_for(jobs[0].target, 1) else sys.stdout
    with _progress(len(jobs)) as (show, say):
        for index, job in enumerate(jobs):
            try:
                line = _one(job, work, lambda share, index=index: show(index + share))
            except (InvalidModel, BrokenPipeError):
                raise
            except (SlimcodecError, OSError) as error:
                say(f"slimcodec: {streams.one_line(error)}", sys.stderr)
                code = BAD_INPUT
            else:
                say(f"{'stdout' if job.target == STREAM else job.target}: {line}", messages)
            show(index + 1)
    return code


def _one(job: Job, work: Work, progress: Progress) -> str:
    source = sys.stdin.buffer if job.source == STREAM else job.source
    if job.target != STREAM:
        return work(source, job.target, progress)
    with streams.writing_stdout():
        return work(source, sys.stdout.buffer, progress)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[tuple[Progress, Callable[[str, TextIO], None]]]:
    """`show(files done)` and `say(line, stream)`. On a terminal, work that takes long shows a bar."""
    if not sys.stderr.isatty():
        yield lambda done: None, _say
        return
    from tqdm import tqdm

    with tqdm(
        total=total, delay=BAR_AFTER_SECONDS, leave=False, bar_format="{l_bar}{bar}| {elapsed}<{remaining}"
    ) as bar:
        yield lambda done: bar.update(done - bar.n), lambda line, stream: bar.write(line, stream)


def _say(line: str, stream: TextIO) -> None:
    if stream is sys.stdout:
        streams.show(line)
    else:
        with contextlib.suppress(OSError):
            print(line, file=stream)
