"""The page: one self-contained HTML file of a summary, its points and its views, which opens from disk.

    summary, points, views ──► page/page.html (Jinja) + page.css + *.js + plotly.js + the data as JSON ──► report.html

The browser is told by the page itself that nothing may be loaded, so a page that anyone publishes asks for nothing.
"""

import json
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimcodec.codec.atomic import write_text
from slimcodec.evaluation.metrics import METRICS
from slimcodec.evaluation.points import Point
from slimcodec.evaluation.summary import Summary, plain
from slimcodec.report import plots, tables
from slimcodec.report.headline import headline_data
from slimcodec.report.style import OTHER_PART, PARTS, colours, label, main_codec, metric_title
from slimcodec.report.viewer import View

PAGE = Path(__file__).with_name("page")
SCRIPTS = tuple(f"{name}.js" for name in ("common", "plots", "headline", "curves", "cost", "start", "viewer", "tables"))
LARGEST_PAGE = 14_500_000  # bytes; pictures that would make it larger are left out


def write(summary: Summary, points: Sequence[Point], views: Sequence[View], path):
    """Write the page of a summary to `path`, replaced only once all of it is written.

    `points` give the times at each quality and may be empty, as may `views`; what is missing is left out of the page,
    or a sentence says why. If the file would be larger than 14.5 MB, crops of the pruning rounds are left out, then
    pictures, and the page says so.
    """
    for kept, left_out in _ever_fewer(views, summary.rounds):
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
        lead=tables.lead(summary),
        facts=tables.facts(summary),
        steps=plots.steps_of(summary),
        pruned=plots.pruned_steps(summary),
        complexity=tables.complexity_table(summary),
        mean_points=tables.mean_points_table(summary, points),
        missing=tables.missing_table(summary),
        settings=tables.settings_table(summary),
        sources=tables.sources_table(summary),
        machine=tables.machine(summary),
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
    for name, codec in summary.codecs.items():
        group = "rounds" if codec.role == "round" or name in summary.rounds else codec.kind
        found[name] = {
            "label": label(name),
            "group": group,
            "colour": palette[name]._asdict(),
            "role": codec.role,
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
    everything = {**summary.quoted, **summary.codecs}
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
        "thumbnail": _data_url(view.thumbnail),
        "codecs": {name: {**shown._asdict(), "image": _data_url(shown.image)} for name, shown in view.codecs.items()},
        "leftOut": view.left_out,
    }


def _data_url(webp):
    return "data:image/webp;base64," + b64encode(webp).decode()
