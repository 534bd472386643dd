"""The prune–finetune loop and its acceptance rule.

    next_attempt → prune to its budget → fine-tune by distillation → BD-rate against the teacher → is_accepted
                 → and again: from the accepted model | fine-tuned longer | with half the step | or stop

What to try next follows from the records of the attempts so far (`next_attempt`). Every model is a directory on disk,
so a run that was killed anywhere continues from its last complete one.
"""

import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slimcodec import InvalidInput
from slimcodec.codec import models, zoo
from slimcodec.codec.atomic import write_text
from slimcodec.evaluation.curves import BdRate, Curve, bd_rate
from slimcodec.training import parallel
from slimcodec.training.records import RECORDS, Attempt, Round, Rules, check_rules, next_attempt, read_records

MINIMUM_COVERAGE = 0.95  # of the teacher's range from the lowest to the highest quality


class Outcome(NamedTuple):
    """What an attempt came to. A BD-rate is None without any PSNR in common: the student collapsed."""

    model: Path  # where the attempt left it
    curve: Curve
    macs_per_pixel: float
    against_teacher: BdRate | None
    against_base: BdRate | None
    seconds: float


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
    start = _macs_per_pixel(student, scope)
    measure = functools.cache(measure)  # every attempt from a base is compared with it again

    def judge(attempt: Attempt, base: Path, tuned: Path, began: float) -> None:
        curve = measure(tuned)
        compared = _compare(teacher_curve, curve), _compare(measure(base), curve)
        outcome = Outcome(tuned, curve, _macs_per_pixel(tuned, scope), *compared, time.monotonic() - began)
        _keep(directory, [*records, _record(attempt, outcome, rules, directory)], outcome)

    while attempt := next_attempt(records, start, rules):
        began = time.monotonic()
        base = directory / attempt.base if attempt.base else student
        tuned = _prune_and_tune(attempt, base, directory / attempt.work, prune_to, finetune)
        parallel.on_rank_zero(judge, attempt, base, tuned, began)
        records = read_records(directory)
        yield records[-1]


def _macs_per_pixel(model: Path, scope: str) -> float:
    return getattr(zoo.describe(model), f"{scope}_macs_per_pixel")


def _prune_and_tune(
    attempt: Attempt,
    base: Path,
    work: Path,
    prune_to: Callable[[Path, float, Path], Any],
    finetune: Callable[[Path, Path], Any],
) -> Path:
    """The model directory of the attempt's last pass; what an earlier attempt or a killed run left is used again."""
    model = work / "pruned"
    parallel.on_rank_zero(lambda: model.is_dir() or prune_to(base, attempt.budget, model))
    for number in range(1, attempt.passes + 1):
        before, model = model, work / f"pass-{number}"
        if not model.is_dir():
            finetune(before, model)
    return model


def _record(attempt: Attempt, outcome: Outcome, rules: Rules, directory: Path) -> Round:
    accepted = is_accepted(outcome.against_teacher, rules)
    return Round(
        number=attempt.number,
        budget=attempt.budget,
        passes=attempt.passes,
        macs_per_pixel=outcome.macs_per_pixel,
        bd_rate_percent=_percent(outcome.against_teacher),
        bd_rate_percent_against_previous=_percent(outcome.against_base),
        coverage=outcome.against_teacher.coverage if outcome.against_teacher else 0.0,
        accepted=accepted,
        seconds=outcome.seconds,
        directory=f"{attempt.number:02d}" if accepted else str(outcome.model.relative_to(directory)),
    )


def _keep(directory: Path, records: Sequence[Round], outcome: Outcome) -> None:
    """Write the records, the last of them that of `outcome`, whose model becomes the round's if it was accepted."""
    record = records[-1]
    models.add_figures(outcome.model, {"validation": _figure(outcome.curve, record)})
    if record.accepted:
        # Copied, not moved: if the run is killed here, the same command finds the work done and copies again.
        models.copy(outcome.model, directory / record.directory)
    write_text(directory / RECORDS, json.dumps([each._asdict() for each in records], indent=1))


def copy_rounds(source: Path, target: Path) -> None:
    """Give a rounds' directory those rounds of another that go on from its own, with the accepted models.

    Both must be of the same settings.
    """
    there, here = read_records(source), read_records(target)
    if len(there) <= len(here) or there[: len(here)] != here:
        return
    for record in there:
        if record.accepted and not (target / record.directory).is_dir():
            models.copy(source / record.directory, target / record.directory)
    models.write_text(target / RECORDS, (source / RECORDS).read_text())  # last: then the others are there


def _compare(anchor: Curve, test: Curve) -> BdRate | None:
    try:
        return bd_rate(anchor, test)
    except InvalidInput:
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
