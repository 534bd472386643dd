"""Curves and what is computed from them: from the definitions, from the published curves, and on synthetic pictures."""

import math
import random
import subprocess
import sys
import warnings

import bjontegaard
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

import slimcodec.evaluation
from slimcodec import InvalidInput
from slimcodec.evaluation.bootstrap import bootstrap
from slimcodec.evaluation.curves import (
    Curve,
    bd_quality,
    bd_rate,
    bd_rate_of_pictures,
    mean_curve,
    picture_curves,
    value_at_bpp,
)
from slimcodec.evaluation.points import Point
from slimcodec.evaluation.published import quoted, quoted_names

RATES = (0.1, 0.2, 0.35, 0.6, 1.0, 1.6)


def a_point(picture="a.png", quality=1.0, bpp=1.0, value=30.0, metric="psnr_rgb_db", **fields):
    return Point("codec", picture, quality, 100.0, bpp, 0.1, 0.2, {metric: value}, **fields)


def a_curve(*, bits=1.0, gain_db=0.0):
    """Six points of about 6 dB per doubling of a rate; `bits` scales the rate, `gain_db` shifts the PSNR."""
    return Curve(
        quality=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
        bpp=tuple(bits * rate for rate in RATES),
        values=tuple(40 + gain_db + 6 * math.log2(rate) - 0.3 * math.log2(rate) ** 2 for rate in RATES),
    )


def as_points(curve, picture="a.png", metric="psnr_rgb_db"):
    return [a_point(picture, *entry, metric) for entry in zip(*curve, strict=True)]


def mirrored(curve):
    """The same curve of a metric where less is better."""
    return curve._replace(values=tuple(-value for value in curve.values))


def two_codecs(pictures, *, percent=-10.0, spread=0.1, seed=0):
    """Points of an anchor and a test on pictures that differ in difficulty, slope and, by `spread`, in the gain."""
    rng = np.random.default_rng(seed)
    anchor, test = [], []
    for number in range(pictures):
        difficulty, slope = math.exp(rng.normal(0, 0.4)), rng.normal(6, 0.7)
        bits = (1 + percent / 100) * math.exp(rng.normal(0, spread))
        values = tuple(40 + rng.normal(0, 2.5) + slope * np.log2(RATES))
        for points, scale in ((anchor, difficulty), (test, difficulty * bits)):
            curve = Curve(tuple(range(6)), tuple(scale * rate for rate in RATES), values)
            points += as_points(curve, f"{number:05}.png")
    return anchor, test


@st.composite
def rising_curves(draw):
    """Four to nine points, somewhere between 20 and 50 dB, of any shape that rises."""
    count = draw(st.integers(4, 9))
    steps = st.lists(st.floats(0.05, 1.5), min_size=count, max_size=count)
    bpp = np.exp(np.cumsum(draw(steps)) - 4)
    values = 25 + np.cumsum(draw(st.lists(st.floats(0.2, 4), min_size=count, max_size=count)))
    return Curve(tuple(range(count)), tuple(bpp.tolist()), tuple(values.tolist()))


# ------------------------------------------------------------------------------------------------- points to curves


def test_a_mean_curve_averages_bpp_and_db_over_the_pictures():
    points = [
        a_point("a.png", quality=2, bpp=1.0, value=40),
        a_point("a.png", quality=1, bpp=0.5, value=30),
        a_point("b.png", quality=1, bpp=0.3, value=20),
        a_point("b.png", quality=2, bpp=0.6, value=30),
    ]
    curve = mean_curve(points)
    assert curve == Curve(quality=(1, 2), bpp=(0.4, 0.8), values=(25, 35))
    assert curve.points == ((0.4, 25), (0.8, 35))
    assert picture_curves(points) == {
        "a.png": Curve((1, 2), (0.5, 1.0), (30, 40)),
        "b.png": Curve((1, 2), (0.3, 0.6), (20, 30)),
    }


