"""`Codec`: pictures to bytes and back.

    codec = load("slim");  data = codec.compress(picture, quality=4);  picture = codec.decompress(data)

A file is decoded in two halves. Integers first: z, then h_scale's scale index, then every residual r. Floats after:
mu, y_hat and the picture. The encoder runs the same functions on the same integers, so it knows the decoder's picture.
"""

from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from slimcodec import InvalidFile, InvalidInput, InvalidModel
from slimcodec.codec import bitstream, entropy, models
from slimcodec.codec.network import ALIGNMENT, PLANES, QUALITY_ONE, from_planes, round_z, to_planes
from slimcodec.codec.rate import SCALE_COUNT

HASH_BYTES = 8
Z_MINIMUM = -128
RESIDUAL_LIMIT = 2**15 - 1  # an escaped residual is an int16
TABLE_SHAPES = {"z_frequencies": ("Q", "N", 256), "r_frequencies": ("S",), "r_sizes": (SCALE_COUNT,)}


class Symbols(NamedTuple):
    """The integers of one picture, all a file's payload says."""

    z: np.ndarray  # int32 [N, h/2, w/2]
    r: np.ndarray  # int32 [4, M, h, w], planes at 1/32


class Estimate(NamedTuple):
    bits: float  # information content of the symbols under the model's tables, without header and rANS overhead
    pixels: np.ndarray  # uint8 [H, W, 3], the picture that decoding gives


