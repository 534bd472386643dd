"""slimcodec evaluate: measure models on your photos, beside other codecs: points, BD-rates, a page."""

import argparse
from pathlib import Path
from typing import Any

from slimcodec import InvalidInput
from slimcodec.cli.options import add_verb
from slimcodec.cli.studies import add_study, extra_packages, find_rivals, measure
from slimcodec.codec.targets import checked_effort

EXAMPLES = """examples:
  slimcodec evaluate photos/ --model slim-2k --out study/
  slimcodec evaluate photos/ --model slim-2k --model small --codec jpeg,webp,avif --out study/
  slimcodec evaluate photos/ --model mine/ --codec jpeg,slim-2k --out study/
  slimcodec evaluate photos/ --model slim-2k --out study/ --codec-command 'enc {in} {out} {q}' 'dec {in} {out}' \
      --command-name mine --command-qualities 10,20,30,40
  slimcodec evaluate kodak/ --run runs/mine --metrics psnr,ms_ssim --out study/"""


def add(verbs: Any) -> None:
    verb = add_verb(
        verbs,
        "evaluate",
        run,
        help="measure models on your photos, beside other codecs: points, BD-rates, a page",
        examples=EXAMPLES,
    )
    verb.add_argument("--model", action="append", default=[], metavar="NAME", help="name or directory; may be repeated")
    verb.add_argument("--run", metavar="DIRECTORY", help="a run: its teacher, and its student after each round")
    verb.add_argument("--effort", type=int, default=0, metavar="E", help="0 (fast, default) to 10 (smaller files)")
    verb.add_argument("--main", metavar="NAME", help="what figures and page are about (default: the last student)")
    verb.add_argument("--device", default="cpu", metavar="D", help="where the networks run (default: cpu)")
    add_study(verb, "jpeg,webp", "1 to 8")


def run(options: argparse.Namespace) -> int:
    checked_effort(options.effort)
    if not options.model and not options.run:
        raise InvalidInput("name a model to evaluate, --model NAME, or a run with its rounds, --run DIRECTORY")
    with extra_packages():
        from slimcodec.evaluation.codecs import ModelCodec, with_steps
        from slimcodec.pipeline.run_directory import RunDirectory

        settings = {"effort": options.effort, "device": options.device}
        if options.qualities:
            settings["qualities"] = options.qualities
        measured = [ModelCodec.find(name, **settings) for name in options.model]
        rounds: list[str] = []
        if options.run:
            teacher, steps = RunDirectory(Path(options.run)).models()
            measured, rounds = with_steps(measured, teacher, steps, **settings)
        rivals = find_rivals(options, measured, **settings)
        return measure(options, [*measured, *rivals], rounds=rounds, main=options.main)
