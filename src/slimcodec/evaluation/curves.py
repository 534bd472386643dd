"""Curves of rate against quality, and how two of them compare: BD-rate and BD-metric.

    [Point per picture and quality] --mean_curve--> Curve -----------> bd_rate, bd_quality
                 |                --picture_curves--> {picture: Curve}
                 |--bd_rate_of_pictures--> mean of the pictures' BD-rates
                 '--bootstrap (evaluation/bootstrap)--> 95 % interval of the mean curves' BD-rate

A point is a `slimcodec.evaluation.points.Point`; read here are its picture, quality, bpp and metrics. A curve is a
`Curve`, anything else that has `.points`, or plain (bpp, value) pairs, in any order.

Values are always in the metric's own unit and direction, on curves and in results. Where less is better (as
`METRICS` says of the metric that is named), values are negated for the computation alone, so the sign of a BD-rate
means the same for every metric: negative is fewer bits.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from slimcodec import InvalidInput
from slimcodec.evaluation.metrics import METRICS, PSNR

if TYPE_CHECKING:
    from slimcodec.evaluation.points import Point

METHODS = ("pchip", "cubic")  # of the bjontegaard package: piecewise through the points; one polynomial, least squares
FEWEST_POINTS = 4  # a cubic through fewer says more about the interpolation than about the codec


class Curve(NamedTuple):
    """Rate and one metric, one entry per quality; mostly means over a set of pictures."""

    quality: tuple[float, ...]  # rising, on the codec's own scale: bpp falls along it where that is a QP or a distance
    bpp: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def points(self):
        """The curve as ((bpp, value), ...)."""
        return tuple(zip(self.bpp, self.values, strict=True))


class BdRate(NamedTuple):
    """Bits that the test needs more than the anchor at equal quality, and the range that this was averaged over."""

    percent: float  # negative: fewer bits than the anchor; nan when not monotonic
    low: float  # the range, in the metric's unit
    high: float
    coverage: float  # share of the wanted range (`within`, or all of the anchor's) that low..high covers
    monotonic: bool  # on both curves the quality rises with every step in bpp


class BdQuality(NamedTuple):
    """How much the test's metric differs from the anchor's at equal rate, and the rates this was averaged over."""

    value: float  # test minus anchor, in the metric's unit; nan when not monotonic
    low_bpp: float
    high_bpp: float
    monotonic: bool  # as in BdRate


class BdRateOfPictures(NamedTuple):
    """The mean over pictures of each picture's own BD-rate."""

    percent: float  # nan when no picture counted
    pictures: int  # that counted
    left_out: dict[str, str]  # picture: why it has no BD-rate


# ------------------------------------------------------------------------------------------------- points to curves


def mean_curve(points: Iterable["Point"], metric: str = PSNR) -> Curve:
    """Average the pictures' bpp, and their `metric` in its own unit (PSNR: in dB), at each quality.

    Raises `InvalidInput` unless every quality was measured on the same pictures, each once, and has the metric.
    """
    _, qualities, bpp, values = grid_of(points, metric)
    return Curve(qualities, tuple(bpp.mean(axis=0).tolist()), tuple(values.mean(axis=0).tolist()))


def picture_curves(points: Iterable["Point"], metric: str = PSNR) -> dict[str, Curve]:
    """Each picture's own curve, by its name, sorted; pictures may have been measured at different qualities.

    Raises `InvalidInput` when a picture has two points at one quality, or one without the metric.
    """
    return {picture: mean_curve(of_one, metric) for picture, of_one in _by_picture(points).items()}


def _by_picture(points):
    """The points of each picture, pictures sorted by name."""
    groups = defaultdict(list)
    for point in points:
        groups[point.picture].append(point)
    return dict(sorted(groups.items()))


def grid_of(points, metric):
    """Names of the pictures, qualities, bpp [pictures, qualities] and values [pictures, qualities]; both sorted."""
    by_picture = _by_picture(points)
    if not by_picture:
        raise InvalidInput("there are no points to average")
    qualities = sorted({point.quality for group in by_picture.values() for point in group})
    rows = []
    for picture, group in by_picture.items():
        group.sort(key=lambda point: point.quality)
        _require_each_once(picture, [point.quality for point in group], qualities)
        rows.append([(point.bpp, _value(point, metric)) for point in group])
    bpp, values = np.array(rows, dtype=np.float64).transpose(2, 0, 1)
    return tuple(by_picture), tuple(qualities), bpp, values


def _require_each_once(picture, measured, qualities):
    for quality in qualities:
        if measured.count(quality) != 1:
            raise InvalidInput(
                f"{picture} has {measured.count(quality)} points at quality {quality:g}, but a mean takes every"
                " picture once at every quality; measure what is missing, or leave the picture or the quality out"
            )


