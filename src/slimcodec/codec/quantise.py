"""`codec/rounding` for PyTorch, with what training and refining need besides: gradients, and costs between integers."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from slimcodec.codec import dependent
from slimcodec.codec.grid import PLANE_CELLS
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
        self, exact: Tensor, index: Tensor, paths: dependent.Paths, *, refined: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The integers that a file has, as floats, and their tables, int64; shapes and `paths` as for `path`."""
        if not self.dependent:
            return self.choose(exact, index, refined=refined), index
        r, table = self.path(exact.detach().cpu().numpy(), index.cpu().numpy(), paths)
        return torch.from_numpy(r).to(exact), torch.from_numpy(table).to(index)

    def for_pass(self) -> Callable[[Tensor, Tensor], Tensor]:
        """What a pass through all stages of pictures calls; its next pass needs another."""
        return Pass(self) if self.dependent else self.straight_through

    def straight_through(self, exact: Tensor, index: Tensor) -> Tensor:
        """What one quantiser would make of them, at real scale indices; the gradient is that of `exact`."""
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


class Pass:
    """`Quantiser.straight_through` for one pass through the stages of pictures, with one quantiser or two.

    It keeps what their files hold. With two quantisers it waits for a GPU: the search is the CPU's.
    """

    def __init__(self, quantiser: Quantiser):
        self.quantiser = quantiser
        self._paths: list[dependent.Paths] = []  # of each picture
        self._coded: list[tuple[Tensor, Tensor, Tensor]] = []  # r, its table and its scale index, by stage

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, exact: Tensor, index: Tensor) -> Tensor:
        """exact and index [B, ..., 2·rows, 2·columns]."""
        with torch.no_grad():
            index = whole_index(index)
            r, table = self._integers(exact.detach(), index)
            self._coded.append((r, table, index))
            error = self.quantiser.reconstruct(r, table) - exact
        return exact + error

    @property
    def bits(self) -> Tensor:
        """What coding the integers of all stages costs by the model's tables, [B]."""
        costs = [
            (self.quantiser.bits(r, table) * (index >= self.quantiser.skip)).flatten(1).sum(1)
            for r, table, index in self._coded
        ]
        return torch.stack(costs).sum(0)

    def _integers(self, exact: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = (side // PLANE_CELLS for side in exact.shape[-2:])
        self._paths = self._paths or [dependent.start((rows, columns)) for _ in exact]
        found = [self.quantiser.coded(*of_one) for of_one in zip(exact, index, self._paths, strict=True)]
        r, table = (torch.stack(parts) for parts in zip(*found, strict=True))
        return r, table
