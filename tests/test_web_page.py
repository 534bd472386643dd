"""The page in a real Chromium, from `python -m http.server`: it decodes what Python does, and asks nobody else.

It needs a Chromium on the PATH, Playwright and `npm ci --prefix web` (make test-slow does the last). Screenshots are
left in the test's folder, or in $SLIMCODEC_SCREENSHOTS.
"""

import base64
import contextlib
import io
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from test_browser import browser  # noqa: F401 - a fixture
from test_web_codec import dependent, several, twice_as_large  # noqa: F401 - fixtures

from slimcodec.codec import bitstream, inference, maps

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden"
OF_TESTS = "model", "corrected-model", "integer-model"
MODELS = {"slim-2k": "slim-2k", "slim-2k-exact": "slim-2k-exact"} | {name: GOLDEN / name for name in OF_TESTS}
FILES = ["picture", "tiled", "corrected", "corrected-tiled", "slim-2k"]
DONE = "document.getElementById('stop').hidden && document.getElementById('said').textContent !== ''"
# What a task of the worker gives: arrays in base64, or the line that it ends with.
CALL = """async ([task, input]) => {
  const { call } = await import("./client.js");
  const encoded = (bytes) => {
    let text = "";
    for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
    return btoa(text);
  };
  const decoded = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  for (const name of ["bytes", "pixels"]) if (name in input) input[name] = decoded(input[name]);
  try {
    const found = await call(task, input);
    return Object.fromEntries(Object.entries(found).map(([name, value]) =>
      [name, ArrayBuffer.isView(value) ? encoded(new Uint8Array(value.buffer)) : value]));
  } catch (error) {
    return { error: error.message };
  }
}"""

pytestmark = pytest.mark.slow


