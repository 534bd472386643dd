"""The codec network: `HyperpriorCodec`, built from an `Architecture`.

                encoder                                          decoder
 x ──► g_a ──► y ─────────────┐
       │                      │                  z_hat ─► h_scale (integer) ─► index of the scale of every r
       └► h_a(y·gain) ──► z ──round──► z_hat ───►│
                                                 └─────► h_mean ─► p
       stage k: r_k = round((y_k - mu_k)·gain)           stage k: mu_k = c_k(p, y_hat of the stages before)
                                                                  y_hat_k = mu_k + r_k / gain ──► g_s ──► x_hat

 x       [B, 3, H, W]        RGB in [0, 1], H and W multiples of 64
 y       [B, M, H/16, W/16]  latent, taken apart by pixel-unshuffle into four planes: [B, 4, M, H/32, W/32]
 z       [B, N, H/64, W/64]  hyper-latent, z_hat integers in [-128, 127]
 p       [B, P, H/32, W/32]  features of z_hat that every context stage sees
 quality int64 [B]           8.8 fixed point: 256 is rung 1, 2048 is rung 8

Entropy decoding depends on the index alone, and the index on integers alone (Esenlik et al., TCSVT 2026: decoupled
entropy decoding); the gain units that make one network cover all rates follow Cui et al. 2021.
"""

import dataclasses
import math
from collections.abc import Callable
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcodec.codec.architecture import Architecture, Level
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.fixed import LATENT, Saturated, fix
from slimcodec.codec.grid import PLANES
from slimcodec.codec.hyper import ContextStage, HyperAnalysis, HyperMean, ScaleNetwork
from slimcodec.codec.layers import Block, SubPixelConv, conv2d, downsample, floor_ste, packed, round_ste, upsample
from slimcodec.codec.scales import Scales
from slimcodec.codec.units import GAIN_UNIT, INDEX_STEP, LEVELS, MID_GREY, MIDDLE

INITIAL_GAIN = 8.0  # y starts with a standard deviation of about 1: 8 quantisation steps


class Coded(NamedTuple):
    """What a training pass yields; planes are [B, 4, M, H/32, W/32]."""

    x_hat: Tensor  # [B, 3, H, W]
    y: Tensor  # planes
    mu: Tensor  # planes
    residual: Tensor  # planes: (y - mu)·gain, not rounded
    index: Tensor  # type: ignore[assignment]  # planes: real scale index of the residual, not clamped
    gain: Tensor  # [B, 1, M, 1, 1]
    z: Tensor  # [B, N, H/64, W/64], not rounded
    features: Tensor  # of g_s before its head, [B, C, H/ratio, W/ratio]


class Transform(nn.Module):
    """The blocks of one level, and the convolution that enters it (`enter`)."""

    def __init__(self, enter: nn.Module, level: Level):
        super().__init__()
        self.enter, self.entered = enter, nn.Identity()
        self.blocks = nn.Sequential(*(Block(spec.kind, level.channels, spec.hidden) for spec in level.blocks))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.entered(self.enter(x)))


class Analysis(nn.Module):
    """g_a: x [B, 3, H, W] → y [B, M, H/16, W/16]."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        self.levels = nn.ModuleList()
        channels, scale = 3, 1
        for level in architecture.g_a:
            ratio = level.scale // scale
            enter = downsample(channels, level.channels, ratio, architecture.downsampling_kernel(ratio))
            self.levels.append(Transform(enter, level))
            channels, scale = level.channels, level.scale
        self.head = conv2d(channels, architecture.latents, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the head sees: [B, C, H/16, W/16]."""
        for number in range(len(self.levels)):
            x = self.level(number, x)
        return x

    def level(self, number: int, x: Tensor) -> Tensor:
        """What a level makes of what the one before gave; the first is given x."""
        found: Tensor = self.levels[number](x if number else x - MID_GREY)
        return found


