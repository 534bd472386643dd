"""The one way to write a file: whole, or not at all.

    target                                                 how it is written
    a path that is not there yet                           a hidden file beside it, renamed in the end
    a file                                                 the same; mode, owner, ACL and attributes stay
    a file with several names (hard links), of another     its own bytes, overwritten in the end: the names stay
      owner, or in a folder that takes no new file
    a device, a pipe, /dev/stdout, /dev/fd/N, an open file all bytes at once, in the end

A file that is overwritten has its room reserved first, so a full disk leaves it as it was; only a power cut or a kill
in the middle of that last write does not. Symbolic links stay links.
"""

import contextlib
import errno
import io
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

LINKS = 40  # as many as Linux follows
DIGITS = 9  # of the number of an open file; more need not fit an int of C
PARTIAL, NAME_BYTES = ".partial", 4  # a file that is being written is called .1a2b3c4d.partial
ANY_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
CANNOT_RESERVE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}  # what some file systems answer


@contextlib.contextmanager
def writing(target: str | PathLike | BinaryIO) -> Iterator[BinaryIO]:
    """A file to write into, whose bytes are in `target` when the block ends; when anything, even Ctrl-C, breaks it
    off, `target` is as it was before.

    Raises OSError, naming the target; for one that cannot be written to, before the block begins.
    """
    try:
        with _destination(target) as file:
            yield file
    except OSError as error:
        name = getattr(target, "name", None) if hasattr(target, "write") else os.fspath(target)
        if error.errno is not None and error.filename is None and isinstance(name, str | bytes):  # the disk is full
            error.filename = name
        raise


def write_bytes(path: str | PathLike, data: bytes) -> None:
    """Write a whole file or none."""
    with writing(path) as file:
        file.write(data)


def write_text(path: str | PathLike, text: str, *, errors: str = "backslashreplace") -> None:
    """Write a whole UTF-8 file or none.

    Names of files may hold bytes that are no text. The default writes these as JSON does: reading JSON gives the name
    back.
    """
    write_bytes(path, text.encode("utf-8", errors))


def remove_partial(folder: Path) -> None:
    """Remove what commands that were killed left below a folder; for who knows that no other writes there."""
    for path in folder.rglob(f".{'[0-9a-f]' * 2 * NAME_BYTES}{PARTIAL}"):
        with contextlib.suppress(OSError):
            path.unlink()


def is_stream(target: str | PathLike | BinaryIO) -> bool:
    """Whether bytes go through it rather than stay: an open file, a device, a pipe, /dev/stdout."""
    if hasattr(target, "write") or descriptor(target) is not None:
        return True
    with contextlib.suppress(OSError, ValueError):
        mode = os.stat(target).st_mode
        return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
    return False


def descriptor(target: str | PathLike) -> int | None:
    """The number of the open file that a path such as /dev/stdout or /dev/fd/3 stands for."""
    folders = {os.path.realpath("/dev/fd"), f"/proc/{os.getpid()}/fd"}
    path = os.path.abspath(os.fsdecode(target))
    for _ in range(LINKS):
        folder, name = os.path.split(path)
        folder = os.path.realpath(folder)
        if folder in folders and name.isascii() and name.isdecimal() and len(name) <= DIGITS:
            return int(name)
        if not os.path.islink(path):
            return None
        path = os.path.join(folder, os.readlink(path))
    return None


def write_all(file: Any, data: bytes) -> None:
    """All of it: a raw file, such as stdout under PYTHONUNBUFFERED, may write a part and only say so."""
    if not isinstance(file, io.RawIOBase):
        file.write(data)
        return
    rest = memoryview(data)
    while rest:
        written = file.write(rest)
        if not written:
            raise BlockingIOError(errno.EAGAIN, "took only a part; it must not be in non-blocking mode")
        rest = rest[written:]


