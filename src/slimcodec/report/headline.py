"""The headline figure: BD-rate over the decoder's MAC/pixel, of everything that a study knows."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from slimcodec import InvalidInput
from slimcodec.evaluation import published
from slimcodec.evaluation.metrics import METRICS, PSNR
from slimcodec.evaluation.summary import Summary
from slimcodec.report.style import (
    DARK_GREY,
    LAST_ROUND,
    PALE,
    TEACHER,
    colours,
    family,
    label,
    main_codec,
    new_figure,
    save,
)

# --------------------------------------------------------------------------------------------------------------- what


class Spot(NamedTuple):
    """A codec in the headline figure."""

    name: str
    kind: str  # "teacher", "student", "round", "model" or "quoted"
    kmacs_per_pixel: float  # of the decoder
    percent: float  # BD-rate


class Level(NamedTuple):
    """A codec of which no MAC/pixel are counted: a horizontal line."""

    name: str
    percent: float


class Headline(NamedTuple):
    """What the headline figure shows: BD-rate against `anchor` over the decoder's kMAC/pixel."""

    anchor: str
    metric: str
    spots: tuple[Spot, ...]
    levels: tuple[Level, ...]
    path: tuple[str, ...]  # names of spots: distilled, the rounds, the student
    target_kmacs_per_pixel: float | None


def headline_metric(summary: Summary) -> str | None:
    """RGB PSNR, or the first metric where that was not measured."""
    return PSNR if PSNR in summary.metrics else next(iter(summary.metrics), None)


def headline_data(summary: Summary) -> Headline | None:
    """The headline figure's contents; None when no codec of known MAC/pixel has a BD-rate against the first anchor."""
    anchor = next(iter(summary.anchors), None)
    rates = summary.bd_rate.get(anchor, {})
    metric = headline_metric(summary)
    percents = {name: cells[metric].percent for name, cells in rates.items() if metric in cells}
    percents = {anchor: 0.0} | {name: percent for name, percent in percents.items() if percent is not None}
    spots = tuple(_spots(summary, percents))
    if not spots:
        return None
    target = summary.target_macs_per_pixel
    return Headline(
        anchor=anchor,
        metric=metric,
        spots=spots,
        levels=tuple(_levels(summary, percents, anchor)),
        path=tuple(_path(summary, {spot.name for spot in spots})),
        target_kmacs_per_pixel=target / 1000 if target else None,
    )


def _spots(summary, percents):
    for name, codec in summary.codecs.items():
        if name in percents and codec.complexity:
            kind = codec.role if codec.role in ("teacher", "student", "round") else "model"
            yield Spot(name, kind, codec.complexity.decoder_macs_per_pixel / 1000, percents[name])
    for name, curve in summary.quoted.items():
        if name in percents and curve.decoder_kmacs_per_pixel:
            yield Spot(name, "quoted", curve.decoder_kmacs_per_pixel, percents[name])


def _levels(summary, percents, anchor):
    """One line a family: of the codec that ran, else of the published curve of fewest bits; and always the anchor."""
    run = [name for name in summary.codecs if name in percents and summary.codecs[name].kind == "anchor"]
    quoted = sorted((name for name in summary.quoted if name in percents and family(name)), key=percents.get)
    seen, names = set(), [anchor] if anchor in (*run, *quoted) else []
    for name in (*run, *quoted):
        if name not in names and (family(name) or name) not in seen:
            names.append(name)
        if name != anchor or name in run:
            seen.add(family(name) or name)
    return [Level(name, percents[name]) for name in names]


def _path(summary, drawn):
    student = main_codec(summary)
    steps = [name for name in summary.rounds if name in drawn]
    return [*steps, student] if steps and student in drawn and student not in steps else steps


# The other codecs of the still figure, as far as they are there: first these, then whatever else there is.
PREFERRED = (
    "webp",
    "jpeg2000",
    "avif",
    "cool-chic-v5.0",
    "compressai:compressai-mbt2018-mean_mse_cuda",
    "evc-EncL_DecL",
    "elic",
)
MOST_OTHERS = 7
NEAR = 0.06  # decades of MAC/pixel, and of `scaled`: markers that are closer would cover each other


