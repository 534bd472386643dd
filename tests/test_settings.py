"""What a configuration gets wrong is said in one line with the field, before PyTorch is imported or a file written."""

import ast
import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf
from run_parts import ROOT, configuration

from slimcodec import InvalidInput
from slimcodec.pipeline.checks import checked, require_targets_above_floors
from slimcodec.pipeline.ranges import LONGEST_NAME

# Overrides, and what the line must say: the field, and what would be right.
BAD = [
    (["name="], "name=: must be a name"),
    (["name=null"], "name=None: must be a name"),
    (["name=a/b"], "name=a/b: must be a name"),
    (["name=.."], "name=..: must be a name"),
    ([f"name={'a' * (LONGEST_NAME + 1)}"], f"must be a name: 1 to {LONGEST_NAME} characters"),
    (["teacher.name=../../x"], "teacher.name=../../x: must be a name"),
    (["run_dir=null"], "run_dir=None: must be a text"),
    (["seed=-1"], "seed=-1: must be 0 or more"),
    (["stages=[train]"], "there is no stage 'train'; known are teacher, distill"),
    (["stages=[]"], "stages: name at least one of teacher, distill"),
    (["stages=[export]"], "stages: export needs what the stage evaluate leaves in"),
    (["stages=[distill]"], "stages: distill needs what the stage teacher leaves in"),
    (["~evaluate"], "evaluate: is missing"),
    (["~teacher"], "teacher: is missing"),
    (["evaluate=3"], "evaluate=3: must be a section of settings"),
    (["steps=abc"], "Could not override 'steps'"),
    (["experiment=nothing"], "Could not find 'experiment/nothing' Available options in 'experiment': demo"),
    (["teacher.training.steps=abc"], "teacher.training.steps=abc: must be a whole number, 1 or more"),
    (["teacher.training.batch=0"], "teacher.training.batch=0: must be a whole number, 1 or more"),
    (["teacher.training.crop=100"], "teacher.training.crop=100: must be a multiple of 64 pixels"),
    (["teacher.training.learning_rate=0"], "teacher.training.learning_rate=0: must be a number above 0"),
    (["student.training.optimizer=sgd"], "optimizer=sgd: must be one of adam, soap"),
    (["+student.training.stepz=3"], "student.training.stepz: there is no such setting"),
    (["student.architecture.context=[8]"], "student.architecture.context: must be 4 whole numbers"),
    (["teacher.architecture.g_s=[]"], "teacher.architecture.g_s: the level next to y must be at scale 16"),
    (["+distill.weights.beauty=1"], "distill.weights.beauty: there is no such term; known are"),
    (["distill.weights.output=-1"], "distill.weights.output=-1: must be a number, 0 or more"),
    (["prune.shrink=1"], "prune.shrink=1: must be between 0 and 1"),
    (["prune.gate=lenient"], "prune.gate=lenient: must be strict or record"),
    (["prune.scope=both"], "prune.encoder_target_macs_per_pixel: prune.scope=both needs it"),
    (
        ["prune.target_macs_per_pixel=10"],
        "target_macs_per_pixel=10: above the floors the decoder cannot have less",
    ),
    (["+prune.floors.zz=3"], "prune.floors.zz: the student has no such width; known are latent"),
    (["validation.qualities=[1,2]"], "validation.qualities: BD-rate needs at least 4 qualities"),
    (["validation.qualities=[1,2,3,9]"], "validation.qualities=9: must be at most 8"),
    (["evaluate.anchors=[gif]"], "evaluate.anchors=gif: there is no such codec; known are jpeg"),
    (["evaluate.metrics=[beauty]"], "evaluate.metrics: there is no metric 'beauty'"),
    (["evaluate.models=[nobody]"], "evaluate.models: nobody: no model directory"),
    (["evaluate.folders=[nowhere]"], "evaluate.folders=nowhere: there is no such folder"),
    (["evaluate.efforts=[11]"], "evaluate.efforts=11: must be a whole number from 1 to 10"),
    (["teacher.load=nobody"], "teacher.load: nobody: no model directory"),
    (["finish.start=nobody"], "finish.start: nobody: no model directory"),
    (
        ["finish.quantise=true", "finish.training=${student.training}"],
        "prune.distill_weights.decoder: compares values that have other units in a decoder of integers",
    ),
    (["finish.encoder_blocks=[[8]]"], "finish.encoder_blocks: new blocks have to be trained, and finish.training is"),
    (["finish.decoder_blocks=[[8]]"], "finish.decoder_blocks: new blocks have to be trained, and finish.training is"),
    (["finish.decoder_levels=[{scale:4}]"], "finish.decoder_levels: new levels have to be trained, and"),
    (["finish.context=[8,8,8,8]"], "finish.context: a wider context has to be trained, and"),
    (["+student.training.freeze_gains=true"], "student.training.freeze_gains: a new codec's steps of quantisation are"),
    (["+student.training.parts=[g_s]"], "student.training.parts: of a new codec all is to be learned; leave it out"),
    (["+prune.training.parts=[g_s,head]"], "prune.training.parts=head: must be one of g_a, h_a, h_scale, h_mean,"),
    (["+prune.training.parts=[]"], "prune.training.parts: names nothing to train; null trains all"),
    (
        [
            "finish.quantise=true",
            "++finish.training={steps:1,batch:8,crop:128,learning_rate:1.0e-3,steps_per_epoch:1,parts:[g_s]}",
        ],
        "finish.training.parts: a decoder of integers is trained whole (finish.quantise); leave it out",
    ),
    (
        ["+prune.training.parts=[g_s]", "+prune.training.freeze_gains=true"],
        "prune.training.parts: says what stays as it is; leave freeze_encoder and freeze_gains out",
    ),
    (
        ["+prune.training.parts=[g_a,g_s]", "+prune.training.stored_latents=true"],
        "prune.training.stored_latents: g_a would not stay as it is; set",
    ),
    (["+student.training.stored_latents=true"], "student.training.stored_latents: g_a would not stay as it is; set"),
    (["+prune.training.stored_latents=true"], "prune.training.stored_latents: g_a would not stay as it is; set"),
    (
        [
            "++finish.training={steps:1,batch:8,crop:128,learning_rate:1.0e-3,steps_per_epoch:1,freeze_encoder:g_a}",
            "+finish.training.stored_latents=true",
            "+finish.training.late={share:0.1,batch:8,crop:64}",
        ],
        "finish.training.stored_latents: its crops have one size, and late.crop=64 is another; take 128",
    ),
    (
        [
            "finish.new_alone=true",
            "++finish.training={steps:1,batch:8,crop:128,learning_rate:1.0e-3,steps_per_epoch:1,parts:[g_s]}",
        ],
        "finish.new_alone: only what is new would be trained, or finish.training.parts; leave one of them out",
    ),
    (["finish.new_alone=true"], "finish.new_alone: nothing would be new, or the encoder not be left alone; it needs"),
    (["finish.encoder={downsampling:wide,g_a:[]}"], "finish.encoder: a new encoder has to be trained, and"),
    (
        ["trainer=ddp_cpu", "+teacher.training.late={share:0.1,batch:3,crop:64}"],
        "teacher.training.late.batch=3: must be a multiple of the 2 processes",
    ),
    (["finish.tables=3"], "finish.tables=3: must be a section of settings"),
    (["finish.tables={photos:null,side:100,corrections:8}"], "finish.tables.side=100: must be a multiple of 64"),
    (["finish.tables={photos:0,side:64,corrections:8}"], "finish.tables.photos=0: must be a whole number, 1 or more"),
    (["finish.tables={photos:9,side:64,corrections:65}"], "corrections=65: must be a whole number from 1 to 64"),
    (["data=folder"], "data.root has no default: add data.root="),
    (["data=folder", "data.root=nowhere"], "data.root=nowhere: there is no such folder"),
    (["trainer=gpu"], "trainer.accelerator=gpu: this machine has no CUDA GPU"),
    (["trainer.devices=two"], "trainer.devices=two: must be a number of processes, or auto"),
    (
        ["trainer=ddp_cpu", "teacher.training.batch=7"],
        "training.batch=7: must be a multiple of the 2 processes",
    ),
    (["trainer.whole_step=true", "trainer.devices=2"], "trainer.whole_step: is for one process, not 2"),
    (["trainer.whole_step=true", "trainer.precision=16-mixed"], "take trainer.precision=bf16-mixed"),
    (["+teacher.training.decay_from=1"], "decay_from=1: must be 0 or more, and less than 1"),
    (["+teacher.training.late={share:0.1,batch:8,crop:100}"], "late.crop=100: must be a multiple of 64"),
    (["trainer.max_time=90"], "trainer.max_time=90: must be days:hours:minutes:seconds"),
    (["logger=comet"], "Could not find 'logger/comet'"),
    (["+logger.comet={}"], "logger.comet: there is no such setting"),
]
# Fork a process for each line of stdin, so that all of them share the imports, and the grammars, modules and files that
# Hydra makes, finds and reads when it first composes; say how each ended.
MANY = """
import copy, os, runpy, sys
import hydra
from hydra._internal.config_repository import ConfigRepository as Files
import run  # what every command imports

read, kept = Files.load_config, {}

def read_once(files, config_path):
    if config_path not in kept:
        kept[config_path] = read(files, config_path)
    return copy.deepcopy(kept[config_path])

Files.load_config = read_once
with hydra.initialize_config_dir(os.path.join(os.path.dirname(run.__file__), "conf"), version_base="1.3"):
    hydra.compose("config", ["prune.shrink=1"], return_hydra_config=True)
for line in sys.stdin.read().splitlines():
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.dup2(writing, 1), os.dup2(writing, 2), os.close(reading)
        sys.argv = [run.__file__, *line.split("\\t")]
        try:
            runpy.run_path(run.__file__, run_name="__main__")
        except SystemExit as end:
            heavy = [name for name in ("torch", "lightning", "matplotlib", "scipy", "wandb") if name in sys.modules]
            sys.stderr.write(f"\\nstatus {end.code} imported {heavy}")
        sys.stderr.flush()
        os._exit(0)
    os.close(writing)
    said = os.fdopen(reading, "rb").read().decode()
    os.waitpid(child, 0)
    print(repr(said), flush=True)
"""


