"""What the rounds of pruning leave in rounds.json, and what to try next, which follows from it alone.

Nothing here needs PyTorch, so a run's configuration and its earlier rounds can be checked before it is imported.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slimcodec import InvalidInput
from slimcodec.codec import json_files

RECORDS = "rounds.json"
REMEDY = "remove it: the same command judges the rounds again, and trains none of them anew"
GATES = ("strict", "record")
NEAR_TARGET = 1.1


class Round(NamedTuple):
    """One attempt. BD-rates are None where they are undefined: no overlap, or a curve that is not monotonic."""

    number: int  # counts accepted rounds: the attempt is for round `number`
    budget: float  # MAC/pixel
    passes: int  # of fine-tuning; more than one when the first was not enough
    macs_per_pixel: float
    bd_rate_percent: float | None  # against the teacher
    bd_rate_percent_against_previous: float | None
    coverage: float
    accepted: bool
    seconds: float
    directory: str  # the model directory, relative to the rounds' directory


class Attempt(NamedTuple):
    number: int
    base: str | None  # directory of the round it starts from, None for the first student
    base_macs_per_pixel: float
    budget: float
    passes: int

    @property
    def work(self) -> str:
        return f"{self.number:02d}-{self.budget:.0f}.work"


class Rules(NamedTuple):
    """What the rounds go by. `gate`: strict accepts only within max_bd_rate_percent; record accepts every round."""

    target_macs_per_pixel: float
    shrink: float = 0.75  # a round's budget over the cost before it
    gate: str = "strict"
    max_bd_rate_percent: float = 1.0
    max_passes: int = 2
    max_halvings: int = 2


def rule_problem(name: str, value: Any) -> str | None:
    """What is wrong with a value of a field of Rules, or None. By wrong rules rounds would never end or never begin."""
    right, problem = {
        "gate": (value in GATES, f"must be {' or '.join(GATES)}"),
        # A share of 1 or more shrinks nothing: every round would be accepted, and none would be the last.
        "shrink": (_is_number(value) and 0 < value < 1, "must be between 0 and 1"),
        "target_macs_per_pixel": (_is_number(value) and value > 0, "must be above 0"),
        "max_bd_rate_percent": (_is_number(value), "must be a number"),
        "max_passes": (type(value) is int and value >= 1, "must be 1 or more"),
        "max_halvings": (type(value) is int and value >= 0, "must be 0 or more"),
    }[name]
    return None if right else problem


def check_rules(rules: Rules) -> None:
    """Raises InvalidInput, naming the setting, for rules by which rounds would never end or never begin."""
    for name, value in rules._asdict().items():
        if problem := rule_problem(name, value):
            raise InvalidInput(f"prune.{name}={value}: {problem}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def next_attempt(records: Sequence[Round], start_macs_per_pixel: float, rules: Rules) -> Attempt | None:
    """What to try after these rounds; None when the target is reached or nothing is left to try."""
    accepted = [record for record in records if record.accepted]
    macs = accepted[-1].macs_per_pixel if accepted else start_macs_per_pixel
    if macs <= rules.target_macs_per_pixel:
        return None
    number, base = len(accepted) + 1, accepted[-1].directory if accepted else None
    failures = [record for record in records if record.number == number]
    if not failures:
        budget = rules.shrink * macs
        if budget < NEAR_TARGET * rules.target_macs_per_pixel:  # no round of its own for the last few per cent
            budget = rules.target_macs_per_pixel
        return Attempt(number, base, macs, budget, passes=1)
    last = failures[-1]
    if last.passes < rules.max_passes:
        return Attempt(number, base, macs, last.budget, last.passes + 1)
    if len({record.budget for record in failures}) > rules.max_halvings:
        return None
    return Attempt(number, base, macs, (macs + last.budget) / 2, passes=1)


def count_planned(records: Sequence[Round], start_macs_per_pixel: float, rules: Rules) -> int:
    """How many attempts are to come after these rounds, if each is accepted and lands on its budget."""
    planned = list(records)
    while attempt := next_attempt(planned, start_macs_per_pixel, rules):
        planned.append(Round(attempt.number, attempt.budget, 1, attempt.budget, None, None, 1.0, True, 0.0, ""))
    return len(planned) - len(records)


def read_records(directory: Path) -> list[Round]:
    """The rounds that an earlier run finished in this directory. Raises InvalidInput when their file is damaged."""
    path = directory / RECORDS
    found = json_files.read(path, kind=list, remedy=REMEDY) if path.is_file() else []
    try:
        return [json_files.record(Round, values) for values in found]
    except ValueError as error:
        raise InvalidInput(f"{path}: is damaged (in a round {error}); {REMEDY}") from error
