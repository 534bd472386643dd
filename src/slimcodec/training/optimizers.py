"""The optimizers by name. Gains are trained faster than the rest, and only weights have SOAP's preconditioner."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from slimcodec.training.soap import ADAM_BETAS, Soap

# log_gain is in index steps of 13 %. At the others' rate a rung would need a thousand steps to move by one of them.
GAIN_LEARNING_RATE = 20
AS_ADAM = {"betas": ADAM_BETAS, "largest_basis": 0}


class Parameters(NamedTuple):
    """The parameters of a codec and its prior, by how they are trained."""

    weights: list[Tensor]  # of two dimensions or more
    gains: list[Tensor]
    rest: list[Tensor]  # biases, and the prior's many small tensors


def adam(parameters: Parameters, learning_rate: float, basis_every: int) -> Soap:
    weights = {"params": parameters.weights + parameters.rest}
    return Soap([weights, _gains(parameters, learning_rate)], learning_rate, betas=ADAM_BETAS, largest_basis=0)


def soap(parameters: Parameters, learning_rate: float, basis_every: int) -> Soap:
    """Plain Adam for all but the weights."""
    groups = [{"params": parameters.weights}, _gains(parameters, learning_rate), {"params": parameters.rest, **AS_ADAM}]
    return Soap(groups, learning_rate, basis_every=basis_every)


def _gains(parameters: Parameters, learning_rate: float) -> dict[str, object]:
    return {"params": parameters.gains, "lr": GAIN_LEARNING_RATE * learning_rate, **AS_ADAM}


MAKE: dict[str, Callable[[Parameters, float, int], Soap]] = {"adam": adam, "soap": soap}
