"""The prune–finetune loop and its acceptance rule.

    measure → budget → prune a copy → rebuild → fine-tune by distillation → BD-rate against the teacher
            → accept | fine-tune longer | take half the step | stop

What to try next follows from the records of the rounds so far (`next_attempt`), and every artefact is a model directory
on disk, so a run that was killed anywhere continues from its last complete piece.
"""

import functools
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from slimcodec import InvalidInput
from slimcodec.codec import models
from slimcodec.evaluation.curves import BdRate, Curve, bd_rate
from slimcodec.training import parallel
from slimcodec.training.records import RECORDS, Attempt, Round, Rules, check_rules, next_attempt, read_records

MINIMUM_COVERAGE = 0.95  # of the teacher's range from the lowest to the highest quality


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
    shutil.copyfile(source / RECORDS, target / RECORDS)


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
