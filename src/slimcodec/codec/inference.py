"""`Codec`: pictures to bytes and back.

    codec = load("slim-2k");  data = codec.compress(picture, quality=4);  picture = codec.decompress(data)

A file is decoded in two halves. Integers first: z, then h_scale's scale index, then every residual r (codec/symbols).
Floats after: mu, y_hat and the picture. The encoder (codec/encoding) runs the same functions on the same integers, so
it knows the decoder's picture. Big pictures pass the networks window by window (codec/tiling, codec/decoding): what
they take beyond their own pixels has a bound.
"""

from copy import deepcopy
from numbers import Real
from operator import index
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from slimcodec import InvalidFile, InvalidInput, InvalidModel
from slimcodec.codec import bitstream, decoding, heap, models, pictures, targets
from slimcodec.codec.encoding import Encoding
from slimcodec.codec.isolation import isolated
from slimcodec.codec.network import ALIGNMENT, LATENT_SCALE, QUALITY_ONE, join_planes, round_z, to_planes
from slimcodec.codec.progress import Progress, tell
from slimcodec.codec.quantise import Quantiser
from slimcodec.codec.refine import STEPS
from slimcodec.codec.symbols import SymbolCoder, Symbols
from slimcodec.codec.tiling import (
    LATENTS,
    Trimmed,
    Window,
    analysis_margin,
    is_big,
    latent_margin,
    synthesis_margin,
    whole,
)

HASH_BYTES = 8
RESIDUAL_LIMIT = 2**15 - 1  # an escaped residual is an int16
DEFAULT_QUALITY = 4.0
TRANSFORM_TILE = 64  # latents: g_a and g_s take pieces of at most 1024 x 1024 pixels and their margins
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


class Estimate(NamedTuple):
    bits: float  # information content of the symbols under the model's tables, without header and rANS overhead
    pixels: np.ndarray  # uint8 [H, W, 3], the picture that decoding gives