def test_the_order_of_the_points_changes_no_bit_of_a_mean():
    points, _ = two_codecs(7)
    shuffled = random.Random(1).sample(points, len(points))
    assert mean_curve(iter(shuffled)) == mean_curve(points)
    assert list(picture_curves(shuffled)) == sorted({point.picture for point in points})


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "no points"),
        ([a_point("a.png", 1), a_point("b.png", 1), a_point("a.png", 2)], r"b\.png has 0 points at quality 2"),
        ([a_point("a.png", 1), a_point("a.png", 2), a_point("a.png", 2)], r"a\.png has 2 points at quality 2"),
        ([a_point(metric="vmaf")], r"a\.png at quality 1 has no psnr_rgb_db"),
        ([a_point(metric="vmaf", missing={"psnr_rgb_db": "too small"})], r"no psnr_rgb_db \(too small\)"),
    ],
    ids=["none", "one is missing", "one is there twice", "the metric is missing", "the metric is missing for a reason"],
)
def test_a_mean_over_different_pictures_is_refused(points, message):
    with pytest.raises(InvalidInput, match=message):
        mean_curve(points)


def test_pictures_may_have_their_own_qualities():
    points = [a_point("a.png", 1), a_point("b.png", 7)]
    assert [curve.quality for curve in picture_curves(points).values()] == [(1,), (7,)]
    with pytest.raises(InvalidInput, match="2 points at quality 1"):
        picture_curves([a_point(), a_point()])


# ------------------------------------------------------------------------------------------------ published numbers


@pytest.mark.parametrize(
    ("name", "percent"),
    [
        ("compressai:hm", 23.3),
        ("compressai:bpg_444_x265_ycbcr", 22.0),
        ("compressai:compressai-mbt2018-mean_mse_cuda", 21.3),
        ("compressai:paper-elic2022_mse", -7.0),
        ("cool-chic-v5.0", -6.6),
        ("hpcm-large", -20.0),
        ("mlicplusplus", -15.0),
        ("evc-EncL_DecL", -1.0),
        ("compressai:av1", 16.2),
        ("shallow-ntc:2-layer_syn", 34.7),
        ("shallow-ntc:2-layer_syn+SGA", 20.1),
        ("shallow-ntc:JPEG-like_syn", 54.7),
        ("compressai:webp", 78.8),
        ("compressai:jpeg2000", 98.0),
        ("compressai:jpeg", 208.5),
    ],
)
def test_published_bd_rates_are_reproduced(name, percent):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = bd_rate(quoted("compressai:vtm"), quoted(name))
    assert result.percent == pytest.approx(percent, abs=0.3)
    assert result.monotonic


@pytest.mark.parametrize("name", quoted_names())
def test_pchip_and_cubic_agree_on_every_published_curve(name):
    anchor, test = quoted("compressai:vtm"), quoted(name)
    pchip, cubic = bd_rate(anchor, test), bd_rate(anchor, test, method="cubic")
    assert pchip[1:] == cubic[1:]
    assert cubic.percent == pytest.approx(pchip.percent, abs=2)  # JPEG's 1.7 is the most


def test_half_of_the_published_curves_cover_the_headline_range_and_the_others_say_how_much():
    vtm = quoted("compressai:vtm")
    coverage = {name: bd_rate(vtm, quoted(name), within=(29, 37)).coverage for name in quoted_names()}
    assert sum(share == 1 for share in coverage.values()) > len(coverage) / 2
    assert coverage["compressai:paper-elic2022_mse"] == pytest.approx((37 - 29.11) / 8, abs=0.01)
    assert coverage["evc-EncL_DecL"] == min(coverage.values()) == pytest.approx((37 - 32.48) / 8, abs=0.01)


# ----------------------------------------------------------------------------------------------------- definitions


@pytest.mark.parametrize("method", ["pchip", "cubic"])
def test_bd_over_the_full_overlap_is_the_packages(method):
    anchor, test = quoted("compressai:vtm").curve, quoted("compressai:jpeg").curve
    axes = (anchor.bpp, anchor.values, test.bpp, test.values)
    options = {"require_matching_points": False, "min_overlap": 0}
    rate, quality = bd_rate(anchor, test, method=method), bd_quality(anchor, test, method=method)
    assert rate.percent == pytest.approx(bjontegaard.bd_rate(*axes, method, **options), abs=1e-9)
    assert quality.value == pytest.approx(bjontegaard.bd_psnr(*axes, method, **options), abs=1e-9)
    assert quality.value < 0
    assert (quality.low_bpp, quality.high_bpp) == (max(anchor.bpp[0], test.bpp[0]), min(anchor.bpp[-1], test.bpp[-1]))


def interpolated(method, x, y):
    """The curve through (or of least squares near) the points, as a function."""
    if method == "pchip":
        return PchipInterpolator(x, y)
    return lambda at: np.polyval(np.polyfit(x, y, 3), at)


