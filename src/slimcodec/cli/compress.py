"""slimcodec compress: pictures → .slim."""

import argparse
from collections.abc import Callable
from typing import Any

from slimcodec.cli.files import do_each, plan
from slimcodec.cli.options import add_files, add_max_pixels, add_model, add_verb
from slimcodec.codec import bitstream, zoo

EXAMPLES = """examples:
  slimcodec compress photo.jpg photo.slim -q 5
  slimcodec compress *.jpg slim/ --bpp 0.5 --effort 5
  cat photo.png | slimcodec compress - - --strip > photo.slim"""


def add(verbs: Any) -> None:
    verb = add_verb(verbs, "compress", run, help="pictures → .slim", examples=EXAMPLES)
    add_files(verb, "a picture of any kind that Pillow reads; - is stdin", "a .slim file, a folder, or - for stdout")
    target = verb.add_mutually_exclusive_group()
    target.add_argument(
        "-q", "--quality", type=float, metavar="Q", help="1 (smallest) to 8 (best), fractions too; default 4"
    )
    target.add_argument("--bpp", type=float, dest="target_bpp", metavar="BPP", help="bits per pixel to aim at")
    target.add_argument("--max-bytes", type=int, metavar="N", help="the best quality that fits in so many bytes")
    target.add_argument("--psnr", type=float, dest="target_psnr_db", metavar="P", help="the PSNR to reach, in dB")
    verb.add_argument("--effort", type=int, default=0, metavar="E", help="0 (fast, default) to 10 (smaller files)")
    verb.add_argument("--strip", action="store_true", help="leave out the colour profile, EXIF and XMP")
    add_max_pixels(verb, None, "179 million, Pillow's limit")
    add_model(verb, "the only student there is")


def run(options: argparse.Namespace) -> int:
    from slimcodec import compress_file

    model = options.model or zoo.default_student()
    settings = {name: getattr(options, name) for name in ("effort", "strip", "device", "max_pixels")}
    targets = {name: getattr(options, name) for name in ("quality", "target_bpp", "max_bytes", "target_psnr_db")}
    settings |= {name: value for name, value in targets.items() if value is not None}

    def work(source: Any, target: Any, progress: Callable[[float], None]) -> str:
        done = compress_file(source, target, model=model, progress=progress, **settings)
        return f"{done.bytes:,} bytes, {done.bpp:.3f} bpp, quality {done.quality:g}"

    return do_each(plan(options.inputs, options.output, bitstream.EXTENSION), work)
