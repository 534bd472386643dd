"""What would a classical path for low bands, or a last layer in DCT bands, be worth? docs/tried.md has what came out.

    python benchmarks/bands.py OUT.json --photos PHOTOS [--model slim-2k] [--every 5]

Nothing is trained. Two questions, in closed form:

    low bands  Block means are what a low band holds. How much of the squared error is theirs, and what would a plain
               predictive coder (LOCO-I's predictor, ideal entropy coding, eight contexts) spend on them at that error?
    head       g_s's last layer makes 8 × 8 pixels. Written as a layer that makes DCT bands of Y, U and V and an inverse
               DCT it is the same function. What does it lose if it makes only some of the bands, and what does it save?

Files are without corrections of the last layer, which the projection would meet as well.
"""

import argparse
import json
import math
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from slimcodec.codec import inference
from slimcodec.codec.atomic import write_text
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.grid import LATENTS, whole
from slimcodec.codec.inference import Codec
from slimcodec.codec.networks import Head
from slimcodec.evaluation.curves import bd_rate
from slimcodec.evaluation.metrics import psnr_db
from slimcodec.evaluation.photos import find_photos, open_photo
from slimcodec.evaluation.provenance import commit

QUALITIES = 1, 2, 3, 5, 7
SHOWN = 2, 5
SCALES = 16, 8
KEPT = {"all bands": (8, 8), "Y 8×8, U and V 4×4": (8, 4), "Y 8×8, U and V 3×3": (8, 3), "Y 6×6, U and V 3×3": (6, 3)}
COLOURS = np.array([[0.2126, 0.7152, 0.0722], [-0.1146, -0.3854, 0.5], [0.5, -0.4542, -0.0458]])  # BT.709
INVERSE_DCT, TO_RGB = 3 * 2 * 8, 9  # MAC/pixel: two products with 8 × 8 matrices a colour
EDGES = 2, 4, 8, 14, 24, 40, 70  # of the surroundings' activity, in steps


