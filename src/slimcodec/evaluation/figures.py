"""Figures (PNG and SVG) of a summary, for papers and READMEs, and the curves and tables that a training run draws.

    summary.json ──► headline, rate_distortion, complexity, widths ──write_all──► folder/*.png, *.svg

What a codec is called and which colour it has is decided here, and is the same in all figures and on the page.
"""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from slimcodec import InvalidInput
from slimcodec.codec.atomic import writing
from slimcodec.evaluation.curves import Curve, value_at_bpp
from slimcodec.evaluation.metrics import METRICS

Summary = Mapping[str, Any]

# Okabe and Ito's palette, which colour-blind readers can tell apart; its yellow is too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>P"
GREY, DARK_GREY, PALE = "#8a8a8a", "#555555", "#e5e5e5"
FORMATS = ("png", "svg")
HEADLINE_METRIC = "psnr_rgb_db"
MOST_NAMES = 16  # beside the points of a sweep; of more jobs only the front's are named


# ------------------------------------------------------------------------------------------------ names and colours


class Colour(NamedTuple):
    """One colour on a light and on a dark ground."""

    light: str
    dark: str


# Codecs without a network, by family: those that run here and those that are quoted share title and colour.
CLASSICAL = {
    "vvc": ("VVC", Colour("#1a1a1a", "#f2f2f2")),
    "hevc": ("HEVC", Colour("#882255", "#c96aa0")),
    "avif": ("AVIF", Colour("#56B4E9", "#56B4E9")),
    "jxl": ("JPEG XL", Colour("#8f8300", "#d6c91f")),
    "webp": ("WebP", Colour("#009E73", "#1bb98d")),
    "jpeg2000": ("JPEG 2000", Colour("#CC79A7", "#d98fb8")),
    "jpeg": ("JPEG", Colour("#8a8a8a", "#a0a0a0")),
    "jpeg-optimised": ("JPEG, optimised", Colour("#4d4d4d", "#cccccc")),
}
TEACHER, STUDENT = Colour("#0072B2", "#3a9bd6"), Colour("#D55E00", "#f0742b")
# From distilled to the last round: Okabe and Ito's orange, paler the earlier.
FIRST_ROUND, LAST_ROUND = Colour("#ecc878", "#a08552"), Colour("#E69F00", "#eeb02f")
# For all others, by position: Tol's muted palette, which goes well with the above.
OTHERS = tuple(
    Colour(*pair)
    for pair in (
        ("#332288", "#8f80e0"),
        ("#44AA99", "#44AA99"),
        ("#999933", "#b5b54a"),
        ("#AA4499", "#c866b8"),
        ("#117733", "#3fa562"),
        ("#CC6677", "#dd7f8e"),
        ("#6699CC", "#7fb0e0"),
        ("#997700", "#c29c1f"),
    )
)
# Parts of encoder and decoder; the same part has the same colour on both sides.
PARTS = {
    "g_a": Colour("#0072B2", "#3a9bd6"),
    "h_a": Colour("#56B4E9", "#56B4E9"),
    "g_s": Colour("#D55E00", "#f0742b"),
    "context": Colour("#E69F00", "#eeb02f"),
    "h_mean": Colour("#009E73", "#1bb98d"),
    "h_scale": Colour("#CC79A7", "#d98fb8"),
    "gain": Colour("#777777", "#a0a0a0"),
}
OTHER_PART = Colour("#777777", "#a0a0a0")

