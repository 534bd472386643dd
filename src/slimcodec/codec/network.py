"""The codec network: `Architecture`, a frozen description of every width, and `HyperpriorCodec`, built from it.

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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcodec import InvalidModel
from slimcodec.codec import rate
from slimcodec.codec.layers import BLOCKS, IntegerConv2d, SubPixelConv, downsample, floor_ste, round_ste, upsample

LATENT_SCALE = 16  # y has 1/16 of the picture's resolution
ALIGNMENT = 64  # z has 1/64: H and W are padded to its multiples
PLANES = 4
QUALITY_ONE = 256  # quality is 8.8 fixed point
GAIN_UNIT = 16  # log_gain is stored in 1/16 of a scale-index step
LADDER = (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800)  # CompressAI's lmbda per quality


@dataclasses.dataclass(frozen=True)
class Block:
    kind: str  # a key of layers.BLOCKS
    hidden: int  # channels inside the block


@dataclasses.dataclass(frozen=True)
class Level:
    """Everything a transform does at 1/scale of the picture's resolution."""

    scale: int
    channels: int
    blocks: tuple[Block, ...] = ()


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Every width of a codec. JSON-serialisable by `to_dict` and `from_dict`; invalid values raise InvalidModel.

    latent_channels, hyper_channels  for each channel of y and z, the channel of the teacher that it is
    g_a, g_s       levels in the order in which the signal passes them; g_a ends and g_s begins at 1/16
    h_a            channels after its first and second convolution (both at 1/32)
    h_scale        channels of the integer network at 1/64, 1/32, 1/32
    h_mean         channels at 1/64, at 1/32, and of p
    stages         the planes of y that each stage codes, 0…3 = (0,0), (0,1), (1,0), (1,1); one stage: no context
    context        hidden channels of each stage's c_k; context_kind: depthwise separable or full 3×3 convolution
    """

    latent_channels: tuple[int, ...]
    hyper_channels: tuple[int, ...]
    g_a: tuple[Level, ...]
    g_s: tuple[Level, ...]
    h_a: tuple[int, int]
    h_scale: tuple[int, int, int]
    h_mean: tuple[int, int, int]
    stages: tuple[tuple[int, ...], ...]
    context: tuple[int, ...]
    context_kind: str = "depthwise"
    upsampling: str = "subpixel"
    upsampling_kernel: int = 1
    head_kernel: int = 3
    quality_ladder: tuple[float, ...] = LADDER

    def __post_init__(self):
        for name, problem in self._problems():
            raise InvalidModel(f"architecture.{name}: {problem}")

    def _problems(self):
        for name in ("latent_channels", "hyper_channels"):
            if not getattr(self, name) or len(set(getattr(self, name))) != len(getattr(self, name)):
                yield name, "needs at least one channel and none twice"
        for name in ("h_a", "h_scale", "h_mean", "context"):
            if any(not isinstance(width, int) or width < 1 for width in getattr(self, name)):
                yield name, "widths must be positive integers"
        for name, expected in (("h_a", 2), ("h_scale", 3), ("h_mean", 3)):
            if len(getattr(self, name)) != expected:
                yield name, f"needs {expected} widths"
        for name, levels in (("g_a", self.g_a[::-1]), ("g_s", self.g_s)):
            yield from ((name, problem) for problem in _level_problems(levels))
        if sorted(plane for stage in self.stages for plane in stage) != list(range(PLANES)):
            yield "stages", "each of the planes 0…3 must be coded exactly once"
        if len(self.context) != len(self.stages):
            yield "context", "needs one width a stage"
        if self.context_kind not in ("depthwise", "full"):
            yield "context_kind", "must be depthwise or full"
        if self.upsampling not in ("subpixel", "transposed"):
            yield "upsampling", "must be subpixel or transposed"
        if self.upsampling_kernel % 2 == 0 or self.head_kernel % 2 == 0:
            yield "upsampling_kernel, head_kernel", "must be odd"
        if len(self.quality_ladder) < 1 or list(self.quality_ladder) != sorted(set(self.quality_ladder)):
            yield "quality_ladder", "needs increasing values"

    @property
    def latents(self) -> int:
        """M."""
        return len(self.latent_channels)

    @property
    def hypers(self) -> int:
        """N."""
        return len(self.hyper_channels)

    @property
    def rungs(self) -> int:
        return len(self.quality_ladder)

    def context_inputs(self, stage: int) -> int:
        """Channels that c_k sees: p and all planes of the stages before."""
        return self.h_mean[2] + self.latents * sum(len(planes) for planes in self.stages[:stage])

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Architecture":
        """Build from JSON-like values (lists for tuples); latent_channels and hyper_channels may be plain counts."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise InvalidModel(f"architecture: unknown field {sorted(unknown)[0]!r}; known are {sorted(known)}")
        try:
            plain = {name: _tuples(value) for name, value in values.items()}
            for name in ("g_a", "g_s"):
                plain[name] = tuple(_level(value) for value in values[name])
            for name in ("latent_channels", "hyper_channels"):
                plain[name] = tuple(range(plain[name])) if isinstance(plain[name], int) else plain[name]
            return cls(**plain)
        except (TypeError, KeyError, AttributeError) as error:
            raise InvalidModel(f"architecture: a field is missing or has the wrong type ({error})") from error


