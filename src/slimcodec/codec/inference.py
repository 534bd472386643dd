"""`Codec`: pictures to bytes and back.

    codec = load("slim-2k");  data = codec.compress(picture, quality=4);  picture = codec.decompress(data)

A file is decoded in two halves. Integers first: z, then h_scale's scale index, then every residual r (codec/symbols).
Floats after: mu, y_hat and the picture. The encoder (codec/encoding) runs the same functions on the same integers, so
it knows the decoder's picture. Big pictures pass the networks window by window (codec/tiling, codec/decoding): what
they take beyond their own pixels has a bound.
"""

from functools import cached_property
from importlib.util import find_spec
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec import bitstream, decoding, pictures, stored, targets, zoo
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.costs import STEPS
from slimcodec.codec.encoding import Encoding
from slimcodec.codec.grid import Window, whole
from slimcodec.codec.isolation import isolated
from slimcodec.codec.progress import Progress
from slimcodec.codec.symbols import SymbolCoder
from slimcodec.codec.targets import DEFAULT_QUALITY
from slimcodec.codec.transforms import Transforms

if TYPE_CHECKING:
    import torch

    from slimcodec.codec.models import Model
    from slimcodec.codec.network import HyperpriorCodec
    from slimcodec.codec.quantise import Quantiser
    from slimcodec.codec.stored import Stored
    from slimcodec.codec.torch_networks import TorchNetworks

BACKENDS = "onnx", "torch"


class Estimate(NamedTuple):
    bits: float  # information content of the symbols under the model's tables, without header and rANS overhead
    pixels: np.ndarray  # uint8 [H, W, 3], the picture that decoding gives


