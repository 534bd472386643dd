"""What the tests of runs share: configurations composed as run.py does, the smallest run, and running it in here."""

import copy
import functools
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from slimcodec.pipeline import stages
from slimcodec.pipeline.checks import checked
from slimcodec.pipeline.training_setup import Run

ROOT = Path(__file__).parents[1]
# One round of pruning takes the tiny student to its target.
ONE_ROUND = [
    "prune.importance_batches=1",
    "prune.target_macs_per_pixel=190",
    "prune.shrink=0.5",
    "++prune.floors={latent:8,hyper:4,g_s.0:8,g_s.1:8}",
    "validation.side=64",
    "validation.qualities=[1,3,6,8]",
]
CACHE = "cache=${run_dir}-cache"
# Seconds instead of minutes: the models and crops of the smoke test, whatever the experiment.
TINY = [
    CACHE,
    "stages=[teacher,distill,prune,finish,evaluate,export]",
    "teacher=tiny",
    "student=tiny",
    "teacher.training.steps=2",
    "student.training.steps=2",
    "prune.training.steps=1",
    "teacher.training.steps_per_epoch=2",
    "student.training.steps_per_epoch=2",
    "prune.training.steps_per_epoch=1",
    "prune.training.crop=64",
    "++finish.training={steps:1,batch:8,crop:64,learning_rate:1.0e-3,steps_per_epoch:1,as_in_files:true}",
    "finish.start=null",
    "++student.load=null",
    "++finish.tables=null",
    "teacher.load=null",
    *ONE_ROUND,
    "evaluate.qualities=[1,3,6,8]",
    "evaluate.limit=1",
    "evaluate.metrics=[psnr]",
    "evaluate.anchors=[]",
    "evaluate.memory=false",
    "evaluate.models=[]",
]


def configuration(*overrides):
    """The resolved configuration as plain containers."""
    return copy.deepcopy(_composed(overrides))


@functools.cache
def _composed(overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)


def begin(settings) -> Run:
    """A run of a configuration, with a console as wide as its lines."""
    return stages.begin(checked(settings), Console(width=400))


def run(*overrides) -> Run:
    """Compose a run and do it; raises what it raises."""
    job = begin(configuration(*overrides))
    stages.go(job)
    return job
