"""The page: one self-contained HTML file of a summary, its points and its views, which opens from disk.

    summary, points, views ──► page/page.html (Jinja) + page.css + *.js + plotly.js + the data as JSON ──► report.html

The browser is told by the page itself that nothing may be loaded, so a page that anyone publishes asks for nothing.
"""

import json
import math
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from slimcodec.codec.atomic import write_text
from slimcodec.evaluation import figures
from slimcodec.evaluation.figures import Summary, label, main_codec
from slimcodec.evaluation.metrics import METRICS
from slimcodec.evaluation.points import Point
from slimcodec.evaluation.provenance import COMMAND, commands
from slimcodec.evaluation.viewer import View

PAGE = Path(__file__).with_name("page")
SCRIPTS = tuple(f"{name}.js" for name in ("common", "plots", "headline", "curves", "cost", "start", "viewer", "tables"))
LARGEST_PAGE = 14_500_000  # bytes; pictures that would make it larger are left out
DASH = "–"


def write(summary: Summary, points: Sequence[Point], views: Sequence[View], path):
    """Write the page of a summary to `path`, replaced only once all of it is written.

    `points` give the times at each quality and may be empty, as may `views`; what is missing is left out of the page,
    or a sentence says why. If the file would be larger than 14.5 MB, crops of the pruning rounds are left out, then
    pictures, and the page says so.
    """
    for kept, left_out in _ever_fewer(views, summary["rounds"]):
        html = render(summary, points, kept, left_out=left_out)
        if len(html.encode("utf-8", "backslashreplace")) <= LARGEST_PAGE:
            break
    write_text(path, html)


def _ever_fewer(views, rounds):
    """The views and names of what is not among them: first all, then without the rounds' crops, then fewer pictures."""
    yield list(views), []
    kept = [view._replace(codecs={n: shown for n, shown in view.codecs.items() if n not in rounds}) for view in views]
    gone = [label(name) for name in rounds if any(name in view.codecs for view in views)]
    for count in range(len(kept), -1, -1):
        yield kept[:count], gone + [view.picture for view in views[count:]]


def render(summary: Summary, points: Sequence[Point], views: Sequence[View], left_out: Sequence[str] = ()) -> str:
    """The page as text. `left_out` names what there is no room for."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs  # of the bundles that plotly has, its Python package brings the whole one

    environment = Environment(loader=FileSystemLoader(PAGE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html").render(
        css=Markup((PAGE / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup((PAGE / name).read_text(encoding="utf-8")) for name in SCRIPTS],
        plotly=Markup(get_plotlyjs()),
        data=Markup(_json(page_data(summary, views))),
        summary=summary,
        main=main_codec(summary),
        label=label,
        lead=lead(summary),
        facts=facts(summary),
        steps=figures.steps_of(summary),
        pruned=figures.pruned_steps(summary),
        complexity=complexity_table(summary),
        mean_points=mean_points_table(summary, points),
        missing=missing_table(summary),
        settings=settings_table(summary),
        sources=sources_table(summary),
        machine=machine(summary),
        views=views,
        not_shown=left_out,
    )


def _json(value) -> str:
    """JSON that may stand in a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _finite(value):
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------------------------------------- numbers as people read


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
    main, count = main_codec(summary), len(summary["data"]["pictures"])
    sentences = [f"Measured in real files on {_counted(count, 'picture')} of {summary['data']['name']}."]
    if main is None:
        return [*sentences, "No model was measured, only other codecs."]
    found = figures.headline_data(summary)
    if found is None or not any(spot.name == main for spot in found.spots):
        return [*sentences, *_why_no_headline(summary, main)]
    entry = summary["bd_rate"][found.anchor][main][found.metric]
    bits = f"{abs(entry['percent']):.1f} % {'more' if entry['percent'] >= 0 else 'fewer'} bits"
    return [
        *sentences,
        f"{label(main)} takes {bits} than {label(found.anchor)} for the same {_title(found.metric)}"
        f" ({_range(entry, found.metric)}).",
        *([] if len(summary["codecs"]) == 1 else [_others(summary)]),
    ]


