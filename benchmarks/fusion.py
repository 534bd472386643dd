"""Does a linear regression on decoded neighbours, merged with c_k, foresee latents better? docs/tried.md has it.

    python benchmarks/fusion.py OUT.json --photos TRAIN --validation NAME=FOLDER ... [--every 2]

Everything of the model is frozen. mu of stages 2 to 4 gets new last weights in closed form: least squares on training
crops at all qualities, an error counted in units of the scale that h_scale foresees for it. What a stage may see of its
own plane is nothing: a plane is decoded all at once. It sees the planes of the stages before, 3 × 3 positions of each.
Scales that had become too wide are moved, by channel and plane, which costs nothing.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from slimcodec.codec import models, rate
from slimcodec.codec.atomic import write_text
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.complexity import convolution, decoder_macs_per_pixel
from slimcodec.codec.grid import PLANE_SCALE
from slimcodec.codec.inference import Codec
from slimcodec.codec.quantise import Quantiser
from slimcodec.codec.units import GAIN_UNIT, INDEX_STEP
from slimcodec.evaluation.curves import bd_rate
from slimcodec.evaluation.metrics import psnr_db
from slimcodec.evaluation.photos import find_photos, open_photo
from slimcodec.evaluation.provenance import commit
from slimcodec.training.crops import PhotoCache
from slimcodec.training.photos import folder_photos

QUALITIES = 1, 2, 3, 5, 6, 8
SHOWN = 2, 5
WINDOW = 9  # positions of 3 × 3
OTHERS = 8
RIDGE = 1e-4


class Arm(NamedTuple):
    """What mu is a weighted sum of, with a bias."""

    mean: bool = False  # what c_k gives
    hidden: bool = False  # c_k's hidden channels, so its last layer is made anew
    own: bool = False  # 3 × 3 of each decoded plane, of the same channel
    others: bool = False  # of OTHERS other latents at the same place: those that tell most of what c_k leaves
    equal: bool = False  # as many hidden channels less as pay for the rest


ARMS = {
    "weight and bias alone": Arm(mean=True),
    "neighbours without c_k": Arm(own=True),
    "c_k and neighbours": Arm(mean=True, own=True),
    "c_k, neighbours and other channels": Arm(mean=True, own=True, others=True),
    "last layer of c_k anew": Arm(hidden=True),
    "last layer anew and neighbours": Arm(hidden=True, own=True),
    "the same at equal operations": Arm(hidden=True, own=True, equal=True),
}


class Seen(NamedTuple):
    """Of one stage on the training crops; the first dimension of all is that of channels."""

    target: Tensor  # [M, S]: y
    weight: Tensor  # [M, S]: what a squared error counts
    mean: Tensor  # [M, S]
    hidden: Tensor  # [S, H]
    own: Tensor  # [M, S, 9·done]
    decoded: Tensor  # [S, done·M]


def main() -> None:
    options = _options()
    model = models.load(options.model)
    stages = _seen(model, options)
    points, costs = {}, {}
    for name, arm in {"c_k": None, **ARMS}.items():
        codec, costs[name] = _codec(model, stages, arm)
        points[name] = {of_set: _measured(codec, paths, f"{name}: {of_set}") for of_set, paths in _sets(options)}
    result = {
        "command": "python benchmarks/fusion.py " + " ".join(sys.argv[1:]),
        "date": date.today().isoformat(),
        "commit": commit(),
        "macs_per_pixel": costs,
        "tables": {of_set: _table(of_set, points, costs) for of_set, _ in _sets(options)},
        "points": points,
    }
    write_text(options.out, json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--validation", required=True, nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--model", default="slim-2k")
    parser.add_argument("--limit", type=int, default=200, help="training photos")
    parser.add_argument("--crops", type=int, default=800, help="of 256 × 256")
    parser.add_argument("--every", type=int, default=2, help="take every n-th picture")
    return parser.parse_args()


def _sets(options: argparse.Namespace) -> Iterator[tuple[str, list[Path]]]:
    for named in options.validation:
        name, folder = named.split("=", 1)
        yield name, find_photos(folder)[:: options.every]


# ----------------------------------------------------------------------------------------------------- what is known


@torch.no_grad()
def _seen(model: Any, options: argparse.Namespace) -> list[Seen]:
    """Of stages 2 to 4."""
    codec, cache = (
        model.codec.eval(),
        PhotoCache(folder_photos(options.photos, limit=options.limit, max_pixels=600_000)),
    )
    quantise, inputs = Quantiser(model.tables, torch.device("cpu")).straight_through, {}
    for stage, c_k in enumerate(codec.context):
        c_k.register_forward_hook(lambda _, given, __, stage=stage: inputs.update({stage: given[0]}))
    parts: list[list[Seen]] = [[] for _ in codec.context[1:]]
    for step in tqdm(range(options.crops // 8), "crops"):
        x = cache.crops(seed=0, step=step, batch=8, size=256)
        coded = codec(x, (torch.arange(8) + 1) * QUALITY_ONE, quantise)
        scale = rate.scale(coded.index.clamp(0, 63)) / coded.gain
        weight = (1 / (scale**2 + 1 / (12 * coded.gain**2))).float()
        for stage, (plane,) in enumerate(codec.architecture.stages[1:], start=1):
            of_plane = (values[:, plane].transpose(0, 1).flatten(1) for values in (coded.y, weight, coded.mu))
            hidden = _hidden(codec.context[stage], inputs[stage])
            decoded = inputs[stage][:, codec.architecture.h_mean[2] :]
            own = _neighbours(decoded, codec.architecture.latents).flatten(2).permute(1, 0, 2)
            own = (
                own.reshape(codec.architecture.latents, len(x), -1, *decoded.shape[2:])
                .permute(0, 1, 3, 4, 2)
                .flatten(1, 3)
            )
            parts[stage - 1].append(Seen(*of_plane, *map(_in_rows, (hidden,)), own, _in_rows(decoded)))
    sample_axis = Seen(1, 1, 1, 0, 1, 0)
    return [
        Seen(*(torch.cat(each, axis) for each, axis in zip(zip(*of_stage, strict=True), sample_axis, strict=True)))
        for of_stage in parts
    ]


def _hidden(c_k: nn.Module, x: Tensor) -> Tensor:
    """What the last layer of c_k sees."""
    for layer in list(c_k.children())[:-1]:
        x = layer(x)
    return x


def _in_rows(values: Tensor) -> Tensor:
    """[B, C, h, w] → [S, C]."""
    return values.permute(0, 2, 3, 1).flatten(0, 2)


def _neighbours(decoded: Tensor, latents: int) -> Tensor:
    """[B, done·M, h, w] → 3 × 3 of each plane of the same channel: [B, M, 9·done, h, w]."""
    batch, channels, height, width = decoded.shape
    seen = F.unfold(decoded, 3, padding=1).view(batch, channels // latents, latents, WINDOW, height, width)
    return seen.transpose(1, 2).flatten(2, 3)


# -------------------------------------------------------------------------------------------------------- least squares


class Fused(nn.Module):
    """c_k with a mu that is a weighted sum, channel by channel."""

    def __init__(self, c_k: nn.Module, features: int, arm: Arm, weights: Tensor, kept: list[int], others: Tensor):
        super().__init__()
        self.c_k, self.features, self.arm, self.kept = c_k, features, arm, kept
        self.weights, self.others = weights, others  # [M, F], its last of the bias; [M, OTHERS]

    def forward(self, x: Tensor) -> Tensor:
        latents, decoded = len(self.weights), x[:, self.features :]
        hidden = _hidden(self.c_k, x)
        parts = []
        if self.arm.mean:
            parts.append(self.c_k[-1](hidden)[:, :, None])
        if self.arm.hidden:
            parts.append(hidden[:, None, self.kept].expand(-1, latents, -1, -1, -1))
        if self.arm.own:
            parts.append(_neighbours(decoded, latents))
        if self.arm.others:
            parts.append(decoded[:, self.others])
        parts.append(torch.ones_like(x[:, None, :1]).expand(-1, latents, -1, -1, -1))
        return torch.einsum("bmfhw,mf->bmhw", torch.cat(parts, dim=2), self.weights)


def _codec(model: Any, stages: list[Seen], arm: Arm | None) -> tuple[Codec, float]:
    """A codec with new last weights, and its MAC/pixel."""
    if arm is None:
        return Codec(model), decoder_macs_per_pixel(model.codec.architecture)
    changed, architecture = deepcopy(model.codec), model.codec.architecture
    for c_k in changed.context:
        c_k._forward_hooks.clear()
    shifts, more = torch.zeros(4, architecture.latents), 0.0
    for stage, seen in enumerate(stages, start=1):
        others = _most_telling(seen) if arm.others else torch.empty(0, dtype=torch.int64)
        gram = _gram(seen, arm, others)
        removed = _unaffordable(architecture, stage) if arm.equal else 0
        kept, weights = _chosen(gram, seen.hidden.shape[1] if arm.hidden else 0, removed)
        plane = architecture.stages[stage][0]
        shifts[plane] = _moved(seen, gram, weights, kept)
        changed.context[stage] = Fused(changed.context[stage], architecture.h_mean[2], arm, weights[1], kept, others)
        more += _more_macs(architecture, stage, arm, removed)
    codec = Codec(model._replace(codec=changed))
    last = codec.transforms.scales.layers[-1]
    bias = last.bias + np.rint(GAIN_UNIT * shifts.numpy().ravel()) * 2.0**last.shift
    codec.transforms.scales.layers[-1] = last._replace(bias=bias)
    return codec, decoder_macs_per_pixel(architecture) + more


def _columns(seen: Seen, arm: Arm, others: Tensor, channel: int) -> Tensor:
    """[S, F], in the order of `Fused`."""
    parts = [seen.mean[channel, :, None]] if arm.mean else []
    parts += [seen.hidden] if arm.hidden else []
    parts += [seen.own[channel]] if arm.own else []
    parts += [seen.decoded[:, others[channel]]] if arm.others else []
    return torch.cat([*parts, torch.ones(len(seen.hidden), 1)], dim=1)


def _gram(seen: Seen, arm: Arm, others: Tensor) -> tuple[Tensor, Tensor]:
    """Of every channel, XᵀWX [M, F, F] and XᵀWy [M, F] in float64."""
    left, right = [], []
    for channel in range(len(seen.target)):
        columns = _columns(seen, arm, others, channel)
        weighted = columns * seen.weight[channel, :, None]
        left.append((columns.T @ weighted).double())
        right.append((weighted.T @ seen.target[channel]).double())
    return torch.stack(left), torch.stack(right)


def _chosen(gram: tuple[Tensor, Tensor], hidden: int, removed: int) -> tuple[list[int], tuple[list[int], Tensor]]:
    """The hidden channels that are kept, which columns that leaves, and the weights [M, F]: least error, greedily."""
    columns = list(range(gram[0].shape[1]))
    for _ in range(removed):
        candidates = [[column for column in columns if column != left_out] for left_out in columns if left_out < hidden]
        columns = max(candidates, key=lambda these: float(_explained(gram, these).sum()))
    return [column for column in columns if column < hidden], (columns, _solved(gram, columns).float())


def _solved(gram: tuple[Tensor, Tensor], columns: list[int]) -> Tensor:
    left, right = gram[0][:, columns][:, :, columns], gram[1][:, columns]
    ridge = (
        RIDGE * left.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None] * torch.eye(len(columns), dtype=torch.float64)
    )
    return torch.linalg.solve(left + ridge, right)


def _explained(gram: tuple[Tensor, Tensor], columns: list[int]) -> Tensor:
    """How much of the weighted energy of y of every channel, [M]."""
    return (_solved(gram, columns) * gram[1][:, columns]).sum(dim=1)


def _most_telling(seen: Seen) -> Tensor:
    """The decoded latents that correlate most with what c_k leaves, [M, OTHERS]."""
    rest = (seen.target - seen.mean) * seen.weight.sqrt()
    decoded = seen.decoded - seen.decoded.mean(dim=0)
    correlation = (rest @ decoded / decoded.norm(dim=0).clamp_min(1e-6)).abs()
    return correlation.topk(OTHERS, dim=1).indices


def _moved(seen: Seen, gram: tuple[Tensor, Tensor], weights: tuple[list[int], Tensor], kept: list[int]) -> Tensor:
    """How far the scale index should move, [M], now that errors are smaller."""
    columns, solved = weights
    left, right, solved = gram[0][:, columns][:, :, columns], gram[1][:, columns], solved.double()
    energy = (seen.weight.double() * seen.target.double() ** 2).sum(dim=1)
    rest = energy - 2 * (solved * right).sum(1) + torch.einsum("mf,mfg,mg->m", solved, left, solved)
    before = (seen.weight.double() * (seen.target - seen.mean).double() ** 2).sum(dim=1)
    return (0.5 * (rest / before).clamp_min(1e-3).log() / INDEX_STEP).float()


# ------------------------------------------------------------------------------------------------------ operations


def _own_macs(architecture: Any, stage: int) -> float:
    return convolution(architecture.latents, WINDOW * stage, 1, PLANE_SCALE)


def _of_hidden(architecture: Any, stage: int) -> float:
    """What a hidden channel of c_k costs."""
    return convolution(architecture.context_inputs(stage) + architecture.latents, 1, 1, PLANE_SCALE)


def _unaffordable(architecture: Any, stage: int) -> int:
    return -int(-_own_macs(architecture, stage) // _of_hidden(architecture, stage))


def _more_macs(architecture: Any, stage: int, arm: Arm, removed: int) -> float:
    """Beside c_k as it is; one weight of what it gives can be merged into its last layer."""
    more = arm.own * _own_macs(architecture, stage) + arm.others * convolution(
        architecture.latents, OTHERS, 1, PLANE_SCALE
    )
    without = 0.0 if arm.mean or arm.hidden else architecture.context[stage] * _of_hidden(architecture, stage)
    return more - without - removed * _of_hidden(architecture, stage)


# ------------------------------------------------------------------------------------------------------- measuring


def _measured(codec: Codec, paths: list[Path], name: str) -> list[dict[str, Any]]:
    """Of every picture: bpp and PSNR at every quality, and the energy of its residuals in steps."""
    return [_of_picture(codec, np.asarray(open_photo(path))) for path in tqdm(paths, name)]


def _of_picture(codec: Codec, pixels: np.ndarray) -> dict[str, Any]:
    transforms, bpp, psnr, energy = codec.transforms, [], [], []
    y, choose = transforms.analyse(pixels), transforms.rounding.choose
    for quality in QUALITIES:
        exact: list[float] = []

        def choose_and_note(values: Tensor, *rest: Any, into: list[float] = exact, **more: Any) -> Tensor:
            into.append(float(values.square().sum()))
            return choose(values, *rest, **more)

        transforms.rounding.choose = choose_and_note
        fixed = quality * QUALITY_ONE
        symbols, y_hat = transforms.code(y, transforms.hyper_latents(y, fixed), fixed)
        bpp.append(codec.coder.information_bits(symbols, fixed) / pixels[..., 0].size)
        psnr.append(psnr_db(pixels, transforms.synthesise(y_hat, pixels.shape[1], pixels.shape[0])))
        energy.append(sum(exact[1:]) / pixels[..., 0].size)
    transforms.rounding.choose = choose
    return {"bpp": bpp, "psnr_db": psnr, "energy": energy}


def _table(of_set: str, points: dict[str, Any], costs: dict[str, float]) -> dict[str, Any]:
    heading = ["", "decoder, MAC/pixel"]
    heading += [f"{what}, quality {quality}" for what in ("energy of residuals", "bits") for quality in SHOWN]
    return {"heading": [*heading, "BD-rate"], "rows": [_row(name, points, of_set, costs) for name in points]}


def _row(name: str, points: dict[str, Any], of_set: str, costs: dict[str, float]) -> list[str]:
    base, own = (
        {key: _means(points[arm][of_set], key) for key in ("bpp", "psnr_db", "energy")} for arm in ("c_k", name)
    )
    found = [
        100 * (own[key][QUALITIES.index(quality)] / base[key][QUALITIES.index(quality)] - 1)
        for key in ("energy", "bpp")
        for quality in SHOWN
    ]
    curves = [list(zip(arm["bpp"], arm["psnr_db"], strict=True)) for arm in (base, own)]
    found.append(bd_rate(*curves).percent)
    return [name, f"{costs[name]:,.0f}", *(f"{value:+.2f} %".replace("-", "−") for value in found)]


def _means(pictures: list[dict[str, list[float]]], key: str) -> list[float]:
    return np.mean([picture[key] for picture in pictures], axis=0).tolist()


if __name__ == "__main__":
    main()