def _level(value: dict[str, Any]) -> Level:
    return Level(value["scale"], value["channels"], tuple(Block(**block) for block in value.get("blocks", ())))


def _tuples(value):
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _level_problems(levels: tuple[Level, ...]):
    if not levels or levels[0].scale != LATENT_SCALE:
        yield f"the level next to y must be at scale {LATENT_SCALE}"
    for coarse, fine in zip(levels, levels[1:], strict=False):
        if fine.scale < 1 or coarse.scale <= fine.scale or coarse.scale % fine.scale:
            yield f"scale {coarse.scale} cannot be followed by {fine.scale}"
    for level in levels:
        if level.channels < 1 or any(block.hidden < 1 for block in level.blocks):
            yield f"the level at scale {level.scale} has a width below 1"
        if unknown := {block.kind for block in level.blocks} - set(BLOCKS):
            yield f"unknown block kind {unknown.pop()!r}; known are {sorted(BLOCKS)}"


class Coded(NamedTuple):
    """What a training pass yields; planes are [B, 4, M, H/32, W/32]."""

    x_hat: Tensor  # [B, 3, H, W]
    y: Tensor  # planes
    mu: Tensor  # planes
    residual: Tensor  # planes: (y - mu)·gain, not rounded
    index: Tensor  # planes: real scale index of the residual, not clamped
    gain: Tensor  # [B, 1, M, 1, 1]
    z: Tensor  # [B, N, H/64, W/64], not rounded


class Transform(nn.Module):
    """The blocks of one level, and the convolution that enters it (`enter`)."""

    def __init__(self, enter: nn.Module, level: Level):
        super().__init__()
        self.enter = enter
        self.blocks = nn.Sequential(*(BLOCKS[block.kind](level.channels, block.hidden) for block in level.blocks))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.enter(x))


class Analysis(nn.Module):
    """g_a: x [B, 3, H, W] → y [B, M, H/16, W/16]."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        self.levels = nn.ModuleList()
        channels, scale = 3, 1
        for level in architecture.g_a:
            self.levels.append(Transform(downsample(channels, level.channels, level.scale // scale), level))
            channels, scale = level.channels, level.scale
        self.head = nn.Conv2d(channels, architecture.latents, 1)

    def forward(self, x: Tensor) -> Tensor:
        for level in self.levels:
            x = level(x)
        return self.head(x)


class Synthesis(nn.Module):
    """g_s: y_hat [B, M, H/16, W/16] → x_hat [B, 3, H, W]."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        kind, kernel = architecture.upsampling, architecture.upsampling_kernel
        self.levels = nn.ModuleList()
        first = architecture.g_s[0]
        enter = nn.Conv2d(architecture.latents, first.channels, 1)
        for level, below in zip(architecture.g_s, [*architecture.g_s[1:], None], strict=True):
            self.levels.append(Transform(enter, level))
            if below:
                enter = upsample(kind, level.channels, below.channels, level.scale // below.scale, kernel)
        last = architecture.g_s[-1]
        self.head = SubPixelConv(last.channels, 3, last.scale, architecture.head_kernel)

    def forward(self, y_hat: Tensor) -> Tensor:
        for level in self.levels:
            y_hat = level(y_hat)
        return self.head(y_hat)


class HyperAnalysis(nn.Sequential):
    """h_a: y·gain [B, M, H/16, W/16] → z [B, N, H/64, W/64]."""

    def __init__(self, architecture: Architecture):
        first, second = architecture.h_a
        super().__init__(
            downsample(architecture.latents, first, 2),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            downsample(second, architecture.hypers, 2),
        )


class HyperMean(nn.Sequential):
    """h_mean: z_hat [B, N, H/64, W/64] → p [B, P, H/32, W/32]."""

    def __init__(self, architecture: Architecture):
        first, second, features = architecture.h_mean
        super().__init__(
            nn.Conv2d(architecture.hypers, first, 3, padding=1),
            nn.ReLU(),
            SubPixelConv(first, second, 2, kernel=1),
            nn.ReLU(),
            nn.Conv2d(second, features, 3, padding=1),
            nn.ReLU(),
        )


class ContextStage(nn.Sequential):
    """c_k: p and the planes decoded so far, [B, P + done·M, H/32, W/32] → mu of this stage's planes, [B, n·M, …]."""

    def __init__(self, inputs: int, hidden: int, outputs: int, kind: str):
        depthwise = [nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs), nn.Conv2d(inputs, hidden, 1)]
        full = [nn.Conv2d(inputs, hidden, 3, padding=1)]
        super().__init__(*(depthwise if kind == "depthwise" else full), nn.ReLU(), nn.Conv2d(hidden, outputs, 1))


