"""The prune–finetune loop and its acceptance rule.

    measure → budget → prune a copy → rebuild → fine-tune by distillation → BD-rate against the teacher
            → accept | fine-tune longer | take half the step | stop

What to try next follows from the records of the rounds so far (`next_attempt`), and every artefact is a model directory
on disk, so a run that was killed anywhere continues from its last complete piece.
"""

import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slimcodec import InvalidInput
from slimcodec.codec import json_files, models
from slimcodec.evaluation.curves import BdRate, Curve, bd_rate
from slimcodec.training import parallel

RECORDS = "rounds.json"
REMEDY = "remove it: the same command judges the rounds again, and trains none of them anew"
NEAR_TARGET = 1.1
MINIMUM_COVERAGE = 0.95  # of the teacher's range from the lowest to the highest quality


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
    """How to go about it. `gate`: strict accepts only within max_bd_rate_percent; record accepts all and goes on."""

    target_macs_per_pixel: float
    shrink: float = 0.75  # a round's budget over the cost before it
    gate: str = "strict"
    max_bd_rate_percent: float = 1.0
    max_passes: int = 2
    max_halvings: int = 2


def check_rules(rules: Rules) -> None:
    """Raises InvalidInput, naming the setting, for rules by which rounds would never end or never begin."""
    wrong = {
        "gate": rules.gate not in ("strict", "record") and "must be strict or record",
        # A share of 1 or more shrinks nothing: every round would be accepted, and none would be the last.
        "shrink": not (_is_number(rules.shrink) and 0 < rules.shrink < 1) and "must be between 0 and 1",
        "target_macs_per_pixel": not (_is_number(rules.target_macs_per_pixel) and rules.target_macs_per_pixel > 0)
        and "must be above 0",
        "max_bd_rate_percent": not _is_number(rules.max_bd_rate_percent) and "must be a number",
        "max_passes": not (type(rules.max_passes) is int and rules.max_passes >= 1) and "must be 1 or more",
        "max_halvings": not (type(rules.max_halvings) is int and rules.max_halvings >= 0) and "must be 0 or more",
    }
    for name, problem in wrong.items():
        if problem:
            raise InvalidInput(f"prune.{name}={getattr(rules, name)}: {problem}")


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


def is_accepted(result: BdRate | None, rules: Rules) -> bool:
    """The gate. A curve that is not monotonic, or covers under 95 % of the teacher's range, is no ground to accept."""
    if rules.gate == "record":
        return True
    return (
        result is not None
        and result.monotonic
        and result.coverage >= MINIMUM_COVERAGE
        and result.percent <= rules.max_bd_rate_percent
    )


def rounds(
    student: Path,
    teacher_curve: Curve | None,
    *,
    directory: Path,
    scope: str,
    rules: Rules,
    prune_to: Callable[[Path, float, Path], Any],
    finetune: Callable[[Path, Path], Any],
    measure: Callable[[Path], Curve],
) -> Iterator[Round]:
    """Yield every attempt from `student` to the target, those of an earlier run first.

    scope                                                     decoder or encoder: whose MAC/pixel the budgets are
    prune_to(model directory, budget, new model directory)    writes a pruned model directory
    finetune(model directory, new model directory)            writes a trained one, continuing if it was interrupted
    measure(model directory)                                  the validation curve, by estimated bits

    Of several processes rank zero prunes, measures and judges; the others (teacher_curve=None) fine-tune with it.
    """
    check_rules(rules)
    directory.mkdir(parents=True, exist_ok=True)
    records = read_records(directory)
    yield from records
    count = f"{scope}_macs_per_pixel"
    start = models.load(student).info[count]
    measure = functools.cache(measure)  # every attempt from a base is compared with it again

    def judge(attempt: Attempt, base: Path, tuned: Path, began: float) -> None:
        curve = measure(tuned)
        against_teacher, against_base = _compare(teacher_curve, curve), _compare(measure(base), curve)
        accepted = is_accepted(against_teacher, rules)
        record = Round(
            number=attempt.number,
            budget=attempt.budget,
            passes=attempt.passes,
            macs_per_pixel=models.load(tuned).info[count],
            bd_rate_percent=_percent(against_teacher),
            bd_rate_percent_against_previous=_percent(against_base),
            coverage=against_teacher.coverage if against_teacher else 0.0,
            accepted=accepted,
            seconds=time.monotonic() - began,
            directory=f"{attempt.number:02d}" if accepted else str(tuned.relative_to(directory)),
        )
        models.add_figures(tuned, {"validation": _figure(curve, record)})
        if accepted:
            # Copied, not moved: if the run is killed here, the same command finds the work done and copies again.
            models.copy(tuned, directory / record.directory)
        found = [item._asdict() for item in (*records, record)]
        models.write_text(directory / RECORDS, json.dumps(found, indent=1))

    while attempt := next_attempt(records, start, rules):
        base = directory / attempt.base if attempt.base else student
        began = time.monotonic()
        tuned = _prune_and_tune(attempt, base, directory / attempt.work, prune_to, finetune)
        parallel.on_rank_zero(judge, attempt, base, tuned, began)
        records = read_records(directory)
        yield records[-1]


def read_records(directory: Path) -> list[Round]:
    """The rounds that an earlier run finished in this directory. Raises InvalidInput when their file is damaged."""
    path = directory / RECORDS
    found = json_files.read(path, kind=list, remedy=REMEDY) if path.is_file() else []
    try:
        return [json_files.record(Round, values) for values in found]
    except ValueError as error:
        raise InvalidInput(f"{path}: is damaged (in a round {error}); {REMEDY}") from error


def _prune_and_tune(attempt: Attempt, base: Path, work: Path, prune_to: Callable, finetune: Callable) -> Path:
    """The model directory of the attempt's last pass; what an earlier attempt or a killed run left is used again."""
    model = work / "pruned"
    parallel.on_rank_zero(lambda: model.is_dir() or prune_to(base, attempt.budget, model))
    for number in range(1, attempt.passes + 1):
        before, model = model, work / f"pass-{number}"
        if not model.is_dir():
            finetune(before, model)
    return model


def _compare(anchor: Curve, test: Curve) -> BdRate | None:
    try:
        return bd_rate(anchor, test)
    except InvalidInput:  # no PSNR in common: a collapsed student
        return None


def _percent(result: BdRate | None) -> float | None:
    return result.percent if result and math.isfinite(result.percent) else None


def _figure(curve: Curve, record: Round) -> dict[str, Any]:
    return {
        "bits": "estimated",
        "bd_rate_percent_against_teacher": record.bd_rate_percent,
        "coverage": record.coverage,
        "curve": {"quality": curve.quality, "bpp": curve.bpp, "psnr_db": curve.values},
    }
