"""Should fixed transforms or branches for luma and chroma stand at both ends of a codec? docs/tried.md has it.

    python benchmarks/frontends.py OUT.json --photos PHOTOS --validation SET [--steps 1500] [--only ARM]

All arms are small, start from random weights unless their name says otherwise, and see the same crops. Each is trained
in RUNS/ARM by the project's own trainer, and goes on where it was stopped. What is measured are estimated bits (rounded
symbols, Gaussian tables) on the middles of validation pictures.

    bands     x ─► a fixed transform ─► 64 bands of Y, 16 of U and V each, at 1/8 ─► g_a … g_s ─► bands ─► x_hat
    branches  Y, and U with V at half the resolution, have g_a, h_a, h_mean, context and g_s apart; h_scale sees both
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from slimcodec import InvalidInput
from slimcodec.codec.architecture import Architecture, Block, Level
from slimcodec.codec.atomic import write_text
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.layers import SubPixelConv, conv2d, downsample
from slimcodec.codec.network import Analysis, HyperpriorCodec, Synthesis
from slimcodec.codec.rate import gaussian_bits
from slimcodec.codec.units import MID_GREY
from slimcodec.evaluation.curves import bd_rate
from slimcodec.evaluation.metrics import PSNR, measure
from slimcodec.evaluation.provenance import commit
from slimcodec.training.crops import PhotoCache
from slimcodec.training.data import PhotoData
from slimcodec.training.photos import Photo, centre_crops, folder_photos
from slimcodec.training.prior import FactorizedPrior
from slimcodec.training.start import start_from_photos
from slimcodec.training.teach import Teach, fit

COLOURS = torch.tensor([[0.2126, 0.7152, 0.0722], [-0.1146, -0.3854, 0.5], [0.5, -0.4542, -0.0458]])  # BT.709
Y_BANDS, C_BANDS = 64, 16
METRICS = PSNR, "psnr_yuv_db"


# ------------------------------------------------------------------------------------------------- fixed transforms


def to_yuv(x: Tensor) -> Tensor:
    return torch.einsum("oc,bchw->bohw", COLOURS.to(x), x)


def to_rgb(x: Tensor) -> Tensor:
    return torch.einsum("oc,bchw->bohw", COLOURS.inverse().to(x), x)


class Bands(nn.Module):
    """x [B, 3, H, W] around 0 ↔ bands [B, 96, H/8, W/8], each of variance 1 on the crops that `spread` is from."""

    macs_per_pixel = 0.0  # one way, beyond what is counted

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spread", torch.ones(1, Y_BANDS + 2 * C_BANDS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.split(to_yuv(x)) / self.spread

    def inverse(self, bands: Tensor) -> Tensor:
        return to_rgb(self.join(bands * self.spread))

    def split(self, yuv: Tensor) -> Tensor:
        raise NotImplementedError

    def join(self, bands: Tensor) -> Tensor:
        raise NotImplementedError


class Dct(Bands):
    """Of 8 × 8 pixels; of U and V the 4 × 4 lowest frequencies."""

    def __init__(self) -> None:
        super().__init__()
        at, frequency = torch.arange(8) + 0.5, torch.arange(8)[:, None]
        basis = torch.cos(math.pi / 8 * frequency * at) / 2
        basis[0] /= 2**0.5
        self.register_buffer("basis", basis)

    def split(self, yuv: Tensor) -> Tensor:
        blocks = yuv.unflatten(3, (-1, 8)).unflatten(2, (-1, 8))  # [B, 3, h, 8, w, 8]
        found = torch.einsum("vy,bchyxu->bchvxu", self.basis, torch.einsum("ux,bchywx->bchywu", self.basis, blocks))
        y, chroma = found[:, :1].permute(0, 1, 3, 5, 2, 4), found[:, 1:].permute(0, 1, 3, 5, 2, 4)[:, :, :4, :4]
        return torch.cat([y.flatten(1, 3), chroma.flatten(1, 3)], dim=1)

    def join(self, bands: Tensor) -> Tensor:
        y, chroma = bands.split([Y_BANDS, 2 * C_BANDS], dim=1)
        chroma = F.pad(chroma.unflatten(1, (2, 4, 4)), (0, 0, 0, 0, 0, 4, 0, 4))
        found = torch.cat([y.unflatten(1, (1, 8, 8)), chroma], dim=1).permute(0, 1, 4, 2, 5, 3)  # [B, 3, h, v, w, u]
        blocks = torch.einsum("ux,bchywu->bchywx", self.basis, torch.einsum("vy,bchvwu->bchywu", self.basis, found))
        return blocks.flatten(4, 5).flatten(2, 3)


class Wavelets(Bands):
    """Three levels of CDF 9/7, all bands split again; U and V begin at half the resolution. Neighbours overlap."""

    macs_per_pixel = 3 * 2 * (3 + (1 + 2 / 4) * 2)  # lifting: 3 a sample, direction and level
    steps = -1.586134342, -0.052980119, 0.882911076, 0.443506852

    def split(self, yuv: Tensor) -> Tensor:
        y, chroma = yuv[:, :1], self.finer(yuv[:, 1:])[:, ::4]
        for _ in range(2):
            y, chroma = self.finer(y), self.finer(chroma)
        return torch.cat([self.finer(y), chroma], dim=1)

    def join(self, bands: Tensor) -> Tensor:
        y, chroma = bands.split([Y_BANDS, 2 * C_BANDS], dim=1)
        for _ in range(2):
            y, chroma = self.coarser(y), self.coarser(chroma)
        quiet = torch.zeros_like(chroma)
        return torch.cat(
            [self.coarser(y), self.coarser(torch.stack([chroma, quiet, quiet, quiet], 2).flatten(1, 2))], 1
        )

    def finer(self, x: Tensor) -> Tensor:
        """[B, C, h, w] → [B, 4·C, h/2, w/2]: of each channel the low band, and three high ones."""
        across = [half for part in self.lifted(x.transpose(2, 3)) for half in self.lifted(part.transpose(2, 3))]
        return torch.stack(across, dim=2).flatten(1, 2)

    def coarser(self, x: Tensor) -> Tensor:
        low, second, third, high = x.unflatten(1, (-1, 4)).unbind(2)
        halves = [self.merged(*pair).transpose(2, 3) for pair in ((low, second), (third, high))]
        return self.merged(*halves).transpose(2, 3)

    def lifted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Along the rows of columns (dimension 2)."""
        even, odd = x[:, :, ::2], x[:, :, 1::2]
        for number, step in enumerate(self.steps):
            if number % 2:
                even = even + step * (odd + _before(odd))
            else:
                odd = odd + step * (even + _after(even))
        return even, odd

    def merged(self, even: Tensor, odd: Tensor) -> Tensor:
        for number, step in reversed(list(enumerate(self.steps))):
            if number % 2:
                even = even - step * (odd + _before(odd))
            else:
                odd = odd - step * (even + _after(even))
        return torch.stack([even, odd], dim=3).flatten(2, 3)