class ScaleNetwork(nn.Module):
    """h_scale: z_hat [B, N, H/64, W/64] → scale index at gain 1 in 1/16 steps, integers [B, 4·M, H/32, W/32].

    In training float32 stands for the integers; in eval mode float64 holds them exactly, on every device.
    """

    def __init__(self, architecture: Architecture):
        super().__init__()
        first, second, third = architecture.h_scale
        outputs = PLANES * architecture.latents
        self.layers = nn.ModuleList(
            [
                IntegerConv2d(architecture.hypers, first, 3, input_bits=0),
                IntegerConv2d(first, second, 1, input_bits=4, ratio=2),
                IntegerConv2d(second, third, 3, input_bits=4),
                IntegerConv2d(third, outputs, 1, input_bits=4, last=True),
            ]
        )
        nn.init.constant_(self.layers[-1].bias, 24)  # index 24 is a scale of about 2: where a random g_a starts

    def forward(self, z_hat: Tensor) -> Tensor:
        with torch.autocast(z_hat.device.type, enabled=False):
            x = z_hat.float() if self.training else z_hat.double()
            for layer in self.layers:
                x = layer(x)
            return x


class HyperpriorCodec(nn.Module):
    """Teacher and student alike; see the module's diagram. Widths come from the architecture."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        self.architecture = architecture
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
        self.log_gain = nn.Parameter(_initial_log_gain(architecture))  # [Q, M] in scale-index steps

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
        return torch.exp(shift * (rate.INDEX_STEP / GAIN_UNIT))

    def scale_index(self, z_hat: Tensor, shift: Tensor) -> Tensor:
        """z_hat [B, N, h, w], s [B, M] → index of every residual in planes, a multiple of 1/16, not clamped."""
        at_gain_one = self.h_scale(z_hat).unflatten(1, (PLANES, -1))
        return (at_gain_one + shift[:, None, :, None, None]) / GAIN_UNIT

    def decode_planes(self, z_hat: Tensor, gain: Tensor, residual: Callable[[list[int], Tensor], Tensor]):
        """Run the context stages. `residual(planes, mu)` gives the integers r of a stage, shapes as mu [B, n, M, h, w].

        Encoder, decoder and training differ in where r comes from, and in nothing else. Returns (y_hat, mu) in planes.
        """
        p = self.h_mean(z_hat)
        y_hat: list[Tensor] = [None] * PLANES
        mu: list[Tensor] = [None] * PLANES
        done: list[Tensor] = []
        for planes, c_k in zip(self.architecture.stages, self.context, strict=True):
            stage_mu = c_k(torch.cat([p, *done], dim=1)).float().unflatten(1, (len(planes), -1))
            stage_y_hat = stage_mu + residual(list(planes), stage_mu) / gain[:, None, :, None, None]
            done.append(stage_y_hat.flatten(1, 2))
            for position, plane in enumerate(planes):
                y_hat[plane], mu[plane] = stage_y_hat[:, position], stage_mu[:, position]
        return torch.stack(y_hat, dim=1), torch.stack(mu, dim=1)

    def forward(self, x: Tensor, quality: Tensor) -> Coded:
        """A training pass: rounding is straight-through; the noise for the rate is added by the caller."""
        shift = self.gain_shift(quality)
        gain = self.gain(shift)
        # Mixed precision stops here: bfloat16 cannot hold the integers that rounding makes.
        y = self.g_a(x).float()
        z = self.h_a(y * gain[:, :, None, None]).float()
        z_hat = round_z(z)
        planes = to_planes(y)

        def residual(chosen, mu):
            return round_ste((planes[:, chosen] - mu) * gain[:, None, :, None, None])

        y_hat, mu = self.decode_planes(z_hat, gain, residual)
        plane_gain = gain[:, None, :, None, None]
        return Coded(
            x_hat=self.g_s(from_planes(y_hat)),
            y=planes,
            mu=mu,
            residual=(planes - mu) * plane_gain,
            index=self.scale_index(z_hat, shift),
            gain=plane_gain,
            z=z,
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


def _initial_log_gain(architecture: Architecture) -> Tensor:
    """The quantisation step that suits lmbda goes with lmbda^-½ at high rate; the middle rung starts at gain 1."""
    ladder = architecture.quality_ladder
    middle = ladder[len(ladder) // 2]
    steps = [0.5 * math.log(lmbda / middle) / rate.INDEX_STEP for lmbda in ladder]
    return torch.tensor(steps)[:, None].repeat(1, architecture.latents)
