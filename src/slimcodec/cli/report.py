"""slimcodec report: draw the page and the figures of a study anew."""

import argparse
from pathlib import Path
from typing import Any

from slimcodec.cli.options import add_verb, count
from slimcodec.cli.streams import write
from slimcodec.cli.studies import extra_packages

EXAMPLES = """examples:
  slimcodec report study/
  slimcodec report study/ --data photos/
  slimcodec report study/ --figures paper/figures"""


def add(verbs: Any) -> None:
    verb = add_verb(verbs, "report", run, help="draw the page and the figures of a study anew", examples=EXAMPLES)
    verb.add_argument("out", metavar="DIR", help="what evaluate or anchors wrote")
    verb.add_argument("--data", metavar="DATA", help="the photos, to choose pictures for the page anew")
    verb.add_argument("--pictures", type=count, default=6, metavar="N", help="of them (default: %(default)s)")
    verb.add_argument("--figures", metavar="FOLDER", help="where the figures go (default: DIR/figures)")


def run(options: argparse.Namespace) -> int:
    with extra_packages():
        from slimcodec.evaluation.photos import find_photos
        from slimcodec.report import study

        out = Path(options.out)
        photos = find_photos(options.data) if options.data else []
        figures = Path(options.figures) if options.figures else None
        study.draw(out, photos, figures_folder=figures, pictures=options.pictures)
        write(f"{out / study.PAGE}, and the figures in {options.figures or out / study.FIGURES}")
        return 0
