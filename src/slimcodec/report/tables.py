"""What the page says in words and tables: numbers as people read them, the lead, the facts, the tables."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any, NamedTuple

from slimcodec.evaluation import curves
from slimcodec.evaluation.metrics import METRICS
from slimcodec.evaluation.points import Point, middle
from slimcodec.evaluation.summary import Command, Machine, Provenance, Summary
from slimcodec.report.headline import headline_data, headline_metric
from slimcodec.report.style import label, main_codec, main_first, metric_title

DASH = "–"


def number(value: float | None, digits: int = 0) -> str:
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.{digits}f}".replace("-", "−")


def significant(value: float | None) -> str:
    """Three significant digits, or all digits before the point."""
    if value is None or not math.isfinite(value):
        return DASH
    return number(value, max(0, 2 - math.floor(math.log10(abs(value))))) if value else "0"


def percent(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:+.1f} %".replace("-", "−")


class Cell(NamedTuple):
    text: str
    value: Any = None  # the number with all its digits, for the CSV; None in a cell of words


class Table(NamedTuple):
    name: str  # of the CSV file
    header: tuple[str, ...]
    rows: list[list[Cell]]


def _cell(value, written=number, *arguments):
    return Cell(written(value, *arguments), "" if value is None else value)


# ---------------------------------------------------------------------------------------------------------- top of it


def lead(summary: Summary) -> list[str]:
    """The sentences under the title."""
    main, count = main_codec(summary), len(summary.data.pictures)
    sentences = [f"Measured in real files on {_counted(count, 'picture')} of {summary.data.name}."]
    if main is None:
        return [*sentences, "No model was measured, only other codecs."]
    found = headline_data(summary)
    if found is None or not any(spot.name == main for spot in found.spots):
        return [*sentences, *_why_no_headline(summary, main)]
    entry = summary.bd_rate[found.anchor][main][found.metric]
    bits = f"{abs(entry.percent):.1f} % {'more' if entry.percent >= 0 else 'fewer'} bits"
    return [
        *sentences,
        f"{label(main)} takes {bits} than {label(found.anchor)} for the same {_title(found.metric)}"
        f" ({_range(entry, found.metric)}).",
        *([] if len(summary.codecs) == 1 else [_others(summary)]),
    ]


def _counted(count, noun):
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _others(summary):
    models = [codec for codec in summary.codecs.values() if codec.kind == "model"]
    anchors = len(summary.codecs) - len(models)
    beside = f", beside {_counted(anchors, 'other codec')} that ran on the same pictures" if anchors else ""
    return f"This page compares {_counted(len(models), 'model')}{beside}."


def _range(entry, metric):
    words = f"{entry.low:.1f} to {entry.high:.1f} {_unit(metric)}".strip()
    if entry.interval:
        words += f"; 95 % interval {percent(entry.interval[0])} to {percent(entry.interval[1])}"
    return words


def _why_no_headline(summary, main):
    anchor = next(iter(summary.anchors), None)
    if anchor is None:
        return ["There is no codec to compare with, so there are no BD-rates."]
    for metric, entry in summary.bd_rate.get(anchor, {}).get(main, {}).items():
        if entry.percent is None:
            reason = entry.reason or "the curves cannot be compared"
            return [f"No BD-rate of {label(main)} against {label(anchor)} ({_title(metric)}): {reason}."]
    return []


def facts(summary: Summary) -> list[tuple[str, str, str]]:
    """(number, what it is, a remark) of the main model, at most four."""
    main = main_codec(summary)
    if main is None:
        return []
    codec, metric, found = summary.codecs[main], headline_metric(summary), []
    if codec.complexity:
        target = summary.target_macs_per_pixel
        remark = f"target {target:,.0f}" if target else f"encoder {codec.complexity.encoder_macs_per_pixel:,.0f}"
        found.append((number(codec.complexity.decoder_macs_per_pixel), "MAC per pixel to decode", remark))
    for anchor in sorted(summary.anchors, key=lambda name: _rank(summary, name)):
        entry = summary.bd_rate.get(anchor, {}).get(main, {}).get(metric)
        if entry is not None and entry.percent is not None:
            over = f"{_title(metric)}, {entry.low:.1f}–{entry.high:.1f} {_unit(metric)}".rstrip()
            found.append((percent(entry.percent), f"BD-rate against {label(anchor)}", over))
    if codec.decode_ms_per_megapixel is not None:
        cpu = f"encode {significant(codec.encode_ms_per_megapixel)} ms"
        time = (f"{significant(codec.decode_ms_per_megapixel)} ms", "per megapixel to decode", cpu)
        found = [*found[:3], time]
    return found[:4]


def _rank(summary, anchor):
    """The headline's anchor first, then teachers: what pruning cost."""
    return summary.anchors[0] != anchor, anchor not in _teachers(summary)