# Published curves that are of a classical codec; their names are those of `anchors.quoted_names`.
FAMILIES = {
    "compressai:vtm": "vvc",
    "compressai:hm": "hevc",
    "compressai:bpg_444_x265_ycbcr": "hevc",
    "compressai:av1": "avif",
    "compressai:webp": "webp",
    "compressai:jpeg2000": "jpeg2000",
    "compressai:jpeg": "jpeg",
}
LABELS = {
    "compressai:vtm": "VVC (VTM)",
    "compressai:hm": "HEVC (HM)",
    "compressai:bpg_444_x265_ycbcr": "HEVC (BPG)",
    "compressai:av1": "AV1",
    "compressai:webp": "WebP (published)",
    "compressai:jpeg2000": "JPEG 2000 (published)",
    "compressai:jpeg": "JPEG (published)",
    "vvc": "VVC (VVenC)",
    "hevc": "HEVC (x265)",
    "elic": "ELIC",
    "elic-sm": "ELIC-sm",
    "evc-EncL_DecL": "EVC-L",
    "evc-EncM_DecM": "EVC-M",
    "evc-EncS_DecS": "EVC-S",
    "mlic": "MLIC",
    "mlicplus": "MLIC+",
    "mlicplusplus": "MLIC++",
    "hpcm-base": "HPCM-B",
    "hpcm-large": "HPCM-L",
    "dcae": "DCAE",
    "cca": "CCA",
    "ftic": "FTIC",
    "stf": "STF",
    "wacnn": "WACNN",
    "tinylic": "TinyLIC",
    "weconvene": "WeConvene",
    "tcm-small": "TCM-S",
    "tcm-middle": "TCM-M",
    "tcm-large": "TCM-L",
    "shallow-ntc:JPEG-like_syn": "JPEG-like synthesis",
    "shallow-ntc:2-layer_syn": "2-layer synthesis",
    "shallow-ntc:2-layer_syn+SGA": "2-layer synthesis + SGA",
    "cool-chic-v5.0": "Cool-chic 5.0, per picture",
    "cool-chic-v4.2": "Cool-chic 4.2, per picture",
    "cool-chic-v1.0": "Cool-chic 1.0, per picture",
    "compressai:compressai-mbt2018-mean_mse_cuda": "mbt2018-mean",
    "compressai:paper-mbt2018-mean": "mbt2018-mean (paper)",
    "compressai:paper-minnen2020-cc10_mse": "ChARM",
}


def family(name: str) -> str | None:
    """The key of `CLASSICAL` that this codec or published curve belongs to; None for a learned codec."""
    return FAMILIES.get(name, name if name in CLASSICAL else None)


def label(name: str) -> str:
    """What figures call a codec or a published curve."""
    if name in LABELS:
        return LABELS[name]
    if name in CLASSICAL:
        return CLASSICAL[name][0]
    source, _, rest = name.rpartition(":")
    words = rest.removeprefix("compressai-").removesuffix("_cuda").removesuffix("_mse")
    paper = words.removeprefix("paper-")
    return f"{paper} (paper)" if source and paper != words else words


def metric_title(metric: str) -> str:
    """A metric's title with its unit, as an axis has it."""
    if metric not in METRICS:
        return metric
    return f"{METRICS[metric].title} ({METRICS[metric].unit})" if METRICS[metric].unit else METRICS[metric].title


def main_codec(summary: Summary) -> str | None:
    """The model that the summary is about: the last student, else the last model; None where only anchors ran."""
    models = [name for name, codec in summary["codecs"].items() if codec["kind"] == "model"]
    students = [name for name in models if summary["codecs"][name].get("role") == "student"]
    return (students or models or [None])[-1]


def colours(summary: Summary) -> dict[str, Colour]:
    """Every codec and every published curve of the summary → its colour."""
    codecs, rounds = summary["codecs"], [name for name in summary["rounds"] if name in summary["codecs"]]
    named = {}
    for index, name in enumerate(rounds):
        named[name] = _blend(FIRST_ROUND, LAST_ROUND, index / max(len(rounds) - 1, 1))
    teachers = [name for name, codec in codecs.items() if codec.get("role") == "teacher"]
    named |= dict.fromkeys(teachers[:1], TEACHER)
    if (main := main_codec(summary)) not in named and main is not None:
        named[main] = STUDENT
    for name in (*codecs, *summary["quoted"]):
        if name not in named and family(name):
            named[name] = CLASSICAL[family(name)][1]
    others = [name for name in (*codecs, *sorted(summary["quoted"])) if name not in named]
    return named | {name: OTHERS[index % len(OTHERS)] for index, name in enumerate(others)}


def _blend(first: Colour, last: Colour, share: float) -> Colour:
    return Colour(*(_between(a, b, share) for a, b in zip(first, last, strict=True)))


def _between(a: str, b: str, share: float) -> str:
    pairs = zip(bytes.fromhex(a[1:]), bytes.fromhex(b[1:]), strict=True)
    return "#" + bytes(round(x + (y - x) * share) for x, y in pairs).hex()


