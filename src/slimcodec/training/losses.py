"""The terms of the loss, as pure functions of tensors. Whole-picture terms are [B]; the others keep their shape.

Rate–distortion: L = lmbda · 255² · MSE + bpp. Distillation: output, features, and the distributions of y and z.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from slimcodec.codec.rate import SCALE_COUNT, gaussian_bits, scale
from slimcodec.training.errors import TrainingStopped


def mse(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean squared error of pictures in [0, 1]: [B, 3, H, W] twice → [B]."""
    return (x_hat - x).square().mean(dim=(1, 2, 3))


def bits_per_pixel(bits: Tensor, pixels: int) -> Tensor:
    """Bits of the elements of any shape [B, ...] → bits per pixel [B]."""
    return bits.flatten(1).sum(dim=1) / pixels


def residual_bits(residual: Tensor, index: Tensor, noise: Tensor) -> Tensor:
    """-log2 P of (y - mu)·gain + noise at its scale index; planes in, planes out. Float32 whatever the autocast."""
    return gaussian_bits(residual.float() + noise, index.float())


def rate_distortion(distortion: Tensor, bpp: Tensor, lmbda: Tensor) -> Tensor:
    """lmbda · 255² · MSE + bpp, each [B] (CompressAI's scale of lmbda)."""
    return lmbda * 255**2 * distortion + bpp


def feature(student: Tensor, teacher: Tensor, mean_square: Tensor | None = None) -> Tensor:
    """Squared error of features [B, C, h, w] over the teacher's mean square, so that no weight depends on a scale.

    mean_square  the teacher's over the whole batch, if these are not all of its features
    """
    error = (student.float() - teacher.float()).square().mean(dim=(1, 2, 3))
    mean_square = teacher.float().square().mean() if mean_square is None else mean_square
    return error / mean_square.clamp_min(1e-12)


def gaussian_kl_bits(mu_teacher: Tensor, sigma_teacher: Tensor, mu_student: Tensor, sigma_student: Tensor) -> Tensor:
    """Element-wise KL(N_teacher ‖ N_student) in bits: what the student's model wastes on the teacher's latents."""
    ratio = sigma_teacher / sigma_student
    shift = (mu_teacher - mu_student) / sigma_student
    return (0.5 * (ratio.square() + shift.square() - 1) - ratio.log()) / math.log(2)


def latent_sigma(index: Tensor, gain: Tensor) -> Tensor:
    """The standard deviation of y around mu, in y's own units: the residual's scale over the gain; planes."""
    return scale(index.float().clamp(0, SCALE_COUNT - 1)) / gain


def table_kl_bits(teacher_pmf: Tensor, student_pmf: Tensor) -> Tensor:
    """KL(teacher ‖ student) in bits of probability tables over their last dimension: [..., 256] twice → [...]."""
    floor = 1e-9
    ratio = (teacher_pmf.clamp_min(floor) / student_pmf.clamp_min(floor)).log2()
    return (teacher_pmf * ratio).sum(dim=-1)


def require_finite(step: int, figures: Mapping[str, Tensor]) -> None:
    """Raises TrainingStopped if one of a step's figures is not a number. Waits for a GPU."""
    values = torch.stack(list(figures.values()))
    if not values.isfinite().all():
        shown = dict(zip(figures, values.tolist(), strict=True))
        names = [name for name in shown if name not in ("train/bpp", "train/mse", "train/gradient_norm")]
        terms = ", ".join(f"{name.removeprefix('train/')} {shown[name]:.3g}" for name in names)
        raise TrainingStopped(f"the loss is not finite at step {step} ({terms}); try a lower learning rate")
