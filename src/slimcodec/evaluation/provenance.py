"""How results were made: when, by which code, on which machine, and by which commands."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import slimcodec
from slimcodec.evaluation.summary import Command, Machine, Provenance

LIBRARIES = (
    "onnxruntime",
    "torch",
    "numpy",
    "pillow",
    "bjontegaard",
    "pytorch-msssim",
    "piq",
    "imageio-ffmpeg",
)
DIRTY = "+dirty"
COMMIT_OF_A_COPY = "SLIMCODEC_COMMIT"


def provenance(command: str, jobs: int, commit: str | None, before: Provenance) -> Provenance:
    """What is known of this command; `commands` holds it after those of `before`, the provenance so far.

    A command without a name is not kept, and one that is repeated, by the same code on the same machine, once.
    """
    import torch  # late: it takes seconds, and the commit is asked for where it may not be needed

    machine = Machine(
        cpu=_processor(),
        cores=os.cpu_count(),
        memory_gib=_memory_gib(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        libraries={name: found for name in LIBRARIES if (found := _version(name))},
    )
    date, version = time.strftime("%Y-%m-%d"), slimcodec.__version__
    this = [Command(date, version, commit, command, machine.cpu)] if command else []
    earlier = [entry for entry in before.commands if not this or _undated(entry) != _undated(this[0])]
    threads = 1 if jobs > 1 else torch.get_num_threads()
    return Provenance(date, version, commit, machine, jobs, threads, (*earlier, *this))


def _undated(command: Command) -> Command:
    return command._replace(date=None)


def commit(without: Path | None = None) -> str | None:
    """The commit of the checkout that this code is in, with +dirty where it has changes that are in no commit.

    Changes inside `without`, a folder of results, do not count, nor do new files elsewhere than beside the code. None
    for an installed package, in the middle of another project's checkout too, and where there is no git. A copy of the
    checkout (kit.py) says its commit in the environment.
    """
    package = Path(slimcodec.__file__).resolve().parent
    if not _git(package, "ls-files", "--", "__init__.py"):
        return os.environ.get(COMMIT_OF_A_COPY) or None
    top, head = _git(package, "rev-parse", "--show-toplevel"), _git(package, "rev-parse", "HEAD")
    if not head:
        return None
    left_out = (
        [f":(exclude){without.resolve()}"] if without and without.resolve().is_relative_to(top or package) else []
    )
    changed = _git(package, "status", "--porcelain", "--untracked-files=no", "--", ":/", *left_out)
    return head + (DIRTY if changed or _git(package, "status", "--porcelain", "--", ".") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints in a folder; None where it fails or is missing."""
    # What a hook or a user set for another checkout must not be believed.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
