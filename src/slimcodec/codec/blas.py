"""NumPy's matrix products with one thread, where the threads that call them have all cores already.

OpenBLAS takes every core for a product, and its threads then spin for a while: other work waits for them.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

_lock = threading.Lock()
_calls = 0  # now in progress, in all threads
_limit: Any = None


@contextlib.contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """While any thread is in here. The last to leave puts back what was there."""
    if not wanted:
        yield
        return
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _calls, _limit
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with _lock:
        _calls += 1
        if _calls == 1:
            _limit = threadpool_limits(1, user_api="blas")


def _leave() -> None:
    global _calls
    with _lock:
        _calls -= 1
        if not _calls:
            _limit.restore_original_limits()
