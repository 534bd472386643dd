"""Multiply–accumulates per pixel (MAC/pixel) of every part, from the architecture alone, without PyTorch.

Counted as DESIGN defines it: convolutions exactly, for a size divisible by 64, and what modulation and attention
multiply; the multiplications of the gain on a line of their own. FLOPs would be twice these numbers.
"""

from collections.abc import Iterable
from itertools import pairwise

from slimcodec.codec import blocks
from slimcodec.codec.architecture import Architecture, Level
from slimcodec.codec.grid import CELL, LATENT_SCALE, PLANE_SCALE, PLANES

DECODER = ("h_scale", "h_mean", "context", "g_s", "gain")


def macs_per_pixel(architecture: Architecture) -> dict[str, float]:
    """Part → MAC/pixel: g_a, h_a, h_scale, h_mean, context, g_s, and the gain's element-wise multiplications.

    Of specialists each pixel has one: g_a and g_s are counted once.
    """
    return {
        "g_a": _analysis(architecture),
        "h_a": _hyper_analysis(architecture),
        "h_scale": _h_scale(architecture),
        "h_mean": _h_mean(architecture),
        "context": _context(architecture),
        "g_s": _synthesis(architecture),
        "gain": architecture.latents / LATENT_SCALE**2,
    }


def decoder_macs_per_pixel(architecture: Architecture) -> float:
    """All that a decoder runs: h_scale, h_mean, every context stage, g_s and the gain."""
    parts = macs_per_pixel(architecture)
    return sum(parts[name] for name in DECODER)


def encoder_macs_per_pixel(architecture: Architecture) -> float:
    """All that an encoder runs: g_a, h_a, and, to know mu and the scale index, everything of the decoder but g_s.

    The gain counts twice more: on y before h_a, and on the residual before rounding. To choose between specialists,
    each of them codes and decodes the picture.
    """
    parts = macs_per_pixel(architecture)
    once = sum(parts.values()) - parts["g_s"] + 2 * parts["gain"]
    if architecture.specialists == 1:
        return once
    head = convolution(architecture.g_a[-1].channels, architecture.latents, 1, LATENT_SCALE)
    return once + architecture.specialists * (once - parts["g_a"] + head + parts["g_s"])


def convolution(inputs: int, outputs: int, kernel: int, scale: int) -> float:
    """A convolution whose output (for a transposed one: whose input) is at 1/scale."""
    return inputs * outputs * kernel**2 / scale**2


def _blocks(levels: Iterable[Level]) -> float:
    return sum(
        blocks.macs(block.kind, level.channels, block.hidden) / level.scale**2
        for level in levels
        for block in level.blocks
    )


def _analysis(architecture: Architecture) -> float:
    total = _blocks(architecture.g_a)
    channels, scale = 3, 1
    for level in architecture.g_a:
        kernel = architecture.downsampling_kernel(level.scale // scale)
        total += convolution(channels, level.channels, kernel, level.scale)
        channels, scale = level.channels, level.scale
    return total + convolution(channels, architecture.latents, 1, scale)


def _synthesis(architecture: Architecture) -> float:
    levels = architecture.g_s
    total = _blocks(levels) + convolution(architecture.latents, levels[0].channels, 1, LATENT_SCALE)
    total += modulation(architecture)
    for level, below in pairwise(levels):
        ratio = level.scale // below.scale
        if architecture.upsampling == "subpixel":
            total += convolution(level.channels, below.channels * ratio**2, architecture.upsampling_kernel, level.scale)
        elif architecture.upsampling == "modulated":
            total += convolution(level.channels, 3 * below.channels, 1, level.scale)
        else:
            total += convolution(level.channels, below.channels, 2 * ratio, level.scale)
    last = levels[-1]
    return total + convolution(last.channels, 3 * last.scale**2, architecture.head_kernel, last.scale)


def attention(levels: Iterable[Level]) -> float:
    """Multiplications by the gates of blocks, which `_blocks` counts too."""
    return sum(blocks.products(block.kind, block.hidden) / level.scale**2 for level in levels for block in level.blocks)


def modulation(architecture: Architecture) -> float:
    """Multiplications by scale and by gate of what enters g_s's levels, element by element."""
    levels = architecture.g_s[1:] if architecture.upsampling == "modulated" else ()
    return sum(2 * level.channels / level.scale**2 for level in levels)


def _hyper_analysis(architecture: Architecture) -> float:
    first, second = architecture.h_a
    kernel = architecture.hyper_downsampling_kernel
    return (
        convolution(architecture.latents, first, kernel, PLANE_SCALE)
        + convolution(first, second, 3, PLANE_SCALE)
        + convolution(second, architecture.hypers, kernel, CELL)
    )


def _h_scale(architecture: Architecture) -> float:
    first, second, third = architecture.h_scale
    return (
        convolution(architecture.hypers, first, 3, CELL)
        + convolution(first, 4 * second, 1, CELL)
        + convolution(second, third, 3, PLANE_SCALE)
        + convolution(third, PLANES * architecture.latents, 1, PLANE_SCALE)
    )


def _h_mean(architecture: Architecture) -> float:
    first, second, features = architecture.h_mean
    return (
        convolution(architecture.hypers, first, 3, CELL)
        + convolution(first, 4 * second, 1, CELL)
        + convolution(second, features, 3, PLANE_SCALE)
    )


def _context(architecture: Architecture) -> float:
    total = 0.0
    for stage, (planes, hidden) in enumerate(zip(architecture.stages, architecture.context, strict=True)):
        inputs = architecture.context_inputs(stage)
        if architecture.context_kind == "depthwise":
            total += convolution(1, inputs, 3, PLANE_SCALE) + convolution(inputs, hidden, 1, PLANE_SCALE)
        else:
            total += convolution(inputs, hidden, 3, PLANE_SCALE)
        total += convolution(hidden, len(planes) * architecture.latents, 1, PLANE_SCALE)
    return total
