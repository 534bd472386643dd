"""g_s in 8 bits by ONNX Runtime's integer kernels beside g_s in floats: is it exact, and how fast is it?

    python benchmarks/eight_bits.py MODEL --photo PICTURE [--large PICTURE] --json FILE

The network in 8 bits has the model's widths and random weights. Its products are of unsigned bytes with a zero point
of 128. What it makes is compared with plain integers. y_hat, and what the last layer sees, are two bytes each, so these
layers run twice. Kernels for other kinds of bytes are compared too: on processors without VNNI some saturate.

Both are timed in one process, in turns, on one thread: g_s alone, and decoding with one in place of the other.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import slimcodec
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.atomic import write_text
from slimcodec.codec.grid import LATENT_SCALE, Window
from slimcodec.codec.inference import Codec
from slimcodec.codec.units import LEVELS, MIDDLE
from slimcodec.evaluation.photos import open_photo

MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
ZERO = 128  # the byte that stands for 0
COARSE = 16  # a byte of the stream counts in such steps
LIMIT = 2047  # of the stream
SHIFT = 9
LATENT_ROWS, LATENT_COLUMNS = 32, 48  # of 768 × 512 pixels
ROUNDS, LARGE_ROUNDS, KERNEL_ROUNDS = 15, 3, 25
KINDS = {"u8·u8": (np.uint8, np.uint8), "u8·s8": (np.uint8, np.int8), "s8·s8": (np.int8, np.int8)}


class Layer(NamedTuple):
    weight: np.ndarray  # int64 [O, I, k, k], or [O, 1, k, k] of a depthwise one
    bias: np.ndarray  # int64 [O]


class Bytes(NamedTuple):
    """A tensor of bytes in a graph, and which of them is 0."""

    name: str
    zero: int


class Plain:
    """g_s in plain integers, [h, w, C]."""

    def read(self, x: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(x / COARSE), -ZERO, ZERO - 1)

    def rest(self, x: np.ndarray) -> np.ndarray:
        return x - COARSE * self.read(x)

    def hidden(self, x: np.ndarray, layer: Layer) -> np.ndarray:
        margin = layer.weight.shape[-1] // 2
        if margin == 0:
            total = x @ layer.weight[:, :, 0, 0].T
        else:
            rows, columns = x.shape[:2]
            padded = np.pad(x, [(margin, margin), (margin, margin), (0, 0)])
            kernel = np.ndindex(layer.weight.shape[2:])
            total = sum(padded[y : y + rows, z : z + columns] * layer.weight[:, 0, y, z] for y, z in kernel)
        return np.clip(np.rint((total + layer.bias) / 2**SHIFT), 0, 255)

    def wide(self, parts: list[tuple[np.ndarray, int]], layer: Layer) -> np.ndarray:
        total = sum(times * (x @ layer.weight[:, :, 0, 0].T) for x, times in parts)
        return np.rint((total + layer.bias) / 2**SHIFT)

    def sum(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x + y

    def clamped(self, x: np.ndarray) -> np.ndarray:
        return np.clip(x, -LIMIT, LIMIT)

    def shuffled(self, x: np.ndarray, ratio: int) -> np.ndarray:
        rows, columns, channels = x.shape
        blocks = x.reshape(rows, columns, ratio, ratio, channels // ratio**2).swapaxes(1, 2)
        return blocks.reshape(rows * ratio, columns * ratio, -1)


class Graph:
    """The same as an ONNX graph, on [1, h, w, C], which grows by every method."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, np.ndarray] = {}

    def node(self, kind: str, *inputs: str, **how: Any) -> str:
        name = f"{kind}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **how))
        return name

    def value(self, value: Any, kind: Any = np.float32) -> str:
        name = f"value.{len(self.tensors)}"
        self.tensors[name] = np.asarray(value, kind)
        return name

    def read(self, x: str) -> Bytes:
        return Bytes(self.node("QuantizeLinear", x, self.value(COARSE), self.value(ZERO, np.uint8)), ZERO)

    def rest(self, x: str) -> Bytes:
        coarse, zero = self.value(COARSE), self.value(ZERO, np.uint8)
        high = self.node("DequantizeLinear", self.node("QuantizeLinear", x, coarse, zero), coarse, zero)
        low = self.node("Sub", x, high)
        return Bytes(self.node("QuantizeLinear", low, self.value(1), zero), ZERO)

    def hidden(self, x: Bytes, layer: Layer) -> Bytes:
        weight, outputs = self.value(layer.weight + ZERO, np.uint8), len(layer.bias)
        one = self.value(1)
        scale = self.value(np.full(outputs, 2.0**-SHIFT))
        kernel = layer.weight.shape[-1]
        groups = outputs if kernel > 1 else 1
        found = self.node(
            "QLinearConv",
            *(x.name, one, self.value(x.zero, np.uint8), weight, scale, self.value(np.full(outputs, ZERO), np.uint8)),
            *(one, self.value(0, np.uint8), self.value(layer.bias, np.int32)),
            domain=MICROSOFT,
            channels_last=1,
            group=groups,
            kernel_shape=[kernel] * 2,
            pads=[kernel // 2] * 4,
        )
        return Bytes(found, 0)

    def wide(self, parts: list[tuple[Bytes, int]], layer: Layer) -> str:
        weight = self.value(layer.weight[:, :, 0, 0].T + ZERO, np.uint8)
        scale, zero, found = self.value(2.0**-SHIFT), self.value(ZERO, np.uint8), ""
        for x, times in parts:
            inputs = [x.name, weight, self.value(times), scale, self.value(x.zero, np.uint8), zero]
            inputs += [] if found else [self.value(layer.bias / 2**SHIFT)]
            product = self.node("MatMulIntegerToFloat", *inputs, domain=MICROSOFT)
            found = self.sum(found, product) if found else product
        return self.node("Round", found)

    def sum(self, x: str, y: str) -> str:
        return self.node("Add", x, y)

    def clamped(self, x: str) -> str:
        return self.node("Clip", x, self.value(-LIMIT), self.value(LIMIT))

    def shuffled(self, x: str, ratio: int) -> str:
        shape = self.node("Shape", x)
        size = self.node("Slice", shape, self.value([1], np.int64), self.value([3], np.int64))
        blocks = self.node("Concat", size, self.value([ratio, ratio, -1], np.int64), axis=0)
        apart = self.node("Transpose", self.node("Reshape", x, blocks), perm=[0, 2, 1, 3, 4])
        whole = self.node("Mul", size, self.value([ratio, ratio], np.int64))
        ends = self.value([1], np.int64), self.value([-1], np.int64)
        return self.node("Reshape", apart, self.node("Concat", ends[0], whole, ends[1], axis=0))


def g_s(of: Any, architecture: Architecture, stream: Any) -> Any:
    """y_hat → levels less 128; `of`: Plain or Graph."""
    layers, channels, scale = _layers(), architecture.latents, architecture.g_s[0].scale
    for number, level in enumerate(architecture.g_s):
        ratio = scale // level.scale
        parts = _two_bytes(of, stream) if number == 0 else [(of.read(stream), COARSE)]
        stream = of.wide(parts, layers(channels, level.channels * ratio**2))
        stream = of.clamped(of.shuffled(stream, ratio) if ratio > 1 else stream)
        for block in level.blocks:
            hidden = of.hidden(of.read(stream), layers(level.channels, block.hidden))
            hidden = of.hidden(hidden, layers(1, block.hidden, 3))
            found = of.wide([(hidden, 1)], layers(block.hidden, level.channels))
            stream = of.clamped(of.sum(stream, found))
        channels, scale = level.channels, level.scale
    colours = of.wide(_two_bytes(of, stream), layers(channels, 3 * scale**2))
    return of.shuffled(of.clamped(colours), scale)


def _two_bytes(of: Any, stream: Any) -> list[tuple[Any, int]]:
    return [(of.read(stream), COARSE), (of.rest(stream), 1)]


def _layers() -> Callable[..., Layer]:
    """→ a function that makes the next layer, the same ones every time."""
    random = np.random.default_rng(0)

    def layer(inputs: int, outputs: int, kernel: int = 1) -> Layer:
        weight = random.integers(-127, 128, (outputs, inputs, kernel, kernel))
        return Layer(weight, random.integers(-(2**12), 2**12, outputs))

    return layer


def session(nodes: list[Any], inputs: dict[str, Any], tensors: dict[str, np.ndarray], output: str, kind: Any) -> Any:
    """inputs: ONNX's kind and the shape of each"""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, *what) for name, what in inputs.items()],
        [helper.make_tensor_value_info(output, kind, None)],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MICROSOFT, 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    data = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def in_eight_bits(architecture: Architecture) -> Any:
    graph = Graph()
    found = g_s(graph, architecture, "y_hat")
    shape = [1, "rows", "columns", architecture.latents]
    return session(graph.nodes, {"y_hat": (TensorProto.FLOAT, shape)}, graph.tensors, found, TensorProto.FLOAT)


