"""The pieces of one big picture, several at a time, in threads that have one thread each.

A network with several threads splits every layer among them, and after each layer they wait for each other. Pieces wait
for nobody, and what is not a network, a third of decoding, is shared as well.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from slimcodec.codec import batch

if TYPE_CHECKING:
    from concurrent.futures import Executor

MOST = 4  # a window has no more pieces, and each takes memory

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(NamedTuple):
    pool: "Executor | None" = None  # None: whoever asks does the work

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results in the order of the items."""
        return self.pool.map(function, items) if self.pool else map(function, items)

    def one_ahead(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The same, one item after the other: the next is worked on while a result is used."""
        if not self.pool:
            yield from map(function, items)
            return
        following = None
        for item in items:
            found = following
            if found:
                found.result()  # before the next begins
            following = self.pool.submit(function, item)
            if found:
                yield found.result()
        if following:
            yield following.result()


ALONE = Workers()


@contextlib.contextmanager
def begin(count: int) -> Iterator[Workers]:
    """So many threads; none if it is one."""
    if count == 1:
        yield ALONE
        return
    with batch.threads_sharing(count) as pool:
        yield Workers(pool)
