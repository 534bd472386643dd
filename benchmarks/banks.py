"""Give a model banks: probability tables of z, counted on photos, of which its neighbours choose (codec/contexts).

python benchmarks/banks.py MODEL OUTPUT --photos PHOTOS [--validation PHOTOS]

OUTPUT is a copy of the model directory with five more tables. Its files are another model's: they have its hash.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from slimcodec.codec import models
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.grid import CELL
from slimcodec.codec.inference import Codec
from slimcodec.evaluation.photos import find_photos, open_photo
from slimcodec.training.banks import hyper_latents, with_banks

CROP = 512  # pixels a side


def main() -> None:
    options = _options()
    model = models.load(options.model)
    tables = with_banks(model.tables, hyper_latents(model.codec, _crops(options.photos)))
    models.copy_with_tables(model.directory, options.output, tables)
    if options.validation:
        _compare(model, models.load(options.output), options.validation)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("output", type=Path)
    parser.add_argument("--photos", required=True, type=Path, help="to count on: a thousand are enough")
    parser.add_argument("--validation", type=Path, help="say how much smaller these photos' files become")
    return parser.parse_args()


def _crops(folder: Path) -> Iterator[torch.Tensor]:
    """Of every photo one crop, float [1, 3, H, W] in [0, 1], as large as CROP and the photo allow."""
    for number, path in enumerate(tqdm(find_photos(folder), "photos", disable=None)):
        pixels = np.asarray(open_photo(path))
        sides = [min(CROP, side // CELL * CELL) for side in pixels.shape[:2]]
        if min(sides) < CELL:
            continue
        rng = np.random.default_rng(number)
        top, left = (int(rng.integers(all_ - side + 1)) for all_, side in zip(pixels.shape[:2], sides, strict=True))
        crop = pixels[top : top + sides[0], left : left + sides[1]]
        yield torch.tensor(crop).permute(2, 0, 1)[None].float().div_(255)


def _compare(before: models.Model, after: models.Model, folder: Path) -> None:
    """Print by how much the photos' bits change at every rung, in percent, the mean over photos."""
    old, new = Codec(before), Codec(after)
    changes = []
    for path in tqdm(find_photos(folder), "validation", disable=None):
        pixels = np.asarray(open_photo(path))
        changes.append([_change(old, new, pixels, rung * QUALITY_ONE) for rung in range(1, 9)])
    by_rung = 100 * np.mean(changes, axis=0)
    print(" ".join(f"{change:+.2f}" for change in by_rung), f"mean {by_rung.mean():+.2f} %")


def _change(old: Codec, new: Codec, pixels: np.ndarray, fixed_quality: int) -> float:
    y = old.transforms.analyse(pixels)
    symbols, _ = old.transforms.code(y, old.transforms.hyper_latents(y, fixed_quality), fixed_quality)
    bits = old.coder.information_bits(symbols, fixed_quality)
    return (new.coder.z_bits(symbols.z, fixed_quality) - old.coder.z_bits(symbols.z, fixed_quality)) / bits


if __name__ == "__main__":
    main()
