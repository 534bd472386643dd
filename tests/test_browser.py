"""The page in a real Chromium, opened from disk: everything on it works, and it asks for nothing.

It needs a Chromium on the PATH (Debian and Ubuntu: apt install chromium) and Playwright, which drives it. Screenshots
at desktop and phone width are left in the test's folder, or in $SLIMCODEC_SCREENSHOTS.
"""

import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from report_parts import PSNR, PillowFile, a_summary, bare_summary, make_photos, make_points

from slimcodec.evaluation.curves import bd_rate
from slimcodec.report import page as report
from slimcodec.report.viewer import views

pytestmark = pytest.mark.slow

QUIET = ("background-networking", "component-update", "sync", "gpu", "quic", "default-apps", "extensions")
ARGUMENTS = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]
CLIP = "getComputedStyle(document.querySelector('.layer.left')).clipPath"
SCALE = "new DOMMatrix(getComputedStyle(document.querySelector('img.left')).transform).a"
HASH = "decodeURIComponent(location.hash)"
VISIBLE = "name => document.getElementById('curves-plot').data.find(trace => trace.name === name).visible"


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("the browser test needs Playwright: pip install playwright", pytrace=False)
    if chromium is None:
        pytest.fail("the browser test needs Chromium: apt install chromium", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    names = ("astronaut", "chelsea", "coffee", "rocket")
    photos = make_photos(folder / "photos", names=names, box=(20, 20, 420, 300))
    codecs = {
        name: PillowFile(name, "webp" if name == "webp" else "jpeg") for name in ("teacher", "slim", "jpeg", "webp")
    }
    points = make_points(photos, list(codecs.values()), folder)
    report.write(
        a_summary(), points, views(photos, points, codecs, "slim", folder=folder / "crops"), folder / "report.html"
    )
    return folder / "report.html"


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory):
    folder = Path(os.environ.get("SLIMCODEC_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def opened(browser, path, width=1280, part="", **settings):
    """The page in a window; at the end nothing was said to the console, and nothing but the file was asked for."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri() + part)
    until(page, "document.getElementById('curves-plot')?.data?.length > 0")
    yield page
    context.close()
    assert said == []
    assert [
        url[:80] for url in asked if not url.startswith(("data:", "blob:")) and url.split("#")[0] != path.as_uri()
    ] == []


def until(page, expression, argument=None):
    """Wait for it to hold. Playwright's own waiting evaluates text in the page, which the page forbids."""
    for _ in range(100):
        if page.evaluate(expression, argument):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within five seconds: {expression}")


@pytest.fixture
def page(browser, page_file):
    with opened(browser, page_file) as page:
        yield page


def test_the_slider_moves_by_keyboard_and_by_pointer(page):
    handle = page.locator(".handle")
    before = page.evaluate(CLIP)
    handle.focus()
    handle.press("ArrowRight")
    assert page.evaluate(CLIP) != before and handle.get_attribute("aria-valuenow") == "52"
    handle.press("Home")
    assert handle.get_attribute("aria-valuenow") == "0"
    page.locator("#compare").scroll_into_view_if_needed()
    frame = page.locator("#compare").bounding_box()
    middle = frame["y"] + frame["height"] / 2
    page.mouse.move(frame["x"] + 2, middle)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] / 2, middle)
    page.mouse.move(frame["x"] + 0.75 * frame["width"], middle)
    page.mouse.up()
    assert handle.get_attribute("aria-valuenow") == "75"
    page.mouse.move(frame["x"], middle)  # the button is up
    assert handle.get_attribute("aria-valuenow") == "75"
    assert page.evaluate(CLIP) == "inset(0px 25% 0px 0px)"