def _teachers(summary):
    return [name for name, codec in summary.codecs.items() if codec.role == "teacher"]


def _title(metric):
    return METRICS[metric].title if metric in METRICS else metric


def _unit(metric):
    return METRICS[metric].unit if metric in METRICS else ""


# ------------------------------------------------------------------------------------------------------------- tables


def complexity_table(summary: Summary) -> Table:
    """What every codec that ran costs on either side."""
    header = ("codec", "encoder MAC/pixel", "decoder MAC/pixel", "parameters", "peak memory, MiB")
    rows = [_complexity_row(name, codec) for name, codec in main_first(summary).items()]
    return Table("complexity", (*header, "encode, ms/megapixel", "decode, ms/megapixel"), rows)


def _complexity_row(name, codec):
    counted = codec.complexity
    return [
        Cell(label(name)),
        _cell(counted and counted.encoder_macs_per_pixel),
        _cell(counted and counted.decoder_macs_per_pixel),
        _cell(counted and counted.parameters),
        _cell(codec.peak_memory_mib),
        _cell(codec.encode_ms_per_megapixel, significant),
        _cell(codec.decode_ms_per_megapixel, significant),
    ]


def mean_points_table(summary: Summary, points: Iterable[Point]) -> Table:
    """Every codec at every quality: means over the pictures, and medians of the times."""
    times, metrics = _times(points), summary.metrics
    header = ("codec", "quality", "bpp", *map(metric_title, metrics), "encode, ms/MP", "decode, ms/MP")
    rows = [
        [
            Cell(label(name)),
            _cell(quality, lambda value: f"{value:g}"),
            *cells,
            *times.get((name, quality), [Cell(DASH)] * 2),
        ]
        for name, codec in main_first(summary).items()
        for quality, cells in _rows_of_curves(codec.curves, metrics)
    ]
    return Table("mean-points", header, rows)


def pictures_table(summary: Summary, points: Iterable[Point]) -> Table:
    """Each picture by itself: the main model at its middle quality, and its BD-rate against each other codec that ran.

    Steps of pruning are left out. Empty where no model was measured.
    """
    main, metric = main_codec(summary), headline_metric(summary)
    ladders = _ladders(points)
    others = [name for name in main_first(summary) if name != main and name not in summary.rounds and name in ladders]
    if main not in ladders:
        return Table("pictures", ("picture",), [])
    percents = [curves.bd_rates_by_picture(ladders[name], ladders[main], metric)[0] for name in others]
    against = [f"against {label(name)}" for name, of_codec in zip(others, percents, strict=True) if of_codec]
    header = ("picture", "quality", "bpp", metric_title(metric), *against)
    rows = [
        [
            *_middle_cells(point, metric),
            *(_cell(of_codec.get(point.picture), percent) for of_codec in percents if of_codec),
        ]
        for point in _middles(ladders[main])
    ]
    return Table("pictures", header, rows)


