"""A model as ONNX networks and plain tensors: what running it without PyTorch takes.

    g_a.onnx        x [1, 3, H, W] in [0, 1]            → y [1, M, H/16, W/16]
    h_a.onnx        y·gain                              → z [1, N, H/64, W/64], not rounded
    h_mean.onnx     z_hat                               → p [1, P, H/32, W/32]
    context.k.onnx  p and the planes of stages before k → mu of the stage's planes, [1, n·M, H/32, W/32]
    g_s.onnx        y_hat, head_weight, head_bias       → x_hat [1, 3, H, W]

A model of specialists has others in place of g_a and g_s; cells are [n, side, side, C], codec/regions says which.

    trunk.onnx          x                               → what the last layer of g_a sees
    latents.k.onnx      of cells, [n, C, 4, 4]          → specialist k's y, [n, M, 4, 4]
    g_s.k.i.onnx        of cells: what its first layer sees; what the block that it begins in adds to
                                                        → the same for segment i + 1
    last_layer.onnx     of cells, head_weight, head_bias → x_hat, [n, h, w, 3·ratio²]

    tables.safetensors  all other tensors of weights.safetensors, unchanged: log_gain, h_scale, the tables, g_s's head,
                        limits of a decoder in integers
    manifest.json   the model, its architecture, and every file with its size and SHA-256

H and W are any multiples of 64. g_s's last layer is an input, for files may correct it (codec/adapt).

h_scale is no network file: it must be exact, and integer convolutions of ONNX runtimes need not be. On x86 without
VNNI those of uint8 by int8 saturate in 16 bits. It is four small layers of integers; docs/format.md describes them.

Weights that 16 bits hold exactly, as those of shipped models, are stored in 16 bits, with a cast to 32.
"""

import hashlib
import json
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

import slimcodec
from slimcodec.codec import atomic, models
from slimcodec.codec.adapt import BASIS
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.fixed import LEVEL, FixedConv2d
from slimcodec.codec.grid import CELL, LATENTS
from slimcodec.codec.layers import packed
from slimcodec.codec.models import Model
from slimcodec.codec.network import Analysis, HyperpriorCodec, Synthesis
from slimcodec.codec.regions import Segment, segments
from slimcodec.codec.segments import RunSegment, unpadded
from slimcodec.codec.tiling import analysis_margin, synthesis_margin
from slimcodec.codec.zoo import GRAPHS, WEIGHTS, graph_file, read_description, write_description

OPSET = 18
FORMAT_VERSION, OF_SPECIALISTS = 1, 2  # of the manifest
MANIFEST, TENSORS = "manifest.json", "tables.safetensors"
KEPT = "log_gain", "h_scale.", "tables.", "g_s.head."  # prefixes of what no network file holds
KEPT_PARTS = ".limit", ".g_s.head."  # limits of a decoder in integers, and specialists' last layers
# Model directories have no graph of these: g_a as a whole, and specialists' layers, which codec/regions runs itself.
NOT_RUN = "g_a", "trunk", "g_s.", "last_layer"
KINDS = {  # what weights are stored as
    "F16": onnx.TensorProto.FLOAT16,
    "F32": onnx.TensorProto.FLOAT,
    "I16": onnx.TensorProto.INT16,
    "I32": onnx.TensorProto.INT32,
}
TRACED_CELLS = 3, 4  # rows and columns while a network is traced: any size but 1 will do


