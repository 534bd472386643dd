"""What a run says: on standard output, and with the time of day in run.log.

training/progress ──Status──► a bar in a terminal;  a line now and then anywhere else, and always in run.log
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import StringIO
from multiprocessing import current_process

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from slimcodec.pipeline.plan import Fit
from slimcodec.training.progress import Status

MINUTE, HOUR, DAY = 60, 3600, 86400
WIDTH_OF_LOG = 120
WHOLE_FROM = 100  # pictures a second: fewer are told with a digit after the point
Watch = Callable[[Status], None]


class Teller:
    """Says things to a console, and to a file beside.

    keep     is given what is said, to keep it
    seconds  from one line about a training to the next
    """

    def __init__(self, console: Console, keep: Callable[[str], None], seconds: float = 30):
        self.console, self.keep, self.seconds = console, keep, seconds

    def line(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)  # a line of a log stays one
        self.keep(text)

    def heading(self, stage: str) -> None:
        self.console.rule(f"[bold]{stage}")
        self.keep(f"--- {stage}")

    def table(self, table: Table) -> None:
        self.console.print(table)
        text = StringIO()
        Console(file=text, width=WIDTH_OF_LOG, force_terminal=False).print(table)
        self.keep("\n" + text.getvalue().rstrip())

    @contextmanager
    def training(self, fit: Fit) -> Iterator[Watch]:
        """What a training tells its status to. A bar is there until it ends or breaks off."""
        with ExitStack() as stack:
            if self._has_bars:
                lines, bar = Lines(fit, self.seconds, self.keep), Bar(fit, self.console)
                told: list[Watch] = [stack.enter_context(lines), stack.enter_context(bar)]
            else:
                told = [stack.enter_context(Lines(fit, self.seconds, self.line))]

            def tell(status: Status) -> None:
                for watch in told:
                    watch(status)

            yield tell

    @property
    def _has_bars(self) -> bool:
        """Jobs that others run beside each other would draw theirs over each other."""
        return (
            self.console.is_terminal and not self.console.is_dumb_terminal and current_process().name == "MainProcess"
        )


class Lines:
    """Status → lines: when a training begins or goes on, at most one in so many seconds, and when it ends."""

    def __init__(self, fit: Fit, seconds: float, say: Callable[[str], None]):
        self.fit, self.seconds, self.say = fit, seconds, say
        self.told: float | None = None
        self.unsaid: Status | None = None

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        if self.unsaid:
            self._say(self.unsaid)

    def __call__(self, status: Status) -> None:
        if status.loss is None:
            self.say(f"{self.fit.label}: {_begin(status)}")
        elif self.told is None or time.monotonic() - self.told >= self.seconds:
            self._say(status)
        else:
            self.unsaid = status

    def _say(self, status: Status) -> None:
        self.told, self.unsaid = time.monotonic(), None
        self.say(f"{self.fit.label}: {' · '.join([_steps(status), *numbers(status), *left(status, self.fit)])}")


class Bar(Progress):
    """Status → one bar a training, with the numbers of the lines below it: both fit into 80 columns."""

    def __init__(self, fit: Fit, console: Console):
        self.fit, self.numbers = fit, ""
        name, time_left = TextColumn("{task.description}"), TextColumn("{task.fields[left]}")
        super().__init__(name, BarColumn(12), MofNCompleteColumn(), time_left, console=console)
        self.task = self.add_task(fit.label, left="", total=None)

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.numbers, no_wrap=True, overflow="ellipsis")

    def __call__(self, status: Status) -> None:
        if status.loss is None and status.step:
            self.console.print(f"{self.fit.label}: {_begin(status)}")
        self.numbers = " · ".join(numbers(status))
        self.update(self.task, completed=status.step, total=status.steps, left="".join(left(status, self.fit)))


# ------------------------------------------------------------------------------------------------------ in words


def _begin(status: Status) -> str:
    return f"continues from step {status.step:,} of {status.steps:,}" if status.step else f"{status.steps:,} steps"


def _steps(status: Status) -> str:
    return f"step {status.step:,} of {status.steps:,}"


def numbers(status: Status) -> list[str]:
    """Those that are known."""
    found = []
    if status.loss is not None:
        found.append(f"loss {status.loss:.4g}")
    if status.bpp is not None and status.psnr_db is not None:
        found.append(f"{status.bpp:.3f} bpp {status.psnr_db:.2f} dB at quality {status.quality}")
    if status.pictures_per_second is not None:
        digits = 0 if status.pictures_per_second >= WHOLE_FROM else 1
        found.append(f"{status.pictures_per_second:,.{digits}f} pictures/s")
    return found


def left(status: Status, fit: Fit) -> list[str]:
    """Time to the end of the training, and of the run: more where not only training is to come."""
    if status.seconds_left is None or status.pixels_per_second is None:
        return []
    if fit.is_last_work and not fit.pixels_after:
        return [f"{duration(status.seconds_left)} left"]
    of_run = duration(status.seconds_left + fit.pixels_after / status.pixels_per_second)
    bound = "" if fit.is_last_work else "≥ "
    return [f"{duration(status.seconds_left)} left, of the run {bound}{of_run}"]


def duration(seconds: float) -> str:
    """In the two largest units: 8 s, 3 min 20 s, 2 h 05 min, 1 d 03 h."""
    whole = round(seconds)
    if whole >= DAY:
        return f"{whole // DAY} d {whole % DAY // HOUR:02d} h"
    if whole >= HOUR:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE:02d} min"
    if whole >= MINUTE:
        return f"{whole // MINUTE} min {whole % MINUTE:02d} s"
    return f"{whole} s"