def assembled(folder, *names):
    command = [sys.executable, ROOT / "web/assemble.py", folder, *names]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def address(tmp_path_factory, dependent, several):  # noqa: F811
    """Of the page with the models of the tests and shipped students."""
    folder = tmp_path_factory.mktemp("web")
    done = assembled(folder, *MODELS.values(), dependent[0], several)
    assert done.returncode == 0, done.stderr
    server = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", folder, "0"]
    with subprocess.Popen(server, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield re.search(r"http://[\d.:]+/", process.stdout.readline())[0]
        process.terminate()


@contextlib.contextmanager
def opened(browser, address, width=1280, **settings):  # noqa: F811
    """The page in a window; in the end nothing was complained of, and nothing was asked of anyone else."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    context.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith((address, "blob:", "data:"))] == []


@pytest.fixture(scope="module")
def page(browser, address):  # noqa: F811
    with opened(browser, address) as page:
        yield page


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory):
    folder = Path(os.environ.get("SLIMCODEC_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def call(page, task, data=None, **given):
    text = {} if data is None else {"bytes": base64.b64encode(data).decode()}
    return page.evaluate(CALL, [task, given | text])


def array(text, dtype=np.uint8):
    return np.frombuffer(base64.b64decode(text), dtype)


def decoded(page, data):
    found = call(page, "decode", data)
    return array(found["pixels"]).reshape(found["height"], found["width"], 4)


def photo_file(folder, height=200, width=300, kind="png"):
    path = folder / f"photo.{kind}"
    Image.fromarray(skimage.data.astronaut()[:height, :width]).save(path)
    return path


def wait(page, seconds=60):
    for _ in range(4 * seconds):
        page.wait_for_timeout(250)
        if page.evaluate(DONE):
            return page.inner_text("#said")
    raise AssertionError(f"not within {seconds} seconds")


def test_two_models_of_one_name_are_refused(tmp_path):
    done = assembled(tmp_path / "page", GOLDEN / "model", GOLDEN / "model")
    assert done.returncode == 1 and done.stderr == "two of the models have one name; rename a directory\n"


@pytest.mark.parametrize("name", FILES)
def test_golden_files_decode_to_the_same_integers_and_pixels(page, name):
    data, stored = (GOLDEN / f"{name}.slim").read_bytes(), np.load(GOLDEN / f"{name}.npz")
    symbols = call(page, "symbols", data)
    for part, dtype in (("z", np.int8), ("index", np.uint8), ("r", np.int16)):
        assert np.array_equal(array(symbols[part], dtype).reshape(stored[part].shape), stored[part])
    expected = stored["pixels"]
    difference = decoded(page, data)[::5, ::5, : expected.shape[2]].astype(int) - expected
    assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.01


@pytest.mark.parametrize(("model", "size", "settings"), [
    ("corrected-model", (1000, 1700), {"quality": 1.7}),
    ("corrected-model", (1700, 700), {"quality": 1, "tile": 5}),
    ("slim-2k", (100, 1700), {"quality": 3}),
])  # fmt: skip
def test_pictures_in_pieces_have_no_seams(page, model, size, settings):
    codec = inference.load(MODELS[model])
    picture = np.tile(skimage.data.astronaut(), (4, 4, 1))[: size[0], : size[1]]
    data = codec.compress(picture, **settings)
    difference = decoded(page, data)[:, :, :3].astype(int) - np.asarray(codec.decompress(data))
    assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.01


@pytest.mark.parametrize(("model", "quality"), [("integer-model", 6.25), ("slim-2k-exact", 1), ("slim-2k-exact", 5.5)])
def test_a_decoder_in_integers_makes_the_same_pixels(page, model, quality):
    """In one piece with a correction, and in several with several."""
    codec, picture = inference.load(MODELS[model]), np.tile(skimage.data.astronaut(), (1, 4, 1))
    for width in (500, 1600):
        data = codec.compress(picture[:90, :width], quality)
        contents = bitstream.unpack(data)
        assert contents.correction and (contents.correction_map is not None) == (width == 1600)
        assert bool(contents.filtering) == (model != "integer-model")
        assert np.array_equal(decoded(page, data)[:, :, :3], np.asarray(codec.decompress(data)))


@pytest.mark.parametrize("grey", [False, True])
def test_a_picture_that_is_coded_smaller_is_shown_as_large_as_it_says(page, grey, tmp_path):
    codec, (height, width) = inference.load(GOLDEN / "integer-model"), (130, 150)
    picture = Image.fromarray(skimage.data.astronaut()[:height, :width])
    (tmp_path / "file").write_bytes(codec.compress(picture))
    larger = codec.decompress((tmp_path / "file").read_bytes()).resize((300, 260), Image.Resampling.LANCZOS)
    data = bytearray(twice_as_large(tmp_path / "file"))
    data[5] |= grey
    struct.pack_into("<I", data, 21, zlib.crc32(data[25:], zlib.crc32(data[:21])))
    colours = np.asarray(larger).astype(int)
    expected = np.repeat((colours.sum(axis=2, keepdims=True) + 1) // 3, 3, axis=2) if grey else colours
    assert np.array_equal(decoded(page, bytes(data))[:, :, :3], expected)


@pytest.mark.parametrize(("size", "tile"), [((200, 300), 0), ((90, 1700), 0), ((140, 130), 1)])
def test_every_cell_is_made_by_its_specialist(page, several, size, tile):  # noqa: F811
    codec = inference.load(several, backend="torch")
    picture = np.tile(skimage.data.astronaut(), (1, 4, 1))[: size[0], : size[1]]
    data = codec.compress(picture, 3, tile=tile)
    contents = bitstream.unpack(data)
    assert np.unique(maps.decode(contents.cell_map, contents.header.cells, 3)).size > 1
    difference = decoded(page, data)[:, :, :3].astype(int) - np.asarray(codec.decompress(data))
    assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.01


def test_models_of_specialists_do_not_compress_on_the_page(page):
    given = {"pixels": base64.b64encode(bytes(4 * 64 * 64)).decode(), "width": 64, "height": 64, "quality": 2}
    error = call(page, "encode", key=0, model="several", **given)["error"]
    assert error == "Model several has specialists: this page decodes its files, and slimcodec makes them."


def test_grey_and_transparent_pictures(page):
    codec = inference.load(GOLDEN / "model")
    grey = skimage.data.astronaut()[:90, :70, 1]
    alpha = np.linspace(0, 255, grey.size).astype(np.uint8).reshape(grey.shape)
    data = codec.compress(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]), 2)
    expected = np.asarray(codec.decompress(data).convert("RGBA")).astype(int)
    assert np.abs(decoded(page, data) - expected).max() <= 1


TOLD = {"model": 1.25, "corrected-model": 2, "dependent": 1.75, "slim-2k": 4, "integer-model": 3, "slim-2k-exact": 5}


@pytest.mark.parametrize(("name", "quality"), TOLD.items())
def test_what_the_page_compresses_python_decompresses_to_the_page_s_picture(page, dependent, name, quality):  # noqa: F811
    codec = inference.load(dependent[0] if name == "dependent" else MODELS[name])
    picture = skimage.data.astronaut()[:150, :210]
    rgba = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    pixels = base64.b64encode(rgba.tobytes()).decode()
    found = call(page, "encode", key=id(rgba), pixels=pixels, width=210, height=150, quality=quality, model=name)
    data, shown = array(found["file"]).tobytes(), array(found["pixels"]).reshape(150, 210, 4)[:, :, :3]
    difference = np.asarray(codec.decompress(data)).astype(int) - shown
    exact = codec.transforms.architecture.in_integers
    assert np.abs(difference).max() <= (0 if exact else 1) and (difference != 0).mean() < 0.01
    assert len(data) == pytest.approx(len(codec.compress(picture, quality)), rel=0.03, abs=80)


def damaged():
    """Name → bytes, and a word of the line that is expected."""
    data = (GOLDEN / "picture.slim").read_bytes()
    contents = bitstream.unpack(data)
    header, streams = contents.header, contents.streams

    def packed(streams=streams, **changes):
        return bitstream.join(header._replace(**changes), streams, {})

    flipped = bytearray(data)
    flipped[100] ^= 4
    bomb = zlib.compress(bytes(50_000_000))
    return {
        "empty": (b"", "not a .slim"),
        "four bytes": (b"SLIM", "truncated"),
        "truncated": (data[:-9], "truncated"),
        "a byte too many": (data + b"\0", "too many"),
        "a flipped bit": (bytes(flipped), "checksum"),
        "another version": (data[:4] + b"\x09" + data[5:], "version"),
        "another model": (packed(model_hash=b"12345678"), "model"),
        "no such quality": (packed(quality=700), "quality"),
        "larger than allowed": (packed(width=65535, height=65535), "million"),
        "as large as allowed, of nothing": (packed([bytes(16)], width=8000, height=4900), "state"),
        "a million tiles": (packed([b""] * 2**10, width=2048, height=2048, tile=1)[:60], "truncated"),
        "streams of other symbols": (packed([streams[0][:16] + streams[0][16:][::-1]]), "damaged"),
        "alpha that never ends": (bitstream.join(header, streams, {"alpha": bomb}), "alpha"),
    }


@pytest.mark.parametrize("name", damaged())
def test_hostile_files_end_in_one_line(page, name, tmp_path):
    data, word = damaged()[name]
    error = call(page, "decode", data)["error"]
    assert word in error and "\n" not in error and "failed" not in error


def test_a_hostile_file_is_told_on_the_page_and_the_next_one_is_shown(page, tmp_path):
    (tmp_path / "bad.slim").write_bytes(damaged()["a flipped bit"][0])
    page.set_input_files("#choose", tmp_path / "bad.slim")
    assert "checksum" in wait(page) and page.locator("#said.wrong").count() == 1
    (tmp_path / "text.txt").write_text("no picture")
    page.set_input_files("#choose", tmp_path / "text.txt")
    assert "text.txt" in wait(page) and page.locator("#said.wrong").count() == 1
    page.set_input_files("#choose", GOLDEN / "slim-2k.slim")
    assert "256 × 192" in wait(page) and page.locator("#said.wrong").count() == 0


def test_a_photo_is_compressed_compared_and_saved(page, tmp_path):
    page.set_input_files("#choose", photo_file(tmp_path, kind="webp"))
    assert "300 × 200" in wait(page)
    with page.expect_download() as download:
        page.locator("#save-slim").click()
    data = Path(download.value.path()).read_bytes()
    assert np.asarray(inference.load("slim-2k").decompress(data)).shape == (200, 300, 3)
    cells = [row.locator("td").all_inner_texts() for row in page.locator("#facts-rows tr").all()]
    assert cells[0][0] == f"{len(data):,}" and int(cells[0][1].replace(",", "")) <= len(data)
    psnr_db = [float(cell.removesuffix(" dB")) for cell in cells[3]]
    assert psnr_db[0] > psnr_db[1] > 20
    for rival in ("image/webp", "original"):
        page.locator("#rival").select_option(rival)
        wait(page)
    assert page.inner_text("#right-name") == "Original"
    page.locator("#quality").fill("8")
    wait(page)
    assert int(page.locator("#facts-rows td").first.inner_text().replace(",", "")) > len(data)
    page.locator("#split").fill("0")
    clip = page.evaluate("document.getElementById('left').style.clipPath")
    width = page.evaluate("document.getElementById('stack').clientWidth")
    assert clip == f"inset(0px {width}px 0px 0px)"


def test_the_page_says_at_what_size_a_picture_is_coded(page, tmp_path):
    (tmp_path / "larger.slim").write_bytes(twice_as_large(GOLDEN / "integer.slim"))
    page.set_input_files("#choose", tmp_path / "larger.slim")
    assert wait(page) == "larger: 260 × 300 pixels, coded as 130 × 150, model integer-model."


def test_a_file_beside_its_original(page, tmp_path):
    photo = photo_file(tmp_path)
    (tmp_path / "photo.slim").write_bytes(inference.load("slim-2k").compress(Image.open(photo)))
    page.set_input_files("#choose", [photo, tmp_path / "photo.slim"])
    wait(page)
    assert "dB" in page.inner_text("#facts-rows") and page.inner_text("#note") == ""


def test_a_saved_picture_keeps_its_colour_profile(page, tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    codec = inference.load("slim-2k")
    picture = Image.fromarray(skimage.data.astronaut()[:70, :80])
    picture.info["icc_profile"] = profile
    (tmp_path / "p.slim").write_bytes(codec.compress(picture))
    page.set_input_files("#choose", tmp_path / "p.slim")
    wait(page)
    with page.expect_download() as download:
        page.locator("#save-png").click()
    saved = Image.open(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert saved.info["icc_profile"] == profile and saved.size == (80, 70)
    expected = np.asarray(codec.decompress((tmp_path / "p.slim").read_bytes())).astype(int)
    assert np.abs(np.asarray(saved.convert("RGB")) - expected).max() <= 1


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark"), (320, "light")])
def test_nothing_is_wider_than_the_window(browser, address, screenshots, width, scheme, tmp_path):  # noqa: F811
    phone = {"has_touch": True, "is_mobile": True} if width < 500 else {}
    with opened(browser, address, width=width, color_scheme=scheme, **phone) as page:
        page.set_input_files("#choose", photo_file(tmp_path))
        wait(page)
        for zoom in ("fit", "4"):
            page.locator("#zoom").select_option(zoom)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("#zoom").select_option("fit")
        page.screenshot(path=screenshots / f"web-{width}-{scheme}.png", full_page=True)


def test_a_gpu_gives_the_same_pixels(browser, address):  # noqa: F811
    """One that the processor stands in for: there is no other here."""
    stand_in = ("--use-webgpu-adapter=swiftshader", "--use-vulkan=swiftshader", "--enable-features=Vulkan,WebGPU")
    arguments = ["--no-sandbox", "--enable-unsafe-webgpu", "--ignore-gpu-blocklist", *stand_in]
    with_gpu = browser.browser_type.launch(executable_path=shutil.which("chromium"), args=arguments)
    page = with_gpu.new_page()
    page.goto(f"{address}?runtime=webgpu")
    found, exact = (call(page, "decode", (GOLDEN / f"{name}.slim").read_bytes()) for name in ("corrected", "integer"))
    with_gpu.close()
    assert found["runtime"] == exact["runtime"] == "webgpu"
    pixels = array(found["pixels"]).reshape(160, 230, 4)[::5, ::5, :3].astype(int)
    assert np.abs(pixels - np.load(GOLDEN / "corrected.npz")["pixels"]).max() <= 1
    expected = inference.load(GOLDEN / "integer-model").decompress((GOLDEN / "integer.slim").read_bytes())
    pixels = array(exact["pixels"]).reshape(expected.height, expected.width, 4)
    assert np.array_equal(pixels[:, :, :3], np.asarray(expected))


def test_work_that_takes_too_long_is_given_up(page, tmp_path):
    page.set_input_files("#choose", photo_file(tmp_path, 512, 512))
    page.locator("#stop").click()
    assert wait(page) == "Stopped."
    page.set_input_files("#choose", GOLDEN / "slim-2k.slim")
    assert "256 × 192" in wait(page)
