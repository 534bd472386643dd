"""Small codecs with random but lively weights, and a few pictures. Untrained weights alone would round y to zero."""

import contextlib
import os
import resource
from pathlib import Path

# One thread, here and in the processes that tests start: these networks are tiny, and on a machine that does anything
# else two threads wait for each other. Before torch is imported, or it is too late.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import skimage.data
import torch
from warm import count_on_few_crops

from slimcodec.codec import adapt, bilateral, bitstream, entropy, inference, models
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.codec.symbols import Symbols
from slimcodec.training.prior import FactorizedPrior
from slimcodec.training.teach import save_trained

# Every kind of part: both contexts, all upsamplings, stages of 1, 2 and 4, transforms that end at 1/1, 1/2 and 1/4.
VARIANTS = {
    "four stages": {
        "latent_channels": 12,
        "hyper_channels": 8,
        "g_a": [
            {"scale": 4, "channels": 12, "blocks": [{"kind": "depthwise", "hidden": 16}]},
            {"scale": 16, "channels": 16},
        ],
        "g_s": [
            {"scale": 16, "channels": 16, "blocks": [{"kind": "depthwise", "hidden": 24}]},
            {"scale": 8, "channels": 12},
            {"scale": 4, "channels": 8, "blocks": [{"kind": "depthwise", "hidden": 8}]},
        ],
        "h_a": [12, 12],
        "h_scale": [12, 8, 12],
        "h_mean": [12, 8, 12],
        "stages": [[0], [3], [1], [2]],
        "context": [12, 8, 12, 16],
        "upsampling_kernel": 3,
    },
    "two stages": {
        "latent_channels": [7, 1, 4, 2, 9],
        "hyper_channels": [5, 0, 3],
        "g_a": [
            {"scale": 2, "channels": 8},
            {"scale": 16, "channels": 12, "blocks": [{"kind": "residual", "hidden": 6}]},
        ],
        "g_s": [
            {"scale": 16, "channels": 12, "blocks": [{"kind": "residual", "hidden": 8}]},
            {"scale": 4, "channels": 10},
            {"scale": 2, "channels": 6},
        ],
        "h_a": [8, 6],
        "h_scale": [10, 6, 8],
        "h_mean": [8, 6, 10],
        "stages": [[0, 3], [2, 1]],
        "context": [8, 10],
        "context_kind": "full",
        "downsampling": "narrow",
        "upsampling": "transposed",
        "head_kernel": 1,
        "quality_ladder": [0.005, 0.02, 0.08],
    },
    "one stage": {
        "latent_channels": 6,
        "hyper_channels": 4,
        "g_a": [{"scale": 1, "channels": 4}, {"scale": 16, "channels": 8}],
        "g_s": [
            {"scale": 16, "channels": 8},
            {"scale": 1, "channels": 4, "blocks": [{"kind": k, "hidden": 8} for k in ("residual", "pointwise")]},
        ],
        "h_a": [6, 6],
        "h_scale": [6, 4, 6],
        "h_mean": [6, 4, 6],
        "stages": [[2, 0, 3, 1]],
        "context": [8],
        "upsampling": "modulated",
        "quality_ladder": [0.01],
    },
}

# The files that take half a minute or more, the longest first.
LONG = ["test_sweep", "test_run", "test_parallel", "test_isolation", "test_study", "test_checkpoints"]
LONG += ["test_tracking", "test_types", "test_settings"]


@pytest.hookimpl(trylast=True)  # when those that are not wanted are gone
def pytest_collection_modifyitems(items):
    """Several processes begin with the files that take long, or one of them would still be at them in the end.

    Each process is first given a share of the list, and later takes what another has not begun, from its end. Files
    stay whole: their tests share what was trained.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if workers == 1:
        return
    files = {name: [item for item in items if item.path.stem == name] for name in LONG}
    short = [item for item in items if item.path.stem not in files]
    count, ordered = len(items), []
    for worker in range(workers):
        size = (count - len(ordered)) // (workers - worker)  # as xdist shares them out
        share = [item for name in LONG[worker::workers] for item in files[name]]
        missing = max(0, size - len(share))
        ordered += share + short[:missing]
        short = short[missing:]
    items[:] = ordered + short


@contextlib.contextmanager
def threads(count):
    """Torch on `count` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def few_crops():
    """Tables are counted on a few crops. A run in miniature would spend most of its time on its 64."""
    with pytest.MonkeyPatch.context() as patch:
        count_on_few_crops(patch)
        yield


