"""slimcodec decompress: .slim → pictures."""

import argparse
from typing import Any

from slimcodec.cli import arguments, jobs
from slimcodec.codec import bitstream

HELP = ".slim → pictures"
EXAMPLES = """examples:
  slimcodec decompress photo.slim photo.png
  slimcodec decompress *.slim pictures/
  slimcodec decompress huge.slim corner.png --region 0,0,640,480"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    arguments.add_files(
        verb, "a .slim file; - is stdin", "a picture of any kind that Pillow writes, a folder, or - for stdout"
    )
    verb.add_argument("--region", type=arguments.region, metavar="X,Y,W,H", help="only this part, in pixels")
    verb.add_argument(
        "--partial", action="store_true", dest="allow_partial", help="decode what there is of a truncated file"
    )
    arguments.add_max_pixels(verb, bitstream.MAX_PIXELS, "%(default)s")
    verb.add_argument(
        "--max-memory",
        type=arguments.count,
        default=bitstream.MAX_MEMORY >> 20,
        metavar="MIB",
        help="refuse what would take more, pixels included, beyond library and model (default: %(default)s)",
    )
    arguments.add_model(verb, "the installed model that made the file")


def run(options: argparse.Namespace) -> int:
    from slimcodec import decompress_file

    settings = {name: getattr(options, name) for name in ("model", "device", "max_pixels", "allow_partial")}
    settings["max_memory"] = options.max_memory << 20
    if options.region is not None:
        settings["region"] = options.region

    def work(source: Any, target: Any, progress: jobs.Progress) -> str:
        done = decompress_file(source, target, progress=progress, **settings)
        return f"{done.width}x{done.height} {done.mode}"

    return jobs.run(jobs.plan(options.inputs, options.output, ".png"), work)
