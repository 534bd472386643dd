"""What the points of a study say of its codecs: mean curves, BD-rates, time, complexity."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from slimcodec import InvalidInput
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.complexity import DECODER, macs_per_pixel
from slimcodec.evaluation import curves, published
from slimcodec.evaluation.bootstrap import bootstrap
from slimcodec.evaluation.curves import Curve
from slimcodec.evaluation.metrics import PSNR
from slimcodec.evaluation.points import Point
from slimcodec.evaluation.summary import BdRateEntry, CodecEntry, Complexity, FixedRange, Width

KODAK = {f"kodim{number:02}.png" for number in range(1, 25)}
KODAK_RANGE_DB = 29.0, 37.0  # RGB PSNR that most published curves cover
VTM = "compressai:vtm"
# What BD-rates are against where it was measured; then every teacher, and models that were measured as rivals.
REFERENCES = (VTM, "vvc", "jpeg", "webp")


def is_kodak(pictures: Iterable[str]) -> bool:
    """Whether these are the names of the 24 Kodak pictures: then published curves are of the same set."""
    return set(pictures) == KODAK


def complexity(architecture: Architecture, parameters: int) -> Complexity:
    """MAC/pixel of each part on either side, parameters, and the number of channels wherever pruning may change it."""
    parts = macs_per_pixel(architecture)
    # y·gain before h_a, the residual's before rounding, and y_hat's after it; see codec/complexity.
    encoder = {name: macs for name, macs in parts.items() if name != "g_s"} | {"gain": 3 * parts["gain"]}
    decoder = {name: parts[name] for name in DECODER}
    return Complexity(
        encoder_macs_per_pixel=sum(encoder.values()),
        decoder_macs_per_pixel=sum(decoder.values()),
        parameters=parameters,
        encoder=encoder,
        decoder=decoder,
        widths={place: Width(place, count, of=None) for place, count in widths(architecture).items()},
    )


def widths(architecture: Architecture) -> dict[str, int]:
    """Place in the decoder → number of channels there."""
    found = {"y (M)": architecture.latents, "z (N)": architecture.hypers}
    for name in ("h_scale", "h_mean", "context"):
        channels = getattr(architecture, name)
        found |= {f"{name} {number}": width for number, width in enumerate(channels, start=1)}
    for level in architecture.g_s:
        found[f"g_s 1/{level.scale}"] = level.channels
        found |= {f"g_s 1/{level.scale} block {n}": block.hidden for n, block in enumerate(level.blocks, start=1)}
    return found


def with_figures(
    entry: CodecEntry, points: Sequence[Point], metrics: Sequence[str], megapixels: Mapping[str, float]
) -> CodecEntry:
    """The entry with the codec's mean curves and medians of its times. Only pictures of every quality count."""
    complete = complete_pictures(points)
    pictures = len({point.picture for point in complete})
    found = {name: _curve(complete, name) for name in metrics}
    return entry._replace(
        pictures=pictures,
        curves={name: curve for name, curve in found.items() if curve is not None},
        encode_ms_per_megapixel=_milliseconds(points, "encode_seconds", megapixels),
        decode_ms_per_megapixel=_milliseconds(points, "decode_seconds", megapixels),
    )


def complete_pictures(points: Sequence[Point]) -> list[Point]:
    """The points of those pictures that have all the qualities."""
    qualities = {point.quality for point in points}
    count: dict[str, int] = defaultdict(int)
    for point in points:
        count[point.picture] += 1
    return [point for point in points if count[point.picture] == len(qualities)]


def _curve(points: Sequence[Point], metric: str) -> Curve | None:
    """The mean curve over the pictures that have the metric at every quality; None where there is none.

    An infinite PSNR has no mean. It comes of a grey picture's chroma, then the picture is left out, or of a quality
    that loses nothing, then the quality is.
    """
    points = complete_pictures([point for point in points if metric in point.metrics])
    grey = {point.picture for point in points} - {p.picture for p in points if math.isfinite(p.metrics[metric])}
    points = [point for point in points if point.picture not in grey]
    lossless = {point.quality for point in points if not math.isfinite(point.metrics[metric])}
    points = [point for point in points if point.quality not in lossless]
    return curves.mean_curve(points, metric) if points else None


def _milliseconds(points: Sequence[Point], field: str, megapixels: Mapping[str, float]) -> float | None:
    values = [1000 * getattr(point, field) / megapixels[point.picture] for point in points]
    return median(values) if values else None


