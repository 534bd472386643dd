"""Where a student's bits go, beside its teacher's: z and every stage of r, by quality, and which pictures lose most.

    python benchmarks/bits.py TEACHER STUDENT --photos PHOTOS --json FILE [--every 4]

Bits are the symbols' information content. benchmarks/tables.py makes tables of the file.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from slimcodec.codec import entropy, inference
from slimcodec.codec.atomic import write_text
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.inference import Codec
from slimcodec.codec.symbols import Symbols
from slimcodec.evaluation.metrics import psnr_db
from slimcodec.evaluation.photos import find_photos, open_photo

QUALITIES = range(1, 9)


def main() -> None:
    options = _options()
    photos = {path.stem: np.asarray(open_photo(path)) for path in find_photos(options.photos)[:: options.every]}
    result = {
        "command": f"python benchmarks/bits.py {options.teacher} {options.student} --photos {options.photos} "
        f"--every {options.every}",
        "photos": len(photos),
        "models": {
            role: _measured(inference.load(model, backend="torch"), photos, role)
            for role, model in (("teacher", options.teacher), ("student", options.student))
        },
    }
    write_text(options.json, json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("student")
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every n-th photo")
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


def _measured(codec: Codec, photos: dict[str, np.ndarray], role: str) -> dict[str, Any]:
    """Means over the photos by quality: bits a pixel of z and of each stage; and each picture's own curve."""
    parts = np.zeros((len(QUALITIES), 1 + len(codec.network.architecture.stages)))
    pictures = {}
    for name, pixels in tqdm(photos.items(), role, disable=None):
        y = codec.transforms.analyse(pixels)
        bpp, psnr = [], []
        for number, quality in enumerate(QUALITIES):
            fixed = quality * QUALITY_ONE
            symbols, y_hat = codec.transforms.code(y, codec.transforms.hyper_latents(y, fixed), fixed)
            found = _bits(codec, symbols, fixed) / (pixels.shape[0] * pixels.shape[1])
            parts[number] += found / len(photos)
            bpp.append(found.sum())
            psnr.append(psnr_db(pixels, codec.transforms.synthesise(y_hat, pixels.shape[1], pixels.shape[0])))
        pictures[name] = {"bpp": bpp, "psnr_db": psnr}
    return {"bpp": parts.tolist(), "pictures": pictures}


def _bits(codec: Codec, symbols: Symbols, fixed_quality: int) -> np.ndarray:
    """Of z and of every stage: [1 + stages]."""
    coder = codec.coder
    z = coder.z_bits(symbols.z, fixed_quality)
    r = [
        entropy.information_bits(symbols.r[list(planes)], symbols.index[list(planes)], coder.r_tables)
        for planes in codec.network.architecture.stages
    ]
    return np.array([z, *r])


if __name__ == "__main__":
    main()
