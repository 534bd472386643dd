"""What the tests of training share: tiny codecs of every kind, embedded photos and a Trainer."""

import dataclasses
from functools import cache

import lightning
import torch
from run_parts import configuration

from slimcodec.codec.architecture import Architecture, Block, Level
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.training.crops import PhotoCache
from slimcodec.training.data import PhotoData
from slimcodec.training.inheritance import student_architecture
from slimcodec.training.photos import centre_crops, embedded
from slimcodec.training.prior import FactorizedPrior

QUALITY = torch.tensor([256, 1152])  # rung 1, and half-way between 4 and 5


def configured(name: str) -> dict:
    """The architecture that conf/<name>.yaml composes to."""
    group, _, choice = name.partition("/")
    return configuration(f"{group}={choice}")[group]["architecture"]


def teacher() -> Architecture:
    """Two stages, full context, transposed upsampling, both kinds of block."""
    return Architecture.from_dict(configured("teacher/tiny"))


def student() -> Architecture:
    """Four stages, depthwise context, subpixel upsampling, depthwise blocks; the teacher's encoder."""
    return student_architecture(configured("student/tiny"), teacher(), inherit_encoder=True)


def one_stage(context_kind: str) -> Architecture:
    """No context: mu from p alone; every kind of block, windows that are patches, a 3×3 before each pixel shuffle."""
    return dataclasses.replace(
        student(),
        g_s=(
            Level(16, 32, (Block("residual", 16), Block("depthwise", 24), Block("shuffle", 16))),
            Level(8, 16, (Block("residual", 16), Block("attention", 16))),
            Level(2, 12),
        ),
        stages=((0, 1, 2, 3),),
        context=(16,),
        context_kind=context_kind,
        downsampling="patches",
        upsampling_kernel=3,
    )


ARCHITECTURES = {
    "teacher": teacher(),
    "student": student(),
    "one stage, depthwise": one_stage("depthwise"),
    "one stage, full": one_stage("full"),
}


def lively(architecture: Architecture, seed: int = 0) -> tuple[HyperpriorCodec, FactorizedPrior]:
    """A codec and prior of random weights, biases and gains, whose y and z are not all rounded to zero."""
    torch.manual_seed(seed)
    codec, prior = HyperpriorCodec(architecture), FactorizedPrior(architecture.hypers, architecture.rungs)
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.1 * torch.randn_like(parameter))
        codec.g_a.head.weight.mul_(40)
        codec.h_a[-1].weight.mul_(12)
        codec.log_gain.add_(torch.randn_like(codec.log_gain))
        for parameter in prior.bottleneck.matrices:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return codec.eval(), prior.eval()


@cache
def photos() -> PhotoCache:
    return PhotoCache(embedded("train"))


def pictures(count: int = 2, size: int = 128) -> torch.Tensor:
    return photos().crops(seed=0, step=0, batch=count, size=size)


def photo_data(steps_per_epoch: int, validation: int = 1) -> PhotoData:
    crops = centre_crops(embedded("validation")[:validation], 64)
    return PhotoData(validation_photos=crops, steps_per_epoch=steps_per_epoch)


def trainer_factory(*more_callbacks: lightning.Callback, **more):
    """`make_trainer` for teach.fit: a quiet Trainer on the CPU, set up as run.py does."""

    def make(directory, *, callbacks, **settings):
        return lightning.Trainer(
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            max_epochs=-1,
            gradient_clip_val=1.0,
            default_root_dir=directory,
            callbacks=[*callbacks, *more_callbacks],
            **settings,
            **({"accelerator": "cpu"} | more),
        )

    return make