# --------------------------------------------------------------------------------------------------- headline: what


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
    return HEADLINE_METRIC if HEADLINE_METRIC in summary["metrics"] else next(iter(summary["metrics"]), None)


def headline_data(summary: Summary) -> Headline | None:
    """The headline figure's contents; None when no codec of known MAC/pixel has a BD-rate against the first anchor."""
    anchor = next(iter(summary["anchors"]), None)
    rates = summary["bd_rate"].get(anchor, {})
    metric = headline_metric(summary)
    percents = {name: cells[metric]["percent"] for name, cells in rates.items() if metric in cells}
    percents = {anchor: 0.0} | {name: percent for name, percent in percents.items() if percent is not None}
    spots = tuple(_spots(summary, percents))
    if not spots:
        return None
    target = summary.get("target_macs_per_pixel")
    return Headline(
        anchor=anchor,
        metric=metric,
        spots=spots,
        levels=tuple(_levels(summary, percents, anchor)),
        path=tuple(_path(summary, {spot.name for spot in spots})),
        target_kmacs_per_pixel=target / 1000 if target else None,
    )


def _spots(summary, percents):
    for name, codec in summary["codecs"].items():
        if name in percents and codec["complexity"]:
            kind = codec.get("role") or "model"
            yield Spot(name, kind, codec["complexity"]["decoder_macs_per_pixel"] / 1000, percents[name])
    for name, curve in summary["quoted"].items():
        if name in percents and curve["decoder_kmacs_per_pixel"]:
            yield Spot(name, "quoted", curve["decoder_kmacs_per_pixel"], percents[name])


def _levels(summary, percents, anchor):
    """One line a family: of the codec that ran, else of the published curve of fewest bits; and always the anchor."""
    run = [name for name in summary["codecs"] if name in percents and summary["codecs"][name]["kind"] == "anchor"]
    quoted = sorted((name for name in summary["quoted"] if name in percents and family(name)), key=percents.get)
    seen, names = set(), [anchor] if anchor in (*run, *quoted) else []
    for name in (*run, *quoted):
        if name not in names and (family(name) or name) not in seen:
            names.append(name)
        if name != anchor or name in run:
            seen.add(family(name) or name)
    return [Level(name, percents[name]) for name in names]


def _path(summary, drawn):
    student = main_codec(summary)
    steps = [name for name in summary["rounds"] if name in drawn]
    return [*steps, student] if steps and student in drawn and student not in steps else steps


def scaled(percent: float) -> float:
    """BD-rate on an axis where equal factors of rate are equally far apart: −50 % is as far below 0 as +100 % above."""
    return math.log2(max(1 + percent / 100, 1e-3))


def percent_ticks(low: float, high: float) -> list[float]:
    """Round percentages between two of them, at most about eight, for an axis of `scaled`."""
    steps = [-80, -65, -50, -40, -30, -20, -10, 0, 10, 25, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1200]
    ticks = [percent for percent in steps if low <= percent <= high]
    return ticks if len(ticks) <= 9 else [percent for percent in ticks if percent not in (-65, -40, 10, 75, 150)]


# ------------------------------------------------------------------------------------------------- headline: drawing


def headline(summary: Summary, *paths):
    """Write the headline figure: BD-rate (%) against the first anchor over the decoder's kMAC/pixel (log axis).

    Models and published curves of known kMAC/pixel are points, the pruning rounds a path with arrows, codecs of no
    counted MAC/pixel horizontal lines, the target a vertical one. As all of these figures it is written to each of
    `paths`, in the format of its suffix. Raises `InvalidInput` when there is nothing to draw.
    """
    data = headline_data(summary)
    if data is None:
        raise InvalidInput("the headline figure needs a codec of known MAC/pixel with a BD-rate against the anchor")
    palette = {name: colour.light for name, colour in colours(summary).items()}
    name = summary["data"]["name"]
    figure, axes = _new_figure(f"Rate against decoder complexity, {name}", "decoder complexity (kMAC per pixel)", "")
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
    _save(figure, *paths)


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
        label(spot.name),
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


# ------------------------------------------------------------------------------------------------------ other figures


