"""Figures as PNG and SVG of a small summary, and what they show: names, colours, points, lines, places of labels."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from report_parts import PSNR, a_codec, a_rate, a_summary, bare_summary

from slimcodec import InvalidInput
from slimcodec.evaluation.curves import Curve
from slimcodec.evaluation.summary import BdRateEntry, read
from slimcodec.report import headline, plots, style
from slimcodec.report.run_plots import comparison_table, plot_rounds

ROOT = Path(__file__).parents[1]


def drawn(path):
    """The pixels of a figure, after a look whether it is one: uint8 [H, W, 3]."""
    with Image.open(path) as file:
        assert file.format == "PNG" and min(file.size) > 250
        return np.asarray(file.convert("RGB"))


def has(pixels, colour):
    return (pixels == tuple(bytes.fromhex(colour[1:]))).all(axis=-1).any()


def test_every_figure_is_written_as_png_and_svg(tmp_path):
    paths = plots.write_all(a_summary(), tmp_path)
    names = {"headline", PSNR, "aad", "complexity", "widths"}
    assert {path.name for path in paths} == {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    assert sorted(tmp_path.iterdir()) == sorted(paths)  # and no temporary file is left
    for path in paths:
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        else:
            pixels = drawn(path)
            assert path.stem == "complexity" or has(pixels, style.STUDENT.light)


def test_the_same_summary_gives_the_same_svg(tmp_path):
    for name in ("one.svg", "two.svg"):
        headline.headline(a_summary(), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_figures_without_data_are_left_out(tmp_path):
    summary = bare_summary()
    assert [path.name for path in plots.write_all(summary, tmp_path)] == [f"{PSNR}.png", f"{PSNR}.svg"]
    for draw in (headline.headline, plots.complexity, plots.widths):
        with pytest.raises(InvalidInput):
            draw(summary, tmp_path / "none.png")
    with pytest.raises(InvalidInput, match="no codec has a curve of vmaf"):
        plots.rate_distortion(summary, "vmaf", tmp_path / "none.png")


def test_the_headline_has_points_for_networks_and_a_line_for_each_other_family():
    data = headline.headline_data(a_summary())
    spots = {spot.name: (spot.kind, spot.kmacs_per_pixel, spot.percent) for spot in data.spots}
    assert spots["teacher"] == ("teacher", 9.0, 50) and spots["slim"] == ("student", 2.0, 80)
    assert spots["elic"] == ("quoted", 382.0, -7) and len(spots) == 5
    # JPEG ran, so its published curve has no line of its own. The anchor is at 0.
    assert {level.name: level.percent for level in data.levels} == {"compressai:vtm": 0, "jpeg": 160, "webp": 70}
    assert (data.anchor, data.metric, data.target_kmacs_per_pixel) == ("compressai:vtm", PSNR, 2.0)
    assert data.path == ("distilled", "round 1", "slim")


def test_a_codec_without_a_bd_rate_is_not_in_the_headline():
    summary = a_summary()
    summary.bd_rate["compressai:vtm"]["slim"][PSNR] = BdRateEntry(None, reason="no overlap")
    data = headline.headline_data(summary)
    assert "slim" not in {spot.name for spot in data.spots} and data.path == ("distilled", "round 1")
    assert headline.headline_data(a_summary(anchors=[], bd_rate={})) is None


def test_an_anchor_that_ran_may_be_the_headlines():
    summary = a_summary(anchors=["jpeg"], quoted={}, bd_rate={"jpeg": {"slim": {PSNR: a_rate(-20.0)}}})
    data = headline.headline_data(summary)
    assert [level.name for level in data.levels] == ["jpeg"] and [spot.name for spot in data.spots] == ["slim"]


def test_colours_are_fixed_and_families_share_theirs():
    summary = a_summary()
    palette = style.colours(summary)
    assert set(palette) == {*summary.codecs, *summary.quoted}
    assert palette["jpeg"] == palette["compressai:jpeg"] and palette["jpeg"] != palette["webp"]
    assert palette["slim"] == style.STUDENT and palette["teacher"] == style.TEACHER
    (avif,) = a_summary(rounds=[], bd_rate={}, codecs={"avif": a_codec(1.0)}).codecs.values()
    more = summary._replace(codecs={"avif": avif, **summary.codecs})
    assert {name: style.colours(more)[name] for name in palette} == palette


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("jpeg2000", "JPEG 2000"),
        ("compressai:vtm", "VVC (VTM)"),
        ("slim effort 3", "slim effort 3"),
        ("compressai:compressai-cheng2020-attn_mse_cuda", "cheng2020-attn"),
        ("compressai:paper-cheng2020-parallel_mse", "cheng2020-parallel (paper)"),
    ],
)
def test_names_as_figures_have_them(name, label):
    assert style.label(name) == label


def test_a_last_round_that_is_the_student_is_told_once():
    assert plots.steps_of(a_summary()) == ["teacher", "distilled", "slim"]
    assert plots.pruned_steps(a_summary()) == ["distilled", "slim"]


def test_equal_factors_of_rate_are_equally_far_apart():
    assert headline.scaled(0) == 0 and headline.scaled(100) == 1 and headline.scaled(-50) == -1
    assert headline.percent_ticks(-12, 60) == [-10, 0, 10, 25, 50]


def test_labels_are_moved_apart_and_stay_in_order():
    assert headline.spread([10, 100], 12) == [10, 100]
    assert headline.spread([20, 20, 60], 12) == [14, 26, 60]
    wanted = [5.0, 7.0, 8.0, 30.0, 31.0, 90.0]
    places = headline.spread(wanted, 12)
    assert places == sorted(places) and min(np.diff(places)) >= 12 - 1e-9


def test_the_rates_shown_are_those_of_the_models():
    assert plots.rate_limit(a_summary()) == pytest.approx(1.15 * 1.8 * 1.5)
    assert plots.rate_limit(bare_summary()) is None


# -------------------------------------------------------------------------------------------------- of a training run


def a_curve(*, bits=1.0):
    bpp = (0.1, 0.3, 0.6, 1.2)
    return Curve((1.0, 2.0, 3.0, 4.0), tuple(bits * rate for rate in bpp), (26.0, 30.0, 33.0, 36.0))


def test_plotted_rounds_show_accepted_and_rejected_and_the_target(tmp_path):
    def a_round(macs_per_pixel, bd_rate_percent, accepted):
        return SimpleNamespace(macs_per_pixel=macs_per_pixel, bd_rate_percent=bd_rate_percent, accepted=accepted)

    path = tmp_path / "rounds.png"
    accepted = [a_round(8000, -1.0, True), a_round(5000, 0.4, True), a_round(3500, None, False)]
    plot_rounds(accepted, path, target_macs_per_pixel=2000)
    assert has(drawn(path), "#0072B2") and not has(drawn(path), "#D55E00")
    plot_rounds([*accepted, a_round(3000, 2.5, False)], path, target_macs_per_pixel=2000)
    assert has(drawn(path), "#D55E00")


def test_rounds_can_be_plotted_before_there_are_any(tmp_path):
    plot_rounds([], tmp_path / "rounds.png", target_macs_per_pixel=2000)
    assert drawn(tmp_path / "rounds.png").shape[2] == 3


def test_the_comparison_table_interpolates_at_the_reference_rates():
    slim = Curve(quality=(1, 2.5), bpp=(0.5, 5.0), values=(30, 40))
    jpeg = Curve(quality=(10, 90), bpp=(0.1, 1.0), values=(20, 30))
    assert comparison_table({"slim": slim, "jpeg": jpeg}, "slim").splitlines() == [
        "| quality |    bpp | slim (dB) | jpeg (dB) |",
        "|--------:|-------:|----------:|----------:|",
        "|       1 | 0.5000 |     30.00 |     26.99 |",
        "|     2.5 | 5.0000 |     40.00 |         – |",
    ]
    with pytest.raises(InvalidInput, match="'other' is not among"):
        comparison_table({"slim": slim}, "other")


def test_the_still_headline_shows_ours_and_seven_others_none_on_another():
    summary = read(ROOT / "results" / "kodak")
    data = headline.in_short(headline.headline_data(summary))
    assert data.path == ("distilled", "slim-2k")
    others = [spot.name for spot in data.spots if spot.kind == "quoted"]
    lines = [level.name for level in data.levels if level.name != data.anchor]
    ours = {spot.name for spot in data.spots} - set(others)
    # slim-2k-fast-encoder is near slim-2k
    family = {f"slim-{size}" for size in ("500", "1k", "2k", "4k", "8k")}
    assert ours == {"small", "distilled", "slim-2k-symmetric", *family}
    assert len(others) + len(lines) == 7
    for one, other in itertools.combinations(data.spots, 2):
        assert not headline._are_near(one, other), (one, other)


def test_what_a_paper_states_stands_where_the_curve_is_that_it_names():
    summary = read(ROOT / "results" / "kodak")
    (pulse,) = headline._stated(summary, "compressai:vtm")
    assert pulse.kmacs_per_pixel == 5.2 and pulse.percent == pytest.approx(23.3, abs=0.1)
    assert headline._stated(summary, "jpeg") == () == headline._stated(a_summary(), "compressai:vtm")
