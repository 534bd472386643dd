"""The picture of docs/evaluation.md: a photo, what a model makes of it, and JPEG in as many bytes.

python benchmarks/pair.py slim-2k --quality 2 --out docs/figures/pair.png
"""

import argparse
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont

from slimcodec.codec import inference
from slimcodec.codec.files import writing
from slimcodec.evaluation.metrics import psnr_db

CROP = 40, 30, 360, 290  # left, top, right, bottom, of scikit-image's photo of a cat
CAPTION, GAP = 22, 6  # pixels


class Version(NamedTuple):
    caption: str
    pixels: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--quality", type=float, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    photo = Image.fromarray(skimage.data.chelsea()).crop(CROP)
    codec = inference.load(options.model, backend="torch")
    data = codec.compress(photo, options.quality)
    jpeg = _jpeg_of_size(photo, len(data))
    original = np.asarray(photo)
    versions = [Version("original", original)]
    for name, size, picture in (
        (options.model, len(data), codec.decompress(data)),
        ("JPEG", len(jpeg), Image.open(io.BytesIO(jpeg))),
    ):
        pixels = np.asarray(picture)
        caption = f"{name}: {8 * size / (photo.width * photo.height):.2f} bpp, {psnr_db(original, pixels):.1f} dB"
        versions.append(Version(caption, pixels))
    with writing(options.out) as file:
        _side_by_side(versions).save(file, "png")


def _jpeg_of_size(photo: Image.Image, size: int) -> bytes:
    """The JPEG, with optimised tables, that comes nearest to that many bytes."""
    files = []
    for quality in range(1, 96):
        file = io.BytesIO()
        photo.save(file, "jpeg", quality=quality, optimize=True)
        files.append(file.getvalue())
    return min(files, key=lambda data: abs(len(data) - size))


def _side_by_side(versions: list[Version]) -> Image.Image:
    height, width, _ = versions[0].pixels.shape
    sheet = Image.new("RGB", (len(versions) * (width + GAP) - GAP, height + CAPTION), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, version in enumerate(versions):
        left = number * (width + GAP)
        sheet.paste(Image.fromarray(version.pixels), (left, CAPTION))
        draw.text((left + 2, 3), version.caption, "black", font)
    return sheet


if __name__ == "__main__":
    main()
