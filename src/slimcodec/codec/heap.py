"""The allocator's own memory: what windows have given back to it goes back to the system."""

import ctypes
from collections.abc import Callable
from functools import cache


def trim(big: bool) -> None:
    """For big pictures, between their windows, whose tensors of many sizes would else lie scattered over a heap two to
    three times as large as what is live. It takes some milliseconds; where the C library is not GNU's it does nothing.
    """
    if big and (release := _malloc_trim()):
        release(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # TypeError: Windows has no handle of the process itself
        return None
