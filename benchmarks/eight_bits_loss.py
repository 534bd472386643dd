"""What slim-2k-exact would lose in 8 bits: by layer, fitted without training, and trained by fake quantisation.

    python benchmarks/eight_bits_loss.py layers --train PHOTOS --validation PHOTOS --weights FILE --json FILE
    python benchmarks/eight_bits_loss.py train  --train PHOTOS --validation PHOTOS --weights FILE --json FILE
    python benchmarks/eight_bits_loss.py files  --validation PHOTOS --weights FILE --json FILE

The layers are those of eight_bits_layers.py.

`layers` makes one group of layers one of 8 bits at a time, and then all, as they are and fitted. It measures crops of
256 × 256 pixels without training. `train` trains g_s to make what today's makes of the same latents, which are made
once. By rate and distortion it lost: the gradients of the photos' own errors drown those of the few that 8 bits add.
`files` measures files of whole pictures.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from eight_bits_layers import ALL, GROUPS, Choice, Eight, fit, in_eight_bits, latents_to_fit
from torch import Tensor

import slimcodec
from slimcodec.codec import models
from slimcodec.codec.atomic import write_text
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.grid import CELL, LATENT_SCALE
from slimcodec.codec.inference import Codec
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.codec.quantise import Quantiser
from slimcodec.evaluation.curves import Curve, bd_rate
from slimcodec.evaluation.metrics import psnr_db
from slimcodec.evaluation.photos import find_photos, open_photo
from slimcodec.training import losses
from slimcodec.training.crops import PhotoCache
from slimcodec.training.photos import centre_crops, folder_photos
from slimcodec.training.teach import load_trained

MODEL, FLOATS = "slim-2k-exact", "slim-2k"
QUALITIES, FILE_QUALITIES = (1, 4, 8), (1, 3, 5, 8)
CROP, PHOTO_SIDE, PHOTOS, CROPS_OF_EACH = 256, 512, 360, 2
BATCH, WARM_UP, FULL = 8, 40, 0.25  # of the learning rate: steps, and the share of the time before it falls
BIASES = 0.2  # of the learning rate
FITTED = 24  # examples


# --- estimates on crops ---------------------------------------------------------------------------------------------


class Examples(NamedTuple):
    x: Tensor  # uint8 [B, 3, H, W]
    y: Tensor  # [B, M, H/16, W/16]


@torch.no_grad()
def with_latents(codec: HyperpriorCodec, x: Tensor) -> Examples:
    return Examples(x, torch.cat([codec.g_a(crop[None].float() / 255) for crop in x]))


class Measure:
    """PSNR and bits of the residuals on examples."""

    def __init__(self, examples: Examples, quantiser: Quantiser):
        self.examples, self.quantiser = examples, quantiser

    @torch.no_grad()
    def __call__(self, codec: HyperpriorCodec) -> dict[int, tuple[Tensor, Tensor]]:
        """Quality → dB, bits a pixel of every example."""
        codec.eval()
        return {quality: self._at(codec, quality) for quality in QUALITIES}

    def _at(self, codec: HyperpriorCodec, quality: int) -> tuple[Tensor, Tensor]:
        psnr, bpp = [], []
        for x, y in zip(*self.examples, strict=True):
            coded = codec.coded(y[None], torch.tensor([quality * QUALITY_ONE]), self.quantiser.straight_through)
            error = losses.mse((coded.x_hat * 255).round().clamp(0, 255) / 255, x[None].float() / 255)
            noise = coded.residual.round() - coded.residual
            bits = losses.residual_bits(coded.residual, coded.index, noise)
            psnr.append(-10 * error.log10())
            bpp.append(losses.bits_per_pixel(bits, x[0].numel()))
        return torch.cat(psnr), torch.cat(bpp)


def changes(before: dict[int, Any], after: dict[int, Any]) -> dict[str, list[float]]:
    """Quality → change in dB, and of the residuals' bits in percent."""
    return {
        str(q): [
            round((after[q][0] - before[q][0]).mean().item(), 3),
            round(100 * (after[q][1] / before[q][1] - 1).mean().item(), 2),
        ]
        for q in after
    }


