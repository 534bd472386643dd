"""A trained codec with more blocks, finer levels or another encoder, which does what it did, or nearly, at first."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from slimcodec import InvalidInput
from slimcodec.codec.architecture import Architecture, Block, level_of
from slimcodec.codec.layers import SubPixelConv
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.training.start import start_like, switch_off

FITTED_AT_ONCE = 8  # crops whose latents are made together, for memory


@torch.no_grad()
def with_encoder(
    codec: HyperpriorCodec, x: Tensor, *, downsampling: str, g_a: Sequence[dict[str, Any]]
) -> HyperpriorCodec:
    """A copy with another g_a, whose latents start as near to the codec's own as a linear transform makes them.

    x     crops [B, 3, H, W] in [0, 1] that it is fitted to
    g_a   its levels, as `Architecture.from_dict` takes them

    Raises InvalidModel for levels that are none, and InvalidInput where the rest of the encoder would change, too.
    """
    before = codec.architecture
    architecture = Architecture.from_dict(before.to_dict() | {"downsampling": downsampling, "g_a": g_a})
    if architecture.hyper_downsampling_kernel != before.hyper_downsampling_kernel:
        raise InvalidInput(
            f"finish.encoder.downsampling={downsampling}: h_a would not fit any more; "
            f"this model's is {before.downsampling}, and only narrow and patches go together"
        )
    changed = HyperpriorCodec(architecture)
    kept = {name: tensor for name, tensor in codec.state_dict().items() if not name.startswith("g_a.")}
    changed.load_state_dict(kept, strict=False)
    start_like(changed, x, torch.cat([codec.g_a(part) for part in x.split(FITTED_AT_ONCE)]))
    return changed


def with_blocks(
    codec: HyperpriorCodec, part: Literal["g_a", "g_s"], kind: str, hidden: Sequence[Sequence[int]]
) -> HyperpriorCodec:
    """A copy whose transform has blocks of this kind and these hidden channels at the end of its levels, in its order.

    Raises InvalidInput unless there is a list, perhaps an empty one, for each level.
    """
    grown = HyperpriorCodec(_grown(codec.architecture, part, kind, hidden))
    grown.load_state_dict(codec.state_dict(), strict=False)
    for level, before in zip(getattr(grown, part).levels, getattr(codec, part).levels, strict=True):
        switch_off(level.blocks[len(before.blocks) :])
    return grown


@torch.no_grad()
def with_levels(codec: HyperpriorCodec, levels: Sequence[dict[str, Any]]) -> HyperpriorCodec:
    """A copy whose g_s has more blocks at its levels, of any kind, and finer levels after its own.

    levels   as `Architecture.from_dict` takes them: one at a scale of g_s's own names the blocks that this is given
             at its end; a finer one is new, and its first 3·scale² channels hold the pixels that the head made before

    Raises InvalidModel for levels that are none, and InvalidInput where g_s cannot have them and do what it did.
    """
    architecture, own = _with_levels(codec.architecture, levels), len(codec.architecture.g_s)
    grown = HyperpriorCodec(architecture)
    finer = architecture.g_s[own:]
    kept = {name: each for name, each in codec.state_dict().items() if not (finer and name.startswith("g_s.head."))}
    grown.load_state_dict(kept, strict=False)
    for number, level in enumerate(grown.g_s.levels):
        switch_off(level.blocks[len(codec.g_s.levels[number].blocks) if number < own else 0 :])
    weight, bias = codec.g_s.head.conv.weight.flatten(1), codec.g_s.head.conv.bias
    for level, spec in zip(grown.g_s.levels[own:], finer, strict=True):
        _enter_with_pixels(level.enter, weight, bias, spec.scale)
        weight, bias = torch.eye(3 * spec.scale**2, spec.channels), torch.zeros(3 * spec.scale**2)
    if finer:
        grown.g_s.head.conv.weight.copy_(weight[:, :, None, None])
        grown.g_s.head.conv.bias.copy_(bias)
    return grown


@torch.no_grad()
def with_context(codec: HyperpriorCodec, hidden: Sequence[int]) -> HyperpriorCodec:
    """A copy whose stages of the context have so many hidden channels; what is new in them has no effect yet.

    Raises InvalidInput unless there is a number for each stage, and none is smaller than the stage has.
    """
    before = codec.architecture
    if len(hidden) != len(before.context) or any(new < old for new, old in zip(hidden, before.context, strict=False)):
        raise InvalidInput(f"finish.context: must be {len(before.context)} numbers, {list(before.context)} or more")
    grown = HyperpriorCodec(dataclasses.replace(before, context=tuple(hidden)))
    own, old = grown.state_dict(), codec.state_dict()
    for name, tensor in own.items():
        if tensor.shape != old[name].shape:
            if name.endswith("weight") and tensor.shape[0] == old[name].shape[0]:
                tensor.zero_()  # of the layer that sees the hidden channels
            tensor[tuple(map(slice, old[name].shape))] = old[name]
        else:
            tensor.copy_(old[name])
    return grown


def freeze_old(grown: HyperpriorCodec, before: HyperpriorCodec) -> None:
    """Let training leave everything as it is that a codec had before it was given more blocks."""
    old = before.state_dict().keys()
    for name, parameter in grown.named_parameters():
        parameter.requires_grad_(name not in old)


def _grown(architecture: Architecture, part: str, kind: str, hidden: Sequence[Sequence[int]]) -> Architecture:
    levels = getattr(architecture, part)
    if len(hidden) != len(levels):
        side = "encoder" if part == "g_a" else "decoder"
        raise InvalidInput(f"finish.{side}_blocks: names {len(hidden)} levels, and the {side} has {len(levels)}")
    more = (
        dataclasses.replace(level, blocks=(*level.blocks, *(Block(kind, width) for width in widths)))
        for level, widths in zip(levels, hidden, strict=True)
    )
    changed: dict[str, Any] = {part: tuple(more)}
    return dataclasses.replace(architecture, **changed)


def _with_levels(before: Architecture, levels: Sequence[dict[str, Any]]) -> Architecture:
    try:
        given = {level.scale: level for level in map(level_of, levels)}
    except (TypeError, AttributeError) as error:
        raise InvalidInput(f"finish.decoder_levels: is no list of levels with blocks ({error})") from error
    g_s = []
    for level in before.g_s:
        more = given.pop(level.scale, level)
        if more.channels != level.channels:
            raise InvalidInput(f"finish.decoder_levels: g_s has {level.channels} channels at scale {level.scale}")
        g_s.append(level if more is level else dataclasses.replace(level, blocks=level.blocks + more.blocks))
    if given and (before.upsampling, before.head_kernel, before.decoder) != ("subpixel", 1, "float"):
        problem = "only a float g_s of subpixel upsampling and a 1×1 head goes on finer"
        raise InvalidInput(f"finish.decoder_levels: {problem}")
    grown = dataclasses.replace(before, g_s=(*g_s, *given.values()))
    for scale, level in given.items():
        if level.channels < 3 * scale**2:
            raise InvalidInput(f"finish.decoder_levels: scale {scale} needs {3 * scale**2} channels or more")
    return grown


def _enter_with_pixels(enter: SubPixelConv, weight: Tensor, bias: Tensor, scale: int) -> None:
    """Let what enters a level at 1/scale begin with the pixels that a head [3·(ratio·scale)², C] made before it."""
    conv, ratio = enter.conv, enter.ratio
    of_pixels, centre = len(weight), conv.kernel_size[0] // 2
    order = torch.arange(of_pixels).view(3, ratio, scale, ratio, scale).permute(0, 2, 4, 1, 3).flatten()
    conv.weight[:of_pixels] = 0
    conv.weight[:of_pixels, :, centre, centre] = weight[order]
    conv.bias[:of_pixels] = bias[order]
