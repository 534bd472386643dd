"""A trained codec with more blocks or another encoder, which does what it did, or nearly, before it is trained on."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from slimcodec import InvalidInput
from slimcodec.codec.architecture import Architecture, Block
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
