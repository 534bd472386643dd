"""Figures (PNG and SVG) of a study, for papers and READMEs.

summary ──► headline, a metric's curves, complexity, widths ──write_all──► folder/*.png, *.svg
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from slimcodec import InvalidInput
from slimcodec.evaluation.summary import Summary
from slimcodec.report.headline import headline, headline_data
from slimcodec.report.style import (
    DARK_GREY,
    FORMATS,
    MARKERS,
    OTHER_PART,
    PALE,
    PARTS,
    colours,
    label,
    metric_title,
    new_figure,
    save,
    style,
)

if TYPE_CHECKING:
    pass


def steps_of(summary: Summary) -> list[str]:
    """Models of known MAC/pixel in the order of the story: teachers, rounds, the others.

    The last round is left out where it is one of the others, of the same key, by another name.
    """
    models = {name: codec for name, codec in summary.codecs.items() if codec.complexity}
    rounds = [name for name in summary.rounds if name in models]
    teachers = [name for name, codec in models.items() if codec.role == "teacher" and name not in rounds]
    others = [name for name in models if name not in (*teachers, *rounds)]
    keys = {models[name].key for name in others} - {None}
    return [*teachers, *(name for name in rounds if models[name].key not in keys), *others]


def parts_of(summary: Summary, side: str) -> list[str]:
    """Names of the parts of "encoder" or "decoder", over all models, the first of `PARTS` first."""
    steps = (codec.complexity for codec in summary.codecs.values() if codec.complexity)
    names = dict.fromkeys(part for complexity in steps for part in complexity.parts(side))
    return sorted(names, key=lambda name: list(PARTS).index(name) if name in PARTS else len(PARTS))


def pruned_steps(summary: Summary) -> list[str]:
    """Models of which it is known how many channels each layer had before pruning, and some layer lost some."""
    return [
        name
        for name in steps_of(summary)
        if any(_lost(width) for width in summary.codecs[name].complexity.widths.values())
    ]


def _lost(width):
    return width.of is not None and width.channels < width.of


def rate_distortion(summary: Summary, metric: str, *paths: str | Path) -> None:
    """Write the curves of a metric, means over the pictures, of every codec that ran, over bits per pixel.

    Raises `InvalidInput` when no codec has a curve of this metric.
    """
    curves = {name: codec.curves[metric] for name, codec in summary.codecs.items() if metric in codec.curves}
    if not curves:
        raise InvalidInput(f"no codec has a curve of {metric}; those measured are {', '.join(summary.metrics)}")
    data, palette = summary.data, colours(summary)
    title = f"{data.name}: {len(data.pictures)} pictures, real files"
    figure, axes = new_figure(title, "rate (bits per pixel)", metric_title(metric))
    figure.set_size_inches(7.6, 4.6)
    for index, (name, curve) in enumerate(curves.items()):
        model = summary.codecs[name].kind == "model"
        axes.plot(
            curve.bpp,
            [math.nan if value is None else value for value in curve.values],
            color=palette[name].light,
            marker=MARKERS[index % len(MARKERS)],
            markersize=4,
            linewidth=1.8 if model else 1.1,
            zorder=3 if model else 2,
            label=label(name),
        )
    _limit_rates(axes, summary, curves)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    save(figure, *paths)


def rate_limit(summary: Summary) -> float | None:
    """The bpp up to which curves are shown: a little beyond the models', or JPEG at its best would squeeze them."""
    curves = [
        curve
        for codec in summary.codecs.values()
        if codec.kind == "model"
        for curve in codec.curves.values()
        if curve.bpp
    ]
    return max((1.15 * max(curve.bpp) for curve in curves), default=None)


def _limit_rates(axes, summary, curves):
    limit = rate_limit(summary)
    axes.set_xlim(0, limit)
    shown = [
        value
        for curve in curves.values()
        for bpp, value in zip(curve.bpp, curve.values, strict=True)
        if value is not None and bpp <= (limit or bpp)
    ]
    if shown and limit:
        margin = 0.04 * (max(shown) - min(shown)) or 1
        axes.set_ylim(min(shown) - margin, max(shown) + margin)


def complexity(summary: Summary, *paths: str | Path) -> None:
    """Write stacked bars of MAC/pixel per part: the decoder's and the encoder's, a bar for each model and round.

    Raises `InvalidInput` when no codec has a complexity.
    """
    steps = steps_of(summary)
    if not steps:
        raise InvalidInput("no codec of the summary has a complexity to draw")
    from matplotlib.figure import Figure  # late: takes a second

    figure = Figure(figsize=(8, 1.6 + 0.36 * len(steps)), layout="constrained")
    target = summary.target_macs_per_pixel
    for axes, side in zip(figure.subplots(1, 2, sharey=True), ("decoder", "encoder"), strict=True):
        style(axes, side, "MAC per pixel", "")
        _stack(axes, [summary.codecs[name].complexity.parts(side) for name in steps])
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
    save(figure, *paths)


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


def widths(summary: Summary, *paths: str | Path) -> None:
    """Write where channels were removed: a bar per layer, what each pruned model keeps on top of what there was.

    Raises `InvalidInput` when no model has lost a channel.
    """
    steps = pruned_steps(summary)
    if not steps:
        raise InvalidInput("no model of the summary has fewer channels than before")
    from matplotlib.figure import Figure  # late: takes a second

    last, palette = summary.codecs[steps[-1]].complexity.widths, colours(summary)
    layers = [layer for layer, width in last.items() if width.of]
    figure = Figure(figsize=(8, 1.4 + 0.24 * len(layers)), layout="constrained")
    axes = figure.add_subplot()
    style(axes, "Channels kept by pruning", "share of the layer's channels before pruning (%)", "")
    for row, layer in enumerate(layers):
        _draw_width(axes, row, layer, steps, summary, palette)
    axes.set_yticks(range(len(layers)), [last[layer].label or layer for layer in layers], fontsize=8)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(axis="y", visible=False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    save(figure, *paths)


def _draw_width(axes, row, layer, steps, summary, palette):
    """The earliest step first, so that each later and shorter bar is drawn on top of the one before it."""
    axes.barh(row, 100, height=0.6, color=PALE, label="before" if row == 0 else None)
    for name in steps:
        width = summary.codecs[name].complexity.widths.get(layer)
        if width and width.of:
            share = 100 * width.channels / width.of
            colour = palette[name].light
            axes.barh(row, share, height=0.6, color=colour, label=label(name) if row == 0 else None)
            text = f"{width.channels} of {width.of}"
    axes.annotate(text, (100, row), (4, 0), textcoords="offset points", va="center", fontsize=7, color=DARK_GREY)


def write_all(summary: Summary, folder: str | Path) -> list[Path]:
    """Write every figure that the summary has data for in `folder`, each as PNG and as SVG; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plots: dict[str, Callable[..., None]] = {}
    if headline_data(summary):
        plots["headline"] = partial(headline, summary)
    for metric in summary.metrics:
        if any(metric in codec.curves for codec in summary.codecs.values()):
            plots[metric] = partial(rate_distortion, summary, metric)
    if steps_of(summary):
        plots["complexity"] = partial(complexity, summary)
    if pruned_steps(summary):
        plots["widths"] = partial(widths, summary)
    paths = {name: [folder / f"{name}.{suffix}" for suffix in FORMATS] for name in plots}
    for name, draw in plots.items():
        draw(*paths[name])
    return [path for of_figure in paths.values() for path in of_figure]
