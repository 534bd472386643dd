"""Short, equal trainings that answer one question each: docs/ablations.md has what they say.

    python benchmarks/ablations.py STUDY data.root=PHOTOS data.validation_root=OTHERS

Every arm is trained through run.py's own stages and measured on validation crops (estimated bits); the result goes to
results/ablations/STUDY.json, of which benchmarks/tables.py makes a table. What is complete in runs/ablations is not
trained again. What follows the study's name overrides the configuration of every arm. --only ARM trains one arm.
"""

import argparse
import json
import re
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from slimcodec.codec import zoo
from slimcodec.codec.atomic import write_text
from slimcodec.pipeline import measuring, stages
from slimcodec.pipeline.checks import checked

ROOT = Path(__file__).resolve().parents[1]
RESULTS, RUNS = ROOT / "results" / "ablations", ROOT / "runs" / "ablations"


class Study(NamedTuple):
    """Arms by name, each a list of overrides on `common`; the first is what the others are compared with."""

    common: tuple[str, ...]
    arms: dict[str, list[str]]


MEASURED = ("experiment=flagship", "validation.limit=12")


def _trained(stage: str, steps: int) -> list[str]:
    """One epoch: nothing is measured before the end."""
    return [f"{stage}.training.steps={steps}", f"{stage}.training.steps_per_epoch={steps}"]


def _g_s(*levels: tuple[int, int, tuple[int, ...]], kind: str = "depthwise") -> list[str]:
    """Levels of blocks of a kind: scale, channels, hidden channels of each block."""
    written = [
        f"{{scale:{scale},channels:{channels},blocks:[{','.join(f'{{kind:{kind},hidden:{h}}}' for h in hidden)}]}}"
        for scale, channels, hidden in levels
    ]
    return [f"student.architecture.g_s=[{','.join(written)}]"]


