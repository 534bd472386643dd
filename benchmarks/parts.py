"""What each part of a model's tables gains, alone and together: BD-rate, bits of corrections, time, by size of picture.

    python benchmarks/parts.py MODEL --against PLAIN --photos NAME=FOLDER … [--large FOLDER] [--every 2] [--json FILE]
    python benchmarks/parts.py MODEL --photos NAME=FOLDER … [--large FOLDER] [--every 2] [--json FILE]

MODEL has the weights of PLAIN, and the tables that finish.tables gives it. Without PLAIN its filters are measured,
against MODEL without them. BD-rates are of real files at effort 0; everything is measured in one process. --large takes
photos at several sizes, and four of them together as one picture of 4000 x 3000 pixels.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from codec import mosaic
from PIL import Image
from tables import parts_table
from tqdm import tqdm

from slimcodec.codec import bitstream, models
from slimcodec.codec.atomic import write_text
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.inference import Codec
from slimcodec.codec.symbols import BANK_TABLES, CORRECTION_TABLES, COST_TABLES, FILTER_TABLES
from slimcodec.evaluation.curves import bd_rate
from slimcodec.evaluation.metrics import psnr_db
from slimcodec.evaluation.photos import find_photos, open_photo

QUALITIES = 1, 2, 4, 6, 8
TIMED = 4  # the quality at which seconds are measured
MEGAPIXELS = 0.4, 1.0
MOSAICS = 1
PARTS = {
    "tables of r": ("r_frequencies", "r_offsets", "r_skip", *COST_TABLES),
    "banks of z": tuple(BANK_TABLES),
    "corrections": tuple(CORRECTION_TABLES),
}
PLAIN, TOGETHER = "plain", "together"


class Coded(NamedTuple):
    curve: list[tuple[float, float]]  # bpp and PSNR
    correction_bits: float  # and those of the filter; mean over qualities
    encode_seconds: float
    decode_seconds: float


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    codecs, found = _codecs(models.load(options.model), options.against), {}
    for name, pictures in _sets(options).items():
        found[name] = _of_set(codecs, pictures)
        print(parts_table(found), flush=True)
        if options.json:  # after every set: all of them take an hour
            write_text(options.json, json.dumps({"threads": options.threads, "sets": found}, indent=1) + "\n")


def _codecs(model: models.Model, against: str | None) -> dict[str, Codec]:
    """The first one is what the others are measured against."""
    if against is None:
        without = {name: table for name, table in model.tables.items() if name not in FILTER_TABLES}
        return {PLAIN: Codec(model._replace(tables=without)), "filter": Codec(model)}
    plain = models.load(against)
    own = {part: {name: model.tables[name] for name in names} for part, names in PARTS.items()}
    codecs = {part: Codec(plain._replace(tables=plain.tables | tables)) for part, tables in own.items()}
    return {PLAIN: Codec(plain)} | codecs | {TOGETHER: Codec(model)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model directory or name")
    parser.add_argument("--against", metavar="PLAIN", help="the same with fewer tables")
    parser.add_argument("--photos", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--large", type=Path, help="a folder of photos of 2.8 megapixels or more")
    parser.add_argument("--every", type=int, default=1, help="take every n-th photo")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _sets(options: argparse.Namespace) -> dict[str, list[Image.Image]]:
    sets = {}
    for named in options.photos:
        name, folder = named.split("=", 1)
        sets[name] = [open_photo(path) for path in find_photos(folder)[:: options.every]]
    if options.large:
        paths = find_photos(options.large)
        chosen = [open_photo(path) for path in paths[:: options.every]]
        sets |= {f"{size} megapixels": [_scaled(photo, size) for photo in chosen] for size in MEGAPIXELS}
        sets["12 megapixels"] = [mosaic(paths[4 * number :]) for number in range(min(MOSAICS, len(paths) // 4))]
    return sets


def _scaled(photo: Image.Image, megapixels: float) -> Image.Image:
    scale = min(1.0, math.sqrt(1e6 * megapixels / (photo.width * photo.height)))
    return photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS)


def _of_set(codecs: dict[str, Codec], pictures: list[Image.Image]) -> dict[str, dict[str, float]]:
    """Of every part: means over the pictures of BD-rate in per cent and bits, and medians of ratios of time."""
    coded = [{part: _coded(codec, picture) for part, codec in codecs.items()} for picture in tqdm(pictures)]
    found = {}
    for part in list(codecs)[1:]:
        pairs = [(of_picture[PLAIN], of_picture[part]) for of_picture in coded]
        percents = [bd_rate(plain.curve, own.curve).percent for plain, own in pairs]
        found[part] = {
            "bd_rate_percent": statistics.mean(percents),
            "median": statistics.median(percents),
            "worst": max(percents),
            "correction_bits": statistics.mean(own.correction_bits for _, own in pairs),
            "encode": statistics.median(own.encode_seconds / plain.encode_seconds for plain, own in pairs),
            "decode": statistics.median(own.decode_seconds / plain.decode_seconds for plain, own in pairs),
            "encode_seconds": statistics.median(own.encode_seconds for _, own in pairs),
        }
    return found


def _coded(codec: Codec, picture: Image.Image) -> Coded:
    began = time.perf_counter()
    data = codec.compress(picture, TIMED)
    encoded = time.perf_counter()
    codec.decompress(data)
    decoded, encoding, pixels = time.perf_counter(), codec.encoding(picture), np.asarray(picture)
    curve, bits = [], []
    for quality in QUALITIES:
        data = encoding.file(quality * QUALITY_ONE)
        error = psnr_db(pixels, np.asarray(codec.decompress(data)))
        curve.append((8 * len(data) / (picture.width * picture.height), error))
        contents = bitstream.unpack(data)
        written = contents.adapted._replace(cell_map=None)
        bits.append(8 * sum(1 + len(part) for part in written if part))
    return Coded(curve, statistics.mean(bits), encoded - began, decoded - encoded)


if __name__ == "__main__":
    main()