def main() -> None:
    options = _options()
    codec = inference.load(options.model)
    paths = find_photos(options.photos)[:: options.every]
    found = [_of_picture(codec, np.asarray(open_photo(path))) for path in tqdm(paths)]
    result = {
        "command": "python benchmarks/bands.py " + " ".join(sys.argv[1:]),
        "date": date.today().isoformat(),
        "commit": commit(),
        "pictures": len(paths),
        "tables": {"low": _low_table(found), "head": _head_table(codec, found)},
        "found": found,
    }
    write_text(options.out, json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--model", default="slim-2k")
    parser.add_argument("--every", type=int, default=5, help="take every n-th picture")
    return parser.parse_args()


def _of_picture(codec: Codec, pixels: np.ndarray) -> list[dict[str, Any]]:
    """At every quality."""
    transforms, (height, width, _), found = codec.transforms, pixels.shape, []
    y = transforms.analyse(pixels)
    for quality in QUALITIES:
        fixed = quality * QUALITY_ONE
        symbols, y_hat = transforms.code(y, transforms.hyper_latents(y, fixed), fixed)
        cells = whole(tuple(side // LATENTS for side in y_hat.shape[2:]))
        bpp = codec.coder.information_bits(symbols, fixed) / (height * width)
        psnr, decoded = {}, pixels
        for name, kept in reversed(KEPT.items()):
            head = _projected(transforms.networks.head, *kept)
            decoded = transforms.synthesise_area(y_hat, cells, whole((height, width)), cells, head)
            psnr[name] = psnr_db(pixels, decoded)
        low = {str(scale): _low(pixels, decoded, scale) for scale in SCALES}  # of the last, which has all bands
        found.append({"bpp": bpp, "psnr_db": psnr, "low": low})
    return found


# --------------------------------------------------------------------------------------------------------- low bands


def _low(pixels: np.ndarray, decoded: np.ndarray, scale: int) -> dict[str, float]:
    means, error = _means(pixels, scale), _means(decoded.astype(float) - pixels, scale)
    whole_error = np.square(decoded.astype(float) - pixels).mean()
    step = math.sqrt(12 * max(np.square(error).mean(), 1e-3))
    bits = _predictive_bits(np.rint(means @ COLOURS.T / step).astype(int))
    return {
        "share_of_energy": float(means.var(axis=(0, 1)).sum() / pixels.var(axis=(0, 1)).sum()),
        "share_of_error": float(np.square(error).mean() / whole_error),
        "bpp": bits / pixels[..., 0].size,
    }


def _means(values: np.ndarray, scale: int) -> np.ndarray:
    height, width = (side // scale for side in values.shape[:2])
    blocks = values[: height * scale, : width * scale].astype(float).reshape(height, scale, width, scale, 3)
    return blocks.mean(axis=(1, 3))


def _predictive_bits(values: np.ndarray) -> float:
    """Integers [h, w, 3]: the entropy of what is left of each, given how busy its surroundings are."""
    total = 0.0
    for plane in np.moveaxis(values, -1, 0):
        padded = np.pad(plane, ((1, 0), (1, 1)), mode="edge")
        left, above, corner, right = padded[1:, :-2], padded[:-1, 1:-1], padded[:-1, :-2], padded[:-1, 2:]
        low, high = np.minimum(left, above), np.maximum(left, above)
        rest = plane - np.where(corner >= high, low, np.where(corner <= low, high, left + above - corner))
        context = np.digitize(abs(left - corner) + abs(corner - above) + abs(above - right), EDGES)
        total += sum(_entropy(rest[context == number]) for number in range(len(EDGES) + 1))
    return total


def _entropy(values: np.ndarray) -> float:
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / max(counts.sum(), 1))).sum())


def _low_table(found: list[list[dict[str, Any]]]) -> dict[str, Any]:
    heading = ["means of", "quality", "share of the squared error", "gain if they had none", "bits of a classical path"]
    rows = []
    for scale in map(str, SCALES):
        for quality in SHOWN:
            here = [of_picture[QUALITIES.index(quality)] for of_picture in found]
            share = np.mean([each["low"][scale]["share_of_error"] for each in here])
            gain = np.mean([-10 * math.log10(1 - each["low"][scale]["share_of_error"]) for each in here])
            spent = np.mean([each["low"][scale]["bpp"] for each in here]) / np.mean([each["bpp"] for each in here])
            shown = [f"{100 * share:.1f} %", f"{gain:.2f} dB", f"{100 * spent:.0f} %"]
            rows.append([f"{scale} × {scale} pixels", str(quality), *shown])
    return {"heading": heading, "rows": rows}


# -------------------------------------------------------------------------------------------------------------- head


def _projected(head: Head, luma: int, chroma: int) -> Head:
    """The same, but for what it makes of bands that are not kept: luma × luma and chroma × chroma are."""
    at, frequency = np.arange(8) + 0.5, np.arange(8)[:, None]
    basis = np.cos(math.pi / 8 * frequency * at) / 2
    basis[0] /= math.sqrt(2)
    keep = [np.outer(np.arange(8) < side, np.arange(8) < side) for side in (luma, chroma, chroma)]
    bands = np.kron(COLOURS, np.kron(basis, basis))  # [192, 192], from colour, row and column
    project = np.linalg.inv(bands) @ (np.stack(keep).ravel()[:, None] * bands)
    weight = np.einsum("op,pcij->ocij", project, head.weight.astype(float))
    return Head(weight.astype(np.float32), (project @ head.bias).astype(np.float32))


def _head_table(codec: Codec, found: list[list[dict[str, Any]]]) -> dict[str, Any]:
    heading = ["", "bands", "last layer, MAC/pixel", "PSNR, quality 2", "PSNR, quality 5", "BD-rate"]
    channels, rows = codec.transforms.architecture.g_s[-1].channels, []
    curves = {name: _curve(found, name) for name in KEPT}
    for name, (luma, chroma) in KEPT.items():
        bands = luma**2 + 2 * chroma**2
        macs = channels * bands / 64 + (INVERSE_DCT + TO_RGB if bands < 192 else 0)
        lost = [curves[name][QUALITIES.index(q)][1] - curves["all bands"][QUALITIES.index(q)][1] for q in SHOWN]
        change = bd_rate(curves["all bands"], curves[name]).percent
        shown = [
            f"{value:+.2f} {unit}".replace("-", "−") for value, unit in (*((db, "dB") for db in lost), (change, "%"))
        ]
        rows.append([name, str(bands), f"{macs:.0f}", *shown])
    return {"heading": heading, "rows": rows}


def _curve(found: list[list[dict[str, Any]]], name: str) -> list[tuple[float, float]]:
    return [
        (
            float(np.mean([picture[number]["bpp"] for picture in found])),
            float(np.mean([picture[number]["psnr_db"][name] for picture in found])),
        )
        for number in range(len(QUALITIES))
    ]


if __name__ == "__main__":
    main()
