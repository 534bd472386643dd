"""Figures (PNG) and tables (Markdown) of curves and of pruning rounds."""

from slimcodec import InvalidInput
from slimcodec.evaluation.curves import Curve, psnr_at_bpp, replaced

# Okabe and Ito's palette, which colour-blind readers can tell apart; its yellow is too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>P"
DARK_GREY = "#555555"


# --------------------------------------------------------------------------------------------------------- figures


def plot_curves(curves: dict[str, Curve], path, *, title: str):
    """Write a PNG of rate-distortion curves, PSNR in dB over bpp, one line per named curve."""
    figure, axes = _new_figure(title, "rate (bits per pixel)", "RGB PSNR (dB)")
    for index, (name, curve) in enumerate(curves.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axes.plot(curve.bpp, curve.psnr_db, color=colour, marker=marker, markersize=4, linewidth=1.4, label=name)
    axes.set_xlim(left=0)
    axes.legend(loc="lower right", frameon=False)
    _save(figure, path)


def plot_rounds(rounds, path, *, target_macs_per_pixel: float):
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


def _new_figure(title, x_label, y_label):
    from matplotlib.figure import Figure  # late: takes a second. Without pyplot it draws by Agg, on any machine.

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _label_log_axis(axes):
    """Label x at 1, 2, 3 and 5 times the powers of ten as plain numbers: rounds span less than a decade or two."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _save(figure, path):
    with replaced(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)


# ---------------------------------------------------------------------------------------------------------- tables


def comparison_table(curves: dict[str, Curve], reference: str) -> str:
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
    psnr_db = psnr_at_bpp(curve, bpp)
    return "–" if psnr_db is None else f"{psnr_db:.2f}"


def _markdown(rows):
    """Right-aligned columns of equal width; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    header, *lines = (
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )
    ruler = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([header, ruler, *lines])
