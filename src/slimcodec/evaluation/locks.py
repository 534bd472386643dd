"""One command at a time writes into a folder; the others wait for it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOCK = ".lock"
POLL_SECONDS = 0.2


@contextmanager
def alone(directory: Path, waiting: Callable[[], Any] | None = None) -> Iterator[None]:
    """Hold the lock of a folder, which is made if need be; a thread may do so again inside.

    If another has it, `waiting` is called first; by default it prints a line. The operating system frees the lock when
    its process ends, however that is. The empty file .lock stays: to remove it is what would let two in at once.
    Raises OSError, which names the file, when the folder cannot be written to.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory.resolve() / LOCK, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        (waiting or partial(_say, directory))()
        lock.acquire(poll_interval=POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _say(directory):
    print(f"slimcodec: another command writes into {directory}, waiting for it", file=sys.stderr, flush=True)
