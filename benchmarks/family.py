"""The family of students that were made from slim-2k: what they cost, how long they were trained, what they are worth.

    python benchmarks/family.py results/kodak slim-500 slim-1k slim-2k slim-4k slim-8k
    python benchmarks/family.py STUDY MODEL … --json FILE        instead of results/ablations/family.json

A model is one of the zoo, or a directory whose name is its codec's in the study. BD-rates are against VTM, and against
slim-2k with and without what adapts (`plain`) as they are in results/kodak, by the qualities that the model has.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from slimcodec.codec import models, zoo
from slimcodec.codec.atomic import write_text
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.grid import CELL, LATENT_SCALE
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.evaluation import summary
from slimcodec.evaluation.comparison import VTM
from slimcodec.evaluation.curves import Curve, bd_rate
from slimcodec.evaluation.metrics import PSNR

ROOT = Path(__file__).resolve().parents[1]
KODAK, STORED = ROOT / "results" / "kodak", ROOT / "results" / "ablations" / "family.json"
SHIPPED, PLAIN = "slim-2k", "plain"
# What finish.start names → the training that made it, as conf/experiment has it.
EARLIER = {f"runs/family-{name}/finished": {"steps": steps, "batch": 8} for name, steps in (("4k", 2500), ("8k", 1600))}
HEADING = ["", "decoder, MAC/pixel", "by PyTorch's counter", "encoder, MAC/pixel", "by PyTorch's counter"]
HEADING += ["steps", "crops", "against VTM", "against slim-2k", "without what adapts"]


def main() -> None:
    options = _options()
    codecs = summary.read(options.study).codecs
    arms = [_measured(Path(name).name, codecs[Path(name).name].curves[PSNR], zoo.find(name)) for name in options.models]
    arms.sort(key=lambda arm: arm["decoder_macs_per_pixel"])
    rows = [row(arm) for arm in arms]
    result = {"date": date.today().isoformat(), "arms": arms, "tables": {"family": {"heading": HEADING, "rows": rows}}}
    write_text(options.json, json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--json", type=Path, default=STORED, help="where what is measured goes instead")
    return parser.parse_args()


def _measured(name: str, curve: Curve, model: Path) -> dict[str, Any]:
    described, kodak = zoo.describe(model), summary.read(KODAK)
    shipped = {anchor: at(kodak.codecs[anchor].curves[PSNR], curve.quality) for anchor in (SHIPPED, PLAIN)}
    anchors = {"vtm": kodak.quoted[VTM].curves[PSNR]} | shipped
    return {
        "name": name,
        "decoder_macs_per_pixel": described.decoder_macs_per_pixel,
        "encoder_macs_per_pixel": described.encoder_macs_per_pixel,
        "counted": counted(models.load(model).codec),
        **trained(described.configuration),
        "curve": curve._asdict(),
        "percent_against": {anchor: bd_rate(known, curve).percent for anchor, known in anchors.items()},
        "slim_2k_weights_sha256": kodak.codecs[SHIPPED].weights_sha256,
    }


def at(curve: Curve, qualities: Sequence[float]) -> Curve:
    """The points of some qualities."""
    chosen = [curve.quality.index(quality) for quality in qualities]
    return Curve(*(tuple(values[place] for place in chosen) for values in curve))


@torch.no_grad()
def counted(codec: HyperpriorCodec) -> dict[str, float]:
    """MAC/pixel of both sides by PyTorch's counter, and the products of the gain."""
    x, latents = torch.zeros(1, 3, CELL, CELL), codec.architecture.latents
    y = torch.zeros(1, latents, CELL // LATENT_SCALE, CELL // LATENT_SCALE)
    whole = _flops(lambda: codec.eval()(x, torch.tensor([QUALITY_ONE])))
    g_a, h_a, g_s = (_flops(partial(part, given)) for part, given in ((codec.g_a, x), (codec.h_a, y), (codec.g_s, y)))
    gain = latents / LATENT_SCALE**2
    return {"decoder": whole - g_a - h_a + gain, "encoder": whole - g_s + 3 * gain}


def _flops(work: Callable[[], Any]) -> float:
    """MAC/pixel of what is done for one cell."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 2 / CELL**2


def trained(configuration: dict[str, Any]) -> dict[str, int]:
    """Steps and crops since the student that it was made of: of its one round, if it was pruned, and of finish."""
    parts = [configuration["finish"]["training"], EARLIER.get(configuration["finish"]["start"])]
    if configuration["student"].get("load"):
        parts.append(configuration["prune"]["training"])
    trainings = [part for part in parts if part]
    return {
        "steps": sum(part["steps"] for part in trainings),
        "crops": sum(part["steps"] * part["batch"] for part in trainings),
    }


def row(arm: dict[str, Any]) -> list[str]:
    macs = [
        value
        for side in ("decoder", "encoder")
        for value in (f"{arm[f'{side}_macs_per_pixel']:,.1f}", f"{arm['counted'][side]:,.1f}")
    ]
    steps = [f"{arm[of]:,}" if arm["name"] != SHIPPED else "–" for of in ("steps", "crops")]
    percents = [f"{percent:+.1f} %".replace("-", "−") for percent in arm["percent_against"].values()]
    return [f"`{arm['name']}`", *macs, *steps, *percents]


if __name__ == "__main__":
    main()
