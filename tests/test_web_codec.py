"""The decoder in JavaScript finds the integers that Python does, and refuses what Python refuses. It needs node."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from slimcodec.codec import bitstream, inference, models
from slimcodec.training import onnx_export

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden"
MODELS = {"model": ("picture", "tiled"), "corrected-model": ("corrected", "corrected-tiled"), "slim-2k": ("slim-2k",)}
FILES = [(model, file) for model, files in MODELS.items() for file in files]
INTEGER, RUNTIME = GOLDEN / "integer-model", ROOT / "web/node_modules/onnxruntime-web"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Name of a model → a folder with its tensors, without its networks."""
    folder = tmp_path_factory.mktemp("models")
    for name in [*MODELS, INTEGER.name]:
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


def test_a_decoder_in_integers_is_corrected_by_the_same_integers(exported, tmp_path):
    file = INTEGER.with_name("integer.slim")
    found = node("integers.mjs", exported / INTEGER.name, file, tmp_path / "integers")
    transforms, contents = inference.load(INTEGER).transforms, bitstream.unpack(file.read_bytes())
    correction = transforms.read_correction(contents.correction, contents.header.quality)
    weight, bias, _ = transforms.head(correction)
    assert found["head"] == hashlib.sha256(weight.tobytes() + bias.tobytes()).hexdigest()
    assert found["rewritten"]


@pytest.mark.skipif(not RUNTIME.is_dir(), reason="needs npm ci --prefix web")
def test_a_decoder_in_integers_makes_the_same_pixels(tmp_path):
    file = INTEGER.with_name("integer.slim")
    onnx_export.export(models.load(INTEGER), tmp_path)
    found = node("pixels.mjs", tmp_path, file, tmp_path / "pixels")
    pixels = np.fromfile(tmp_path / "pixels", np.uint8).reshape(found["height"], found["width"], 4)
    assert np.array_equal(pixels[:, :, :3], np.asarray(inference.load(INTEGER).decompress(file.read_bytes())))


@pytest.mark.parametrize(("model", "file"), [("corrected-model", "corrected"), ("corrected-model", "corrected-tiled")])
def test_damaged_files_are_refused_in_one_line(exported, model, file):
    """Every truncation, every byte flipped with and without the right checksum: integers come out, or one line."""
    found = node("damage.mjs", exported / model, GOLDEN / f"{file}.slim")
    assert found["others"] == []
    assert found["refused"] > 1000 and found["decoded"] < found["refused"]


def test_streams_of_every_kind_of_symbol_are_read_as_they_were_written():
    assert node("streams.mjs") == {"same": True}