def is_exact(architecture: Architecture, run: Any) -> bool:
    """Whether all bytes come out as plain integers say, on values that fill the whole range."""
    y_hat = np.random.default_rng(1).integers(-LIMIT, LIMIT + 1, (8, 12, architecture.latents))
    expected = g_s(Plain(), architecture, y_hat.astype(np.float64))
    (found,) = run.run(None, {"y_hat": y_hat[None].astype(np.float32)})
    return np.array_equal(found[0], expected)


def kernels(architecture: Architecture) -> dict[str, dict[str, Any]]:
    """The largest product of g_s by kinds of bytes, beside floats: milliseconds, and whether it is exact."""
    level, below = architecture.g_s[:2]
    inputs, outputs = level.channels, below.channels * (level.scale // below.scale) ** 2
    cells, found = LATENT_ROWS * LATENT_COLUMNS, {}
    floats = np.ones((cells, inputs), np.float32), np.ones((inputs, outputs), np.float32)
    runs = {"floats": _product("MatMul", *floats)}
    for name, (left, right) in KINDS.items():
        # The largest bytes: two products of 255 and 127 do not fit 16 bits.
        sides = np.full((cells, inputs), np.iinfo(left).max, left), np.full((inputs, outputs), 127, right)
        runs[name] = _product("MatMulInteger", *sides)
        exact = np.full((cells, outputs), inputs * int(sides[0][0, 0]) * 127)
        found[name] = {"exact": bool(np.array_equal(runs[name](), exact))}
    times = medians(runs, KERNEL_ROUNDS)
    return {name: found.get(name, {}) | {"ms": times[name]} for name in runs}


def _product(kind: str, left: np.ndarray, right: np.ndarray) -> Callable[[], np.ndarray]:
    node = helper.make_node(kind, ["left", "right"], ["product"])
    of = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int8): TensorProto.INT8}.get(left.dtype, TensorProto.FLOAT)
    result = TensorProto.FLOAT if kind == "MatMul" else TensorProto.INT32
    run = session([node], {"left": (of, ["cells", left.shape[1]])}, {"right": right}, "product", result)
    return lambda: run.run(None, {"left": left})[0]


