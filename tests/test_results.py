"""What README and docs/evaluation.md say of Kodak is what the stored points give."""

import re
from pathlib import Path

import pytest

from slimcodec.codec import zoo
from slimcodec.evaluation import metrics, published
from slimcodec.evaluation.comparison import KODAK, VTM, is_kodak
from slimcodec.evaluation.curves import bd_rate, mean_curve
from slimcodec.evaluation.points import read_points
from slimcodec.evaluation.summary import read as read_summary
from slimcodec.report import study

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "kodak"
PSNR = "psnr_rgb_db"
ANCHORS = {
    "against the teacher": "small",
    "against JPEG": "jpeg",
    "against WebP": "webp",
    "against VVC": "vvc",
    "against VTM": VTM,
}


@pytest.fixture(scope="module")
def summary():
    return read_summary(RESULTS)


def test_the_summary_is_that_of_the_points(summary):
    points = read_points(RESULTS / study.POINTS)
    assert is_kodak(point.picture for point in points) and len(KODAK) == 24
    for name, codec in summary.codecs.items():
        curve = mean_curve([point for point in points if point.codec == name], PSNR)
        assert codec.curves[PSNR].values == pytest.approx(curve.values, abs=1e-5)
        percent = bd_rate(published.quoted(VTM).curve, curve).percent
        assert summary.bd_rate[VTM][name][PSNR].percent == pytest.approx(percent, abs=1e-3)


@pytest.mark.parametrize("start", ANCHORS)
def test_the_table_of_the_shipped_models_quotes_the_summary(summary, start):
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith(f"| {start}"))
    said = [float(number.replace("−", "-")) for number in re.findall(r"([+−]\d+\.\d) %", row)]
    entries = summary.bd_rate[ANCHORS[start]]
    refined = [name for name in summary.codecs if name.startswith("slim-2k effort")]
    named = ("small", "slim-2k", *refined, "plain", "slim-2k-fast-encoder")
    expected = [entries[name][PSNR].percent for name in named if name in entries]
    assert len(refined) == 1
    assert said == pytest.approx(expected, abs=0.06)


def test_the_readme_quotes_the_summary(summary):
    """Its one number, and which codecs it says the student is ahead of and behind."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"\*\*(\d+\.\d) % more bits than VTM\*\*", readme)
    against = {name: entries[PSNR].percent for name, entries in summary.bd_rate[VTM].items() if PSNR in entries}
    assert float(said) == pytest.approx(against["slim-2k"], abs=0.06)
    assert "ahead of AVIF, JPEG 2000, WebP and JPEG." in readme
    assert "level with HEVC, as x265 encodes it, and behind VVC" in readme
    assert all(against[name] > against["slim-2k"] for name in ("avif", "jpeg2000", "webp", "jpeg"))
    assert against["hevc"] == pytest.approx(against["slim-2k"], abs=0.5) and against["vvc"] < against["slim-2k"]


def test_the_models_were_those_of_the_zoo(summary):
    family = "slim-500", "slim-1k", "slim-4k", "slim-8k"
    for name in ("small", "slim-2k", "slim-2k-fast-encoder", "slim-2k-symmetric", *family):
        description = zoo.read_description(zoo.find(name))
        assert summary.codecs[name].weights_sha256 == description["weights_sha256"]


def test_the_models_have_the_metrics_of_the_other_codecs(summary):
    """The tabs of the page, and docs/evaluation.md, show them side by side."""
    students = "slim-1k", "slim-2k", "slim-2k-fast-encoder", "plain", "slim-2k effort 10"
    for name in ("small", "small effort 10", *students):
        assert {PSNR, "psnr_yuv_db", "ms_ssim", "ms_ssim_db", "aad"} <= set(summary.codecs[name].curves), name


def test_the_seven_metrics_are_of_all_of_kodak_and_of_the_models_of_the_zoo():
    folder = RESULTS.with_name("kodak-jpeg-ai")
    seven = read_summary(folder)
    assert is_kodak(point.picture for point in read_points(folder / study.POINTS)) and len(seven.data.pictures) == 24
    for name, codec in seven.codecs.items():
        assert set(metrics.GROUPS["jpeg_ai"]) <= set(codec.curves), name
        if codec.kind == "model":
            assert codec.weights_sha256 == zoo.read_description(zoo.find(name))["weights_sha256"]


def test_every_codec_of_the_field_was_run(summary):
    assert {"jpeg", "webp", "jpeg2000", "avif", "jxl", "hevc", "vvc"} <= set(summary.codecs)
    assert {"psnr_rgb_db", "psnr_yuv_db", "ms_ssim", "ms_ssim_db"} <= set(summary.metrics)
    assert not summary.failures and not summary.unavailable and not summary.data.left_out
