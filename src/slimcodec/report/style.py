"""What a codec is called, which colour it has, and how all figures look: the same in every figure and on the page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slimcodec.codec.atomic import writing
from slimcodec.evaluation import published
from slimcodec.evaluation.metrics import METRICS
from slimcodec.evaluation.summary import CodecEntry, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart; its yellow is too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>P"
GREY, DARK_GREY, PALE = "#8a8a8a", "#555555", "#e5e5e5"
FORMATS = ("png", "svg")


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

# Other codecs that run here, where the family's title would not say by which encoder.
ENCODERS = {"vvc": "VVC (VVenC)", "hevc": "HEVC (x265)"}


def family(name: str) -> str | None:
    """The key of `CLASSICAL` that this codec or published curve belongs to; None for a learned codec."""
    if name in published.quoted_names():
        return published.quoted(name).family
    return name if name in CLASSICAL else None


def label(name: str) -> str:
    """What figures call a codec or a published curve."""
    if name in published.quoted_names():
        return published.quoted(name).label
    if name in ENCODERS:
        return ENCODERS[name]
    return CLASSICAL[name][0] if name in CLASSICAL else name


def metric_title(metric: str) -> str:
    """A metric's title with its unit, as an axis has it."""
    if metric not in METRICS:
        return metric
    return f"{METRICS[metric].title} ({METRICS[metric].unit})" if METRICS[metric].unit else METRICS[metric].title


def main_codec(summary: Summary) -> str | None:
    """The model that the summary is about: the one that was named, else the last student, else the last model.

    None where only anchors ran.
    """
    if summary.main in summary.codecs:
        return summary.main
    found = [name for name, codec in summary.codecs.items() if codec.kind == "model"]
    models = [name for name in found if summary.codecs[name].role != "rival"] or found
    students = [name for name in models if summary.codecs[name].role == "student"]
    return (students or models or [None])[-1]


def main_first(summary: Summary) -> dict[str, CodecEntry]:
    """The codecs that ran in the order of their names in lists: the main model, then the others as they were measured.

    Steps of pruning come last.
    """
    main, codecs = main_codec(summary), summary.codecs
    return {name: codecs[name] for name in sorted(codecs, key=lambda name: (name != main, name in summary.rounds))}


def colours(summary: Summary) -> dict[str, Colour]:
    """Every codec and every published curve of the summary → its colour."""
    codecs, rounds = summary.codecs, [name for name in summary.rounds if name in summary.codecs]
    named: dict[str, Colour] = {}
    for index, name in enumerate(rounds):
        named[name] = _blend(FIRST_ROUND, LAST_ROUND, index / max(len(rounds) - 1, 1))
    teachers = [name for name, codec in codecs.items() if codec.role == "teacher"]
    named |= dict.fromkeys(teachers[:1], TEACHER)
    if (main := main_codec(summary)) not in named and main is not None:
        named[main] = STUDENT
    for name in (*codecs, *summary.quoted):
        of = family(name)
        if name not in named and of:
            named[name] = CLASSICAL[of][1]
    others = [name for name in (*codecs, *sorted(summary.quoted)) if name not in named]
    return named | {name: OTHERS[index % len(OTHERS)] for index, name in enumerate(others)}


def _blend(first: Colour, last: Colour, share: float) -> Colour:
    return Colour(*(_between(a, b, share) for a, b in zip(first, last, strict=True)))


def _between(a: str, b: str, share: float) -> str:
    pairs = zip(bytes.fromhex(a[1:]), bytes.fromhex(b[1:]), strict=True)
    return "#" + bytes(round(x + (y - x) * share) for x, y in pairs).hex()


# --------------------------------------------------------------------------------------------------------- drawing


def new_figure(title: str, x_label: str, y_label: str) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure  # late: takes a second. Without pyplot it draws by Agg, on any machine.

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    style(axes, title, x_label, y_label)
    return figure, axes


def style(axes: "Axes", title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def label_log_axis(axes: "Axes") -> None:
    """Label x at 1, 2, 3 and 5 times the powers of ten as plain numbers: rounds span less than a decade or two."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def save(figure: "Figure", *paths: str | Path) -> None:
    """Write what the suffixes say. SVG has no date, fixed ids and letters as shapes: the same everywhere and always.

    All have the layout of the first.
    """
    import matplotlib

    for path in map(Path, paths):
        format = path.suffix.removeprefix(".").lower()
        settings: dict[str, Any] = {"metadata": {"Date": None}} if format == "svg" else {"dpi": 160}
        with writing(path) as file, matplotlib.rc_context({"svg.hashsalt": "slimcodec"}):
            figure.savefig(file, format=format, **settings)
        figure.set_layout_engine(None)  # found already, and it takes as long as the drawing
