"""Several files: one after the other or several at a time, with a line each, in their order, and a bar."""

import argparse
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

from slimcodec import InvalidModel, SlimcodecError
from slimcodec.cli.plan import Job, Plan
from slimcodec.cli.streams import BAD_INPUT, STREAM, collected_warnings, one_line, stands_for, write, writing_stdout
from slimcodec.codec import batch

BAR_AFTER_SECONDS = 1.0
Work = Callable[[Any, Any, Callable[[float], None]], str]  # of source and target, and told how far it is: a line


class Stopped(Exception):
    """Another file's fault, or Ctrl-C, ended it all."""


class _Outcome(NamedTuple):
    line: str
    warnings: list[str]
    failed: bool = False


def do_each(planned: Plan, work: Work, options: argparse.Namespace) -> int:
    """Do all that can be done, with a line each. A missing or damaged model stops everything."""
    jobs, quiet, code = planned.jobs, options.quiet, 0
    to_stdout = any(stands_for(job.target, 1) for job in jobs)
    with _progress(len(jobs), quiet) as (show, say):
        for note in [] if quiet else planned.notes:
            say(f"slimcodec: {note}", sys.stderr)
        for job, outcome in zip(jobs, _outcomes(jobs, work, show, options.jobs), strict=True):
            for warning in [] if quiet else outcome.warnings:
                say(f"slimcodec: {warning}", sys.stderr)
            if outcome.failed:
                say(f"slimcodec: {outcome.line}", sys.stderr)
                code = BAD_INPUT
            elif not quiet:
                target = "stdout" if job.target == STREAM else job.target
                say(f"{target}: {outcome.line}", sys.stderr if to_stdout else sys.stdout)
    return code


def _outcomes(jobs: list[Job], work: Work, show: Callable[[float], None], at_a_time: int) -> Iterator[_Outcome]:
    """In the order of the jobs. What stops everything is raised, and then nothing goes on for long."""
    ended, shares = threading.Event(), [0.0] * len(jobs)

    def outcome(index: int) -> _Outcome:
        def progress(share: float) -> None:
            if ended.is_set():
                raise Stopped
            shares[index] = share
            show(sum(shares))

        done = _attempt(jobs[index], lambda source, target: work(source, target, progress))
        progress(1)
        return done

    try:
        yield from batch.in_threads(outcome, range(len(jobs)), min(at_a_time, len(jobs)))
    finally:
        ended.set()


def _attempt(job: Job, work: Callable[[Any, Any], str]) -> _Outcome:
    source = sys.stdin.buffer if job.source == STREAM else job.source
    target = sys.stdout.buffer if job.target == STREAM else job.target
    to_stdout = writing_stdout() if job.target == STREAM else contextlib.nullcontext()
    with collected_warnings() as warnings:
        try:
            with to_stdout:
                return _Outcome(work(source, target), warnings)
        except (InvalidModel, BrokenPipeError):
            raise
        except (SlimcodecError, OSError) as error:
            return _Outcome(one_line(error), warnings, failed=True)


@contextlib.contextmanager
def _progress(total: int, quiet: bool) -> Iterator[tuple[Callable[[float], None], Callable[[str, TextIO], None]]]:
    """`show(files done)` and `say(line, stream)`: on a terminal a bar, where the work takes its time."""
    if quiet or not sys.stderr.isatty():
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
