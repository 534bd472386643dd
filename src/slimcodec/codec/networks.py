"""What runs a model's networks: PyTorch (codec/torch_networks) or ONNX Runtime (codec/onnx_networks).

Arrays are the backend's own. Everything else about a file is the same for both, integers above all.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np

from slimcodec.codec.architecture import Architecture
from slimcodec.codec.grid import Window
from slimcodec.codec.rounding import Array, Rounding


class Grid(NamedTuple):
    """Of which numbers a head of integers is made, and what keeps its sums below 2^24."""

    shift: np.ndarray  # int64 [3·ratio²]: weights and biases are multiples of 2^-shift
    limit: np.ndarray  # float64 [C]: |features| at most


class Head(NamedTuple):
    """g_s's last layer, in the order in which models hold it: outputs c·ratio² … make colour c.

    They are colours less the middle grey, where 1 is white; in a decoder of integers levels less 128.
    """

    weight: np.ndarray  # float32 [3·ratio², C, k, k]; with specialists [K, 3·ratio², C, k, k]
    bias: np.ndarray  # float32 [3·ratio²]; with specialists [K, 3·ratio²]
    grid: Grid | None = None  # of a decoder of integers


class Weights(NamedTuple):
    """A layer's, as codec/regions multiplies rows by them."""

    weight: Array  # float32 [outputs, kernel² · inputs]; of a depthwise layer [kernel², channels]
    bias: Array  # float32 [outputs]


class Synthesis(Protocol):
    """g_s: a model's only one, or that of codec/regions. y_hat is of the window `seen`, all windows are of latents."""

    def features(self, y_hat: Array, seen: Window, piece: Window, grid: Window) -> tuple[Array, Window]:
        """What g_s's head sees of a piece, and which window of its own grid that is. `grid`: the whole picture's."""

    def rows(self, y_hat: Array, seen: Window, piece: Window, grid: Window) -> tuple[Array, Any]:
        """What it sees as rows [n, C], and which these are: codec/rows.Rows."""

    def g_s(self, y_hat: Array, seen: Window, piece: Window, grid: Window, head: Head | None) -> Array:
        """y_hat → x_hat [1, 3, 16·h', 16·w'] of the piece within. `head`: in place of its own."""

    def whose(self, window: Window, side: int) -> np.ndarray | None:
        """The specialist of every element of a window, cells of `side` elements; None where there is but one."""


class Networks(Synthesis, Protocol):
    """Networks take and give float32 arrays [1, C, h, w]. Those of a model of specialists are of the first, if nothing
    else is said."""

    @property
    def architecture(self) -> Architecture: ...

    @property
    def head(self) -> Head: ...

    @property
    def rounding(self) -> Rounding: ...

    @property
    def description(self) -> str:
        """What runs them, in words."""

    @property
    def device(self) -> Any: ...

    @property
    def precision(self) -> Any:
        """Of mixed precision; None for float32."""

    @property
    def on_cpu(self) -> bool: ...

    @property
    def threads(self) -> int:
        """That the thread which asks may compute with."""

    def inference(self) -> AbstractContextManager[object]:
        """Around everything that is not to be differentiated."""

    def native(self, values: np.ndarray) -> Array:
        """An array of the backend's own."""

    def numpy(self, values: Array) -> np.ndarray:
        """The inverse of `native`."""

    def levels(self, x: Array, pixels: np.ndarray) -> None:
        """[3, h, w] in [0, 1] → the uint8 [h, w, 3] that are given."""

    def picture(self, pixels: np.ndarray) -> Array:
        """uint8 [h, w, 3] → [1, 3, h, w] in [0, 1]."""

    def empty(self, channels: int, height: int, width: int) -> Array:
        """Room for [1, C, h, w], in the memory order that the networks like."""

    def g_a(self, level: int, x: Array) -> Array:
        """What a level makes of what the one before gave; the first is given the picture.

        The last one gives y. With specialists it gives what `latents` is given: it is the same for all.
        """

    def h_a(self, y: Array) -> Array: ...

    def h_mean(self, z_hat: Array) -> Array: ...

    def context(self, stage: int, features: list[Array]) -> Array:
        """p and the planes before, [1, …, h, w] each → mu of the stage's planes, [1, n·M, h, w]."""

    # Of models with specialists.

    def latents(self, specialist: int, features: Array) -> Array:
        """What the last level of g_a gave → y, [1, M, h, w]."""

    def alone(self, specialist: int) -> Synthesis | None:
        """g_s of one specialist for whole pieces, if that is faster than segments."""

    @property
    def rows_at_once(self) -> int | None:
        """That pass several layers while they are in a cache; None: all."""

    @property
    def layers(self) -> Sequence[Mapping[str, Weights]]:
        """Of every specialist's g_s, by name; the last one is `head`."""

    def linear(
        self,
        x: Array,
        layer: Weights,
        *,
        out: Array | None = None,
        relu: bool = False,
        added: Array | None = None,
        exact: bool = False,
    ) -> Array:
        """Rows [n, kernel² · inputs] → [n, outputs], into `out` if that is given; then a ReLU, or `added` is added.

        exact: in float32 where others are in mixed precision.
        """

    def depthwise(self, x: Array, around: np.ndarray, layer: Weights, *, out: Array | None = None) -> Array:
        """Rows [m, C], and which of them some rows see, int32 [n, 9], where m is none → [n, C] with a ReLU."""
