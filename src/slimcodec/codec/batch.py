"""Several pictures at a time, in threads of one thread of PyTorch each: no core waits for another.

Processes that have started are faster, but each takes seconds to start, and a model and PyTorch of its own.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    """The function's results in the order of the items, `jobs` of them at a time. What it raises ends it all."""
    if jobs == 1:
        yield from map(function, items)
        return
    from concurrent.futures import ThreadPoolExecutor

    with _sharing_pytorch(jobs) as begin_thread:
        pool = ThreadPoolExecutor(jobs, initializer=begin_thread)
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _sharing_pytorch(jobs: int) -> Iterator[Callable[[], None] | None]:
    """What every thread begins with. PyTorch, if it is there, counts its threads for each thread that calls it; more of
    them than cores would wait for each other."""
    if not (torch := sys.modules.get("torch")):
        yield None
        return
    threads = torch.get_num_threads()
    try:
        yield functools.partial(torch.set_num_threads, max(1, threads // jobs))
    finally:
        torch.set_num_threads(threads)  # for threads that others begin


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
