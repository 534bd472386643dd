"""What a sweep adds to its jobs: teachers that are trained once, a record of how every job ended, and their comparison.

A job is a run directory. It keeps job.json, so that jobs of other processes, of other machines and of an earlier,
interrupted command are read in the same way: whatever lies below the sweep's directory is the sweep.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from slimcodec import InvalidInput
from slimcodec.codec import json_files
from slimcodec.codec.atomic import write_text
from slimcodec.evaluation.locks import alone  # noqa: F401 - a teacher is trained once

RECORD, SECONDS, CSV, PLOT = "job.json", "seconds.json", "sweep.csv", "sweep.png"
RUNNING, COMPLETE, STOPPED, FAILED = "running", "complete", "stopped", "failed"


class Figures(NamedTuple):
    """What a run comes to: costs of its student, and BD-rates by RGB PSNR on its first evaluation set, in per cent."""

    decoder_macs_per_pixel: float
    encoder_macs_per_pixel: float
    bd_rate_percent: dict[str, float | None]  # of the student against the teacher and the anchors
    teacher_bd_rate_percent: dict[str, float | None]
    teacher_macs_per_pixel: float


class Job(NamedTuple):
    """How a job stands. `running` is also what a job that was killed says of itself."""

    directory: str  # relative to the sweep's
    overrides: dict[str, str]
    status: str
    began: float  # seconds since the epoch
    error: str | None = None
    seconds: float | None = None  # of all stages, over all commands
    figures: Figures | None = None


class Outcome(NamedTuple):
    status: str
    error: str | None = None
    figures: Figures | None = None


def record(directory: Path, overrides: Sequence[str], began: float, outcome: Outcome) -> None:
    """Keep in a run directory how its job stands; `overrides` are Hydra's: `key=value`, `+key=value`."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        seconds = read_seconds(directory)
    except InvalidInput:  # the run itself says so; how it stands must be kept all the same
        seconds = {}
    entry = {
        "overrides": dict(override.lstrip("+").split("=", 1) for override in overrides),
        "status": outcome.status,
        "began": began,
        "error": outcome.error,
        "seconds": sum(seconds.values()) if seconds else None,
        "figures": outcome.figures and outcome.figures._asdict(),
    }
    write_text(directory / RECORD, json.dumps(entry, indent=1) + "\n")


def read_seconds(directory: Path) -> dict[str, float]:
    """Stage → seconds that it took so far; none where the run is new. Raises InvalidInput for a damaged file."""
    path = directory / SECONDS
    remedy = "remove it: the times are counted anew, nothing else is lost"
    found = json_files.read(path, remedy=remedy) if path.is_file() else {}
    if wrong := [stage for stage, seconds in found.items() if type(seconds) not in (int, float)]:
        raise InvalidInput(f"{path}: is damaged (no number of seconds for {wrong[0]}); {remedy}")
    return found


def jobs(directory: Path) -> list[Job]:
    """All jobs below a sweep's directory, by name. One whose record is damaged is a failed one, which says so."""
    return [_job(path, path.parent.relative_to(directory).as_posix()) for path in sorted(directory.rglob(RECORD))]


def _job(path: Path, name: str) -> Job:
    remedy = "remove it, and give the command again"
    try:
        entry = json_files.read(path, remedy=remedy)
        if entry.get("figures") is not None:
            entry["figures"] = json_files.record(Figures, entry["figures"])
        return json_files.record(Job, entry | {"directory": name})
    except InvalidInput as error:
        return Job(name, {}, FAILED, math.inf, str(error))
    except ValueError as error:
        return Job(name, {}, FAILED, math.inf, f"{path}: is damaged ({error}); {remedy}")


# ---------------------------------------------------------------------------------------------------- comparing jobs


def exit_status(statuses: Iterable[str]) -> int:
    """Of a command with such jobs: 0; 75, try again later, where one was stopped and can go on; 1 where one failed."""
    found = set(statuses)
    return 1 if found & {FAILED, RUNNING} else 75 if STOPPED in found else 0


def table(found: Sequence[Job]) -> Table:
    """What jobs differ in, and what came of them."""
    keys, against = varied(found), list(spots(found))
    shown = Table(title="sweep", title_justify="left")
    for heading in (*keys, "status", "decoder MAC/pixel", *(f"against {anchor}" for anchor in against), "seconds"):
        shown.add_column(heading, justify="right")
    for job in found:
        macs = job.figures and job.figures.decoder_macs_per_pixel
        percents = [job.figures and job.figures.bd_rate_percent.get(anchor) for anchor in against]
        shown.add_row(
            *(job.overrides.get(key, "–") for key in keys),
            job.status,
            "–" if macs is None else f"{macs:,.0f}",
            *("–" if percent is None else f"{percent:+.1f} %" for percent in percents),
            "–" if job.seconds is None else f"{job.seconds:.0f}",
        )
    return shown


def varied(found: Sequence[Job]) -> list[str]:
    """The overrides in which jobs differ."""
    keys = sorted({key for job in found for key in job.overrides})
    return [key for key in keys if len({job.overrides.get(key) for job in found}) > 1]


def rows(found: Sequence[Job]) -> list[dict[str, Any]]:
    """A flat row a job: its overrides, status, costs and BD-rates."""
    keys = sorted({key for job in found for key in job.overrides})
    return [
        {
            "job": job.directory,
            **{key: job.overrides.get(key) for key in keys},
            "status": job.status,
            **_flat(job.figures),
            "seconds": job.seconds,
            "error": job.error,
        }
        for job in found
    ]


def _flat(figures: Figures | None) -> dict[str, float | None]:
    if figures is None:
        return {}
    student = {f"bd_rate_percent_against_{anchor}": percent for anchor, percent in figures.bd_rate_percent.items()}
    teacher = {
        f"teacher_bd_rate_percent_against_{anchor}": percent
        for anchor, percent in figures.teacher_bd_rate_percent.items()
    }
    costs = {name: getattr(figures, name) for name in figures._fields if name.endswith("macs_per_pixel")}
    return {**costs, **student, **teacher}


def write_csv(found: Sequence[Job], path: Path) -> None:
    """Overrides first, then what came of them; a job without figures has empty cells."""
    lines = rows(found)
    columns = list(dict.fromkeys(column for row in lines for column in row))
    last = [column for column in ("seconds", "error") if column in columns]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*(column for column in columns if column not in last), *last], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())


def spots(found: Sequence[Job]) -> dict[str, dict[str, tuple[float, float]]]:
    """By anchor, the teacher first, and by job: MAC/pixel of its decoder, and BD-rate in per cent where there is one.

    A job is called by the values of the overrides in which jobs differ.
    """
    keys, spots = varied(found), {}
    for job in found:
        for anchor, percent in (job.figures.bd_rate_percent if job.figures else {}).items():
            name = ", ".join(job.overrides.get(key, "–") for key in keys) or job.directory
            if percent is not None:
                spots.setdefault(anchor, {})[name] = (job.figures.decoder_macs_per_pixel, percent)
    return dict(sorted(spots.items(), key=lambda item: item[0] != "teacher"))


# -------------------------------------------------------------------------------------------------- teachers, once


def identity(configuration: Mapping[str, Any]) -> str:
    """Digits that are the same for the same resolved configuration, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:16]