class Synthesis(nn.Module):
    """g_s: y_hat [B, M, H/16, W/16] → x_hat [B, 3, H, W]."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        kind, kernel = architecture.upsampling, architecture.upsampling_kernel
        self.levels = nn.ModuleList()
        first = architecture.g_s[0]
        enter: nn.Module = conv2d(architecture.latents, first.channels, 1)
        for level, below in zip(architecture.g_s, [*architecture.g_s[1:], None], strict=True):
            self.levels.append(Transform(enter, level))
            if below:
                enter = upsample(kind, level.channels, below.channels, level.scale // below.scale, kernel)
        last = architecture.g_s[-1]
        self.head = SubPixelConv(last.channels, 3, last.scale, architecture.head_kernel)
        self.in_integers = architecture.in_integers

    def forward(self, y_hat: Tensor, trim: Callable[[int, Tensor], Tensor] | None = None) -> Tensor:
        """`trim(number of the level, x)` may cut off what is not needed of a level's result."""
        return self.pictures(self.features(y_hat, trim))

    def pictures(self, features: Tensor) -> Tensor:
        """What the head makes of `features`: x_hat."""
        # In mixed precision too: bfloat16 of a whole picture's values has steps of a level, and biases as large.
        with torch.autocast(features.device.type, enabled=False):
            return self.colours(self.head(features.to(self.head.conv.weight.dtype)))

    def colours(self, found: Tensor) -> Tensor:
        """What the head gives → x_hat."""
        return (found + MIDDLE) / LEVELS if self.in_integers else found + MID_GREY

    def features(self, y_hat: Tensor, trim: Callable[[int, Tensor], Tensor] | None = None) -> Tensor:
        """What the head sees: [B, C, H/ratio, W/ratio]."""
        for number, level in enumerate(self.levels):
            y_hat = level(y_hat)
            if trim:
                y_hat = trim(number, y_hat)
        return y_hat


