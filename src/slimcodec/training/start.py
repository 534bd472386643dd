"""Start a codec as the linear transform that the photos themselves suggest. Training then refines it.

The trunks of g_a and g_s are linear, and their blocks add to them. Level by level, a downsampling convolution becomes
the principal components of the patches it sees, and an upsampling one the transpose of such components. Together they
are an orthonormal transform, as JPEG's is, and y holds its strongest coefficients. The blocks start switched off.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcodec.codec import rate
from slimcodec.codec.grid import PLANES
from slimcodec.codec.layers import SubPixelConv
from slimcodec.codec.network import MID_GREY, HyperpriorCodec

RIDGE = 1e-6  # of the mean variance, so that regressing on silent latents is well posed


@torch.no_grad()
def start_like(codec: HyperpriorCodec, x: Tensor, y: Tensor) -> None:
    """Set g_a to the linear transform whose latents come nearest to y [B, M, h, w], of crops x [B, 3, H, W]."""
    _start_analysis(codec, x - MID_GREY)
    features, head = codec.g_a.features(x), codec.g_a.head
    means = [tensor.mean(dim=(0, 2, 3), keepdim=True) for tensor in (features, y)]
    weight = _regression(features - means[0], y - means[1])
    head.weight.copy_(weight[:, :, None, None])
    head.bias.copy_(means[1].flatten() - weight @ means[0].flatten())


@torch.no_grad()
def start_from_photos(codec: HyperpriorCodec, x: Tensor, *, keep: Collection[str] = ()) -> None:
    """Set the weights of g_a and g_s and the biases of h_scale from crops x [B, 3, H, W].

    `keep` names parts that are left as they are: g_a or h_scale, where they were inherited.
    """
    if "g_a" not in keep:
        _start_analysis(codec, x - MID_GREY)
    y = codec.g_a(x)
    _start_synthesis(codec, x - MID_GREY, y)
    if "h_scale" not in keep:
        deviation = y.std(dim=(0, 2, 3)).clamp_min(rate.SCALE_MIN / 8)
        index = (deviation / rate.SCALE_MIN).log() / rate.INDEX_STEP
        codec.h_scale.layers[-1].bias.copy_(index.repeat(PLANES))  # mu starts near zero: the residual is y


def _start_analysis(codec: HyperpriorCodec, features: Tensor) -> None:
    scale = 1
    for level in codec.g_a.levels:
        conv, ratio = level.enter, level.enter.stride[0]
        scale *= ratio
        components = _principal_components(F.pixel_unshuffle(features, ratio), conv.out_channels)
        nn.init.zeros_(conv.weight)
        own = slice(conv.padding[0], conv.padding[0] + ratio)  # where in the window this output's own patch is
        conv.weight[: len(components), :, own, own] = components.view(len(components), -1, ratio, ratio)
        switch_off(level.blocks)
        features = conv(features)
    nn.init.eye_(codec.g_a.head.weight.view(codec.g_a.head.weight.shape[:2]))  # the strongest components


def _start_synthesis(codec: HyperpriorCodec, features: Tensor, y: Tensor) -> None:
    """From the picture to the latent: each upsampler undoes the principal components of its own level."""
    levels = codec.g_s.levels
    if codec.architecture.upsampling == "modulated":
        return  # it is not linear: g_s starts at random
    upsamplers = [level.enter for level in levels[1:]] + [codec.g_s.head]
    for upsampler, level in zip(reversed(upsamplers), reversed(levels), strict=True):
        ratio = upsampler.ratio if isinstance(upsampler, SubPixelConv) else upsampler.stride[0]
        patches = F.pixel_unshuffle(features, ratio)
        width = upsampler.conv.in_channels if isinstance(upsampler, SubPixelConv) else upsampler.in_channels
        components = _principal_components(patches, width)
        _set_upsampler(upsampler, components, ratio)
        switch_off(level.blocks)
        components = F.pad(components, (0, 0, 0, width - len(components)))  # channels beyond the patch's dimensions
        features = F.conv2d(patches, components[:, :, None, None])
    enter = levels[0].enter
    nn.init.zeros_(enter.bias)
    enter.weight.copy_(_regression(y, features)[:, :, None, None])


def _set_upsampler(upsampler: nn.Module, components: Tensor, ratio: int) -> None:
    """The transpose of the components: channel c adds them, times its value, to its own ratio × ratio patch."""
    count = len(components)
    if isinstance(upsampler, SubPixelConv):
        weight, centre = upsampler.conv.weight, upsampler.conv.kernel_size[0] // 2
        nn.init.zeros_(weight)
        weight[:, :count, centre, centre] = components.t()
        return
    nn.init.zeros_(upsampler.weight)
    own = slice(upsampler.padding[0], upsampler.padding[0] + ratio)
    upsampler.weight[:count, :, own, own] = components.view(count, -1, ratio, ratio)


def _principal_components(patches: Tensor, count: int) -> Tensor:
    """The `count` strongest (or as many as there are) directions of patches [B, D, h, w] around zero: [count, D]."""
    columns = patches.transpose(0, 1).flatten(1).double()
    _, vectors = torch.linalg.eigh(columns @ columns.t() / columns.shape[1])  # ascending
    return vectors.flip(1)[:, :count].t().float()


def _regression(known: Tensor, wanted: Tensor) -> Tensor:
    """The matrix [C, M] that best predicts [B, C, h, w] from [B, M, h, w], by least squares."""
    inputs, targets = (tensor.transpose(0, 1).flatten(1).double() for tensor in (known, wanted))
    covariance = inputs @ inputs.t()
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    return torch.linalg.solve(covariance + ridge, inputs @ targets.t()).t().float()


def switch_off(blocks: nn.Sequential) -> None:
    for block in blocks:
        nn.init.zeros_(block.project.weight)
        nn.init.zeros_(block.project.bias)
