"""What the encoder's choices are worth: BD-rate and seconds of each effort, of the quantiser's parts, and of skipping.

    python benchmarks/encoder.py MODEL --photos KODAK [--every 4] [--efforts 1 3 5] [--skips 0 1 2 4] [--json FILE]

BD-rate is against plain rounding, on real files; everything is measured in one process.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from slimcodec.codec import bitstream, models
from slimcodec.codec.files import writing
from slimcodec.codec.inference import Codec
from slimcodec.evaluation.curves import Curve, bd_rate
from slimcodec.evaluation.metrics import psnr_db
from slimcodec.evaluation.photos import find_photos, open_photo
from slimcodec.training.prior import FactorizedPrior, export_tables

QUALITIES = 1, 2, 4, 6, 8


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    photos = [open_photo(path) for path in find_photos(options.photos)[:: options.every]]
    model = models.load(options.model)
    uncounted = export_tables(FactorizedPrior(hypers=1, rungs=1))
    gaussian = model._replace(tables=model.tables | {name: uncounted[name] for name in ("r_frequencies", "r_offsets")})
    plain = model._replace(tables=model.tables | {"r_offsets": uncounted["r_offsets"]})
    rounding, chosen, counted, whole = Codec(gaussian), Codec(gaussian), Codec(plain), Codec(model)
    rounding.quantiser.error_bits = None
    rows = [
        _measured("rounding, Gaussian tables", rounding, photos),
        _measured("chosen by cost", chosen, photos),
        _measured("and counted tables", counted, photos),
        _measured("and offsets: effort 0", whole, photos),
        *(_measured(f"effort {effort}", whole, photos, effort=effort) for effort in options.efforts),
    ]
    print(_effort_table(rows, options.threads))
    skips = [_skipping(model, skip, photos) for skip in options.skips]
    print(_skip_table(skips, int(model.tables["r_skip"])))
    if options.json:
        with writing(options.json) as file:
            file.write(json.dumps({"efforts": rows, "skips": skips, "photos": len(photos)}, indent=1).encode())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every n-th photo")
    parser.add_argument("--efforts", type=int, nargs="*", default=[1, 3, 5])
    parser.add_argument("--skips", type=int, nargs="*", default=[0, 1, 2, 4, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _measured(label: str, codec: Codec, photos: list[Image.Image], effort: int = 0) -> dict:
    """The mean curve over real files, and the median seconds of encoding one picture at one quality."""
    bpp, psnr, seconds = np.zeros((3, len(QUALITIES), len(photos)))
    for q, quality in enumerate(tqdm(QUALITIES, desc=label)):
        for p, photo in enumerate(photos):
            began = time.perf_counter()
            data = codec.compress(photo, quality, effort=effort)
            seconds[q, p] = time.perf_counter() - began
            bpp[q, p] = 8 * len(data) / (photo.width * photo.height)
            psnr[q, p] = psnr_db(np.asarray(photo), np.asarray(codec.decompress(data)))
    curve = {"quality": list(QUALITIES), "bpp": bpp.mean(1).tolist(), "values": psnr.mean(1).tolist()}
    return {"label": label, "curve": curve, "seconds": float(np.median(seconds))}


def _skipping(model: models.Model, skip: int, photos: list[Image.Image]) -> dict:
    """The same with another threshold: what is skipped, what it costs, and how fast the symbols are read."""
    codec = Codec(model._replace(tables=model.tables | {"r_skip": torch.tensor([skip], dtype=torch.int32)}))
    row = _measured(f"skip below {skip}", codec, photos)
    share, milliseconds = [], []
    for photo in photos:
        contents = bitstream.unpack(codec.compress(photo, 4))
        symbols = codec.coder.read(contents)
        share.append(float((symbols.index < skip).mean()))
        times = []
        for _ in range(5):
            began = time.perf_counter()
            codec.coder.read(contents)
            both = time.perf_counter()
            codec.coder.scale_index(symbols.z, contents.header.quality)
            times.append(2 * both - began - time.perf_counter())
        milliseconds.append(1000 * statistics.median(times))
    return row | {"skip": skip, "share": statistics.mean(share), "milliseconds": statistics.median(milliseconds)}


def _effort_table(rows: list[dict], threads: int) -> str:
    lines = [f"\n| encoder | BD-rate | seconds a picture, {threads} threads |", "|---|---:|---:|"]
    lines += [f"| {row['label']} | {_percent(rows[0], row)} | {row['seconds']:.2f} |" for row in rows]
    return "\n".join(lines)


def _skip_table(rows: list[dict], of_model: int) -> str:
    lines = [
        f"\nThe model's threshold is {of_model}.\n",
        "| skipped below | symbols skipped at quality 4 | bits at quality 4 | BD-rate | entropy decoding (ms) |",
        "|---:|---:|---:|---:|---:|",
    ]
    middle = QUALITIES.index(4)
    for row in rows:
        bits = 100 * (row["curve"]["bpp"][middle] / rows[0]["curve"]["bpp"][middle] - 1)
        lines.append(
            f"| {row['skip']} | {100 * row['share']:.1f} % | {bits:+.2f} % | {_percent(rows[0], row)} | "
            f"{row['milliseconds']:.2f} |"
        )
    return "\n".join(lines)


def _percent(anchor: dict, row: dict) -> str:
    return f"{bd_rate(Curve(**anchor['curve']), Curve(**row['curve'])).percent:+.2f} %"


if __name__ == "__main__":
    main()