def rate_distortion(summary: Summary, metric: str, *paths):
    """Write the curves of a metric, means over the pictures, of every codec that ran, over bits per pixel.

    Raises `InvalidInput` when no codec has a curve of this metric.
    """
    curves = {name: codec["curves"][metric] for name, codec in summary["codecs"].items() if metric in codec["curves"]}
    if not curves:
        raise InvalidInput(f"no codec has a curve of {metric}; those measured are {', '.join(summary['metrics'])}")
    data, palette = summary["data"], colours(summary)
    title = f"{data['name']}: {len(data['pictures'])} pictures, real files"
    figure, axes = _new_figure(title, "rate (bits per pixel)", metric_title(metric))
    figure.set_size_inches(7.6, 4.6)
    for index, (name, curve) in enumerate(curves.items()):
        model = summary["codecs"][name]["kind"] == "model"
        axes.plot(
            curve["bpp"],
            [math.nan if value is None else value for value in curve["values"]],
            color=palette[name].light,
            marker=MARKERS[index % len(MARKERS)],
            markersize=4,
            linewidth=1.8 if model else 1.1,
            zorder=3 if model else 2,
            label=label(name),
        )
    _limit_rates(axes, summary, curves)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    _save(figure, *paths)


def rate_limit(summary: Summary) -> float | None:
    """The bpp up to which curves are shown: a little beyond the models', or JPEG at its best would squeeze them."""
    curves = [
        curve
        for codec in summary["codecs"].values()
        if codec["kind"] == "model"
        for curve in codec["curves"].values()
        if curve["bpp"]
    ]
    return max((1.15 * max(curve["bpp"]) for curve in curves), default=None)


def _limit_rates(axes, summary, curves):
    limit = rate_limit(summary)
    axes.set_xlim(0, limit)
    shown = [
        value
        for curve in curves.values()
        for bpp, value in zip(curve["bpp"], curve["values"], strict=True)
        if value is not None and bpp <= (limit or bpp)
    ]
    if shown and limit:
        margin = 0.04 * (max(shown) - min(shown)) or 1
        axes.set_ylim(min(shown) - margin, max(shown) + margin)


def steps_of(summary: Summary) -> list[str]:
    """Models of known MAC/pixel in the order of the story: teachers, rounds, the others.

    The last round is left out where it is one of the others, of the same key, by another name.
    """
    models = {name: codec for name, codec in summary["codecs"].items() if codec["complexity"]}
    rounds = [name for name in summary["rounds"] if name in models]
    teachers = [name for name, codec in models.items() if codec.get("role") == "teacher" and name not in rounds]
    others = [name for name in models if name not in (*teachers, *rounds)]
    keys = {models[name].get("key") for name in others} - {None}
    return [*teachers, *(name for name in rounds if models[name].get("key") not in keys), *others]


