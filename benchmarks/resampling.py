"""Is a picture better coded at ¾ or ½ of its resolution where files are small? docs/tried.md says what came out.

    python benchmarks/resampling.py OUT.json --photos TRAIN --validation NAME=FOLDER ... [--every 2]

Nothing is trained. A picture is made smaller (Lanczos), coded to a real file, decoded and made larger again, in four
ways: bicubic, Lanczos, 8 taps a direction that least squares fitted to training photos, and 8 taps fitted to the
picture itself, whose cost is added. PSNR is of the full resolution. Qualities 0 and -1 are no qualities of the model:
its gains go on below the first rung by the step that is between the first two. They say what the full resolution could
do at such rates with nothing but smaller numbers in a table.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.interpolate import PchipInterpolator
from tqdm import tqdm

from slimcodec.codec import inference
from slimcodec.codec.atomic import write_text
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.encoding import psnr_db
from slimcodec.codec.inference import Codec
from slimcodec.evaluation.photos import find_photos, open_photo
from slimcodec.evaluation.provenance import commit
from slimcodec.training.photos import folder_photos

FACTORS = {"1": (1, 1), "3/4": (3, 4), "1/2": (1, 2)}
QUALITIES = -1, 0, 1, 1.5, 2, 3, 4
CHOSEN = "lanczos"  # how pictures are made larger where factors are compared
TAPS = 8
COEFFICIENT_BITS = 8
FITTED_AT = 1, 3  # qualities
RATES = 0.03, 0.05, 0.075, 0.1, 0.15, 0.2
Filters = list[np.ndarray]  # down the columns and along the rows, [phases, TAPS] each


def main() -> None:
    options = _options()
    codec = inference.load(options.model)
    photos = [
        Image.fromarray(pixels) for _, pixels in folder_photos(options.photos, limit=options.limit, max_pixels=600_000)
    ]
    filters = {name: _learned(codec, photos, *factor) for name, factor in FACTORS.items() if name != "1"}
    points = {}
    for named in options.validation:
        name, folder = named.split("=", 1)
        paths = find_photos(folder)[:: options.every]
        points[name] = {
            path.stem: _of_picture(codec, open_photo(path), filters, options.own) for path in tqdm(paths, name)
        }
    result = {
        "command": "python benchmarks/resampling.py " + " ".join(sys.argv[1:]),
        "date": date.today().isoformat(),
        "commit": commit(),
        "macs_per_pixel": {name: _macs(codec, *factor) for name, factor in FACTORS.items()},
        "tables": {name: table for of_set, found in points.items() for name, table in _tables(of_set, found)},
        "points": points,
    }
    write_text(options.out, json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--validation", required=True, nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--model", default="slim-2k")
    parser.add_argument("--limit", type=int, default=24, help="training photos")
    parser.add_argument("--own", action="store_true", help="also fit filters to each picture, which takes long")
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture")
    return parser.parse_args()


def _macs(codec: Codec, top: int, bottom: int) -> float:
    """Of a decoded pixel, with 8 taps down the columns of the narrow picture and then along the rows."""
    networks = codec.model.info["decoder_macs_per_pixel"] * (top / bottom) ** 2
    return networks + (0 if top == bottom else 3 * TAPS * (top / bottom + 1))


# ------------------------------------------------------------------------------------------------------------ coding


def _of_picture(
    codec: Codec, picture: Image.Image, filters: dict[str, Filters], own: bool
) -> dict[str, dict[str, list[Any]]]:
    """Factor → how it was made larger → [quality, bpp, PSNR] at every quality."""
    found: dict[str, dict[str, list[Any]]] = {}
    for factor, (top, bottom) in FACTORS.items():
        found[factor] = {}
        whole = _padded(picture, bottom)
        for quality, size, decoded in _coded(codec, _smaller(whole, top, bottom)):
            for how, (larger, bits) in _larger(decoded, whole, (top, bottom), filters.get(factor), own).items():
                bpp = (8 * size + bits) / (picture.width * picture.height)
                error = psnr_db(np.asarray(picture), larger[: picture.height, : picture.width])
                found[factor].setdefault(how, []).append([quality, bpp, error])
    return found


def _padded(picture: Image.Image, multiple: int) -> Image.Image:
    """Sides that a factor gives whole numbers of; edges are repeated."""
    pads = [(0, -side % multiple) for side in (picture.height, picture.width)]
    return Image.fromarray(np.pad(np.asarray(picture), [*pads, (0, 0)], mode="edge"))


def _coded(codec: Codec, picture: Image.Image) -> Iterator[tuple[float, int, np.ndarray]]:
    """Quality, bytes of the file and its pixels at every quality."""
    scales, y = codec.transforms.scales, None
    own = scales.log_gain
    for quality in QUALITIES:
        encoding = codec.encoding(picture)
        vars(encoding)["y"] = y = encoding.y if y is None else y  # which no quality changes
        scales.log_gain = own + min(round(quality) - 1, 0) * (own[1] - own[0])
        try:
            data = encoding.file(round(max(quality, 1) * QUALITY_ONE))
            yield quality, len(data), np.asarray(codec.decompress(data))
        finally:
            scales.log_gain = own


def _smaller(picture: Image.Image, top: int, bottom: int) -> Image.Image:
    if top == bottom:
        return picture
    size = picture.width // bottom * top, picture.height // bottom * top
    return picture.resize(size, Image.Resampling.LANCZOS)


def _larger(
    decoded: np.ndarray, picture: Image.Image, factor: tuple[int, int], filters: Filters | None, own: bool
) -> dict[str, tuple[np.ndarray, int]]:
    """The full resolution in every way, uint8, and the bits that the way costs."""
    if filters is None:
        return {"as it is": (decoded, 0)}
    found = {
        name.lower(): (np.asarray(Image.fromarray(decoded).resize(picture.size, Image.Resampling[name])), 0)
        for name in ("BICUBIC", "LANCZOS")
    }
    found["learned"] = _levels(_filtered(decoded, picture.size, filters, factor)), 0
    if own:
        fitted = _fitted([(decoded, picture)], factor)
        bits = COEFFICIENT_BITS * sum(of_direction.size for of_direction in fitted)
        found["of the picture"] = _levels(_filtered(decoded, picture.size, fitted, factor)), bits
    return found


# ----------------------------------------------------------------------------------------------------------- filters


def _learned(codec: Codec, photos: list[Image.Image], top: int, bottom: int) -> Filters:
    photos = [_padded(photo, bottom) for photo in photos]
    pairs = [
        (pixels, photo)
        for photo in tqdm(photos, f"filters of {top}/{bottom}")
        for quality, _, pixels in _coded(codec, _smaller(photo, top, bottom))
        if quality in FITTED_AT
    ]
    return _fitted(pairs, (top, bottom))


def _fitted(pairs: list[tuple[np.ndarray, Image.Image]], factor: tuple[int, int]) -> Filters:
    """Least squares: down the columns towards a picture that is only narrower, and then along the rows."""
    narrow = [
        np.asarray(photo.resize((pixels.shape[1], photo.height), Image.Resampling.LANCZOS)) for pixels, photo in pairs
    ]
    down = _solved(
        [(_levels_of(pixels), _levels_of(target)) for (pixels, _), target in zip(pairs, narrow, strict=True)], factor
    )
    taller = [_along_columns(_levels_of(pixels), photo.height, down, factor) for pixels, photo in pairs]
    turned = [
        (tall.swapaxes(0, 1), _levels_of(np.asarray(photo)).swapaxes(0, 1))
        for tall, (_, photo) in zip(taller, pairs, strict=True)
    ]
    return [down, _solved(turned, factor)]


def _solved(pairs: list[tuple[np.ndarray, np.ndarray]], factor: tuple[int, int]) -> np.ndarray:
    """[h, w, 3] and [H, w, 3] → taps of every phase, [phases, TAPS]."""
    phases = factor[1]
    left, right = np.zeros((phases, TAPS, TAPS)), np.zeros((phases, TAPS))
    for low, high in pairs:
        seen = _taps(len(low), len(high), factor)
        for phase in range(phases):
            x = low[seen[phase::phases]].swapaxes(0, 1).reshape(TAPS, -1)
            left[phase] += x @ x.T
            right[phase] += x @ high[phase::phases].ravel()
    return np.linalg.solve(left + 1e-3 * np.eye(TAPS), right[..., None])[..., 0]


def _taps(low: int, high: int, factor: tuple[int, int]) -> np.ndarray:
    """Which of `low` elements each of `high` ones sees, [high, TAPS]; edges are repeated."""
    position = np.floor((np.arange(high) + 0.5) * factor[0] / factor[1] - 0.5).astype(int)
    return np.clip(position[:, None] + np.arange(TAPS) - (TAPS // 2 - 1), 0, low - 1)


def _filtered(pixels: np.ndarray, size: tuple[int, int], filters: Filters, factor: tuple[int, int]) -> np.ndarray:
    width, height = size
    tall = _along_columns(_levels_of(pixels), height, filters[0], factor)
    return _along_columns(tall.swapaxes(0, 1), width, filters[1], factor).swapaxes(0, 1)


def _along_columns(low: np.ndarray, high: int, weights: np.ndarray, factor: tuple[int, int]) -> np.ndarray:
    """[h, w, 3] → [high, w, 3]."""
    seen, of_row = _taps(len(low), high, factor), weights[np.arange(high) % factor[1]].astype(np.float32)
    return sum(of_row[:, tap, None, None] * low[seen[:, tap]] for tap in range(TAPS))


def _levels_of(pixels: np.ndarray) -> np.ndarray:
    """Around mid-grey, so that what a filter lacks to a sum of 1 matters little."""
    return pixels.astype(np.float32) - 128


def _levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values + 128), 0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------------------------ tables


def _tables(of_set: str, points: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    ways = [(factor, how) for factor, found in next(iter(points.values())).items() for how in found if factor != "1"]
    rows = [_equal(f"{factor}, {how}", [(factor, how)], points) for factor, how in ways]
    chosen = [way for way in ways if way[1] == CHOSEN]
    rows.append(_equal(f"the best of 1, 3/4 and 1/2, {CHOSEN}", chosen, points, or_full=True))
    heading = ["", "rate at equal PSNR, mean", "median", "best", "worst", "fewer bits", "of"]
    yield f"{of_set}-equal", {"heading": heading, "rows": rows}
    heading = [
        "bpp",
        *(f"{factor} wins" for factor in FACTORS),
        "of",
        "gain of choosing, dB",
        "where 1 does not win, dB",
    ]
    for low, what in ((1, "qualities"), (-1, "extended")):
        yield f"{of_set}-{what}", {"heading": heading, "rows": [_at_rate(bpp, points, low) for bpp in RATES]}


def _equal(name: str, ways: list[tuple[str, str]], points: dict[str, Any], *, or_full: bool = False) -> list[str]:
    """Rate against the full resolution at quality 1, at its PSNR: of the best of some ways, or of no change."""
    found = []
    for of_picture in points.values():
        full = next(point for point in of_picture["1"]["as it is"] if point[0] == 1)
        changes = [change for factor, how in ways if (change := _change(of_picture[factor][how], full)) is not None]
        found += [min(changes + [0.0] * or_full)] if changes or or_full else []
    if not found:
        return [name, *["–"] * 4, "0", "0"]
    shown = [
        f"{value:+.1f} %".replace("-", "−") for value in (np.mean(found), np.median(found), min(found), max(found))
    ]
    return [name, *shown, str(sum(value < 0 for value in found)), str(len(found))]


def _change(curve: list[Any], full: list[Any]) -> float | None:
    """Of the rate at the PSNR of `full`, in per cent; None where the curve does not go there."""
    _, bpp, psnr = full
    return 100 * (float(np.exp(_curve(curve, 2, 1)(psnr))) / bpp - 1) if curve[0][2] <= psnr <= curve[-1][2] else None


def _at_rate(bpp: float, points: dict[str, Any], lowest: float) -> list[str]:
    """Which factor is best at a rate; `lowest`: the quality from which the full resolution counts.

    Where the full resolution does not go so low, there is no gain to state and the others win.
    """
    wins, gains = dict.fromkeys(FACTORS, 0), []
    for of_picture in points.values():
        reached = {factor: _psnr_at(bpp, found, lowest if factor == "1" else 1) for factor, found in of_picture.items()}
        known = {factor: psnr for factor, psnr in reached.items() if psnr is not None}
        if known:
            best = max(known, key=lambda factor: known[factor])
            wins[best] += 1
            gains += [known[best] - known["1"]] if "1" in known else []
    lost = [gain for gain in gains if gain > 0]
    shown = [f"{np.mean(values):.2f}" if values else "–" for values in (gains, lost)]
    return [f"{bpp:g}", *(str(count) for count in wins.values()), str(sum(wins.values())), *shown]


def _psnr_at(bpp: float, found: dict[str, list[Any]], lowest: float) -> float | None:
    curve = [point for point in found.get(CHOSEN, found.get("as it is", [])) if point[0] >= lowest]
    return float(_curve(curve, 1, 2)(np.log(bpp))) if curve[0][1] <= bpp <= curve[-1][1] else None


def _curve(points: list[Any], x: int, y: int) -> PchipInterpolator:
    values = np.array(points)
    values[:, 1] = np.log(values[:, 1])
    rising = values[np.concatenate([[True], np.diff(np.maximum.accumulate(values[:, x])) > 0])]
    return PchipInterpolator(rising[:, x], rising[:, y])


if __name__ == "__main__":
    main()