def _value(point, metric):
    if metric not in point.metrics:
        reason = f" ({point.missing[metric]})" if metric in point.missing else ""
        raise InvalidInput(
            f"{point.picture} at quality {point.quality:g} has no {metric}{reason}; measure it, or leave it out"
        )
    return point.metrics[metric]


# ------------------------------------------------------------------------------------------------------ two curves


def bd_rate(
    anchor, test, *, within: tuple[float, float] | None = None, method: str = "pchip", metric: str = PSNR
) -> BdRate:
    """How many per cent more bits `test` needs than `anchor` at equal quality (Bjontegaard, VCEG-M33).

    log(bpp) is interpolated over the metric (`method`: "pchip", or "cubic", the original), and the difference is
    averaged over the quality that both curves cover: all of that, or the part inside `within` = (low, high), in the
    metric's unit. `metric` says in which direction the values are better; its default does for any that rises.
    A curve on which quality does not rise with every step in bpp has no rate for each quality: then `percent` is nan
    and `monotonic` False. Raises `InvalidInput` when a curve has fewer than four points or a value that is not finite,
    or when they share no quality (inside `within`).
    """
    _require_method(method)
    sign = sign_of(metric)
    anchor, test = _axes(anchor, "anchor", sign), _axes(test, "test", sign)
    _require_enough(anchor, test)
    wanted = wanted_range(within, sign) if within else (anchor[1].min(), anchor[1].max())
    low, high = _overlap(anchor[1], test[1], wanted)
    if low >= high:
        raise InvalidInput(_no_overlap(anchor[1], test[1], sign, within))
    monotonic = _rises(anchor) and _rises(test)
    percent = _bd_percent(anchor, test, low, high, method) if monotonic else math.nan
    coverage = float((high - low) / (wanted[1] - wanted[0]))
    return BdRate(percent, *sorted((sign * low, sign * high)), coverage, monotonic)


def _bd_percent(anchor, test, low, high, method):
    from bjontegaard import bd_rate as bjontegaard_rate  # late: it imports matplotlib.pyplot

    # The package averages over the full overlap only, so its interpolators are taken and integrated here. Any overlap
    # will do (by default it warns below 75 %), because the range is reported.
    _, anchor_log10_bpp, test_log10_bpp = bjontegaard_rate(
        *anchor, *test, method=method, require_matching_points=False, interpolators=True, min_overlap=0
    )
    difference = test_log10_bpp.integrate(low, high) - anchor_log10_bpp.integrate(low, high)
    return float(100 * (10 ** (difference / (high - low)) - 1))


def bd_quality(anchor, test, *, method: str = "pchip", metric: str = PSNR) -> BdQuality:
    """How much higher the metric of `test` is than that of `anchor` at equal rate: BD-PSNR, for PSNR (VCEG-M33).

    The metric is interpolated over log(bpp), and the difference is averaged over the rates that both curves cover.
    The result is in the metric's unit and direction: of one where less is better, a negative value is the better test.
    Curves that are not monotonic give nan. Raises `InvalidInput` like `bd_rate`, when the curves share no rate.
    """
    from bjontegaard import bd_psnr  # late: it imports matplotlib.pyplot

    _require_method(method)
    sign = sign_of(metric)
    anchor, test = _axes(anchor, "anchor", sign), _axes(test, "test", sign)
    _require_enough(anchor, test)
    low, high = float(max(anchor[0, 0], test[0, 0])), float(min(anchor[0, -1], test[0, -1]))
    if low >= high:
        raise InvalidInput(f"the test's {_span(test[0])} bpp share no range with the anchor's {_span(anchor[0])} bpp")
    if not (_rises(anchor) and _rises(test)):
        return BdQuality(math.nan, low, high, False)
    better = bd_psnr(*anchor, *test, method=method, require_matching_points=False, min_overlap=0)
    return BdQuality(float(sign * better), low, high, True)


def value_at_bpp(curve, bpp: float) -> float | None:
    """The curve's value at a rate between its points (PCHIP over log(bpp)); None outside its range.

    Raises `InvalidInput` when the curve has fewer than two points, or two of the same rate.
    """
    from scipy.interpolate import PchipInterpolator  # late: takes most of a second

    curve_bpp, values = _axes(curve, "curve")
    if len(curve_bpp) < 2 or not np.all(np.diff(curve_bpp) > 0):
        raise InvalidInput(f"interpolation needs two or more points of different bpp, not {curve_bpp.tolist()}")
    if not curve_bpp[0] <= bpp <= curve_bpp[-1]:
        return None
    return float(PchipInterpolator(np.log(curve_bpp), values)(math.log(bpp)))


