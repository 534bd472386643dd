"""Standard streams: closed ones, full disks behind them, names of files that are no text, and what is said on them."""

import argparse
import contextlib
import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO

from slimcodec import InvalidInput
from slimcodec.codec import atomic

BAD_INPUT, STOPPED, NOBODY_READS = 2, 130, 141
STREAM = "-"  # stdin as IN, stdout as OUT
OPTIONS = {"target_bpp": "--bpp", "max_bytes": "--max-bytes", "target_psnr_db": "--psnr"}  # by their names in Python


def open_closed_streams() -> set[str]:
    """The names of the standard streams that are closed. The null device takes their places: else the next file that
    is opened would, and what is meant for stderr would be written into it.
    """
    closed = set()
    for name, mode in (
        ("stdin", "r"),
        ("stdout", "w"),
        ("stderr", "w"),
    ):  # opening takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives
            closed.add(name)
    return closed


@contextlib.contextmanager
def checked_streams() -> Iterator[None]:
    """A file's name need not be text. And PYTHONUNBUFFERED's raw stdout would not tell of a disk that took a part."""
    raw, before = getattr(sys.stdout, "buffer", None), sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if not isinstance(raw, io.RawIOBase):
        yield
        return
    checked = io.BufferedWriter(raw)
    sys.stdout = io.TextIOWrapper(checked, before.encoding, "backslashreplace", line_buffering=True)
    try:
        yield
    finally:
        sys.stdout.detach()
        checked.detach()
        sys.stdout = before


def require_streams(options: argparse.Namespace, closed: set[str]) -> None:
    """Raises InvalidInput when what was asked for needs a closed stream. Mere messages do without."""
    sources, target = [*getattr(options, "inputs", []), getattr(options, "name", "")], getattr(options, "output", None)
    if "stdin" in closed and any(stands_for(name, 0) for name in sources):
        raise InvalidInput("stdin is closed; name a file to read")
    if "stdout" in closed and (getattr(options, "prints", False) or stands_for(target or "", 1)):
        raise InvalidInput("stdout is closed, there is nowhere to write to")


def stands_for(name: str, number: int) -> bool:
    """Whether a name means stdin, 0, or stdout, 1."""
    found = atomic.descriptor(name)
    if found is None or found == number:
        return name == STREAM or found == number
    with contextlib.suppress(OSError):
        return os.path.sameopenfile(found, number)
    return False


def flushed(code: Any) -> Any:
    """The exit code, once all of stdout is written."""
    try:
        with writing_stdout():
            sys.stdout.flush()
    except BrokenPipeError:
        code = NOBODY_READS
    except OSError as error:
        complain(one_line(error))
        code = BAD_INPUT
    try:
        sys.stderr.flush()
    except OSError:  # nobody can be told
        drop(sys.stderr)
    return code


@contextlib.contextmanager
def writing_stdout() -> Iterator[None]:
    """Name stdout in what goes wrong with it. What is left to be written is dropped, or Python would try it again."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # none in a refusal, of a damaged file say
            drop(sys.stdout)
            error.filename = "stdout" if error.filename in (None, "<stdout>") else error.filename
        raise


def drop(stream: TextIO) -> None:
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def write(text: str) -> None:
    with writing_stdout():
        print(text)


def complain(line: str) -> None:
    """A line on stderr; where it cannot be written, the exit code has to do."""
    with contextlib.suppress(OSError):
        print(f"slimcodec: {line}", file=sys.stderr)


def one_line(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return _said(error)


def _said(message: Any) -> str:
    """In one line, and with the names that options have here."""
    line = " ".join(str(message).split())
    return re.sub(rf"\b({'|'.join(OPTIONS)})(?= )", lambda match: OPTIONS[match[0]], line)


_collecting = threading.local()


def show_warning(message: Any, *_: Any, **__: Any) -> None:
    line = _said(message)
    collected = getattr(_collecting, "lines", None)
    if collected is None:
        complain(line)
    else:
        collected.append(line)


@contextlib.contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """What this thread is warned of, a line each: of several pictures at a time, each has its warnings by its line."""
    _collecting.lines = lines = []
    try:
        yield lines
    finally:
        del _collecting.lines