class Network(NamedTuple):
    """One ONNX file: a module, what stands for its inputs while it is traced, and their names."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    output: str
    prefix: str = ""  # of its weights' names in the model
    more_outputs: tuple[str, ...] = ()
    dynamic: dict[str, dict[int, Any]] | None = None  # input → its axes of any size; None: height and width
    like: str = ""  # a network before it that differs in its weights alone


class Features(nn.Module):
    """g_a or g_s, as it is named, without its last layer."""

    def __init__(self, name: str, network: Analysis | Synthesis):
        super().__init__()
        self.name = name
        self.add_module(name, network)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = getattr(self, self.name).features(x)
        return found


class OpenSynthesis(nn.Module):
    """g_s with its last layer as an input."""

    def __init__(self, g_s: Synthesis):
        super().__init__()
        self.g_s = g_s

    def forward(self, y_hat: Tensor, head_weight: Tensor, head_bias: Tensor) -> Tensor:
        head = self.g_s.head
        x_hat = F.conv2d(self.g_s.features(y_hat), head_weight, head_bias, padding=head.conv.padding)
        if self.g_s.in_integers:
            x_hat = x_hat.round().clamp(*LEVEL)
        return self.g_s.colours(F.pixel_shuffle(x_hat, head.ratio))


class LevelOfAnalysis(nn.Module):
    """A level of g_a, with its last layer or without."""

    def __init__(self, g_a: Analysis, number: int, *, ends: bool):
        super().__init__()
        self.g_a, self.number, self.ends = g_a, number, ends

    def forward(self, x: Tensor) -> Tensor:
        found = self.g_a.level(self.number, x)
        return self.g_a.head(found) if self.ends else found


class SegmentOf(nn.Module):
    """A segment of a specialist's g_s."""

    def __init__(self, g_s: Synthesis, segment: Segment):
        super().__init__()
        self.g_s, self.run = g_s, RunSegment(g_s, segment, unpadded)

    def forward(self, seen: Tensor, carried: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        found, carried = self.run(seen, carried)
        return found if carried is None else (found, carried)


class LastLayer(nn.Module):
    """That of g_s, as an input."""

    def forward(self, seen: Tensor, head_weight: Tensor, head_bias: Tensor) -> Tensor:
        return unpadded(seen, head_weight, head_bias)


def export(model: Model, directory: Path, *, only: Collection[str] | None = None) -> dict[str, Any]:
    """Write the files of a model, and return the manifest. only: the networks to write; None: all."""
    directory.mkdir(parents=True, exist_ok=True)
    architecture = model.codec.architecture
    files = {TENSORS: save(_tensors(model.directory / WEIGHTS))}
    every = networks(model.codec, features=BASIS in model.tables)
    wanted = [network for network in every if only is None or network.name in only]
    files |= {f"{network.name}.onnx": with_weights(program) for network, program in programs(wanted)}
    manifest = {
        "format_version": FORMAT_VERSION if architecture.specialists == 1 else OF_SPECIALISTS,
        "slimcodec_version": slimcodec.__version__,
        "model": model.directory.resolve().name,
        "weights_sha256": model.sha256,
        "opset": OPSET,
        "architecture": architecture.to_dict(),
        # Latents around its own that an element of y, or a pixel, depends on: what pieces of a big picture take along.
        "margins": {"g_a": analysis_margin(architecture), "g_s": synthesis_margin(architecture)},
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
        },
    }
    if architecture.specialists > 1:
        manifest["segments"] = [
            {"margin": segment.margin, "carries": segment.carries, "hands_on": segment.hands_on}
            for segment in segments(architecture)
        ]
    for name, data in files.items():
        atomic.write_bytes(directory / name, data)
    atomic.write_text(directory / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def networks(codec: HyperpriorCodec, *, features: bool) -> Iterator[Network]:
    """Those of a codec, on inputs of zeros. features: with g_s without its last layer, for several corrections."""
    architecture, zeros = codec.architecture, _zeros
    codec = packed(codec, FixedConv2d)
    head = codec.g_s.head.conv

    if architecture.specialists == 1:
        yield Network("g_a", codec.g_a, {"x": zeros(3, 1)}, "y", "g_a.")
    yield Network("h_a", codec.h_a, {"y": zeros(architecture.latents, 16)}, "z", "h_a.")
    yield Network("h_mean", codec.h_mean, {"z_hat": zeros(architecture.hypers, 64)}, "p", "h_mean.")
    for stage, _ in codec.stages():
        name, seen = f"context.{stage}", zeros(architecture.context_inputs(stage), 32)
        yield Network(name, codec.context[stage], {"features": seen}, "mu", f"{name}.")
    if architecture.specialists > 1:
        yield from _of_specialists(codec)
        return
    inputs = {"y_hat": zeros(architecture.latents, 16), "head_weight": head.weight, "head_bias": head.bias}
    yield Network("g_s", OpenSynthesis(codec.g_s), inputs, "x_hat")
    if features:
        yield Network("features", Features("g_s", codec.g_s), {"y_hat": inputs["y_hat"]}, "features")


def levels_of_analysis(codec: HyperpriorCodec) -> Iterator[Network]:
    """What runs where g_a passes big pictures level by level (codec/analysis)."""
    architecture, channels, scale = codec.architecture, 3, 1
    for number, level in enumerate(architecture.g_a):
        ends = number == len(architecture.g_a) - 1 and architecture.specialists == 1
        module = LevelOfAnalysis(codec.g_a, number, ends=ends)
        yield Network(f"g_a.{number}", module, {"x": _zeros(channels, scale)}, "found")
        channels, scale = level.channels, level.scale


def _of_specialists(codec: HyperpriorCodec) -> Iterator[Network]:
    architecture, head = codec.architecture, codec.g_s.head.conv
    yield Network("trunk", Features("g_a", codec.g_a), {"x": _zeros(3, 1)}, "features")
    some = torch.export.Dim("cells")
    for number in range(architecture.specialists):
        own, prefix = codec.specialist(number), f"specialists.{number}." if number else ""
        inputs = {"features": _zeros(architecture.g_a[-1].channels, 16)}
        of_any_size = {"features": {0: some, 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}}
        of_head = prefix + ("head." if number else "g_a.head.")
        like = "latents.0" if number else ""
        yield Network(f"latents.{number}", own.g_a.head, _several(inputs), "y", of_head, (), of_any_size, like)
        for place, segment, inputs in _fed_segments(own.g_s, architecture):
            outputs = ("handed_on",) if segment.hands_on else ()
            cells, like = (
                {name: {0: some if name == "seen" else torch.export.Dim.AUTO} for name in inputs},
                f"g_s.0.{place}" if number else "",
            )
            module = SegmentOf(own.g_s, segment)
            yield Network(f"g_s.{number}.{place}", module, inputs, "found", prefix, outputs, cells, like)
    last = architecture.g_s[-1]
    side, margin = CELL // last.scale, 2 * (architecture.head_kernel // 2)
    seen = torch.zeros(TRACED_CELLS[0], side + margin, side + margin, last.channels)
    inputs = {"seen": seen, "head_weight": head.weight, "head_bias": head.bias}
    yield Network("last_layer", LastLayer(), inputs, "blocks", dynamic={"seen": {0: some}})


def _several(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """More than one of each: an axis of one would be of one always."""
    return {name: values.expand(TRACED_CELLS[0], -1, -1, -1).clone() for name, values in inputs.items()}


@torch.no_grad()
def _fed_segments(g_s: Synthesis, architecture: Architecture) -> Iterator[tuple[int, Segment, dict[str, Tensor]]]:
    """The segments of a specialist's g_s, each with inputs of zeros."""
    found = torch.zeros(TRACED_CELLS[0], LATENTS, LATENTS, architecture.latents)
    carried: Tensor | None = None
    for place, segment in enumerate(segments(architecture)):
        adds_to = (found if carried is None else carried) if segment.carries else None
        seen = F.pad(found, (0, 0, *[segment.margin] * 4))
        yield place, segment, {"seen": seen} | ({} if adds_to is None else {"carried": adds_to})
        found, carried = RunSegment(g_s, segment)(seen, adds_to)


def _zeros(channels: int, scale: int) -> Tensor:
    rows, columns = (cells * CELL // scale for cells in TRACED_CELLS)
    return torch.zeros(1, channels, rows, columns)


def _tensors(path: Path) -> dict[str, np.ndarray]:
    return {name: tensor for name, tensor in load_file(path).items() if _is_kept(name)}


def _is_kept(name: str) -> bool:
    return name.startswith(KEPT) or any(part in name for part in KEPT_PARTS)


def traced(network: Network) -> bytes:
    """The bytes of an ONNX file with its weights."""
    return with_weights(program_of(network))


def with_weights(found: onnx.ModelProto) -> bytes:
    _halve(found.graph)
    onnx.checker.check_model(found, full_check=True)
    return found.SerializeToString()


def programs(wanted: Iterable[Network]) -> Iterator[tuple[Network, onnx.ModelProto]]:
    """Each with its program; those that are like another are not traced."""
    found: dict[str, bytes] = {}
    for network in wanted:
        if network.like in found:
            program = onnx.ModelProto.FromString(found[network.like])
            _fill(program.graph, network.module.state_dict())
        else:
            program = program_of(network)
            found[network.name] = program.SerializeToString()
        yield network, program


def _fill(graph: onnx.GraphProto, weights: Mapping[str, Tensor]) -> None:
    for tensor in graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].detach().numpy(), tensor.name))


