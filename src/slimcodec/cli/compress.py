"""slimcodec compress: pictures → .slim."""

import argparse
from typing import Any

from slimcodec.cli import arguments, jobs
from slimcodec.codec import bitstream, zoo

HELP = "pictures → .slim"
EXAMPLES = """examples:
  slimcodec compress photo.jpg photo.slim -q 5
  slimcodec compress *.jpg slim/ --bpp 0.5 --effort 5
  cat photo.png | slimcodec compress - - --strip > photo.slim"""
SETTINGS = "effort", "strip", "device", "max_pixels"
TARGETS = "quality", "target_bpp", "max_bytes", "target_psnr_db"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    arguments.add_files(
        verb, "a picture of any kind that Pillow reads; - is stdin", "a .slim file, a folder, or - for stdout"
    )
    target = verb.add_mutually_exclusive_group()
    target.add_argument(
        "-q", "--quality", type=float, metavar="Q", help="1 (smallest) to 8 (best), fractions too; default 4"
    )
    target.add_argument("--bpp", type=float, dest="target_bpp", metavar="BPP", help="bits per pixel to aim at")
    target.add_argument("--max-bytes", type=int, metavar="N", help="the best quality that fits in so many bytes")
    target.add_argument("--psnr", type=float, dest="target_psnr_db", metavar="P", help="the PSNR to reach, in dB")
    arguments.add_effort(verb)
    verb.add_argument("--strip", action="store_true", help="leave out the colour profile, EXIF and XMP")
    arguments.add_max_pixels(verb, None, "179 million, Pillow's limit")
    arguments.add_model(verb, "the only student there is")


def run(options: argparse.Namespace) -> int:
    from slimcodec import compress_file

    model = options.model or zoo.default_student()
    settings = {name: getattr(options, name) for name in SETTINGS}
    settings |= {name: getattr(options, name) for name in TARGETS if getattr(options, name) is not None}

    def work(source: Any, target: Any, progress: jobs.Progress) -> str:
        done = compress_file(source, target, model=model, progress=progress, **settings)
        return f"{done.bytes:,} bytes, {done.bpp:.3f} bpp, quality {done.quality:g}"

    return jobs.run(jobs.plan(options.inputs, options.output, bitstream.EXTENSION), work)
