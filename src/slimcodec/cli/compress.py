"""slimcodec compress: pictures → .slim."""

import argparse
from collections.abc import Callable
from typing import Any

from slimcodec.cli.files import do_each
from slimcodec.cli.options import add_files, add_max_pixels, add_model, add_verb, speed
from slimcodec.cli.plan import plan
from slimcodec.codec import targets, zoo

TARGETS = "quality", "target_bpp", "max_bytes", "target_psnr_db"
EXAMPLES = """examples:
  slimcodec compress photo.jpg                 writes photo.slim
  slimcodec compress photo.jpg small.slim -q 2
  slimcodec compress *.jpg -o slim/ --bpp 0.5 --effort 5
  slimcodec compress -r photos/ -o slim/ -j 4
  cat photo.png | slimcodec compress - - --strip > photo.slim"""


def add(verbs: Any) -> None:
    verb = add_verb(verbs, "compress", run, help="pictures → .slim", examples=EXAMPLES)
    inputs, output = "a picture of any kind that Pillow reads, - for stdin", "a .slim file, a folder, or - for stdout"
    add_files(verb, inputs, output, compresses=True)
    target = verb.add_mutually_exclusive_group()
    target.add_argument(
        "-q", "--quality", type=float, metavar="Q", help="1 (smallest) to 8 (best), fractions too; default 4"
    )
    target.add_argument("--bpp", type=float, dest="target_bpp", metavar="BPP", help="bits per pixel to aim at")
    target.add_argument("--max-bytes", type=int, metavar="N", help="the best quality that fits in so many bytes")
    target.add_argument("--psnr", type=float, dest="target_psnr_db", metavar="P", help="the PSNR to reach, in dB")
    verb.add_argument(
        "--scale",
        type=_scale,
        metavar="S",
        help="code at 1, 0.75, 0.5 or 0.25 of the width and height, or at the best of them; default 1, "
        "less only for targets below what quality 1 gives",
    )
    verb.add_argument("--effort", type=int, default=0, metavar="E", help="0 (fast, default) to 10 (smaller files)")
    verb.add_argument("--strip", action="store_true", help="leave out the colour profile, EXIF and XMP")
    add_max_pixels(verb, None, "179 million, Pillow's limit")
    add_model(verb, zoo.DEFAULT_STUDENT)


def _scale(text: str) -> float | str:
    return text if text == targets.BEST else float(text)


def run(options: argparse.Namespace) -> int:
    model = zoo.find(options.model) if options.model else zoo.default_student()
    wanted = {name: getattr(options, name) for name in TARGETS}
    targets.wish(zoo.describe(model).architecture.rungs, **wanted)  # before anything is loaded
    settings = {name: getattr(options, name) for name in ("strip", "device", "max_pixels")}
    settings |= {name: value for name, value in wanted.items() if value is not None}
    targets.quarters_of(options.scale)
    settings |= {
        "scale": options.scale,
        "effort": targets.checked_effort(options.effort),
        "measure_psnr": options.verbose,
    }
    from slimcodec import compress_file

    def work(source: Any, target: Any, progress: Callable[[float], None]) -> str:
        done = compress_file(source, target, model=model, progress=progress, **settings)
        line = f"{done.bytes:,} bytes, {done.bpp:.3f} bpp, quality {done.quality:g}"
        line += f", scale {done.scale:g}" if done.scale < 1 else ""
        return f"{line}, PSNR {done.psnr_db:.2f} dB, {speed(done)}" if options.verbose else line

    return do_each(plan(options), work, options)
