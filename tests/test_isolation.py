"""The same files and pixels whatever the process has set, what it has set left as it was, and forks that go on."""

import ast
import contextlib
import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch

from slimcodec import InvalidInput
from slimcodec.codec import bitstream, inference, isolation, models
from slimcodec.codec.network import HyperpriorCodec

CODEC = Path(inference.__file__).parent
GOLDEN = Path(__file__).with_name("golden")
SHIPPED = "slim-2k"
PHOTO = np.ascontiguousarray(skimage.data.astronaut()[80:180, 150:280])


@contextlib.contextmanager
def changed(get, put, value):
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


def attribute(holder, name, value):
    return changed(lambda: getattr(holder, name), lambda new: setattr(holder, name, new), value)


def default_dtype(dtype):
    return changed(torch.get_default_dtype, torch.set_default_dtype, dtype)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def matmul_precision(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        if hasattr(torch.backends.mkldnn, "matmul"):
            torch.backends.mkldnn.matmul.fp32_precision = "none"


@contextlib.contextmanager
def strict_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with changed(torch.is_warn_always_enabled, torch.set_warn_always, True):
            yield


@contextlib.contextmanager
def flushed_denormals():
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


SETTINGS = {
    "float64 by default": lambda: default_dtype(torch.float64),
    "float16 by default": lambda: default_dtype(torch.float16),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "the meta device by default": lambda: default_device("meta"),
    "in a device context": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "matrix products in medium precision": lambda: matmul_precision("medium"),
    "matrix products in high precision": lambda: matmul_precision("high"),
    "convolutions in bfloat16": lambda: attribute(torch.backends.mkldnn.conv, "fp32_precision", "bf16"),
    "everything in bfloat16": lambda: attribute(torch.backends, "fp32_precision", "bf16"),
    "without oneDNN": lambda: torch.backends.mkldnn.flags(enabled=False),
    "no_grad": torch.no_grad,
    "gradients off": lambda: torch.set_grad_enabled(False),
    "inference mode": torch.inference_mode,
    "anomalies detected": lambda: torch.autograd.set_detect_anomaly(True),
    "deterministic algorithms": lambda: changed(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "numpy raises": lambda: np.errstate(all="raise"),
    "warnings are errors": strict_warnings,
    "denormals are zero": flushed_denormals,
}
if not hasattr(torch.backends.mkldnn, "conv"):  # before PyTorch 2.9
    del SETTINGS["convolutions in bfloat16"], SETTINGS["everything in bfloat16"]


def what_comes_out(codec):
    """Files and pixels of every path: whole and tiled, refined, estimated, read in part."""
    files = [
        codec.compress(PHOTO, 1.9),
        codec.compress(PHOTO, 1.3, tile=1),
        codec.compress(PHOTO, 1.6, effort=1),
    ]
    estimate = codec.estimate(PHOTO, 1.2)
    pictures = [np.asarray(codec.decompress(data)).tobytes() for data in files]
    part = np.asarray(codec.decompress(files[1], region=(3, 5, 70, 80))).tobytes()
    psnr_db = codec.encoding(PHOTO).psnr_db(300)
    return [*files, *pictures, part, estimate.bits, estimate.pixels.tobytes(), psnr_db]


@pytest.fixture(scope="module", params=["golden", "corrected", SHIPPED])
def model(request):
    return {"golden": GOLDEN / "model", "corrected": GOLDEN / "corrected-model"}.get(request.param, SHIPPED)


@pytest.fixture(scope="module")
def codec(model):
    return inference.load(model)


@pytest.fixture(scope="module")
def expected(codec):
    found = what_comes_out(codec)
    version = 5 if codec.transforms.bilateral else 3 if codec.transforms.corrections else 2
    assert {data[4] for data in found[:3]} == {version}
    return found


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("setting", SETTINGS)
def test_files_and_pixels_are_the_same_in_every_setting(model, codec, expected, setting):
    """For a codec that was there before, and for one that is loaded in that setting."""
    with SETTINGS[setting]():
        assert what_comes_out(codec) == expected
        assert what_comes_out(inference.load(model)) == expected


@pytest.mark.parametrize("setting", SETTINGS)
def test_golden_files_give_the_same_pixels_in_every_setting(setting):
    for model, names in (("model", ("picture", "tiled")), ("corrected-model", ("corrected", "corrected-tiled"))):
        codec = inference.load(GOLDEN / model)
        files = [(GOLDEN / f"{name}.slim").read_bytes() for name in names]
        before = [np.asarray(codec.decompress(data)) for data in files]
        with SETTINGS[setting]():
            for data, pixels in zip(files, before, strict=True):
                assert np.array_equal(codec.decompress(data), pixels)


@pytest.mark.parametrize("instructions, onednn", [("default", "SSE41"), ("avx2", "AVX2")])
def test_golden_files_are_the_same_pictures_for_older_processors(tmp_path, instructions, onednn):
    """With corrections and banks, too: the same integers, and pixels within one level."""
    files = {"picture": "model", "tiled": "model", "corrected": "corrected-model", "corrected-tiled": "corrected-model"}
    paths = {name: (str(GOLDEN / model), str(GOLDEN / f"{name}.slim")) for name, model in files.items()}
    paths[SHIPPED] = SHIPPED, str(GOLDEN / f"{SHIPPED}.slim")
    code = f"""
import numpy as np, slimcodec
from slimcodec.codec import bitstream
found = {{}}
for name, (model, path) in {paths!r}.items():
    codec, data = slimcodec.load(model), open(path, "rb").read()
    found[name] = np.asarray(codec.decompress(data))
    found[name + " r"] = codec.coder.read(bitstream.unpack(data)).r
np.savez("found.npz", **found)
"""
    environment = os.environ | {"ATEN_CPU_CAPABILITY": instructions, "ONEDNN_MAX_CPU_ISA": onednn}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    found = np.load(tmp_path / "found.npz")
    for name, (model, path) in paths.items():
        codec, data = inference.load(model), Path(path).read_bytes()
        assert np.array_equal(found[name + " r"], codec.coder.read(bitstream.unpack(data)).r)
        difference = found[name].astype(int) - np.asarray(codec.decompress(data))
        assert np.abs(difference).max() <= 1


def test_a_process_with_another_locale_writes_the_same(tmp_path):
    code = f"""
import numpy as np, sys
from slimcodec import load
codec = load({str(GOLDEN / "model")!r})
sys.stdout.buffer.write(codec.compress(np.load("photo.npy"), 1.9, effort=1))
"""
    np.save(tmp_path / "photo.npy", PHOTO)
    other = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONHASHSEED": "7"}
    command, settings = [sys.executable, "-c", code], {"cwd": tmp_path, "env": os.environ | other}
    found = subprocess.run(command, capture_output=True, check=True, **settings).stdout
    assert found == inference.load(GOLDEN / "model").compress(PHOTO, 1.9, effort=1) and len(found) > 200


# --- what was set is left as it was ---------------------------------------------------------------------------------


def state():
    onednn = torch.backends.mkldnn
    precisions = [getattr(onednn, kind).fp32_precision for kind in ("conv", "matmul") if hasattr(onednn, kind)]
    return [
        *precisions,
        onednn.enabled,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
    ]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_call_leaves_the_setting_as_it_was(setting):
    codec = inference.load(GOLDEN / "model")
    outside = state()
    with SETTINGS[setting]():
        inside = state()
        codec.compress(PHOTO, 1.5, effort=1)
        assert state() == inside
        with pytest.raises(InvalidInput):
            codec.compress(PHOTO, 99)
        assert state() == inside
    assert state() == outside


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "conv"), reason="before PyTorch 2.9")
def test_what_was_inherited_is_inherited_again():
    with attribute(torch.backends, "fp32_precision", "bf16"):
        inference.load(GOLDEN / "model").compress(PHOTO, 1.5)
    assert torch.backends.mkldnn.conv.fp32_precision == "none"


