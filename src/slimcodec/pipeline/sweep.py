"""The jobs of a sweep beside each other: a table, a CSV file, and what a plot shows.

A job is a run directory with a job.json, so that jobs of other processes, of other machines and of an earlier,
interrupted command are read in the same way: whatever lies below the sweep's directory is the sweep.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from slimcodec.codec.atomic import write_text
from slimcodec.pipeline.jobs import Job
from slimcodec.pipeline.results import Figures

CSV, PLOT = "sweep.csv", "sweep.png"


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
    keys = varied(found)
    found_spots: dict[str, dict[str, tuple[float, float]]] = {}
    for job in found:
        figures = job.figures
        for anchor, percent in (figures.bd_rate_percent if figures else {}).items():
            name = ", ".join(job.overrides.get(key, "–") for key in keys) or job.directory
            if figures and percent is not None:
                found_spots.setdefault(anchor, {})[name] = (figures.decoder_macs_per_pixel, percent)
    return dict(sorted(found_spots.items(), key=lambda item: item[0] != "teacher"))


def draw(found: Sequence[Job], path: Path) -> bool:
    """The jobs' MAC/pixel and BD-rates as a picture; whether there was anything to draw."""
    panels = dict(list(spots(found).items())[:2])
    if not panels:
        return False
    from slimcodec.report import run_plots  # late: matplotlib takes long to import

    run_plots.plot_pareto(panels, path, named_by=", ".join(varied(found)))
    return True
