"""`Codec`: pictures to bytes and back.

    codec = load("slim-2k");  data = codec.compress(picture, quality=4);  picture = codec.decompress(data)

A file is decoded in two halves. Integers first: z, then h_scale's scale index, then every residual r (codec/symbols).
Floats after: mu, y_hat and the picture. The encoder runs the same functions on the same integers, so it knows the
decoder's picture. g_a and g_s, the expensive ends, pass big pictures piece by piece (codec/tiling).
"""

from collections.abc import Callable
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
from slimcodec.codec import bitstream, models, pictures, targets
from slimcodec.codec.network import ALIGNMENT, LATENT_SCALE, QUALITY_ONE, join_planes, round_z, to_planes
from slimcodec.codec.quantise import Quantiser
from slimcodec.codec.refine import STEPS, refine
from slimcodec.codec.symbols import SymbolCoder, Symbols
from slimcodec.codec.tiling import LATENTS, Trimmed, Window, analysis_margin, latent_margin, synthesis_margin, whole

HASH_BYTES = 8
RESIDUAL_LIMIT = 2**15 - 1  # an escaped residual is an int16
DEFAULT_QUALITY = 4.0
TRANSFORM_TILE = 64  # latents: g_a and g_s take pieces of at most 1024 x 1024 pixels and their margins
CODING_TILE = 32  # cells: a picture of more than 2048 x 2048 pixels is coded in tiles of that size
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
Progress = Callable[[float], None]


class Estimate(NamedTuple):
    bits: float  # information content of the symbols under the model's tables, without header and rANS overhead
    pixels: np.ndarray  # uint8 [H, W, 3], the picture that decoding gives


