"""How large the batches, the crops and the learning rate of each step are."""

from typing import NamedTuple

WARM_UP = 0.02  # share of the steps in which the learning rate rises


class Late(NamedTuple):
    """Other crops for the last steps of a training: large ones hold what small ones cut off."""

    share: float  # of the steps
    batch: int
    crop: int


class Schedule(NamedTuple):
    """The learning rate rises, stays, and falls to zero from a share of the steps on; with restarts, several times."""

    steps: int
    batch: int  # pictures in the global batch
    crop: int  # their side in pixels, a multiple of 64
    decay_from: float = 2 / 3
    restarts: int = 0
    late: Late | None = None

    @property
    def late_from(self) -> int:
        """The first step that is late; their number where none is."""
        return self.steps if self.late is None else round(self.steps * (1 - self.late.share))

    def is_late(self, step: int) -> bool:
        return self.late is not None and step >= self.late_from

    def batch_at(self, step: int) -> int:
        return self.late.batch if self.late and self.is_late(step) else self.batch

    def crop_at(self, step: int) -> int:
        return self.late.crop if self.late and self.is_late(step) else self.crop

    def pixels(self, begin: int, end: int) -> int:
        """Of all crops in the steps from `begin` up to `end`."""
        change = min(max(begin, self.late_from), end)
        late = 0 if self.late is None else (end - change) * self.late.batch * self.late.crop**2
        return (change - begin) * self.batch * self.crop**2 + late

    def learning_rate_factor(self, step: int) -> float:
        """What a step's learning rate is of the highest."""
        length = self.steps / (self.restarts + 1)
        cycle = min(int(step / length), self.restarts)
        done = step - cycle * length
        warm_up = min(1.0, (done + 1) / max(1, WARM_UP * length))
        return warm_up * min(1.0, max(0.0, (1 - done / length) / (1 - self.decay_from)))
