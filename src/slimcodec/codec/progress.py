"""How long work says how far it is."""

from collections.abc import Callable

Progress = Callable[[float], None]  # is called with the share that is done, 0 to 1


def tell(progress: Progress | None, done: int, of: int) -> None:
    if progress:
        progress(done / of)


def part_of(progress: Progress | None, begin: float, end: float) -> Progress | None:
    """A report for a part of the work: its 0 to 1 is `begin` to `end` of the whole."""
    return progress and (lambda done: progress(begin + (end - begin) * done))