def in_short(data: Headline) -> Headline:
    """What the still figure shows of it: teacher, distilled and students, and at most seven other codecs.

    No marker covers another: of those that would, the one of the more important codec stays.
    """
    ours = _ours(data)
    others = [level.name for level in data.levels if level.name != data.anchor]
    others += [spot.name for spot in data.spots if spot.name not in ours and _is_another(spot, ours)]
    order = [*(name for name in PREFERRED if name in others), *(name for name in others if name not in PREFERRED)]
    spots: list[Spot] = []
    by_name = {spot.name: spot for spot in data.spots}
    for name in (*ours, *order):
        if name in by_name and not any(_are_near(by_name[name], spot) for spot in spots):
            spots.append(by_name[name])
    drawn = {spot.name for spot in spots} | {level.name for level in data.levels}
    shown = {data.anchor, *ours, *[name for name in order if name in drawn][:MOST_OTHERS]}
    return data._replace(
        spots=tuple(spot for spot in spots if spot.name in shown),
        levels=tuple(level for level in data.levels if level.name in shown),
        path=tuple(name for name in (data.path[:1] + data.path[-1:] if data.path else ()) if name in shown),
    )


def _ours(data: Headline) -> list[str]:
    """The student, its teacher, the student before pruning, other students: the most important first."""
    teachers = [spot.name for spot in data.spots if spot.kind == "teacher"]
    teachers.sort(key=lambda name: " effort " in name)  # the plain one first
    students = [spot.name for spot in data.spots if spot.kind == "student" and " effort " not in spot.name][::-1]
    main = data.path[-1:] or students[:1]
    return list(dict.fromkeys([*main, *teachers[:1], *data.path[:1], *students]))


def _is_another(spot: Spot, ours: Sequence[str]) -> bool:
    """Whether it is neither a step of pruning nor one of ours with more effort."""
    return spot.kind != "round" and not any(spot.name.startswith(f"{name} effort") for name in ours)


def _are_near(one: Spot, other: Spot) -> bool:
    across = abs(math.log10(one.kmacs_per_pixel / other.kmacs_per_pixel))
    return across < NEAR and abs(scaled(one.percent) - scaled(other.percent)) < NEAR


def scaled(percent: float) -> float:
    """BD-rate on an axis where equal factors of rate are equally far apart: −50 % is as far below 0 as +100 % above."""
    return math.log2(max(1 + percent / 100, 1e-3))


def percent_ticks(low: float, high: float) -> list[float]:
    """Round percentages between two of them, at most about eight, for an axis of `scaled`."""
    steps = [-80, -65, -50, -40, -30, -20, -10, 0, 10, 25, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1200]
    ticks = [percent for percent in steps if low <= percent <= high]
    return ticks if len(ticks) <= 9 else [percent for percent in ticks if percent not in (-65, -40, 10, 75, 150)]


def _stated(summary: Summary, anchor: str) -> tuple[Spot, ...]:
    """Codecs that are said to be as good as one of the published curves, at the place of that one."""
    rates = {name: cells[PSNR].percent for name, cells in summary.bd_rate.get(anchor, {}).items() if PSNR in cells}
    known = [stated for stated in published.STATED if rates.get(stated.as_good_as) is not None]
    return tuple(Spot(codec.label, "quoted", codec.decoder_kmacs_per_pixel, rates[codec.as_good_as]) for codec in known)


# ------------------------------------------------------------------------------------------------- headline: drawing


