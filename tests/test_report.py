"""The page as a file: what it holds, what it never holds, and that whatever is missing is left out or explained."""

import json
import re
from html.parser import HTMLParser

import pytest
from report_parts import NASTY, PSNR, PillowFile, a_codec, a_rate, a_summary, bare_summary, make_photos, make_points

from slimcodec.evaluation.points import Point
from slimcodec.evaluation.summary import plain
from slimcodec.report import page as report
from slimcodec.report import style, tables
from slimcodec.report.viewer import Shown, View, views

JPEG = b"\xff\xd8\xff"  # how such a file begins
VOID = {"meta", "link", "img", "br", "hr", "input", "source"}


class Page(HTMLParser):
    """Elements by tag, their text, and whether every element is closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.text, self.scripts = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] in ("script", "style") else self.text).append(data)

    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def words(self):
        return " ".join(" ".join(self.text).split())


def data_of(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


@pytest.fixture(scope="module")
def some_views(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    photos = make_photos(folder / "photos", names=("astronaut", "chelsea"))
    codecs = {"slim": PillowFile("slim"), "jpeg": PillowFile("jpeg"), "webp": PillowFile("webp", broken=True)}
    points = make_points(photos, [codecs["slim"], codecs["jpeg"]], folder)
    return points, views(photos, points, codecs, "slim", folder=folder / "crops")


@pytest.fixture(scope="module")
def html(some_views, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.write(a_summary(), *some_views, path)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_complete(html):
    page = Page(html)
    assert page.open == [] and len(set(page.ids())) == len(page.ids())
    assert {"headline", "curves", "cost", "pictures", "tables", "made"} <= set(page.ids())
    words = page.words()
    assert "slim takes 80.0 % more bits than VVC (VTM) for the same PSNR RGB (27.5 to 36.2 dB;" in words
    for fact in (
        "2,000",
        "+80.0 %",
        "+20.0 %",
        "slimcodec evaluate photos",
        "a processor, 2 cores",
        "ffmpeg has no libvmaf",
    ):
        assert fact in words
    assert len(html.encode()) < 5_000_000


def test_the_page_loads_nothing_and_says_so_to_the_browser(html):
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "srcset", "poster", "action", "data", "background"):
            assert name not in attributes or attributes[name].startswith("data:")
        assert tag == "a" or "href" not in attributes
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "Policy" in a.get("http-equiv", ""))
    assert "default-src 'none'" in policy and "http" not in policy


def test_names_are_escaped(html):
    page = Page(html)
    assert html.count("<script>alert") == 0
    assert NASTY in page.words() and "effort 0 <b>bold</b>" in page.words()
    assert not any(tag == "b" for tag, _ in page.elements)


def test_a_picture_may_be_called_anything():
    shown = (Shown(4, 100, 0.5, {PSNR: float("inf")}, JPEG, True),)
    view = View(NASTY, 64, 64, (0, 0, 64, 64), JPEG, {"slim": shown}, {"jpeg": NASTY})
    html = report.render(a_summary(), [], [view])
    assert "<script>alert" not in html and Page(html).open == []
    (entry,) = data_of(html)["views"]
    assert entry["picture"] == NASTY and entry["leftOut"] == {"jpeg": NASTY}
    assert entry["codecs"]["slim"][0]["metrics"] == {PSNR: None}  # JSON has no word for infinite


def test_the_data_are_those_of_the_summary(html):
    data, summary = data_of(html), a_summary()
    assert data["curves"][PSNR]["slim"] == {
        n: list(v) for n, v in summary.codecs["slim"].curves[PSNR]._asdict().items()
    }
    assert data["bdRate"] == plain(summary.bd_rate) and data["anchors"] == summary.anchors
    assert {name: codec["group"] for name, codec in data["codecs"].items()} == {
        "slim": "model", "teacher": "model", "jpeg": "anchor", "webp": "anchor", "distilled": "rounds",
        "round 1": "rounds", "compressai:vtm": "quoted", "compressai:jpeg": "quoted", "elic": "quoted",
    }  # fmt: skip
    assert [view["picture"] for view in data["views"]] == ["astronaut.png", "chelsea.png"]
    assert data["views"][0]["codecs"].keys() == {"slim", "jpeg"}
    assert data["views"][0]["original"].startswith("data:image/avif;base64,")
    assert data["views"][0]["codecs"]["slim"][0]["image"].startswith("data:image/jpeg;base64,")


def test_numbers_as_people_read_them():
    assert tables.number(-12345.678, 1) == "−12,345.7" and tables.percent(-6.66) == "−6.7 %"
    assert [tables.significant(value) for value in (0, 0.01234, 7.284, 384.6, 12345.6)] == [
        "0",
        "0.0123",
        "7.28",
        "385",
        "12,346",
    ]
    assert tables.number(None) == tables.percent(float("nan")) == tables.significant(None) == "–"


def test_tables_keep_every_digit_for_the_csv(html):
    values = re.findall(r'data-value="([^"]+)"', html)
    assert "380.0" in values and "2400000" in values


def test_times_are_medians_at_each_quality():
    points = [Point("slim", f"{n}.png", 20.0, 1e5, 0.8, seconds, 0.5, {}) for n, seconds in enumerate((1.0, 2.0, 9.0))]
    table = tables.mean_points_table(a_summary(), points)
    rows = {(row[0].text, row[1].text): row for row in table.rows}
    assert [cell.text for cell in rows["slim", "20"][-2:]] == ["2,000", "500"]
    assert [cell.text for cell in rows["slim", "40"][-2:]] == ["–", "–"]
    assert len(table.header) == len(table.rows[0])


def test_what_is_missing_is_listed_with_its_reason():
    rows = [[cell.text for cell in row] for row in tables.missing_table(a_summary()).rows]
    assert rows == [
        ["picture", NASTY, "not a picture"],
        ["metric", "VMAF", "ffmpeg has no libvmaf"],
        ["file", "WebP at quality 60, coffee.png", "timed out"],
        ["codec", "JPEG XL", "no encoder"],
    ]


def test_the_least_that_there_can_be_is_still_a_page(tmp_path):
    report.write(bare_summary(), [], [], tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert "No model was measured, only other codecs." in page.words()
    assert "There are no pictures in this report." in page.words()
    assert "missing-table" not in page.ids() and "viewer" not in page.ids() and "cost-plot" not in page.ids()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"rounds": [], "codecs": {"slim": a_codec(1.8, kind="model", role="student", key="s")}},
            "No model was measured, so",
        ),
        ({"anchors": [], "bd_rate": {}}, "There is no codec to compare with, so there are no BD-rates."),
        (
            {"bd_rate": {"compressai:vtm": {"slim": {PSNR: {"percent": None, "reason": "four points are needed"}}}}},
            "No BD-rate of slim against VVC (VTM) (PSNR RGB): four points are needed.",
        ),
    ],
)
def test_a_sentence_says_why_something_is_absent(changes, sentence):
    assert sentence in Page(report.render(a_summary(**changes), [], [])).words()


@pytest.mark.parametrize(
    "absent", [{"quoted": {}}, {"failures": [], "unavailable": {}}, {"target_macs_per_pixel": None}, {"provenance": {}}]
)
def test_any_part_may_be_absent(absent):
    assert Page(report.render(a_summary(**absent), [], [])).open == []


def test_a_codec_without_complexity_beside_one_with_it():
    of_both = {"slim": {PSNR: a_rate(20.0)}, "jpeg": {PSNR: a_rate(30.0)}}
    summary = a_summary(bd_rate={"teacher": of_both}, anchors=["teacher"])
    rows = {row[0].text: [cell.text for cell in row] for row in tables.complexity_table(summary).rows}
    assert rows["JPEG"][1:5] == ["–"] * 4 and rows["slim"][2] == "2,000"


def test_a_page_that_would_be_too_large_leaves_out_codecs_and_qualities_then_pictures(tmp_path, monkeypatch):
    shown = tuple(Shown(quality, 100, 0.5, {PSNR: 30.0}, JPEG + b"x" * 30_000, True) for quality in (1, 3, 4, 6))
    names = ("slim", "jpeg", "webp", "teacher", "round 1")
    a_view = View("a.png", 64, 64, (0, 0, 64, 64), JPEG, dict.fromkeys(names, shown), {})
    two = [a_view, a_view._replace(picture="b.png")]
    empty = len(report.render(a_summary(), [], []).encode())
    for room, pictures, codecs, qualities, left_out in (
        (2_000_000, 2, 5, 4, ""),
        (1_400_000, 2, 4, 4, "round 1"),
        (1_100_000, 2, 4, 3, "round 1, the higher of 4 qualities"),
        (400_000, 2, 2, 2, "WebP, teacher, round 1, the higher of 4 qualities"),
        (200_000, 2, 1, 2, "JPEG, WebP, teacher, round 1, the higher of 4 qualities"),
        (100_000, 1, 1, 2, "JPEG, WebP, teacher, round 1, the higher of 4 qualities, b.png"),
        (60_000, 0, 0, 0, "a.png, b.png"),
    ):
        monkeypatch.setattr(report, "LARGEST_PAGE", empty + room)
        report.write(a_summary(), [], two, tmp_path / "report.html")
        html = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert len(html.encode()) <= empty + room
        entries = data_of(html)["views"]
        assert len(entries) == pictures and all(len(entry["codecs"]) == codecs for entry in entries)
        assert all(len(of_codec) == qualities for entry in entries for of_codec in entry["codecs"].values())
        words = Page(html).words()
        assert (f"to keep this file small: {left_out}." in words) == bool(left_out)


def test_the_main_model_is_first_and_steps_of_pruning_are_last():
    names = ["slim", "teacher", "jpeg", "webp", "distilled", "round 1"]
    assert list(style.main_first(a_summary())) == names
    assert [row[0].text for row in tables.complexity_table(a_summary()).rows][:2] == ["slim", "teacher"]
    assert list(data_of(report.render(a_summary(), [], []))["codecs"])[:6] == names


def test_every_picture_has_a_row_of_its_own(some_views):
    points, _ = some_views
    table = tables.pictures_table(a_summary(), points)
    assert table.header == ("picture", "quality", "bpp", "PSNR RGB (dB)", "against JPEG")
    assert [(row[0].text, row[1].text) for row in table.rows] == [("astronaut.png", "40"), ("chelsea.png", "40")]
    for row in table.rows:
        point = next(p for p in points if (p.codec, p.picture, p.quality) == ("slim", row[0].text, 40))
        assert (row[2].value, row[3].value) == (point.bpp, point.metrics[PSNR])
        assert row[4].text == "+0.0 %"  # both are the same JPEG
    assert tables.pictures_table(bare_summary(), points).rows == []
    assert "pictures-table" in Page(report.render(a_summary(), points, [])).ids()
