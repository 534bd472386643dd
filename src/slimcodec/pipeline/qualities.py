"""What is measured at every quality of a model: rows of a table instead of a name for each."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from slimcodec.evaluation import summary
from slimcodec.evaluation.metrics import PSNR

FILE = "qualities.csv"
AT_QUALITY = re.compile(r"val/(bpp|psnr|share_of_z|loss)_(\d+)")  # as training/teach logs them
FIELDS = {"psnr": "psnr_db"}


class Quality(NamedTuple):
    """A validation at one quality."""

    step: int
    quality: int
    bpp: float
    psnr_db: float
    share_of_z: float
    loss: float


class Qualities:
    """The rows of a training. They are on the disk, so that those from before a kill are there after it."""

    def __init__(self, folder: Path):
        self.path = folder / FILE

    def add(self, rows: Sequence[Quality]) -> None:
        if not rows:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.is_file()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([Quality._fields, *rows] if is_new else rows)

    def read(self) -> list[Quality]:
        """By step. Of a step that was done twice, from an earlier checkpoint, the later one."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            found = [_row(values) for values in csv.DictReader(file) if None not in values.values()]
        return sorted({row[:2]: row for row in found}.values())


def _row(values: Mapping[str, str]) -> Quality:
    return Quality(*(kind(values[name]) for name, kind in Quality.__annotations__.items()))


def by_quality(metrics: Mapping[str, float], step: int) -> list[Quality]:
    """The rows in what was logged."""
    found: dict[int, dict[str, float]] = {}
    for name, value in metrics.items():
        if match := AT_QUALITY.fullmatch(name):
            found.setdefault(int(match[2]), {})[FIELDS.get(match[1], match[1])] = float(value)
    return [Quality(step=step, quality=quality, **at) for quality, at in sorted(found.items())]


def curves_of(study: Path) -> list[list[str | float | None]]:
    """The mean curves of a study, without those of single rounds: codec, quality, bpp, PSNR in dB."""
    return [
        [name, quality, bpp, psnr_db]
        for name, codec in summary.read(study).codecs.items()
        if codec.role != "round" and PSNR in codec.curves
        for quality, bpp, psnr_db in zip(
            codec.curves[PSNR].quality, codec.curves[PSNR].bpp, codec.curves[PSNR].values, strict=True
        )
    ]
