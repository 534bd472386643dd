"""slimcodec evaluate: measure models on photos, beside other codecs."""

import argparse

from slimcodec import InvalidInput
from slimcodec.cli import arguments, study

HELP = "measure models on your photos, beside other codecs: points, BD-rates, a page"
EXAMPLES = """examples:
  slimcodec evaluate photos/ --model slim-2k --out study/
  slimcodec evaluate photos/ --model slim-2k --model small --codec jpeg,webp,avif --out study/
  slimcodec evaluate kodak/ --run runs/mine --metrics psnr,ms_ssim --out study/"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--model", action="append", default=[], metavar="NAME", help="name or directory; may be repeated")
    verb.add_argument("--run", metavar="DIRECTORY", help="a run: its teacher, and its student after each round")
    arguments.add_effort(verb)
    verb.add_argument("--device", default="cpu", metavar="D", help="where the networks run (default: cpu)")
    arguments.add_study(verb, "jpeg,webp", "1 to 8")


@study.needs_evaluation()
def run(options: argparse.Namespace) -> int:
    if not options.model and not options.run:
        raise InvalidInput("name a model to evaluate, --model NAME, or a run with its rounds, --run DIRECTORY")
    from slimcodec.evaluation import codecs

    settings = {"effort": options.effort, "device": options.device}
    if options.qualities:
        settings["qualities"] = options.qualities
    measured = [codecs.ModelCodec.find(name, **settings) for name in options.model]
    rounds = []
    if options.run:
        measured, rounds = codecs.with_run(measured, options.run, **settings)
    return study.measure(options, [*measured, *study.find_anchors(options.codec)], rounds=rounds)
