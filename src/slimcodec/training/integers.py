"""A codec in floats → the same with its decoder in integers (codec/fixed), as good as it is without training.

Each channel of each result is scaled so that it needs its range. Between two layers scales cancel, so they go into the
weights. Those of y go into g_a's last layer, into the gains and into h_scale's biases: nothing else of a file changes.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.fixed import WEIGHT_BITS, WEIGHT_LIMIT, FixedConv2d
from slimcodec.codec.grid import PLANES
from slimcodec.codec.layers import SubPixelConv
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.codec.quantise import Quantiser
from slimcodec.codec.units import GAIN_UNIT, INDEX_STEP, LATENT_LIMIT, LEVELS, MID_GREY, MIDDLE, SUM_LIMIT

MARGIN = 1.25  # values of other photos may be so much larger than those of the photos that they were measured on
# How far channels are made alike: 0 keeps their sizes, and small channels get few integers; 1 fills every channel's
# range, and the weights of small channels get as much of the rounding as those of large ones. 0.5 to 0.75 was best.
ALIKE = 0.75
DEAD = 0.05  # of the median: a channel that is smaller hardly matters, and is not scaled up as others are
FINEST = 24.0  # the smallest step of a residual is at most so many units of y
MOST_SHIFT = 24
# Of the largest sum: weights may grow while they are trained, and pictures correct the head.
ROOM, HEAD_ROOM = 0.95, 0.5


@torch.no_grad()
def in_integers(codec: HyperpriorCodec, crops: Tensor, quantiser: Quantiser | None = None) -> HyperpriorCodec:
    """crops [B, 3, H, W] in [0, 1]: what values are measured on, at every second quality of the ladder."""
    architecture = replace(codec.architecture, decoder="integer")
    found = HyperpriorCodec(architecture, initialise=False, device=crops.device)
    own = set(found.state_dict())
    found.load_state_dict({name: t for name, t in codec.state_dict().items() if name in own}, strict=False)
    seen = _Seen(codec, crops, quantiser)
    y = _scale_latents(found, seen.latents)
    found.latents.limit.copy_(_limit(seen.latents * y, LATENT_LIMIT))
    p = _fill_h_mean(codec, found, seen)
    _fill_context(codec, found, seen, p, y)
    _fill_g_s(codec, found, seen, y)
    return found.train(codec.training)


class _Seen:
    """The largest value of each channel of each result."""

    def __init__(self, codec: HyperpriorCodec, crops: Tensor, quantiser: Quantiser | None):
        self.values: dict[nn.Module, list[Tensor]] = {}
        hooks = [module.register_forward_hook(self._keep) for module in _measured(codec)]
        training, latents = codec.training, []
        codec.eval()
        for crop in crops:
            y = codec.g_a(crop[None])
            for rung in range(codec.architecture.rungs, 0, -2):
                quality = torch.tensor([rung * QUALITY_ONE], device=crops.device)
                coded = codec.coded(y, quality, quantiser and quantiser.for_pass())
                latents.append(torch.maximum(coded.y.abs(), coded.mu.abs()).amax(dim=(0, 1, 3, 4)))
        codec.train(training)
        for hook in hooks:
            hook.remove()
        self.latents = torch.stack(latents).amax(0)

    def _keep(self, module: nn.Module, _inputs: object, output: Tensor) -> None:
        by_channel = output.transpose(0, 1).flatten(1)
        self.values.setdefault(module, []).append(torch.stack([-by_channel.amin(1), by_channel.amax(1)]))

    def scale(self, high: int, *modules: nn.Module, signed: bool = False) -> Tensor:
        """What the channels of these results are multiplied by to end at `high`: [C]."""
        ends = torch.stack([ends for module in modules for ends in self.values[module]]).amax(0)
        most = MARGIN * (ends.amax(0) if signed else ends[1])
        most = most.clamp_min(max(1e-6, float(DEAD * most.median())))
        return high / (most**ALIKE * most.max() ** (1 - ALIKE))

    def limit(self, scale: Tensor, high: int, *modules: nn.Module) -> Tensor:
        """What these results are clamped to once they are scaled: int16 [C]."""
        return _limit(
            torch.stack([ends for module in modules for ends in self.values[module]]).amax((0, 1)) * scale, high
        )


def _limit(largest: Tensor, high: int) -> Tensor:
    return (MARGIN * largest).ceil().clamp(1, high).to(torch.int16)


def _measured(codec: HyperpriorCodec) -> Iterator[nn.Module]:
    for part in (codec.h_mean, codec.context, codec.g_s.levels):
        yield from (module for module in part.modules() if not list(module.children()) or module in _blocks(codec))
        yield from (module for module in part.modules() if isinstance(module, SubPixelConv))


def _blocks(codec: HyperpriorCodec) -> set[nn.Module]:
    return {block for level in codec.g_s.levels for block in level.blocks}


def _scale_latents(codec: HyperpriorCodec, largest: Tensor) -> Tensor:
    """Make y's unit 1, in `codec`: by how much y grows, [M], is a whole number of 1/16 index steps."""
    finest = FINEST * codec.log_gain[-1].mul(INDEX_STEP).exp()
    wanted = torch.minimum(LATENT_LIMIT / (MARGIN * largest.clamp_min(1e-6)), finest)
    steps = (wanted.log() * (GAIN_UNIT / INDEX_STEP)).floor()
    scale = (steps.double() * (INDEX_STEP / GAIN_UNIT)).exp().float()
    codec.g_a.head.weight.mul_(scale[:, None, None, None])
    assert codec.g_a.head.bias is not None
    codec.g_a.head.bias.mul_(scale)
    codec.log_gain.sub_(steps / GAIN_UNIT)
    codec.h_scale.integer_layers[-1].bias.add_((steps / GAIN_UNIT).repeat(PLANES))
    return scale


