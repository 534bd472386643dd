"""The interval of a BD-rate, by drawing the pictures anew: a thousand BD-rates at once."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from slimcodec import InvalidInput
from slimcodec.evaluation.curves import grid_of, mean_curve, require_monotonic, sign_of, wanted_range
from slimcodec.evaluation.metrics import PSNR

if TYPE_CHECKING:
    from slimcodec.evaluation.points import Point

FEWEST_PICTURES = 5  # resampling fewer gives intervals that hold the truth far less often than they say
MOST_UNUSABLE = 0.05  # share of resamples without a BD-rate up to which the others still make an interval


class Interval(NamedTuple):
    """Where the BD-rate of the mean curves lies with 95 % confidence, for pictures like these."""

    low_percent: float
    high_percent: float


def bootstrap(
    anchor,
    test: Iterable["Point"],
    metric: str = PSNR,
    *,
    within: tuple[float, float] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The 95 % interval of `bd_rate` between the mean curves (PCHIP), by drawing the pictures anew with replacement.

    `anchor` is the points of the same pictures, drawn together with the test's, or a fixed curve (one that was
    published). Against a fixed curve the interval is wide, because how hard the drawn pictures are does not cancel.
    The percentiles are widened for the number of pictures ("expanded percentile", Hesterberg, What Teachers Should
    Know About the Bootstrap, The American Statistician 69(4), 2015). The same seed gives the same interval.
    Raises `InvalidInput` like `bd_rate`, when there are fewer than five pictures, when anchor and test were measured on
    different ones, or when more than 5 % of the resamples have no BD-rate (curves not monotonic, or sharing no range);
    fewer than that do not count.
    """
    fixed, test = hasattr(anchor, "points"), list(test)
    anchor = anchor if fixed else list(anchor)
    pictures, _, *test_grid = grid_of(test, metric)
    anchor_pictures, _, *anchor_grid = (pictures, (), *_fixed_grid(anchor)) if fixed else grid_of(anchor, metric)
    _require_same(anchor_pictures, pictures)
    require_monotonic(anchor if fixed else mean_curve(anchor, metric), mean_curve(test, metric), within, metric)
    sign, weights = sign_of(metric), _resampled_weights(len(pictures), resamples, seed)
    anchor_curves = _weighted(anchor_grid, np.ones((1, 1)) if fixed else weights, sign)
    percent = _bd_percents(anchor_curves, _weighted(test_grid, weights, sign), within and wanted_range(within, sign))
    usable = percent[np.isfinite(percent)]
    if len(usable) < (1 - MOST_UNUSABLE) * resamples:
        raise InvalidInput(
            f"{resamples - len(usable)} of {resamples} resamples have no BD-rate (curves not monotonic, or sharing"
            " no range), too many for an interval; measure more pictures, or qualities further apart"
        )
    low, high = np.quantile(usable, _expanded_percentiles(len(pictures)))
    return Interval(float(low), float(high))


def _fixed_grid(curve):
    """A published curve as bpp and values [1, points]: like one picture that is always drawn."""
    return np.array(list(curve.points), dtype=np.float64).T[:, None]


def _require_same(anchor_pictures, test_pictures):
    different = sorted(set(anchor_pictures) ^ set(test_pictures))
    if different:
        raise InvalidInput(
            f"only one of anchor and test has {', '.join(different)}; an interval takes the same pictures of both"
        )
    if len(test_pictures) < FEWEST_PICTURES:
        raise InvalidInput(f"an interval over pictures takes {FEWEST_PICTURES} or more, not {len(test_pictures)}")


def _resampled_weights(pictures, resamples, seed):
    """How often each picture was drawn, over the number drawn: [resamples, pictures], rows of sum 1."""
    draws = np.random.default_rng(seed).multinomial(pictures, np.full(pictures, 1 / pictures), size=resamples)
    return draws / pictures


def _weighted(grid, weights, sign):
    """Mean curves [2, resamples, points], rows bpp and sign · value, sorted by the bpp that all pictures average to."""
    bpp, values = grid
    order = np.argsort(bpp.mean(axis=0))
    return np.stack([weights @ bpp[:, order], sign * (weights @ values[:, order])])


def _expanded_percentiles(pictures):
    from scipy.stats import norm, t  # late: takes most of a second

    tail = norm.cdf(math.sqrt(pictures / (pictures - 1)) * t.ppf(0.025, pictures - 1))
    return tail, 1 - tail


def _bd_percents(anchor, test, wanted):
    """BD-rates [resamples] of curves [2, resamples, points]; nan where one is not monotonic or they share no range."""
    wanted_low, wanted_high = wanted or (-math.inf, math.inf)
    low = np.maximum(wanted_low, np.maximum(anchor[1].min(axis=-1), test[1].min(axis=-1)))
    high = np.minimum(wanted_high, np.minimum(anchor[1].max(axis=-1), test[1].max(axis=-1)))
    usable = low < high
    for curves in (anchor, test):
        usable = usable & np.all(np.diff(curves) > 0, axis=(0, -1))
    percents = np.full(len(usable), math.nan)
    low, high = low[usable], high[usable]
    integrals = [_pchip_integrals(*_chosen(curves, usable), low, high) for curves in (anchor, test)]
    percents[usable] = 100 * np.expm1((integrals[1] - integrals[0]) / (high - low))
    return percents


def _chosen(curves, usable):
    """Values and log(bpp), [usable resamples, points] each; a fixed curve has one row, which serves all."""
    bpp, values = curves if curves.shape[1] == 1 else curves[:, usable]
    return values, np.log(bpp)


def _pchip_integrals(x, y, low, high):
    """Integrals [n] from low [n] to high [n] of the piecewise cubics through x and y [n or 1, points], both rising.

    What scipy's `PchipInterpolator(x, y).integrate(low, high)` gives, for all rows at once: a thousand of those would
    take most of a second. The method is Fritsch and Butland's, SIAM J. Sci. Stat. Comput. 5(2), 1984, as scipy has it.
    """
    width = np.diff(x)
    slope = np.diff(y) / width
    start, end = _pchip_derivatives(width, slope)
    quadratic, cubic = (3 * slope - 2 * start - end) / width, (start + end - 2 * slope) / width**2

    def integral_to(limit):  # of every piece, from its left end as far as the limit reaches into it
        u = np.clip(limit[:, None] - x[:, :-1], 0, width)
        return u * (y[:, :-1] + u * (start / 2 + u * (quadratic / 3 + u * cubic / 4)))

    return np.sum(integral_to(high) - integral_to(low), axis=-1)


def _pchip_derivatives(width, slope):
    """Derivatives at the left and at the right end of every piece, [n, points - 1] each, where all slopes rise."""
    left, right = width[:, :-1], width[:, 1:]
    inner = 3 * (left + right) / ((2 * right + left) / slope[:, :-1] + (right + 2 * left) / slope[:, 1:])
    first = _end_derivative(width[:, 0], width[:, 1], slope[:, 0], slope[:, 1])
    last = _end_derivative(width[:, -1], width[:, -2], slope[:, -1], slope[:, -2])
    return np.column_stack([first, inner]), np.column_stack([inner, last])


def _end_derivative(width, next_width, slope, next_slope):
    """Of the parabola through the three points at the end, but never falling."""
    return np.maximum(((2 * width + next_width) * slope - width * next_slope) / (width + next_width), 0)