def _counted(count, noun):
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _others(summary):
    models = [codec for codec in summary["codecs"].values() if codec["kind"] == "model"]
    anchors = len(summary["codecs"]) - len(models)
    beside = f", beside {_counted(anchors, 'other codec')} that ran on the same pictures" if anchors else ""
    return f"This page compares {_counted(len(models), 'model')}{beside}."


def _range(entry, metric):
    words = f"{entry['low']:.1f} to {entry['high']:.1f} {_unit(metric)}".strip()
    if entry.get("interval"):
        words += f"; 95 % interval {percent(entry['interval'][0])} to {percent(entry['interval'][1])}"
    return words


def _why_no_headline(summary, main):
    anchor = next(iter(summary["anchors"]), None)
    if anchor is None:
        return ["There is no codec to compare with, so there are no BD-rates."]
    for metric, entry in summary["bd_rate"].get(anchor, {}).get(main, {}).items():
        if entry.get("percent") is None:
            reason = entry.get("reason") or "the curves cannot be compared"
            return [f"No BD-rate of {label(main)} against {label(anchor)} ({_title(metric)}): {reason}."]
    return []


def facts(summary: Summary) -> list[tuple[str, str, str]]:
    """(number, what it is, a remark) of the main model, at most four."""
    main = main_codec(summary)
    if main is None:
        return []
    codec, metric, found = summary["codecs"][main], figures.headline_metric(summary), []
    if codec["complexity"]:
        target = summary.get("target_macs_per_pixel")
        remark = f"target {target:,.0f}" if target else f"encoder {codec['complexity']['encoder_macs_per_pixel']:,.0f}"
        found.append((number(codec["complexity"]["decoder_macs_per_pixel"]), "MAC per pixel to decode", remark))
    for anchor in sorted(summary["anchors"], key=lambda name: _rank(summary, name)):
        entry = summary["bd_rate"].get(anchor, {}).get(main, {}).get(metric, {})
        if entry.get("percent") is not None:
            over = f"{_title(metric)}, {entry['low']:.1f}–{entry['high']:.1f} {_unit(metric)}".rstrip()
            found.append((percent(entry["percent"]), f"BD-rate against {label(anchor)}", over))
    if codec.get("decode_ms_per_megapixel") is not None:
        cpu = f"encode {significant(codec['encode_ms_per_megapixel'])} ms"
        time = (f"{significant(codec['decode_ms_per_megapixel'])} ms", "per megapixel to decode", cpu)
        found = [*found[:3], time]
    return found[:4]


def _rank(summary, anchor):
    """The headline's anchor first, then teachers: what pruning cost."""
    return summary["anchors"][0] != anchor, summary["codecs"].get(anchor, {}).get("role") != "teacher"


def _title(metric):
    return METRICS[metric].title if metric in METRICS else metric


def _unit(metric):
    return METRICS[metric].unit if metric in METRICS else ""


# ------------------------------------------------------------------------------------------------------------- tables


def complexity_table(summary: Summary) -> Table:
    """What every codec that ran costs on either side."""
    header = ("codec", "encoder MAC/pixel", "decoder MAC/pixel", "parameters", "peak memory, MiB")
    rows = [_complexity_row(name, codec) for name, codec in summary["codecs"].items()]
    return Table("complexity", (*header, "encode, ms/megapixel", "decode, ms/megapixel"), rows)


def _complexity_row(name, codec):
    counted = codec["complexity"] or {}
    return [
        Cell(label(name)),
        _cell(counted.get("encoder_macs_per_pixel")),
        _cell(counted.get("decoder_macs_per_pixel")),
        _cell(counted.get("parameters")),
        _cell(codec.get("peak_memory_mib")),
        _cell(codec.get("encode_ms_per_megapixel"), significant),
        _cell(codec.get("decode_ms_per_megapixel"), significant),
    ]