class Codec:
    """A loaded model. `device` is where the networks run; which device it is never changes the integers of a file."""

    def __init__(self, model: models.Model, device: str | torch.device = "cpu"):
        self.model = model
        try:
            self.device = torch.device(device)
            self.network = model.codec.eval().to(self.device, memory_format=torch.channels_last)
        except (RuntimeError, AssertionError) as error:
            raise InvalidInput(f"device {device}: cannot be used here ({str(error).splitlines()[0]})") from error
        self.z_tables, self.r_tables = entropy_tables(model.tables)
        expected = self.network.architecture.rungs, self.network.architecture.hypers
        if model.tables["z_frequencies"].shape[:2] != expected:
            path = model.directory / models.WEIGHTS
            raise InvalidModel(f"{path}: tables.z_frequencies must begin with {expected}, rungs and channels")

    @property
    def model_hash(self) -> bytes:
        return bytes.fromhex(self.model.sha256)[:HASH_BYTES]

    def compress(self, picture: Image.Image | np.ndarray, quality: float = 4.0) -> bytes:
        """An RGB picture (PIL, or uint8 [H, W, 3]) of any size → the bytes of a .slim file.

        quality is a real number from 1 (smallest) to 8 (best). Raises InvalidInput for anything else.
        """
        pixels = rgb_pixels(picture)
        height, width, _ = pixels.shape
        fixed = self.fixed_quality(quality)
        symbols, _ = self.encode(pixels, fixed)
        header = bitstream.Header(self.model_hash, width, height, fixed)
        return bitstream.pack(header, self.write_symbols(symbols, fixed))

    def decompress(self, data: bytes, *, max_pixels: int = bitstream.MAX_PIXELS) -> Image.Image:
        """The bytes of a .slim file → the RGB picture.

        Raises InvalidFile, also for a file of another model and for a picture of more than max_pixels.
        """
        header, payload = bitstream.unpack(data, max_pixels=max_pixels)
        if header.model_hash != self.model_hash:
            raise InvalidFile(
                f"made with model {header.model_hash.hex()}, this one is {self.model_hash.hex()}: load that model"
            )
        if not QUALITY_ONE <= header.quality <= QUALITY_ONE * self.network.architecture.rungs:
            raise InvalidFile(f"quality {header.quality / QUALITY_ONE:g} is outside this model's range")
        symbols = self.read_symbols(payload, header.width, header.height, header.quality)
        return Image.fromarray(self.decode(symbols, header.width, header.height, header.quality))

    def estimate(self, picture: Image.Image | np.ndarray, quality: float = 4.0) -> Estimate:
        """The bits that the payload would take, and the decoded picture, without writing a file."""
        fixed = self.fixed_quality(quality)
        pixels = rgb_pixels(picture)
        symbols, y_hat = self.encode(pixels, fixed)
        z_bits = entropy.information_bits(symbols.z, self._z_index(symbols.z.shape, fixed), self.z_tables)
        r_bits = entropy.information_bits(symbols.r, self.scale_index(symbols.z, fixed), self.r_tables)
        return Estimate(z_bits + r_bits, self._picture(y_hat, pixels.shape[1], pixels.shape[0]))

    def fixed_quality(self, quality: float) -> int:
        """Quality as 8.8 fixed point; InvalidInput outside 1…8 (the model's number of rungs)."""
        rungs = self.network.architecture.rungs
        if not isinstance(quality, Real) or not 1 <= quality <= rungs:
            raise InvalidInput(f"quality {quality!r}: must be a number from 1 to {rungs}")
        return round(quality * QUALITY_ONE)

    @torch.inference_mode()
    def encode(self, pixels: np.ndarray, fixed_quality: int) -> tuple[Symbols, Tensor]:
        """uint8 [H, W, 3] → the file's integers, and the planes y_hat that the decoder will rebuild from them."""
        network = self.network
        shift = network.gain_shift(torch.tensor([fixed_quality], device=self.device))
        gain = network.gain(shift)
        y = network.g_a(self._padded(pixels))
        z_hat = round_z(network.h_a(y * gain[:, :, None, None]))
        planes = to_planes(y)
        r = torch.zeros_like(planes)

        def residual(chosen: list[int], mu: Tensor) -> Tensor:
            exact = (planes[:, chosen] - mu) * gain[:, None, :, None, None]
            r[:, chosen] = exact.round().clamp(-RESIDUAL_LIMIT, RESIDUAL_LIMIT)
            return r[:, chosen]

        y_hat, _ = network.decode_planes(z_hat, gain, residual)
        if not all(tensor.isfinite().all() for tensor in (y, z_hat, y_hat)):
            raise InvalidModel(f"{self.model.directory}: gives latents that are not finite; its weights are broken")
        return Symbols(_integers(z_hat), _integers(r)), y_hat

    @torch.inference_mode()
    def decode(self, symbols: Symbols, width: int, height: int, fixed_quality: int) -> np.ndarray:
        """The file's integers → uint8 [H, W, 3]."""
        network = self.network
        gain = network.gain(network.gain_shift(torch.tensor([fixed_quality], device=self.device)))
        r = torch.from_numpy(symbols.r).to(self.device, torch.float32)[None]
        z_hat = torch.from_numpy(symbols.z).to(self.device, torch.float32)[None]
        y_hat, _ = network.decode_planes(z_hat, gain, lambda chosen, _: r[:, chosen])
        return self._picture(y_hat, width, height)

    @torch.inference_mode()
    def scale_index(self, z: np.ndarray, fixed_quality: int) -> np.ndarray:
        """z int32 [N, h/2, w/2] → the scale-table entry of every residual, int32 [4, M, h, w]: integers throughout."""
        shift = self.network.gain_shift(torch.tensor([fixed_quality], device=self.device))
        index = self.network.scale_index(torch.from_numpy(z).to(self.device)[None], shift)
        return _integers((index + 0.5).floor().clamp(0, SCALE_COUNT - 1))

    def write_symbols(self, symbols: Symbols, fixed_quality: int) -> bytes:
        """The payload: one rANS stream of z, then of each stage's planes in order."""
        encoder = entropy.Encoder()
        encoder.put(symbols.z, self._z_index(symbols.z.shape, fixed_quality), self.z_tables)
        index = self.scale_index(symbols.z, fixed_quality)
        for planes in self.network.architecture.stages:
            encoder.put(symbols.r[list(planes)], index[list(planes)], self.r_tables)
        return encoder.finish()

    def read_symbols(self, payload: bytes, width: int, height: int, fixed_quality: int) -> Symbols:
        """The inverse of `write_symbols`, for a picture of this size. Raises InvalidFile if the payload is damaged."""
        decoder = entropy.Decoder(payload)
        rows, columns = -(-height // ALIGNMENT), -(-width // ALIGNMENT)
        shape = (self.network.architecture.hypers, rows, columns)
        z = decoder.get(self._z_index(shape, fixed_quality), self.z_tables)
        index = self.scale_index(z, fixed_quality)
        r = np.empty((PLANES, *index.shape[1:]), np.int32)
        for planes in self.network.architecture.stages:
            r[list(planes)] = decoder.get(index[list(planes)], self.r_tables)
        decoder.finish()
        return Symbols(z, r)

    def _z_index(self, shape: tuple[int, int, int], fixed_quality: int) -> np.ndarray:
        """The table of every z: that of its channel at the nearest rung."""
        rung = min((fixed_quality + QUALITY_ONE // 2) // QUALITY_ONE, self.network.architecture.rungs) - 1
        channel = np.arange(shape[0], dtype=np.int32) + rung * shape[0]
        return np.broadcast_to(channel[:, None, None], shape)

    def _padded(self, pixels: np.ndarray) -> Tensor:
        """uint8 [H, W, 3] → float [1, 3, H', W'] in [0, 1], edges repeated up to multiples of 64."""
        x = torch.tensor(pixels, device=self.device).permute(2, 0, 1)[None].float() / 255
        height, width = x.shape[-2:]
        return F.pad(x, (0, -width % ALIGNMENT, 0, -height % ALIGNMENT), mode="replicate")

    @torch.inference_mode()
    def _picture(self, y_hat: Tensor, width: int, height: int) -> np.ndarray:
        x_hat = self.network.g_s(from_planes(y_hat).contiguous(memory_format=torch.channels_last))
        pixels = (x_hat[0, :, :height, :width] * 255).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(1, 2, 0).contiguous().cpu().numpy()


def load(name_or_directory: str | Path, device: str | torch.device = "cpu") -> Codec:
    """Load a codec by its name in students/ or teachers/, or by its model directory. Raises InvalidModel."""
    return Codec(models.load(name_or_directory), device)


def entropy_tables(tables: dict[str, Tensor]) -> tuple[entropy.Tables, entropy.Tables]:
    """The tables of a model directory → (those of z, one a rung and channel; those of r, one a scale).

    Raises InvalidModel when one is missing, of the wrong shape or type, or no probability table.
    """
    for name, shape in TABLE_SHAPES.items():
        if name not in tables or tables[name].dtype.is_floating_point or not _fits(tables[name].shape, shape):
            raise InvalidModel(f"{models.WEIGHTS}: {models.TABLES}{name} is missing or not integers of shape {shape}")
    z, r, sizes = (tables[name].to(torch.int32).numpy() for name in TABLE_SHAPES)
    channels = z.shape[0] * z.shape[1]
    z_tables = entropy.build_tables(
        z.ravel(), np.full(channels, z.shape[2]), np.full(channels, Z_MINIMUM), escape=False
    )
    # A table of r holds -R…R and the escape.
    return z_tables, entropy.build_tables(r, sizes, -((sizes - 2) // 2), escape=True)


def _fits(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    """Whether a shape is the expected one, in which a string stands for any number."""
    return len(shape) == len(expected) and all(
        isinstance(e, str) or s == e for s, e in zip(shape, expected, strict=True)
    )


def rgb_pixels(picture: Image.Image | np.ndarray) -> np.ndarray:
    """A PIL picture of 8 bits a channel, or an array, → uint8 [H, W, 3]; InvalidInput if it is neither or is empty.

    Transparency is dropped. Deeper pictures (PIL's I, F) are refused: Pillow would clip them to white.
    """
    if isinstance(picture, Image.Image):
        if picture.mode.startswith(("I", "F")):
            raise InvalidInput(f"the picture has PIL mode {picture.mode}; scale it to 8 bits a channel first")
        try:
            picture = np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise InvalidInput(f"the picture cannot be read ({error})") from error
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InvalidInput("the picture must be a PIL image or a uint8 array [height, width, 3]")
    if picture.size == 0:
        raise InvalidInput("the picture has no pixels")
    return np.ascontiguousarray(picture)


def _integers(x: Tensor) -> np.ndarray:
    """[1, ...] tensor of integer values → int32 [...]."""
    return x[0].to("cpu", torch.int32).contiguous().numpy()
