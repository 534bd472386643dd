"""slimcodec decompress: .slim → pictures."""

import argparse
from collections.abc import Callable
from typing import Any

from slimcodec.cli.files import do_each
from slimcodec.cli.options import add_files, add_max_pixels, add_model, add_verb, count, region, speed
from slimcodec.cli.plan import plan
from slimcodec.codec import bitstream

EXAMPLES = """examples:
  slimcodec decompress photo.slim              writes photo.png
  slimcodec decompress photo.slim photo.webp   without loss; photo.jpg at quality 95
  slimcodec decompress -r slim/ -o pictures/
  slimcodec decompress huge.slim corner.png --region 0,0,640,480"""


def add(verbs: Any) -> None:
    verb = add_verb(verbs, "decompress", run, help=".slim → pictures", examples=EXAMPLES)
    inputs, output = "a .slim file, - for stdin", "a picture of any kind that Pillow writes, a folder, or - for stdout"
    add_files(verb, inputs, output, compresses=False)
    verb.add_argument("--region", type=region, metavar="X,Y,W,H", help="only this part, in pixels")
    verb.add_argument(
        "--partial", action="store_true", dest="allow_partial", help="decode what there is of a truncated file"
    )
    add_max_pixels(verb, bitstream.MAX_PIXELS, "%(default)s")
    verb.add_argument(
        "--max-memory",
        type=count,
        default=bitstream.MAX_MEMORY >> 20,
        metavar="MIB",
        help="refuse what would take more, pixels included, beyond library and model (default: %(default)s)",
    )
    add_model(verb, "the installed model that made the file")


def run(options: argparse.Namespace) -> int:
    from slimcodec import decompress_file

    settings = {name: getattr(options, name) for name in ("model", "device", "max_pixels", "allow_partial")}
    settings["max_memory"] = options.max_memory << 20
    if options.region is not None:
        settings["region"] = options.region

    def work(source: Any, target: Any, progress: Callable[[float], None]) -> str:
        done = decompress_file(source, target, progress=progress, **settings)
        line = f"{done.width}x{done.height} {done.mode}"
        return f"{line}, {speed(done)}" if options.verbose else line

    return do_each(plan(options), work, options)