def _after(x: Tensor) -> Tensor:
    return torch.cat([x[:, :, 1:], x[:, :, -1:]], dim=2)


def _before(x: Tensor) -> Tensor:
    return torch.cat([x[:, :, :1], x[:, :, :-1]], dim=2)


class BandAnalysis(Analysis):
    def __init__(self, architecture: Architecture, front: Bands):
        super().__init__(architecture)
        self.front = front
        self.levels[0].enter = _random(conv2d(Y_BANDS + 2 * C_BANDS, architecture.g_a[0].channels, 1))

    def features(self, x: Tensor) -> Tensor:
        x = self.front(x - MID_GREY)
        for level in self.levels:
            x = level(x)
        return x


class BandSynthesis(Synthesis):
    def __init__(self, architecture: Architecture, front: Bands):
        super().__init__(architecture)
        self.front = front
        self.head = _random(conv2d(architecture.g_s[-1].channels, Y_BANDS + 2 * C_BANDS, 1), 0.3)

    def forward(self, y_hat: Tensor, trim: Any = None) -> Tensor:
        features = self.features(y_hat, trim)
        with torch.autocast(features.device.type, enabled=False):
            return self.front.inverse(self.head(features.float())) + MID_GREY


def _random(conv: nn.Conv2d, factor: float = 1.0) -> nn.Conv2d:
    """As `HyperpriorCodec` begins."""
    nn.init.normal_(conv.weight, std=factor * (conv.in_channels * math.prod(conv.kernel_size)) ** -0.5)
    nn.init.zeros_(conv.bias)
    return conv


