"""Semi-amortised encoding: one picture's latents are refined by gradient descent on what its own file costs.

The decoder is untouched. After Yang, Bamler and Mandt, "Improving Inference for Neural Image Compression" (NeurIPS
2020), but without noise and temperature: every residual is a smooth mixture of the two integers around it, and one
after the other, in a random order, is decided, so that those still free make up for its error. z stays as it is, and
with it the scale of every residual.
"""

import numpy as np
import torch
from torch import Tensor

import slimcodec
from slimcodec import InvalidInput
from slimcodec.codec.network import ALIGNMENT, QUALITY_ONE, from_planes, to_planes
from slimcodec.codec.tiling import LATENTS, PLANE_CELLS, Window, whole

# Gradient steps for effort 0…10. On 256² crops of four pictures of cid22-validation, qualities 1, 3, 5 and 7, the
# BD-rate against effort 0 is -1.1 % after 3, -1.7 % after 10, -1.8 % after 20, -1.9 % after 30, and the same after 100.
# 90 steps with noise and a falling temperature gained 1.5 %, 20 nothing; constants found on the same crops.
STEPS = (0, 3, 5, 7, 10, 14, 20, 26, 32, 40, 50)
LEARNING_RATE = 0.1  # quantisation steps; divided by √steps
FREE = 0.2  # of the steps: none is decided before
# What a squared error costs, in the ladder's lmbda: along the curve of bits over squared error it is 1.1 to 1.5. At 1,
# the same gain in cost lowered the qualities further and the BD-rate less.
ERROR_WEIGHT = 1.3
# Cells: a big picture is refined in pieces, each with its surroundings. The g_s of slim-2k sees 48 pixels around, less
# than a cell.
TILE, MARGIN = 16, 1


def refine(
    codec, pixels: np.ndarray, y: Tensor, z_hat: Tensor, fixed_quality: int, tile: int, steps: int, tell
) -> Tensor:
    """y [1, M, h, w] → y that costs less bits and errors together, once it is quantised; shapes as `Codec.quantise`.

    tell(done, of) is called after every step. A piece that does not gain stays as it was.
    """
    z = z_hat[0].to("cpu", torch.int8).numpy()
    index = torch.from_numpy(codec.coder.scale_index(z, fixed_quality, tile))[None].to(codec.device)
    refined = y.clone()
    grid = whole(z.shape[1:])
    pieces = grid.even_tiles(TILE)
    for number, piece in enumerate(pieces):
        seen = piece.grown(MARGIN, grid)
        task = _Piece(codec, pixels, y, z_hat, index, fixed_quality, seen)
        better = task.refined(steps, lambda step, number=number: tell(number * steps + step, len(pieces) * steps))
        inner, place = piece.seen_from(seen).finer(LATENTS), piece.finer(LATENTS)
        refined[:, :, *place.slices] = better[:, :, *inner.slices]
    return refined


