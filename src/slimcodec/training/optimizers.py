"""The optimizers by name. Gains are trained faster than the rest, and only weights have SOAP's preconditioner."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# log_gain is in index steps of 13 %. At the others' rate a rung would need a thousand steps to move by one of them.
GAIN_LEARNING_RATE = 20
LARGEST_BASIS = 512  # along a longer dimension of a weight, SOAP works as Adam does: a larger basis costs too much


class Parameters(NamedTuple):
    """The parameters of a codec and its prior, by how they are trained."""

    weights: list[Tensor]  # of two dimensions or more
    gains: list[Tensor]
    rest: list[Tensor]  # biases, and the prior's many small tensors


def adam(parameters: Parameters, learning_rate: float, basis_every: int) -> torch.optim.Optimizer:
    return torch.optim.Adam(
        [
            {"params": parameters.weights + parameters.rest},
            {"params": parameters.gains, "lr": GAIN_LEARNING_RATE * learning_rate},
        ],
        lr=learning_rate,
    )


def soap(parameters: Parameters, learning_rate: float, basis_every: int) -> torch.optim.Optimizer:
    """Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024); plain Adam for all but the weights."""
    from pytorch_optimizer import SOAP  # late: only trainings by SOAP wait for this import

    as_adam = {"max_precondition_dim": 0, "betas": (0.9, 0.999)}
    return SOAP(
        [
            {"params": parameters.weights},
            {"params": parameters.gains, "lr": GAIN_LEARNING_RATE * learning_rate, **as_adam},
            {"params": parameters.rest, **as_adam},
        ],
        lr=learning_rate,
        weight_decay=0.0,
        max_precondition_dim=LARGEST_BASIS,
        precondition_frequency=basis_every,
    )


MAKE: dict[str, Callable[[Parameters, float, int], torch.optim.Optimizer]] = {"adam": adam, "soap": soap}
