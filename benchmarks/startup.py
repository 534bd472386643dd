"""How long commands take before they do anything: what their imports cost.

    python benchmarks/startup.py

Medians of seven processes each, beside a Python that does nothing.
"""

import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = 7
PYTHON = sys.executable
COMMANDS = {
    "python -c pass": [PYTHON, "-c", "pass"],
    "import slimcodec": [PYTHON, "-c", "import slimcodec"],
    "slimcodec --version": [PYTHON, "-m", "slimcodec", "--version"],
    "slimcodec --help": [PYTHON, "-m", "slimcodec", "--help"],
    "slimcodec compress, a value out of range": [PYTHON, "-m", "slimcodec", "compress", "a.jpg", "--effort", "11"],
    "run.py --help": [PYTHON, "run.py", "--help"],
    "run.py --cfg job": [PYTHON, "run.py", "--cfg", "job"],
    "run.py, a setting that there is not": [PYTHON, "run.py", "steps=3"],
    "run.py, a number out of range": [PYTHON, "run.py", "prune.shrink=2"],
}


def main() -> None:
    print(f"{'command':40}{'CPU s':>8}{'times python':>14}")
    nothing = None
    for name, command in COMMANDS.items():
        seconds = statistics.median(cpu_seconds(command) for _ in range(RUNS))
        nothing = nothing or seconds
        print(f"{name:40}{seconds:8.2f}{seconds / nothing:14.0f}")


def cpu_seconds(command: list[str]) -> float:
    before = _children()
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
