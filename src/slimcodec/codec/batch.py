"""Several pictures at a time, in threads that share the cores: no core waits for another.

Processes that have started are a little faster, but each takes time to start, and a model and its library of its own.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from slimcodec.codec import blas

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

Item = TypeVar("Item")
Result = TypeVar("Result")

_this_thread = threading.local()


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    """The function's results in the order of the items, `jobs` of them at a time. What it raises ends it all."""
    if jobs == 1:
        yield from map(function, items)
        return
    with threads_sharing(jobs) as pool:
        yield from pool.map(function, items)


@contextlib.contextmanager
def threads_sharing(count: int) -> Iterator["ThreadPoolExecutor"]:
    """So many threads, each with its share of this thread's threads: more than there are cores would wait in turn."""
    from concurrent.futures import ThreadPoolExecutor

    share = max(1, threads() // count)
    with _sharing_pytorch(count) as share_pytorch, blas.one_thread():

        def begin() -> None:
            _this_thread.threads = share
            share_pytorch()

        pool = ThreadPoolExecutor(count, initializer=begin)
        try:
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _sharing_pytorch(count: int) -> Iterator[Callable[[], None]]:
    """What every thread begins with. PyTorch, if it is there, counts its threads for each thread that calls it."""
    if not (torch := sys.modules.get("torch")):
        yield lambda: None
        return
    of_this_thread = torch.get_num_threads()
    try:
        yield lambda: torch.set_num_threads(max(1, of_this_thread // count))
    finally:
        torch.set_num_threads(of_this_thread)  # for threads that others begin


def threads() -> int:
    """That this thread may compute with: its share of others', or as many as OMP_NUM_THREADS says, as for PyTorch, or
    as this process has cores. ONNX Runtime looks at neither."""
    share: int | None = getattr(_this_thread, "threads", None)
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return share or (int(wanted) if wanted.isdecimal() and int(wanted) else cores())


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