def headline(summary: Summary, *paths: str | Path) -> None:
    """Write the headline figure: BD-rate (%) against the first anchor over the decoder's kMAC/pixel (log axis).

    It shows what `in_short` chooses, and of Kodak what papers state without a curve. Models and published curves of
    known kMAC/pixel are points, from distilled to the student goes an arrow, codecs of no counted MAC/pixel are
    horizontal lines, the target is a vertical one. As all of these figures it is written to each of `paths`, in the
    format of its suffix. Raises `InvalidInput` when there is nothing to draw.
    """
    data = headline_data(summary)
    if data is None:
        raise InvalidInput("the headline figure needs a codec of known MAC/pixel with a BD-rate against the anchor")
    stated = _stated(summary, data.anchor)
    data, palette = in_short(data), {name: colour.light for name, colour in colours(summary).items()}
    data = data._replace(spots=data.spots + stated)
    palette |= {spot.name: TEACHER.light for spot in data.spots if spot.kind == "teacher"}
    palette |= {spot.name: DARK_GREY for spot in stated}
    title = f"Bits for the same quality, over the decoder's cost: {summary.data.name} (lower left is better)"
    figure, axes = new_figure(title, "decoder complexity (kMAC per pixel, logarithmic)", "")
    axes.set_ylabel(f"BD-rate against {label(data.anchor)}, {METRICS[data.metric].title}")
    figure.set_size_inches(8, 5.4)
    axes.set_title(axes.get_title(loc="left"), fontsize=11, loc="left", pad=22)  # above the target's name
    _scale_headline(axes, data)
    for level in data.levels:
        axes.axhline(scaled(level.percent), color=palette[level.name], linewidth=0.8, alpha=0.75, zorder=1)
    if data.target_kmacs_per_pixel:
        axes.axvline(data.target_kmacs_per_pixel, color=DARK_GREY, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
    _draw_path(axes, data)
    for spot in data.spots:
        axes.plot(spot.kmacs_per_pixel, scaled(spot.percent), color=palette[spot.name], **_marker(spot))
    _label_headline(figure, axes, data, palette)
    save(figure, *paths)


def _scale_headline(axes, data):
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    macs = [spot.kmacs_per_pixel for spot in data.spots] + [
        data.target_kmacs_per_pixel or data.spots[0].kmacs_per_pixel
    ]
    percents = [entry.percent for entry in (*data.spots, *data.levels)]
    low, high = scaled(min(percents)), scaled(max(percents))
    margin = max(0.06 * (high - low), 0.05)
    axes.set_xscale("log")
    axes.set_xlim(min(macs) / 1.9, max(macs) * 1.9)
    axes.set_ylim(low - margin, high + margin)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.3g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    ticks = percent_ticks(min(percents) - 5, max(percents) + 30)
    axes.set_yticks([scaled(tick) for tick in ticks], [_percent(tick) for tick in ticks])


def _percent(value):
    return "0" if value == 0 else f"{value:+.0f} %".replace("-", "−")


def _marker(spot):
    if spot.kind == "quoted":
        return {"marker": "o", "markersize": 5, "markerfacecolor": "white", "zorder": 3}
    size = {"student": 10, "teacher": 9}.get(spot.kind, 7)
    return {"marker": {"teacher": "s", "round": "o"}.get(spot.kind, "D"), "markersize": size, "zorder": 5}


def _draw_path(axes, data):
    places = {spot.name: (spot.kmacs_per_pixel, scaled(spot.percent)) for spot in data.spots}
    for start, end in pairwise(data.path):
        if places[start] != places[end]:
            style = {"arrowstyle": "-|>", "color": LAST_ROUND.light, "linewidth": 1.6, "shrinkA": 5, "shrinkB": 6}
            axes.annotate("", places[end], places[start], arrowprops=style, zorder=4)
    teachers = [spot.name for spot in data.spots if spot.kind == "teacher"]
    if teachers and data.path:
        x, y = zip(places[teachers[0]], places[data.path[0]], strict=True)
        axes.plot(x, y, color=TEACHER.light, linestyle=":", linewidth=1.2, zorder=2)


def _label_headline(figure, axes, data, palette):
    """Names beside the points where nothing else is, and at the right end of the lines, one above the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()  # the constrained layout is settled by drawing
    _label_levels(figure, axes, data.levels, palette)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # or a label would move what it was placed beside
    renderer, taken = figure.canvas.get_renderer(), []
    places = {spot.name: axes.transData.transform((spot.kmacs_per_pixel, scaled(spot.percent))) for spot in data.spots}
    for x, y in [*places.values(), *_along(data, places)]:
        taken.append((x - 8, y - 8, x + 8, y + 8))
    if data.target_kmacs_per_pixel:
        text = f"target: {data.target_kmacs_per_pixel:g} kMAC/pixel"
        place = axes.get_xaxis_transform()
        drawn = axes.text(
            data.target_kmacs_per_pixel, 1.005, text, transform=place, fontsize=8, ha="center", va="bottom"
        )
        drawn.set_color(DARK_GREY)
    order = {"student": 0, "teacher": 1, "round": 2, "model": 3, "quoted": 4}
    lines = [axes.transData.transform((1, scaled(level.percent)))[1] for level in data.levels]
    target = axes.transData.transform((data.target_kmacs_per_pixel or axes.get_xlim()[0], 0))[0]
    for spot in sorted(_labelled(data), key=lambda spot: order.get(spot.kind, 4)):
        _place_label(axes, spot, palette[spot.name], renderer, taken, (lines, target))


def _along(data, places):
    """Points on the lines from teacher to distilled, and from round to round: a label is kept off them too."""
    teachers = [spot.name for spot in data.spots if spot.kind == "teacher"]
    for start, end in pairwise([*teachers[:1], *data.path] if data.path else []):
        for share in (0.2, 0.4, 0.6, 0.8):
            yield places[start] + share * (places[end] - places[start])


def _labelled(data):
    """The spots to name: of several at one place, which a student is that is the last round, the first to be told."""
    seen = {}
    for spot in data.spots:
        place = spot.kmacs_per_pixel, round(spot.percent, 3)
        if place not in seen or spot.kind == "student":
            seen[place] = spot
    return list(seen.values())


def _label_levels(figure, axes, levels, palette):
    height = axes.get_window_extent().height
    low, high = axes.get_ylim()
    wanted = [(scaled(level.percent) - low) / (high - low) * height for level in levels]
    for level, at, to in zip(levels, wanted, spread(wanted, 12 * figure.dpi / 72), strict=True):
        axes.annotate(
            f"{label(level.name)} {_percent(level.percent)}" if level.percent else label(level.name),
            (1, at / height),
            (1.025, to / height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=palette[level.name],
            arrowprops={"arrowstyle": "-", "color": palette[level.name], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
        )


def spread(wanted: list[float], gap: float) -> list[float]:
    """Places near the wanted ones, in their order and at least `gap` apart: groups that touch are centred on theirs."""
    groups = []  # of [places wanted less their offset within the group, ...]
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _start(groups[-1], wanted, gap) < _start(groups[-2], wanted, gap) + gap * len(
            groups[-2]
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    places = [0.0] * len(wanted)
    for group in groups:
        for position, index in enumerate(group):
            places[index] = _start(group, wanted, gap) + gap * position
    return places


def _start(group, wanted, gap):
    return sum(wanted[index] - gap * position for position, index in enumerate(group)) / len(group)


# Directions to try for a label, and how far from the point: right, left, above, below, then the corners, then further.
DIRECTIONS = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
DISTANCES = (9, 16, 26, 40)  # points


def _place_label(axes, spot, colour, renderer, taken, lines):
    """Write a spot's name at the first place where it covers nothing, else where it covers least; add it to `taken`."""
    bold = spot.kind in ("student", "teacher")
    text = axes.annotate(
        _called(spot),
        (spot.kmacs_per_pixel, scaled(spot.percent)),
        (0, 0),
        textcoords="offset points",
        fontsize=9 if bold else 8,
        fontweight="bold" if bold else "normal",
        color=DARK_GREY if spot.kind in ("quoted", "round") else colour,  # the first rounds are pale
        zorder=6,
    )
    candidates = [(x, y, distance) for distance in DISTANCES for x, y in DIRECTIONS]
    best = min(candidates, key=lambda candidate: _cost(text, candidate, axes, renderer, taken, lines))
    _cost(text, best, axes, renderer, taken, lines)
    taken.append(_box(text, renderer))
    if best[2] > DISTANCES[1]:
        arrow = {"arrowstyle": "-", "color": PALE, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 3}
        axes.annotate("", text.xy, text.get_position(), textcoords="offset points", arrowprops=arrow, zorder=2)


def _called(spot: Spot) -> str:
    """Ours by their part in the story."""
    name = label(spot.name)
    return f"{spot.kind}: {name}" if spot.kind in ("student", "teacher") and name != spot.kind else name


def _cost(text, candidate, axes, renderer, taken, lines):
    """How bad it is there: pixels² covered, much more outside the axes; a little for distance and for lines crossed."""
    x, y, distance = candidate
    text.set_position((x * distance, y * distance))
    text.set_ha({1: "left", -1: "right", 0: "center"}[x])
    text.set_va({1: "bottom", -1: "top", 0: "center"}[y])
    box, frame = _box(text, renderer), axes.get_window_extent()
    outside = box[0] < frame.x0 + 2 or box[2] > frame.x1 - 2 or box[1] < frame.y0 + 2 or box[3] > frame.y1 - 2
    levels, target = lines
    crossed = sum(box[1] + 3 < line < box[3] - 3 for line in levels) + (box[0] < target < box[2])
    return 1e6 * outside + 20 * sum(_overlap(box, other) for other in taken) + 150 * crossed + 5 * distance


def _box(text, renderer):
    return tuple(text.get_window_extent(renderer).padded(1.5).extents)


def _overlap(a, b):
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