# ----------------------------------------------------------------------------------------------------------- branches


class BranchAnalysis(nn.Module):
    def __init__(self, luma: HyperpriorCodec, chroma: HyperpriorCodec):
        super().__init__()
        self.luma, self.chroma = luma.g_a, chroma.g_a
        first, second = (codec.architecture.g_a[0].channels for codec in (luma, chroma))
        self.luma.levels[0].enter = _random(downsample(1, first, 8, 15))
        self.chroma.levels[0].enter = _random(downsample(2, second, 4, 7))

    def forward(self, x: Tensor) -> Tensor:
        yuv = to_yuv(x - MID_GREY)
        # An Analysis takes mid-grey away itself.
        parts = self.luma(yuv[:, :1] + MID_GREY), self.chroma(F.avg_pool2d(yuv[:, 1:], 2) + MID_GREY)
        return torch.cat(parts, dim=1)


class BranchSynthesis(nn.Module):
    macs_per_pixel = 2 * 4.0  # of making chroma larger

    def __init__(self, luma: HyperpriorCodec, chroma: HyperpriorCodec):
        super().__init__()
        self.luma, self.chroma = luma.g_s, chroma.g_s
        self.latents = [codec.architecture.latents for codec in (luma, chroma)]
        for g_s, colours, ratio in ((self.luma, 1, 8), (self.chroma, 2, 4)):
            g_s.head = SubPixelConv(g_s.head.conv.in_channels, colours, ratio, 1)
            _random(g_s.head.conv, 0.3)

    def forward(self, y_hat: Tensor) -> Tensor:
        luma, chroma = (
            g_s(part) for g_s, part in zip((self.luma, self.chroma), y_hat.split(self.latents, 1), strict=True)
        )
        chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")
        return to_rgb(torch.cat([luma, chroma], dim=1) - MID_GREY) + MID_GREY


class Apart(nn.Module):
    """Two networks, each for its part of the channels."""

    def __init__(self, networks: list[nn.Module], widths: list[int]):
        super().__init__()
        self.networks, self.widths = nn.ModuleList(networks), widths

    def forward(self, x: Tensor) -> Tensor:
        """Channels come as the parts of both, once or several times over; `widths` are of the first time."""
        return torch.cat([each(part) for each, part in zip(self.networks, self.parts(x), strict=True)], dim=1)

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.widths, dim=1)


class ContextApart(Apart):
    def __init__(self, networks: list[nn.Module], widths: list[int], latents: list[int]):
        super().__init__(networks, widths)
        self.latents = latents

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        features, decoded = x[:, : sum(self.widths)], x[:, sum(self.widths) :]
        found = [features, *decoded.split(sum(self.latents), dim=1)] if decoded.shape[1] else [features]
        split = [each.split(self.widths if number == 0 else self.latents, dim=1) for number, each in enumerate(found)]
        return tuple(torch.cat(own, dim=1) for own in zip(*split, strict=True))


# -------------------------------------------------------------------------------------------------------------- arms


