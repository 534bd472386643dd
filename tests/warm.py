"""run.py in processes that are forked from one which has imported everything: seconds less each, and on few crops.

For processes of which only what they leave matters: at least one of a test goes through the real command.
"""

import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CROPS = 4  # that tables are counted on, which otherwise takes most of a run in miniature
# What a run imports sooner or later. The server is started once a session, when it is first needed.
PRELOADED = ["run", "slimcodec.pipeline.stages", "slimcodec.report.run_plots", "matplotlib.backends.backend_svg"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


def count_on_few_crops(patch: pytest.MonkeyPatch) -> None:
    """Replace the function that counts tables wherever it is called, in this process."""
    from slimcodec.training import tables, teach
    from slimcodec.training.calibrate import calibrated

    for module in (tables, teach):
        patch.setattr(module, "calibrated", lambda codec, tables, crops: calibrated(codec, tables, crops[:CROPS]))


def start(arguments: Sequence[str], log: Path) -> multiprocessing.Process:
    """Run run.py with these arguments; what it prints is appended to `log`."""
    process = CONTEXT.Process(target=_run, args=(list(arguments), str(log)))
    with pytest.MonkeyPatch.context() as patch:  # the server starts in this environment, and finds `run` by it
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
        process.start()
    return process


def run(arguments: Sequence[str], log: Path) -> int:
    """Run it to its end; its exit status."""
    process = start(arguments, log)
    process.join()
    return process.exitcode


def kill_at(arguments: Sequence[str], log: Path, directory: Path, sign: str) -> None:
    """Start it, and kill it when there is a file of this pattern."""
    process, deadline = start(arguments, log), time.monotonic() + 120
    while not list(directory.glob(sign)) and process.is_alive() and time.monotonic() < deadline:
        process.join(0.01)
    process.kill()
    process.join()


def _run(arguments: list[str], log: str) -> None:
    os.chdir(ROOT)
    os.environ |= {"COLUMNS": "400", "WANDB_MODE": "offline"}
    count_on_few_crops(pytest.MonkeyPatch())
    sys.argv = [str(ROOT / "run.py"), *arguments]
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    runpy.run_path(sys.argv[0], run_name="__main__")
