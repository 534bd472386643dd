"""Do several competing codecs code better than one that saw as many pictures? docs/flagship.md says what came out.

    python benchmarks/compete.py OUT.json --photos PHOTOS --validation SET... [--arms 1,4,4-shared] [--steps 4000]
    python benchmarks/compete.py OUT.json --photos PHOTOS --validation SET... --device cuda --batch 256 --crop 256

An arm is a number of specialists. With `-shared` they have one entropy model. Every arm trains from the same model for
as many steps of as many crops, in RUNS/ARM, and goes on where it was stopped.
What is measured are estimated bits, rounded symbols and Gaussian tables, on the middles of validation pictures. A
picture, or each of its cells of 64 × 64 pixels, is given to the specialist whose cost is the lowest, and the bits that
say so are added. A cell's cost is what it costs where the whole picture is coded by that specialist.
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
from torch.nn import functional as F
from tqdm import tqdm

from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.files import writing
from slimcodec.codec.grid import CELL
from slimcodec.codec.rate import gaussian_bits
from slimcodec.evaluation.curves import Curve, bd_rate
from slimcodec.evaluation.provenance import commit
from slimcodec.training.compete import ENTROPY_MODEL, TRUNK, Compete
from slimcodec.training.data import PhotoData
from slimcodec.training.photos import centre_crops, folder_photos
from slimcodec.training.progress import Status
from slimcodec.training.pyramid import PhotoPyramid
from slimcodec.training.teach import fit, load_trained, save_trained

MOST_PIXELS = 4_000_000  # of a photo to train on: larger ones are made smaller


class Costs(NamedTuple):
    """Of a picture's cells at one rung with every specialist: both [K, cells]."""

    bits: Tensor
    squared_error: Tensor  # summed over a cell's colours and pixels, in levels of 1


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    photos = folder_photos(options.photos, limit=options.limit, max_pixels=MOST_PIXELS)
    cache = PhotoPyramid(photos, device=options.device)
    arms = {name: _arm(options, name, cache) for name in options.arms.split(",")}
    result = {
        "command": "python benchmarks/compete.py " + " ".join(sys.argv[1:]),
        "date": date.today().isoformat(),
        "commit": commit(),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "arms": [arm.pop("told") for arm in arms.values()],
        "against_the_first_arm": _compared(arms, load_trained(options.model).codec.architecture.quality_ladder),
    }
    with writing(options.out) as file:
        file.write((json.dumps(result, indent=1) + "\n").encode())
    print(json.dumps(result["against_the_first_arm"], indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--validation", required=True, type=Path, nargs="+")
    parser.add_argument("--model", default="slim-2k")
    parser.add_argument("--runs", type=Path, default=Path("runs/compete"))
    parser.add_argument("--arms", default="1,4,4-shared")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--freeze-trunk", action="store_true", help="do not train what all specialists share")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="photos to train on at most")
    parser.add_argument("--pictures", type=int, default=12, help="of each validation set")
    parser.add_argument("--side", type=int, default=512, help="of their middles, in pixels")
    return parser.parse_args()


# ---------------------------------------------------------------------------------------------------------- training


def _arm(options: argparse.Namespace, name: str, cache: PhotoPyramid) -> dict[str, Any]:
    began, work = time.monotonic(), options.runs / name
    module = _module(options, name, cache)
    fit(
        module,
        PhotoData(validation_photos=[], steps_per_epoch=options.steps),
        work,
        functools.partial(_trainer, options),
        checkpoint_minutes=1,
        watch=functools.partial(_tell, name),
    )
    trained = time.monotonic() - began
    module.to(options.device).eval()
    sets = {folder.name: _costs_of_set(options, module, folder) for folder in options.validation}
    crops = module.cache.crops(seed=0, step=0, batch=64, size=options.crop).cpu()
    for number, (codec, prior) in enumerate(zip(module.codecs, module.priors, strict=True)):
        save_trained(work / f"specialist-{number}", codec.cpu(), prior.cpu(), crops, role="student")
    told = {"arm": name, "steps": options.steps, "batch": options.batch, "crop": options.crop}
    return {"told": told | {"seconds_of_this_command": round(trained)}, "sets": sets}


def _module(options: argparse.Namespace, name: str, cache: PhotoPyramid) -> Compete:
    count, _, shared = name.partition("-")
    trained = [load_trained(options.model) for _ in range(int(count))]
    module = Compete(
        [each.codec for each in trained],
        [(trained[0] if shared else each).prior for each in trained],
        shared=(*TRUNK, *ENTROPY_MODEL) if shared else TRUNK,
        cache=cache,
        steps=options.steps,
        batch=options.batch,
        crop=options.crop,
        learning_rate=options.learning_rate,
        optimizer="soap",
        basis_every=100,
        whole_step=True,
    )
    module.codec.g_a.levels.requires_grad_(not options.freeze_trunk)
    return module


def _tell(name: str, status: Status) -> None:
    print(f"{name}: step {status.step} of {status.steps}, cost {status.loss}, {status.seconds_left} s left", flush=True)


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
    quality, bits, errors = torch.tensor([rung * QUALITY_ONE], device=x.device), [], []
    for number, prior in enumerate(module.priors):
        coded, _ = module.coded_whole(number, x, quality, features)
        r = gaussian_bits(module.integers(coded).float(), coded.index.float()).sum(dim=(1, 2))[:, None]
        z = prior.bits(coded.z.round(), quality).sum(dim=1, keepdim=True)
        bits.append((_by_cell(r, 2) + z).flatten())
        error = (coded.x_hat.clamp(0, 1) - x).square().sum(dim=1, keepdim=True)
        errors.append(_by_cell(error, CELL).flatten())
    return Costs(torch.stack(bits).cpu(), torch.stack(errors).cpu())


def _by_cell(values: Tensor, side: int) -> Tensor:
    return F.avg_pool2d(values, side) * side**2


def _compared(arms: dict[str, dict[str, Any]], ladder: tuple[float, ...]) -> dict[str, Any]:
    """Set → arm → BD-rate in per cent against the first arm, chosen by picture and by cell; and how often each is."""
    first, found = next(iter(arms.values()))["sets"], {}
    for name, base in first.items():
        anchor, found[name] = _curve(base, ladder, by_cell=False)[0], {}
        for arm_name, arm in arms.items():
            told = {}
            for how, by_cell in (("by picture", False), ("by cell", True)):
                curve, chosen = _curve(arm["sets"][name], ladder, by_cell=by_cell)
                told[how] = round(bd_rate(anchor, curve).percent, 2)
                told[f"shares {how}"] = [round(share, 3) for share in chosen.tolist()]
            found[name][arm_name] = told
    return found


def _curve(costs: list[list[Costs]], ladder: tuple[float, ...], *, by_cell: bool) -> tuple[Curve, Tensor]:
    """The mean curve where the best specialist is chosen, and how often each one is."""
    bpp, psnr, times = [], [], torch.zeros(len(costs[0][0].bits))
    for rung, lmbda in enumerate(ladder):
        rates, qualities, at_rung = [], [], torch.zeros_like(times)
        for of_picture in costs:
            bits, errors = of_picture[rung]
            pixels = bits.shape[1] * CELL**2
            cost = bits + lmbda * 255**2 * errors / 3
            chosen = cost.argmin(0) if by_cell else cost.sum(1).argmin().expand(bits.shape[1])
            counted = torch.bincount(chosen, minlength=len(bits)).float()
            at_rung += counted if by_cell else counted / counted.sum()
            rates.append((bits.gather(0, chosen[None]).sum() / pixels, pixels))
            qualities.append(-10 * (errors.gather(0, chosen[None]).sum() / pixels / 3).log10())
        share = at_rung / at_rung.sum()
        said = float(-(share * share.clamp_min(1e-9).log2()).sum())  # bits of one choice
        bpp.append(sum(float(rate) + said / (CELL**2 if by_cell else pixels) for rate, pixels in rates) / len(rates))
        psnr.append(float(torch.stack(qualities).mean()))
        times += share / len(ladder)
    return Curve(tuple(range(1, len(ladder) + 1)), tuple(bpp), tuple(psnr)), times


if __name__ == "__main__":
    main()