def test_threads_share_the_settings(codec, expected):
    """Calls begin and end in between one another; the last one puts back what the first one found."""
    with SETTINGS["matrix products in medium precision"](), SETTINGS["without oneDNN"]():
        before = state()
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda number: codec.compress(PHOTO, 1.9 if number % 3 else 1.3), range(24)))
        assert state() == before
    other = codec.compress(PHOTO, 1.3)
    assert found == [expected[0] if number % 3 else other for number in range(24)]
    assert not isolation._calls and not isolation._before


# --- tensors name their type and place ------------------------------------------------------------------------------

CONSTRUCTORS = {"tensor", "as_tensor", "asarray", "zeros", "ones", "empty", "full", "eye"}
CONSTRUCTORS |= {"arange", "linspace", "logspace", "rand", "randn", "randint", "randperm"}
LAYERS = {"Conv1d", "Conv2d", "ConvTranspose2d", "Linear", "BatchNorm2d", "LayerNorm", "Embedding"}


@pytest.mark.parametrize("path", sorted(CODEC.glob("*.py")), ids=lambda path: path.stem)
def test_every_constructor_names_dtype_and_device(path):
    """Layers are made of `layers.conv2d` and its like, which name the dtype, on the device of HyperpriorCodec."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    for call in calls:
        module, _, name = ast.unparse(call.func).rpartition(".")
        named = {keyword.arg for keyword in call.keywords}
        assert module != "torch" or name not in CONSTRUCTORS or {"dtype", "device"} <= named, call.lineno
        assert module != "nn" or name not in LAYERS or "dtype" in named, call.lineno


@pytest.mark.parametrize("setting", ["float64 by default", "bfloat16 by default", "the meta device by default"])
def test_a_new_network_is_the_same_in_every_setting(setting, architecture):
    def made():
        torch.manual_seed(0)
        return HyperpriorCodec(architecture)

    plain = made().state_dict()
    with SETTINGS[setting]():
        other = made().state_dict()
    assert {tensor.dtype for tensor in other.values()} == {torch.float32}
    assert all(torch.equal(tensor, plain[name]) for name, tensor in other.items())


def test_a_network_can_be_made_on_another_device(architecture):
    codec = HyperpriorCodec(architecture, initialise=False, device="meta")
    assert {tensor.device.type for tensor in codec.state_dict().values()} == {"meta"}


def test_a_network_made_in_inference_mode_can_refine(architectures):
    with torch.inference_mode():
        model = models.load(GOLDEN / "model")
        model = model._replace(codec=copy.deepcopy(model.codec))
        codec = inference.Codec(model)
        data = codec.compress(PHOTO, 1.9, effort=1)
    assert data == inference.load(GOLDEN / "model").compress(PHOTO, 1.9, effort=1)


# --- copies ---------------------------------------------------------------------------------------------------------


def duplicates(codec):
    return [copy.deepcopy(codec), copy.copy(codec), *(pickle.loads(pickle.dumps(codec, n)) for n in (2, 5))]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_copies_and_pickles_of_a_codec_work_as_it_does(model, precision):
    codec = inference.load(model, precision=precision)
    data = codec.compress(PHOTO, 1.9)
    pixels = np.asarray(codec.decompress(data))
    for other in duplicates(codec):
        assert other.compress(PHOTO, 1.9) == data and np.array_equal(other.decompress(data), pixels)
        assert (other.device, other.precision, other.model_hash) == (codec.device, codec.precision, codec.model_hash)
        assert other.model.info == codec.model.info and other.model.directory == codec.model.directory
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(codec))))
    assert again.compress(PHOTO, 1.9) == data


def test_a_pickled_model_has_the_same_weights_and_tables(model_directory):
    """Those of further training as well, which are finer than the stored ones."""
    model = models.load(model_directory)
    models.load_training_state(model)
    other = pickle.loads(pickle.dumps(model))
    for mine, others in ((model.codec.state_dict(), other.codec.state_dict()), (model.tables, other.tables)):
        assert mine.keys() == others.keys()
        assert all(torch.equal(mine[name], others[name]) and mine[name].dtype == others[name].dtype for name in mine)
    assert other.codec.log_gain.requires_grad and not other.codec.training


@pytest.fixture(scope="module")
def another_process():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


def test_a_codec_goes_to_another_process(another_process, codec, expected):
    assert another_process.apply(codec.compress, (PHOTO, 1.9)) == expected[0]


# --- forks ----------------------------------------------------------------------------------------------------------

FORK = """
import concurrent.futures, multiprocessing, os, sys, threading, warnings
import numpy as np, torch, slimcodec

