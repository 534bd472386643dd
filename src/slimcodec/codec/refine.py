"""Semi-amortised encoding: one picture's latents are refined by gradient descent on what its own file costs.

The decoder is untouched. After Yang, Bamler and Mandt, "Improving Inference for Neural Image Compression" (NeurIPS
2020), but without noise and temperature: every residual is a smooth mixture of the two integers around it, and one
after the other, in a random order, is decided, so that those still free make up for its error. z stays as it is, and
with it the scale of every residual.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

import slimcodec
from slimcodec import InvalidInput
from slimcodec.codec import dependent
from slimcodec.codec.costs import error_bits
from slimcodec.codec.grid import CELL, LATENTS, PLANE_CELLS, Window, whole
from slimcodec.codec.network import from_planes, to_planes
from slimcodec.codec.pictures import LazyPixels
from slimcodec.codec.quantise import Quantiser
from slimcodec.codec.regions import Regions
from slimcodec.codec.torch_networks import TorchNetworks
from slimcodec.codec.transforms import Transforms

LEARNING_RATE = 0.1  # quantisation steps; divided by √steps
FREE = 0.2  # of the steps: none is decided before
# Cells: a big picture is refined in pieces, each with its surroundings. The g_s of slim-2k sees 48 pixels around, less
# than a cell.
TILE, MARGIN = 16, 1


def refine(
    transforms: Transforms,
    pixels: np.ndarray | LazyPixels,
    y: Tensor,
    z_hat: Tensor,
    fixed_quality: int,
    tile: int,
    steps: int,
    tell: Callable[[int, int], None],
) -> Tensor:
    """y [1, M, h, w] → y that costs less bits and errors together, once it is quantised; shapes as `Transforms.code`.

    tell(done, of) is called after every step. A piece that does not gain stays as it was. Its residuals
    are to be chosen as `refined` ones.
    """
    z = transforms.networks.numpy(z_hat)[0].astype(np.int8)
    index = transforms.networks.native(transforms.coder.scale_index(z, fixed_quality, tile))[None]
    refined = y.clone()
    grid = whole(z.shape[1:])
    pieces = grid.even_tiles(TILE)
    for number, piece in enumerate(pieces):
        seen = piece.grown(MARGIN, grid)
        task = _Piece(transforms, pixels, y, z_hat, index, fixed_quality, seen)
        better = task.refined(steps, partial(_tell_piece, tell, number, len(pieces), steps))
        inner, place = piece.seen_from(seen).finer(LATENTS), piece.finer(LATENTS)
        refined[:, :, *place.slices] = better[:, :, *inner.slices]
    return refined


def _tell_piece(tell: Callable[[int, int], None], number: int, pieces: int, steps: int, step: int) -> None:
    tell(number * steps + step, pieces * steps)


class _Piece:
    """A window of cells as a picture of its own."""

    def __init__(
        self,
        transforms: Transforms,
        pixels: np.ndarray | LazyPixels,
        y: Tensor,
        z_hat: Tensor,
        index: Tensor,
        fixed_quality: int,
        window: Window,
    ):
        assert isinstance(transforms.networks, TorchNetworks)  # no others have gradients
        self.network, self.quantiser = transforms.networks.codec, transforms.networks.rounding
        at_16, at_32 = window.finer(LATENTS), window.finer(PLANE_CELLS)
        # Clones, because tensors made in inference mode cannot take part in differentiation.
        self.y = y[:, :, *at_16.slices].clone()
        self.z_hat = z_hat[:, :, *window.slices].clone()
        self.index = index[:, :, :, *at_32.slices].clone()
        self.gain = transforms.gain(fixed_quality)[:, None].clone()
        area = window.finer(CELL).grown(0, whole(pixels.shape[:2]))  # what is padding costs nothing
        self.x = transforms.padded(pixels, area).clone()
        regions = transforms.synthesis
        self.g_s = regions.alone(window) if isinstance(regions, Regions) else self.network.g_s
        self.error_bits = error_bits(self.network.architecture.quality_ladder, fixed_quality)

    def refined(self, steps: int, tell: Callable[[int], None]) -> Tensor:
        """y that costs less, or y."""
        start = to_planes(self.y) * self.gain
        find = self._by_paths if self.quantiser.dependent else self._by_mixtures
        u = find(start, steps, tell)
        return from_planes(u / self.gain) if self.cost(u) < self.cost(start) else self.y

    def _by_paths(self, start: Tensor, steps: int, tell: Callable[[int], None]) -> Tensor:
        """Targets of which paths were found part by part, while those still free made up for their errors."""
        u = start.clone().requires_grad_()
        paths, optimizer = _Paths(self, u), _Adam([u])
        for step in range(steps):
            while paths.decided < step * len(paths.parts) // steps:
                paths.decide()
            with _mixed_precision(self.y.device):
                x_hat = self.synthesised(paths.y_hat())
            self._descend(optimizer, x_hat, step / steps, steps)
            tell(step + 1)
        return paths.targets()

    def _by_mixtures(self, start: Tensor, steps: int, tell: Callable[[int], None]) -> Tensor:
        """Targets that became integers one after the other."""
        generator = torch.Generator(start.device).manual_seed(0)  # the same file every time
        stages = [_Stage(self, planes, start, generator) for _, planes in self.network.stages()]
        optimizer = _Adam([stage.u for stage in stages])
        for step in range(steps):
            x_hat = self.x_hat(stages, decided=(step / steps - FREE) / (1 - FREE))
            # The gradient of the squared error; that of the bits comes in where the residuals are made.
            self._descend(optimizer, x_hat, step / steps, steps)
            tell(step + 1)
        u = torch.empty_like(start)
        for (_, planes), stage in zip(self.network.stages(), stages, strict=True):
            u[:, planes] = stage.u.detach()
        return u

    def _descend(self, optimizer: "_Adam", x_hat: Tensor, done: float, steps: int) -> None:
        _backward(x_hat, (x_hat.detach() - self.x).mul_(2 * self.error_bits))
        optimizer.step(LEARNING_RATE * steps**-0.5 * (1 - done))

    def x_hat(self, stages: list["_Stage"], decided: float) -> Tensor:
        """The picture of latents on their way, of whose residuals that share is decided."""
        with _mixed_precision(self.y.device):
            features, y_hat = [self.network.h_mean(self.z_hat)], []
            for stage, _ in self.network.stages():
                mu = self.network.means(stage, features)
                y_hat.append(self.network.latent(mu + stages[stage].residual(mu, decided) / self.gain))
                features.append(y_hat[-1].flatten(1, 2))
            return self.synthesised(torch.stack(self.network.in_order(y_hat), dim=1))

    def synthesised(self, y_hat: Tensor) -> Tensor:
        """y_hat in planes → x_hat, less the padding."""
        x_hat = self.g_s(from_planes(y_hat))
        return x_hat[:, :, : self.x.shape[2], : self.x.shape[3]]

    @torch.no_grad()
    def cost(self, u: Tensor) -> float:
        """Bits plus what the squared error counts for, of the whole piece, as a file has it. u: y·gain in planes."""
        y_hat, bits = self.as_in_a_file(u)
        return float(bits + self.error_bits * (self.synthesised(y_hat) - self.x).square().sum())

    @torch.no_grad()
    def as_in_a_file(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """u = y·gain in planes → y_hat in planes, and what coding it costs, in bits."""
        quantiser, paths = self.quantiser, dependent.start(self.z_hat.shape[2:])
        features, y_hat, bits = [self.network.h_mean(self.z_hat)], [], []
        for stage, planes in self.network.stages():
            mu = self.network.means(stage, features)
            exact = u[:, planes] - mu * self.gain
            r, table = quantiser.coded(exact, self.index[:, planes], paths, refined=True)
            bits.append(quantiser.bits(r, table).sum())
            y_hat.append(self.network.latent(mu + quantiser.reconstruct(r, table) / self.gain))
            features.append(y_hat[-1].flatten(1, 2))
        return torch.stack(self.network.in_order(y_hat), dim=1), torch.stack(bits).sum()


class _Adam:
    """Like torch.optim.Adam, which imports PyTorch's compiler: more than a second, for three steps.

    Little momentum: it would carry residuals off that are decided.
    """

    def __init__(self, parameters: list[Tensor]):
        self.parameters = parameters
        self.means, self.squares = ([torch.zeros_like(p, requires_grad=False) for p in parameters] for _ in range(2))
        self.steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in parameters]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Take the gradients, and leave none."""
        adam(
            self.parameters,
            [parameter.grad for parameter in self.parameters if parameter.grad is not None],
            self.means,
            self.squares,
            [],
            self.steps,
            fused=True,
            amsgrad=False,
            beta1=0.3,
            beta2=0.9,
            lr=learning_rate,
            weight_decay=0,
            eps=1e-8,
            maximize=False,
        )
        for parameter in self.parameters:
            parameter.grad = None


