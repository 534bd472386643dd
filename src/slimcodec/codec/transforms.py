"""`Transforms`: a model's networks on a device, as both sides of a file use them.

    encoder   pixels ─analyse─► y ─hyper_latents─► z_hat ─residuals─► r, y_hat
    decoder   symbols ─latents─► y_hat ─synthesise─► pixels      by a g_s that the file may correct (codec/adapt)

Big pictures pass in pieces. The pixels and latents that come out are the same, but for rounding.
"""

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from slimcodec import InvalidFile, InvalidInput, InvalidModel
from slimcodec.codec import heap
from slimcodec.codec.adapt import BASIS, Correction, Corrections, Fit
from slimcodec.codec.bitstream import HASH_BYTES
from slimcodec.codec.grid import LATENT_SCALE, LATENTS, Window, cells_of, is_big, whole
from slimcodec.codec.models import Model
from slimcodec.codec.network import MID_GREY, Synthesis, join_planes, round_z, to_planes
from slimcodec.codec.pictures import LazyPixels
from slimcodec.codec.progress import Progress, tell
from slimcodec.codec.quantise import Quantiser
from slimcodec.codec.symbols import SymbolCoder, Symbols
from slimcodec.codec.tiling import Trimmed, analysis_margin, latent_margin, synthesis_margin
from slimcodec.codec.zoo import WEIGHTS

RESIDUAL_LIMIT = 2**15 - 1  # an escaped residual is an int16
TRANSFORM_TILE = 64  # latents: g_a and g_s take pieces of at most 1024 x 1024 pixels and their margins
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


def automatic_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


