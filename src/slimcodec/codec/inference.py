"""`Codec`: pictures to bytes and back.

    codec = load("slim-2k");  data = codec.compress(picture, quality=4);  picture = codec.decompress(data)

A file is decoded in two halves. Integers first: z, then h_scale's scale index, then every residual r (codec/symbols).
Floats after: mu, y_hat and the picture. The encoder (codec/encoding) runs the same functions on the same integers, so
it knows the decoder's picture. Big pictures pass the networks window by window (codec/tiling, codec/decoding): what
they take beyond their own pixels has a bound.

PyTorch is imported by the first codec, not with this module: `dir(slimcodec)` and `help(slimcodec)` come here, too.
"""

from collections.abc import Iterable
from functools import cached_property
from importlib.util import find_spec
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

import numpy as np
from PIL import Image

from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec import batch, bitstream, cards, hub, pictures, targets, zoo
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.grid import Window, whole
from slimcodec.codec.isolation import isolated
from slimcodec.codec.pictures import AnyPicture
from slimcodec.codec.progress import Progress
from slimcodec.codec.targets import DEFAULT_QUALITY

if TYPE_CHECKING:
    import torch

    from slimcodec.codec.encoding import Encoding
    from slimcodec.codec.models import Model
    from slimcodec.codec.network import HyperpriorCodec
    from slimcodec.codec.quantise import Quantiser
    from slimcodec.codec.stored import Stored
    from slimcodec.codec.symbols import SymbolCoder
    from slimcodec.codec.torch_networks import TorchNetworks
    from slimcodec.codec.transforms import Transforms

BACKENDS = "onnx", "torch"


class CompressSettings(TypedDict, total=False):
    """The keywords of `Codec.compress`."""

    quality: float | None
    target_bpp: float | None
    max_bytes: int | None
    target_psnr_db: float | None
    scale: float | str | None
    effort: int
    strip: bool
    tile: int | None
    progress: Progress | None


class DecompressSettings(TypedDict, total=False):
    """The keywords of `Codec.decompress`."""

    region: tuple[int, int, int, int] | None
    max_pixels: int
    max_memory: int
    allow_partial: bool
    progress: Progress | None


class Estimate(NamedTuple):
    bits: float  # information content of the symbols under the model's tables, without header and rANS overhead, and
    # the corrections and the filter
    pixels: np.ndarray  # uint8 [H, W, 3], the picture that decoding gives