class _Paths:
    """Latents u = y·gain in planes, [1, 4, M, h, w], of which more and more are where a path leads.

    A part is half of the channels of a stage: other channels of the same place make up for errors best. On a crop of
    cid22-validation effort 3 lowered the cost by 0.4 % at quality 2, with whole stages by 0.1 %, with quarters no more.
    """

    def __init__(self, piece: _Piece, u: Tensor):
        self.piece, self.u = piece, u
        self.target, self.on_path = u.detach().clone(), torch.zeros_like(u, requires_grad=False)
        self.free = torch.ones(*u.shape[:3], 1, 1, dtype=torch.bool, device=u.device)
        self.paths = dependent.start(piece.z_hat.shape[2:])
        self.features, self.decided = [piece.network.h_mean(piece.z_hat)], 0
        halves = slice(0, u.shape[2] // 2), slice(u.shape[2] // 2, u.shape[2])
        self.parts = [(stage, planes, half) for stage, planes in piece.network.stages() for half in halves]

    def y_hat(self) -> Tensor:
        return self.piece.network.latent(torch.where(self.free, self.u, self.on_path) / self.piece.gain)

    def targets(self) -> Tensor:
        return torch.where(self.free, self.u.detach(), self.target)

    @torch.no_grad()
    def decide(self) -> None:
        """The next part."""
        piece, (stage, planes, half) = self.piece, self.parts[self.decided]
        mu = (piece.network.means(stage, self.features) * piece.gain)[:, :, half]
        target = self.u[:, planes, half]
        r, table = piece.quantiser.coded(target - mu, piece.index[:, planes, half], self.paths)
        self.target[:, planes, half], self.on_path[:, planes, half] = target, mu + piece.quantiser.reconstruct(r, table)
        self.free[:, planes, half] = False
        if half.stop == self.u.shape[2]:  # the stage is complete
            self.features.append(piece.network.latent(self.on_path[:, planes] / piece.gain).flatten(1, 2))
        self.decided += 1


class _Stage:
    """The latents of one stage's planes, u = y·gain [1, n, M, h, w], in the memory order that convolutions like."""

    def __init__(self, piece: _Piece, planes: list[int], u: Tensor, generator: torch.Generator):
        self.quantiser, self.gain = piece.quantiser, piece.gain
        self.u = _channels_last(u[:, planes]).requires_grad_(True)
        self.index = _channels_last(piece.index[:, planes].long())
        self.turn = _channels_last(torch.rand(self.u.shape, generator=generator, dtype=u.dtype, device=u.device))

    def residual(self, mu: Tensor, decided: float) -> Tensor:
        """What the decoder adds to mu, in quantisation steps; `decided`: the share of integers among them."""
        return _Round.apply(self.u - mu * self.gain, self.index, self.turn < decided, self.quantiser)


class _Round(torch.autograd.Function):
    """Exact residuals → what a decoder makes of them. Decided ones are the file's integers and get no gradient.

    Between two integers, the others rise along a smoothstep. The bits, which rise with them, are in no loss: their
    gradient is added to the one that comes back.
    """

    @staticmethod
    def forward(context: Any, exact: Tensor, index: Tensor, decided: Tensor, quantiser: Quantiser) -> Tensor:
        skipped = index < quantiser.skip
        lower = exact.floor()
        fraction = exact - lower
        context.save_for_backward(
            (fraction * (1 - fraction)).mul_(6).masked_fill_(decided | skipped, 0), quantiser.rise(lower, index)
        )
        mixture = lower.add_(fraction.square().mul_(3 - 2 * fraction)).masked_fill_(skipped, 0)
        chosen = quantiser.choose(exact, index, refined=True)
        return quantiser.reconstruct(torch.where(decided, chosen, mixture), index)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        slope, rise = context.saved_tensors
        return (gradient + rise) * slope, None, None, None


def _backward(x_hat: Tensor, gradient: Tensor) -> None:
    """Raises InvalidInput where PyTorch cannot: it has threads of its own for this on machines with a GPU."""
    try:
        x_hat.backward(gradient.to(x_hat.dtype))
    except RuntimeError as error:
        if slimcodec.forked and "fork" in str(error):
            raise InvalidInput(
                "effort: cannot be more than 0 in a process that was forked after its parent used effort; "
                "start processes by multiprocessing's 'spawn'"
            ) from error
        raise


def _channels_last(planes: Tensor) -> Tensor:
    """A copy of [1, n, M, h, w] whose memory is in the order h, w, n, M."""
    return planes.permute(0, 3, 4, 1, 2).clone(memory_format=torch.contiguous_format).permute(0, 3, 4, 1, 2)


def _mixed_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where a CPU multiplies it in hardware: steps are a third faster, and gain the same."""
    enabled = device.type == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
