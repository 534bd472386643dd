"""g_a of a picture, level by level: what a level made is kept as long as the next one sees it.

    pixels ─► level 0 ─► band ─► level 1 ─► band ─► … ─► y

All of g_a may see 14 latents around its own. Passed as a whole by pieces of 64 and what is around them, most of a
picture would be computed twice. A level alone sees a few elements.
"""

import math
from collections.abc import Callable
from functools import partial

from slimcodec.codec import heap
from slimcodec.codec.bands import Band
from slimcodec.codec.grid import LATENT_SCALE, LATENTS, Window, is_big
from slimcodec.codec.networks import Networks
from slimcodec.codec.progress import Progress, part_of, tell
from slimcodec.codec.rounding import Array
from slimcodec.codec.tiling import analysis_levels

PIECE = 256  # elements of its result along both sides that a level makes at once
PANEL = 256  # latents across of what passes all levels before what is beside it
STRIP_AREA, STRIP_EXTENT = 8_192, 16  # about so many latents of a panel are made at once, but so many along it at least


def analysed(
    networks: Networks,
    picture: Callable[[Window], Array],
    window: Window,
    grid: Window,
    progress: Progress | None = None,
) -> Array:
    """y of a window of a picture's latents, which are `grid`, [1, M, h, w]: picture(window of pixels) → [1, 3, h, w].

    With specialists: what `Networks.latents` is given.
    """
    architecture = networks.architecture
    channels = architecture.latents if architecture.specialists == 1 else architecture.g_a[-1].channels
    found, panels = networks.empty(channels, *window.shape), window.even_strips(1 - grid.long_axis, PANEL)
    for number, panel in enumerate(panels):
        report = part_of(progress, number / len(panels), (number + 1) / len(panels))
        _Panel(networks, picture, panel, grid, report).fill(found[:, :, *panel.seen_from(window).slices])
    return found


class _Panel:
    """All levels of a part of a picture."""

    def __init__(
        self,
        networks: Networks,
        picture: Callable[[Window], Array],
        window: Window,
        grid: Window,
        progress: Progress | None,
    ):
        self.networks, self.picture, self.window, self.progress = networks, picture, window, progress
        self.levels, self.along = analysis_levels(networks.architecture), grid.long_axis
        self.last, self.big = len(self.levels) - 1, is_big(grid.coarser(LATENTS))
        self.grids = [grid.finer(LATENT_SCALE // level.scale) for level in self.levels]
        self.channels = [level.channels for level in networks.architecture.g_a]
        self.needed = self._needed()
        self.bands = [Band(partial(self._made, number), self.needed[number], self.along) for number in range(self.last)]
        self.done = 0  # elements of level 0, which takes most of the time

    def fill(self, y: Array) -> None:
        across = self.window.shape[1 - self.along]
        for strip in self.window.even_strips(self.along, max(STRIP_EXTENT, STRIP_AREA // across)):
            self._make(self.last, strip, y[:, :, *strip.seen_from(self.window).slices])

    def _needed(self) -> list[Window]:
        """Of every level's result."""
        found = [self.window]
        for number in range(self.last, 0, -1):
            found.insert(0, self._seen(number, found[0]).finer(self.levels[number].ratio))
        return found

    def _seen(self, number: int, piece: Window) -> Window:
        return piece.grown(self.levels[number].margin, self.grids[number])

    def _made(self, number: int, strip: Window) -> Array:
        found = self.networks.empty(self.channels[number], *strip.shape)
        self._make(number, strip, found)
        return found

    def _make(self, number: int, strip: Window, found: Array) -> None:
        level, given = self.levels[number], self.bands[number - 1].take if number else self.picture
        for piece in strip.even_tiles(PIECE):
            seen = self._seen(number, piece)
            made = self.networks.g_a(number, given(seen.finer(level.ratio)))
            found[:, :, *piece.seen_from(strip).slices] = made[:, :, *piece.seen_from(seen).slices]
            heap.trim(self.big)
            if not number:
                self.done += math.prod(piece.shape)
                tell(self.progress, self.done, math.prod(self.needed[0].shape))
        if number:
            self.bands[number - 1].forget((strip[self.along + 2] - level.margin) * level.ratio)