def _fill_h_mean(codec: HyperpriorCodec, found: HyperpriorCodec, seen: _Seen) -> Tensor:
    """The scale of p, [P]."""
    layers, fixed = list(codec.h_mean), list(found.h_mean)
    first, up, last = layers[0], layers[2], layers[4]
    assert isinstance(up, SubPixelConv)
    z = torch.ones(codec.architecture.hypers, device=codec.log_gain.device)
    inner, wide, p = (
        seen.scale(layer.outputs.high, module)
        for layer, module in ((fixed[0], first), (fixed[2].conv, up), (fixed[4], last))
    )
    _fill(fixed[0], first, z, inner)
    _fill(fixed[2].conv, up.conv, inner, wide.repeat_interleave(up.ratio**2))
    _fill(fixed[4], last, wide, p)
    return p


def _fill_context(codec: HyperpriorCodec, found: HyperpriorCodec, seen: _Seen, p: Tensor, y: Tensor) -> None:
    done = 0
    for stage, planes in codec.stages():
        floats, fixed = list(codec.context[stage]), list(found.context[stage])
        scale = torch.cat([p, y.repeat(done)])
        *before, mix, _, last = range(len(floats))
        for number in before:
            out = seen.scale(fixed[number].outputs.high, floats[number], signed=True)
            _fill(fixed[number], floats[number], scale, out)
            scale = out
        hidden = seen.scale(fixed[mix].outputs.high, floats[mix])
        _fill(fixed[mix], floats[mix], scale, hidden)
        _fill(fixed[last], floats[last], hidden, y.repeat(len(planes)))
        done += len(planes)


def _fill_g_s(codec: HyperpriorCodec, found: HyperpriorCodec, seen: _Seen, y: Tensor) -> None:
    scale = y
    for floats, fixed in zip(codec.g_s.levels, found.g_s.levels, strict=True):
        enter: nn.Module = floats.enter
        own = fixed.enter.conv if isinstance(enter, SubPixelConv) else fixed.enter
        stream = seen.scale(own.outputs.high, enter, *floats.blocks, signed=True)
        limit = seen.limit(stream, own.outputs.high, enter, *floats.blocks)
        for saturated in (fixed.entered, *(block.total for block in fixed.blocks)):
            saturated.limit.copy_(limit)
        if isinstance(enter, SubPixelConv):
            _fill(own, enter.conv, scale, stream.repeat_interleave(enter.ratio**2))
        else:
            _fill(own, enter, scale, stream)
        for block, other in zip(floats.blocks, fixed.blocks, strict=True):
            scale = stream
            *before, last = block.names
            for name in before:
                conv, layer = block.get_submodule(name), other.get_submodule(name)
                out = seen.scale(layer.outputs.high, conv)
                _fill(layer, conv, scale, out)
                scale = out
            _fill(other.get_submodule(last), block.get_submodule(last), scale, stream)
        scale = stream
    head = codec.g_s.head.conv
    assert head.bias is not None
    bias = head.bias + MID_GREY - MIDDLE / LEVELS
    _fill(found.g_s.head.conv, head, scale, torch.full_like(bias, LEVELS), bias, HEAD_ROOM)


def _fill(
    fixed: nn.Module, conv: nn.Module, inputs: Tensor, outputs: Tensor, bias: Tensor | None = None, room: float = ROOM
) -> None:
    """inputs, outputs: what their channels are multiplied by. Shifts are as large as weights and sums allow."""
    assert isinstance(fixed, FixedConv2d) and isinstance(conv, nn.Conv2d) and conv.bias is not None
    divisor = inputs[:, None, None, None] if conv.groups > 1 else inputs[None, :, None, None]
    weight = conv.weight * outputs[:, None, None, None] / divisor
    bias = (conv.bias if bias is None else bias) * outputs
    shift = torch.frexp(WEIGHT_LIMIT / weight.abs().amax(dim=(1, 2, 3)).clamp_min(1e-9)).exponent - 1
    fixed.shift.copy_(shift.clamp(0, MOST_SHIFT))
    while True:
        fixed.weight.copy_(weight * fixed.unit[:, None, None, None] / (1 << WEIGHT_BITS))
        fixed.bias.copy_(bias * fixed.unit / fixed.bias_unit)
        too_large = (fixed.sum_bound() >= room * SUM_LIMIT) & (fixed.shift > 0)
        if not too_large.any():
            return
        fixed.shift.sub_(too_large.to(fixed.shift.dtype))
