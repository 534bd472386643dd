"""Semi-amortised encoding: one picture's latents are refined by gradient descent on what its own file costs.

The decoder is untouched. Stochastic Gumbel annealing (Yang, Bamler and Mandt, "Improving Inference for Neural Image
Compression", NeurIPS 2020): every residual is a random mixture of the two integers around it, near ones more likely,
ever more decided as the temperature falls. z stays as it is, and with it the scale of every residual.
"""

import numpy as np
import torch
from torch import Tensor

from slimcodec.codec.network import ALIGNMENT, QUALITY_ONE, from_planes, to_planes
from slimcodec.codec.tiling import LATENTS, PLANE_CELLS, Window, whole

# Gradient steps for effort 0…10. Fewer than 20 gained next to nothing, straight-through rounding nothing at any rate;
# all found on two pictures of cid22-validation.
STEPS = (0, 20, 30, 45, 60, 90, 130, 180, 250, 400, 600)
LEARNING_RATE = 0.02  # quantisation steps
HOTTEST, COLDEST = 1.0, 0.2
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
        self.lmbda = lmbda_at(codec.network.architecture.quality_ladder, fixed_quality)

    def refined(self, steps: int, tell) -> Tensor:
        plane_gain = self.gain[:, None, :, None, None]
        start = to_planes(self.y) * plane_gain
        u = start.clone().requires_grad_(True)  # in quantisation steps
        optimizer = torch.optim.Adam([u], lr=LEARNING_RATE)
        generator = torch.Generator(u.device).manual_seed(0)  # the same file every time
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - step / steps))
            mixture = _Mixture(temperature(step, steps), generator)
            optimizer.zero_grad()
            self.cost(u, mixture).backward()
            optimizer.step()
            tell(step + 1)
        with torch.no_grad():
            before, after = (float(self.cost(planes, self.codec.quantiser.choose)) for planes in (start, u))
        return from_planes(u.detach() / plane_gain) if after < before else self.y

    def cost(self, u: Tensor, rounding) -> Tensor:
        """Bits plus lmbda · 255² · squared error, of the whole piece. rounding(exact, index) gives r."""
        plane_gain = self.gain[:, None, :, None, None]
        bits = []

        def residual(chosen: list[int], mu: Tensor) -> Tensor:
            index = self.index[:, chosen]
            r = rounding(u[:, chosen] - mu * plane_gain, index).masked_fill(index < self.codec.quantiser.skip, 0)
            bits.append(self.codec.quantiser.bits(r, index).sum())
            return self.codec.quantiser.reconstruct(r, index)

        y_hat, _ = self.codec.network.decode_planes(self.z_hat, self.gain, residual)
        x_hat = self.codec.network.g_s(from_planes(y_hat))[:, :, : self.x.shape[2], : self.x.shape[3]]
        # The squared error counts per pixel, the mean over its three channels.
        return torch.stack(bits).sum() + self.lmbda * 255**2 / 3 * (x_hat - self.x).square().sum()


class _Mixture:
    """Rounding at random: the lower or the upper integer, in a proportion drawn from the concrete distribution."""

    def __init__(self, temperature: float, generator: torch.Generator):
        self.temperature, self.generator = temperature, generator

    def __call__(self, exact: Tensor, _: Tensor) -> Tensor:
        lower = exact.detach().floor()
        fraction = (exact - lower).clamp(1e-3, 1 - 1e-3)
        noise = torch.rand(exact.shape, generator=self.generator, device=exact.device).clamp_(1e-6, 1 - 1e-6)
        towards_upper = (torch.atanh(fraction) - torch.atanh(1 - fraction)) / self.temperature + torch.logit(noise)
        return lower + torch.sigmoid(towards_upper / self.temperature)


def temperature(step: int, steps: int) -> float:
    """Falls exponentially; not so far when there are few steps to follow it."""
    coldest = min(0.5, max(COLDEST, 0.5 * (20 / steps) ** 0.4))
    return HOTTEST * (coldest / HOTTEST) ** (step / max(1, steps - 1))


def lmbda_at(ladder: tuple[float, ...], fixed_quality: int) -> float:
    """The ladder's lmbda at a quality (8.8), geometrically between its rungs."""
    logs = np.log(np.asarray(ladder))
    return float(np.exp(np.interp(fixed_quality / QUALITY_ONE - 1, np.arange(len(ladder)), logs)))