def _ladders(points: Iterable[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        found[point.codec].append(point)
    return found


def _middles(points: Iterable[Point]) -> list[Point]:
    """The point of each picture at the middle quality."""
    by_picture: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        by_picture[point.picture].append(point)
    return [middle(of_one) for _, of_one in sorted(by_picture.items())]


def _middle_cells(point: Point, metric: str) -> list[Cell]:
    value = point.metrics.get(metric)
    quality = _cell(point.quality, lambda quality: f"{quality:g}")
    return [Cell(point.picture), quality, _cell(point.bpp, number, 3), _cell(value, number, digits(metric))]


def _rows_of_curves(curves, metrics):
    """quality → cells of the rate and of each metric. A metric of fewer pictures has a rate of its own: not here."""
    qualities = sorted({quality for curve in curves.values() for quality in curve.quality})
    for quality in qualities:
        values = {name: _at(curve, quality) for name, curve in curves.items()}
        bpp = next((rate for rate, _ in values.values() if rate is not None), None)
        yield (
            quality,
            [_cell(bpp, number, 4), *(_cell(values.get(m, (None, None))[1], number, digits(m)) for m in metrics)],
        )


def _at(curve, quality):
    if quality not in curve.quality:
        return None, None
    index = curve.quality.index(quality)
    return curve.bpp[index], curve.values[index]


def digits(metric):
    return 2 if metric in METRICS and METRICS[metric].unit == "dB" else 4


def _times(points):
    """(codec, quality) → cells of the median milliseconds a megapixel, to encode and to decode."""
    found = defaultdict(list)
    for point in points:
        megapixels = 8 * point.bytes / point.bpp / 1e6
        found[point.codec, point.quality].append((point.encode_seconds / megapixels, point.decode_seconds / megapixels))
    return {
        place: [_cell(1000 * median(side), significant) for side in zip(*seconds, strict=True)]
        for place, seconds in found.items()
    }


def missing_table(summary: Summary) -> Table:
    """What was asked for and is not there, with the reason."""
    rows = [["picture", picture, reason] for picture, reason in summary.data.left_out.items()]
    rows += [["metric", _title(name), reason] for name, reason in summary.unavailable.items()]
    rows += [_failed(failure) for failure in summary.failures]
    return Table("missing", ("kind", "what", "why"), [[Cell(text) for text in row] for row in rows])


def _failed(failure):
    """A file that could not be made; or, where no picture is named, a codec that cannot run at all."""
    codec = label(failure.codec) if failure.codec else ""
    quality = "" if failure.quality is None else f" at quality {failure.quality:g}"
    if not failure.picture:
        return ["codec", codec, failure.reason]
    return ["file", f"{codec}{quality}, {failure.picture}".removeprefix(", "), failure.reason]


def settings_table(summary: Summary) -> Table:
    rows = [
        [Cell(label(name)), Cell(_qualities(codec.qualities)), _cell(codec.pictures), Cell(codec.settings)]
        for name, codec in summary.codecs.items()
    ]
    return Table("settings", ("codec", "qualities", "pictures", "settings"), rows)


def _qualities(values):
    return ", ".join(f"{value:g}" for value in values)


def sources_table(summary: Summary) -> Table:
    """The published curves, and where the numbers were read."""
    rows = [
        [Cell(label(name)), _cell(curve.decoder_kmacs_per_pixel, significant), Cell(curve.source)]
        for name, curve in sorted(summary.quoted.items(), key=lambda item: label(item[0]).lower())
    ]
    return Table("sources", ("published curve", "decoder kMAC/pixel", "source"), rows)


def _commands(made: Provenance) -> list[str]:
    """Every command that made a study, a line each; with one, all else that is said is said of it."""
    if len(made.commands) == 1:
        return [made.commands[0].command]
    return [f"{entry.command} ({', '.join(filter(None, _about(entry)))})" for entry in made.commands]


def _about(entry: Command) -> tuple[str | None, ...]:
    return entry.date, entry.version, entry.commit, entry.processor


def machine(summary: Summary) -> list[tuple[str, str]]:
    """(what, value) of everything that is known of how this was made."""
    made, data = summary.provenance, summary.data
    computer, size = made.machine, significant(data.megapixels)
    threads = _counted(made.threads or 1, "thread")
    pairs = [
        ("Date", made.date),
        ("slimcodec", made.version),
        ("Commit", made.commit),
        *(("Command", line) for line in _commands(made)),
        ("Data", f"{data.name}: {_counted(len(data.pictures), 'picture')}, {size} megapixels"),
        *(_computer(computer) if computer else ()),
        ("Processes", made.jobs and f"{made.jobs} at a time, {threads} each"),
    ]
    return [(name, str(value)) for name, value in pairs if value]


def _computer(computer: Machine) -> Iterator[tuple[str, str | None]]:
    yield "Processor", computer.cpu and f"{computer.cpu}, {_counted(computer.cores or 1, 'core')}"
    yield "Memory", computer.memory_gib and f"{computer.memory_gib:.1f} GiB"
    yield "System", computer.system
    yield "Python", computer.python
    yield "Libraries", ", ".join(f"{name} {version}" for name, version in computer.libraries.items())