def layers(options: argparse.Namespace) -> dict[str, Any]:
    exact, quantiser, measure = begun(options)
    before, found = measure(exact), {}
    cases = {
        "everything": Choice(GROUPS, GROUPS, GROUPS),
        "all weights": Choice(weights=GROUPS),
        "all hidden": Choice(hidden=GROUPS),
        "all reads but whole ones": Choice(read=ALL.read),
    }
    cases |= {f"weights, {group}": Choice(weights=[group]) for group in GROUPS}
    cases |= {f"hidden, {group}": Choice(hidden=[group]) for group in ("h_mean", "context", "blocks 0", "blocks 1")}
    cases |= {f"read, {group}": Choice(read=[group]) for group in GROUPS[1:]}
    cases |= {"everything but whole reads": ALL}
    for name, choice in cases.items():
        found[name] = changes(before, measure(in_eight_bits(exact, choice)))
        print(name, found[name], flush=True)
    codec, y = in_eight_bits(exact, ALL), training_examples(exact, options).y[:FITTED, :, 8:24, 8:24]
    fit(codec, exact, latents_to_fit(codec, y, quantiser))
    torch.save(codec.state_dict(), kept(options.weights, "fitted"))
    found["the same, fitted"] = changes(before, measure(codec))
    print(found["the same, fitted"])
    return {"layers": found, "crops": len(measure.examples.x)}


def begun(options: argparse.Namespace) -> tuple[HyperpriorCodec, Quantiser, Measure]:
    trained = load_trained(MODEL)
    codec, quantiser = trained.codec.eval(), Quantiser(trained.model.tables, torch.device("cpu"))
    return codec, quantiser, Measure(with_latents(codec, validation_crops(options)), quantiser)


def validation_crops(options: argparse.Namespace) -> Tensor:
    crops = [pixels for _, pixels in centre_crops(folder_photos(options.validation)[:: options.nth], CROP)]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


# --- training -------------------------------------------------------------------------------------------------------


def train(options: argparse.Namespace) -> dict[str, Any]:
    """From what `layers` has fitted."""
    exact, quantiser, measure = begun(options)
    before, steps, codec = measure(exact), {}, in_eight_bits(exact, ALL)
    codec.load_state_dict(torch.load(kept(options.weights, "fitted")))

    def watch(step: int) -> None:
        steps[f"{step} steps"] = changes(before, measure(codec))
        print(step, steps[f"{step} steps"], flush=True)
        torch.save(codec.state_dict(), kept(options.weights, "trained"))
        codec.train()

    took = trained_on(codec, Differences(codec, exact, quantiser), training_examples(exact, options), options, watch)
    return {"training": took | {"learning_rate": options.learning_rate, "batch": BATCH}, "steps": steps}


