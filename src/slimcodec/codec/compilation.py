"""Functions compiled by numba, and where the compiled code is kept: nothing that is wrong there stops the codec.

numba keeps it beside the package or in the user's cache, and refuses to work if it may write to neither.
"""

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numba
from numba.core.caching import FunctionCache


def compiled(**options: Any) -> Callable:
    """`numba.njit` with these options. Where code cannot be kept, the function is compiled anew in every process."""

    def decorate(function: Callable) -> Callable:
        dispatcher = numba.njit(**options)(function)
        if (cache := _cache(function)) is not None:
            dispatcher._cache = cache  # as numba's own enable_caching does it
        return dispatcher

    return decorate


class _Cache(FunctionCache):
    """numba's, but what cannot be read is compiled anew, and what cannot be written (a full disk) is not kept."""

    def __init__(self, function: Callable):
        super().__init__(function)  # type: ignore[no-untyped-call]

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return super().load_overload(*arguments)  # type: ignore[no-untyped-call]
        except Exception:  # damaged pickles raise all sorts of things
            with contextlib.suppress(OSError):
                self.flush()  # type: ignore[no-untyped-call]  # or it could never be written again
            return None

    def save_overload(self, *arguments: Any) -> None:
        with contextlib.suppress(Exception):
            super().save_overload(*arguments)  # type: ignore[no-untyped-call]


def _cache(function: Callable) -> _Cache | None:
    """In numba's choice of folder, else in a temporary one. None: nowhere."""
    if _has_home() or _beside_is_writable(function):
        with contextlib.suppress(RuntimeError, OSError):
            return _Cache(function)
    with contextlib.suppress(RuntimeError, OSError), _kept_in(_temporary_folder()):
        return _Cache(function)
    return None


def _settings() -> Any:
    """numba's, which it makes when it is imported."""
    return numba.config


def _has_home() -> bool:
    """Without it, numba would make a folder called ~ wherever it is."""
    return bool(_settings().CACHE_DIR or os.environ.get("XDG_CACHE_HOME")) or os.path.isabs(os.path.expanduser("~"))


def _beside_is_writable(function: Callable) -> bool:
    folder = os.path.dirname(function.__code__.co_filename)
    beside = os.path.join(folder, "__pycache__")
    return os.access(beside if os.path.isdir(beside) else folder, os.W_OK)


@contextlib.contextmanager
def _kept_in(folder: str) -> Iterator[None]:
    settings = _settings()
    before, settings.CACHE_DIR = settings.CACHE_DIR, folder
    try:
        yield
    finally:
        settings.CACHE_DIR = before


def _temporary_folder() -> str:
    """A folder that belongs to this user alone, as what is in it will be run. Raises OSError if there can be none."""
    parent = tempfile.gettempdir()
    if not hasattr(os, "getuid") or os.path.samefile(parent, os.curdir):  # Python's last resort
        raise OSError("no temporary folder")
    folder = os.path.join(parent, f"slimcodec-numba-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder}: is not this user's alone")
    return folder
