"""From a model with one quantiser to one that quantises dependently (codec/dependent), and back for training.

Training knows the noise of one quantiser. Dependent quantisation makes smaller errors with the same steps, so a quality
gives the PSNR that it gave if its gains are lower. Each channel goes down along its own gains: with one factor for all,
half of what is won was lost again.
"""

from copy import deepcopy

import torch
from torch import Tensor

from slimcodec.codec.dependent import odd
from slimcodec.codec.models import Model
from slimcodec.codec.rounding import OF_RESIDUALS, is_dependent
from slimcodec.codec.units import GAIN_UNIT
from slimcodec.training.calibrate import with_second_quantiser

RUNGS_DOWN = 0.7  # of the ladder


def dependently_quantised(model: Model) -> Model:
    """The same with two quantisers; the tables of the second are still to be counted."""
    if is_dependent(model.tables):
        return model
    return _with_gains(model._replace(tables=with_second_quantiser(model.tables)), -RUNGS_DOWN)


def with_one_quantiser(model: Model) -> Model:
    """What training goes on from. The gains are nearly those that the model had."""
    if not is_dependent(model.tables):
        return model
    second = {odd(name) for name in OF_RESIDUALS}
    tables = {name: table for name, table in model.tables.items() if name not in second}
    return _with_gains(model._replace(tables=tables), RUNGS_DOWN)


def along_ladder(gains: Tensor, rungs: float) -> Tensor:
    """Gains [Q, M] less than a rung further up or down, on straight lines between rungs, which go on at the ends."""
    steps = torch.diff(gains, dim=0)
    steps = torch.cat([steps, steps[-1:]]) if rungs > 0 else torch.cat([steps[:1], steps])
    return ((gains + rungs * steps) * GAIN_UNIT).round() / GAIN_UNIT


def _with_gains(model: Model, rungs: float) -> Model:
    codec = deepcopy(model.codec)
    codec.log_gain.data = along_ladder(codec.log_gain.detach(), rungs)
    return model._replace(codec=codec)
