"""What a codec network is made of: `Architecture`, a frozen description of every width, and what it must fulfil.

Nothing here needs PyTorch, so that a model can be described and counted where it is not run. codec/network builds it.
"""

import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from slimcodec import InvalidModel
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.blocks import GROUPS, KINDS, QUARTERS, is_grouped, is_plain
from slimcodec.codec.grid import LATENT_SCALE, PLANES

MAX_WIDTH = 2**16  # more is a mistake, found here rather than where memory runs out
MAX_BLOCKS = 32  # of a level: thousands take minutes to build
MAX_SPECIALISTS = 16
UPSAMPLINGS = ("subpixel", "transposed", "modulated")  # codec/layers builds them
LADDER = (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800)  # CompressAI's lmbda per quality


@dataclasses.dataclass(frozen=True)
class Block:
    kind: str  # one of blocks.KINDS
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
    decoder        float; or integer: h_mean, context and g_s as docs/format.md defines them, with y in units of 1
    downsampling   of strided convolutions' windows: wide (2·ratio + 1) or narrow (2·ratio - 1), which overlap, or
                   patches, which do not in g_a (ratio) and are narrow in h_a
    specialists    how many g_s, each with its own last layer of g_a, of which every cell of a picture has one
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
    downsampling: str = "wide"
    upsampling: str = "subpixel"
    upsampling_kernel: int = 1
    head_kernel: int = 3
    quality_ladder: tuple[float, ...] = LADDER
    decoder: str = "float"
    specialists: int = 1

    def __post_init__(self) -> None:
        for name, problem in self._problems():
            raise InvalidModel(f"architecture.{name}: {problem}")

    def _problems(self) -> Iterator[tuple[str, str]]:
        # The first problem is raised, so each check may rely on those above it.
        for name in ("latent_channels", "hyper_channels"):
            channels = getattr(self, name)
            if not _are_integers(channels, 0) or not channels or len(set(channels)) != len(channels):
                yield name, "must be whole numbers, at least one and none twice"
        for name, levels in (("g_a", self.g_a[::-1]), ("g_s", self.g_s)):
            yield from ((name, problem) for problem in _level_problems(levels))
        if not isinstance(self.stages, tuple) or not all(isinstance(stage, tuple) and stage for stage in self.stages):
            yield "stages", "must be lists of planes, none empty"
        planes = tuple(plane for stage in self.stages for plane in stage)
        if not _are_integers(planes, 0) or sorted(planes) != list(range(PLANES)):
            yield "stages", "each of the planes 0…3 must be coded exactly once"
        for name, count in (("h_a", 2), ("h_scale", 3), ("h_mean", 3), ("context", len(self.stages))):
            widths = getattr(self, name)
            if not _are_integers(widths, 1) or len(widths) != count:
                yield name, f"must be {count} whole numbers from 1 to {MAX_WIDTH}"
        if self.context_kind not in ("depthwise", "full"):
            yield "context_kind", "must be depthwise or full"
        if self.downsampling not in ("wide", "narrow", "patches"):
            yield "downsampling", "must be wide, narrow or patches"
        if self.upsampling not in UPSAMPLINGS:
            yield "upsampling", f"must be one of {', '.join(UPSAMPLINGS)}"
        yield from self._problems_of_decoder()
        for name in ("upsampling_kernel", "head_kernel"):
            if not _are_integers((getattr(self, name),), 1) or getattr(self, name) not in range(1, 32, 2):
                yield name, "must be an odd number from 1 to 31"
        ladder = self.quality_ladder
        if not isinstance(ladder, tuple) or not all(type(lmbda) in (float, int) for lmbda in ladder):
            yield "quality_ladder", "must be numbers"
        if not 1 <= len(ladder) < QUALITY_ONE or list(ladder) != sorted({lmbda for lmbda in ladder if 0 < lmbda < 1e9}):
            yield "quality_ladder", "needs at least one value, all positive and increasing"

    def _problems_of_decoder(self) -> Iterator[tuple[str, str]]:
        if self.decoder not in ("float", "integer"):
            yield "decoder", "must be float or integer"
        if type(self.specialists) is not int or not 1 <= self.specialists <= MAX_SPECIALISTS:
            yield "specialists", f"must be a whole number from 1 to {MAX_SPECIALISTS}"
        special = [("decoder", "float")] * self.in_integers + [("specialists", "1")] * (self.specialists > 1)
        if len(special) > 1:
            yield "decoder", "must be float where there are several specialists"
        other = [block.kind for level in self.g_s for block in level.blocks if not is_plain(block.kind)]
        for name, plain in special:
            if self.upsampling != "subpixel":
                yield name, f"must be {plain} where upsampling is {self.upsampling}"
            if other:
                yield name, f"must be {plain} where g_s has {other[0]} blocks"

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

    @property
    def in_integers(self) -> bool:
        """Whether the whole decoder is."""
        return self.decoder == "integer"

    def downsampling_kernel(self, ratio: int) -> int:
        """Of g_a, from one level to the next."""
        if self.downsampling == "patches":
            return ratio
        return max(3, 2 * ratio + (1 if self.downsampling == "wide" else -1))

    @property
    def hyper_downsampling_kernel(self) -> int:
        """Of h_a, which halves the resolution twice."""
        return 5 if self.downsampling == "wide" else 3

    def context_inputs(self, stage: int) -> int:
        """Channels that c_k sees: p and all planes of the stages before."""
        return self.h_mean[2] + self.latents * sum(len(planes) for planes in self.stages[:stage])

    def to_dict(self) -> dict[str, Any]:
        found = dataclasses.asdict(self)
        if self.specialists == 1:
            del found["specialists"]  # as in models that older versions read
        return found

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Architecture":
        """Build from JSON-like values (lists for tuples); latent_channels and hyper_channels may be plain counts."""
        if not isinstance(values, dict):
            raise InvalidModel(f"architecture: must be named fields, not {values!r}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(map(str, set(values) - set(fields))):
            raise InvalidModel(f"architecture.{unknown[0]}: there is no such field; known are {', '.join(fields)}")
        for name, field in fields.items():
            if name not in values and field.default is dataclasses.MISSING:
                raise InvalidModel(f"architecture.{name}: is missing")
        return cls(**{name: _parsed(name, value) for name, value in values.items()})


def _parsed(name: str, value: Any) -> Any:
    """A field's JSON-like value as the dataclass holds it."""
    if name in ("latent_channels", "hyper_channels") and type(value) is int:  # a bool is an int too
        return tuple(range(min(value, MAX_WIDTH + 1)))
    if name not in ("g_a", "g_s"):
        return _tuples(value)
    try:
        return tuple(level_of(item) for item in value)
    except (TypeError, AttributeError) as error:
        raise InvalidModel(f"architecture.{name}: is no list of levels with blocks ({error})") from error


def level_of(value: dict[str, Any]) -> Level:
    """A level from JSON-like values. Raises TypeError or AttributeError where they are none."""
    return Level(**value | {"blocks": tuple(Block(**block) for block in value.get("blocks", ()))})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _are_integers(values: Any, lowest: int) -> bool:
    """Whether it is a tuple, not too long, of integers in lowest…MAX_WIDTH."""
    if not isinstance(values, tuple) or len(values) > MAX_WIDTH:
        return False
    return all(type(value) is int and lowest <= value <= MAX_WIDTH for value in values)


def _level_problems(levels: tuple[Level, ...]) -> Iterator[str]:
    """What is wrong with the levels, the one next to y first."""
    for level in levels:
        if len(level.blocks) > MAX_BLOCKS:
            yield f"{len(level.blocks)} blocks in the level at scale {level.scale}; at most {MAX_BLOCKS} are allowed"
        if not _are_integers((level.scale, level.channels, *(block.hidden for block in level.blocks)), 1):
            yield f"scale and widths of the level at scale {level.scale} must be whole numbers from 1 to {MAX_WIDTH}"
        if unknown := [block.kind for block in level.blocks if block.kind not in tuple(KINDS)]:
            yield f"unknown block kind {unknown[0]!r}; known are {', '.join(KINDS)}"
        grouped = [block.hidden for block in level.blocks if is_grouped(block.kind)]
        if grouped and (level.channels % GROUPS or any(hidden % QUARTERS for hidden in grouped)):
            yield f"shuffle blocks need multiples of {GROUPS} channels, and of {QUARTERS} hidden ones"
    if not levels or levels[0].scale != LATENT_SCALE:
        yield f"the level next to y must be at scale {LATENT_SCALE}"
    for coarse, fine in pairwise(levels):
        if coarse.scale <= fine.scale or coarse.scale % fine.scale:
            yield f"scales {coarse.scale} and {fine.scale} cannot be neighbours"
