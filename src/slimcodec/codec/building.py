"""coder.c → a shared library, by whatever C compiler there is. A wheel holds one; a checkout makes its own, once.

Only the standard library is imported here: hatch_build.py builds wheels with it.

    python -m slimcodec.codec.building      builds it, unless it is there
"""

import contextlib
import os
import sys
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from slimcodec import InvalidInput

SOURCE = Path(__file__).with_name("coder.c")
COMPILERS = "cc", "gcc", "clang"
OPTIONS = ["-std=c99", "-O3", "-fno-trapping-math", "-shared", "-fvisibility=hidden"]
NO_COMPILER = "there is no C compiler here: pip install ziglang brings one, and CC names another"


def library_path() -> Path:
    """Beside its source, whose checksum is in its name: that of another version is never taken for it."""
    checksum = zlib.crc32(SOURCE.read_bytes())
    return SOURCE.with_name(f"coder-{sys.platform}-{checksum:08x}.{'dll' if os.name == 'nt' else 'so'}")


def compiler() -> list[str] | None:
    """CC, else the first that is found, the package ziglang's last."""
    import shlex  # these imports are late: hardly any process compiles
    import shutil

    if named := os.environ.get("CC"):
        return shlex.split(named)
    if found := next(filter(shutil.which, COMPILERS), None):
        return [found]
    return [sys.executable, "-m", "ziglang", "cc"] if find_spec("ziglang") else None


@contextlib.contextmanager
def library() -> Iterator[Path]:
    """The library. Where it cannot be kept, it is compiled for this process alone, and is gone after the block.

    Raises InvalidInput if it is not there and cannot be compiled.
    """
    if (path := library_path()).exists():
        yield path
        return
    import tempfile

    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        except OSError as error:
            raise InvalidInput(f"{SOURCE}: cannot be compiled without a temporary folder ({error})") from error
        made = Path(folder, path.name)
        _compile(made)
        yield path if _kept(made, path) else made


def _compile(target: Path) -> None:
    import shlex
    import subprocess

    if (found := compiler()) is None:
        raise InvalidInput(f"{SOURCE}: {NO_COMPILER}")
    position = [] if os.name == "nt" else ["-fPIC"]
    flags = shlex.split(os.environ.get("CFLAGS", ""))
    command = [*found, *OPTIONS, *position, *flags, "-o", str(target), str(SOURCE)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise InvalidInput(f"{SOURCE}: {found[0]} cannot be run ({error.strerror}); CC names another") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise InvalidInput(f"{SOURCE}: {shlex.join(found)} cannot compile it ({said[-1]}); CC names another")


def _kept(made: Path, path: Path) -> bool:
    """Put it in its place whole: several processes may build it at a time."""
    import shutil

    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        shutil.copyfile(made, partial)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        return False
    return True


if __name__ == "__main__":
    with library() as path:
        print(path)