# ------------------------------------------------------------------------------------------------------------ BD-rate


def references(codecs: Mapping[str, CodecEntry], kodak: bool) -> list[str]:
    """The names that BD-rates are against, the headline's first."""
    models = [name for role in ("teacher", "rival") for name, codec in codecs.items() if codec.role == role]
    return [name for name in REFERENCES if name in codecs or (name == VTM and kodak)] + models


def bd_rates(
    points: Mapping[str, Sequence[Point]], metrics: Sequence[str], anchor_names: Sequence[str], kodak: bool
) -> dict[str, dict[str, dict[str, BdRateEntry]]]:
    """anchor → codec → metric → BD-rate with all that has to be known of it; against VTM also of the quoted codecs.

    `points` are those of each codec.
    """
    table: dict[str, dict[str, dict[str, BdRateEntry]]] = {}
    for anchor in anchor_names:
        table[anchor] = {
            name: {
                metric: _of_points(points, anchor, name, metric, kodak) for metric in metrics if _has(anchor, metric)
            }
            for name in points
            if name != anchor
        }
    if VTM in table:
        names = [name for name in published.quoted_names() if name != VTM]
        table[VTM] |= {n: {PSNR: _entry(_vtm(), published.quoted(n).curve, PSNR, kodak)} for n in names}
    return table


def _vtm() -> Curve:
    return published.quoted(VTM).curve


def _has(anchor: str, metric: str) -> bool:
    return anchor != VTM or metric == PSNR


def _of_points(points: Mapping[str, Sequence[Point]], anchor: str, name: str, metric: str, kodak: bool) -> BdRateEntry:
    test = points[name]
    if anchor == VTM:
        return _entry(_vtm(), _curve(test, metric), metric, kodak)
    test, reference = _common(test, points[anchor], metric)
    entry = _entry(_curve(reference, metric), _curve(test, metric), metric, kodak)
    if entry.percent is None:
        return entry
    interval, reason = _interval(reference, test, metric)
    of_pictures = curves.bd_rate_of_pictures(reference, test, metric)
    return entry._replace(
        interval=interval,
        interval_reason=reason,
        pictures_percent=of_pictures.percent,
        pictures=of_pictures.pictures,
        pictures_left_out=of_pictures.left_out,
    )


def _interval(reference: Sequence[Point], test: Sequence[Point], metric: str) -> tuple[list[float] | None, str | None]:
    """The ends of the bootstrap's interval, or why there is none."""
    try:
        return list(bootstrap(reference, test, metric)), None
    except InvalidInput as error:
        return None, str(error)


def _common(first: Sequence[Point], second: Sequence[Point], metric: str) -> tuple[Sequence[Point], Sequence[Point]]:
    """The points of the pictures that both codecs have at all their qualities, with the metric."""
    first, second = (complete_pictures([p for p in points if metric in p.metrics]) for points in (first, second))
    both = {point.picture for point in first} & {point.picture for point in second}
    return [point for point in first if point.picture in both], [point for point in second if point.picture in both]


def _entry(anchor: Curve | None, test: Curve | None, metric: str, kodak: bool) -> BdRateEntry:
    """A BD-rate over all that the curves share, in two interpolations, and over the fixed range where there is one.

    Against a published curve there is no interval: its pictures cannot be drawn together with the test's, and how
    hard those drawn are would be most of what varies.
    """
    if anchor is None or test is None:
        return BdRateEntry(None, reason="no picture has the metric at all qualities of both")
    try:
        result = curves.bd_rate(anchor, test, metric=metric)
        cubic_percent = curves.bd_rate(anchor, test, metric=metric, method="cubic").percent
        bd_quality = curves.bd_quality(anchor, test, metric=metric).value
    except InvalidInput as error:
        return BdRateEntry(None, reason=str(error))
    entry = BdRateEntry(**result._asdict(), cubic_percent=cubic_percent, bd_quality=bd_quality)
    if not result.monotonic:
        reason = "on one of the curves the metric does not rise with every step in bpp"
        return entry._replace(percent=None, reason=reason)
    return entry._replace(fixed=_fixed(anchor, test, metric)) if kodak and metric == PSNR else entry


def _fixed(anchor: Curve, test: Curve, metric: str) -> FixedRange | None:
    low, high = KODAK_RANGE_DB
    try:
        result = curves.bd_rate(anchor, test, metric=metric, within=KODAK_RANGE_DB)
    except InvalidInput:
        return None
    return FixedRange(low, high, result.percent, result.coverage)