def ends(folder):
    """What each of the bad commands printed, and how it ended."""
    lines = "\n".join("\t".join([f"run_dir={folder}/run", *overrides]) for overrides, _ in BAD)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", MANY], input=lines, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [ast.literal_eval(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_is_wrong_is_one_line_and_status_2_before_pytorch_is_imported(tmp_path):
    found = ends(tmp_path)
    assert len(found) == len(BAD)
    for (overrides, expected), printed in zip(BAD, found, strict=True):
        said, _, ending = printed.rpartition("\n")
        (line,) = said.strip().splitlines()
        assert line.startswith("slimcodec: ") and expected in line, overrides
        assert ending == "status 2 imported []", overrides


def test_there_are_forty_of_them():
    assert len(BAD) >= 40


def test_a_refused_configuration_leaves_nothing(tmp_path):
    for override in ("prune.shrink=1", "trainer=gpu", "evaluate.folders=[nowhere]"):
        command = [sys.executable, str(ROOT / "run.py"), f"run_dir={tmp_path / 'run'}", override]
        assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 2
        assert not (tmp_path / "run").exists()


def test_a_configuration_becomes_attributes():
    settings = checked(configuration("experiment=smoke", "run_dir=runs/x"))
    assert settings.student.training.steps == 24 and settings.prune.scopes == ("decoder",)
    assert settings.sections("teacher").keys() == {"seed", "data", "teacher"}
    assert settings.evaluate.qualities == [1, 3, 6, 8] and type(settings.evaluate.qualities[0]) is int
    assert settings.trainer.max_seconds is None
    timed = checked(configuration("experiment=smoke", "trainer.max_time='01:02:03:04'"))
    assert timed.trainer.max_seconds == 24 * 3600 + 2 * 3600 + 3 * 60 + 4


@pytest.mark.parametrize("value", [True, "8", 1.5, None])
def test_a_number_is_no_other_type(value):
    settings = configuration("experiment=smoke")
    settings["teacher"]["training"]["batch"] = value
    with pytest.raises(InvalidInput, match=rf"teacher\.training\.batch={value}: must be a whole number, 1 or more"):
        checked(settings)


def test_settings_cannot_be_changed():
    settings = checked(configuration("experiment=smoke"))
    with pytest.raises(AttributeError):
        settings.prune.shrink = 2


def test_every_student_of_the_family_can_be_pruned_to_its_cost():
    swept = OmegaConf.load(ROOT / "conf" / "experiment" / "family.yaml").hydra.sweeper.params
    targets = swept["prune.target_macs_per_pixel"].split(",")
    assert targets == ["500", "1000", "2000", "4000", "8000"]
    for target in targets:
        overrides = ["experiment=family", "data.root=photos", f"prune.target_macs_per_pixel={target}"]
        require_targets_above_floors(checked(configuration(*overrides)))
