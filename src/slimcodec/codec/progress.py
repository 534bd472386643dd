"""How long work says how far it is."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

Progress = Callable[[float], None]  # is called with the share that is done, 0 to 1

LINE_SECONDS = 30
LINE = "{desc}: {n_fmt} of {total_fmt} ({unit}) in {elapsed}, {remaining} left{postfix}"


def tell(progress: Progress | None, done: int, of: int) -> None:
    if progress:
        progress(done / of)


def part_of(progress: Progress | None, begin: float, end: float) -> Progress | None:
    """A report for a part of the work: its 0 to 1 is `begin` to `end` of the whole."""
    return progress and (lambda done: progress(begin + (end - begin) * done))


def bar(iterable: Iterable[Any] | None = None, **named: Any) -> Any:
    """tqdm's bar on standard error, with its arguments; where that is no terminal, a line every half minute."""
    from tqdm import tqdm  # type: ignore[import-untyped]  # late: a command that decodes one picture needs none

    if sys.stderr is None or sys.stderr.isatty():
        return tqdm(iterable, disable=sys.stderr is None, **named)
    often = {"mininterval": LINE_SECONDS, "maxinterval": LINE_SECONDS, "delay": LINE_SECONDS}
    return tqdm(iterable, file=_Lines(), bar_format=LINE, **often, **named)


class _Lines:
    """What tqdm writes over and over at one place, line by line."""

    def write(self, text: str) -> None:
        if text := text.strip():
            print(text, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()
