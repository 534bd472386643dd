"""The page in a real Chromium, opened from disk: everything on it works, and it asks for nothing.

It needs a Chromium on the PATH (Debian and Ubuntu: apt install chromium) and Playwright, which drives it. Screenshots
at desktop and phone width are left in the test's folder, or in $SLIMCODEC_SCREENSHOTS.
"""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from report_parts import PillowFile, a_summary, bare_summary, make_photos, make_points

from slimcodec.report import page as report
from slimcodec.report.viewer import views

pytestmark = pytest.mark.slow

QUIET = ("background-networking", "component-update", "sync", "gpu", "quic", "default-apps", "extensions")
ARGUMENTS = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]
CLIP = "getComputedStyle(document.querySelector('.compare .left')).clipPath"
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
def opened(browser, path, width=1280, **settings):
    """The page in a window; at the end nothing was said to the console, and nothing but the file was asked for."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    until(page, "document.getElementById('curves-plot')?.data?.length > 0")
    yield page
    context.close()
    assert said == []
    assert [url[:80] for url in asked if not url.startswith(("data:", "blob:")) and url != path.as_uri()] == []


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
    handle = page.get_by_role("slider")
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


def test_a_finger_moves_the_slider(browser, page_file):
    with opened(browser, page_file, width=390, has_touch=True, is_mobile=True) as page:
        page.locator("#compare").scroll_into_view_if_needed()
        frame = page.locator("#compare").bounding_box()
        page.touchscreen.tap(frame["x"] + 0.25 * frame["width"], frame["y"] + 30)
        assert page.get_by_role("slider").get_attribute("aria-valuenow") == "25"


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
    page.locator("#legend summary").click()
    page.locator(".key[data-codec=elic]").click()
    assert page.evaluate(VISIBLE, "ELIC") is True


def test_the_metric_and_the_rate_axis_switch(page):
    title = "document.getElementById('curves-plot').layout.yaxis.title.text"
    assert page.evaluate(title) == "PSNR RGB (dB)"
    page.locator("#metrics button[data-value=aad]").click()
    assert page.evaluate(title) == "Average absolute difference"
    page.get_by_label("logarithmic rate").check()
    assert page.evaluate("document.getElementById('curves-plot').layout.xaxis.type") == "log"


def test_dark_follows_the_system_and_the_button(browser, page_file):
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "document.getElementById('curves-plot').layout.font.color"
    with opened(browser, page_file, color_scheme="dark") as page:
        dark, dark_ink = page.evaluate(ground), page.evaluate(ink)
        page.get_by_role("button", name="Dark theme").click()
        assert page.evaluate(ground) != dark and page.evaluate(ink) != dark_ink
        page.get_by_role("button", name="Dark theme").click()
        assert page.evaluate(ground) == dark and page.evaluate(ink) == dark_ink


def test_the_viewer_changes_picture_codec_magnification_and_difference(page):
    page.locator(".thumb").nth(1).click()
    assert "chelsea.png" in page.locator(".shown p").inner_text()
    left = page.locator(".compare .left")
    source = left.get_attribute("src")
    page.locator("#left-codec").select_option(label="Original")
    assert left.get_attribute("src") != source
    width = page.locator("#compare").bounding_box()["width"]
    page.locator("#zooms button[data-value='4']").click()
    assert page.locator("#compare").bounding_box()["width"] == 1024 and width == 512
    assert page.evaluate("getComputedStyle(document.querySelector('.compare .left')).imageRendering") == "pixelated"
    for codec, expected in (("Original", False), ("JPEG", True)):
        page.locator("#right-codec").select_option(label=codec)
        text = f"Difference of Original and {codec}, amplified 8 times"
        until(page, "text => document.getElementById('difference').ariaLabel === text", text)
        assert (page.evaluate(BRIGHTEST) > 0) == expected


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
        page.get_by_role("button", name="Dark theme").click()
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
