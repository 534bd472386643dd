"""How far the networks see, and how pieces of big pictures pass them.

Big pictures pass g_s, and each level of g_a, piece by piece. A piece is run together with its surroundings as far as
the network sees, the margin, and the margin is cut off again: where the picture ends, the network pads with zeros as it
always does.
"""

from itertools import pairwise
from typing import NamedTuple

from slimcodec.codec import blocks
from slimcodec.codec.architecture import Architecture, Level
from slimcodec.codec.grid import LATENT_SCALE, LATENTS, PLANE_CELLS, Window


def hyper_margin(architecture: Architecture) -> int:
    """How many cells around its own an element of z depends on: h_a's three convolutions, at 1/16, 1/32 and 1/32."""
    kernel = architecture.hyper_downsampling_kernel // 2
    return -(-(kernel + 2 * (1 + kernel)) // LATENTS)


def analysis_margin(architecture: Architecture) -> int:
    """How many latents' worth of pixels (16 each) beyond its own an element of y depends on."""
    reach = 0
    for level in analysis_levels(architecture)[::-1]:
        reach = level.ratio * (reach + level.reach) + level.kernel // 2
    return -(-reach // LATENT_SCALE)


class AnalysisLevel(NamedTuple):
    """A level of g_a: a convolution of that kernel, which makes its input smaller by the ratio, and blocks."""

    scale: int
    ratio: int
    kernel: int
    reach: int  # of the blocks, in elements of the result

    @property
    def margin(self) -> int:
        """How many elements of its result, each as much of its input as the ratio says, it sees around its own."""
        return self.reach + -(-(self.kernel // 2) // self.ratio)


def analysis_levels(architecture: Architecture) -> list[AnalysisLevel]:
    scales = [1, *(level.scale for level in architecture.g_a)]
    ratios = [coarse // fine for fine, coarse in pairwise(scales)]
    return [
        AnalysisLevel(level.scale, ratio, architecture.downsampling_kernel(ratio), _blocks_reach(level))
        for level, ratio in zip(architecture.g_a, ratios, strict=True)
    ]


def synthesis_margin(architecture: Architecture) -> int:
    """How many latents around its own a pixel depends on."""
    return level_margins(architecture)[0] + _blocks_reach(architecture.g_s[0])


def level_margins(architecture: Architecture) -> list[int]:
    """For each level of g_s, how many elements of its result around its own a pixel depends on."""
    margins = [architecture.head_kernel // 2]
    enter = {"subpixel": architecture.upsampling_kernel // 2, "transposed": 1, "modulated": 0}[architecture.upsampling]
    for coarse, fine in list(pairwise(architecture.g_s))[::-1]:
        margins.append(-(-(margins[-1] + _blocks_reach(fine)) // (coarse.scale // fine.scale)) + enter)
    return margins[::-1]


def seen_by_head(architecture: Architecture, piece: Window, at: Window) -> Window:
    """What g_s's last layer sees of a piece of latents, on its own grid, of which there is the window `at`."""
    factor = LATENT_SCALE // architecture.g_s[-1].scale
    return piece.finer(factor).grown(architecture.head_kernel // 2, at)


def latent_margin(architecture: Architecture) -> int:
    """How many cells around its own an element of y_hat depends on: h_mean, then every stage sees one further."""
    at_32 = 1 + len(architecture.stages)
    return 1 + -(-at_32 // PLANE_CELLS)


def _blocks_reach(level: Level) -> int:
    return sum(blocks.reach(block.kind) for block in level.blocks)