@pytest.fixture
def file_size_limit():
    """`with file_size_limit(bytes):` a file that grows beyond it fails with EFBIG, as on a full disk with ENOSPC."""

    @contextlib.contextmanager
    def limit(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))  # Python ignores the signal that comes with it
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


def decoded_planes(codec, z_hat, gain, r):
    """y_hat and mu in planes [B, 4, M, h, w] that a decoder makes of integers r in planes."""
    plane_gain, features, y_hat, mu = gain[:, None, :, None, None], [codec.h_mean(z_hat)], [], []
    for stage, planes in codec.stages():
        mu.append(codec.means(stage, features))
        y_hat.append(mu[-1] + r[:, planes] / plane_gain)
        features.append(y_hat[-1].flatten(1, 2))
    return tuple(torch.stack(codec.in_order(values), dim=1) for values in (y_hat, mu))


def lively(architecture: Architecture, *, seed: int = 0) -> HyperpriorCodec:
    """A random codec whose symbols, scale indices and pictures spread over their ranges; in eval mode."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        codec = HyperpriorCodec(architecture)
        x = torch.rand(1, 3, 8, 8).repeat_interleave(32, 2).repeat_interleave(32, 3)
        y = codec.g_a(x)
        codec.g_a.head.weight *= 0.5 / y.std()  # the middle rung's gain makes four steps of it
        codec.g_a.head.bias -= 0.5 * y.mean() / y.std()
        z = codec.h_a(codec.g_a(x))
        codec.h_a[-1].weight *= 3 / z.std()
        codec.log_gain += 2 * torch.randn(codec.log_gain.shape)
        for c_k in codec.context:
            c_k[-1].weight *= 4
        for layer, spread in zip(codec.h_scale.layers, (4, 1.5, 1.5, 4), strict=True):
            layer.weight.copy_(torch.randn(layer.weight.shape) * spread / layer.weight[0].numel() ** 0.5)
            layer.bias += 0.3 * torch.randn(layer.bias.shape)
        middle = torch.tensor([QUALITY_ONE * (architecture.rungs + 1) // 2])
        x_hat = codec(x, middle).x_hat
        codec.g_s.head.conv.weight *= 0.2 / x_hat.std()
        codec.g_s.head.conv.bias -= (x_hat.mean() - 0.5) * 0.2 / x_hat.std()
    return codec.eval()


def correction_tables(architecture: Architecture, *, count: int = 5, seed: int = 0) -> dict[str, torch.Tensor]:
    """A random basis of corrections, the first three of which make a picture more red, green, or blue.

    A lively codec's pictures have none of the colours of what was compressed, so that these pay.
    """
    random = torch.Generator().manual_seed(seed)
    last = architecture.g_s[-1]
    shape = count, 3 * last.scale**2, last.channels * architecture.head_kernel**2 + 1
    basis = 0.02 * torch.randn(shape, generator=random)
    basis[:3, :, -1] += torch.eye(3)[:count].repeat_interleave(last.scale**2, dim=1)
    scales = torch.randint(-6, 7, (architecture.rungs, count), dtype=torch.int16, generator=random)
    return {adapt.BASIS: basis, adapt.SCALES: scales}


def filter_tables(*, count: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """A random basis of filters, of clipped differences: what is a level off before them is not much more after."""
    random = np.random.default_rng(seed)
    knots = np.array([2, 10, 40, 255])
    steps = random.normal(0, 600 / knots, (count, bilateral.GROUPS, len(knots)))
    basis = (steps[..., None] * np.minimum(np.arange(bilateral.STEPS), knots[:, None])).sum(axis=2)
    return {bilateral.BASIS: torch.from_numpy(basis.round().astype(np.int16))}


def bank_tables(architecture: Architecture, *, count: int = 40, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random banks of z, narrow and wide, and random rules of which is taken: five sums by six activities."""
    random = np.random.default_rng(seed)
    shape = architecture.rungs, architecture.hypers
    middle, width = random.normal(0, 3, (count, 1)), np.geomspace(0.5, 40, count)[:, None]
    pmfs = np.exp(-np.abs(np.arange(-128, 128) - middle) / width) + 1e-9
    tables = {
        "z_bank_frequencies": entropy.quantise(pmfs).astype(np.uint16),
        "z_banks": random.integers(0, count, (*shape, 5, 6), dtype=np.uint8),
        "z_weights": random.integers(1, 60, shape, dtype=np.int32),
        "z_sum_edges": np.sort(random.integers(-9, 10, (*shape, 4), dtype=np.int32)),
        "z_activity_edges": np.sort(random.integers(0, 9000, (*shape, 5), dtype=np.int32)),
    }
    return {name: torch.from_numpy(table) for name, table in tables.items()}


