"""Do competing specialists code better than one that saw as many pictures? docs/flagship.md says what came out.

    python benchmarks/compete.py OUT.json --photos PHOTOS --validation SET... [--specialists 1,4,8] [--steps 4000]
    python benchmarks/compete.py OUT.json --photos PHOTOS --validation SET... --device cuda --batch 256 --crop 256

Every arm trains from the same model for as many steps of as many crops, in RUNS/K, and goes on where it was stopped.
What is measured are estimated bits, rounded symbols and Gaussian tables, on the middles of validation pictures. Each
picture, or each of its cells of 64 × 64 pixels, is given to the specialist whose cost is the lowest, and the bits that
say so are added. "alone" are a cell's costs where the whole picture is coded by its specialist. "together" are those
among cells of others, as files have them.
"""

import argparse
import functools
import json
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor
from tqdm import tqdm

from slimcodec.codec.atomic import write_text
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.grid import CELL
from slimcodec.codec.quantise import Quantiser
from slimcodec.evaluation.curves import Curve, bd_rate
from slimcodec.evaluation.provenance import commit
from slimcodec.training.compete import Compete
from slimcodec.training.data import PhotoData
from slimcodec.training.photos import centre_crops, folder_photos
from slimcodec.training.progress import Status
from slimcodec.training.pyramid import PhotoPyramid
from slimcodec.training.schedule import Late
from slimcodec.training.teach import fit, load_trained, save_trained

WAYS = "by picture", "by cell, alone", "by cell, together"
MOST_PIXELS = 4_000_000  # of a photo to train on: larger ones are made smaller


class Costs(NamedTuple):
    """Of a picture's cells at one rung with every specialist alone, and then with all of them: both [K + 1, cells]."""

    bits: Tensor
    squared_error: Tensor  # summed over a cell's colours and pixels, in levels of 1


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    photos = folder_photos(options.photos, limit=options.limit, max_pixels=MOST_PIXELS)
    cache = PhotoPyramid(photos, device=options.device, saturated=options.saturated)
    arms = {count: _arm(options, count, cache) for count in options.specialists}
    result = {
        "command": "python benchmarks/compete.py " + " ".join(sys.argv[1:]),
        "date": date.today().isoformat(),
        "commit": commit(),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "arms": [arm.pop("told") for arm in arms.values()],
        "against_the_first_arm": _compared(arms, load_trained(options.model).codec.architecture.quality_ladder),
    }
    write_text(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["against_the_first_arm"], indent=1))


def late(text: str) -> Late:
    share, batch, crop = text.split(",")
    return Late(float(share), int(batch), int(crop))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--validation", required=True, type=Path, nargs="+")
    parser.add_argument("--model", default="slim-2k")
    parser.add_argument("--runs", type=Path, default=Path("runs/compete"))
    parser.add_argument(
        "--specialists", type=lambda text: [int(number) for number in text.split(",")], default=[1, 4, 8]
    )
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--freeze-trunk", action="store_true", help="do not train what all specialists share")
    parser.add_argument("--decay-from", type=float, default=2 / 3, help="share of the steps after which the rate falls")
    parser.add_argument("--late", type=late, help="SHARE,BATCH,CROP of the last steps")
    parser.add_argument("--as-in-files", action="store_true", help="choose residuals by what they cost")
    parser.add_argument("--saturated", type=float, default=0.0, help="share of the crops with stronger colours")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="photos to train on at most")
    parser.add_argument("--pictures", type=int, default=12, help="of each validation set")
    parser.add_argument("--side", type=int, default=512, help="of their middles, in pixels")
    return parser.parse_args()


# ---------------------------------------------------------------------------------------------------------- training


def _arm(options: argparse.Namespace, count: int, cache: PhotoPyramid) -> dict[str, Any]:
    began, work = time.monotonic(), options.runs / str(count)
    module = _module(options, count, cache)
    fit(
        module,
        PhotoData(validation_photos=[], steps_per_epoch=options.steps),
        work,
        functools.partial(_trainer, options),
        checkpoint_minutes=1,
        watch=functools.partial(_tell, count),
    )
    trained = time.monotonic() - began
    module.to(options.device).eval()
    sets = {folder.name: _costs_of_set(options, module, folder) for folder in options.validation}
    crops = module.cache.crops(seed=0, step=0, batch=64, size=options.crop).cpu()
    for number, codec in enumerate(module.codecs):
        save_trained(work / f"specialist-{number}", codec.cpu(), module.prior.cpu(), crops, role="student")
    told = {"specialists": count, "steps": options.steps, "batch": options.batch, "crop": options.crop}
    return {"told": told | {"seconds_of_this_command": round(trained)}, "sets": sets}


