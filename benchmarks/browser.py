"""Seconds to decode and encode in a headless Chromium, beside Python on one thread, for docs/browser.md.

    make web
    python benchmarks/browser.py build/web --photos FILE [FILE …] [--json FILE]

Rounds go through all settings, so that what else the machine does hits all of them. The least of them is what counts.
"""

import argparse
import base64
import contextlib
import functools
import json
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import Browser, Page, sync_playwright

import slimcodec
from slimcodec.evaluation.photos import open_photo

ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
SETTINGS = {"Chromium, 1 thread": {}, "Chromium, 2 threads": ISOLATED}
# The seconds that a task says it took, without loading, and those until its result was there.
CALL = """async ([task, text, input]) => {
  const { call } = await import("./client.js");
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  if (task === "encode") {
    const bitmap = await createImageBitmap(new Blob([bytes]));
    const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
    context.drawImage(bitmap, 0, 0);
    const { data, width, height } = context.getImageData(0, 0, bitmap.width, bitmap.height);
    input = { ...input, pixels: data, width, height };
  }
  return (await call(task, { bytes, ...input })).seconds;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="what make web wrote")
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--model", default="slim-2k")
    parser.add_argument("--quality", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with sync_playwright() as playwright, contextlib.ExitStack() as stack:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        pages = {
            name: stack.enter_context(opened(browser, options.page, headers)) for name, headers in SETTINGS.items()
        }
        photos = [measured(path, pages, options) for path in options.photos]
    sizes = {path.name: size_mb(path) for path in sorted(options.page.iterdir())}
    command = " ".join(["python", *(Path(word).name if word.startswith("/") else word for word in sys.argv)])
    found = {"command": command, "photos": photos, "page_mb": sizes}
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


def measured(path: Path, pages: dict[str, Page], options: argparse.Namespace) -> dict:
    codec, photo = slimcodec.load(options.model), open_photo(path)
    data, png = codec.compress(photo, options.quality), BytesIO()
    photo.save(png, "PNG")
    texts = {"decode": base64.b64encode(data).decode(), "encode": base64.b64encode(png.getvalue()).decode()}
    tasks: dict[str, Callable[[], float]] = {
        "Python decode": lambda: seconds_of(lambda: np.asarray(codec.decompress(data))),
        "Python encode": lambda: seconds_of(lambda: codec.compress(photo, options.quality)),
    }
    for name, page in pages.items():
        for task, text in texts.items():
            tasks[f"{name} {task}"] = functools.partial(in_page, page, task, text, options)
    rounds = [{name: task() for name, task in tasks.items()} for _ in range(options.rounds)]
    seconds = {name: [found[name] for found in rounds] for name in tasks}
    least = {name: {"least": min(times), "median": statistics.median(times), "first": times[0]}
             for name, times in seconds.items()}  # fmt: skip
    return {"photo": path.name, "width": photo.width, "height": photo.height, "bytes": len(data), "seconds": least}


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_page(page: Page, task: str, text: str, options: argparse.Namespace) -> float:
    key = time.perf_counter()  # another picture each time: nothing is kept of the one before
    return page.evaluate(CALL, [task, text, {"quality": options.quality, "model": options.model, "key": key}])


@contextlib.contextmanager
def opened(browser: Browser, folder: Path, headers: dict[str, str]) -> Iterator[Page]:
    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    yield page
    page.close()
    server.shutdown()


def size_mb(path: Path) -> float:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return round(sum(file.stat().st_size for file in files) / 1e6, 2)


if __name__ == "__main__":
    main()