def mean_difference(method, anchor, test, low, high):
    """The mean of test - anchor over low to high, each ([x], [y]), on a fine grid by the midpoint rule."""
    edges = np.linspace(low, high, 100_001)
    middles = (edges[1:] + edges[:-1]) / 2
    return np.mean(interpolated(method, *test)(middles) - interpolated(method, *anchor)(middles))


@pytest.mark.parametrize("method", ["pchip", "cubic"])
@pytest.mark.parametrize("name", ["compressai:jpeg", "cool-chic-v5.0", "evc-EncS_DecS", "compressai:webp"])
@pytest.mark.parametrize("within", [None, (29, 37), (33.3, 35.5)])
def test_bd_is_what_its_definition_says(name, method, within):
    anchor, test = quoted("compressai:vtm").curve, quoted(name).curve
    rate = bd_rate(anchor, test, within=within, method=method)
    by_value = [(curve.values, np.log(curve.bpp)) for curve in (anchor, test)]
    by_definition = mean_difference(method, *by_value, rate.low, rate.high)
    assert rate.percent == pytest.approx(100 * (math.exp(by_definition) - 1), abs=1e-6)

    quality = bd_quality(anchor, test, method=method)
    by_rate = [(np.log(curve.bpp), curve.values) for curve in (anchor, test)]
    ends = math.log(quality.low_bpp), math.log(quality.high_bpp)
    assert quality.value == pytest.approx(mean_difference(method, *by_rate, *ends), abs=1e-6)


@given(curve=rising_curves(), percent=st.floats(-80, 300), method=st.sampled_from(["pchip", "cubic"]))
@settings(deadline=None, max_examples=30)
def test_bd_rate_of_scaled_rates_is_the_scale(curve, percent, method):
    scaled = curve._replace(bpp=tuple(rate * (1 + percent / 100) for rate in curve.bpp))
    middle = (curve.values[0] + 0.1, curve.values[-1] - 0.1)
    assert bd_rate(curve, scaled, method=method).percent == pytest.approx(percent, abs=1e-6)
    assert bd_rate(curve, scaled, within=middle, method=method).percent == pytest.approx(percent, abs=1e-6)


@given(curve=rising_curves(), gain=st.floats(-9, 9), method=st.sampled_from(["pchip", "cubic"]))
@settings(deadline=None, max_examples=30)
def test_bd_quality_of_shifted_values_is_the_shift(curve, gain, method):
    shifted = curve._replace(values=tuple(value + gain for value in curve.values))
    result = bd_quality(curve, shifted, method=method)
    assert result == (pytest.approx(gain, abs=1e-6), curve.bpp[0], curve.bpp[-1], True)


@given(anchor=rising_curves(), test=rising_curves(), method=st.sampled_from(["pchip", "cubic"]))
@settings(deadline=None, max_examples=60)
def test_swapped_roles_undo_each_other_and_the_order_of_points_does_not_matter(anchor, test, method):
    within = max(anchor.values[0], test.values[0]), min(anchor.values[-1], test.values[-1])
    if within[0] >= within[1]:
        with pytest.raises(InvalidInput, match="share no range"):
            bd_rate(anchor, test)
        return
    forth = bd_rate(anchor, test, within=within, method=method)
    back = bd_rate(test.points, anchor.points[::-1], within=within, method=method)
    assert forth[1:] == back[1:] == (*within, 1.0, True)
    assert (1 + forth.percent / 100) * (1 + back.percent / 100) == pytest.approx(1)


@given(anchor=rising_curves(), test=rising_curves(), method=st.sampled_from(["pchip", "cubic"]))
@settings(deadline=None, max_examples=60)
def test_of_a_metric_where_less_is_better_only_the_values_change_sign(anchor, test, method):
    within = max(anchor.values[0], test.values[0]), min(anchor.values[-1], test.values[-1])
    if within[0] >= within[1]:
        return
    higher = bd_rate(anchor, test, within=within, method=method)
    options = {"method": method, "metric": "aad"}
    lower = bd_rate(mirrored(anchor), mirrored(test), within=(-within[1], -within[0]), **options)
    assert lower == (pytest.approx(higher.percent, rel=1e-6, abs=1e-6), -higher.high, -higher.low, 1.0, True)
    if max(anchor.bpp[0], test.bpp[0]) < min(anchor.bpp[-1], test.bpp[-1]):
        of_less = bd_quality(mirrored(anchor), mirrored(test), **options)
        assert of_less.value == pytest.approx(-bd_quality(anchor, test, method=method).value, rel=1e-6, abs=1e-6)


