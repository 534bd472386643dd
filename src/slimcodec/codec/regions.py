"""g_s where every cell of a picture has a specialist of its own: its weights and no others' run for that cell.

    y_hat ─► rows, sorted by specialist ─► segment ─► look around ─► segment ─► … ─► last layer ─► rows ─► x_hat

A row is an element of a grid with all its channels. Those of a specialist follow each other, so that nearly every layer
is a product of some rows and a matrix. A segment is several layers on some rows, few enough for what is between two
layers to stay in the cache. Its first layer alone may see further than its own row: where the neighbours are, whichever
specialist they belong to, is one table of numbers. Each place is computed once, and costs what one specialist costs.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from slimcodec.codec.architecture import Architecture
from slimcodec.codec.arrays import array_namespace, rows_of
from slimcodec.codec.blocks import widths
from slimcodec.codec.grid import LATENT_SCALE, LATENTS, Window, whole
from slimcodec.codec.heads import of_elements, of_specialist, rendered
from slimcodec.codec.networks import Head, Networks, Synthesis, Weights
from slimcodec.codec.rounding import Array
from slimcodec.codec.rows import Rows
from slimcodec.codec.tiling import level_margins

ENTER, FIRST, MIDDLE, LAST = "enter", "first", "middle", "last"  # a layer enters a level, or is one of a block's


class Layer(NamedTuple):
    """A convolution of g_s, as the module is called."""

    name: str
    role: str
    kernel: int
    inputs: int
    outputs: int
    depthwise: bool = False
    ratio: int = 1  # of a pixel shuffle after it

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of its weight in a model."""
        return self.outputs, 1 if self.depthwise else self.inputs, self.kernel, self.kernel


class Segment(NamedTuple):
    """Layers of one level, of which the first alone may see what is around."""

    level: int
    layers: tuple[Layer, ...]

    @property
    def margin(self) -> int:
        return self.layers[0].kernel // 2

    @property
    def carries(self) -> bool:
        """Whether it begins within a block: it is given what the block will add to."""
        return self.layers[0].role != ENTER

    @property
    def hands_on(self) -> bool:
        """Whether it ends within a block."""
        return self.layers[-1].role in (FIRST, MIDDLE)

    @property
    def kept(self) -> list[int]:
        """The place of the layer, if it has one, to whose result a block adds that begins here and ends later."""
        before = [place for place, layer in enumerate(self.layers) if layer.role in (ENTER, LAST)]
        return before[-1:] if self.hands_on else []


def segments(architecture: Architecture) -> list[Segment]:
    """Those of g_s without its last layer."""
    found: list[Segment] = []
    for number in range(len(architecture.g_s)):
        layers = list(_layers(architecture, number))
        begins = [0, *(place for place, layer in enumerate(layers) if place and layer.kernel > 1), len(layers)]
        found += [Segment(number, tuple(layers[begin:end])) for begin, end in pairwise(begins)]
    return found


def _layers(architecture: Architecture, number: int) -> Iterator[Layer]:
    """Of a level."""
    level, name = architecture.g_s[number], f"levels.{number}"
    if number:
        above = architecture.g_s[number - 1]
        ratio, kernel = above.scale // level.scale, architecture.upsampling_kernel
        yield Layer(f"{name}.enter.conv", ENTER, kernel, above.channels, level.channels * ratio**2, ratio=ratio)
    else:
        yield Layer(f"{name}.enter", ENTER, 1, architecture.latents, level.channels)
    for place, block in enumerate(level.blocks):
        convolutions = widths(block.kind, level.channels, block.hidden)
        roles = [FIRST, *[MIDDLE] * (len(convolutions) - 2), LAST]
        for (convolution, inputs, outputs), role in zip(convolutions, roles, strict=True):
            of_block = f"{name}.blocks.{place}.{convolution.name}"
            yield Layer(of_block, role, convolution.kernel, inputs, outputs, convolution.depthwise)


def layer_weights(architecture: Architecture, tensors: Mapping[str, np.ndarray]) -> dict[str, Weights]:
    """g_s's tensors → its layers' weights by name, but for the last one's.

    Outputs that are shuffled have the order row, column, channel.
    """
    found = {}
    for layer in all_layers(architecture):
        weight, bias = (np.asarray(tensors[f"{layer.name}.{part}"], np.float32) for part in ("weight", "bias"))
        order = np.arange(layer.outputs).reshape(-1, layer.ratio**2).T.reshape(-1)
        found[layer.name] = _by_rows(weight[order], bias[order], depthwise=layer.depthwise)
    return found


def all_layers(architecture: Architecture) -> list[Layer]:
    return [layer for segment in segments(architecture) for layer in segment.layers]


def _by_rows(weight: np.ndarray, bias: np.ndarray, *, depthwise: bool = False) -> Weights:
    """A depthwise layer's places come first, as its rows are channels."""
    places = weight.transpose(0, 2, 3, 1).reshape(len(bias), -1)
    return Weights(np.ascontiguousarray(places.T if depthwise else places), bias)


def native(layer: Weights, networks: Networks) -> Weights:
    return Weights(networks.native(layer.weight), networks.native(layer.bias))


