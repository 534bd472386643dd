"""The networks in ONNX Runtime, on the CPU in float32: an import of a fifth of a second instead of two."""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from slimcodec import InvalidModel
from slimcodec.codec import batch, native
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.grid import LATENT_SCALE, Window, whole
from slimcodec.codec.networks import Head, Weights
from slimcodec.codec.rounding import Rounding
from slimcodec.codec.rows import ROWS_AT_ONCE, Rows, depthwise, in_raster_order
from slimcodec.codec.tiling import seen_by_head
from slimcodec.codec.zoo import graph_file

Layers: TypeAlias = Sequence[Mapping[str, Weights]]  # as Networks has them
LEVEL_ROWS = 32  # that become levels at a time


class OnnxNetworks:
    """Of the graphs in a model directory. Each is opened when it is first run: a decoder needs no encoder."""

    device, precision, rows_at_once = "cpu", None, ROWS_AT_ONCE

    def __init__(
        self, directory: Path, architecture: Architecture, head: Head, layers: Layers, tables: Mapping[str, np.ndarray]
    ):
        self.directory, self.architecture, self.head, self.layers = directory, architecture, head, layers
        self.rounding = Rounding(tables, lambda values: values)
        self._sessions: dict[tuple[int, int, str], Any] = {}

    @property
    def description(self) -> str:
        return "ONNX Runtime"

    @property
    def on_cpu(self) -> bool:
        return True

    @property
    def threads(self) -> int:
        return batch.threads()

    def inference(self) -> AbstractContextManager[object]:
        return nullcontext()

    def native(self, values: np.ndarray) -> np.ndarray:
        return values

    def numpy(self, values: np.ndarray) -> np.ndarray:
        return values

    def levels(self, x: np.ndarray, pixels: np.ndarray) -> None:
        """In strips, which stay in the cache, and in the order that x has in memory."""
        planar = x.strides[0] > x.strides[-1]
        for rows in whole(pixels.shape[:2]).strips(LEVEL_ROWS):
            strip = x[:, rows.top : rows.bottom]
            strip = np.ascontiguousarray(strip if planar else strip.transpose(1, 2, 0))
            levels = np.empty(strip.shape, np.uint8)
            native.call("levels", strip, levels, strip.size)
            if planar:
                for colour, values in enumerate(levels):
                    pixels[rows.top : rows.bottom, :, colour] = values
            else:
                pixels[rows.top : rows.bottom] = levels

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        x = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)
        return np.divide(x, np.float32(255), out=x)

    def empty(self, channels: int, height: int, width: int) -> np.ndarray:
        return np.empty((1, channels, height, width), np.float32)

    def g_a(self, level: int, x: np.ndarray) -> np.ndarray:
        return self._run(f"g_a.{level}", "found", x=x)

    def h_a(self, y: np.ndarray) -> np.ndarray:
        return self._run("h_a", "z", y=y)

    def h_mean(self, z_hat: np.ndarray) -> np.ndarray:
        return self._run("h_mean", "p", z_hat=z_hat)

    def context(self, stage: int, features: list[np.ndarray]) -> np.ndarray:
        return self._run(f"context.{stage}", "mu", features=np.concatenate(features, axis=1))

    def features(self, y_hat: np.ndarray, seen: Window, piece: Window, grid: Window) -> tuple[np.ndarray, Window]:
        scale = LATENT_SCALE // self.architecture.g_s[-1].scale
        return self._run("features", "features", y_hat=y_hat), seen.finer(scale)

    def rows(self, y_hat: np.ndarray, seen: Window, piece: Window, grid: Window) -> tuple[np.ndarray, Rows]:
        features, at = self.features(y_hat, seen, piece, grid)
        return in_raster_order(features, at, seen_by_head(self.architecture, piece, at))

    def whose(self, window: Window, side: int) -> None:
        return None

    def g_s(self, y_hat: np.ndarray, seen: Window, piece: Window, grid: Window, head: Head | None) -> np.ndarray:
        weight, bias, _ = head or self.head
        x_hat = self._run("g_s", "x_hat", y_hat=y_hat, head_weight=weight, head_bias=bias)
        return x_hat[:, :, *piece.seen_from(seen).finer(LATENT_SCALE).slices]

    def latents(self, specialist: int, features: np.ndarray) -> np.ndarray:
        return self._run(f"latents.{specialist}", "y", features=features)

    def alone(self, specialist: int) -> None:
        return None

    def linear(
        self,
        x: np.ndarray,
        layer: Weights,
        *,
        out: np.ndarray | None = None,
        relu: bool = False,
        added: np.ndarray | None = None,
        exact: bool = False,
    ) -> np.ndarray:
        found: np.ndarray = np.matmul(x, layer.weight.T, out=out)
        nothing = np.empty((0, 0), np.float32)
        adds = nothing if added is None else added
        native.call("finish", found, *found.shape, layer.bias, adds, added is not None, relu)
        return found

    def depthwise(
        self, x: np.ndarray, around: np.ndarray, layer: Weights, *, out: np.ndarray | None = None
    ) -> np.ndarray:
        return depthwise(x, around, layer, out)

    def _run(self, name: str, output: str, **inputs: np.ndarray) -> np.ndarray:
        (found,) = self._run_all(name, [output], **inputs)
        return found

    def _run_all(self, name: str, outputs: list[str] | None, **inputs: np.ndarray) -> list[np.ndarray]:
        fed = {key: np.ascontiguousarray(values, np.float32) for key, values in inputs.items()}
        found: list[np.ndarray] = self._session(name).run(outputs, fed)
        return found

    def _session(self, name: str) -> Any:
        """One a process, as threads do not survive a fork, and one for every number of threads."""
        key = os.getpid(), self.threads, name
        if key not in self._sessions:
            self._sessions[key] = _open(self.directory / graph_file(name), self.threads)
        return self._sessions[key]


def _open(path: Path, intra_op_threads: int) -> Any:
    # From 1.29 on it tells its makers what models are run, unless it is told not to before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors, which are raised as well
    options.intra_op_num_threads = intra_op_threads
    # Its arena would keep what windows of any size have needed, a quarter of the peak, and is hardly faster.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other work needs the cores
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of its own kinds, which have no common name
        raise InvalidModel(f"{path}: ONNX Runtime cannot use it ({str(error).splitlines()[0]})") from error