class Codec:
    """A loaded model. `device` and `precision` say how the networks run; the integers of a file depend on neither."""

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

    @property
    def model_hash(self) -> bytes:
        return bytes.fromhex(self.model.sha256)[:HASH_BYTES]

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

    def decompress(
        self,
        data: bytes,
        *,
        region: tuple[int, int, int, int] | None = None,
        max_pixels: int = bitstream.MAX_PIXELS,
        allow_partial: bool = False,
        progress: Progress | None = None,
    ) -> Image.Image:
        """The bytes of a .slim file → the picture, of mode L, LA, RGB or RGBA, with ICC profile, EXIF and XMP in info.

        region (x, y, width, height) decodes that part alone; allow_partial decodes what a truncated file holds.
        Raises InvalidFile, also for a file of another model and for a picture of more than max_pixels.
        """
        contents = bitstream.unpack(data, max_pixels=max_pixels, allow_partial=allow_partial)
        header = contents.header
        self._check(header)
        area = _area(region, header)
        icc, exif, alpha, xmp = (contents.chunk(name) for name in ("icc", "exif", "alpha", "xmp"))
        if alpha is not None:
            alpha = np.frombuffer(alpha, np.uint8).reshape(header.height, header.width)[area.slices]
        _, plane_margin, pixel_margin = self.margins
        grid = whole(header.cells)
        seen = area.coarser(LATENT_SCALE).grown(pixel_margin, grid.finer(LATENTS)).coarser(LATENTS)
        cells = seen.grown(plane_margin, grid)
        y_hat = self.latents(self.coder.read(contents, cells), header.quality)
        pixels = self._synthesise(y_hat, cells, area, grid, progress)
        return pictures.to_image(pictures.Picture(pixels, header.grey, alpha, icc, exif, xmp))

    def estimate(self, picture: Image.Image | np.ndarray, quality: float = DEFAULT_QUALITY) -> Estimate:
        """The bits that the streams would take, and the decoded colours, without writing a file."""
        encoding, fixed = self.encoding(picture), self.fixed_quality(quality)
        return Estimate(encoding.bits(fixed), encoding.decoded(fixed))

    def encoding(
        self,
        picture: Image.Image | np.ndarray,
        *,
        effort: int = 0,
        strip: bool = False,
        tile: int | None = None,
        progress: Progress | None = None,
    ) -> "Encoding":
        """A picture with its latents, which do not depend on the quality, ready to be written at any."""
        effort = _whole_number(effort, "effort", len(STEPS) - 1)
        tile = None if tile is None else _whole_number(tile, "tile", 255)
        return Encoding(self, pictures.from_picture(picture, strip=strip), effort, tile, progress)

    def fixed_quality(self, quality: float) -> int:
        """Quality as 8.8 fixed point; InvalidInput outside 1…8 (the model's number of rungs)."""
        rungs = self.network.architecture.rungs
        if isinstance(quality, bool) or not isinstance(quality, Real) or not 1 <= quality <= rungs:
            raise InvalidInput(f"quality {quality!r}: must be a number from 1 to {rungs}")
        return round(quality * QUALITY_ONE)

    @torch.inference_mode()
    def analyse(self, pixels: np.ndarray, progress: Progress | None = None) -> Tensor:
        """uint8 [H, W, 3] → y [1, M, H'/16, W'/16], of the picture padded to multiples of 64."""
        grid = whole(_cells(pixels)).finer(LATENTS)
        y = torch.empty(1, self.network.architecture.latents, *grid.shape, device=self.device)
        pieces = grid.even_tiles(TRANSFORM_TILE)
        for done, piece in enumerate(pieces, start=1):
            seen = piece.grown(self.margins[0], grid)
            with self._autocast():
                found = self.network.g_a(self.padded(pixels, seen.finer(LATENT_SCALE)))
            y[:, :, *piece.slices] = found[:, :, *piece.seen_from(seen).slices]
            _tell(progress, done, len(pieces))
        return y

    @torch.inference_mode()
    def hyper_latents(self, y: Tensor, fixed_quality: int) -> Tensor:
        """y → z_hat [1, N, H'/64, W'/64]."""
        with self._autocast():
            z = self.network.h_a(y * self.gain(fixed_quality)[:, :, None, None])
        if not (y.isfinite().all() and z.isfinite().all()):
            raise InvalidModel(f"{self.model.directory}: gives latents that are not finite; its weights are broken")
        return round_z(z.float())

    @torch.inference_mode()
    def quantise(self, y: Tensor, z_hat: Tensor, fixed_quality: int, tile: int = 0) -> tuple[Symbols, Tensor]:
        """y, z_hat → the file's integers, and the latents y_hat [1, M, H'/16, W'/16] that a decoder makes of them."""
        z = z_hat[0].to("cpu", torch.int8).numpy()
        scales = self.coder.scale_index(z, fixed_quality, tile)
        planes = to_planes(y)
        gain = self.gain(fixed_quality)
        r = np.empty(scales.shape, np.int16)

        def residual(chosen: list[int], mu: Tensor) -> Tensor:
            exact = (planes[:, chosen] - mu).mul_(gain[:, None, :, None, None])
            stage_scales = torch.from_numpy(scales[None, chosen]).to(self.device)
            if not exact.isfinite().all():
                raise InvalidModel(f"{self.model.directory}: gives means that are not finite; its weights are broken")
            stage_r = self.quantiser.choose(exact, stage_scales).clamp_(-RESIDUAL_LIMIT, RESIDUAL_LIMIT)
            r[chosen] = stage_r[0].to("cpu", torch.int16).numpy()
            return self.quantiser.reconstruct(stage_r, stage_scales)

        with self._autocast():
            y_hat, _ = self.network.decode_stages(z_hat, gain, residual)
        return Symbols(z, scales, r), join_planes(y_hat)

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
        return self._synthesise(y_hat, cells, whole((height, width)), cells)

    @torch.inference_mode()
    def _synthesise(
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
            _tell(progress, done, len(pieces))
        return pixels

    def padded(self, pixels: np.ndarray, window: Window) -> Tensor:
        """uint8 [H, W, 3] → float [1, 3, h, w] in [0, 1] of a window; beyond the picture its edges are repeated."""
        height, width, _ = pixels.shape
        found = pixels[window.top : window.bottom, window.left : window.right]
        if window.bottom > height or window.right > width:
            rows = np.minimum(np.arange(window.top, window.bottom), height - 1)
            columns = np.minimum(np.arange(window.left, window.right), width - 1)
            found = pixels[rows[:, None], columns]
        # A picture's layout in memory is channels-last already.
        return torch.from_numpy(np.array(found)).to(self.device).permute(2, 0, 1)[None].float().div_(255)

    def gain(self, fixed_quality: int) -> Tensor:
        """What multiplies the residuals, [1, M]."""
        network = self.network
        return network.gain(network.gain_shift(torch.tensor([fixed_quality], device=self.device)))

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


class Encoding:
    """A picture on its way into a file: its latents once, and what they cost and give at any quality (8.8).

    `effort` may be overridden: searches look at the unrefined latents.
    """

    def __init__(
        self, codec: Codec, picture: pictures.Picture, effort: int, tile: int | None, progress: Progress | None
    ):
        self.codec, self.picture, self.effort, self.progress = codec, picture, effort, progress
        self.cells = _cells(picture.pixels)
        automatic = CODING_TILE if self.cells[0] * self.cells[1] > CODING_TILE**2 else 0
        self.tile = automatic if tile is None else tile
        self.y = codec.analyse(picture.pixels, None if effort else progress)
        self.overhead_bytes = len(self._pack([b""] * len(whole(self.cells).tiles(self.tile)), QUALITY_ONE))
        self._latest: tuple[tuple[int, int], tuple[Symbols, Tensor]] | None = None

    @property
    def pixel_count(self) -> int:
        return self.picture.pixels.shape[0] * self.picture.pixels.shape[1]

    def file(self, fixed_quality: int, *, effort: int | None = None) -> bytes:
        """The bytes of the whole .slim file."""
        symbols, _ = self._coded(fixed_quality, effort)
        return self._pack(self.codec.coder.write(symbols, self._header(fixed_quality)), fixed_quality)

    def bits(self, fixed_quality: int, *, effort: int | None = None) -> float:
        """The information content of the symbols: what the streams will have, less their own overhead."""
        return self.codec.coder.information_bits(self._coded(fixed_quality, effort)[0], fixed_quality)

    def decoded(self, fixed_quality: int, *, effort: int | None = None) -> np.ndarray:
        """The colours that decoding will give, uint8 [H, W, 3]."""
        height, width, _ = self.picture.pixels.shape
        return self.codec.synthesise(self._coded(fixed_quality, effort)[1], width, height)

    def psnr_db(self, fixed_quality: int, *, effort: int | None = None) -> float:
        """On 8-bit RGB; infinite for identical pictures."""
        decoded = self.decoded(fixed_quality, effort=effort)
        error = sum(
            float(np.square(row.astype(np.int32) - other).sum())
            for row, other in zip(self.picture.pixels, decoded, strict=True)
        )
        mse = error / decoded.size
        return 10 * np.log10(255**2 / mse) if mse else float("inf")

    def _coded(self, fixed_quality: int, effort: int | None) -> tuple[Symbols, Tensor]:
        """Symbols and y_hat; those of the latest quality are kept."""
        key = fixed_quality, self.effort if effort is None else effort
        if self._latest is None or self._latest[0] != key:
            self._latest = None  # gives its memory back first
            self._latest = key, self._encode(*key)
        return self._latest[1]

    def _encode(self, fixed_quality: int, effort: int) -> tuple[Symbols, Tensor]:
        z_hat = self.codec.hyper_latents(self.y, fixed_quality)
        y = self.y
        if effort:
            y = refine(
                self.codec,
                self.picture.pixels,
                y,
                z_hat,
                fixed_quality,
                self.tile,
                STEPS[effort],
                lambda done, of: _tell(self.progress, done, of),
            )
        return self.codec.quantise(y, z_hat, fixed_quality, self.tile)

    def _pack(self, streams: list[bytes], fixed_quality: int) -> bytes:
        alpha = None if self.picture.alpha is None else self.picture.alpha.tobytes()
        chunks = {"icc": self.picture.icc, "exif": self.picture.exif, "alpha": alpha, "xmp": self.picture.xmp}
        return bitstream.pack(self._header(fixed_quality), streams, **chunks)

    def _header(self, fixed_quality: int) -> bitstream.Header:
        height, width, _ = self.picture.pixels.shape
        return bitstream.Header(self.codec.model_hash, width, height, fixed_quality, self.tile, self.picture.grey)


def load(name_or_directory: str | Path, device: str | torch.device = "cpu", precision: str = "float32") -> Codec:
    """Load a codec by its name in students/ or teachers/, or by its model directory. Raises InvalidModel.

    precision "bfloat16" runs the float half of the networks in mixed precision; files stay readable either way.
    """
    return Codec(models.load(name_or_directory), device, precision)


def _cells(pixels: np.ndarray) -> tuple[int, int]:
    return -(-pixels.shape[0] // ALIGNMENT), -(-pixels.shape[1] // ALIGNMENT)


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


def _tell(progress: Progress | None, done: int, of: int) -> None:
    if progress:
        progress(done / of)
