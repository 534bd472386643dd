"""SOAP, and Adam as the case of it without bases, in a form that a CUDA graph can hold.

SOAP is Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321), and for codecs needs
far fewer steps (Zhang and Zhu, arXiv 2601.20769). A step has three parts:

    prepare()  counts, and puts the step's size into a tensor     any Python
    update()   everything with gradients                          tensors alone: what a graph can repeat
    refresh()  now and then: new eigenbases, by QR                outside the graph, for it would take most of its time

A weight G of shape [d_1, d_2, …] has, for every dimension, the running mean L_k of its gradient's products with itself
along the others, [d_k, d_k], and a basis Q_k near its eigenvectors. Its running mean square is kept in these bases.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-8
ADAM_BETAS, SOAP_BETAS = (0.9, 0.999), (0.95, 0.95)


class Soap(torch.optim.Optimizer):
    """Groups with `largest_basis` of 0 are trained by Adam.

    params         as for any optimizer; a group may say lr, betas and largest_basis for itself
    basis_every    steps from one eigenbasis to the next
    largest_basis  along a longer dimension of a weight there is no basis: it would cost too much

    With bases anywhere, the first step only begins them and changes no parameter, as in the authors' code.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        betas: tuple[float, float] = SOAP_BETAS,
        basis_every: int = 10,
        largest_basis: int = 512,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "largest_basis": largest_basis})
        self.basis_every = basis_every
        self.has_bases = any(group["largest_basis"] for group in self.param_groups)
        for group in self.param_groups:
            group.setdefault("count", 0)
        self.sizes: list[Tensor] = []

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.prepare()
        self.update()
        self.refresh()
        return loss

    def prepare(self) -> None:
        """Count the step, and put what it multiplies by, which changes from step to step, into a tensor a group."""
        if not self.sizes:
            self.sizes = [torch.zeros((), device=group["params"][0].device) for group in self.param_groups]
        for group, size in zip(self.param_groups, self.sizes, strict=True):
            group["count"] += 1
            taken = group["count"] - self.has_bases
            if taken:
                first, second = (1 - beta**taken for beta in group["betas"])
                size.fill_(group["lr"] * second**0.5 / first)

    @torch.no_grad()
    def update(self) -> None:
        """Move all parameters that have a gradient. The same operations on the same tensors, step after step."""
        for group, size in zip(self.param_groups, self.sizes, strict=True):
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in moved:
                if parameter not in self.state:
                    self._begin(parameter, group)
            if not moved or (self.has_bases and group["count"] == 1):
                continue
            if group["largest_basis"]:
                for parameter in moved:
                    self._move_in_basis(parameter, group["betas"], size)
            else:
                self._move(moved, group["betas"], size)

    @torch.no_grad()
    def refresh(self) -> None:
        """New eigenbases, where they are due."""
        for group in self.param_groups:
            taken = group["count"] - 1
            if group["largest_basis"] and taken and taken % self.basis_every == 0:
                for parameter in group["params"]:
                    if state := self.state.get(parameter):
                        _rotate(state)

    def _begin(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """The state of a parameter with its first gradient, whose eigenvectors are its first bases."""
        state = self.state[parameter]
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        if not group["largest_basis"]:
            return
        sides = [length if 1 < length <= group["largest_basis"] else 0 for length in parameter.shape]
        state["L"] = [parameter.new_zeros(side, side) for side in sides]
        _add_products(state["L"], parameter.grad, group["betas"][1])
        state["Q"] = [torch.linalg.eigh(product)[1].flip(1).contiguous() for product in state["L"]]

    def _move(self, parameters: list[Tensor], betas: tuple[float, float], size: Tensor) -> None:
        gradients = [parameter.grad for parameter in parameters]
        means, squares = ([self.state[each][name] for each in parameters] for name in ("exp_avg", "exp_avg_sq"))
        torch._foreach_lerp_(means, gradients, 1 - betas[0])
        torch._foreach_mul_(squares, betas[1])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - betas[1])
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, EPSILON)
        steps = torch._foreach_div(means, roots)
        torch._foreach_mul_(steps, size)
        torch._foreach_sub_(parameters, steps)

    def _move_in_basis(self, parameter: Tensor, betas: tuple[float, float], size: Tensor) -> None:
        state, gradient = self.state[parameter], parameter.grad
        mean, square, bases = state["exp_avg"], state["exp_avg_sq"], state["Q"]
        mean.lerp_(gradient, 1 - betas[0])
        square.lerp_(_projected(gradient, bases).square(), 1 - betas[1])
        step = _projected(mean, bases) / (square.sqrt() + EPSILON)
        parameter.sub_(_projected(step, bases, back=True) * size)
        _add_products(state["L"], gradient, betas[1])


def _add_products(means: list[Tensor], gradient: Tensor, beta: float) -> None:
    """Move the running means of the gradient's products with itself, in place."""
    for dimension, mean in enumerate(means):
        if len(mean):
            rows = gradient.movedim(dimension, 0).flatten(1)
            mean.lerp_(rows @ rows.T, 1 - beta)


def _projected(tensor: Tensor, bases: list[Tensor], *, back: bool = False) -> Tensor:
    """A tensor in the bases, or from them. Each product puts its dimension last, so that all of them come round."""
    for basis in bases:
        if len(basis):
            tensor = torch.tensordot(tensor, basis, dims=([0], [1 if back else 0]))
        else:
            tensor = tensor.movedim(0, -1)
    return tensor


def _rotate(state: dict[str, Any]) -> None:
    """One round of power iteration, largest eigenvalue first; in place, for a graph knows tensors by their address."""
    square = state["exp_avg_sq"]
    for dimension, (product, basis) in enumerate(zip(state["L"], state["Q"], strict=True)):
        if len(product):
            moved = product @ basis
            order = (basis * moved).sum(dim=0).argsort(descending=True)
            square.copy_(square.index_select(dimension, order))
            basis.copy_(torch.linalg.qr(moved.index_select(1, order))[0])
