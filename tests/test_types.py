"""The package says that it is typed: what it is built of passes mypy's strict checks (pyproject.toml says where)."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


RIGHT = """
from pathlib import Path

import numpy as np
import slimcodec
import torch
from PIL import Image

codec: slimcodec.Codec = slimcodec.load("slim-2k", device="auto")
files: list[bytes] = codec.compress_batch([Image.new("RGB", (8, 8)), np.zeros((8, 8, 3), np.uint8)], jobs=2, quality=4)
pictures: list[Image.Image] = codec.decompress_batch(files, jobs=2, max_pixels=64)
data: bytes = slimcodec.compress(torch.zeros(3, 8, 8, dtype=torch.uint8), target_bpp=0.5, effort=3)
picture: Image.Image = slimcodec.decompress(data, region=(0, 0, 4, 4))
bpp: float = slimcodec.compress_file(Path("photo.jpg"), "photo.slim", quality=4.5, model=codec).bpp
mode: str = slimcodec.decompress_file("photo.slim", "photo.png", model="slim-2k", allow_partial=True).mode
names: list[str] = slimcodec.list_models()
"""
WRONG = """import slimcodec
slimcodec.compress("photo.jpg", qualty=4)
slimcodec.decompress(b"", regoin=(0, 0, 4, 4))
slimcodec.compress_file("photo.jpg", "photo.slim", bpp=1)
slimcodec.decompress_file("photo.slim", "photo.png", partial=True)
slimcodec.load(name="slim-2k")
slimcodec.load().compress("photo.jpg", quality="best")
slimcodec.load().compress_batch(["photo.jpg"], threads=2)
slimcodec.load().decompress(b"").shape
slimcodec.open("photo.slim")
"""


def mypy(config, *files):
    # What mypy knew of PyTorch the last time saves half a minute.
    cache = config.rootpath / ".pytest_cache" / "mypy"
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(cache), *map(str, files)]
    environment = os.environ | {"MYPYPATH": str(ROOT / "src")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_types_hold(pytestconfig):
    done = mypy(pytestconfig)
    assert done.returncode == 0, done.stdout


def test_a_users_types_hold_and_wrong_names_do_not(pytestconfig, tmp_path):
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(RIGHT)
    wrong.write_text(WRONG)
    errors = [line for line in mypy(pytestconfig, right, wrong).stdout.splitlines() if ": error: " in line]
    assert {Path(line.split(":")[0]).name for line in errors} == {"wrong.py"}, errors
    assert {int(line.split(":")[1]) for line in errors} == set(range(2, 2 + WRONG.count("\n") - 1)), errors


def test_the_package_says_so():
    assert (ROOT / "src/slimcodec/py.typed").is_file()