class Codec:
    """A loaded model. `device` and `precision` say how the networks run; the integers of a file depend on neither."""

    @isolated
    def __init__(
        self, model: "Model | Stored", device: "str | torch.device" = "cpu", precision: str = "float32"
    ) -> None:
        self.model, self._how = model, (str(device), precision)
        self.transforms: Transforms = model.transforms(*self._how)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, also one by pickle in another process, is made of the model anew."""
        return type(self), (self.model, *self._how)

    def __repr__(self) -> str:
        info = self.model.info
        decoder, encoder = (info[f"{side}_macs_per_pixel"] / 1000 for side in ("decoder", "encoder"))
        return (
            f"<slimcodec.Codec {self.model.directory.resolve().name!r}: {info['role']}, "
            f"{decoder:.2f} kMAC/pixel to decode, {encoder:.2f} to encode, "
            f"{self.transforms.networks.description}, model {self.model_hash.hex()}>"
        )

    @property
    def network(self) -> "HyperpriorCodec":
        """PyTorch's networks, prepared for inference. Raises InvalidInput where PyTorch is not installed."""
        return self._torch.codec

    @property
    def coder(self) -> "SymbolCoder":
        """Integers ↔ streams."""
        return self.transforms.coder

    @property
    def quantiser(self) -> "Quantiser":
        return self._torch.rounding

    @property
    def device(self) -> "torch.device | str":
        """Where the networks run: "cpu" of those in ONNX Runtime."""
        return self.transforms.networks.device

    @property
    def precision(self) -> "torch.dtype | None":
        """Of mixed precision; None for float32."""
        return self.transforms.networks.precision

    @property
    def _torch(self) -> "TorchNetworks":
        networks: Any = self._differentiable.networks
        return networks

    @cached_property
    def _differentiable(self) -> "Transforms":
        """What effort needs: networks in PyTorch. They are loaded for that if others run this codec."""
        from slimcodec.codec.stored import Stored

        if not isinstance(self.model, Stored):
            return self.transforms
        return _in_pytorch(self.model.directory).transforms()

    @property
    def model_hash(self) -> bytes:
        """As files name the model."""
        return self.transforms.model_hash

    @isolated
    def compress(
        self,
        picture: AnyPicture,
        quality: float | None = None,
        *,
        target_bpp: float | None = None,
        max_bytes: int | None = None,
        target_psnr_db: float | None = None,
        scale: float | str | None = None,
        effort: int = 0,
        strip: bool = False,
        tile: int | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """A picture of any size → the bytes of a .slim file.

        It may be a PIL image, a numpy array uint8 [H, W], [H, W, 3] or [H, W, 4], a PyTorch tensor uint8 [3, H, W] or
        [1, H, W], the path of a picture file, or such a file's bytes.

        quality         a real number from 1 (smallest) to 8 (best); 4 if nothing else is asked for
        target_bpp      bits a pixel, everything included, met within 2 %
        max_bytes       the best quality whose file is no larger
        target_psnr_db  the lowest quality whose picture has at least that PSNR (8-bit RGB); a warning says where the
                        lowest of all has more
        scale           1, 0.75, 0.5 or 0.25 of its width and height, at which the picture is coded, or "best" of them;
                        None: 1, and the best of the others where a target is below what quality 1 gives
        effort          0 (fast) to 10 (some 10 seconds a megapixel): how long latents are refined; decoding is the same
        strip           leave out the ICC profile, EXIF and XMP
        tile            cells of 64 pixels along the side of an independently coded tile; 0: one; None: by size
        progress        is called with the share that is done, 0 to 1

        Raises InvalidInput for anything else.
        """
        targets.quarters_of(scale)
        prepared = pictures.from_picture(picture, strip=strip)
        return targets.compress(
            lambda quarters, first: self._encoding(prepared, effort, tile, progress if first else None, quarters),
            self.transforms.architecture.rungs,
            scale,
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
        from slimcodec.codec import decoding

        contents = bitstream.unpack(data, max_pixels=max_pixels, allow_partial=allow_partial)
        self._check(contents.header)
        return decoding.decode(self.transforms, contents, _area(region, contents.header), max_memory, progress)

    def compress_batch(
        self, pictures: Iterable[AnyPicture], *, jobs: int | None = None, **settings: Unpack[CompressSettings]
    ) -> list[bytes]:
        """Pictures → the bytes of their .slim files, in the same order. `settings` are those of `compress`.

        `jobs` pictures are compressed at a time, each by its share of the processor's cores. Without it there are as
        many as cores, and one on another device. Each takes the memory of a picture.
        """
        return list(batch.in_threads(lambda picture: self.compress(picture, **settings), pictures, self._jobs(jobs)))

    def decompress_batch(
        self, files: Iterable[bytes], *, jobs: int | None = None, **settings: Unpack[DecompressSettings]
    ) -> list[Image.Image]:
        """The bytes of .slim files → their pictures, in the same order. `settings` are those of `decompress`.

        `jobs` is as in `compress_batch`.
        """
        return list(batch.in_threads(lambda data: self.decompress(data, **settings), files, self._jobs(jobs)))

    def _jobs(self, jobs: int | None) -> int:
        if jobs is None:
            return batch.cores() if self.transforms.networks.on_cpu else 1
        return targets.whole_number(jobs, "jobs", low=1)

    @isolated
    def psnr_db(self, picture: AnyPicture, data: bytes) -> float:
        """What is left of a picture in its .slim file: PSNR on 8-bit RGB; infinite where nothing is lost."""
        from slimcodec.codec import decoding, encoding

        return encoding.psnr_db(pictures.from_picture(picture).pixels, decoding.colours(self.transforms, data))

    @isolated
    def estimate(self, picture: AnyPicture, quality: float = DEFAULT_QUALITY) -> Estimate:
        """The bits that streams, corrections and a filter would take, and the decoded colours; no file is written."""
        encoding, fixed = self.encoding(picture), self.fixed_quality(quality)
        pixels = encoding.decoded(fixed)
        return Estimate(encoding.bits(fixed) + encoding.correction_bits(fixed), pixels)

    @isolated
    def encoding(
        self,
        picture: AnyPicture,
        *,
        effort: int = 0,
        strip: bool = False,
        tile: int | None = None,
        progress: Progress | None = None,
    ) -> "Encoding":
        """A picture with its latents, which do not depend on the quality, ready to be written at any."""
        return self._encoding(pictures.from_picture(picture, strip=strip), effort, tile, progress)

    def _encoding(
        self, picture: pictures.Picture, effort: int, tile: int | None, progress: Progress | None, quarters: int = 4
    ) -> "Encoding":
        from slimcodec.codec.encoding import Encoding

        effort = targets.checked_effort(effort)
        tile = None if tile is None else targets.whole_number(tile, "tile", high=255)
        transforms = self._differentiable if effort else self.transforms
        return Encoding(transforms, picture, effort, tile, progress, quarters)

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
    name_or_directory: str | Path | None = None,
    device: "str | torch.device" = "cpu",
    precision: str = "float32",
    *,
    backend: str | None = None,
) -> Codec:
    """Load a codec by its name in students/ or teachers/, or by its model directory; the default student without one.

    "hf://owner/name" is a model on the Hugging Face Hub, "hf://owner/name@revision" a pinned one (codec/hub).

    device     "auto" is a GPU where there is one
    precision  "bfloat16" runs the float half of the networks in mixed precision; files stay readable either way
    backend    what runs the networks: "onnx" (ONNX Runtime: light, on the CPU in float32) or "torch" (PyTorch: any
               device); None takes the first that can do what is asked for and is installed. Files are the same but
               for rounding: each reads what the other wrote

    Raises InvalidModel when there is no such model, or when it is damaged.
    """
    from slimcodec.codec import stored

    found = zoo.default_student() if name_or_directory is None else name_or_directory
    if backend not in (None, *BACKENDS):
        raise InvalidInput(f"backend {backend!r}: must be one of {', '.join(BACKENDS)}")
    plain = str(device) == "cpu" and precision == "float32"
    if backend == "onnx" and not plain:
        raise InvalidInput("backend onnx: runs on the CPU in float32; leave out device and precision, or take torch")
    light = plain and find_spec("onnxruntime") is not None
    if backend == "onnx" or (backend is None and light and stored.runs_without_pytorch(zoo.find(found))):
        return Codec(stored.load(found))
    return Codec(_in_pytorch(found), device, precision)


def _in_pytorch(name_or_directory: str | Path) -> "Model":
    try:
        from slimcodec.codec import models
    except ModuleNotFoundError as error:
        message = f"this needs {error.name}, which is not installed: pip install 'slimcodec[torch]'"
        raise InvalidInput(message) from error
    return models.load(name_or_directory)


def push_to_hub(directory: str | Path, repository: str, *, private: bool = False) -> str:
    """Publish a model directory on the Hugging Face Hub as owner/name → its address, hf://owner/name@commit.

    The card goes with it, with what the Hub lists models by; what only further training needs does not. A token with
    the right to write comes from `hf auth login` or HF_TOKEN. Needs slimcodec[hub].

    Raises InvalidModel for a directory that could not be loaded, and for what the Hub refuses.
    """
    info, directory = load(directory).model.info, Path(directory)
    card = hub.front_matter(info["role"], info["licence"].partition(",")[0].lower())
    card += cards.render_card(repository.rpartition("/")[2], info, address=hub.SCHEME + repository)
    names = [zoo.DESCRIPTION, zoo.WEIGHTS, *map(zoo.graph_file, zoo.graphs(directory))]
    files = {name: directory / name for name in names} | {zoo.CARD: card.encode()}
    return hub.upload(repository, files, private=private, message=f"slimcodec {info['role']}")


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
