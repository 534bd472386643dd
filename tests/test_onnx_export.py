"""Networks as ONNX files compute what PyTorch does, and say what they are; the rest are tensors as they were."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_parts
import onnxruntime
import pytest
import skimage.data
from conftest import VARIANTS, lively
from safetensors.numpy import load_file

import slimcodec
from slimcodec.cli import main
from slimcodec.codec import models
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.inference import BACKENDS
from slimcodec.training import onnx_export

GOLDEN = Path(__file__).with_name("golden")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("onnx")
    assert main(["export", str(GOLDEN / "corrected-model"), "--onnx", str(directory)]) == 0
    return directory


def photo(height, width):
    return skimage.data.astronaut()[:height, :width]


@pytest.mark.parametrize("quality", [256, 400])
def test_the_networks_compute_what_pytorch_does(exported, quality):
    """At another size than that at which they were traced."""
    model = models.load(GOLDEN / "corrected-model")
    differences = onnx_parts.largest_differences(model, exported, photo(128, 320), quality)
    assert set(differences) == {"g_a", "h_a", "h_mean", "context.0", "context.1", "g_s"}
    assert max(differences.values()) < TOLERANCE


def require_alike(codec, name, path):
    """A network's file gives what PyTorch does, on random numbers."""
    network = next(network for network in onnx_export.networks(codec, features=False) if network.name == name)
    if not path.exists():
        path.write_bytes(onnx_export.traced(network))
    random = np.random.default_rng(0)
    feed = {key: random.normal(size=value.shape).astype(np.float32) for key, value in network.inputs.items()}
    (found,) = onnxruntime.InferenceSession(path).run(None, feed)
    expected = onnx_parts.evaluated(network, feed)
    assert np.abs(found - expected).max() < TOLERANCE * max(1, np.abs(expected).max())


@pytest.mark.parametrize("name", ["g_s", "context.1"])
def test_other_layers_are_exported_as_well(name, tmp_path):
    """Transposed convolutions, residual blocks, attention, full contexts."""
    values = VARIANTS["two stages"]
    first, *others = values["g_s"]
    first = first | {"blocks": [{"kind": kind, "hidden": 8} for kind in ("residual", "attention")]}
    codec = lively(Architecture.from_dict(values | {"g_s": [first, *others]}))
    require_alike(codec, name, tmp_path / "network.onnx")


def test_the_manifest_names_the_model_and_every_file(exported):
    manifest = json.loads((exported / "manifest.json").read_text())
    described = json.loads((GOLDEN / "corrected-model/model.json").read_text())
    assert manifest["weights_sha256"] == described["weights_sha256"]
    assert Architecture.from_dict(manifest["architecture"]) == Architecture.from_dict(described["architecture"])
    assert {path.name for path in exported.iterdir()} == {*manifest["files"], "manifest.json"}
    for name, file in manifest["files"].items():
        data = (exported / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"])


def test_a_file_says_its_opset_and_sizes_and_nothing_of_the_machine_that_wrote_it(exported):
    for path in exported.glob("*.onnx"):
        network = onnx.load(path)
        assert [(opset.domain, opset.version) for opset in network.opset_import] == [("", onnx_export.OPSET)]
        dimensions = [dim.dim_param for dim in network.graph.input[0].type.tensor_type.shape.dim]
        assert dimensions == ["", "", "height", "width"]
        assert not any(word in path.read_bytes() for word in (b".py", b"slimcodec", b"stack_trace"))


def test_the_other_tensors_are_those_of_the_model(exported):
    tensors, weights = (
        load_file(exported / "tables.safetensors"),
        load_file(GOLDEN / "corrected-model/weights.safetensors"),
    )
    assert {"log_gain", "h_scale.layers.0.weight", "tables.r_frequencies", "g_s.head.conv.bias"} <= set(tensors)
    assert all(np.array_equal(tensor, weights[name]) and tensor.dtype == weights[name].dtype
               for name, tensor in tensors.items())  # fmt: skip


def test_weights_of_sixteen_bits_stay_so(tmp_path):
    """Where they are exact: the results are the same."""
    model = models.load(GOLDEN / "corrected-model")
    halved = models.load(models.save(tmp_path / "half", model.codec, model.tables, role="student", half=True))
    onnx_export.export(halved, tmp_path, only=("h_a",))
    types = {tensor.data_type for tensor in onnx.load(tmp_path / "h_a.onnx").graph.initializer}
    assert types == {onnx.TensorProto.FLOAT16}
    require_alike(halved.codec, "h_a", tmp_path / "h_a.onnx")


def test_without_onnx_one_line_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "slimcodec.training.onnx_export")
    monkeypatch.delattr("slimcodec.training.onnx_export")
    assert main(["export", str(GOLDEN / "model"), "--onnx", str(tmp_path / "onnx")]) == 2
    said = capsys.readouterr().err
    assert "slimcodec[onnx]" in said and said.count("\n") == 1 and not (tmp_path / "onnx").exists()


@pytest.mark.parametrize("half", [False, True])
def test_graphs_have_their_weights_in_the_models_own_file(tmp_path, half):
    """A model that got them is run by ONNX Runtime, and is the model that it was."""
    before = models.load(GOLDEN / "corrected-model")
    directory = models.save(tmp_path / "model", before.codec, before.tables, role="student", half=half)
    weights = (directory / "weights.safetensors").read_bytes()
    assert main(["export", str(directory), "--graphs"]) == 0
    assert (directory / "weights.safetensors").read_bytes() == weights
    assert all(len(path.read_bytes()) < 40_000 for path in directory.glob("*.onnx"))
    codecs = [slimcodec.load(directory, backend=backend) for backend in BACKENDS]
    for size in ((128, 192), (100, 130)):
        data = codecs[0].compress(photo(*size), quality=1.5)
        one, other = (np.asarray(codec.decompress(data)).astype(int) for codec in codecs)
        assert np.abs(one - other).max() <= 1


@pytest.mark.slow
def test_the_shipped_student_as_well(tmp_path):
    model = models.load("slim-2k")
    onnx_export.export(model, tmp_path)
    for quality in (256, 1000, 2048):
        assert max(onnx_parts.largest_differences(model, tmp_path, photo(512, 448), quality).values()) < TOLERANCE
