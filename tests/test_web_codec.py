"""The decoder in JavaScript finds the integers that Python does, and refuses what Python refuses. It needs node."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from slimcodec.codec import models
from slimcodec.training import onnx_export

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden"
MODELS = {"model": ("picture", "tiled"), "corrected-model": ("corrected", "corrected-tiled"), "slim-2k": ("slim-2k",)}
FILES = [(model, file) for model, files in MODELS.items() for file in files]

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Name of a model → a folder with its tensors, without its networks."""
    folder = tmp_path_factory.mktemp("models")
    for name in MODELS:
        model = models.load(GOLDEN / name if (GOLDEN / name).is_dir() else name)
        onnx_export.export(model, folder / name, only=())
    return folder


def node(script, *arguments):
    command = ["node", str(ROOT / "tests/web" / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("model", "file"), FILES)
def test_golden_files_decode_to_the_stored_integers(exported, model, file, tmp_path):
    """And a file of one tile is written again with the same bytes."""
    stored = np.load(GOLDEN / f"{file}.npz")
    found = node("integers.mjs", exported / model, GOLDEN / f"{file}.slim", tmp_path / "integers")
    expected = b"".join(
        stored[part].astype(f"<{kind}").tobytes() for part, kind in (("z", "i1"), ("index", "u1"), ("r", "i2"))
    )
    assert (tmp_path / "integers").read_bytes() == expected
    assert found["rewritten"] == ("tiled" not in file)
    assert (found["correction"] is not None) == (model != "model")
    if "q" in stored:
        assert found["correction"] == {"shift": int(stored["shift"]), "q": stored["q"].tolist()}


@pytest.mark.parametrize(("model", "file"), [("corrected-model", "corrected"), ("corrected-model", "corrected-tiled")])
def test_damaged_files_are_refused_in_one_line(exported, model, file):
    """Every truncation, every byte flipped with and without the right checksum: integers come out, or one line."""
    found = node("damage.mjs", exported / model, GOLDEN / f"{file}.slim")
    assert found["others"] == []
    assert found["refused"] > 1000 and found["decoded"] < found["refused"]


def test_streams_of_every_kind_of_symbol_are_read_as_they_were_written():
    assert node("streams.mjs") == {"same": True}
