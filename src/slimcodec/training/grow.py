"""A trained codec with more blocks, which does what it did: they begin switched off, and training finds their use."""

import dataclasses
from collections.abc import Sequence

from slimcodec import InvalidInput
from slimcodec.codec.architecture import Architecture, Block
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.training.start import switch_off


def with_encoder_blocks(codec: HyperpriorCodec, hidden: Sequence[Sequence[int]]) -> HyperpriorCodec:
    """A copy whose g_a has residual blocks of these hidden channels at the end of its levels, the finest first.

    Raises InvalidInput unless there is a list, perhaps an empty one, for each level.
    """
    grown = HyperpriorCodec(_grown(codec.architecture, hidden))
    grown.load_state_dict(codec.state_dict(), strict=False)
    for level, before in zip(grown.g_a.levels, codec.g_a.levels, strict=True):
        switch_off(level.blocks[len(before.blocks) :])
    return grown


def _grown(architecture: Architecture, hidden: Sequence[Sequence[int]]) -> Architecture:
    if len(hidden) != len(architecture.g_a):
        raise InvalidInput(
            f"finish.encoder_blocks: names {len(hidden)} levels, and the encoder has {len(architecture.g_a)}"
        )
    levels = (
        dataclasses.replace(level, blocks=(*level.blocks, *(Block("residual", width) for width in widths)))
        for level, widths in zip(architecture.g_a, hidden, strict=True)
    )
    return dataclasses.replace(architecture, g_a=tuple(levels))
