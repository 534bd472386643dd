"""The networks of the entropy model: h_a, h_scale, h_mean and the stages of the context. codec/network joins them."""

import torch
from torch import Tensor, nn

from slimcodec.codec.architecture import Architecture
from slimcodec.codec.grid import PLANES
from slimcodec.codec.layers import IntegerConv2d, SubPixelConv, conv2d, downsample


class HyperAnalysis(nn.Sequential):
    """h_a: y·gain [B, M, H/16, W/16] → z [B, N, H/64, W/64]."""

    def __init__(self, architecture: Architecture):
        (first, second), kernel = architecture.h_a, architecture.hyper_downsampling_kernel
        super().__init__(
            downsample(architecture.latents, first, 2, kernel),
            nn.ReLU(),
            conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            downsample(second, architecture.hypers, 2, kernel),
        )


class HyperMean(nn.Sequential):
    """h_mean: z_hat [B, N, H/64, W/64] → p [B, P, H/32, W/32]."""

    def __init__(self, architecture: Architecture):
        first, second, features = architecture.h_mean
        super().__init__(
            conv2d(architecture.hypers, first, 3, padding=1),
            nn.ReLU(),
            SubPixelConv(first, second, 2, kernel=1),
            nn.ReLU(),
            conv2d(second, features, 3, padding=1),
            nn.ReLU(),
        )


class ContextStage(nn.Sequential):
    """c_k: p and the planes decoded so far, [B, P + done·M, H/32, W/32] → mu of this stage's planes, [B, n·M, …]."""

    def __init__(self, inputs: int, hidden: int, outputs: int, kind: str):
        depthwise = [conv2d(inputs, inputs, 3, padding=1, groups=inputs), conv2d(inputs, hidden, 1)]
        full = [conv2d(inputs, hidden, 3, padding=1)]
        super().__init__(*(depthwise if kind == "depthwise" else full), nn.ReLU(), conv2d(hidden, outputs, 1))


class ScaleNetwork(nn.Module):
    """h_scale: z_hat [B, N, H/64, W/64] → scale index at gain 1 in 1/16 steps, integers [B, 4·M, H/32, W/32].

    In training float32 stands for the integers; in eval mode float64 holds them exactly, on every device.
    """

    def __init__(self, architecture: Architecture):
        super().__init__()
        first, second, third = architecture.h_scale
        outputs = PLANES * architecture.latents
        self.layers = nn.ModuleList(
            [
                IntegerConv2d(architecture.hypers, first, 3, input_bits=0),
                IntegerConv2d(first, second, 1, input_bits=4, ratio=2),
                IntegerConv2d(second, third, 3, input_bits=4),
                IntegerConv2d(third, outputs, 1, input_bits=4, last=True),
            ]
        )
        nn.init.constant_(self.integer_layers[-1].bias, 18)  # index 18 is a scale of about 1: where y starts

    @property
    def integer_layers(self) -> list[IntegerConv2d]:
        """The layers, as long as they are not packed."""
        return list(self.layers)  # type: ignore[arg-type]  # nothing else is in it

    def forward(self, z_hat: Tensor) -> Tensor:
        with torch.autocast(z_hat.device.type, enabled=False):
            x = z_hat.float() if self.training else z_hat.double()
            for layer in self.layers:
                x = layer(x)
            return x
