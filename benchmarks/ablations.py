"""Short, equal trainings that answer one question each: docs/ablations.md has what they say.

    python benchmarks/ablations.py STUDY data.root=PHOTOS data.validation_root=OTHERS

Every arm is trained through run.py's own stages and measured on validation crops (estimated bits); the result goes to
results/ablations/STUDY.json, of which benchmarks/tables.py makes a table. What is complete in runs/ablations is not
trained again. What follows the study's name overrides the configuration of every arm. --only ARM trains one arm.
"""

import argparse
import json
import re
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from run import Run  # noqa: E402 - run.py is no package
from slimcodec.codec import models  # noqa: E402

RESULTS, RUNS = ROOT / "results" / "ablations", ROOT / "runs" / "ablations"


class Study(NamedTuple):
    """Arms by name, each a list of overrides on `common`; the first is what the others are compared with."""

    common: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]


def _teacher(steps: int) -> tuple[str, ...]:
    return ("stages=[teacher]", f"teacher.training.steps={steps}", f"teacher.training.steps_per_epoch={steps}")


def _student(distill: int, finetune: int) -> tuple[str, ...]:
    """Distillation and two rounds; the epochs are as long as the stages."""
    return (
        "teacher.load=small",
        f"student.training.steps={distill}",
        f"student.training.steps_per_epoch={distill}",
        f"prune.training.steps={finetune}",
        f"prune.training.steps_per_epoch={finetune}",
    )


MEASURED = ("experiment=flagship", "validation.limit=20", "evaluate.folders=[]")
STUDIES = {
    "optimizer": Study(
        _teacher(600),
        {
            "SOAP, 1e-3": (),
            "SOAP, 3e-3": ("teacher.training.learning_rate=3e-3",),
            "Adam, 5e-4": ("teacher.training.optimizer=adam", "teacher.training.learning_rate=5e-4"),
        },
    ),
    "precision": Study(_teacher(600), {"bfloat16": (), "float32": ("trainer=cpu",)}),
    "latents": Study(
        _teacher(600),
        {
            "M = 320": (),
            "M = 256": ("teacher.architecture.latent_channels=256",),
            "M = 192": ("teacher.architecture.latent_channels=192",),
        },
    ),
    "context": Study(
        _teacher(600),
        {
            "four stages": (),
            "two stages": (
                "teacher.architecture.stages=[[0,3],[1,2]]",
                "teacher.architecture.context=[128,128]",
            ),
            "none": ("teacher.architecture.stages=[[0,1,2,3]]", "teacher.architecture.context=[128]"),
        },
    ),
}


def main() -> None:
    options, overrides = _options()
    study = STUDIES[options.study]
    chosen = {options.only: study.arms[options.only]} if options.only else study.arms
    arms = [_arm(options.study, name, (*study.common, *arm), overrides) for name, arm in chosen.items()]
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
    models.write_text(RESULTS / f"{options.study}.json", json.dumps(result, indent=1) + "\n")


def _options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--only", help="train one arm, as a process beside others; without it they are collected")
    return parser.parse_known_args()


def _arm(study: str, name: str, chosen: tuple[str, ...], overrides: list[str]) -> dict[str, Any]:
    """Train one arm, or find it trained, and measure it."""
    directory = RUNS / study / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", [*MEASURED, *chosen, *overrides, f"name={name!r}", f"run_dir={directory}"])
    run = Run(OmegaConf.to_container(composed, resolve=True, throw_on_missing=True))
    began = time.monotonic()
    run()
    found = directory / "seconds.json"
    if not found.is_file():
        models.write_text(found, json.dumps(time.monotonic() - began))
    model = run.teacher_directory if run.configuration["stages"] == ["teacher"] else run.student_directory
    curve, info = run.validation_curve(model), models.load(model).info
    return {
        "name": name,
        "overrides": chosen,
        "decoder_macs_per_pixel": info["decoder_macs_per_pixel"],
        "encoder_macs_per_pixel": info["encoder_macs_per_pixel"],
        "seconds": json.loads(found.read_text()),
        "curve": curve._asdict(),
    }


if __name__ == "__main__":
    main()
