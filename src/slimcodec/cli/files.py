"""Several files at once: which becomes which, one after the other, with a line each and a bar."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from slimcodec import InvalidInput, InvalidModel, SlimcodecError
from slimcodec.cli.streams import BAD_INPUT, STREAM, one_line, stands_for, write, writing_stdout
from slimcodec.codec import atomic, bitstream

BAR_AFTER_SECONDS = 1.0


class Job(NamedTuple):
    source: str
    target: str


def plan(inputs: list[str], output: str, suffix: str) -> list[Job]:
    """Which file becomes which. Raises InvalidInput before anything is written."""
    several = len(inputs) > 1
    if output == STREAM and (several or sys.stdout.isatty()):
        raise InvalidInput(f"{STREAM}: stdout is for one picture, and not for a terminal; name a file or a folder")
    if not several and not os.path.isdir(output) and not output.endswith(os.sep):
        jobs = [Job(inputs[0], output)]
    else:
        jobs = _jobs_in_folder(inputs, output, suffix)
    _check_targets(jobs, suffix)
    return jobs


def _jobs_in_folder(inputs: list[str], folder: str, suffix: str) -> list[Job]:
    if STREAM in inputs:
        raise InvalidInput(f"{STREAM}: stdin has no name to write its picture under; make it the only IN and name OUT")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InvalidInput(f"{folder}: is not a folder, and there are {len(inputs)} pictures to write to it")
    sources = {}
    for source in inputs:
        target = os.path.join(folder, Path(source).stem + suffix)
        if target in sources:
            raise InvalidInput(f"{target}: both {sources[target]} and {source} would be written to it; use two folders")
        sources[target] = source
    os.makedirs(folder, exist_ok=True)
    return [Job(source, target) for target, source in sources.items()]


def _check_targets(jobs: list[Job], suffix: str) -> None:
    """A forgotten OUT must not cost a picture: `compress *.png` where there are two."""
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


def do_each(jobs: list[Job], work: Callable[[Any, Any, Callable[[float], None]], str]) -> int:
    """Do all that can be done, with a line each. A missing or damaged model stops everything."""
    code = 0
    messages = sys.stderr if stands_for(jobs[0].target, 1) else sys.stdout
    with _progress(len(jobs)) as (show, say):
        for index, job in enumerate(jobs):
            source = sys.stdin.buffer if job.source == STREAM else job.source
            target = sys.stdout.buffer if job.target == STREAM else job.target
            to_stdout = writing_stdout() if job.target == STREAM else contextlib.nullcontext()
            try:
                with to_stdout:
                    line = work(source, target, lambda share, index=index: show(index + share))
            except (InvalidModel, BrokenPipeError):
                raise
            except (SlimcodecError, OSError) as error:
                say(f"slimcodec: {one_line(error)}", sys.stderr)
                code = BAD_INPUT
            else:
                say(f"{'stdout' if job.target == STREAM else job.target}: {line}", messages)
            show(index + 1)
    return code


@contextlib.contextmanager
def _progress(total: int) -> Iterator[tuple[Callable[[float], None], Callable[[str, TextIO], None]]]:
    """`show(files done)` and `say(line, stream)`: on a terminal a bar, where the work takes its time."""
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
        write(line)
    else:
        with contextlib.suppress(OSError):
            print(line, file=stream)