def _axes(curve, role, sign=1):
    """An array [2, n], rows bpp and sign · value, sorted by bpp."""
    points = np.array(list(getattr(curve, "points", curve)), dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise InvalidInput(f"the {role} must be a sequence of (bpp, value) pairs")
    for index, (bpp, value) in enumerate(points):
        if not (math.isfinite(value) and 0 < bpp < math.inf):
            raise InvalidInput(_not_comparable(curve, role, index, bpp, value))
    return points[np.argsort(points[:, 0], kind="stable")].T * [[1], [sign]]


def _not_comparable(curve, role, index, bpp, value):
    place = f"at quality {curve.quality[index]:g}" if hasattr(curve, "quality") else f"in point {index + 1}"
    if 0 < bpp < math.inf:
        equal = " (as of equal pictures)" if math.isinf(value) else ""
        return f"the {role} has the value {value:g}{equal} {place}, which has no mean; leave that quality out"
    return f"the {role} has {bpp:g} bpp {place}; rates must be positive and finite"


def sign_of(metric):
    """1 where more of the metric is better, -1 where less is."""
    if metric not in METRICS:
        raise InvalidInput(f"no metric is named {metric!r}; choose from {', '.join(METRICS)}")
    return 1 if METRICS[metric].higher_is_better else -1


def _require_method(method):
    if method not in METHODS:
        raise InvalidInput(f"no interpolation is named {method!r}; choose from {', '.join(METHODS)}")


def _require_enough(anchor, test):
    counts = anchor.shape[1], test.shape[1]
    if min(counts) < FEWEST_POINTS:
        raise InvalidInput(f"BD needs {FEWEST_POINTS} points a curve, but the anchor and the test have {counts}")


def wanted_range(within, sign):
    low, high = within
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InvalidInput(f"the range must go from a lower to a higher finite value, not {within}")
    return (low, high) if sign > 0 else (-high, -low)


def _overlap(anchor, test, wanted):
    """The ends of the quality that both curves cover inside the wanted one; empty when the first is not less."""
    low, high = wanted
    return float(max(low, anchor.min(), test.min())), float(min(high, anchor.max(), test.max()))


def _no_overlap(anchor, test, sign, within):
    inside = f" inside {within[0]:g} to {within[1]:g}" if within else ""
    return f"the test's values, {_span(sign * test)}, share no range with the anchor's, {_span(sign * anchor)},{inside}"


def _span(values):
    return f"{values.min():.4g} to {values.max():.4g}"


def _rises(axes):
    """Whether each quality has one rate: both rows of `axes` [2, n] rise with every step."""
    return bool(np.all(np.diff(axes) > 0))


# ---------------------------------------------------------------------------------------------------- many pictures


def bd_rate_of_pictures(
    anchor: Iterable["Point"],
    test: Iterable["Point"],
    metric: str = PSNR,
    *,
    within: tuple[float, float] | None = None,
    method: str = "pchip",
) -> BdRateOfPictures:
    """The mean of the pictures' own BD-rates, over the pictures that both the anchor and the test have.

    A picture counts with the quality that its two curves share; one that has no BD-rate is left out with the reason.
    Raises `InvalidInput` for an unknown metric or method, or a range that is none.
    """
    percents, left_out = bd_rates_by_picture(anchor, test, metric, within=within, method=method)
    mean = float(np.mean(list(percents.values()))) if percents else math.nan
    return BdRateOfPictures(mean, len(percents), left_out)


def bd_rates_by_picture(
    anchor: Iterable["Point"],
    test: Iterable["Point"],
    metric: str = PSNR,
    *,
    within: tuple[float, float] | None = None,
    method: str = "pchip",
) -> tuple[dict[str, float], dict[str, str]]:
    """Picture → its BD-rate in per cent, and the pictures that have none → why. Raises like `bd_rate_of_pictures`."""
    _require_method(method)
    sign = sign_of(metric)
    if within:
        wanted_range(within, sign)
    anchors, tests = _by_picture(anchor), _by_picture(test)
    percents, left_out = {}, {}
    for picture in sorted(anchors.keys() | tests.keys()):
        try:
            percents[picture] = _picture_percent(anchors.get(picture), tests.get(picture), metric, within, method)
        except InvalidInput as error:
            left_out[picture] = str(error)
    return percents, left_out


def _picture_percent(anchor, test, metric, within, method):
    if not (anchor and test):
        raise InvalidInput(f"only the {'anchor' if anchor else 'test'} was measured on it")
    return require_monotonic(mean_curve(anchor, metric), mean_curve(test, metric), within, metric, method).percent


def require_monotonic(anchor, test, within, metric, method="pchip"):
    """The `BdRate` of two curves, which must be monotonic."""
    result = bd_rate(anchor, test, within=within, method=method, metric=metric)
    if not result.monotonic:
        raise InvalidInput(_falling(anchor, test, metric))
    return result


def _falling(anchor, test, metric):
    roles = {"anchor": anchor, "test": test}
    falling = [role for role, curve in roles.items() if not _rises(_axes(curve, role, sign_of(metric)))]
    return f"{metric} does not get better with every step in bpp, with the {' and the '.join(falling)}"
