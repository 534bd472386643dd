"""The networks in PyTorch: on any device, in mixed precision too, and differentiable for `codec/refine`."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from copy import copy, deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcodec import InvalidInput
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.fixed import FixedConv2d
from slimcodec.codec.grid import LATENT_SCALE, Window
from slimcodec.codec.layers import packed_order
from slimcodec.codec.network import HyperpriorCodec, Synthesis
from slimcodec.codec.networks import Grid, Head, Weights
from slimcodec.codec.quantise import Quantiser
from slimcodec.codec.regions import layer_weights, native
from slimcodec.codec.rows import ROWS_AT_ONCE, Rows, depthwise, in_raster_order
from slimcodec.codec.tiling import level_margins, seen_by_head

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


def automatic_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


class TorchNetworks:
    """Of a codec, which stays as it is. Raises InvalidInput for a device or precision that cannot be used."""

    def __init__(
        self,
        codec: HyperpriorCodec,
        tables: Mapping[str, np.ndarray],
        device: str | torch.device = "cpu",
        precision: str = "float32",
    ):
        if precision not in PRECISIONS:
            raise InvalidInput(f"precision {precision!r}: must be one of {', '.join(PRECISIONS)}")
        self.precision, self.precision_name = PRECISIONS[precision], precision
        self.architecture = codec.architecture
        try:
            self.device = torch.device(automatic_device() if device == "auto" else device)
            network = deepcopy(codec).eval().to(self.device).to(memory_format=torch.channels_last)
        except (RuntimeError, AssertionError) as error:
            raise InvalidInput(f"device {device}: cannot be used here ({str(error).splitlines()[0]})") from error
        self.codec = network.requires_grad_(False).pack()
        numbers = range(codec.architecture.specialists)
        self.specialists = [self.codec.specialist(k) for k in numbers]
        self.layers = [self._layers(codec.specialist(k).g_s) for k in numbers] if len(numbers) > 1 else []
        heads = [head_of(codec.specialist(k)) for k in numbers]
        self.head = heads[0] if len(heads) == 1 else _stacked(heads)
        self.rounding = Quantiser(tables, self.device)

    @property
    def description(self) -> str:
        return f"{self.precision_name} on {self.device}"

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    @property
    def threads(self) -> int:
        return torch.get_num_threads() if self.on_cpu else 1

    def inference(self) -> AbstractContextManager[object]:
        return torch.inference_mode()

    def native(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def numpy(self, values: Tensor) -> np.ndarray:
        return values.cpu().numpy()

    def levels(self, x: Tensor, pixels: np.ndarray) -> None:
        pixels[:] = self.numpy((x.permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8))

    def picture(self, pixels: np.ndarray) -> Tensor:
        # A picture's layout in memory is channels-last already.
        return torch.from_numpy(pixels).to(self.device).permute(2, 0, 1)[None].float().div_(255)

    def empty(self, channels: int, height: int, width: int) -> Tensor:
        shape = 1, channels, height, width
        return torch.empty(shape, dtype=torch.float32, device=self.device, memory_format=torch.channels_last)

    def g_a(self, level: int, x: Tensor) -> Tensor:
        g_a = self.codec.g_a
        ends = level == len(g_a.levels) - 1 and self.architecture.specialists == 1
        with self.autocast():
            found = g_a.level(level, _contiguous(x))
            return g_a.head(found) if ends else found

    def latents(self, specialist: int, features: Tensor) -> Tensor:
        with self.autocast():
            return self.specialists[specialist].g_a.head(features)

    def h_a(self, y: Tensor) -> Tensor:
        with self.autocast():
            return self.codec.h_a(y).float()

    def h_mean(self, z_hat: Tensor) -> Tensor:
        with self.autocast():
            return self.codec.h_mean(z_hat)

    def context(self, stage: int, features: list[Tensor]) -> Tensor:
        with self.autocast():
            return self.codec.context[stage](torch.cat(features, dim=1)).float()

    def features(self, y_hat: Tensor, seen: Window, piece: Window, grid: Window) -> tuple[Tensor, Window]:
        with self.autocast():
            features, at = self._trimmed(self.codec.g_s, grid).features(_contiguous(y_hat), seen, piece)
        return features.float(), at

    def rows(self, y_hat: Tensor, seen: Window, piece: Window, grid: Window) -> tuple[Tensor, Rows]:
        features, at = self.features(y_hat, seen, piece, grid)
        return in_raster_order(features, at, seen_by_head(self.architecture, piece, at))

    def whose(self, window: Window, side: int) -> None:
        return None

    def g_s(self, y_hat: Tensor, seen: Window, piece: Window, grid: Window, head: Head | None) -> Tensor:
        with self.autocast():
            return self._trimmed(self.with_head(head), grid)(_contiguous(y_hat), seen, piece).float()

    def alone(self, specialist: int) -> "TorchNetworks":
        found = copy(self)
        found.codec = self.specialists[specialist]
        return found

    @property
    def rows_at_once(self) -> int | None:
        return ROWS_AT_ONCE if self.on_cpu else None

    def _layers(self, g_s: Synthesis) -> dict[str, Weights]:
        tensors = {name: tensor.detach().cpu().numpy() for name, tensor in g_s.state_dict().items()}
        found = layer_weights(self.architecture, tensors)
        return {name: native(layer, self) for name, layer in found.items()}

    def linear(
        self,
        x: Tensor,
        layer: Weights,
        *,
        out: Tensor | None = None,
        relu: bool = False,
        added: Tensor | None = None,
        exact: bool = False,
    ) -> Tensor:
        if exact and self.architecture.in_integers and not self.on_cpu:  # which may compute with fractions
            found = torch.addmm(layer.bias.double(), x.double(), layer.weight.T.double()).float()
            return found if out is None else out.copy_(found)
        if torch.is_grad_enabled() or (self.precision and not exact):
            return self._linear(x, layer, out, relu, added)
        found = torch.addmm(layer.bias, x, layer.weight.T, out=out)
        if added is not None:
            found.add_(added)
        return found.relu_() if relu else found

    def _linear(self, x: Tensor, layer: Weights, out: Tensor | None, relu: bool, added: Tensor | None) -> Tensor:
        """In mixed precision, and differentiable."""
        with self.autocast():
            found = F.linear(x, layer.weight, layer.bias)
        found = found if added is None else found + added
        found = F.relu(found) if relu else found
        return found if out is None else out.copy_(found)

    def depthwise(self, x: Tensor, around: np.ndarray, layer: Weights, *, out: Tensor | None = None) -> Tensor:
        if self.on_cpu and not torch.is_grad_enabled():
            arrays = Weights(layer.weight.numpy(), layer.bias.numpy())
            return torch.from_numpy(depthwise(x.numpy(), around, arrays, None if out is None else out.numpy()))
        padded, (taps, _) = F.pad(x, (0, 0, 0, 1)), layer.weight.shape
        numbers = torch.from_numpy(around).to(self.device)
        seen = (padded.index_select(0, numbers[:, tap]) * layer.weight[tap] for tap in range(taps))
        found = F.relu(sum(seen, start=layer.bias))
        return found if out is None else out.copy_(found)

    def _trimmed(self, g_s: Synthesis, grid: Window) -> "Trimmed":
        return Trimmed(g_s, self.architecture, grid)

    def with_head(self, head: Head | None) -> Synthesis:
        """g_s with another last layer."""
        own = self.codec.g_s
        if head is None:
            return own
        conv = copy(own.head.conv)
        order = packed_order(conv.out_channels, own.head.ratio)
        conv._parameters = {
            name: torch.nn.Parameter(torch.from_numpy(values)[order].to(self.device), requires_grad=False)
            for name, values in (("weight", head.weight), ("bias", head.bias))
        }
        layer, g_s = copy(own.head), copy(own)
        layer._modules = own.head._modules | {"conv": conv}
        g_s._modules = own._modules | {"head": layer}
        return g_s

    def autocast(self) -> torch.autocast:
        enabled = self.precision is not None
        return torch.autocast(self.device.type, dtype=self.precision or torch.bfloat16, enabled=enabled)


@torch.no_grad()
def head_of(codec: HyperpriorCodec) -> Head:
    conv: nn.Module = codec.g_s.head.conv
    if isinstance(conv, FixedConv2d):
        grid = Grid(conv.shift.cpu().numpy().astype(np.int64), conv.limits.cpu().numpy())
        weight, bias = conv.scaled()
        return Head(weight.cpu().numpy(), bias.cpu().numpy(), grid)
    weight, bias = conv.parameters()
    return Head(weight.detach().cpu().numpy(), bias.detach().cpu().numpy())


def _stacked(heads: list[Head]) -> Head:
    return Head(np.stack([head.weight for head in heads]), np.stack([head.bias for head in heads]))


def _contiguous(y_hat: Tensor) -> Tensor:
    return y_hat.contiguous(memory_format=torch.channels_last)


class Trimmed:
    """Runs g_s on a piece of the latents and cuts each level's margin off as soon as it has served.

    `grid`: all latents of the picture.
    """

    def __init__(self, g_s: Synthesis, architecture: Architecture, grid: Window):
        self.g_s, self.grid = g_s, grid
        self.factors = [LATENT_SCALE // level.scale for level in architecture.g_s]
        self.margins = level_margins(architecture)

    def __call__(self, y_hat: Tensor, seen: Window, piece: Window) -> Tensor:
        """y_hat [1, M, h, w] of the window `seen` → x_hat [1, 3, 16·h', 16·w'] of the piece within."""
        x_hat, at = self.g_s(y_hat, self._trim(seen, piece)), self._left(piece, -1)
        scale = LATENT_SCALE // self.factors[-1]
        return x_hat[:, :, *piece.finer(LATENT_SCALE).seen_from(at.finer(scale)).slices]

    def features(self, y_hat: Tensor, seen: Window, piece: Window) -> tuple[Tensor, Window]:
        """What the head sees of a piece, and which window of its grid that is."""
        return self.g_s.features(y_hat, self._trim(seen, piece)), self._left(piece, -1)

    def _trim(self, seen: Window, piece: Window) -> Callable[[int, Tensor], Tensor]:
        at = seen  # what x covers, on the grid of the level before

        def trim(number: int, x: Tensor) -> Tensor:
            nonlocal at
            factor, before = self.factors[number], self.factors[max(0, number - 1)]
            found = at.finer(factor // before)
            at = self._left(piece, number)
            return x[:, :, *at.seen_from(found).slices]

        return trim

    def _left(self, piece: Window, number: int) -> Window:
        """What of a level's result is kept for a piece."""
        factor = self.factors[number]
        return piece.finer(factor).grown(self.margins[number], self.grid.finer(factor))
