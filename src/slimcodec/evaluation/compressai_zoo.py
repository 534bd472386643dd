"""CompressAI's pretrained models, where their weights are on disk: nothing is downloaded, and no pickle is executed.

    ~/.cache/torch/hub/checkpoints/bmshj2018-hyperprior-1-7eb97409.pth.tar ──weights_only──► model of quality 1

The files are where CompressAI puts them, under the names that it has for them. $TORCH_HOME moves the folder.
"""

import pickle
import struct
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from slimcodec import InvalidFile, InvalidInput

REMEDY = "have CompressAI load it once where there is a network, or copy it there"
GRID = 64  # sides of what the networks take
# Height and width of the picture, and of the smallest latent; then a count of strings, and each string's length.
HEADER, LENGTH = struct.Struct("<HHHHB"), struct.Struct("<I")
_QUALITIES = {
    "bmshj2018-factorized": 8,
    "bmshj2018-hyperprior": 8,
    "mbt2018-mean": 8,
    "mbt2018": 8,
    "cheng2020-anchor": 6,
    "cheng2020-attn": 6,
}
NAMES = tuple(f"compressai-{architecture}" for architecture in _QUALITIES)


@dataclass(frozen=True)
class CompressaiCodec:
    """One architecture of the zoo, trained for MSE, as `points.measure` takes it: a model for each quality."""

    name: str  # one of NAMES
    kind: ClassVar[str] = "anchor"

    @property
    def architecture(self) -> str:
        return self.name.removeprefix("compressai-")

    @property
    def qualities(self) -> tuple[float, ...]:
        """Those whose weights are on disk."""
        if find_spec("compressai") is None:
            return ()
        return tuple(float(q) for q in range(1, _QUALITIES[self.architecture] + 1) if self._path(q).is_file())

    @property
    def settings(self) -> str:
        import compressai

        return f"CompressAI {compressai.__version__}, {self.architecture}, trained for MSE, cpu"

    def unavailable(self) -> str | None:
        """Why this cannot run here, with the remedy; None when it can."""
        if find_spec("compressai") is None:
            return "CompressAI is not installed; pip install compressai"
        return None if self.qualities else f"there is no {self._path(1)}; {REMEDY}"

    def compress(self, picture: Image.Image, quality: float) -> bytes:
        import torch

        network = _loaded(self.architecture, quality, self._path(quality))
        pixels = np.asarray(picture.convert("RGB"))
        height, width = pixels.shape[:2]
        pads = ((0, -height % GRID), (0, -width % GRID), (0, 0))
        padded = np.pad(pixels, pads, mode="edge").astype(np.float32) / 255
        with torch.no_grad():
            found = network.compress(torch.from_numpy(padded).permute(2, 0, 1)[None])
        strings = [of_part[0] for of_part in found["strings"]]
        head = HEADER.pack(height, width, *found["shape"], len(strings))
        body = b"".join(LENGTH.pack(len(string)) + string for string in strings)
        return bytes([round(quality)]) + head + body

    def decompress(self, data: bytes) -> Image.Image:
        import torch

        quality, start = data[0], 1 + HEADER.size
        height, width, *shape, count = HEADER.unpack(data[1:start])
        strings = []
        for _ in range(count):
            (length,) = LENGTH.unpack_from(data, start)
            start += LENGTH.size
            strings.append([data[start : start + length]])
            start += length
        with torch.no_grad():
            found = _loaded(self.architecture, quality, self._path(quality)).decompress(strings, shape)["x_hat"]
        pixels = (255 * found[0, :, :height, :width].clamp(0, 1)).round().byte()
        return Image.fromarray(pixels.permute(1, 2, 0).numpy())

    def _path(self, quality: float) -> Path:
        return folder() / _file_names(self.architecture).get(round(quality), "")


def folder() -> Path:
    """Where the weights are."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


@cache
def _file_names(architecture: str) -> dict[int, str]:
    from compressai.zoo.image import model_urls

    return {quality: PurePosixPath(url).name for quality, url in model_urls[architecture]["mse"].items()}


@cache
def _loaded(architecture: str, quality: float, path: Path) -> Any:
    import torch
    from compressai.zoo.image import model_architectures
    from compressai.zoo.pretrained import load_pretrained

    if not path.is_file():
        raise InvalidInput(f"{architecture} has no weights of quality {quality:g} here: there is no {path}; {REMEDY}")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        network = model_architectures[architecture].from_state_dict(load_pretrained(weights)).eval()
    except (pickle.UnpicklingError, RuntimeError, KeyError, EOFError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidFile(f"{path}: is no file of {architecture}'s weights ({reason}); {REMEDY}") from error
    network.update()
    return network
