"""`codec/rounding` for PyTorch, with what training and refining need besides: gradients, and costs between integers."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from slimcodec.codec.rate import whole_index
from slimcodec.codec.rounding import REACH, Rounding


class Quantiser(Rounding):
    """tables: those of a model, as tensors or arrays."""

    def __init__(self, tables: Mapping[str, Tensor | np.ndarray], device: torch.device):
        super().__init__(
            {name: np.asarray(table) for name, table in tables.items()},
            lambda values: torch.from_numpy(values).to(device),
        )

    def coded(
        self, exact: Tensor, index: Tensor, states: np.ndarray, *, refined: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The integers that a file has, as floats, and their tables, int64; shapes and `states` as for `path`."""
        if not self.dependent:
            return self.choose(exact, index, refined=refined), index
        r, table = self.path(exact.detach().cpu().numpy(), index.cpu().numpy(), states)
        return torch.from_numpy(r).to(exact), torch.from_numpy(table).to(index)

    def straight_through(self, exact: Tensor, index: Tensor) -> Tensor:
        """What a file would make of them, at real scale indices; the gradient is that of `exact`."""
        with torch.no_grad():
            index = whole_index(index)
            error = self.reconstruct(self.choose(exact, index), index) - exact
        return exact + error

    def bits(self, r: Tensor, index: Tensor) -> Tensor:
        """What coding each r costs, differentiably; between integers in proportion, from REACH - 1 on the same."""
        magnitude = r.abs().clamp_max(REACH - 1)
        lower = magnitude.detach().floor().clamp_max(REACH - 2)
        cell = lower.long() + index.long() * REACH
        at_lower, at_upper = (self.magnitude_bits.flatten()[cell + step] for step in (0, 1))
        return at_lower + (magnitude - lower) * (at_upper - at_lower)

    def rise(self, lower: Tensor, index: Tensor) -> Tensor:
        """What coding lower + 1 costs more than coding lower, integers of any sign; beyond REACH as at its edge."""
        middle = lower + 0.5
        larger = middle.abs().add_(0.5).clamp_max_(REACH - 1).long()
        return self.savings.flatten()[larger.add_(index * REACH)] * middle.sign()
