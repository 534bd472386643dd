"""The kinds of blocks that a transform may have. One is added here, and nowhere else.

A block adds to its input what a chain of convolutions makes of it, with a ReLU between each two, or a gate:

    x ──► + ──► x + last(relu(… relu(first(x))))        first: channels → hidden, last: hidden → channels
    └─► convolutions ─┘

What a kind costs and how far it sees follows from its convolutions. Nothing here needs PyTorch: codec/layers builds it.
"""

from typing import NamedTuple

GROUPS = 2  # of a grouped convolution: each sees its own half of the channels, so that it costs half
QUARTERS = GROUPS**2  # of the hidden channels between two of them: from each half to each half goes one


class Convolution(NamedTuple):
    """One of a block's. A depthwise one keeps the number of channels."""

    name: str  # of its weights in a model
    kernel: int  # odd
    depthwise: bool = False
    gates: bool = False  # instead of a ReLU, its sigmoid multiplies what it sees: attention to what is around
    grouped: bool = False  # the last one's inputs are shuffled before, so that each half sees both (ShuffleNet, 2018)


# Kind → its convolutions. The first is called expand and the last project: pruning and starting weights know these.
KINDS: dict[str, tuple[Convolution, ...]] = {
    "residual": (Convolution("expand", 3), Convolution("project", 3)),
    "depthwise": (Convolution("expand", 1), Convolution("depthwise", 3, depthwise=True), Convolution("project", 1)),
    "pointwise": (Convolution("expand", 1), Convolution("project", 1)),
    "shuffle": (
        Convolution("expand", 1, grouped=True),
        Convolution("depthwise", 3, depthwise=True),
        Convolution("project", 1, grouped=True),
    ),
    "attention": (
        Convolution("expand", 1),
        Convolution("gate", 7, depthwise=True, gates=True),
        Convolution("project", 1),
    ),
}


def widths(kind: str, channels: int, hidden: int) -> list[tuple[Convolution, int, int]]:
    """Each convolution of a block with its input and output channels."""
    last = len(KINDS[kind]) - 1
    return [
        (convolution, hidden if number else channels, hidden if number < last else channels)
        for number, convolution in enumerate(KINDS[kind])
    ]


def groups(convolution: Convolution, inputs: int) -> int:
    """How many groups of channels it has that do not see each other."""
    return inputs if convolution.depthwise else GROUPS if convolution.grouped else 1


def is_grouped(kind: str) -> bool:
    """Whether its channels must come in halves, and its hidden channels in quarters."""
    return any(convolution.grouped for convolution in KINDS[kind])


def is_plain(kind: str) -> bool:
    """Whether it is a chain with a ReLU between each two, and nothing else."""
    return not any(convolution.grouped or convolution.gates for convolution in KINDS[kind])


def products(kind: str, hidden: int) -> int:
    """Multiplications by gates, for each element of its grid."""
    return hidden * sum(convolution.gates for convolution in KINDS[kind])


def macs(kind: str, channels: int, hidden: int) -> int:
    """Multiply–accumulates of a block for each element of its grid."""
    return products(kind, hidden) + sum(
        convolution.kernel**2 * outputs * inputs // groups(convolution, inputs)
        for convolution, inputs, outputs in widths(kind, channels, hidden)
    )


def reach(kind: str) -> int:
    """How many elements around its own an element of the result depends on."""
    return sum(convolution.kernel // 2 for convolution in KINDS[kind])