class _Piece:
    """A window of cells as a picture of its own."""

    def __init__(self, codec, pixels, y, z_hat, index, fixed_quality: int, window: Window):
        self.codec = codec
        at_16, at_32 = window.finer(LATENTS), window.finer(PLANE_CELLS)
        # Clones, because tensors made in inference mode cannot take part in differentiation.
        self.y = y[:, :, *at_16.slices].clone()
        self.z_hat = z_hat[:, :, *window.slices].clone()
        self.index = index[:, :, :, *at_32.slices].clone()
        self.gain = codec.gain(fixed_quality).clone()
        area = window.finer(ALIGNMENT).grown(0, whole(pixels.shape[:2]))  # what is padding costs nothing
        self.x = codec.padded(pixels, area).clone()
        self.error_bits = ERROR_WEIGHT * 255**2 / 3 * lmbda_at(codec.network.architecture.quality_ladder, fixed_quality)

    def refined(self, steps: int, tell) -> Tensor:
        plane_gain = self.gain[:, None, :, None, None]
        start = to_planes(self.y) * plane_gain
        generator = torch.Generator(start.device).manual_seed(0)  # the same file every time
        stages = {planes: _Stage(self, planes, start, generator) for planes in self.codec.network.architecture.stages}
        # Little momentum: it would carry residuals off that are decided.
        optimizer = torch.optim.Adam([stage.u for stage in stages.values()], betas=(0.3, 0.9), fused=True)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * steps**-0.5 * (1 - step / steps)
            with _mixed_precision(self.codec.device):
                decided = (step / steps - FREE) / (1 - FREE)
                x_hat = self.decoded(lambda planes, mu, decided=decided: stages[tuple(planes)].residual(mu, decided))
            # The gradient of the squared error; that of the bits comes in where the residuals are made.
            gradient = (x_hat.detach() - self.x).mul_(2 * self.error_bits)
            _backward(x_hat, gradient)
            optimizer.step()
            optimizer.zero_grad()
            tell(step + 1)
        u = torch.empty_like(start)
        for planes, stage in stages.items():
            u[:, planes] = stage.u.detach()
        return from_planes(u / plane_gain) if self.cost(u) < self.cost(start) else self.y

    def decoded(self, residual) -> Tensor:
        """x_hat, less the padding; `residual` as for `HyperpriorCodec.decode_stages`."""
        y_hat, _ = self.codec.network.decode_stages(self.z_hat, self.gain, residual)
        x_hat = self.codec.network.g_s(from_planes(torch.stack(y_hat, dim=1)))
        return x_hat[:, :, : self.x.shape[2], : self.x.shape[3]]

    @torch.no_grad()
    def cost(self, u: Tensor) -> float:
        """Bits plus what the squared error counts for, of the whole piece, as a file has it. u: y·gain in planes."""
        quantiser = self.codec.quantiser
        bits = []

        def residual(chosen: list[int], mu: Tensor) -> Tensor:
            index = self.index[:, chosen]
            r = quantiser.choose(u[:, chosen] - mu * self.gain[:, None, :, None, None], index)
            bits.append(quantiser.bits(r, index).sum())
            return quantiser.reconstruct(r, index)

        squared_error = (self.decoded(residual) - self.x).square().sum()
        return float(torch.stack(bits).sum() + self.error_bits * squared_error)


class _Stage:
    """The latents of one stage's planes, u = y·gain [1, n, M, h, w], in the memory order that convolutions like."""

    def __init__(self, piece: _Piece, planes: tuple[int, ...], u: Tensor, generator: torch.Generator):
        self.quantiser = piece.codec.quantiser
        self.plane_gain = piece.gain[:, None, :, None, None]
        self.u = _channels_last(u[:, planes]).requires_grad_(True)
        self.index = _channels_last(piece.index[:, planes].long())
        self.turn = _channels_last(torch.rand(self.u.shape, generator=generator, dtype=u.dtype, device=u.device))

    def residual(self, mu: Tensor, decided: float) -> Tensor:
        """What the decoder adds to mu, in quantisation steps; `decided`: the share of integers among them."""
        return _Round.apply(self.u - mu * self.plane_gain, self.index, self.turn < decided, self.quantiser)


class _Round(torch.autograd.Function):
    """Exact residuals → what a decoder makes of them. Decided ones are the file's integers and get no gradient.

    Between two integers, the others rise along a smoothstep. The bits, which rise with them, are in no loss: their
    gradient is added to the one that comes back.
    """

    @staticmethod
    def forward(context, exact, index, decided, quantiser):
        skipped = index < quantiser.skip
        lower = exact.floor()
        fraction = exact - lower
        context.save_for_backward(
            (fraction * (1 - fraction)).mul_(6).masked_fill_(decided | skipped, 0), quantiser.rise(lower, index)
        )
        mixture = lower.add_(fraction.square().mul_(3 - 2 * fraction)).masked_fill_(skipped, 0)
        return quantiser.reconstruct(torch.where(decided, quantiser.choose(exact, index), mixture), index)

    @staticmethod
    def backward(context, gradient):
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


def lmbda_at(ladder: tuple[float, ...], fixed_quality: int) -> float:
    """The ladder's lmbda at a quality (8.8), geometrically between its rungs."""
    logs = np.log(np.asarray(ladder))
    return float(np.exp(np.interp(fixed_quality / QUALITY_ONE - 1, np.arange(len(ladder)), logs)))