def _destination(target: str | PathLike | BinaryIO) -> AbstractContextManager[BinaryIO]:
    """How this target is to be written."""
    if isinstance(target, io.BytesIO):
        return contextlib.nullcontext(target)
    if hasattr(target, "write"):
        return _at_once(contextlib.nullcontext(target))
    number = descriptor(target)
    if number is not None:  # not opened by its path: a file behind it would lose what others wrote to it
        return _at_once(open(os.dup(number), "wb"))
    path = Path(os.path.realpath(os.fsdecode(target)))
    try:
        before = os.stat(target)
    except FileNotFoundError:
        return _beside(path, None)
    if not stat.S_ISREG(before.st_mode):
        return _at_once(open(target, "wb"))
    _require_writable(target, before)
    return _beside(path, before) if _may_be_replaced(path, before) else _in_place(path)


def _require_writable(target: str | PathLike, before: os.stat_result) -> None:
    """Renaming asks nobody whether the old file may be written. A file that is read-only for all is so for root, too:
    somebody wanted it to stay."""
    if not before.st_mode & ANY_WRITE or not _may_write(target):
        reason = "may not be written to; change its mode or name another target"
        raise PermissionError(errno.EACCES, reason, os.fspath(target))


def _may_write(path: str | PathLike) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _may_be_replaced(path: Path, before: os.stat_result) -> bool:
    """Whether another file of that name would not be missed by anybody, and may be made at all."""
    return before.st_nlink == 1 and _owner_can_stay(before) and _may_write(path.parent)


def _owner_can_stay(before: os.stat_result) -> bool:
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        return True
    return before.st_uid == os.geteuid() and before.st_gid in {os.getegid(), *os.getgroups()}


@contextlib.contextmanager
def _at_once(opened: AbstractContextManager[Any]) -> Iterator[BinaryIO]:
    """Nothing goes to the opened file before all is there."""
    with opened as file:
        data = io.BytesIO()
        yield data
        write_all(file, data.getvalue())
        if hasattr(file, "flush"):
            file.flush()


@contextlib.contextmanager
def _beside(path: Path, before: os.stat_result | None) -> Iterator[BinaryIO]:
    partial = path.with_name(f".{os.urandom(NAME_BYTES).hex()}{PARTIAL}")
    try:
        with _new_file(partial, 0o666 if before is None else 0o600) as file:
            if before is not None:
                _make_alike(path, partial, before)
            yield file
        os.replace(partial, path)
    except OSError as error:
        if error.filename == str(partial):  # a name that nobody knows
            error.filename = error.filename2 = None
        raise
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _make_alike(path: Path, partial: Path, before: os.stat_result) -> None:
    """Give the new file the owner, mode, ACL and attributes of the one that it will replace, before it holds a byte."""
    with contextlib.suppress(PermissionError):  # root of a container does not own every number
        if hasattr(os, "chown"):
            os.chown(partial, before.st_uid, before.st_gid)
    with contextlib.suppress(PermissionError):  # a memory card's file system knows no modes
        shutil.copystat(path, partial)


@contextlib.contextmanager
def _in_place(path: Path) -> Iterator[BinaryIO]:
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags & ~os.O_TRUNC)) as file:
        data = io.BytesIO()
        yield data
        _reserve(file, len(data.getbuffer()))
        file.write(data.getbuffer())
        file.truncate()


def _reserve(file: BinaryIO, size: int) -> None:
    """Make sure that so many bytes can be written; when they cannot, the file is as before, and OSError."""
    before = os.fstat(file.fileno()).st_size
    if not size or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        file.truncate(before)
        if error.errno not in CANNOT_RESERVE:
            raise


class _File(io.BufferedRandom):
    """Hides its number, or Pillow's encoders would write to that, and do not notice a disk that takes only a part."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def _new_file(path: Path, mode: int) -> BinaryIO:
    return _File(io.FileIO(path, "x+", opener=lambda name, flags: os.open(name, flags, mode)))