def test_of_a_metric_where_less_is_better_the_better_test_has_a_negative_bd_rate():
    difference = Curve((1, 2, 3, 4), (0.1, 0.2, 0.4, 0.8), (9.0, 6.0, 4.0, 3.0))
    fewer_bits = difference._replace(bpp=tuple(0.5 * rate for rate in difference.bpp))
    result = bd_rate(difference, fewer_bits, metric="aad")
    assert result == (pytest.approx(-50), 3.0, 9.0, 1.0, True)
    assert bd_quality(difference, fewer_bits, metric="aad").value < 0
    assert not bd_rate(difference, fewer_bits).monotonic
    of_pictures = bd_rate_of_pictures(as_points(difference, metric="aad"), as_points(fewer_bits, metric="aad"), "aad")
    assert of_pictures == (pytest.approx(-50), 1, {})


def test_bd_rate_states_the_range_and_how_much_of_the_wanted_one_it_is():
    anchor, test = a_curve(), a_curve(gain_db=2)
    low, high = anchor.values[0], anchor.values[-1]
    full = bd_rate(anchor, test)
    assert (full.low, full.high) == (low + 2, high)
    assert full.coverage == pytest.approx((high - low - 2) / (high - low))
    assert full.percent < 0

    inside = bd_rate(anchor, test, within=(25, 30))
    assert inside[1:] == (25, 30, 1.0, True)
    assert inside.percent != pytest.approx(full.percent, abs=0.01)

    clipped = bd_rate(anchor, test, within=(low, low + 4))
    assert (clipped.low, clipped.high) == (low + 2, low + 4)
    assert clipped.coverage == pytest.approx(0.5)


@pytest.mark.parametrize("fall", [0.1, 0.0], ids=["falls", "stays level"])
def test_bd_of_a_curve_that_does_not_rise_is_not_a_number(fall):
    points = list(a_curve().points)
    points[2] = (points[2][0], points[1][1] - fall)
    for anchor, test in ((a_curve(), points), (points, a_curve())):
        result = bd_rate(anchor, test)
        assert not result.monotonic
        assert math.isnan(result.percent)
        assert result.coverage == 1
        quality = bd_quality(anchor, test)
        assert math.isnan(quality.value) and not quality.monotonic


LOSSLESS = a_curve()._replace(values=(*a_curve().values[:-1], math.inf))
WITHOUT_ONE = a_curve()._replace(values=(math.nan, *a_curve().values[1:]))


@pytest.mark.parametrize(
    ("test", "options", "message"),
    [
        (a_curve().points[:3], {}, r"4 points a curve, .* have \(6, 3\)"),
        (a_curve(gain_db=60), {}, "shares? no range"),
        (a_curve(), {"within": (50, 60)}, "inside 50 to 60"),
        (a_curve(), {"within": (37, 29)}, "from a lower to a higher"),
        (a_curve(), {"within": (29, math.inf)}, "from a lower to a higher"),
        (a_curve(), {"method": "akima"}, "choose from pchip, cubic"),
        (a_curve(), {"metric": "psnr"}, "no metric is named 'psnr'"),
        ([(0.0, 30), *a_curve().points], {}, r"the test has 0 bpp in point 1; .* positive"),
        (LOSSLESS, {}, r"the test has the value inf \(as of equal pictures\) at quality 6"),
        (WITHOUT_ONE, {}, "the value nan at quality 1"),
        ([*a_curve().points, (9.0, math.inf)], {}, "inf .* in point 7"),
        ([1.0, 2.0, 3.0, 4.0], {}, "the test must be a sequence of .* pairs"),
    ],
)
def test_bd_rate_refuses_what_it_cannot_compare(test, options, message):
    with pytest.raises(InvalidInput, match=message):
        bd_rate(a_curve(), test, **options)


def test_bd_quality_refuses_curves_that_share_no_rate():
    with pytest.raises(InvalidInput, match=r"share no range with the anchor's 0\.1 to 1\.6 bpp"):
        bd_quality(a_curve(), a_curve(bits=20))
    with pytest.raises(InvalidInput, match="at quality 6"):
        bd_quality(LOSSLESS, a_curve())


