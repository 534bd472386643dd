"""The package says that it is typed: what it is built of passes mypy's strict checks (pyproject.toml says where)."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_types_hold(pytestconfig):
    # What mypy knew of PyTorch the last time saves half a minute.
    cache = pytestconfig.rootpath / ".pytest_cache" / "mypy"
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(cache)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_package_says_so():
    assert (ROOT / "src/slimcodec/py.typed").is_file()