# For a processor without bfloat16, and little time; an encoder that is inherited stays as it is.
SHORT = (
    "trainer=cpu",
    "student.training.optimizer=adam",
    "data.limit=128",
    "validation.limit=6",
    "student.training.crop=128",
    "distill.freeze_share=1",
)
AT_2000 = _g_s((16, 224, (112,)), (8, 88, (96,)))  # with the teacher's entropy model, which a student then inherits
OF_SMALL = ["teacher.load=small", *AT_2000]
OF_LARGE = [  # what experiment=teacher_from_slim left; g_s and the entropy model have slim-2k's widths
    "teacher.load=runs/large/finished",
    "student.architecture.h_scale=[64,48,52]",
    "student.architecture.h_mean=[44,32,44]",
    "student.architecture.context=[32,32,32,32]",
    *_g_s((16, 272, (72, 72)), (8, 104, (56, 64))),
]
STUDIES = {
    # What a teacher needs in order to learn fast.
    "teacher": Study(
        ("stages=[teacher]", *_trained("teacher", 300)),
        {
            "SOAP, bfloat16, M = 320, four stages": [],
            "Adam, learning rate 5e-4": ["teacher.training.optimizer=adam", "teacher.training.learning_rate=5e-4"],
            "float32": ["trainer=cpu"],
            "M = 192": ["teacher.architecture.latent_channels=192"],
            "two stages": ["teacher.architecture.stages=[[0,3],[1,2]]", "teacher.architecture.context=[128,128]"],
            "no context": ["teacher.architecture.stages=[[0,1,2,3]]", "teacher.architecture.context=[128]"],
        },
    ),
    # What g_s to spend 1,300 MAC/pixel on; encoder and entropy model stay as the teacher's.
    "synthesis": Study(
        ("stages=[distill]", "teacher.load=small", "distill.freeze_share=1", *_trained("student", 200)),
        {
            "1/16 and 1/8, 1×1 head": AT_2000,
            "1/16, 1/8 and 1/4, 1×1 head": _g_s((16, 208, (96,)), (8, 72, (72,)), (4, 32, (56,))),
        },
    ),
    # Which blocks to spend them on: each arm has as many hidden channels as the operations of the first pay for.
    "blocks": Study(
        ("stages=[distill]", "teacher.load=small", "distill=none", *SHORT, *_trained("student", 100)),
        {
            "depthwise 3×3 between 1×1 (MobileNet)": AT_2000,
            "the same, 1×1 in two groups, shuffled (ShuffleNet)": _g_s(
                (16, 224, (220,)), (8, 88, (184,)), kind="shuffle"
            ),
            "two full 3×3": _g_s((16, 224, (13,)), (8, 88, (11,)), kind="residual"),
        },
    ),
    # What a teacher is worth as one. A student has its encoder and its entropy model; g_s alone is new.
    "teachers": Study(
        ("stages=[distill]", *SHORT, *_trained("student", 50)),
        {
            "large, no distillation": [*OF_LARGE, "distill=none"],
            "large, everything": OF_LARGE,
            "small, no distillation": [*OF_SMALL, "distill=none"],
            "small, everything": OF_SMALL,
            "large, no features": [*OF_LARGE, "distill.weights.decoder=0", "distill.weights.hyper=0"],
            "large, no distributions": [*OF_LARGE, "distill.weights.latent=0", "distill.weights.hyper_latent=0"],
            "large, no output": [*OF_LARGE, "distill.weights.output=0"],
        },
    ),
    # What a decoder of 2,000 MAC/pixel should spend them on, from random weights: for a GPU, see docs/flagship.md.
    "shape": Study(
        ("stages=[teacher]", "teacher=shape", *_trained("teacher", 7000)),
        {
            "today's shape": [],
            "half in the entropy model": ["architecture@teacher.architecture=entropy_2k"],
            "a renderer at 1/4, modulated from 1/16": ["architecture@teacher.architecture=renderer_2k"],
        },
    ),
    # What distillation, the inherited encoder and pruning are worth, at a quarter of the flagship's steps.
    "controls": Study(
        (
            "stages=[distill,prune]",
            "teacher.load=small",
            "prune.shrink=0.75",
            "prune.distill_weights=null",
            *_trained("student", 400),
            *_trained("prune", 134),
        ),
        {
            "distilled, inherited, pruned": [],
            "distilled before the rounds alone": ["prune.distill_weights={}"],
            "without distillation": ["distill=none"],
            "without the teacher's encoder": ["student.inherit_encoder=false"],
            "pruned without floors for the trunk": ["prune.floors={latent:48,hyper:24,g_s.0:8,g_s.1:8}"],
            "built at 2,000, never pruned": ["stages=[distill]", *_trained("student", 802), *AT_2000],
        },
    ),
}


def main() -> None:
    options, overrides = _options()
    study = STUDIES[options.study]
    chosen = {options.only: study.arms[options.only]} if options.only else study.arms
    arms = [_arm(options.study, name, [*study.common, *arm], overrides) for name, arm in chosen.items()]
    if options.only:
        return
    result = {
        "command": f"python benchmarks/ablations.py {options.study} " + " ".join(overrides),
        "date": date.today().isoformat(),
        "threads": torch.get_num_threads(),
        "common": study.common,
        "arms": arms,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_text(RESULTS / f"{options.study}.json", json.dumps(result, indent=1) + "\n")


def _options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--only", help="train one arm, as a process beside others; without it they are collected")
    return parser.parse_known_args()


def _arm(study: str, name: str, chosen: list[str], overrides: list[str]) -> dict[str, Any]:
    """Train one arm, or find it trained, and measure it."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", [*MEASURED, *chosen, *overrides, f"name={slug}", f"run_dir={RUNS / study / slug}"])
    run = stages.begin(checked(OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)))
    stages.go(run)
    model = run.teacher if run.settings.stages == ["teacher"] else run.student
    curve, costs = measuring.validation_curve(run, model), zoo.describe(model)
    return {
        "name": name,
        "overrides": chosen,
        "decoder_macs_per_pixel": costs.decoder_macs_per_pixel,
        "encoder_macs_per_pixel": costs.encoder_macs_per_pixel,
        "seconds": sum(run.directory.seconds().values()),
        "curve": curve._asdict(),
    }


if __name__ == "__main__":
    main()