def medians(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, in turns; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            times[name].append(_milliseconds(run))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def _milliseconds(run: Callable[[], Any]) -> float:
    began = time.process_time()
    run()
    return 1000 * (time.process_time() - began)


class Timed:
    """In place of a codec's g_s: it adds up what every call takes."""

    def __init__(self, codec: Codec, run: Any = None):
        networks: Any = codec.transforms.networks
        self.floats, self.run, self.milliseconds = networks.g_s, run, 0.0
        networks.g_s = self

    def __call__(self, y_hat: np.ndarray, seen: Window, piece: Window, *others: Any) -> np.ndarray:
        began = time.process_time()
        if self.run is None:
            found = self.floats(y_hat, seen, piece, *others)
        else:
            (levels,) = self.run.run(None, {"y_hat": np.ascontiguousarray(y_hat.transpose(0, 2, 3, 1))})
            levels += MIDDLE
            levels *= np.float32(1 / LEVELS)
            found = levels.transpose(0, 3, 1, 2)[:, :, *piece.seen_from(seen).finer(LATENT_SCALE).slices]
        self.milliseconds += 1000 * (time.process_time() - began)
        return found


def decoding(name: str, run: Any, path: Path, rounds: int) -> dict[str, Any]:
    """g_s alone and all of decoding a file at quality 4, by floats and by bytes: milliseconds, medians."""
    picture = open_photo(path)
    codecs = {way: slimcodec.load(name, backend="onnx") for way in ("floats", "bytes")}
    timed = {"floats": Timed(codecs["floats"]), "bytes": Timed(codecs["bytes"], run)}
    data = codecs["floats"].compress(picture, quality=4)
    times = [{way: _decoded(codec, data, timed[way]) for way, codec in codecs.items()} for _ in range(rounds + 1)][1:]
    found: dict[str, Any] = {"pixels": picture.width * picture.height, "rounds": rounds}
    for number, part in enumerate(("decode", "g_s")):
        of_part = {way: [turn[way][number] for turn in times] for way in codecs}
        found[part] = {way: statistics.median(values) for way, values in of_part.items()}
        ratios = [a / b for a, b in zip(of_part["floats"], of_part["bytes"], strict=True)]
        found[part]["times_as_fast"] = statistics.median(ratios)
    return found


def _decoded(codec: Codec, data: bytes, timed: Timed) -> tuple[float, float]:
    timed.milliseconds = 0.0
    return _milliseconds(lambda: codec.decompress(data)), timed.milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--large", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    architecture = slimcodec.load(options.model, backend="onnx").model.architecture
    run = in_eight_bits(architecture)
    result = {
        "command": f"python benchmarks/eight_bits.py {options.model} --photo PICTURE --large PICTURE",
        "date": date.today().isoformat(),
        "onnxruntime": onnxruntime.__version__,
        "cores": os.cpu_count(),
        "exact": is_exact(architecture, run),
        "kernels": kernels(architecture),
        "small": decoding(options.model, run, options.photo, ROUNDS),
    }
    if options.large:
        result["large"] = decoding(options.model, run, options.large, LARGE_ROUNDS)
    print(json.dumps(result, indent=1))
    write_text(options.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