def save_lively(directory: Path, architecture: Architecture, *, seed: int = 0) -> Path:
    """A model directory of a lively codec, a random prior, and random tables of every kind that there can be."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        prior = FactorizedPrior(architecture.hypers, architecture.rungs)
    save_trained(directory, lively(architecture, seed=seed), prior, role="student")
    more = correction_tables(architecture, seed=seed) | bank_tables(architecture, seed=seed) | filter_tables(seed=seed)
    more["r_error_bits"] = torch.tensor([200], dtype=torch.int16)
    models.copy_with_tables(directory, directory, models.load(directory).tables | more)
    return directory


@pytest.fixture(scope="session")
def architectures() -> dict[str, Architecture]:
    return {name: Architecture.from_dict(values) for name, values in VARIANTS.items()}


@pytest.fixture(scope="session", params=VARIANTS)
def architecture(request, architectures) -> Architecture:
    """Every variant in turn."""
    return architectures[request.param]


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory, architectures) -> Path:
    """A saved lively model with tables of every kind: not to be changed, copy it first."""
    return save_lively(tmp_path_factory.mktemp("models") / "lively", architectures["four stages"])


@pytest.fixture(scope="session")
def codec(model_directory) -> inference.Codec:
    return inference.load(model_directory)


@pytest.fixture(scope="session")
def pictures() -> dict[str, np.ndarray]:
    """Name → uint8 [H, W, 3]: photos, noise, one colour, and sizes at the edges."""
    astronaut, chelsea = skimage.data.astronaut(), skimage.data.chelsea()
    return {
        "astronaut 100x130": astronaut[80:180, 150:280],
        "chelsea 64x64": chelsea[100:164, 120:184],
        "noise 64x64": np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8),
        "flat 70x50": np.full((70, 50, 3), (200, 30, 90), np.uint8),
        "1x1": astronaut[200:201, 200:201],
        "1x300": astronaut[200:201, 100:400],
        "17x31": chelsea[100:117, 120:151],
    }


def with_short_paths(codec, photo, fixed_quality, tile=0):
    """A file as older ones are: dependently quantised, each cell on its own. It has no correction."""
    encoding = codec.encoding(photo, tile=tile)
    y, transforms = encoding.y, codec.transforms
    z_hat = transforms.hyper_latents(y, fixed_quality)
    z = np.asarray(z_hat)[0].astype(np.int8)
    index = transforms.coder.scale_index(z, fixed_quality, tile)
    r, table, _ = transforms.residuals(y, z_hat, index, fixed_quality, block=1)
    header = bitstream.Header(codec.model_hash, photo.shape[1], photo.shape[0], fixed_quality, tile)
    return bitstream.pack(header, transforms.coder.write(Symbols(z, table, r), header))