def program_of(network: Network) -> onnx.ModelProto:
    axes = network.dynamic or {next(iter(network.inputs)): {2: "height", 3: "width"}}
    shapes = tuple(axes.get(name) for name in network.inputs)
    with torch.no_grad():
        program = torch.onnx.export(
            network.module.eval(),
            tuple(network.inputs.values()),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(network.inputs),
            output_names=[network.output, *network.more_outputs],
            dynamic_shapes=shapes,
        )
    assert program is not None  # as it goes into no file
    found = program.model_proto
    _forget_where_from(found)
    return found


def _forget_where_from(model: onnx.ModelProto) -> None:
    """Leave out what the exporter notes of the source and its place on this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
    del graph.value_info[:]


def _halve(graph: onnx.GraphProto) -> None:
    """Weights that float16 holds exactly become that, and a cast."""
    for tensor in list(graph.initializer):
        values = numpy_helper.to_array(tensor)
        half = values.astype(np.float16) if values.dtype == np.float32 and values.size > 1 else None
        if half is None or not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        graph.node.insert(0, onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))


# --- graphs in a model directory ------------------------------------------------------------------------------------


def add_graphs(directory: Path) -> None:
    """Give a model directory what codec/stored runs: a graph a network, whose weights are those that are there."""
    codec = models.load(directory).codec
    places, hashes = weight_places(directory / WEIGHTS), {}
    shifts = {name: t for name, t in load_file(directory / WEIGHTS).items() if name.endswith(".shift")}
    whole = [network for network in networks(codec, features=True) if not network.name.startswith(NOT_RUN)]
    for network, found in programs([*levels_of_analysis(codec), *whole]):
        refer_to_weights(found.graph, network.prefix, places, shifts)
        data = found.SerializeToString()
        atomic.write_bytes(directory / graph_file(network.name), data)
        hashes[network.name] = hashlib.sha256(data).hexdigest()
    info = read_description(directory)
    write_description(directory, directory.resolve().name, info | {GRAPHS: hashes})


class Place(NamedTuple):
    """Where a tensor is in a file."""

    kind: str  # as safetensors names it
    offset: int
    length: int


def weight_places(path: Path) -> dict[str, Place]:
    """Of the weights in a safetensors file: after eight bytes of length comes a header in JSON, then the tensors."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    found = {
        name: Place(entry["dtype"], 8 + length + begin, end - begin)
        for name, entry in header.items()
        for begin, end in [entry["data_offsets"]]
    }
    return {name: place for name, place in found.items() if place.kind in KINDS}