class Codec:
    """A loaded model. `device` and `precision` say how the networks run; the integers of a file depend on neither."""

    @isolated
    def __init__(self, model: models.Model, device: str | torch.device = "cpu", precision: str = "float32"):
        self.model = model
        if precision not in PRECISIONS:
            raise InvalidInput(f"precision {precision!r}: must be one of {', '.join(PRECISIONS)}")
        self.precision = PRECISIONS[precision]
        try:
            self.device = torch.device(device)
            self.network = deepcopy(model.codec).eval().to(self.device, memory_format=torch.channels_last)
        except (RuntimeError, AssertionError) as error:
            raise InvalidInput(f"device {device}: cannot be used here ({str(error).splitlines()[0]})") from error
        self.network.requires_grad_(False)
        self.network.pack()
        try:
            self.coder = SymbolCoder(self.network, model.tables)
        except InvalidModel as error:
            raise InvalidModel(f"{model.directory / models.WEIGHTS}: {error}") from error
        self.quantiser = Quantiser(model.tables, self.device)
        architecture = self.network.architecture
        self.margins = analysis_margin(architecture), latent_margin(architecture), synthesis_margin(architecture)

    def __reduce__(self):
        """A copy, also one by pickle in another process, is made of the model anew."""
        precision = next(name for name, dtype in PRECISIONS.items() if dtype == self.precision)
        return type(self), (self.model, str(self.device), precision)

    @property
    def model_hash(self) -> bytes:
        return bytes.fromhex(self.model.sha256)[:HASH_BYTES]

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
        return decoding.decode(self, contents, _area(region, contents.header), max_memory, progress)

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
        return Encoding(self, pictures.from_picture(picture, strip=strip), effort, tile, progress)

    def fixed_quality(self, quality: float) -> int:
        """Quality as 8.8 fixed point; InvalidInput outside 1…8 (the model's number of rungs)."""
        rungs = self.network.architecture.rungs
        if isinstance(quality, bool) or not isinstance(quality, Real) or not 1 <= quality <= rungs:
            raise InvalidInput(
                f"quality {quality!r}: must be a number from 1 to {rungs}; JPEG's 0 to 100 is another scale"
            )
        return round(quality * QUALITY_ONE)

    @torch.inference_mode()
    def analyse(self, pixels: np.ndarray, window: Window | None = None, progress: Progress | None = None) -> Tensor:
        """uint8 [H, W, 3] → y [1, M, h, w] of a window of latents; without one of the whole padded picture."""
        height, width, _ = pixels.shape
        grid = whole((-(-height // ALIGNMENT), -(-width // ALIGNMENT))).finer(LATENTS)
        window = window or grid
        shape = 1, self.network.architecture.latents, *window.shape
        y = torch.empty(shape, dtype=torch.float32, device=self.device)
        pieces = window.even_tiles(TRANSFORM_TILE)
        for done, piece in enumerate(pieces, start=1):
            seen = piece.grown(self.margins[0], grid)
            with self._autocast():
                found = self.network.g_a(self.padded(pixels, seen.finer(LATENT_SCALE)))
            y[:, :, *piece.seen_from(window).slices] = found[:, :, *piece.seen_from(seen).slices]
            heap.trim(is_big(grid.coarser(LATENTS)))
            tell(progress, done, len(pieces))
        return y

    @torch.inference_mode()
    def hyper_latents(self, y: Tensor, fixed_quality: int) -> Tensor:
        """y → z_hat [1, N, H'/64, W'/64]."""
        with self._autocast():
            z = self.network.h_a(y * self.gain(fixed_quality)[:, :, None, None])
        if not (y.isfinite().all() and z.isfinite().all()):
            raise InvalidModel(f"{self.model.directory}: gives latents that are not finite; its weights are broken")
        return round_z(z.float())

    def quantise(self, y: Tensor, z_hat: Tensor, fixed_quality: int, tile: int = 0) -> tuple[Symbols, Tensor]:
        """y, z_hat → the file's integers, and the latents y_hat [1, M, H'/16, W'/16] that a decoder makes of them."""
        z = z_hat[0].to("cpu", torch.int8).numpy()
        index = self.coder.scale_index(z, fixed_quality, tile)
        r, y_hat = self.residuals(y, z_hat, index, fixed_quality)
        return Symbols(z, index, r), join_planes(y_hat)

    @torch.inference_mode()
    def residuals(
        self, y: Tensor, z_hat: Tensor, index: np.ndarray, fixed_quality: int
    ) -> tuple[np.ndarray, list[Tensor]]:
        """As `quantise`, of scale indices that are known: r int16 [4, M, 2·rows, 2·columns] and y_hat's planes."""
        planes = to_planes(y)
        gain = self.gain(fixed_quality)
        r = np.empty(index.shape, np.int16)

        def residual(chosen: list[int], mu: Tensor) -> Tensor:
            exact = (planes[:, chosen] - mu).mul_(gain[:, None, :, None, None])
            stage_index = torch.from_numpy(index[None, chosen]).to(self.device)
            if not exact.isfinite().all():
                raise InvalidModel(f"{self.model.directory}: gives means that are not finite; its weights are broken")
            stage_r = self.quantiser.choose(exact, stage_index).clamp_(-RESIDUAL_LIMIT, RESIDUAL_LIMIT)
            r[chosen] = stage_r[0].to("cpu", torch.int16).numpy()
            return self.quantiser.reconstruct(stage_r, stage_index)

        with self._autocast():
            y_hat, _ = self.network.decode_stages(z_hat, gain, residual)
        return r, y_hat

    @torch.inference_mode()
    def latents(self, symbols: Symbols, fixed_quality: int) -> Tensor:
        """The integers of a window of cells → y_hat [1, M, 4·rows, 4·columns]."""
        z_hat = torch.from_numpy(symbols.z).to(self.device, torch.float32)[None]

        def residual(chosen: list[int], _: Tensor) -> Tensor:
            r = torch.from_numpy(symbols.r[None, chosen]).to(self.device, torch.float32)
            return self.quantiser.reconstruct(r, torch.from_numpy(symbols.index[None, chosen]).to(self.device))

        with self._autocast():
            y_hat, _ = self.network.decode_stages(z_hat, self.gain(fixed_quality), residual)
        return join_planes(y_hat)

    def synthesise(self, y_hat: Tensor, width: int, height: int) -> np.ndarray:
        """The latents of a whole picture → uint8 [H, W, 3]."""
        cells = whole(tuple(side // LATENTS for side in y_hat.shape[2:]))
        return self.synthesise_area(y_hat, cells, whole((height, width)), cells)

    @torch.inference_mode()
    def synthesise_area(
        self, y_hat: Tensor, cells: Window, area: Window, grid: Window, progress: Progress | None = None
    ) -> np.ndarray:
        """y_hat of a window of cells → the pixels of an area within, uint8 [h, w, 3]. `grid`: the picture's cells."""
        pixels = np.empty((*area.shape, 3), np.uint8)
        pieces = area.coarser(LATENT_SCALE).even_tiles(TRANSFORM_TILE)
        g_s = Trimmed(self.network.g_s, self.network.architecture, grid.finer(LATENTS))
        for done, piece in enumerate(pieces, start=1):
            seen = piece.grown(self.margins[2], grid.finer(LATENTS))
            latents = y_hat[:, :, *seen.seen_from(cells.finer(LATENTS)).slices]
            with self._autocast():
                x_hat = g_s(latents.contiguous(memory_format=torch.channels_last), seen, piece)
            wanted = piece.finer(LATENT_SCALE).grown(0, area)
            inner = x_hat[0, :, *wanted.seen_from(piece.finer(LATENT_SCALE)).slices].permute(1, 2, 0)
            levels = inner.float().mul(255).round_().clamp_(0, 255)
            pixels[wanted.seen_from(area).slices] = levels.to("cpu", torch.uint8).numpy()
            tell(progress, done, len(pieces))
        return pixels

    def padded(self, pixels: np.ndarray, window: Window) -> Tensor:
        """uint8 [H, W, 3] → float [1, 3, h, w] in [0, 1] of a window; beyond the picture its edges are repeated."""
        height, width, _ = pixels.shape
        top, left = min(window.top, height - 1), min(window.left, width - 1)
        found = np.array(pixels[top : min(window.bottom, height), left : min(window.right, width)])
        missing = [(0, window.shape[axis] - found.shape[axis]) for axis in (0, 1)]
        if any(after for _, after in missing):
            found = np.pad(found, [*missing, (0, 0)], mode="edge")
        # A picture's layout in memory is channels-last already.
        return torch.from_numpy(found).to(self.device).permute(2, 0, 1)[None].float().div_(255)

    def gain(self, fixed_quality: int) -> Tensor:
        """What multiplies the residuals, [1, M]."""
        network = self.network
        return network.gain(network.gain_shift(torch.tensor([fixed_quality], dtype=torch.int64, device=self.device)))

    def _autocast(self) -> torch.autocast:
        enabled = self.precision is not None
        return torch.autocast(self.device.type, dtype=self.precision or torch.bfloat16, enabled=enabled)

    def _check(self, header: bitstream.Header) -> None:
        if header.model_hash != self.model_hash:
            raise InvalidFile(
                f"made with model {header.model_hash.hex()}, this one is {self.model_hash.hex()}: load that model"
            )
        if not QUALITY_ONE <= header.quality <= QUALITY_ONE * self.network.architecture.rungs:
            raise InvalidFile(f"quality {header.quality / QUALITY_ONE:g} is outside this model's range")


def load(name_or_directory: str | Path, device: str | torch.device = "cpu", precision: str = "float32") -> Codec:
    """Load a codec by its name in students/ or teachers/, or by its model directory. Raises InvalidModel.

    precision "bfloat16" runs the float half of the networks in mixed precision; files stay readable either way.
    """
    return Codec(models.load(name_or_directory), device, precision)


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
