"""Published curves that studies quote. All that is known of one stands in kodak_psnr_rgb.json.

quoted("compressai:vtm").curve
"""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from slimcodec import InvalidInput
from slimcodec.codec import json_files
from slimcodec.evaluation.curves import Curve

FILE = Path(__file__).with_name("kodak_psnr_rgb.json")


class Quoted(NamedTuple):
    """A published curve: means over the 24 Kodak pictures, PSNR on RGB. Its qualities are positions 1, 2, ..."""

    name: str
    curve: Curve
    source: str  # the repository and file that the numbers were read from
    decoder_kmacs_per_pixel: float | None  # all networks of the decoder; None where not known
    label: str  # what figures call it
    family: str | None  # of a codec without a network: vvc, hevc, avif, webp, jpeg2000, jpeg

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """The curve as ((bpp, psnr_rgb_db), ...)."""
        return self.curve.points


class Stated(NamedTuple):
    """A codec of which a paper gives no curve that could be read, but says what it is as good as, on Kodak by PSNR."""

    label: str
    decoder_kmacs_per_pixel: float
    as_good_as: str  # a published curve
    source: str


STATED = (Stated("PULSE, as stated", 5.2, "compressai:hm", 'arXiv 2609.18602, September 2026: "comparable to HM"'),)


class _Entry(NamedTuple):
    """As it stands in the file."""

    bpp: tuple[float, ...]
    psnr_rgb_db: tuple[float, ...]
    source: str
    label: str
    decoder_kmac_per_pixel: float | None = None
    family: str | None = None


def quoted(name: str) -> Quoted:
    """The published curve of that name, for example "compressai:vtm"; `InvalidInput` when there is none."""
    if name not in _published():
        raise InvalidInput(f"no published curve is named {name!r}; there are {', '.join(quoted_names())}")
    return _published()[name]


def quoted_names() -> list[str]:
    """Names of all published curves, sorted."""
    return sorted(_published())


@cache
def _published() -> dict[str, Quoted]:
    entries = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: _quoted(name, json_files.record(_Entry, entry)) for name, entry in entries.items()}


def _quoted(name: str, entry: _Entry) -> Quoted:
    positions = tuple(float(position) for position in range(1, len(entry.bpp) + 1))
    curve = Curve(positions, entry.bpp, entry.psnr_rgb_db)
    return Quoted(name, curve, entry.source, entry.decoder_kmac_per_pixel, entry.label, entry.family)