class Transforms:
    """The integers of a file depend on neither `device` nor `precision`.

    Raises InvalidInput for a device or precision that cannot be used, InvalidModel for tables that are none.
    """

    def __init__(self, model: Model, device: str | torch.device = "cpu", precision: str = "float32"):
        if precision not in PRECISIONS:
            raise InvalidInput(f"precision {precision!r}: must be one of {', '.join(PRECISIONS)}")
        self.precision, self.precision_name = PRECISIONS[precision], precision
        self.directory = model.directory
        self.model_hash = bytes.fromhex(model.sha256)[:HASH_BYTES]
        try:
            self.device = torch.device(automatic_device() if device == "auto" else device)
            network = deepcopy(model.codec).eval().to(self.device).to(memory_format=torch.channels_last)
        except (RuntimeError, AssertionError) as error:
            raise InvalidInput(f"device {device}: cannot be used here ({str(error).splitlines()[0]})") from error
        self.network = network.requires_grad_(False).pack()
        try:
            self.coder = SymbolCoder(self.network, model.tables)
        except InvalidModel as error:
            raise InvalidModel(f"{model.directory / WEIGHTS}: {error}") from error
        self.quantiser = Quantiser(model.tables, self.device)
        self.corrections: Corrections | None = None
        if BASIS in model.tables:
            bits = self.quantiser.magnitude_bits
            self.corrections = Corrections(self.network.g_s, model.tables, self.coder.r_tables, bits)
        architecture = self.network.architecture
        self.margins = analysis_margin(architecture), latent_margin(architecture), synthesis_margin(architecture)

    @torch.inference_mode()
    def analyse(
        self, pixels: np.ndarray | LazyPixels, window: Window | None = None, progress: Progress | None = None
    ) -> Tensor:
        """uint8 [H, W, 3] → y [1, M, h, w] of a window of latents; without one of the whole padded picture."""
        height, width, _ = pixels.shape
        grid = cells_of(height, width).finer(LATENTS)
        window = window or grid
        shape = 1, self.network.architecture.latents, *window.shape
        y = torch.empty(shape, dtype=torch.float32, device=self.device)
        pieces = window.even_tiles(TRANSFORM_TILE)
        for done, piece in enumerate(pieces, start=1):
            seen = piece.grown(self.margins[0], grid)
            with self.autocast():
                found = self.network.g_a(self.padded(pixels, seen.finer(LATENT_SCALE)))
            y[:, :, *piece.seen_from(window).slices] = found[:, :, *piece.seen_from(seen).slices]
            heap.trim(is_big(grid.coarser(LATENTS)))
            tell(progress, done, len(pieces))
        return y

    @torch.inference_mode()
    def hyper_latents(self, y: Tensor, fixed_quality: int) -> Tensor:
        """y → z_hat [1, N, H'/64, W'/64]."""
        with self.autocast():
            z = self.network.h_a(y * self.gain(fixed_quality)[:, :, None, None])
        self._require_finite(y, "latents")
        self._require_finite(z, "latents")
        return round_z(z.float())

    def code(self, y: Tensor, z_hat: Tensor, fixed_quality: int, tile: int = 0) -> tuple[Symbols, Tensor]:
        """y, z_hat → the file's integers, and the latents y_hat [1, M, H'/16, W'/16] that a decoder makes of them."""
        z = z_hat[0].to("cpu", torch.int8).numpy()
        index = self.coder.scale_index(z, fixed_quality, tile)
        r, y_hat = self.residuals(y, z_hat, index, fixed_quality)
        return Symbols(z, index, r), join_planes(y_hat)

    # The two sides of a file, stage by stage.

    @torch.inference_mode()
    def residuals(
        self, y: Tensor, z_hat: Tensor, index: np.ndarray, fixed_quality: int, *, refined: bool = False
    ) -> tuple[np.ndarray, list[Tensor]]:
        """y, z_hat and scale indices → r int16 [4, M, 2·rows, 2·columns], and y_hat's four planes.

        refined: y comes from `refine`.
        """
        network, planes, gain = self.network, to_planes(y), self.gain(fixed_quality)[:, None, :, None, None]
        r = np.empty(index.shape, np.int16)
        with self.autocast():
            features, y_hat = [network.h_mean(z_hat)], []
            for stage, chosen in network.stages():
                mu, scales = network.means(stage, features), self._tensor(index[None, chosen])
                exact = (planes[:, chosen] - mu).mul_(gain)
                self._require_finite(exact, "means")
                stage_r = self.quantiser.choose(exact, scales, refined=refined)
                r[chosen] = stage_r.clamp_(-RESIDUAL_LIMIT, RESIDUAL_LIMIT)[0].to("cpu", torch.int16).numpy()
                y_hat.append(mu + self.quantiser.reconstruct(stage_r, scales) / gain)
                features.append(y_hat[-1].flatten(1, 2))
        return r, network.in_order(y_hat)

    @torch.inference_mode()
    def latents(self, symbols: Symbols, fixed_quality: int) -> Tensor:
        """The integers of a window of cells → y_hat [1, M, 4·rows, 4·columns]."""
        network, gain = self.network, self.gain(fixed_quality)[:, None, :, None, None]
        z_hat = self._tensor(symbols.z, torch.float32)[None]
        with self.autocast():
            features, y_hat = [network.h_mean(z_hat)], []
            for stage, chosen in network.stages():
                mu, scales = network.means(stage, features), self._tensor(symbols.index[None, chosen])
                stage_r = self._tensor(symbols.r[None, chosen], torch.float32)
                y_hat.append(mu + self.quantiser.reconstruct(stage_r, scales) / gain)
                features.append(y_hat[-1].flatten(1, 2))
        return join_planes(network.in_order(y_hat))

    def _tensor(self, values: np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
        return torch.from_numpy(values).to(self.device, dtype)

    def _require_finite(self, values: Tensor, what: str) -> None:
        if not values.isfinite().all():
            raise InvalidModel(f"{self.directory}: gives {what} that are not finite; its weights are broken")

    def g_s(self, correction: Correction | None) -> Synthesis:
        """The model's, or one with a head that is the picture's own."""
        if correction is None:
            return self.network.g_s
        assert self.corrections is not None  # whoever has a correction has it from there
        return self.corrections.applied(correction)

    def read_correction(self, data: bytes, fixed_quality: int) -> Correction | None:
        """What a file holds; None if it holds none. Raises InvalidFile."""
        if not data:
            return None
        if self.corrections is None:
            raise InvalidFile("the file corrects its model, but this model knows no corrections; load the file's own")
        return self.corrections.read(data, fixed_quality)

    @torch.inference_mode()
    def add_to_fit(
        self, fit: Fit, y_hat: Tensor, cells: Window, piece: Window, pixels: np.ndarray | LazyPixels
    ) -> None:
        """Let a piece of a picture have its say in the correction. y_hat: of `cells`, the piece and what is around.

        Where y_hat ends and the picture does not, or y_hat is not quite what a decoder has, the fit is a little worse.
        """
        assert self.corrections is not None  # or there is no fit
        g_s = Trimmed(self.network.g_s, self.network.architecture, cells.finer(LATENTS))
        block = self.network.architecture.g_s[-1].scale
        blocks = whole((pixels.shape[0] // block, pixels.shape[1] // block))  # none that the picture's edge cuts
        for part in piece.finer(LATENTS).even_tiles(TRANSFORM_TILE):
            seen = part.grown(self.margins[2], cells.finer(LATENTS))
            latents = y_hat[:, :, *seen.seen_from(cells.finer(LATENTS)).slices]
            with self.autocast():
                features, at = g_s.features(latents.contiguous(memory_format=torch.channels_last), seen, part)
            within = part.finer(LATENT_SCALE // block).grown(0, blocks)
            if min(within.shape) > 0:
                target = self.padded(pixels, within.finer(block)).sub_(MID_GREY)
                self.corrections.add(fit, features.float(), within.seen_from(at), target)

    def synthesise(self, y_hat: Tensor, width: int, height: int, *, correction: Correction | None = None) -> np.ndarray:
        """The latents of a whole picture → uint8 [H, W, 3]."""
        cells = whole(tuple(side // LATENTS for side in y_hat.shape[2:]))
        return self.synthesise_area(y_hat, cells, whole((height, width)), cells, self.g_s(correction))

    @torch.inference_mode()
    def synthesise_area(
        self,
        y_hat: Tensor,
        cells: Window,
        area: Window,
        grid: Window,
        g_s: Synthesis,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """y_hat of a window of cells → the pixels of an area within, uint8 [h, w, 3]. `grid`: the picture's cells."""
        pixels = np.empty((*area.shape, 3), np.uint8)
        pieces = area.coarser(LATENT_SCALE).even_tiles(TRANSFORM_TILE)
        trimmed = Trimmed(g_s, self.network.architecture, grid.finer(LATENTS))
        for done, piece in enumerate(pieces, start=1):
            seen = piece.grown(self.margins[2], grid.finer(LATENTS))
            latents = y_hat[:, :, *seen.seen_from(cells.finer(LATENTS)).slices]
            with self.autocast():
                x_hat = trimmed(latents.contiguous(memory_format=torch.channels_last), seen, piece)
            wanted = piece.finer(LATENT_SCALE).grown(0, area)
            inner = x_hat[0, :, *wanted.seen_from(piece.finer(LATENT_SCALE)).slices].permute(1, 2, 0)
            levels = inner.float().mul(255).round_().clamp_(0, 255)
            pixels[wanted.seen_from(area).slices] = levels.to("cpu", torch.uint8).numpy()
            tell(progress, done, len(pieces))
        return pixels

    def padded(self, pixels: np.ndarray | LazyPixels, window: Window) -> Tensor:
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

    def autocast(self) -> torch.autocast:
        enabled = self.precision is not None
        return torch.autocast(self.device.type, dtype=self.precision or torch.bfloat16, enabled=enabled)