def _module(options: argparse.Namespace, count: int, cache: PhotoPyramid) -> Compete:
    trained = [load_trained(options.model) for _ in range(count)]
    module = Compete(
        [each.codec for each in trained],
        trained[0].prior,
        cache=cache,
        steps=options.steps,
        batch=options.batch,
        crop=options.crop,
        learning_rate=options.learning_rate,
        decay_from=options.decay_from,
        late=options.late,
        quantiser=Quantiser(trained[0].model.tables, torch.device(options.device)) if options.as_in_files else None,
        optimizer="soap",
        basis_every=100,
        whole_step=True,
    )
    module.codec.g_a.levels.requires_grad_(not options.freeze_trunk)
    return module


def _tell(count: int, status: Status) -> None:
    print(
        f"{count} specialists: step {status.step} of {status.steps}, cost {status.loss}, {status.seconds_left} s left",
        flush=True,
    )


def _trainer(options: argparse.Namespace, directory: Path, **more: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        benchmark=True,
        log_every_n_steps=50,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory,
        **more,
    )


# --------------------------------------------------------------------------------------------------------- measuring


@torch.no_grad()
def _costs_of_set(options: argparse.Namespace, module: Compete, folder: Path) -> list[list[Costs]]:
    """By picture and rung."""
    photos = centre_crops(folder_photos(folder, limit=options.pictures), options.side)
    found = []
    for _, pixels in tqdm(photos, folder.name):
        height, width = (side // CELL * CELL for side in pixels.shape[:2])
        x = torch.from_numpy(pixels[:height, :width]).permute(2, 0, 1)[None].to(options.device) / 255
        features = module.codec.g_a.features(x)
        found.append([_costs(module, x, rung, features) for rung in range(1, len(module.lmbda) + 1)])
    return found


def _costs(module: Compete, x: Tensor, rung: int, features: Tensor) -> Costs:
    quality = torch.tensor([rung * QUALITY_ONE], device=x.device)
    module.places.map = module.costs(x, quality, features).argmin(dim=0)
    found = [module.cells(codec, x, quality, features) for codec in (*module.codecs, module.mixed)]
    bits, errors = (torch.stack([values.flatten() for values in each]).cpu() for each in zip(*found, strict=True))
    return Costs(bits, errors)


def _compared(arms: dict[int, dict[str, Any]], ladder: tuple[float, ...]) -> dict[str, Any]:
    """Set → arm → BD-rate in per cent against the first arm, chosen by picture and by cell; and how often each is."""
    first, found = next(iter(arms.values()))["sets"], {}
    for name, base in first.items():
        anchor, found[name] = _curve(base, ladder, "by picture")[0], {}
        for count, arm in arms.items():
            told = {}
            for how in WAYS:
                curve, chosen = _curve(arm["sets"][name], ladder, how)
                told[how] = round(bd_rate(anchor, curve).percent, 2)
            found[name][count] = told | {"shares by cell": [round(share, 3) for share in chosen.tolist()]}
    return found


def _curve(costs: list[list[Costs]], ladder: tuple[float, ...], how: str) -> tuple[Curve, Tensor]:
    """The mean curve where the best specialist is chosen, and how often each one is."""
    by_picture, together = how == "by picture", how == "by cell, together"
    bpp, psnr, times = [], [], torch.zeros(len(costs[0][0].bits) - 1)
    for rung, lmbda in enumerate(ladder):
        rates, qualities, at_rung = [], [], torch.zeros_like(times)
        for of_picture in costs:
            bits, errors = of_picture[rung]
            cells = bits.shape[1]
            cost = (bits + lmbda * 255**2 * errors / 3)[:-1]
            chosen = cost.sum(1).argmin().expand(cells) if by_picture else cost.argmin(0)
            at_rung += torch.bincount(chosen, minlength=len(times)) / cells
            row = torch.full((1, cells), len(times)) if together else chosen[None]
            said = 1 if by_picture else cells
            rates.append((bits.gather(0, row).sum() / cells / CELL**2, said / cells / CELL**2))
            qualities.append(-10 * (errors.gather(0, row).sum() / cells / CELL**2 / 3).log10())
        share = at_rung / at_rung.sum()
        choice = float(-(share * share.clamp_min(1e-9).log2()).sum())  # bits
        bpp.append(sum(float(rate) + choice * said for rate, said in rates) / len(rates))
        psnr.append(float(torch.stack(qualities).mean()))
        times += share / len(ladder)
    return Curve(tuple(range(1, len(ladder) + 1)), tuple(bpp), tuple(psnr)), times


if __name__ == "__main__":
    main()
