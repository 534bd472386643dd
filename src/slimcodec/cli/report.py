"""slimcodec report: draw the page and the figures of a study anew."""

import argparse
from pathlib import Path

from slimcodec.cli import streams
from slimcodec.cli.study import needs_evaluation

HELP = "draw the page and the figures of a study anew"
EXAMPLES = """examples:
  slimcodec report study/
  slimcodec report study/ --data photos/
  slimcodec report study/ --figures paper/figures"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("out", metavar="DIR", help="what evaluate or anchors wrote")
    verb.add_argument("--data", metavar="DATA", help="the photos, for the pictures on the page")
    verb.add_argument("--figures", metavar="FOLDER", help="where the figures go (default: DIR/figures)")


@needs_evaluation()
def run(options: argparse.Namespace) -> int:
    from slimcodec.evaluation import points, study

    out = Path(options.out)
    photos = points.find_photos(options.data) if options.data else []
    study.draw(out, photos, figures_folder=Path(options.figures) if options.figures else None)
    streams.show(f"{out / study.PAGE}, and the figures in {options.figures or out / study.FIGURES}")
    return 0
