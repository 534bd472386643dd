"""What `scale="best"` gives beside the full size, on real files. docs/tried.md says what came out.

    python benchmarks/scales.py OUT.json --validation NAME=FOLDER ... [--every 2] [--quality 1]

Two questions for every picture: how many bytes the PSNR of the full size takes, and how good as many bytes can be.
"""

import argparse
import json
import sys
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from slimcodec.codec import inference
from slimcodec.codec.atomic import write_text
from slimcodec.codec.bitstream import unpack
from slimcodec.codec.inference import Codec
from slimcodec.evaluation.photos import find_photos, open_photo
from slimcodec.evaluation.provenance import commit


def main() -> None:
    options = _options()
    codec, points = inference.load(options.model), {}
    for named in options.validation:
        name, folder = named.split("=", 1)
        paths = find_photos(folder)[:: options.every]
        points[name] = {path.stem: _of_picture(codec, open_photo(path), options) for path in tqdm(paths, name)}
    result = {
        "command": "python benchmarks/scales.py " + " ".join(sys.argv[1:]),
        "date": date.today().isoformat(),
        "commit": commit(),
        "tables": {name: _table(found) for name, found in points.items()},
        "points": points,
    }
    write_text(options.out, json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--validation", required=True, nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--model", default="slim-2k")
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture")
    parser.add_argument("--quality", type=float, default=1)
    parser.add_argument("--bytes-only", action="store_true", help="the first question takes long for large pictures")
    return parser.parse_args()


def _of_picture(codec: Codec, picture: Any, options: argparse.Namespace) -> dict[str, list[float]]:
    """What was asked for → bpp, PSNR and scale of its file."""
    full = codec.compress(picture, options.quality)
    files = {"full": full, "equal bytes": codec.compress(picture, options.quality, scale="best")}
    if not options.bytes_only:
        files["equal PSNR"] = codec.compress(picture, target_psnr_db=codec.psnr_db(picture, full), scale="best")
    pixels = picture.width * picture.height
    return {
        name: [8 * len(data) / pixels, codec.psnr_db(picture, data), unpack(data).header.scale]
        for name, data in files.items()
    }


def _table(found: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    rates = [100 * (of["equal PSNR"][0] / of["full"][0] - 1) for of in found.values() if "equal PSNR" in of]
    gains = [of["equal bytes"][1] - of["full"][1] for of in found.values()]
    rows = []
    for question, values, unit in [("equal PSNR", rates, "%")] * bool(rates) + [("equal bytes", gains, "dB")]:
        taken = Counter(of[question][2] for of in found.values())
        digits = 1 if unit == "%" else 2
        shown = [f"{f(values):+.{digits}f} {unit}".replace("-", "−") for f in (np.mean, np.median, min, max)]
        rows.append([question, *shown, *(str(taken[scale]) for scale in (1, 0.75, 0.5, 0.25))])
    return {"heading": ["", "mean", "median", "least", "most", "1", "3/4", "1/2", "1/4"], "rows": rows}


if __name__ == "__main__":
    main()