def mean_points_table(summary: Summary, points: Iterable[Point]) -> Table:
    """Every codec at every quality: means over the pictures, and medians of the times."""
    times, metrics = _times(points), summary["metrics"]
    header = ("codec", "quality", "bpp", *map(figures.metric_title, metrics), "encode, ms/MP", "decode, ms/MP")
    rows = [
        [
            Cell(label(name)),
            _cell(quality, lambda value: f"{value:g}"),
            *cells,
            *times.get((name, quality), [Cell(DASH)] * 2),
        ]
        for name, codec in summary["codecs"].items()
        for quality, cells in _rows_of_curves(codec["curves"], metrics)
    ]
    return Table("mean-points", header, rows)


def _rows_of_curves(curves, metrics):
    """quality → cells of the rate and of each metric. A metric of fewer pictures has a rate of its own: not here."""
    qualities = sorted({quality for curve in curves.values() for quality in curve["quality"]})
    for quality in qualities:
        values = {name: _at(curve, quality) for name, curve in curves.items()}
        bpp = next((rate for rate, _ in values.values() if rate is not None), None)
        yield (
            quality,
            [_cell(bpp, number, 4), *(_cell(values.get(m, (None, None))[1], number, _digits(m)) for m in metrics)],
        )


def _at(curve, quality):
    if quality not in curve["quality"]:
        return None, None
    index = curve["quality"].index(quality)
    return curve["bpp"][index], curve["values"][index]


def _digits(metric):
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
    rows = [["picture", picture, reason] for picture, reason in summary["data"]["left_out"].items()]
    rows += [["metric", _title(name), reason] for name, reason in summary["unavailable"].items()]
    rows += [_failed(failure) for failure in summary["failures"]]
    return Table("missing", ("kind", "what", "why"), [[Cell(text) for text in row] for row in rows])


def _failed(failure):
    """A file that could not be made; or, where no picture is named, a codec that cannot run at all."""
    codec = label(failure["codec"]) if failure.get("codec") else ""
    quality = "" if failure.get("quality") is None else f" at quality {failure['quality']:g}"
    if not failure.get("picture"):
        return ["codec", codec, failure["reason"]]
    return ["file", f"{codec}{quality}, {failure['picture']}".removeprefix(", "), failure["reason"]]


def settings_table(summary: Summary) -> Table:
    rows = [
        [Cell(label(name)), Cell(_qualities(codec["qualities"])), _cell(codec["pictures"]), Cell(codec["settings"])]
        for name, codec in summary["codecs"].items()
    ]
    return Table("settings", ("codec", "qualities", "pictures", "settings"), rows)


def _qualities(values):
    return ", ".join(f"{value:g}" for value in values)


def sources_table(summary: Summary) -> Table:
    """The published curves, and where the numbers were read."""
    rows = [
        [Cell(label(name)), _cell(curve["decoder_kmacs_per_pixel"], significant), Cell(curve["source"])]
        for name, curve in sorted(summary["quoted"].items(), key=lambda item: label(item[0]).lower())
    ]
    return Table("sources", ("published curve", "decoder kMAC/pixel", "source"), rows)


def _commands(made):
    """Every command that made a study, a line each; with one, all else that is said is said of it."""
    entries = commands(made)
    if len(entries) == 1:
        return [entries[0]["command"]]
    return [
        f"{entry['command']} ({', '.join(str(entry[name]) for name in COMMAND if name != 'command' and entry[name])})"
        for entry in entries
    ]


def machine(summary: Summary) -> list[tuple[str, str]]:
    """(what, value) of everything that is known of how this was made."""
    made, data = summary["provenance"], summary["data"]
    computer = made.get("machine") or {}
    memory, size = computer.get("memory_gib"), significant(data["megapixels"])
    pairs = [
        ("Date", made.get("date")),
        ("slimcodec", made.get("version")),
        ("Commit", made.get("commit")),
        *(("Command", line) for line in _commands(made)),
        ("Data", f"{data['name']}: {_counted(len(data['pictures']), 'picture')}, {size} megapixels"),
        ("Processor", computer.get("cpu") and f"{computer['cpu']}, {_counted(computer.get('cores', 1), 'core')}"),
        ("Memory", memory and f"{memory:.1f} GiB"),
        ("System", computer.get("system")),
        ("Python", computer.get("python")),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in (computer.get("libraries") or {}).items())),
        (
            "Processes",
            made.get("jobs") and f"{made['jobs']} at a time, {_counted(made.get('threads', 1), 'thread')} each",
        ),
    ]
    return [(name, str(value)) for name, value in pairs if value]


