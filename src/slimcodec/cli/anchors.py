"""slimcodec anchors: measure other codecs on photos."""

import argparse

from slimcodec import InvalidInput
from slimcodec.cli import arguments, study

HELP = "measure other codecs on your photos, into the same folder as evaluate"
EXAMPLES = """examples:
  slimcodec anchors photos/ --codec jpeg,webp,jpeg2000,avif,jxl,hevc,vvc --out study/
  slimcodec anchors photos/ --codec vvc --qualities 22,27,32,37 --out study/"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    arguments.add_study(verb, "jpeg,webp,jpeg2000,avif,jxl,hevc,vvc", "a ladder for each codec")


@study.needs_evaluation()
def run(options: argparse.Namespace) -> int:
    found = study.find_anchors(options.codec)
    if options.qualities and len(found) > 1:
        raise InvalidInput(f"--qualities: each codec has a scale of its own; name one --codec, not {len(found)}")
    return study.measure(
        options, found, qualities={codec.name: options.qualities or codec.qualities for codec in found}
    )