class Specialist(nn.Module):
    """What every specialist but the first has of its own; the first's are g_a.head and g_s."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        self.head = conv2d(architecture.g_a[-1].channels, architecture.latents, 1)
        self.g_s = Synthesis(architecture)


class HyperpriorCodec(nn.Module):
    """Teacher and student alike; see the module's diagram. Widths come from the architecture.

    Float32 on `device`, whatever PyTorch's defaults are. Weights that are loaded anyway need not be initialised.
    """

    def __init__(self, architecture: Architecture, *, initialise: bool = True, device: str | torch.device = "cpu"):
        super().__init__()
        self.architecture = architecture
        with torch.device(device):
            self.g_a = Analysis(architecture)
            self.h_a = HyperAnalysis(architecture)
            self.h_scale = ScaleNetwork(architecture)
            self.h_mean = HyperMean(architecture)
            self.context = nn.ModuleList(
                ContextStage(
                    architecture.context_inputs(k),
                    hidden,
                    len(planes) * architecture.latents,
                    architecture.context_kind,
                )
                for k, (planes, hidden) in enumerate(zip(architecture.stages, architecture.context, strict=True))
            )
            self.g_s = Synthesis(architecture)
            others = range(1, architecture.specialists)
            self.specialists = nn.ModuleDict({str(number): Specialist(architecture) for number in others})
        self.log_gain = nn.Parameter(_initial_log_gain(architecture, device))  # [Q, M] in scale-index steps
        if initialise:
            _initialise(self)
        if architecture.in_integers:
            self.latents = Saturated(architecture.latents, LATENT, self.log_gain.device)
            fix(self.h_mean, self.context, self.g_s, self.latents)

    def specialist(self, number: int) -> "HyperpriorCodec":
        """The codec of one specialist, from 0; what it does not have of its own it shares with this."""
        found, g_a = copy(self), copy(self.g_a)
        found.architecture = dataclasses.replace(self.architecture, specialists=1)
        found._modules = self._modules | {"g_a": g_a, "specialists": nn.ModuleDict()}
        if number:
            own: Any = self.specialists[str(number)]
            g_a._modules = g_a._modules | {"head": own.head}
            found._modules["g_s"] = own.g_s
        return found

    def gain_shift(self, quality: Tensor) -> Tensor:
        """quality int64 [B] → the integers s [B, M] by which the gain moves the scale index, in 1/16 steps.

        s = (s0·(256 - f) + s1·f + 128) >> 8 between the two rungs around the quality, f its fraction.
        """
        steps = round_ste(self.log_gain * GAIN_UNIT)
        rung = (quality // QUALITY_ONE - 1).clamp(0, len(steps) - 1)
        above = (rung + 1).clamp_max(len(steps) - 1)
        fraction = (quality % QUALITY_ONE).to(steps.dtype)[:, None]
        mixed = steps[rung] * (QUALITY_ONE - fraction) + steps[above] * fraction
        return floor_ste((mixed + QUALITY_ONE // 2) / QUALITY_ONE)

    def gain(self, shift: Tensor) -> Tensor:
        """s [B, M] → the gain that multiplies the residual, [B, M]."""
        return torch.exp(shift * (INDEX_STEP / GAIN_UNIT))

    def scale_index(self, z_hat: Tensor, shift: Tensor) -> Tensor:
        """z_hat [B, N, h, w], s [B, M] → index of every residual in planes, a multiple of 1/16, not clamped."""
        at_gain_one = self.h_scale(z_hat).unflatten(1, (PLANES, -1))
        return (at_gain_one + shift[:, None, :, None, None]) / GAIN_UNIT

    # Encoder, decoder and training go through the stages in the same way; they differ in where r is from:
    #
    #   features, y_hat = [h_mean(z_hat)], []
    #   for stage, planes in stages():
    #       mu = means(stage, features)
    #       y_hat.append(mu + r of these planes / gain)
    #       features.append(y_hat[-1].flatten(1, 2))
    #   in_order(y_hat)

    def stages(self) -> list[tuple[int, list[int]]]:
        """The stages of the context in the order of coding: number, and which of the four planes it codes."""
        return [(stage, list(planes)) for stage, planes in enumerate(self.architecture.stages)]

    def means(self, stage: int, features: list[Tensor]) -> Tensor:
        """mu of a stage's planes, [B, n, M, h, w], from p and the planes of the stages before, [B, …, h, w] each."""
        planes = self.architecture.stages[stage]
        return self.context[stage](torch.cat(features, dim=1)).float().unflatten(1, (len(planes), -1))

    def latent(self, y_hat: Tensor) -> Tensor:
        """mu + r / gain → y_hat: of a decoder in integers, the nearest one."""
        return self.latents(round_ste(y_hat)) if self.architecture.in_integers else y_hat

    def in_order(self, of_stages: list[Tensor]) -> list[Tensor]:
        """What the stages gave for their planes, [B, n, M, h, w] each → the four planes [B, M, h, w]."""
        found = {
            plane: of_stages[stage][:, position]
            for stage, planes in self.stages()
            for position, plane in enumerate(planes)
        }
        return [found[plane] for plane in range(PLANES)]

    @torch.no_grad()
    def scales(self) -> Scales:
        """What the scale index takes, in integers alone; of a codec that is not packed."""
        layers = []
        for layer in self.h_scale.integer_layers:
            weight, bias, exponent = layer.quantised()
            layers.append((weight.cpu().numpy(), bias.cpu().numpy(), int(exponent)))
        limits = self.latents.limit.cpu().numpy() if self.architecture.in_integers else None
        return Scales(self.architecture, (self.log_gain * GAIN_UNIT).round().cpu().numpy(), layers, limits)

    def pack(self) -> "HyperpriorCodec":
        """The same for inference, a new module; layers that have nothing to prepare are shared."""
        return packed(self)

    def forward(
        self,
        x: Tensor,
        quality: Tensor,
        quantise: Callable[[Tensor, Tensor], Tensor] | None = None,
        y: Tensor | None = None,
    ) -> Coded:
        """A training pass: rounding is straight-through; the noise for the rate is added by the caller.

        quantise(exact, index) may take rounding's place: `Quantiser.straight_through`. y: if it is known.
        """
        # Mixed precision stops here: bfloat16 cannot hold the integers that rounding makes.
        return self.coded(self.g_a(x).float() if y is None else y, quality, quantise)

    def coded(self, y: Tensor, quality: Tensor, quantise: Callable[[Tensor, Tensor], Tensor] | None = None) -> Coded:
        """`forward` from the latent y [B, M, H/16, W/16] on."""
        shift = self.gain_shift(quality)
        gain = self.gain(shift)
        z = self.h_a(y * gain[:, :, None, None]).float()
        z_hat = round_z(z)
        planes = to_planes(y)
        plane_gain = gain[:, None, :, None, None]
        index = self.scale_index(z_hat, shift)

        features, mu, y_hat = [self.h_mean(z_hat)], [], []
        for stage, chosen in self.stages():
            mu.append(self.means(stage, features))
            exact = (take_planes(planes, chosen) - mu[-1]) * plane_gain
            r = round_ste(exact) if quantise is None else quantise(exact, take_planes(index, chosen))
            y_hat.append(self.latent(mu[-1] + r / plane_gain))
            features.append(y_hat[-1].flatten(1, 2))
        all_mu = torch.stack(self.in_order(mu), dim=1)
        features_of_g_s = self.g_s.features(from_planes(torch.stack(self.in_order(y_hat), dim=1)))
        return Coded(
            x_hat=self.g_s.pictures(features_of_g_s),
            y=planes,
            mu=all_mu,
            residual=(planes - all_mu) * plane_gain,
            index=index,
            gain=plane_gain,
            z=z,
            features=features_of_g_s,
        )