# ----------------------------------------------------------------------------------------------------- for the scripts


def page_data(summary: Summary, views: Sequence[View]) -> dict[str, Any]:
    """What the scripts draw, as plain values."""
    found = figures.headline_data(summary)
    return {
        "set": summary["data"]["name"],
        "main": main_codec(summary),
        "codecs": _codecs(summary),
        "metrics": {name: _metric(name) for name in summary["metrics"]},
        "curves": _curves(summary),
        "rateLimit": figures.rate_limit(summary),
        "headline": found and {**found._asdict(), "spots": [spot._asdict() for spot in found.spots],
                               "levels": [level._asdict() for level in found.levels]},
        "target": summary.get("target_macs_per_pixel"),
        "complexity": {side: _bars(summary, side) for side in ("decoder", "encoder")},
        "widths": {name: summary["codecs"][name]["complexity"]["widths"] for name in figures.pruned_steps(summary)},
        "anchors": [name for name in summary["anchors"] if name in summary["bd_rate"]],
        "bdRate": summary["bd_rate"],
        "views": [_view(view) for view in views],
    }  # fmt: skip


def _codecs(summary):
    """Every codec and published curve: how it is called and drawn, and in which group of the legend it stands."""
    palette = figures.colours(summary)
    found = {}
    for name, codec in summary["codecs"].items():
        group = "rounds" if codec.get("role") == "round" or name in summary["rounds"] else codec["kind"]
        found[name] = {
            "label": label(name),
            "group": group,
            "colour": palette[name]._asdict(),
            "role": codec.get("role"),
        }
    for name, quoted in summary["quoted"].items():
        about = {"kmacs": quoted["decoder_kmacs_per_pixel"], "source": quoted["source"]}
        colour = palette[name]._asdict()
        found.setdefault(name, {"label": label(name), "group": "quoted", "colour": colour, "role": None, **about})
    return found


def _metric(name):
    if name not in METRICS:
        return {"title": name, "unit": "", "axis": name, "higher": True, "digits": 4}
    metric = METRICS[name]
    axis, digits = figures.metric_title(name), _digits(name)
    return {
        "title": metric.title,
        "unit": metric.unit,
        "axis": axis,
        "higher": metric.higher_is_better,
        "digits": digits,
    }


def _curves(summary):
    """metric → codec → its curve."""
    everything = {**summary["quoted"], **summary["codecs"]}
    return {
        metric: {name: codec["curves"][metric] for name, codec in everything.items() if metric in codec["curves"]}
        for metric in summary["metrics"]
    }


def _bars(summary, side):
    steps = figures.steps_of(summary)
    parts = figures.parts_of(summary, side)
    return {
        "steps": steps,
        "parts": [
            {
                "name": part,
                "colour": figures.PARTS.get(part, figures.OTHER_PART)._asdict(),
                "macs": [summary["codecs"][name]["complexity"][side].get(part, 0) for name in steps],
            }
            for part in parts
        ],
    }


def _view(view: View):
    return {
        "picture": view.picture,
        "width": view.width,
        "height": view.height,
        "box": view.box,
        "original": _data_url(view.original),
        "thumbnail": _data_url(view.thumbnail),
        "codecs": {name: {**shown._asdict(), "image": _data_url(shown.image)} for name, shown in view.codecs.items()},
        "leftOut": view.left_out,
    }


def _data_url(webp):
    return "data:image/webp;base64," + b64encode(webp).decode()
