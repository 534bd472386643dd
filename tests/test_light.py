"""Without PyTorch: pictures are compressed and decompressed by ONNX Runtime. `make test-light` runs this where nothing
else is installed."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save

import slimcodec
from slimcodec import InvalidInput, InvalidModel
from slimcodec.codec import bitstream, inference, zoo
from slimcodec.codec.batch import cores

GOLDEN = Path(__file__).with_name("golden")
STUDENT = zoo.find(zoo.DEFAULT_STUDENT)
WITH_TORCH = find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not WITH_TORCH, reason="compares with PyTorch")

# What a user does, where every import of PyTorch fails.
# ONNX Runtime keeps a thread to tell its makers of it, if it may.
WITHOUT_TORCH = """
import os, sys
for name in ("torch", "torchvision", "lightning"):
    sys.modules[name] = None
import numpy as np
from PIL import Image
import slimcodec, slimcodec.pillow
from slimcodec.cli import main
slimcodec.compress_file("photo.png", "photo.slim", quality=4)
slimcodec.decompress_file("photo.slim", "back.png")
assert not {"PIL.ImageCms", "threadpoolctl"} & set(sys.modules)  # what few pictures need takes its time
codec = slimcodec.load("slim-2k")
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
data = codec.compress(Image.open("photo.png"), target_bpp=0.4)
assert codec.decompress(data).size == (150, 100)
files = codec.compress_batch(["photo.png", "photo.png"], quality=3)
assert [picture.size for picture in codec.decompress_batch(files)] == 2 * [(150, 100)]
assert codec.psnr_db("photo.png", data) > 20
assert slimcodec.decompress(slimcodec.compress("photo.png")).size == (150, 100)
assert main(["compress", "-r", ".", "-o", "all/", "--jobs", "2"]) == 0
assert codec.decompress(data, region=(0, 0, 64, 48)).size == (64, 48)
Image.open("photo.slim").load()
Image.open("photo.png").save("plugin.slim", quality=3)
assert main(["compress", "photo.png", "line.slim", "-q", "3"]) == 0
assert main(["decompress", "line.slim", "line.png"]) == 0
assert main(["info", "line.slim"]) == 0 and main(["models"]) == 0
assert (codec.device, codec.precision) == ("cpu", None)
for needs in (lambda: codec.compress(Image.open("photo.png"), effort=1), lambda: codec.network):
    try:
        needs()
    except slimcodec.InvalidInput as error:
        assert str(error) == "this needs torch, which is not installed: pip install 'slimcodec[torch]'", error
    else:
        raise AssertionError("this needs PyTorch")