def test_a_value_at_a_rate_passes_through_the_points_and_stops_at_the_ends():
    curve = a_curve()
    assert [value_at_bpp(curve, bpp) for bpp in curve.bpp] == pytest.approx(curve.values)
    assert curve.values[1] < value_at_bpp(curve, 0.25) < curve.values[2]
    assert value_at_bpp(curve, 0.099) is None
    assert value_at_bpp(curve, 1.601) is None
    straight = [(0.1, 20), (1, 30), (10, 40)]  # in the logarithm of the rate
    assert value_at_bpp(straight, math.sqrt(0.1)) == pytest.approx(25)
    assert value_at_bpp([(bpp, -value) for bpp, value in straight], math.sqrt(0.1)) == pytest.approx(-25)
    with pytest.raises(InvalidInput, match="different bpp"):
        value_at_bpp([(0.1, 20), (0.1, 21)], 0.1)


# ------------------------------------------------------------------------------------------------------- pictures


def test_the_bd_rate_of_pictures_is_the_mean_of_their_own():
    anchor, test = two_codecs(5)
    own = [
        bd_rate(*curves).percent for curves in zip(*(picture_curves(p).values() for p in (anchor, test)), strict=True)
    ]
    result = bd_rate_of_pictures(iter(anchor), iter(test))
    assert result == (pytest.approx(np.mean(own)), 5, {})
    assert len(set(own)) == 5
    assert result.percent != pytest.approx(bd_rate(mean_curve(anchor), mean_curve(test)).percent, abs=0.001)


def test_pictures_without_a_bd_rate_are_left_out_with_the_reason():
    falling = a_curve()._replace(values=(40.0, *a_curve().values[1:]))
    anchors = {"fine": a_curve(), "falls": a_curve(), "equal": a_curve(), "far": a_curve(), "alone": a_curve()}
    tests = {"fine": a_curve(bits=2), "falls": falling, "equal": LOSSLESS, "far": a_curve(gain_db=60), "new": a_curve()}
    points = [[p for name, curve in curves.items() for p in as_points(curve, name)] for curves in (anchors, tests)]
    result = bd_rate_of_pictures(*points)
    assert (result.percent, result.pictures) == (pytest.approx(100), 1)
    assert sorted(result.left_out) == ["alone", "equal", "falls", "far", "new"]
    assert "does not get better with every step in bpp, with the test" in result.left_out["falls"]
    assert "at quality 6" in result.left_out["equal"]
    assert "no range" in result.left_out["far"]
    assert result.left_out["alone"] == "only the anchor was measured on it"
    assert result.left_out["new"] == "only the test was measured on it"

    none = bd_rate_of_pictures(*points, within=(90, 99))
    assert math.isnan(none.percent) and none.pictures == 0 and len(none.left_out) == 6
    with pytest.raises(InvalidInput, match="'psnr'"):
        bd_rate_of_pictures(*points, "psnr")


# ------------------------------------------------------------------------------------------------------- intervals


def test_a_resample_in_which_every_picture_is_drawn_once_has_the_bd_rate_of_the_set(monkeypatch):
    """The bootstrap has an integral of its own, for speed: on the pictures as they are it must give the same number."""

    def once_each(pictures, resamples, seed):
        return np.full((resamples, pictures), 1 / pictures)

    monkeypatch.setattr("slimcodec.evaluation.bootstrap._resampled_weights", once_each)
    anchor, test = two_codecs(6, spread=0.3)
    for fixed_or_points, curve in ((anchor, mean_curve(anchor)), (quoted("compressai:hm"), quoted("compressai:hm"))):
        for within in (None, (29, 37)):
            expected = bd_rate(curve, mean_curve(test), within=within).percent
            assert bootstrap(fixed_or_points, test, within=within) == pytest.approx([expected] * 2, abs=1e-9)


@given(anchor=rising_curves(), test=rising_curves())
@settings(deadline=None, max_examples=60)
def test_the_interval_of_equal_pictures_is_a_point(anchor, test):
    points = [[p for name in "abcde" for p in as_points(curve, name)] for curve in (anchor, test)]
    try:
        expected = bd_rate(anchor, test).percent
    except InvalidInput:
        with pytest.raises(InvalidInput, match="no range"):
            bootstrap(*points)
        return
    assert bootstrap(*points, resamples=3) == pytest.approx((expected, expected), rel=1e-9, abs=1e-9)