def round_z(z: Tensor) -> Tensor:
    """z → z_hat, integers in [-128, 127]."""
    return round_ste(z.clamp(-128, 127))


def to_planes(y: Tensor) -> Tensor:
    """[B, M, 2h, 2w] → [B, 4, M, h, w]; plane 2·dy + dx holds the elements at row dy and column dx of each 2×2."""
    return F.pixel_unshuffle(y, 2).unflatten(1, (-1, PLANES)).transpose(1, 2)


def from_planes(planes: Tensor) -> Tensor:
    """[B, 4, M, h, w] → [B, M, 2h, 2w], the inverse of `to_planes`."""
    return F.pixel_shuffle(planes.transpose(1, 2).flatten(1, 2), 2)


def take_planes(planes: Tensor, chosen: list[int]) -> Tensor:
    """Some of the planes, [B, n, M, h, w]. To index by a list copies it to a GPU, which a CUDA graph cannot hold."""
    return torch.stack([planes[:, plane] for plane in chosen], dim=1)


def _initial_log_gain(architecture: Architecture, device: str | torch.device) -> Tensor:
    """The quantisation step that suits lmbda goes with lmbda^-½ at high rate; the middle one starts at INITIAL_GAIN."""
    ladder = architecture.quality_ladder
    middle = ladder[len(ladder) // 2]
    steps = [math.log(INITIAL_GAIN * (lmbda / middle) ** 0.5) / INDEX_STEP for lmbda in ladder]
    return torch.tensor([[step] * architecture.latents for step in steps], dtype=torch.float32, device=device)


@torch.no_grad()
def _initialise(codec: HyperpriorCodec) -> None:
    """Start with activations of even variance, blocks near the identity, and mu near zero.

    With PyTorch's default, which shrinks the signal at every layer, the same loss took half as many steps again.
    """
    for layer in codec.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            transposed = isinstance(layer, nn.ConvTranspose2d)
            terms = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
            weight, bias = layer.parameters()
            nn.init.normal_(weight, std=(terms / (math.prod(layer.stride) if transposed else 1)) ** -0.5)
            nn.init.zeros_(bias)
    for block in codec.modules():
        if isinstance(block, Block):
            block.expand.weight.mul_(2**0.5)  # ReLU halves the variance
            block.project.weight.mul_(0.3)
    for c_k in codec.context:
        *_, (weights, _) = (tuple(layer.parameters()) for layer in c_k.children() if isinstance(layer, nn.Conv2d))
        weights.mul_(0.1)
    for number in range(codec.architecture.specialists):
        codec.specialist(number).g_s.head.conv.weight.mul_(0.3)
