"""What is printed, and stdin, stdout and stderr where they are closed, full, or read by nobody."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from slimcodec import InvalidInput
from slimcodec.codec import atomic

BAD_INPUT, STOPPED, NOBODY_READS = 2, 130, 141  # exit codes
STREAM = "-"  # stdin as IN, stdout as OUT


# --- what is printed ------------------------------------------------------------------------------------------------


def show(text: str) -> None:
    """Print on stdout."""
    with writing_stdout():
        print(text)


def complain(line: str) -> None:
    """Print a line on stderr. Where that fails, the exit code alone says it."""
    with contextlib.suppress(OSError):
        print(f"slimcodec: {line}", file=sys.stderr)


def show_warning(message: Any, *_: Any, **__: Any) -> None:
    """Takes the place of `warnings.showwarning`."""
    complain(" ".join(str(message).split()))


def one_line(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return " ".join(str(error).split())


def table(rows: list[tuple[str, ...]]) -> str:
    """The rows in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


# --- streams that are closed ----------------------------------------------------------------------------------------


def open_closed() -> set[str]:
    """Open the null device for each standard stream that is closed; returns the names of these streams.

    Otherwise the next file that is opened would get the stream's number, and messages would be written into it.
    """
    closed = set()
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in this order: each gets its own number
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives
            closed.add(name)
    return closed


def require(options: argparse.Namespace, closed: set[str]) -> None:
    """Raises InvalidInput when the verb needs a stream that is closed. Messages are not worth an error."""
    sources, target = [*getattr(options, "inputs", []), getattr(options, "name", "")], getattr(options, "output", "")
    if "stdin" in closed and any(stands_for(name, 0) for name in sources):
        raise InvalidInput("stdin is closed; name a file to read")
    if "stdout" in closed and stands_for(target, 1):
        raise InvalidInput("stdout is closed, there is nowhere to write to")


def stands_for(name: str, number: int) -> bool:
    """Whether a name means stdin, 0, or stdout, 1."""
    found = atomic.descriptor(name)
    if found is None or found == number:
        return name == STREAM or found == number
    with contextlib.suppress(OSError):
        return os.path.sameopenfile(found, number)
    return False


# --- streams that cannot be written to ------------------------------------------------------------------------------


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Inside the block, any name of a file can be printed, and stdout reports a full disk.

    A file's name may hold bytes that are no text. And with PYTHONUNBUFFERED stdout is a raw file, which may write a
    part and raise nothing.
    """
    raw, before = getattr(sys.stdout, "buffer", None), sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if not isinstance(raw, io.RawIOBase):
        yield
        return
    buffer = io.BufferedWriter(raw)
    sys.stdout = io.TextIOWrapper(buffer, before.encoding, "backslashreplace", line_buffering=True)
    try:
        yield
    finally:
        sys.stdout.detach()
        buffer.detach()
        sys.stdout = before


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
    except OSError:  # there is no place left to say so
        _drop(sys.stderr)
    return code


@contextlib.contextmanager
def writing_stdout() -> Iterator[None]:
    """An error in the block names stdout. What is still to be written is dropped, or Python would try again at exit."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # an InvalidFile, which is an OSError too, has none
            _drop(sys.stdout)
            error.filename = "stdout" if error.filename in (None, "<stdout>") else error.filename
        raise


def _drop(stream: TextIO) -> None:
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
