"""What encoders that share a decoder cost and are worth: MAC/pixel, BD-rate on crops, seconds a picture.

    python benchmarks/encoders.py NAME=MODEL … --validation CID22 --photos KODAK [--every 6] [--json FILE]

BD-rates are of estimated bits on the centre crops (384²) of the first twelve pictures, against the first model, and so
are those of benchmarks/ablations.py. Seconds are those of one core, at quality 4 and effort 0, each model in turn.
"""

import argparse
import json
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from slimcodec.codec import models
from slimcodec.codec.atomic import write_text
from slimcodec.codec.inference import Codec
from slimcodec.evaluation.curves import mean_curve
from slimcodec.evaluation.photos import find_photos, open_photo
from slimcodec.evaluation.points import estimated_points
from slimcodec.training.photos import Photo, centre_crops, folder_photos

PHOTOS, SIDE, QUALITIES, QUALITY = 12, 384, range(1, 9), 4


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    crops = centre_crops(folder_photos(options.validation)[:PHOTOS], SIDE)
    codecs = {name: Codec(models.load(model)) for name, _, model in (each.partition("=") for each in options.models)}
    arms = [_measured(name, codec, crops) for name, codec in codecs.items()]
    seconds = _seconds(codecs, [open_photo(path) for path in find_photos(options.photos)[:: options.every]])
    result = {"date": date.today().isoformat(), "arms": [arm | {"seconds": seconds[arm["name"]]} for arm in arms]}
    for arm in result["arms"]:
        print(arm["name"], f"{arm['encoder_macs_per_pixel']:,.0f} MAC/pixel, {arm['seconds']:.2f} s")
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="what the table calls it, and a model's name or directory")
    parser.add_argument("--validation", required=True, type=Path)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--every", type=int, default=6, help="encode every n-th photo")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _measured(name: str, codec: Codec, crops: list[Photo]) -> dict[str, Any]:
    info = codec.model.info
    return {
        "name": name,
        "decoder_macs_per_pixel": info["decoder_macs_per_pixel"],
        "encoder_macs_per_pixel": info["encoder_macs_per_pixel"],
        "curve": mean_curve(estimated_points(codec, crops, QUALITIES, description=name))._asdict(),
    }


def _seconds(codecs: dict[str, Codec], pictures: list[Image.Image]) -> dict[str, float]:
    """Name → the processor's time, the median over the pictures; the first picture is encoded once before."""
    found: dict[str, list[float]] = {name: [] for name in codecs}
    for number, picture in enumerate([pictures[0], *pictures]):
        for name, codec in codecs.items():
            began = time.process_time()
            codec.compress(picture, QUALITY)
            if number:
                found[name].append(time.process_time() - began)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


if __name__ == "__main__":
    main()
