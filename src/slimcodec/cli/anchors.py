"""slimcodec anchors: measure other codecs on your photos, into the same folder as evaluate."""

import argparse
from typing import Any

from slimcodec import InvalidInput
from slimcodec.cli.options import add_verb
from slimcodec.cli.studies import add_study, extra_packages, find_rivals, measure

EXAMPLES = """examples:
  slimcodec anchors photos/ --codec jpeg,webp,jpeg2000,avif,jxl,hevc,vvc --out study/
  slimcodec anchors photos/ --codec vvc --qualities 22,27,32,37 --out study/"""


def add(verbs: Any) -> None:
    verb = add_verb(
        verbs,
        "anchors",
        run,
        help="measure other codecs on your photos, into the same folder as evaluate",
        examples=EXAMPLES,
    )
    add_study(verb, "jpeg,webp,jpeg2000,avif,jxl,hevc,vvc", "a ladder for each codec")


def run(options: argparse.Namespace) -> int:
    with extra_packages():
        found = find_rivals(options)
        if options.qualities and len(found) > 1:
            raise InvalidInput(f"--qualities: each codec has a scale of its own; name one --codec, not {len(found)}")
        return measure(options, found, qualities={codec.name: options.qualities or codec.qualities for codec in found})