def training_examples(codec: HyperpriorCodec, options: argparse.Namespace) -> Examples:
    """Crops of photos and their latents, made once."""
    made = options.weights.with_suffix(".latents")
    if not made.exists():
        cache = PhotoCache(folder_photos(options.train, limit=PHOTOS, max_pixels=1_500_000), saturated=0.25)
        found = []
        for step in range(PHOTOS * CROPS_OF_EACH // 4):
            crops = cache.crops(seed=7, step=step, batch=4, size=PHOTO_SIDE)
            found.append(with_latents(codec, (crops * 255).round().byte()))
        torch.save({"x": torch.cat([each.x for each in found]), "y": torch.cat([each.y for each in found])}, made)
    return Examples(**torch.load(made, mmap=True))


def trained_on(
    codec: HyperpriorCodec,
    differences: "Differences",
    examples: Examples,
    options: argparse.Namespace,
    watch: Callable[[int], None],
) -> dict[str, float]:
    """Train g_s for so many seconds of the processor; the learning rate falls to zero with them."""
    codec.requires_grad_(False)
    convolutions = [layer for layer in codec.g_s.modules() if isinstance(layer, Eight)]
    rates = {"weight": options.learning_rate, "bias": BIASES * options.learning_rate}
    groups = [
        {"params": [getattr(layer, name).requires_grad_(True) for layer in convolutions], "lr": rate}
        for name, rate in rates.items()
    ]
    codec.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    began, wall = time.process_time(), time.monotonic()
    for step, batch in enumerate(batches(examples, torch.Generator().manual_seed(1))):
        done = max((time.process_time() - began) / options.seconds, (time.monotonic() - wall) / options.wall_seconds)
        if done >= 1:
            break
        if step and step % options.every == 0:
            watch(step)
        for group, rate in zip(optimizer.param_groups, rates.values(), strict=True):
            group["lr"] = rate * min(1, (step + 1) / WARM_UP, (1 - done) / (1 - FULL))
        optimizer.zero_grad()
        differences(batch, step).backward()
        optimizer.step()
    watch(step)
    return {"steps": step, "cpu_seconds": round(time.process_time() - began)}


def batches(examples: Examples, generator: torch.Generator) -> Iterator[Examples]:
    """Crops [8, 3, 256, 256] in [0, 1] and their latents, without end."""
    places = PHOTO_SIDE // CELL - CROP // CELL + 1
    while True:
        order = torch.randperm(len(examples.x), generator=generator).tolist()
        for first in range(0, len(order) - BATCH + 1, BATCH):
            found = [
                _part(examples, number, CELL * torch.randint(places, (2,), generator=generator))
                for number in order[first : first + BATCH]
            ]
            yield Examples(*(torch.stack(values) for values in zip(*found, strict=True)))


def _part(examples: Examples, number: int, corner: Tensor) -> tuple[Tensor, Tensor]:
    (top, left), side = corner.tolist(), CROP
    x = examples.x[number, :, top : top + side, left : left + side].float() / 255
    top, left, side = (value // LATENT_SCALE for value in (top, left, side))
    return x, examples.y[number, :, top : top + side, left : left + side]


class Differences:
    """How much worse g_s in 8 bits is than today's on the same y_hat: ln of the mean squared errors' ratio.

    What the two differ by is added to today's own error of each crop. The sum of squares alone would be that of the few
    crops of strong colours, which bytes clamp.
    """

    def __init__(self, codec: HyperpriorCodec, exact: HyperpriorCodec, quantiser: Quantiser):
        self.codec, self.exact, self.quantiser = codec, exact, quantiser
        self.seen: list[Tensor] = []
        exact.g_s.register_forward_pre_hook(lambda _, inputs: self.seen.append(inputs[0].clone()))
        self.rungs = len(exact.architecture.quality_ladder)

    def __call__(self, examples: Examples, step: int) -> Tensor:
        quality = ((torch.arange(len(examples.y)) + step) % self.rungs + 1) * QUALITY_ONE
        with torch.no_grad():
            wanted = self.exact.coded(examples.y, quality, self.quantiser.straight_through).x_hat
            own = losses.mse(wanted, examples.x)
        more = losses.mse(self.codec.g_s(self.seen.pop()), wanted)
        return (1 + more / own).log().mean()


# --- files ----------------------------------------------------------------------------------------------------------


def files(options: argparse.Namespace) -> dict[str, Any]:
    """BD-rate and PSNR of real files, with the tables of slim-2k-exact."""
    exact = models.load(MODEL)
    found = {FLOATS: Codec(models.load(FLOATS)), MODEL: Codec(exact)}
    eight = in_eight_bits(exact.codec, ALL)
    found["8 bits, converted"] = codec_of(exact, eight)
    for name in ("fitted", "trained"):
        if (path := kept(options.weights, name)).exists():
            eight.load_state_dict(decoder_of(torch.load(path)), strict=False)
            found[f"8 bits, {name}"] = codec_of(exact, eight)
    photos = [np.asarray(open_photo(path)) for path in find_photos(options.validation)[:: options.nth]]
    curves = {name: curve(codec, photos) for name, codec in found.items()}
    result = {
        name: {"qualities": FILE_QUALITIES, "bpp": values[0].tolist(), "psnr_db": values[1].tolist()}
        | {f"against_{other}_percent": bd_rate(of(curves[other]), of(values)).percent for other in (FLOATS, MODEL)}
        for name, values in curves.items()
    }
    return {"files": result, "pictures": len(photos)}


def kept(weights: Path, name: str) -> Path:
    return weights.with_suffix(f".{name}.pt")


def decoder_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in state.items() if name.startswith(("h_mean.", "context.", "g_s."))}


def of(values: np.ndarray) -> Curve:
    return Curve(FILE_QUALITIES, *(tuple(row) for row in values.tolist()))


def curve(codec: Codec, photos: list[np.ndarray]) -> np.ndarray:
    """bpp and dB by quality, means over photos."""
    found = np.zeros((2, len(FILE_QUALITIES)))
    for photo in photos:
        for number, quality in enumerate(FILE_QUALITIES):
            data = codec.compress(photo, quality=quality)
            error = psnr_db(photo, np.asarray(codec.decompress(data)))
            found[:, number] += 8 * len(data) / photo[..., 0].size, error
    return found / len(photos)


def codec_of(model: models.Model, codec: HyperpriorCodec) -> Codec:
    """Corrections change g_s's last layer, so it is one of codec/fixed again, with weights of 8 bits."""
    codec = copy.deepcopy(codec).eval()
    head: Any = model.codec.g_s.head.conv
    eight: Any = codec.g_s.head.conv
    weight, bias = (values.detach() for values in eight.quantised())
    head = copy.deepcopy(head)
    head.load_quantised(weight.short(), bias.int(), eight.scale.log2().to(torch.int8))
    codec.g_s.head.conv = head
    return Codec(model._replace(codec=codec))


def tables(result: dict[str, Any]) -> dict[str, Any]:
    """For benchmarks/tables.py."""
    heading = ["", *(f"dB at {q}" for q in QUALITIES), *(f"bits at {q}" for q in QUALITIES)]
    found = {}
    for name in ("layers", "steps"):
        rows = [
            [what, *(f"{at[str(q)][0]:+.2f}" for q in QUALITIES), *(f"{at[str(q)][1]:+.1f} %" for q in QUALITIES)]
            for what, at in result.get(name, {}).items()
        ]
        found[name] = {"heading": heading, "rows": rows}
    of_files = result.get("files", {})
    first = of_files.get(MODEL, {})
    rows = [
        [what, *(f"{at[f'against_{other}_percent']:+.1f} %" for other in (FLOATS, MODEL))]
        + [f"{own - exact:+.2f}" for own, exact in zip(at["psnr_db"], first["psnr_db"], strict=True)]
        for what, at in of_files.items()
    ]
    heading = ["", f"against `{FLOATS}`", f"against `{MODEL}`", *(f"dB at {q}" for q in FILE_QUALITIES)]
    return found | {"files": {"heading": heading, "rows": rows}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["layers", "train", "files"])
    parser.add_argument("--train", type=Path)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument(
        "--weights", type=Path, required=True, help="FILE.pt: what is fitted and trained goes beside it"
    )
    parser.add_argument("--nth", type=int, default=4, help="picture of the validation photos")
    parser.add_argument("--seconds", type=float, default=1200, help="of the processor")
    parser.add_argument("--wall-seconds", type=float, default=1e9)
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument("--every", type=int, default=1000)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    before = json.loads(options.json.read_text()) if options.json.exists() else {}
    found = {"layers": layers, "train": train, "files": files}[options.what](options)
    result = before | {"date": date.today().isoformat(), "slimcodec_version": slimcodec.__version__} | found
    result["tables"] = tables(result)
    write_text(options.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
