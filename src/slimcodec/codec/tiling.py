"""How far the networks see, and how pieces of big pictures pass them.

Big pictures pass g_a and g_s piece by piece. A piece is run together with its surroundings as far as the network sees,
the margin, and the margin is cut off again: where the picture ends, the network pads with zeros as it always does.
"""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from slimcodec.codec import blocks
from slimcodec.codec.architecture import Architecture, Level
from slimcodec.codec.grid import LATENT_SCALE, LATENTS, PLANE_CELLS, Window
from slimcodec.codec.network import Synthesis


def hyper_margin(architecture: Architecture) -> int:
    """How many cells around its own an element of z depends on: h_a's three convolutions, at 1/16, 1/32 and 1/32."""
    kernel = architecture.downsampling_kernel(2) // 2
    return -(-(kernel + 2 * (1 + kernel)) // LATENTS)


def analysis_margin(architecture: Architecture) -> int:
    """How many latents' worth of pixels (16 each) beyond its own an element of y depends on."""
    reach = 0
    finer = [level.scale for level in architecture.g_a[:-1]]
    for level, scale in zip(architecture.g_a[::-1], [*finer[::-1], 1], strict=True):
        ratio = level.scale // scale
        reach = ratio * (reach + _blocks_reach(level)) + architecture.downsampling_kernel(ratio) // 2
    return -(-reach // LATENT_SCALE)


def synthesis_margin(architecture: Architecture) -> int:
    """How many latents around its own a pixel depends on."""
    return level_margins(architecture)[0] + _blocks_reach(architecture.g_s[0])


def level_margins(architecture: Architecture) -> list[int]:
    """For each level of g_s, how many elements of its result around its own a pixel depends on."""
    margins = [architecture.head_kernel // 2]
    enter = architecture.upsampling_kernel // 2 if architecture.upsampling == "subpixel" else 1
    for coarse, fine in list(pairwise(architecture.g_s))[::-1]:
        margins.append(-(-(margins[-1] + _blocks_reach(fine)) // (coarse.scale // fine.scale)) + enter)
    return margins[::-1]


class Trimmed:
    """Runs g_s on a piece of the latents and cuts each level's margin off as soon as it has served.

    `grid`: all latents of the picture.
    """

    def __init__(self, g_s: Synthesis, architecture: Architecture, grid: Window):
        self.g_s, self.grid = g_s, grid
        self.factors = [LATENT_SCALE // level.scale for level in architecture.g_s]
        self.margins = level_margins(architecture)

    def __call__(self, y_hat: Tensor, seen: Window, piece: Window) -> Tensor:
        """y_hat [1, M, h, w] of the window `seen` → x_hat [1, 3, 16·h', 16·w'] of the piece within."""
        x_hat, at = self.g_s(y_hat, self._trim(seen, piece)), self._left(piece, -1)
        scale = LATENT_SCALE // self.factors[-1]
        return x_hat[:, :, *piece.finer(LATENT_SCALE).seen_from(at.finer(scale)).slices]

    def features(self, y_hat: Tensor, seen: Window, piece: Window) -> tuple[Tensor, Window]:
        """What the head sees of a piece, and which window of its grid that is."""
        return self.g_s.features(y_hat, self._trim(seen, piece)), self._left(piece, -1)

    def _trim(self, seen: Window, piece: Window) -> Callable[[int, Tensor], Tensor]:
        at = seen  # what x covers, on the grid of the level before

        def trim(number: int, x: Tensor) -> Tensor:
            nonlocal at
            factor, before = self.factors[number], self.factors[max(0, number - 1)]
            found = at.finer(factor // before)
            at = self._left(piece, number)
            return x[:, :, *at.seen_from(found).slices]

        return trim

    def _left(self, piece: Window, number: int) -> Window:
        """What of a level's result is kept for a piece."""
        factor = self.factors[number]
        return piece.finer(factor).grown(self.margins[number], self.grid.finer(factor))


def latent_margin(architecture: Architecture) -> int:
    """How many cells around its own an element of y_hat depends on: h_mean, then every stage sees one further."""
    at_32 = 1 + len(architecture.stages)
    return 1 + -(-at_32 // PLANE_CELLS)


def _blocks_reach(level: Level) -> int:
    return sum(blocks.reach(block.kind) for block in level.blocks)
