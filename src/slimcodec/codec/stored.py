"""A model directory as plain arrays, for ONNX Runtime: no PyTorch is needed to read it or to run it.

    h_a.onnx …  one graph a network, whose weights are those in weights.safetensors beside it: it says where in the file

model.json has the SHA-256 of the weights and of every graph. A model without graphs needs PyTorch (codec/models).
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open

from slimcodec import InvalidModel
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.networks import Grid, Head, Weights
from slimcodec.codec.regions import all_layers, layer_weights
from slimcodec.codec.scales import RATIOS, Scales
from slimcodec.codec.transforms import Transforms
from slimcodec.codec.zoo import (
    DESCRIPTION,
    GRAPHS,
    WEIGHTS,
    architecture_of,
    find,
    graph_file,
    graphs,
    read_description,
)

TABLES, HEAD = "tables.", "g_s.head.conv"  # prefixes of tensor names
Shapes: TypeAlias = dict[str, tuple[int, ...]]


class Stored(NamedTuple):
    """A model whose graphs and tensors have the hashes that its description says."""

    architecture: Architecture
    tensors: dict[str, np.ndarray]  # what no graph reads
    tables: dict[str, np.ndarray]
    info: dict[str, Any]  # model.json
    directory: Path

    @property
    def sha256(self) -> str:
        return self.info["weights_sha256"]

    def transforms(self, device: str = "cpu", precision: str = "float32") -> Transforms:
        from slimcodec.codec.onnx_networks import OnnxNetworks

        limits = self.tensors["latents.limit"] if self.architecture.in_integers else None
        scales = Scales(self.architecture, self.tensors["log_gain"], list(_scale_layers(self.tensors)), limits)
        head = _head(self.tensors, self.architecture)
        run = partial(OnnxNetworks, self.directory, self.architecture, head, self._layers())
        return Transforms(run, scales, self.tables, self.directory, self.sha256)

    def _layers(self) -> list[dict[str, Weights]]:
        """Of every specialist's g_s. Of a model with one, graphs hold them."""
        if self.architecture.specialists == 1:
            return []
        prefixes = [f"{prefix}g_s." for prefix in _prefixes(self.architecture)]
        own = [
            {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}
            for prefix in prefixes
        ]
        return [layer_weights(self.architecture, tensors) for tensors in own]


def load(name_or_directory: str | Path) -> Stored:
    """Load a model by its name in students/ or teachers/, or by its directory. Raises InvalidModel."""
    directory = find(name_or_directory)
    info = read_description(directory, count=False)
    architecture = architecture_of(directory / DESCRIPTION, info)
    _check_graphs(directory, info, architecture)
    path = directory / WEIGHTS
    _require_hash(path, info["weights_sha256"])
    tensors, tables = _read_arrays(path, _expected(architecture))
    floats = {name: table.astype(np.float32) for name, table in tables.items() if table.dtype == np.float16}
    return Stored(architecture, tensors, tables | floats, info, directory)


def runs_without_pytorch(directory: Path) -> bool:
    """Whether a model directory has all graphs that this version runs."""
    info = read_description(directory, count=False)
    return set(graph_names(architecture_of(directory / DESCRIPTION, info))) <= set(graphs(directory))


def graph_names(architecture: Architecture) -> list[str]:
    levels = [f"g_a.{level}" for level in range(len(architecture.g_a))]
    shared = [*levels, "h_a", "h_mean", *(f"context.{stage}" for stage in range(len(architecture.stages)))]
    if architecture.specialists == 1:
        return [*shared, "features", "g_s"]
    return [*shared, *(f"latents.{number}" for number in range(architecture.specialists))]


def _prefixes(architecture: Architecture) -> list[str]:
    """Of the names of every specialist's own tensors."""
    return ["", *(f"specialists.{number}." for number in range(1, architecture.specialists))]


