"""The other codecs: published curves that are quoted with their source, and codecs that run here."""

import io
import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from slimcodec import InvalidInput
from slimcodec.evaluation.curves import Curve


class Quoted(NamedTuple):
    """A published curve: means over the 24 Kodak pictures, PSNR on RGB. Its qualities are positions 1, 2, ..."""

    name: str
    curve: Curve
    source: str  # the repository and file that the numbers were read from
    decoder_kmacs_per_pixel: float | None  # all networks of the decoder; None where not known

    @property
    def points(self):
        """The curve as ((bpp, psnr_db), ...)."""
        return self.curve.points


def quoted(name):
    """The published curve of that name, for example "compressai:vtm"; `InvalidInput` when there is none."""
    if name not in _published():
        raise InvalidInput(f"no published curve is named {name!r}; there are {', '.join(quoted_names())}")
    entry = _published()[name]
    positions = tuple(float(position) for position in range(1, len(entry["bpp"]) + 1))
    curve = Curve(positions, tuple(entry["bpp"]), tuple(entry["psnr_rgb_db"]))
    return Quoted(name, curve, entry["source"], entry.get("decoder_kmac_per_pixel"))


def quoted_names():
    """Names of all published curves, sorted."""
    return sorted(_published())


@cache
def _published():
    return json.loads(Path(__file__).with_name("kodak_psnr_rgb.json").read_text(encoding="utf-8"))


class PillowFormat(NamedTuple):
    """How Pillow writes a format as an anchor: settings that favour size over time, and the qualities to measure."""

    options: dict
    qualities: tuple[int, ...]


PILLOW_FORMATS = {
    "jpeg": PillowFormat({"subsampling": "4:2:0", "optimize": True}, (5, *range(10, 91, 10), 95)),
    "webp": PillowFormat({"method": 6}, (5, *range(10, 91, 10), 95)),
}


class PillowCodec:
    """A format that Pillow writes, as a codec that `real_points` can measure; `qualities` are those to measure it at.

    Raises `InvalidInput` when `format` is not a key of `PILLOW_FORMATS`.
    """

    def __init__(self, format):
        if format not in PILLOW_FORMATS:
            raise InvalidInput(f"{format!r} is not an anchor; choose from {', '.join(PILLOW_FORMATS)}")
        self.format = format
        self.options, self.qualities = PILLOW_FORMATS[format]

    def compress(self, picture, quality):
        """Bytes of an 8-bit RGB Pillow image at a whole quality, 1 to 100; `InvalidInput` for any other quality."""
        if quality not in range(1, 101):
            raise InvalidInput(f"{self.format} has whole qualities from 1 to 100, not {quality}")
        file = io.BytesIO()
        picture.save(file, format=self.format, quality=int(quality), **self.options)
        return file.getvalue()

    def decompress(self, data):
        """The 8-bit RGB Pillow image in `data`, fully decoded."""
        with Image.open(io.BytesIO(data), formats=[self.format]) as file:
            return file.convert("RGB")
