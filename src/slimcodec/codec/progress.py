"""How long work says how far it is."""

from collections.abc import Callable

Progress = Callable[[float], None]  # is called with the share that is done, 0 to 1


def tell(progress: Progress | None, done: int, of: int) -> None:
    if progress:
        progress(done / of)