def complexity(summary: Summary, *paths):
    """Write stacked bars of MAC/pixel per part: the decoder's and the encoder's, a bar for each model and round.

    Raises `InvalidInput` when no codec has a complexity.
    """
    steps = steps_of(summary)
    if not steps:
        raise InvalidInput("no codec of the summary has a complexity to draw")
    from matplotlib.figure import Figure  # late: takes a second

    figure = Figure(figsize=(8, 1.6 + 0.36 * len(steps)), layout="constrained")
    target = summary.get("target_macs_per_pixel")
    for axes, side in zip(figure.subplots(1, 2, sharey=True), ("decoder", "encoder"), strict=True):
        _style(axes, side, "MAC per pixel", "")
        _stack(axes, [summary["codecs"][name]["complexity"][side] for name in steps])
        axes.set_yticks(range(len(steps)), [label(name) for name in steps])
        axes.set_ylim(len(steps) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.locator_params(axis="x", nbins=5)
        if side == "decoder" and target:
            axes.axvline(target, color=DARK_GREY, linestyle=(0, (4, 3)), linewidth=1)
    handles = {
        text: handle for axes in figure.axes for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=8, frameon=False, fontsize=8)
    _save(figure, *paths)


def parts_of(summary: Summary, side: str) -> list[str]:
    """Names of the parts of "encoder" or "decoder", over all models, the first of `PARTS` first."""
    steps = (codec["complexity"] for codec in summary["codecs"].values() if codec["complexity"])
    names = dict.fromkeys(part for complexity in steps for part in complexity[side])
    return sorted(names, key=lambda name: list(PARTS).index(name) if name in PARTS else len(PARTS))


def _stack(axes, bars: list[Mapping[str, float]]):
    names = dict.fromkeys(part for bar in bars for part in bar)
    left = [0.0] * len(bars)
    for part in sorted(names, key=lambda name: list(PARTS).index(name) if name in PARTS else len(PARTS)):
        widths = [bar.get(part, 0) for bar in bars]
        axes.barh(range(len(bars)), widths, left=left, height=0.62, color=PARTS.get(part, OTHER_PART).light, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for row, total in enumerate(left):
        axes.annotate(f"{total:,.0f}", (total, row), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(0, 1.18 * max(left))


def pruned_steps(summary: Summary) -> list[str]:
    """Models of which it is known how many channels each layer had before pruning, and some layer lost some."""
    return [
        name
        for name in steps_of(summary)
        if any(_lost(width) for width in (summary["codecs"][name]["complexity"].get("widths") or {}).values())
    ]


def _lost(width):
    return width.get("of") is not None and width["channels"] < width["of"]


def widths(summary: Summary, *paths):
    """Write where channels were removed: a bar per layer, what each pruned model keeps on top of what there was.

    Raises `InvalidInput` when no model has lost a channel.
    """
    steps = pruned_steps(summary)
    if not steps:
        raise InvalidInput("no model of the summary has fewer channels than before")
    from matplotlib.figure import Figure  # late: takes a second

    last, palette = summary["codecs"][steps[-1]]["complexity"]["widths"], colours(summary)
    layers = [layer for layer, width in last.items() if width.get("of")]
    figure = Figure(figsize=(8, 1.4 + 0.24 * len(layers)), layout="constrained")
    axes = figure.add_subplot()
    _style(axes, "Channels kept by pruning", "share of the layer's channels before pruning (%)", "")
    for row, layer in enumerate(layers):
        _draw_width(axes, row, layer, steps, summary, palette)
    axes.set_yticks(range(len(layers)), [last[layer].get("label") or layer for layer in layers], fontsize=8)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(axis="y", visible=False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    _save(figure, *paths)


def _draw_width(axes, row, layer, steps, summary, palette):
    """The earliest step first, so that each later and shorter bar is drawn on top of the one before it."""
    axes.barh(row, 100, height=0.6, color=PALE, label="before" if row == 0 else None)
    for name in steps:
        width = summary["codecs"][name]["complexity"]["widths"].get(layer)
        if width and width.get("of"):
            share = 100 * width["channels"] / width["of"]
            colour = palette[name].light
            axes.barh(row, share, height=0.6, color=colour, label=label(name) if row == 0 else None)
            text = f"{width['channels']} of {width['of']}"
    axes.annotate(text, (100, row), (4, 0), textcoords="offset points", va="center", fontsize=7, color=DARK_GREY)


def write_all(summary: Summary, folder) -> list[Path]:
    """Write every figure that the summary has data for in `folder`, each as PNG and as SVG; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    if headline_data(summary):
        figures["headline"] = partial(headline, summary)
    for metric in summary["metrics"]:
        if any(metric in codec["curves"] for codec in summary["codecs"].values()):
            figures[metric] = partial(rate_distortion, summary, metric)
    if steps_of(summary):
        figures["complexity"] = partial(complexity, summary)
    if pruned_steps(summary):
        figures["widths"] = partial(widths, summary)
    paths = {name: [folder / f"{name}.{suffix}" for suffix in FORMATS] for name in figures}
    for name, draw in figures.items():
        draw(*paths[name])
    return [path for of_figure in paths.values() for path in of_figure]


# -------------------------------------------------------------------------------------------------- of a training run


def plot_rounds(rounds: Iterable, path, *, target_macs_per_pixel: float):
    """Write a PNG of pruning rounds: BD-rate in % over the decoder's MAC/pixel (log), with a line at the target.

    A round has `macs_per_pixel`, `bd_rate_percent` and `accepted`; one whose `bd_rate_percent` is None is not drawn.
    """
    figure, axes = _new_figure("Pruning rounds", "decoder complexity (MAC per pixel)", "BD-rate (%)")
    measured = [round for round in rounds if round.bd_rate_percent is not None]
    accepted = sorted((round.macs_per_pixel, round.bd_rate_percent) for round in measured if round.accepted)
    rejected = [(round.macs_per_pixel, round.bd_rate_percent) for round in measured if not round.accepted]
    axes.axhline(0, color=DARK_GREY, linewidth=0.8)
    axes.axvline(target_macs_per_pixel, color=DARK_GREY, linestyle="--", linewidth=1, label="target")
    if accepted:
        axes.plot(*zip(*accepted, strict=True), color=COLOURS[0], marker="o", linewidth=1.4, label="accepted")
    if rejected:
        axes.plot(*zip(*rejected, strict=True), color=COLOURS[1], marker="x", linestyle="none", label="rejected")
    _label_log_axis(axes)
    axes.legend(loc="upper right", frameon=False)
    _save(figure, path)


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names of the points (cost, loss) that no other point beats in both, by growing cost."""
    front, best = [], float("inf")
    for name, (_, loss) in sorted(points.items(), key=lambda item: item[1]):
        if loss < best:
            front.append(name)
            best = loss
    return front


def plot_pareto(panels: Mapping[str, Mapping[str, tuple[float, float]]], path, *, named_by: str):
    """Write a PNG of jobs as points: BD-rate in % over the decoder's MAC/pixel (log), with the front that none beats.

    panels    by anchor, and by the job's name: (MAC/pixel, BD-rate in %)
    named_by  what the jobs' names are the values of
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * len(panels), 4.4), layout="constrained")
    for index, (anchor, points) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), index)
        _style(axes, named_by, "decoder complexity (MAC per pixel)", f"BD-rate against {label(anchor)} (%)")
        front = pareto(points)
        axes.plot(*zip(*points.values(), strict=True), color=COLOURS[1], marker="o", linestyle="none")
        axes.plot(*zip(*(points[name] for name in front), strict=True), color=COLOURS[0], marker="o", linewidth=1.4)
        for name in points if len(points) <= MOST_NAMES else front:
            axes.annotate(name, points[name], xytext=(5, 4), textcoords="offset points", fontsize=7)
        axes.margins(x=0.25, y=0.12)  # room for the names
        _label_log_axis(axes)
    _save(figure, path)


def plot_curves(curves: Mapping[str, Curve], path):
    """Write a PNG of rate–distortion curves by name: PSNR over bits per pixel, both estimated, on validation photos."""
    figure, axes = _new_figure("Validation", "rate (estimated bits per pixel)", metric_title(HEADLINE_METRIC))
    for index, (name, curve) in enumerate(curves.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axes.plot(curve.bpp, curve.values, color=colour, marker=marker, markersize=4, linewidth=1.4, label=name)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    _save(figure, path)


def _new_figure(title, x_label, y_label):
    from matplotlib.figure import Figure  # late: takes a second. Without pyplot it draws by Agg, on any machine.

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    _style(axes, title, x_label, y_label)
    return figure, axes


def _style(axes, title, x_label, y_label):
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _label_log_axis(axes):
    """Label x at 1, 2, 3 and 5 times the powers of ten as plain numbers: rounds span less than a decade or two."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _save(figure, *paths):
    """Write what the suffixes say. SVG has no date, fixed ids and letters as shapes: the same everywhere and always."""
    import matplotlib

    for path in map(Path, paths):
        format = path.suffix.removeprefix(".").lower()
        settings = {"metadata": {"Date": None}} if format == "svg" else {"dpi": 160}
        with writing(path) as file, matplotlib.rc_context({"svg.hashsalt": "slimcodec"}):
            figure.savefig(file, format=format, **settings)


# ---------------------------------------------------------------------------------------------------------- tables


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


def _psnr_cell(curve, bpp):
    psnr_db = value_at_bpp(curve, bpp)
    return "–" if psnr_db is None else f"{psnr_db:.2f}"


def _markdown(rows):
    """Right-aligned columns of equal width; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    header, *lines = (
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )
    ruler = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([header, ruler, *lines])