def read_checked(path: Path, sha256: str | None = None, max_bytes: int | None = None) -> bytes:
    """A file of a model, which must have that hash, if one is given, and no more bytes. Raises InvalidModel."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if max_bytes is not None and size > max_bytes:
            raise InvalidModel(f"{path}: has {size:,} bytes, more than this architecture can need; copy it again")
        data = file.read()
    if sha256 is not None:
        _require_same(path, hashlib.sha256(data).hexdigest(), sha256)
    return data


def _require_hash(path: Path, sha256: str) -> None:
    """The same check of a file that others read, without holding it in memory."""
    with _opened(path) as file:
        _require_same(path, hashlib.file_digest(file, "sha256").hexdigest(), sha256)


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise InvalidModel(f"{path}: cannot be read ({error.strerror}); copy the whole model directory") from error


def _require_same(path: Path, found: str, sha256: str) -> None:
    if found != sha256:
        raise InvalidModel(f"{path}: its sha256 is not the one in {DESCRIPTION}; the file is damaged or edited")


def _read_arrays(path: Path, expected: Shapes) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The tensors that are expected, and the tables. What graphs alone read, nearly all of the file, is left there."""
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
            for name, shape in expected.items():
                if name not in names or tuple(file.get_slice(name).get_shape()) != shape:
                    raise InvalidModel(f"{path}: tensor {name} is missing or not of shape {shape}")
            tables = {name.removeprefix(TABLES): file.get_tensor(name) for name in names if name.startswith(TABLES)}
            return {name: file.get_tensor(name) for name in expected}, tables
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InvalidModel(f"{path}: is no safetensors file ({str(error).splitlines()[0]}); it is damaged") from error


def _check_graphs(directory: Path, info: dict[str, Any], architecture: Architecture) -> None:
    hashes = info.get(GRAPHS)
    if not isinstance(hashes, dict):
        raise InvalidModel(f"{directory}: has no graphs for ONNX Runtime; PyTorch can run it")
    for name in graph_names(architecture):
        if not isinstance(hashes.get(name), str):
            raise InvalidModel(f"{directory / DESCRIPTION}: {GRAPHS}.{name} is missing; PyTorch can run the model")
        _require_hash(directory / graph_file(name), hashes[name])


def _expected(architecture: Architecture) -> Shapes:
    """The tensors that are read here, not by a graph."""
    last = architecture.g_s[-1]
    outputs, kernel = 3 * last.scale**2, architecture.head_kernel
    expected: Shapes = {"log_gain": (architecture.rungs, architecture.latents)}
    for prefix in _prefixes(architecture):
        expected[f"{prefix}{HEAD}.weight"] = (outputs, last.channels, kernel, kernel)
        expected[f"{prefix}{HEAD}.bias"] = (outputs,)
        for own in all_layers(architecture) if architecture.specialists > 1 else ():
            expected[f"{prefix}g_s.{own.name}.weight"] = own.shape
            expected[f"{prefix}g_s.{own.name}.bias"] = (own.outputs,)
    if architecture.in_integers:
        expected |= {f"{HEAD}.shift": (outputs,), limit_name(architecture): (last.channels,)}
        expected["latents.limit"] = (architecture.latents,)
    widths = [architecture.hypers, *architecture.h_scale, 4 * architecture.latents]
    for layer, ratio in enumerate(RATIOS):
        kernel = 3 if layer % 2 == 0 else 1
        expected[f"h_scale.layers.{layer}.weight"] = (widths[layer + 1] * ratio**2, widths[layer], kernel, kernel)
        expected[f"h_scale.layers.{layer}.bias"] = (widths[layer + 1] * ratio**2,)
        expected[f"h_scale.layers.{layer}.exponent"] = ()
    return expected


def _head(tensors: dict[str, np.ndarray], architecture: Architecture) -> Head:
    names = [f"{prefix}{HEAD}" for prefix in _prefixes(architecture)]
    weights, biases = (
        np.stack([tensors[f"{name}.{part}"] for name in names]).astype(np.float32) for part in ("weight", "bias")
    )
    if architecture.specialists > 1:
        return Head(weights, biases)
    (weight,), (bias,) = weights, biases
    if not architecture.in_integers:
        return Head(weight, bias)
    shift = tensors[f"{HEAD}.shift"].astype(np.int64)
    grid = Grid(shift, tensors[limit_name(architecture)].astype(np.float64))
    return Head(np.ldexp(weight, -shift[:, None, None, None]), np.ldexp(bias, -shift), grid)


def limit_name(architecture: Architecture) -> str:
    """The tensor with the limits of what g_s's head sees."""
    last = len(architecture.g_s) - 1
    blocks = len(architecture.g_s[last].blocks)
    return f"g_s.levels.{last}." + (f"blocks.{blocks - 1}.total.limit" if blocks else "entered.limit")


def _scale_layers(tensors: dict[str, np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    for layer in range(len(RATIOS)):
        weight, bias, exponent = (tensors[f"h_scale.layers.{layer}.{part}"] for part in ("weight", "bias", "exponent"))
        yield weight, bias, int(exponent)