def _architecture(latents: int, hypers: int, g_a: tuple[Any, ...], g_s: tuple[Any, ...], features: int) -> Architecture:
    kinds = (("residual", g_a), ("depthwise", g_s))
    built = [tuple(Level(scale, width, (Block(kind, hidden),)) for scale, width, hidden in of) for kind, of in kinds]
    return Architecture(
        latent_channels=tuple(range(latents)),
        hyper_channels=tuple(range(hypers)),
        g_a=built[0],
        g_s=built[1],
        h_a=(latents // 3, latents // 3),
        h_scale=(24, 16, 24),
        h_mean=(features, features, features),
        stages=((0,), (3,), (1,), (2,)),
        context=(latents // 6,) * 4,
        head_kernel=1,
        downsampling="narrow",
    )


def _plain(hidden: tuple[int, int] = (32, 48)) -> HyperpriorCodec:
    """hidden: of the blocks at 1/8, of g_a and of g_s."""
    return HyperpriorCodec(
        _architecture(96, 24, ((8, 48, hidden[0]), (16, 96, 32)), ((16, 96, 64), (8, 48, hidden[1])), 24)
    )


def _started(crops: Tensor) -> HyperpriorCodec:
    codec = _plain()
    start_from_photos(codec, crops)
    return codec


def _with_bands(crops: Tensor, front: Bands, hidden: tuple[int, int]) -> HyperpriorCodec:
    codec = _plain(hidden)
    front.spread.copy_(front(crops - MID_GREY).std(dim=(0, 2, 3), keepdim=True).clamp_min(1e-4))
    codec.g_a, codec.g_s = BandAnalysis(codec.architecture, front), BandSynthesis(codec.architecture, front)
    return codec


def _branches(_: Tensor) -> HyperpriorCodec:
    luma = HyperpriorCodec(_architecture(72, 16, ((8, 40, 68), (16, 72, 24)), ((16, 88, 64), (8, 48, 80)), 16))
    chroma = HyperpriorCodec(_architecture(24, 8, ((8, 24, 16), (16, 32, 16)), ((16, 32, 24), (8, 24, 24)), 8))
    both, codec = (luma, chroma), _plain()
    latents, features = ([getattr(each.architecture, name) for each in both] for name in ("latents", "hypers"))
    codec.g_a, codec.g_s = BranchAnalysis(*both), BranchSynthesis(*both)
    codec.h_a, codec.h_mean = (
        Apart([each.h_a for each in both], latents),
        Apart([each.h_mean for each in both], features),
    )
    of_p = [each.architecture.h_mean[2] for each in both]
    codec.context = nn.ModuleList(
        ContextApart(list(c_k), of_p, latents) for c_k in zip(*(each.context for each in both), strict=True)
    )
    return codec


STARTED = "RGB, started from principal components"  # which the others are compared with
ARMS: dict[str, Callable[[Tensor], HyperpriorCodec]] = {
    "RGB, learned ends": lambda crops: _plain(),
    STARTED: _started,
    "bands of an 8×8 DCT": lambda crops: _with_bands(crops, Dct(), (60, 56)),
    "bands of CDF 9/7 wavelets": lambda crops: _with_bands(crops, Wavelets(), (60, 64)),
    "branches of Y and UV": _branches,
}


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    cache = PhotoCache(folder_photos(options.photos, limit=options.limit, max_pixels=400_000))
    photos = centre_crops(folder_photos(options.validation, limit=options.pictures), options.side)
    chosen = {options.only: ARMS[options.only]} if options.only else ARMS
    arms = {name: _arm(options, name, make, cache, photos) for name, make in chosen.items()}
    result = {
        "command": "python benchmarks/frontends.py " + " ".join(sys.argv[1:]),
        "date": date.today().isoformat(),
        "commit": commit(),
        "tables": {"arms": _table(arms)},
        "arms": arms,
    }
    write_text(options.out, json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--validation", required=True, type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/frontends"))
    parser.add_argument("--only", choices=ARMS)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--limit", type=int, default=300, help="photos to train on")
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--side", type=int, default=384)
    return parser.parse_args()


class Told(NamedTuple):
    decoder_macs_per_pixel: float
    encoder_macs_per_pixel: float
    seconds: float
    bpp: list[float]
    psnr_rgb_db: list[float]
    psnr_yuv_db: list[float]


def _arm(options: argparse.Namespace, name: str, make: Any, cache: PhotoCache, photos: list[Photo]) -> dict[str, Any]:
    began = time.monotonic()
    torch.manual_seed(0)
    codec = make(cache.crops(seed=1, step=0, batch=32, size=128))
    prior = FactorizedPrior(codec.architecture.hypers, codec.architecture.rungs)
    module = Teach(
        codec, prior, steps=options.steps, batch=8, crop=128, learning_rate=1e-3, optimizer="soap", cache=cache
    )  # fmt: skip
    data = PhotoData(validation_photos=[], steps_per_epoch=options.steps)
    fit(module, data, options.runs / name.replace(" ", "-"), _trainer, checkpoint_minutes=2)
    seconds = time.monotonic() - began
    module.eval()
    curve = np.array([[_point(module, pixels, rung) for rung in range(1, 9)] for _, pixels in tqdm(photos, name)]).mean(
        0
    )
    return Told(*_macs(codec), round(seconds), *curve.T.tolist())._asdict()


def _trainer(directory: Path, **more: Any) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(
        accelerator="cpu", devices=1, precision="bf16-mixed", gradient_clip_val=1.0, max_epochs=-1,
        limit_val_batches=0, default_root_dir=directory, **quiet, **more,
    )  # fmt: skip


@torch.no_grad()
def _point(module: Teach, pixels: np.ndarray, rung: int) -> list[float]:
    """bpp and the metrics."""
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    quality = torch.tensor([rung * QUALITY_ONE])
    coded = module.codec(x, quality)
    bits = (
        gaussian_bits(coded.residual.round(), coded.index.float()).sum()
        + module.prior.bits(coded.z.round(), quality).sum()
    )
    decoded = (255 * coded.x_hat[0].clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    found, _ = measure(METRICS, pixels, decoded)
    return [float(bits) / pixels[..., 0].size, *(found[metric] for metric in METRICS)]


@torch.no_grad()
def _macs(codec: HyperpriorCodec, side: int = 256) -> tuple[float, float]:
    """Of decoder and encoder, counted while they run; lifting, which the counter does not see, is added."""
    x, quality = torch.rand(1, 3, side, side), torch.tensor([4 * QUALITY_ONE])
    codec.train()  # integers in float32, which it sees as well
    with FlopCounterMode(display=False) as counter:
        coded = codec(x, quality)
    total = counter.get_total_flops() / 2 / side**2
    y_hat = torch.rand(1, codec.architecture.latents, side // 16, side // 16)
    alone = [
        _counted(codec.g_s, y_hat) / side**2,
        _counted(codec.g_a, x) / side**2,
        _counted(codec.h_a, y_hat) / side**2,
    ]
    del coded
    codec.eval()
    more = [getattr(part, "macs_per_pixel", 0) for part in (codec.g_s, getattr(codec.g_s, "front", None))]
    return round(total - alone[1] - alone[2] + sum(more), 1), round(total - alone[0] + more[1], 1)


def _counted(part: nn.Module, x: Tensor) -> float:
    with FlopCounterMode(display=False) as counter:
        part(x)
    return counter.get_total_flops() / 2


def _table(arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Against the arm that starts as trainings do today; bpp and dB are of quality 4."""
    heading = ["", "decoder, MAC/pixel", "encoder, MAC/pixel", "bpp", "dB, RGB", "dB, YUV 6:1:1", "BD-rate, RGB"]
    first, rows = arms.get(STARTED, next(iter(arms.values()))), []
    for name, arm in arms.items():
        costs = [f"{arm[what]:,.0f}" for what in ("decoder_macs_per_pixel", "encoder_macs_per_pixel")]
        at_4 = [f"{arm['bpp'][3]:.2f}", *(f"{arm[metric][3]:.1f}" for metric in METRICS)]
        pairs = [list(zip(each["bpp"], each[PSNR], strict=True)) for each in (first, arm)]
        rows.append([name, *costs, *at_4, _change(*pairs)])
    return {"heading": heading, "rows": rows}


def _change(*pairs: list[tuple[float, float]]) -> str:
    """BD-rate of the second curve against the first; after few steps some share no range."""
    try:
        return f"{bd_rate(*pairs).percent:+.1f} %".replace("-", "−")
    except InvalidInput:
        return "–"


if __name__ == "__main__":
    main()
