"""From a model with one quantiser to one that quantises dependently (codec/dependent), and back for training.

Training knows the noise of one quantiser. Dependent quantisation makes smaller errors with the same steps, so a quality
gives the PSNR that it gave if its gains are lower. Each channel goes down along its own gains: with one factor for all,
half of what is won was lost again.

The states and what leads to which are those of a convolutional code, as in Ungerboeck, "Channel coding with multilevel/
phase signals" (IEEE Trans. Inf. Theory, 1982): a systematic encoder with feedback.
"""

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from slimcodec.codec import entropy, rate
from slimcodec.codec.dependent import NEXT, Code, odd
from slimcodec.codec.models import Model
from slimcodec.codec.rounding import OF_RESIDUALS, OFFSET_UNIT, is_dependent
from slimcodec.codec.units import GAIN_UNIT, SCALE_COUNT

RUNGS_DOWN = 0.7  # of the ladder
# By the number of states, the code's two parity checks, in octal as codes are listed. Those of 8 to 64 states are
# Ungerboeck's. Those of 128 and 256, the best of 1,500 each, cost 0.1 and 0.2 % less than his on cid22-validation.
# That of 512 is the best of 1,300 on residuals of training photos, that of 1,024 the best of what was drawn in five
# minutes.
CODES = {
    8: (0o04, 0o13),
    16: (0o04, 0o23),
    32: (0o10, 0o45),
    64: (0o024, 0o103),
    128: (0o132, 0o271),
    256: (0o236, 0o523),
    512: (0o422, 0o1663),
    1024: (0o1714, 0o2665),
}


def next_states(states: int) -> Tensor:
    """The states that an even and an odd integer lead to, [states, 2]. There must be a code of so many."""
    return torch.from_numpy(Code(states, *(check >> 1 for check in CODES[states])).next_states)


def with_second_quantiser(tables: dict[str, Tensor], states: int) -> dict[str, Tensor]:
    """The tables of a model that is to quantise dependently, those of the second quantiser as if for Gaussians."""
    gaussian = [entropy.quantise(table.numpy()[None])[0] for table in rate.gaussian_pmfs(second=True)]
    return tables | {
        NEXT: next_states(states),
        "r_odd_frequencies": torch.from_numpy(np.concatenate(gaussian).astype(np.uint16)),
        "r_odd_sizes": torch.tensor([len(table) for table in gaussian], dtype=torch.int32),
        "r_odd_offsets": torch.full((SCALE_COUNT,), OFFSET_UNIT // 2, dtype=torch.int16),
    }


def dependently_quantised(model: Model, states: int) -> Model:
    """The same with two quantisers and so many states. Where there was one, the tables of the second are still to be
    counted."""
    if is_dependent(model.tables):
        return model._replace(tables=model.tables | {NEXT: next_states(states)})
    return _with_gains(model._replace(tables=with_second_quantiser(model.tables, states)), -RUNGS_DOWN)


def with_one_quantiser(model: Model) -> Model:
    """What training goes on from. The gains are nearly those that the model had."""
    if not is_dependent(model.tables):
        return model
    second = {NEXT, *map(odd, OF_RESIDUALS)}
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