torch.set_num_threads(int(sys.argv[1]))
torch.ones(1 << 20).exp()
child = os.fork()  # one that loads the codec itself
if not child:
    slimcodec.load("slim-2k").compress(np.zeros((64, 64, 3), np.uint8), effort=1)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0

def work(effort):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = codec.compress(photo, 4, effort=effort)
        pixels = np.asarray(codec.decompress(data)).tobytes()
    return data, pixels, [str(warning.message) for warning in said], torch.get_num_threads()

torch.set_num_threads(1)
photo = np.load("photo.npy")
codec = slimcodec.load("slim-2k")
alone = work(0)[:2], work(1)[:2]
torch.set_num_threads(int(sys.argv[1]))
work(0), work(1)

def check(found, effort, warned):
    data, pixels, said, threads = found
    assert (data, pixels) == alone[effort] and threads == 1, threads
    assert len(said) == warned and all("forked" in line for line in said), said

many = int(sys.argv[1]) > 1
context = multiprocessing.get_context("fork")
with context.Pool(1) as pool:
    check(pool.apply(work, (0,)), 0, many)
    check(pool.apply(work, (1,)), 1, 0)  # it has been said
with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
    check(pool.submit(work, 1).result(), 1, many)
child = os.fork()
if not child:
    slimcodec.load("slim-2k")
    work(0)  # says it
    thread = threading.Thread(target=lambda: check(work(0), 0, 0))
    thread.start()
    thread.join()
    grandchild = os.fork()
    if not grandchild:
        check(work(0), 0, 0)
        os._exit(7)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert torch.get_num_threads() == int(sys.argv[1]) and not work(0)[2]  # nothing of it in the parent
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_forked_processes_go_on_with_one_thread(tmp_path, threads):
    np.save(tmp_path / "photo.npy", np.ascontiguousarray(skimage.data.astronaut()[:192, :128]))
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(threads)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        said = process.communicate(timeout=600)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its children as well
        pytest.fail("a forked process waits for ever")
    assert process.returncode == 0, said


def test_a_fork_in_the_middle_of_another_threads_call_is_no_deadlock():
    """The lock is held at that moment, by a thread that the child does not have."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    codec = inference.load(GOLDEN / "model")
    with isolation._lock:
        child = os.fork()
        if not child:
            codec.compress(PHOTO[:8, :8], 1.5)
            os._exit(0)
    watchdog = threading.Timer(60, os.kill, (child, signal.SIGKILL))
    watchdog.start()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    watchdog.cancel()
