"""The page: one self-contained HTML file of a summary, its points and its views, which opens from disk.

    summary, points, views ──► page/page.html (Jinja) + page.css + *.js + the data as JSON ──► report.html

Plotly is the basic bundle (lines and bars) of npm's plotly.js-basic-dist-min: Python's package has only the whole one,
of 4.8 MB.

The browser is told by the page itself that nothing may be loaded, so a page that anyone publishes asks for nothing.
"""

import gzip
import json
import math
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slimcodec.codec.atomic import write_text
from slimcodec.evaluation.metrics import METRICS
from slimcodec.evaluation.points import Point
from slimcodec.evaluation.summary import Summary, plain
from slimcodec.report import plots, tables
from slimcodec.report.headline import headline_data
from slimcodec.report.style import OTHER_PART, PARTS, colours, label, main_codec, main_first, metric_title
from slimcodec.report.viewer import View, media_type

PAGE = Path(__file__).with_name("page")
PLOTLY = "plotly-basic.min.js"
SCRIPTS = tuple(
    f"{name}.js"
    for name in ("common", "plots", "headline", "curves", "cost", "bd", "times", "start", "stage", "viewer", "tables")
)
LARGEST_PAGE = 5_000_000  # bytes; what would make it larger is left out of the viewer
# Qualities and codecs of the viewer, the first that there is room for. Fewer than the last, and pictures are left out.
SHARES = ((4, 5), (4, 4), (3, 4), (3, 3), (2, 3), (2, 2), (2, 1))


def write(summary: Summary, points: Sequence[Point], views: Sequence[View], path):
    """Write the page of a summary to `path`, replaced only once all of it is written.

    `points` give the times at each quality and may be empty, as may `views`; what is missing is left out of the page,
    or a sentence says why. Of the views as much is shown as there is room for in 5 MB, and the page names the rest.
    """
    room = LARGEST_PAGE - len(render(summary, points, []).encode("utf-8", "backslashreplace"))
    kept = next((kept for kept in _ever_fewer(views) if sum(map(_size, kept)) < room), [])
    write_text(path, render(summary, points, kept, left_out=_left_out(views, kept)))


def _ever_fewer(views: Sequence[View]) -> Iterator[list[View]]:
    """First all of them, then with fewer qualities and codecs each, then fewer of them."""
    yield list(views)
    for qualities, codecs in SHARES:
        smallest = [_part(view, qualities, codecs) for view in views]
        yield smallest
    for count in range(len(views) - 1, 0, -1):
        yield smallest[:count]


def _part(view: View, qualities: int, codecs: int) -> View:
    names = list(view.codecs)[:codecs]
    return view._replace(codecs={name: view.codecs[name][:qualities] for name in names})


def _size(view: View) -> int:
    """Bytes of the page that a view takes, and a few for what is around all of them."""
    return len(_json(_view(view)).encode("utf-8", "backslashreplace")) + 200


def _left_out(views: Sequence[View], kept: Sequence[View]) -> list[str]:
    """Names of the codecs, qualities and pictures that are no longer there."""
    codecs = [label(name) for name in _codecs_of(views) if name not in _codecs_of(kept)]
    stops = max((len(shown) for view in views for shown in view.codecs.values()), default=0)
    left = max((len(shown) for view in kept for shown in view.codecs.values()), default=stops)
    qualities = [f"the higher of {stops} qualities"] if left < stops else []
    return (codecs if kept else []) + qualities + [view.picture for view in views[len(kept) :]]


def _codecs_of(views: Iterable[View]) -> dict[str, None]:
    return dict.fromkeys(name for view in views for name in view.codecs)


