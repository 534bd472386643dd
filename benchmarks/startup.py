"""How long commands take before they do anything, and a cold decompress: CPU seconds and peak memory of new processes.

    python benchmarks/startup.py [--photo PICTURE] [--json FILE]

Medians of seven processes each, beside a Python that does nothing, with one thread. Commands of run.py are there where
their libraries are. Run it in an environment of `pip install .` alone for what a user has who only compresses.
Nothing is imported here, for a process begins with the peak memory of the one that started it.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = 7
PYTHON = sys.executable
VERB = [PYTHON, "-m", "slimcodec"]
COMMANDS = {
    "python -c pass": [PYTHON, "-c", "pass"],
    "import slimcodec": [PYTHON, "-c", "import slimcodec"],
    "slimcodec --version": [*VERB, "--version"],
    "slimcodec --help": [*VERB, "--help"],
    "slimcodec compress, a value out of range": [*VERB, "compress", "a.jpg", "--effort", "11"],
}
OF_RUNS = {
    "run.py --help": [PYTHON, "run.py", "--help"],
    "run.py --cfg job": [PYTHON, "run.py", "--cfg", "job"],
    "run.py, a setting that there is not": [PYTHON, "run.py", "steps=3"],
    "run.py, a number out of range": [PYTHON, "run.py", "prune.shrink=2"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, help="a picture to decompress, such as one of Kodak")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    commands = COMMANDS | (OF_RUNS if importlib.util.find_spec("hydra") else {})
    with tempfile.TemporaryDirectory() as folder:
        if options.photo:
            commands["slimcodec decompress"] = _decompress(options.photo, Path(folder))
        measured = {name: _measured(name, command) for name, command in commands.items()}
    result = {
        "command": "python benchmarks/startup.py " + " ".join(sys.argv[1:]),
        "date": date.today().isoformat(),
        "python": sys.version.split()[0],
        "libraries": {name: version(name) for name in ("numpy", "onnxruntime", "pillow")},
        "load_average": os.getloadavg()[0],
        "commands": measured,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def _decompress(photo: Path, folder: Path) -> list[str]:
    source = folder / "photo.slim"
    subprocess.run([*VERB, "compress", "--quality", "4", str(photo.resolve()), str(source)], cwd=ROOT, check=True)
    return [*VERB, "decompress", "--force", str(source), str(folder / "photo.png")]


def _measured(name: str, command: list[str]) -> dict[str, float]:
    runs = [_run(command) for _ in range(RUNS + 1)][1:]  # the first compiles Python's files
    seconds, mebibytes = (statistics.median(values) for values in zip(*runs, strict=True))
    print(f"{name:42}{seconds:8.3f} CPU s{mebibytes:8.0f} MiB", flush=True)
    return {"cpu_seconds": seconds, "peak_mib": mebibytes}


def _run(command: list[str]) -> tuple[float, float]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, **silent)
    _, _, used = os.wait4(process.pid, 0)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


if __name__ == "__main__":
    main()