def test_the_interval_is_the_seeds_and_the_better_test_for_a_metric_where_less_is_better():
    anchor, test = two_codecs(8)
    assert bootstrap(iter(anchor), iter(test)) == bootstrap(anchor[::-1], test[::-1])
    assert bootstrap(anchor, test, seed=1) != bootstrap(anchor, test, seed=2)
    negated = [[p._replace(metrics={"aad": -p.metrics["psnr_rgb_db"]}) for p in points] for points in (anchor, test)]
    assert bootstrap(*negated, "aad") == pytest.approx(bootstrap(anchor, test))


def test_a_scale_that_falls_with_the_rate_changes_nothing():
    anchor, test = two_codecs(6)
    qp = [point._replace(quality=51 - point.quality) for point in test]
    assert mean_curve(qp).quality == tuple(range(46, 52))
    assert bd_rate(mean_curve(anchor), mean_curve(qp)) == bd_rate(mean_curve(anchor), mean_curve(test))
    assert bd_rate_of_pictures(anchor, qp) == bd_rate_of_pictures(anchor, test)
    assert bootstrap(anchor, qp) == bootstrap(anchor, test)
    assert bootstrap(mean_curve(qp), anchor) == bootstrap(mean_curve(test), anchor)


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_holds_the_estimate_and_shrinks_with_more_pictures(seed):
    widths = []
    for pictures in (6, 24, 96):
        anchor, test = two_codecs(pictures, seed=seed)
        low, high = bootstrap(anchor, test)
        assert low < bd_rate(mean_curve(anchor), mean_curve(test)).percent < high
        widths.append(high - low)
    assert widths[0] > 1.3 * widths[1] > 1.3 * 1.3 * widths[2]  # about twice each


def test_about_95_percent_of_the_intervals_hold_the_truth():
    truth = bd_rate(*map(mean_curve, two_codecs(5000, seed=-1 % 2**32))).percent
    intervals = [bootstrap(*two_codecs(12, seed=seed), resamples=300, seed=seed) for seed in range(300)]
    assert 0.89 < np.mean([low <= truth <= high for low, high in intervals]) < 0.985


def test_against_a_fixed_curve_only_the_test_is_drawn_anew():
    anchor, test = two_codecs(24)
    together, alone = bootstrap(anchor, test), bootstrap(mean_curve(anchor), test)
    percent = bd_rate(mean_curve(anchor), mean_curve(test)).percent
    assert alone.low_percent < together.low_percent < percent < together.high_percent < alone.high_percent


def test_there_is_no_interval_without_enough_pictures_or_bd_rates():
    anchor, test = two_codecs(6)
    with pytest.raises(InvalidInput, match="5 or more, not 4"):
        bootstrap(anchor[:24], test[:24])
    with pytest.raises(InvalidInput, match=r"only one of anchor and test has 00005\.png"):
        bootstrap(anchor[:30], test)
    with pytest.raises(InvalidInput, match="no range"):
        bootstrap(anchor, test, within=(90, 99))

    lossless = [p._replace(metrics={"psnr_rgb_db": math.inf}) if p.quality == 5 else p for p in test]
    with pytest.raises(InvalidInput, match=r"test has the value inf .* at quality 5"):
        bootstrap(anchor, lossless)
    falls = [p._replace(metrics={"psnr_rgb_db": 0.0}) if p.quality == 5 else p for p in test]
    with pytest.raises(InvalidInput, match="every step in bpp, with the test"):
        bootstrap(anchor, falls)
    # One picture holds the mean up: a third of the resamples do not draw it, and fall.
    falls_without_one = [
        p._replace(metrics={"psnr_rgb_db": 500.0 if p.picture == "00000.png" else 0.0}) if p.quality == 5 else p
        for p in test
    ]
    with pytest.raises(InvalidInput, match=r"3\d\d of 1000 resamples have no BD-rate"):
        bootstrap(anchor, falls_without_one)


# --------------------------------------------------------------------------------------------------------- package


def test_the_package_compares_two_lists_of_pairs():
    result = slimcodec.evaluation.bd_rate(a_curve().points, list(a_curve(bits=1.25).points))
    assert result.percent == pytest.approx(25)
    assert slimcodec.evaluation.bd_quality is bd_quality
    with pytest.raises(AttributeError, match="bd_rates"):
        slimcodec.evaluation.bd_rates  # noqa: B018


def test_importing_the_package_imports_no_library():
    heavy = "numpy scipy torch PIL matplotlib"
    script = f"import slimcodec.evaluation, sys; print(*set('{heavy}'.split()) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