def render(summary: Summary, points: Sequence[Point], views: Sequence[View], left_out: Sequence[str] = ()) -> str:
    """The page as text. `left_out` names what there is no room for."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    environment = Environment(loader=FileSystemLoader(PAGE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html").render(
        css=Markup((PAGE / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup((PAGE / name).read_text(encoding="utf-8")) for name in SCRIPTS],
        plotly=b64encode(gzip.compress((PAGE / PLOTLY).read_bytes(), mtime=0)).decode(),
        data=Markup(_json(page_data(summary, views))),
        summary=summary,
        main=main_codec(summary),
        label=label,
        lead=tables.lead(summary),
        facts=tables.facts(summary),
        steps=plots.steps_of(summary),
        pruned=plots.pruned_steps(summary),
        complexity=tables.complexity_table(summary),
        pictures=tables.pictures_table(summary, points),
        mean_points=tables.mean_points_table(summary, points),
        missing=tables.missing_table(summary),
        settings=tables.settings_table(summary),
        sources=tables.sources_table(summary),
        machine=tables.machine(summary),
        has_rounds=any(name != main_codec(summary) for name in summary.rounds if name in summary.codecs),
        processors=len({entry.processor for entry in summary.provenance.commands} - {None}),
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


# ----------------------------------------------------------------------------------------------------- for the scripts


def page_data(summary: Summary, views: Sequence[View]) -> dict[str, Any]:
    """What the scripts draw, as plain values."""
    found = headline_data(summary)
    return {
        "set": summary.data.name,
        "main": main_codec(summary),
        "codecs": _codecs(summary),
        "metrics": {name: _metric(name) for name in summary.metrics},
        "curves": _curves(summary),
        "rateLimit": plots.rate_limit(summary),
        "headline": found and {**found._asdict(), "spots": [spot._asdict() for spot in found.spots],
                               "levels": [level._asdict() for level in found.levels]},
        "target": summary.target_macs_per_pixel,
        "complexity": {side: _bars(summary, side) for side in ("decoder", "encoder")},
        "widths": {name: plain(summary.codecs[name].complexity.widths) for name in plots.pruned_steps(summary)},
        "anchors": [name for name in summary.anchors if name in summary.bd_rate],
        "bdRate": plain(summary.bd_rate),
        "views": [_view(view) for view in views],
    }  # fmt: skip


def _codecs(summary):
    """Every codec and published curve: how it is called and drawn, and in which group of the legend it stands."""
    palette = colours(summary)
    found = {}
    for name, codec in main_first(summary).items():
        group = "rounds" if codec.role == "round" or name in summary.rounds else codec.kind
        found[name] = {
            "label": label(name),
            "group": group,
            "colour": palette[name]._asdict(),
            "role": codec.role,
            "milliseconds": {"encode": codec.encode_ms_per_megapixel, "decode": codec.decode_ms_per_megapixel},
        }
    for name, quoted in summary.quoted.items():
        about = {"kmacs": quoted.decoder_kmacs_per_pixel, "source": quoted.source}
        colour = palette[name]._asdict()
        found.setdefault(name, {"label": label(name), "group": "quoted", "colour": colour, "role": None, **about})
    return found


def _metric(name):
    if name not in METRICS:
        return {"title": name, "unit": "", "axis": name, "higher": True, "digits": 4}
    metric = METRICS[name]
    axis, digits = metric_title(name), tables.digits(name)
    return {
        "title": metric.title,
        "unit": metric.unit,
        "axis": axis,
        "higher": metric.higher_is_better,
        "digits": digits,
    }


def _curves(summary):
    """metric → codec → its curve."""
    everything = {**main_first(summary), **summary.quoted}
    return {
        metric: {name: codec.curves[metric]._asdict() for name, codec in everything.items() if metric in codec.curves}
        for metric in summary.metrics
    }


def _bars(summary, side):
    steps = plots.steps_of(summary)
    parts = plots.parts_of(summary, side)
    return {
        "steps": steps,
        "parts": [
            {
                "name": part,
                "colour": PARTS.get(part, OTHER_PART)._asdict(),
                "macs": [summary.codecs[name].complexity.parts(side).get(part, 0) for name in steps],
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
        "codecs": {
            name: [{**shown._asdict(), "image": _data_url(shown.image)} for shown in of_codec]
            for name, of_codec in view.codecs.items()
        },
        "leftOut": view.left_out,
    }


def _data_url(image):
    return f"data:{media_type(image)};base64," + b64encode(image).decode()