def refer_to_weights(
    graph: onnx.GraphProto, prefix: str, places: Mapping[str, Place], shifts: Mapping[str, np.ndarray]
) -> None:
    """Weights that are in the file are not in the graph: it says where they are. Halves are cast.

    shifts: of layers of integers, which are cast, and divided by 2^shift
    """
    for tensor in list(graph.initializer):
        place = places.get(prefix + tensor.name)
        if place is None or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        name, shape, kind = tensor.name, list(tensor.dims), KINDS[place.kind]
        stored = name if kind == onnx.TensorProto.FLOAT else f"{name}.half"
        tensor.CopyFrom(onnx.TensorProto(name=stored, dims=shape, data_type=kind))
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", WEIGHTS), ("offset", place.offset), ("length", place.length)):
            tensor.external_data.add(key=key, value=str(value))
        shift = shifts.get(f"{prefix}{name.rpartition('.')[0]}.shift")
        floats = name if shift is None else f"{name}.whole"
        if shift is not None:
            unit = np.ldexp(np.float32(1), -shift.astype(np.int64)).reshape(-1, *[1] * (len(shape) - 1))
            graph.initializer.append(numpy_helper.from_array(unit.astype(np.float32), f"{name}.unit"))
            graph.node.insert(0, onnx.helper.make_node("Mul", [floats, f"{name}.unit"], [name]))
        if stored != name:
            graph.node.insert(0, onnx.helper.make_node("Cast", [stored], [floats], to=onnx.TensorProto.FLOAT))