def test_two_fingers_magnify(browser, page_file):
    with opened(browser, page_file, width=390, has_touch=True, is_mobile=True) as page:
        page.locator("#compare").scroll_into_view_if_needed()
        whole, frame = page.evaluate(SCALE), page.locator("#compare").bounding_box()
        session = page.context.new_cdp_session(page)
        for kind, apart in (("touchStart", 20), ("touchMove", 30), ("touchMove", 60)):
            places = [{"x": frame["x"] + 170 + side * apart, "y": frame["y"] + 100, "id": side} for side in (-1, 1)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert page.evaluate(SCALE) > 2 * whole and page.evaluate("fingers.size") == 0


def test_a_finger_moves_the_slider(browser, page_file):
    with opened(browser, page_file, width=390, has_touch=True, is_mobile=True) as page:
        page.locator("#compare").scroll_into_view_if_needed()
        frame = page.locator("#compare").bounding_box()
        page.touchscreen.tap(frame["x"] + 0.25 * frame["width"], frame["y"] + 30)
        assert page.locator(".handle").get_attribute("aria-valuenow") == "25"


def test_a_legend_button_toggles_its_codec_for_every_metric(page):
    button = page.locator(".key[data-codec=jpeg]")
    assert page.evaluate(VISIBLE, "JPEG") is True and button.get_attribute("aria-pressed") == "true"
    button.focus()
    page.keyboard.press("Enter")
    assert page.evaluate(VISIBLE, "JPEG") is False and button.get_attribute("aria-pressed") == "false"
    page.locator("#metrics button[data-value=aad]").click()
    assert page.evaluate(VISIBLE, "JPEG") is False and page.evaluate(VISIBLE, "WebP") is True
    button.click()
    assert page.evaluate(VISIBLE, "JPEG") is True


def test_published_curves_are_off_until_asked_for(page):
    assert page.evaluate(VISIBLE, "ELIC") is False
    page.locator("#legend-quoted summary").click()
    page.locator(".key[data-codec=elic]").click()
    assert page.evaluate(VISIBLE, "ELIC") is True


def test_the_metric_and_the_rate_axis_switch(page):
    title = "document.getElementById('curves-plot').layout.yaxis.title.text"
    assert page.evaluate(title) == "PSNR RGB (dB)"
    page.locator("#metrics button[data-value=aad]").click()
    assert page.evaluate(title) == "Average absolute difference"
    page.get_by_label("logarithmic rate").check()
    assert page.evaluate("document.getElementById('curves-plot').layout.xaxis.type") == "log"


def test_a_logarithmic_rate_has_ticks_in_plain_numbers(page):
    page.get_by_label("logarithmic rate").check()
    ticks = page.evaluate("[...document.querySelectorAll('#curves-plot .xtick text')].map(text => text.textContent)")
    assert len(ticks) > 3 and all(re.fullmatch(r"\d+|0\.\d{1,2}|1\.5", tick) for tick in ticks)
    page.evaluate("Plotly.relayout('curves-plot', {'xaxis.range[0]': -0.3, 'xaxis.range[1]': 0}).then(() => 0)")
    until(page, "document.getElementById('curves-plot').layout.xaxis.tickvals.includes(0.6000000000000001)")


def test_the_main_model_is_on_top_and_steps_of_pruning_are_hidden_until_asked_for(page):
    assert page.evaluate("document.getElementById('curves-plot').data.at(-1).name") == "slim"
    assert page.locator(".key").first.get_attribute("data-codec") == "slim"
    spots = "document.getElementById('headline-plot').data.map(trace => trace.name)"
    bars = "document.getElementById('cost-plot').data[0].y.length"
    assert page.evaluate(VISIBLE, "distilled") is False and "distilled" not in page.evaluate(spots)
    before = page.evaluate(bars)
    page.locator(".show-rounds").first.check()
    assert page.evaluate(VISIBLE, "distilled") is True and "distilled" in page.evaluate(spots)
    assert page.evaluate(bars) > before and page.locator(".show-rounds").last.is_checked()


def test_any_codec_is_the_anchor_of_bd_rates(page):
    """What the page computes is what evaluation.curves computes."""
    codecs = a_summary().codecs
    for metric in (PSNR, "aad"):
        found = page.evaluate("metric => bdRates('webp', metric)", metric)
        for name in ("slim", "jpeg", "teacher", "distilled"):
            expected = bd_rate(codecs["webp"].curves[metric], codecs[name].curves[metric], metric=metric)
            entry = found[name]
            assert entry["percent"] == pytest.approx(expected.percent, abs=1e-6)
            assert (entry["low"], entry["high"]) == pytest.approx((expected.low, expected.high))
            assert entry["coverage"] == pytest.approx(expected.coverage)
    page.locator("#bd-anchor").select_option(label="WebP")
    assert (
        "+" in page.locator("#bd-table tr.main").inner_text() and "WebP" not in page.locator("#bd-table").inner_text()
    )
    page.locator("#times-anchor").select_option(label="JPEG")
    assert "BD-rate against JPEG" in page.evaluate("document.getElementById('times-plot').layout.yaxis.title.text")


def test_a_table_is_sorted_by_any_column(page):
    def column(number):
        rows = "[...document.getElementById('pictures-table').tBodies[0].rows]"
        return page.evaluate(f"n => {rows}.map(row => row.cells[n].dataset.value)", number)

    head = page.locator("#pictures-table th").nth(2)
    for order in ("ascending", "descending"):
        head.locator("button").click()
        values = [float(value) for value in column(2)]
        assert values == sorted(values, reverse=order == "descending") and len(values) == 4
        assert head.get_attribute("aria-sort") == order


def test_dark_follows_the_system_until_the_button_is_pressed(browser, page_file):
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "document.getElementById('curves-plot').layout.font.color"
    with opened(browser, page_file, color_scheme="dark") as page:
        button = page.locator("#theme")
        dark, dark_ink = page.evaluate(ground), page.evaluate(ink)
        assert (button.inner_text(), button.get_attribute("aria-pressed")) == ("Dark theme: on", "true")
        page.emulate_media(color_scheme="light")
        until(page, "document.getElementById('theme').textContent === 'Dark theme: off'")
        assert page.evaluate(ground) != dark and page.evaluate(ink) != dark_ink
        button.click()
        assert (button.inner_text(), button.get_attribute("aria-pressed")) == ("Dark theme: on", "true")
        assert page.evaluate(ground) == dark and page.evaluate(ink) == dark_ink
        button.click()
        page.emulate_media(color_scheme="dark")
        page.wait_for_timeout(100)
        assert button.inner_text() == "Dark theme: off" and page.evaluate(ground) != dark


def test_the_viewer_changes_picture_codec_quality_and_difference(page):
    page.locator(".thumb").nth(1).click()
    assert "chelsea.png" in page.locator("#viewer .side p").inner_text()
    left = page.locator("img.left")
    source = left.get_attribute("src")
    page.locator("#quality").focus()
    page.keyboard.press("ArrowRight")
    assert left.get_attribute("src") != source
    assert page.locator("#quality").get_attribute("aria-valuetext").startswith("Quality 60 of slim, ")
    page.locator("#left-codec").select_option(label="Original")
    page.locator("#show-difference").check()
    for codec, expected in (("Original", False), ("JPEG", True)):
        page.locator("#right-codec").select_option(label=codec)
        text = f"Difference of Original and {codec}, amplified 8 times"
        until(page, "text => document.getElementById('difference').ariaLabel === text", text)
        assert (page.evaluate(BRIGHTEST) > 0) == expected


def test_the_picture_is_magnified_and_moved_and_never_leaves_the_stage(page):
    whole = page.evaluate(SCALE)
    page.locator("#zoom-in").click()
    assert page.evaluate(SCALE) == pytest.approx(2 * whole)
    page.locator("#zoom-one").click()
    assert page.evaluate(SCALE) == pytest.approx(1)
    for _ in range(3):
        page.locator("#zoom-in").click()
    assert page.evaluate("getComputedStyle(document.querySelector('img.left')).imageRendering") == "pixelated"
    page.locator("#compare").scroll_into_view_if_needed()
    frame = page.locator("#compare").bounding_box()
    page.mouse.move(frame["x"] + 300, frame["y"] + 100)
    page.mouse.down()
    page.mouse.move(frame["x"] + 320, frame["y"] + 110)
    middle = page.evaluate("[stage.x, stage.y]")
    page.mouse.move(frame["x"] + 5000, frame["y"] + 5000)
    page.mouse.up()
    edge = page.evaluate("[stage.x, stage.y]")
    assert edge[0] < middle[0] < 0.5 and edge[1] < middle[1] < 0.5
    left = page.locator("img.left").bounding_box()
    assert (left["x"], left["y"]) == pytest.approx((frame["x"], frame["y"]), abs=1)
    page.locator("#zoom-box").click()
    assert page.evaluate(SCALE) > whole
    page.locator("#compare").focus()
    page.keyboard.press("0")
    assert page.evaluate(SCALE) == pytest.approx(whole)


@pytest.mark.parametrize("width", [390, 1280])
def test_a_link_leads_back_to_the_same_picture_codecs_quality_and_place(browser, page_file, width):
    with opened(browser, page_file, width=width) as page:
        assert page.evaluate(HASH) == ""
        page.locator(".thumb").nth(2).click()
        page.locator("#left-codec").select_option(label="Original")
        page.locator("#right-codec").select_option(label="WebP")
        page.locator("#quality").focus()
        page.keyboard.press("Home")
        page.locator("#zoom-box").click()
        until(page, f"{HASH}.includes('zoom=')")
        part, scale, place = page.evaluate("location.hash"), page.evaluate(SCALE), page.evaluate("[stage.x, stage.y]")
        assert "picture=coffee.png" in part and "right=webp" in part and "quality=20" in part
    with opened(browser, page_file, width=width, part=part) as page:
        assert page.locator(".thumb").nth(2).get_attribute("aria-pressed") == "true"
        assert page.locator(".tag.l").inner_text() == "Original"
        assert page.locator(".tag.r").inner_text().startswith("WebP · ")
        assert page.locator("#quality").get_attribute("aria-valuetext").startswith("Quality 20 of slim")
        assert page.evaluate(SCALE) == pytest.approx(scale, rel=0.01)
        assert page.evaluate("[stage.x, stage.y]") == pytest.approx(place, abs=0.01)
        assert page.evaluate("document.getElementById('pictures').getBoundingClientRect().top") < 200


def test_an_address_that_names_nothing_here_is_of_no_consequence(browser, page_file):
    part = "#picture=coffee.png&left=nobody&right=%20&quality=77&zoom=many&at=here&difference=x"
    with opened(browser, page_file, part=part) as page:
        assert page.locator(".tag.l").inner_text().startswith("slim")
        assert page.locator("#zooms").get_by_text("whole picture").is_visible()


BRIGHTEST = """() => {
  const canvas = document.getElementById("difference");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.reduce((most, value, i) => (i % 4 === 3 ? most : Math.max(most, value)), 0);
}"""


def test_a_table_is_copied_as_csv(browser, page_file):
    with opened(browser, page_file, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.locator(".copy[data-table=bd-table]").click()
        until(page, "document.getElementById('said').textContent.startsWith('Copied')")
        text = page.evaluate("navigator.clipboard.readText()")
        assert text.startswith("codec,mean of curves,95 % interval") and "slim,80," in text


def test_a_table_is_copied_where_there_is_no_clipboard_interface(browser, page_file):
    with opened(browser, page_file) as page:
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        page.locator(".copy[data-table=complexity-table]").click()
        until(page, "document.getElementById('said').textContent.startsWith('Copied')")
        page.evaluate("document.execCommand = () => false")
        with page.expect_download() as download:
            page.locator(".copy[data-table=settings-table]").click()
        assert download.value.suggested_filename == "settings.csv"
        assert Path(download.value.path()).read_text().startswith("codec,qualities,pictures,settings\n")


@pytest.mark.parametrize("width", [320, 360, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(browser, page_file, screenshots, width):
    phone = {"has_touch": True, "is_mobile": True} if width < 500 else {}
    with opened(browser, page_file, width=width, **phone) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for summary in page.locator("summary").all():
            summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.wait_for_timeout(300)
        page.screenshot(path=screenshots / f"report-{width}.png", full_page=True)


def test_the_least_that_there_can_be_is_a_page_without_errors(browser, tmp_path):
    report.write(bare_summary(), [], [], tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html") as page:
        assert page.evaluate("document.getElementById('curves-plot').data.length") == 1
        assert "no BD-rates" in page.locator("#bd").inner_text()
        assert "left out" in page.locator("#headline").inner_text()
        page.locator("#theme").click()
        page.set_viewport_size({"width": 700, "height": 900})
        until(page, "document.getElementById('curves-plot').layout.width < 700")


def test_a_summary_without_any_curve_is_a_page_without_errors(browser, tmp_path):
    summary = a_summary(metrics=[], bd_rate={}, anchors=[])
    report.write(summary, [], [], tmp_path / "report.html")
    context = browser.new_context()
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    assert "no curves" in page.locator("#curves").inner_text()
    context.close()
    assert said == []