class Regions:
    """`who`: uint8 [rows, columns], the specialist of every cell of a picture."""

    def __init__(self, networks: Networks, who: np.ndarray):
        self.networks, self.who = networks, who
        self.architecture = networks.architecture
        self.segments, self.margins = segments(self.architecture), level_margins(self.architecture)

    def features(self, y_hat: Array, seen: Window, piece: Window, grid: Window) -> tuple[Array, Window]:
        """As `Networks.features`."""
        if alone := self._only(seen):
            return alone[1].features(y_hat, seen, piece, grid)
        found, rows = self._run(y_hat, seen, piece, grid)
        return rows.on_grid(found), rows.window

    def g_s(self, y_hat: Array, seen: Window, piece: Window, grid: Window, head: Head | None) -> Array:
        """As `Networks.g_s`, with a head for every specialist."""
        heads = head or self.networks.head
        if alone := self._only(seen):
            who, g_s = alone
            return g_s.g_s(y_hat, seen, piece, grid, of_specialist(heads, who))
        found, rows = self._run(y_hat, seen, piece, grid)
        scale = self.architecture.g_s[-1].scale
        wanted = piece.finer(LATENT_SCALE // scale)
        return rendered(self.networks, found, rows, wanted, lambda who: of_specialist(heads, who))

    def rows(self, y_hat: Array, seen: Window, piece: Window, grid: Window) -> tuple[Array, Rows]:
        """As `Networks.rows`."""
        if alone := self._only(seen):
            return alone[1].rows(y_hat, seen, piece, grid)
        return self._run(y_hat, seen, piece, grid)

    def whose(self, window: Window, side: int) -> np.ndarray:
        return of_elements(self.who, window, side)

    def alone(self, window: Window) -> Callable[[Array], Array]:
        """y_hat → x_hat, of a window of cells as a picture of its own."""
        part, at = Regions(self.networks, self.who[window.slices]), whole(window.shape).finer(LATENTS)
        return lambda y_hat: part.g_s(y_hat, at, at, at, None)

    def _only(self, seen: Window) -> tuple[int, Synthesis] | None:
        """The specialist of all of a window, and its g_s for whole pieces, if there is one."""
        who = np.unique(self.who[seen.coarser(LATENTS).slices]).tolist()
        found = self.networks.alone(who[0]) if len(who) == 1 else None
        return (who[0], found) if found else None

    def _run(self, y_hat: Array, seen: Window, piece: Window, grid: Window) -> tuple[Array, Rows]:
        """What the last layer sees."""
        rows = Rows.of(seen, self.whose(seen, LATENTS))
        found, carried = rows.taken_from(y_hat), None
        for segment in self.segments:
            if segment.level and not segment.carries:
                found, rows = self._trimmed(found, rows, piece, grid, segment.level - 1)
            if segment.carries and carried is None:
                carried = found
            found, carried = self._through(segment, found, carried, rows)
            rows = rows.finer(segment.layers[0].ratio)
        return self._trimmed(found, rows, piece, grid, len(self.margins) - 1)

    def _through(self, segment: Segment, seen: Array, carried: Array | None, rows: Rows) -> tuple[Array, Array | None]:
        """What a segment's first layer sees, and what the block that it begins in adds to → the same of the next."""
        first, networks, end = segment.layers[0], self.networks, len(segment.layers) - 1
        sees = rows.seen(seen, 1 if first.depthwise else first.kernel)
        finer = rows.finer(first.ratio)  # after the first layer
        rooms = {
            place: (finer if place else rows).room(seen, segment.layers[place].outputs)
            for place in {*segment.kept, end}
        }
        for who, part in rows.parts(networks.rows_at_once):
            x, added = sees(part), None if carried is None else carried[part]
            for place, layer in enumerate(segment.layers):
                weights, times = networks.layers[who][layer.name], first.ratio**2 if place else 1
                out = rooms[place][part.start * times : part.stop * times] if place in rooms else None
                if layer.role == FIRST and added is None:
                    added = x
                if layer.depthwise:
                    x = networks.depthwise(seen, rows.around(layer.kernel)[part], weights, out=out)
                else:
                    relu, adds = layer.role in (FIRST, MIDDLE), layer.role == LAST
                    x = networks.linear(x, weights, out=out, relu=relu, added=added if adds else None)
                    added = None if adds else added
                x = _unshuffled(x, layer)
        kept = [_unshuffled(rooms[place], segment.layers[place]) for place in segment.kept]
        return _unshuffled(rooms[end], segment.layers[end]), kept[0] if kept else carried if segment.hands_on else None

    def _trimmed(self, found: Array, rows: Rows, piece: Window, grid: Window, level: int) -> tuple[Array, Rows]:
        """Without the rows that nothing of the piece depends on any more."""
        factor = LATENT_SCALE // self.architecture.g_s[level].scale
        left = piece.finer(factor).grown(self.margins[level], grid.finer(factor))
        if left == rows.window:
            return found, rows
        kept, rows = rows.within(left)
        return rows_of(found, kept), rows


def _unshuffled(x: Array, layer: Layer) -> Array:
    """After a pixel shuffle each row has become several, without a value moving."""
    return x if layer.ratio == 1 else array_namespace(x).reshape(x, (-1, layer.outputs // layer.ratio**2))