"""


def photo(height=100, width=150):
    row, column = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(row / a + column / b) for a, b in ((15, 29), (17, -14), (-28, 30))]
    return np.stack(waves, axis=2).astype(np.uint8)


def test_everything_for_a_user_works_without_pytorch(tmp_path):
    Image.fromarray(photo()).save(tmp_path / "photo.png")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".png", ".slim"}


def test_a_golden_file_decodes_to_its_integers_and_pixels():
    data, stored = (GOLDEN / "slim-2k.slim").read_bytes(), np.load(GOLDEN / "slim-2k.npz")
    codec = slimcodec.load("slim-2k", backend="onnx")
    symbols = codec.coder.read(bitstream.unpack(data))
    for name in ("z", "index", "r"):
        assert np.array_equal(getattr(symbols, name), stored[name])
    pixels = np.asarray(codec.decompress(data))[::5, ::5].astype(int)
    assert np.abs(pixels - stored["pixels"]).max() <= 1


@needs_torch
@pytest.mark.parametrize("size", [(64, 64), (70, 150), (1, 1)])
def test_each_backend_reads_what_the_other_wrote(size):
    picture = photo(*size)
    codecs = [slimcodec.load("slim-2k", backend=backend) for backend in inference.BACKENDS]
    files = [codec.compress(picture, quality=5) for codec in codecs]
    for data in files:
        symbols = [codec.coder.read(bitstream.unpack(data)) for codec in codecs]
        assert all(np.array_equal(one, other) for one, other in zip(*symbols, strict=True))
        one, other = (np.asarray(codec.decompress(data)).astype(int) for codec in codecs)
        assert np.abs(one - other).max() <= 1
    parts = [bitstream.unpack(data) for data in files]
    assert parts[0].header == parts[1].header
    assert abs(len(files[0]) - len(files[1])) <= max(8, len(files[0]) // 200)


@needs_torch
def test_a_big_picture_in_pieces_is_the_same_for_both():
    picture = photo(1100, 1300)
    onnx, torch = (slimcodec.load("slim-2k", backend=backend) for backend in inference.BACKENDS)
    data = onnx.compress(picture, quality=2)
    found = np.asarray(torch.decompress(data)).astype(int)
    assert np.abs(found - np.asarray(onnx.decompress(data))).max() <= 1
    error = np.square(found - picture).mean()
    assert error < 30


@needs_torch
def test_effort_is_pytorchs_and_the_file_is_anyones():
    codec = slimcodec.load("slim-2k", backend="onnx")
    data = codec.compress(photo(), quality=4, effort=1)
    assert codec.decompress(data).size == (150, 100)


@pytest.mark.parametrize("said, wanted", [("1", 1), ("3", 3), ("", None), ("0", None), ("many", None)])
def test_threads_are_as_many_as_the_environment_says(said, wanted, monkeypatch):
    import onnxruntime

    monkeypatch.setenv("OMP_NUM_THREADS", said)
    found = []

    def session(path, options, **_):
        found.append(options.intra_op_num_threads)
        raise RuntimeError("enough")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(InvalidModel, match="ONNX Runtime cannot use it \\(enough\\)"):
        slimcodec.load("slim-2k", backend="onnx").compress(photo())
    assert found == [wanted or cores()]


def test_what_onnx_cannot_do_is_said():
    for wrong in ({"device": "cuda"}, {"precision": "bfloat16"}):
        with pytest.raises(InvalidInput, match="backend onnx: runs on the CPU in float32"):
            slimcodec.load("slim-2k", backend="onnx", **wrong)
    with pytest.raises(InvalidInput, match="backend 'tensorrt': must be one of onnx, torch"):
        slimcodec.load("slim-2k", backend="tensorrt")


def test_a_model_without_graphs_is_for_pytorch():
    with pytest.raises(InvalidModel, match="has no graphs for ONNX Runtime; PyTorch can run it"):
        slimcodec.load(GOLDEN / "model", backend="onnx")


def test_a_model_with_the_graphs_of_an_older_version_is_for_pytorch(copied):
    info = json.loads((copied / "model.json").read_text())
    info["graphs"] = {"g_a" if name == "g_a.0" else name: value for name, value in info["graphs"].items()}
    (copied / "model.json").write_text(json.dumps(info))
    with pytest.raises(InvalidModel, match=r"model.json: graphs.g_a.0 is missing; PyTorch can run the model"):
        slimcodec.load(copied, backend="onnx")
    if find_spec("torch"):
        assert "ONNX" not in repr(slimcodec.load(copied))


@pytest.fixture
def copied(tmp_path):
    return Path(shutil.copytree(STUDENT, tmp_path / "model"))


def refused(directory):
    with pytest.raises(InvalidModel) as caught:
        slimcodec.load(directory, backend="onnx").compress(photo())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["g_s.onnx", "context.2.onnx", "weights.safetensors"])
def test_damaged_files_are_named(copied, name):
    path = copied / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert refused(copied) == f"{path}: its sha256 is not the one in model.json; the file is damaged or edited"
    path.unlink()
    assert refused(copied).startswith(f"{path}: cannot be read")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda tensors: b"nothing", "is no safetensors file"),
        (lambda tensors: save(tensors | {"log_gain": np.zeros((1, 2), np.int16)}), "tensor log_gain is missing or not"),
        (lambda tensors: save({"other": np.zeros(1)}), "tensor log_gain is missing or not of shape"),
    ],
)
def test_weights_that_fit_no_model_are_named(copied, change, said):
    path, description = copied / "weights.safetensors", copied / "model.json"
    path.write_bytes(change(load_file(path)))
    info = json.loads(description.read_text())
    info["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    description.write_text(json.dumps(info))
    assert refused(copied).startswith(f"{path}: {said}")


def test_a_graph_that_is_none_is_named(copied):
    (copied / "g_a.0.onnx").write_bytes(b"nothing")
    info = json.loads((copied / "model.json").read_text())
    info["graphs"]["g_a.0"] = hashlib.sha256(b"nothing").hexdigest()
    (copied / "model.json").write_text(json.dumps(info))
    assert refused(copied).startswith(f"{copied / 'g_a.0.onnx'}: ONNX Runtime cannot use it")


@needs_torch
def test_other_tables_take_the_graphs_away(copied, tmp_path):
    """They say where weights are in a file that is then another."""
    from slimcodec.codec import models

    model = models.load(copied)
    models.copy_with_tables(copied, tmp_path / "other", model.tables)
    assert not list((tmp_path / "other").glob("*.onnx"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert slimcodec.load(tmp_path / "other").model.info.get("graphs") is None
