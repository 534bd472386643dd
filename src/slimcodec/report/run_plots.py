"""What a training run draws and prints: its rounds, its validation curves, a sweep's jobs, a table of curves."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from slimcodec import InvalidInput
from slimcodec.evaluation.curves import Curve, value_at_bpp
from slimcodec.evaluation.metrics import PSNR
from slimcodec.report.style import (
    COLOURS,
    DARK_GREY,
    MARKERS,
    label,
    label_log_axis,
    metric_title,
    new_figure,
    save,
    style,
)

MOST_NAMES = 16  # beside the points of a sweep; of more jobs only the front's are named


class Measured(Protocol):
    """A round of pruning."""

    @property
    def macs_per_pixel(self) -> float: ...

    @property
    def bd_rate_percent(self) -> float | None: ...

    @property
    def accepted(self) -> bool: ...


def plot_rounds(rounds: Iterable[Measured], path: str | Path, *, target_macs_per_pixel: float) -> None:
    """Write a PNG of pruning rounds: BD-rate in % over the decoder's MAC/pixel (log), with a line at the target.

    A round whose BD-rate is None is not drawn.
    """
    figure, axes = new_figure("Pruning rounds", "decoder complexity (MAC per pixel)", "BD-rate (%)")
    measured = [round for round in rounds if round.bd_rate_percent is not None]
    accepted = sorted((round.macs_per_pixel, round.bd_rate_percent) for round in measured if round.accepted)
    rejected = [(round.macs_per_pixel, round.bd_rate_percent) for round in measured if not round.accepted]
    axes.axhline(0, color=DARK_GREY, linewidth=0.8)
    axes.axvline(target_macs_per_pixel, color=DARK_GREY, linestyle="--", linewidth=1, label="target")
    if accepted:
        axes.plot(*zip(*accepted, strict=True), color=COLOURS[0], marker="o", linewidth=1.4, label="accepted")
    if rejected:
        axes.plot(*zip(*rejected, strict=True), color=COLOURS[1], marker="x", linestyle="none", label="rejected")
    label_log_axis(axes)
    axes.legend(loc="upper right", frameon=False)
    save(figure, path)


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names of the points (cost, loss) that no other point beats in both, by growing cost."""
    front: list[str] = []
    best = float("inf")
    for name, (_, loss) in sorted(points.items(), key=lambda item: item[1]):
        if loss < best:
            front.append(name)
            best = loss
    return front


def plot_pareto(panels: Mapping[str, Mapping[str, tuple[float, float]]], path: str | Path, *, named_by: str) -> None:
    """Write a PNG of jobs as points: BD-rate in % over the decoder's MAC/pixel (log), with the front that none beats.

    panels    by anchor, and by the job's name: (MAC/pixel, BD-rate in %)
    named_by  what the jobs' names are the values of
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * len(panels), 4.4), layout="constrained")
    for index, (anchor, points) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), index)
        style(axes, named_by, "decoder complexity (MAC per pixel)", f"BD-rate against {label(anchor)} (%)")
        front = pareto(points)
        axes.plot(*zip(*points.values(), strict=True), color=COLOURS[1], marker="o", linestyle="none")
        axes.plot(*zip(*(points[name] for name in front), strict=True), color=COLOURS[0], marker="o", linewidth=1.4)
        for name in points if len(points) <= MOST_NAMES else front:
            axes.annotate(name, points[name], xytext=(5, 4), textcoords="offset points", fontsize=7)
        axes.margins(x=0.25, y=0.12)  # room for the names
        label_log_axis(axes)
    save(figure, path)


def plot_curves(curves: Mapping[str, Curve], path: str | Path) -> None:
    """Write a PNG of rate–distortion curves by name: PSNR over bits per pixel, both estimated, on validation photos."""
    figure, axes = new_figure("Validation", "rate (estimated bits per pixel)", metric_title(PSNR))
    for index, (name, curve) in enumerate(curves.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axes.plot(curve.bpp, curve.values, color=colour, marker=marker, markersize=4, linewidth=1.4, label=name)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    save(figure, path)


def comparison_table(curves: Mapping[str, Curve], reference: str) -> str:
    """A Markdown table, readable as plain text: the PSNR in dB of every curve at the rates of one of them.

    There is a row for each point of `curves[reference]` with its quality, bpp and PSNR, then the other curves' PSNR
    at the same bpp, "–" where that is outside their range. Raises `InvalidInput` when `reference` is not in `curves`.
    """
    if reference not in curves:
        raise InvalidInput(f"the reference {reference!r} is not among the curves: {', '.join(curves)}")
    others = [name for name in curves if name != reference]
    header = ["quality", "bpp", f"{reference} (dB)", *(f"{name} (dB)" for name in others)]
    rows = [
        [f"{quality:g}", f"{bpp:.4f}", f"{psnr_db:.2f}", *(_psnr_cell(curves[name], bpp) for name in others)]
        for quality, bpp, psnr_db in zip(*curves[reference], strict=True)
    ]
    return _markdown([header, *rows])


def _psnr_cell(curve: Curve, bpp: float) -> str:
    psnr_db = value_at_bpp(curve, bpp)
    return "–" if psnr_db is None else f"{psnr_db:.2f}"


def _markdown(rows: list[list[str]]) -> str:
    """Right-aligned columns of equal width; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    header, *lines = (
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )
    ruler = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([header, ruler, *lines])
