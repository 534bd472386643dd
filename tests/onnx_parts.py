"""ONNX networks compared with PyTorch's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from slimcodec.codec.models import Model
from slimcodec.codec.network import HyperpriorCodec, from_planes, round_z, to_planes
from slimcodec.training.onnx_export import Network, networks


@torch.inference_mode()
def largest_differences(model: Model, directory: Path, pixels: np.ndarray, fixed_quality: int) -> dict[str, float]:
    """Network → the largest difference between ONNX Runtime's result and PyTorch's, as a share of the largest value
    (or of 1), on what a real picture, uint8 [H, W, 3] with sides that are multiples of 64, gives each network. Not for
    models of specialists."""
    found: dict[str, float] = {}
    for network in _fed(model.codec, pixels, fixed_quality):
        session = onnxruntime.InferenceSession(directory / f"{network.name}.onnx", providers=["CPUExecutionProvider"])
        (result,) = session.run(None, {name: np.asarray(tensor) for name, tensor in network.inputs.items()})
        expected = evaluated(network, network.inputs)
        found[network.name] = float(np.abs(result - expected).max() / max(1, np.abs(expected).max()))
    return found


@torch.inference_mode()
def evaluated(network: Network, inputs: Mapping[str, Any]) -> np.ndarray:
    """What PyTorch makes of the inputs, tensors or arrays."""
    return network.module(*(torch.as_tensor(values) for values in inputs.values())).numpy()


def _fed(codec: HyperpriorCodec, pixels: np.ndarray, fixed_quality: int) -> list[Network]:
    """The networks, each with what it sees of the picture when residuals are rounded to the nearest."""
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    gain = codec.gain(codec.gain_shift(torch.tensor([fixed_quality])))[:, :, None, None]
    y = codec.g_a(x)
    z_hat = round_z(codec.h_a(y * gain))
    planes, features, inputs = to_planes(y), [codec.h_mean(z_hat)], [x, y * gain, z_hat]
    y_hat = []
    for stage, chosen in codec.stages():
        inputs.append(torch.cat(features, dim=1))
        mu = codec.means(stage, features)
        y_hat.append(codec.latent(mu + ((planes[:, chosen] - mu) * gain[:, None]).round() / gain[:, None]))
        features.append(y_hat[-1].flatten(1, 2))
    inputs.append(from_planes(torch.stack(codec.in_order(y_hat), dim=1)))
    return [
        network._replace(inputs=network.inputs | {next(iter(network.inputs)): first.contiguous()})
        for network, first in zip(networks(codec, features=False), inputs, strict=True)
    ]