class Codec:
    """A loaded model. `device` and `precision` say how the networks run; the integers of a file depend on neither."""

    @isolated
    def __init__(self, model: "Model | Stored", device: "str | torch.device" = "cpu", precision: str = "float32"):
        self.model, self._how = model, (str(device), precision)
        self.transforms: Transforms = model.transforms(*self._how)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, also one by pickle in another process, is made of the model anew."""
        return type(self), (self.model, *self._how)

    @property
    def network(self) -> "HyperpriorCodec":
        """PyTorch's networks, prepared for inference."""
        return self._torch.codec

    @property
    def coder(self) -> SymbolCoder:
        """Integers ↔ streams."""
        return self.transforms.coder

    @property
    def quantiser(self) -> "Quantiser":
        return self._torch.rounding

    @property
    def device(self) -> "torch.device":
        return self._torch.device

    @property
    def precision(self) -> "torch.dtype | None":
        """Of mixed precision; None for float32."""
        return self._torch.precision

    @property
    def _torch(self) -> "TorchNetworks":
        networks: Any = self._differentiable.networks
        return networks

    @cached_property
    def _differentiable(self) -> Transforms:
        """What effort needs: networks in PyTorch. They are loaded for that if others run this codec."""
        if not isinstance(self.model, stored.Stored):
            return self.transforms
        return _in_pytorch(self.model.directory).transforms()

    @property
    def model_hash(self) -> bytes:
        """As files name the model."""
        return self.transforms.model_hash

    @isolated
    def compress(
        self,
        picture: Image.Image | np.ndarray,
        quality: float | None = None,
        *,
        target_bpp: float | None = None,
        max_bytes: int | None = None,
        target_psnr_db: float | None = None,
        effort: int = 0,
        strip: bool = False,
        tile: int | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """A picture (PIL, or uint8 [H, W], [H, W, 3], [H, W, 4]) of any size → the bytes of a .slim file.

        quality         a real number from 1 (smallest) to 8 (best); 4 if nothing else is asked for
        target_bpp      bits a pixel, everything included, met within 2 %
        max_bytes       the best quality whose file is no larger
        target_psnr_db  the lowest quality whose picture has at least that PSNR (8-bit RGB)
        effort          0 (fast) to 10 (some 10 seconds a megapixel): how long latents are refined; decoding is the same
        strip           leave out the ICC profile, EXIF and XMP
        tile            cells of 64 pixels along the side of an independently coded tile; 0: one; None: by size
        progress        is called with the share that is done, 0 to 1

        Raises InvalidInput for anything else.
        """
        return targets.compress(
            self.encoding(picture, effort=effort, strip=strip, tile=tile, progress=progress),
            self.transforms.architecture.rungs,
            quality=quality,
            target_bpp=target_bpp,
            max_bytes=max_bytes,
            target_psnr_db=target_psnr_db,
        )

    @isolated
    def decompress(
        self,
        data: bytes,
        *,
        region: tuple[int, int, int, int] | None = None,
        max_pixels: int = bitstream.MAX_PIXELS,
        max_memory: int = bitstream.MAX_MEMORY,
        allow_partial: bool = False,
        progress: Progress | None = None,
    ) -> Image.Image:
        """The bytes of a .slim file → the picture, of mode L, LA, RGB or RGBA, with ICC profile, EXIF and XMP in info.

        region       (x, y, width, height): decode that part alone
        max_pixels   refuse a picture of more
        max_memory   bytes: refuse what would take more, pixels included, beyond the library and the model
        allow_partial  decode what a truncated file holds
        progress     is called with the share that is done, 0 to 1

        Raises InvalidFile, for a file of another model, too, and InvalidInput for a region outside the picture.
        """
        contents = bitstream.unpack(data, max_pixels=max_pixels, allow_partial=allow_partial)
        self._check(contents.header)
        return decoding.decode(self.transforms, contents, _area(region, contents.header), max_memory, progress)

    @isolated
    def estimate(self, picture: Image.Image | np.ndarray, quality: float = DEFAULT_QUALITY) -> Estimate:
        """The bits that the streams would take, and the decoded colours, without writing a file."""
        encoding, fixed = self.encoding(picture), self.fixed_quality(quality)
        return Estimate(encoding.bits(fixed), encoding.decoded(fixed))

    @isolated
    def encoding(
        self,
        picture: Image.Image | np.ndarray,
        *,
        effort: int = 0,
        strip: bool = False,
        tile: int | None = None,
        progress: Progress | None = None,
    ) -> Encoding:
        """A picture with its latents, which do not depend on the quality, ready to be written at any."""
        effort = _whole_number(effort, "effort", len(STEPS) - 1)
        tile = None if tile is None else _whole_number(tile, "tile", 255)
        transforms = self._differentiable if effort else self.transforms
        return Encoding(transforms, pictures.from_picture(picture, strip=strip), effort, tile, progress)

    def fixed_quality(self, quality: float) -> int:
        """Quality as 8.8 fixed point; InvalidInput outside 1…8 (the model's number of rungs)."""
        return targets.fixed_quality(quality, self.transforms.architecture.rungs)

    def _check(self, header: bitstream.Header) -> None:
        if header.model_hash != self.model_hash:
            raise InvalidFile(
                f"made with model {header.model_hash.hex()}, this one is {self.model_hash.hex()}: load that model"
            )
        if not QUALITY_ONE <= header.quality <= QUALITY_ONE * self.transforms.architecture.rungs:
            raise InvalidFile(f"quality {header.quality / QUALITY_ONE:g} is outside this model's range")


def load(
    name_or_directory: str | Path,
    device: "str | torch.device" = "cpu",
    precision: str = "float32",
    *,
    backend: str | None = None,
) -> Codec:
    """Load a codec by its name in students/ or teachers/, or by its model directory. Raises InvalidModel.

    precision  "bfloat16" runs the float half of the networks in mixed precision; files stay readable either way
    backend    what runs the networks: "onnx" (ONNX Runtime: light, on the CPU in float32) or "torch" (PyTorch: any
               device); None takes the first that can do what is asked for and is installed. Files are the same but
               for rounding: each reads what the other wrote
    """
    if backend not in (None, *BACKENDS):
        raise InvalidInput(f"backend {backend!r}: must be one of {', '.join(BACKENDS)}")
    plain = str(device) == "cpu" and precision == "float32"
    if backend == "onnx" and not plain:
        raise InvalidInput("backend onnx: runs on the CPU in float32; leave out device and precision, or take torch")
    if backend == "onnx" or (backend is None and plain and _has_onnx(zoo.find(name_or_directory))):
        return Codec(stored.load(name_or_directory))
    return Codec(_in_pytorch(name_or_directory), device, precision)


def _has_onnx(directory: Path) -> bool:
    return find_spec("onnxruntime") is not None and stored.has_graphs(directory)


def _in_pytorch(name_or_directory: str | Path) -> "Model":
    try:
        from slimcodec.codec import models
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"this needs {error.name}, which is not installed: pip install 'slimcodec[torch]'"
        ) from error
    return models.load(name_or_directory)


def _area(region: tuple[int, int, int, int] | None, header: bitstream.Header) -> Window:
    """A region (x, y, width, height) as a window of pixels; InvalidInput if it is not within the picture."""
    if region is None:
        return whole((header.height, header.width))
    try:
        x, y, width, height = map(index, region)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"region {region!r}: must be four whole numbers: x, y, width, height") from error
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > header.width or y + height > header.height:
        raise InvalidInput(f"region {region!r}: is not within the picture of {header.width} x {header.height} pixels")
    return Window(y, x, y + height, x + width)


def _whole_number(value: int, name: str, highest: int) -> int:
    try:
        number = index(value)
    except TypeError:
        number = -1
    if not 0 <= number <= highest:
        raise InvalidInput(f"{name} {value!r}: must be a whole number from 0 to {highest}")
    return number
