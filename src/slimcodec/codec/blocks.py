"""The kinds of blocks that a transform may have. One is added here, and nowhere else.

A block adds to its input what a chain of convolutions makes of it, with a ReLU between each two:

    x ──► + ──► x + last(relu(… relu(first(x))))        first: channels → hidden, last: hidden → channels
    └─► convolutions ─┘

What a kind costs and how far it sees follows from its convolutions. Nothing here needs PyTorch: codec/layers builds it.
"""

from typing import NamedTuple


class Convolution(NamedTuple):
    """One of a block's. A depthwise one keeps the number of channels."""

    name: str  # of its weights in a model
    kernel: int  # odd
    depthwise: bool = False


# Kind → its convolutions. The first is called expand and the last project: pruning and starting weights know these.
KINDS: dict[str, tuple[Convolution, ...]] = {
    "residual": (Convolution("expand", 3), Convolution("project", 3)),
    "depthwise": (Convolution("expand", 1), Convolution("depthwise", 3, depthwise=True), Convolution("project", 1)),
    "pointwise": (Convolution("expand", 1), Convolution("project", 1)),
}


def widths(kind: str, channels: int, hidden: int) -> list[tuple[Convolution, int, int]]:
    """Each convolution of a block with its input and output channels."""
    last = len(KINDS[kind]) - 1
    return [
        (convolution, hidden if number else channels, hidden if number < last else channels)
        for number, convolution in enumerate(KINDS[kind])
    ]


def macs(kind: str, channels: int, hidden: int) -> int:
    """Multiply–accumulates of a block for each element of its grid."""
    return sum(
        convolution.kernel**2 * outputs * (1 if convolution.depthwise else inputs)
        for convolution, inputs, outputs in widths(kind, channels, hidden)
    )


def reach(kind: str) -> int:
    """How many elements around its own an element of the result depends on."""
    return sum(convolution.kernel // 2 for convolution in KINDS[kind])
