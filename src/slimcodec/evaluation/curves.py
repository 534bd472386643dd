"""Rate-distortion points measured on photos, the curves they average to, and BD-rate between two curves.

    photos --real_points--> [Point per picture and quality] --mean_curve--> Curve --bd_rate--> BdRate
               (or estimated_points)                |
                                      write_points, read_points (CSV)

A codec here is anything with `compress(picture, quality) -> bytes` and `decompress(bytes) -> picture`, where pictures
are 8-bit RGB Pillow images: `slimcodec.Codec`, or one of `slimcodec.evaluation.anchors`. A photo is the path of a
picture file, or a pair of its name and its pixels, uint8 [H, W, 3].

Functions that take a curve take a `Curve`, anything else that has `.points`, or plain (bpp, psnr_db) pairs.
"""

import csv
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from slimcodec import InvalidInput
from slimcodec.evaluation.metrics import psnr_db

PHOTO_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp"}
Photo = Path | tuple[str, np.ndarray]
FEWEST_POINTS = 4  # a cubic through fewer says more about the interpolation than about the codec


class Point(NamedTuple):
    """One picture at one quality. `bytes` may have a fraction when it is an estimate; then the seconds are nan."""

    picture: str  # the file's name
    quality: float
    bytes: float
    bpp: float  # over the picture's own pixels
    psnr_db: float
    encode_seconds: float
    decode_seconds: float


class Curve(NamedTuple):
    """Means over a set of pictures, one entry per quality, lowest quality first."""

    quality: tuple[float, ...]
    bpp: tuple[float, ...]
    psnr_db: tuple[float, ...]

    @property
    def points(self):
        """The curve as ((bpp, psnr_db), ...)."""
        return tuple(zip(self.bpp, self.psnr_db, strict=True))


class BdRate(NamedTuple):
    """Bits that the test needs more than the anchor for the same PSNR, and the range that this was averaged over."""

    percent: float  # negative: fewer bits than the anchor; nan when not monotonic
    low_db: float
    high_db: float
    coverage: float  # share of the wanted range (range_db, or all of the anchor's) that low_db..high_db covers
    monotonic: bool  # on both curves PSNR rises with every step in bpp


# ---------------------------------------------------------------------------------------------------------- photos


def find_photos(root, limit=None):
    """Picture files below the folder `root`, in all its folders, sorted by path; the first `limit` of them.

    Raises `InvalidInput` when there is no such folder or no picture in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise InvalidInput(f"{root} is not a folder; name one that holds photos")
    photos = sorted(path for path in root.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file())
    if not photos:
        raise InvalidInput(f"{root} holds no picture ({', '.join(sorted(PHOTO_SUFFIXES))})")
    return photos[:limit]


def open_photo(path):
    """The picture in the file `path` as an 8-bit RGB Pillow image, turned as its EXIF orientation says.

    Raises `InvalidInput` when the file is missing, damaged or not a picture.
    """
    try:
        with Image.open(path) as file:
            photo = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"cannot read the picture {path}: {error}") from error
    photo.info.clear()  # Pillow would write some of it into the files it saves, and their size is measured
    return photo


# ---------------------------------------------------------------------------------------------------------- points


def real_points(
    codec,
    photos: Sequence[Photo],
    qualities: Sequence[float],
    *,
    description: str = "",
    on_point: Callable[[Point], None] | None = None,
    done: Iterable[Point] = (),
) -> list[Point]:
    """Compress and decompress every photo at every quality; sizes are those of the real bytes.

    The progress bar is labelled `description`. `on_point` is called with each new point. Points found in `done` (the
    same file name and quality) are returned as they are, so that an interrupted measurement can be continued.
    Raises `InvalidInput` when a photo cannot be read, two have the same name, or a decoded picture has another size.
    """

    def measure(picture, quality):
        start = perf_counter()
        data = codec.compress(picture, quality)
        compressed = perf_counter()
        decoded = codec.decompress(data)
        decompressed = perf_counter()
        return len(data), np.asarray(decoded), compressed - start, decompressed - compressed

    return _measure_all(measure, photos, qualities, description, on_point, done)


def estimated_points(
    codec, photos: Sequence[Photo], qualities: Sequence[float], *, description: str = ""
) -> list[Point]:
    """An estimate of `real_points` that writes no files: the sizes are the bits that the entropy model predicts.

    `codec.estimate(picture, quality)` returns an object with `bits` and `pixels`, the decoded picture, uint8 [H, W, 3].
    Nothing is encoded or decoded, so `encode_seconds` and `decode_seconds` are nan. Raises like `real_points`.
    """

    def measure(picture, quality):
        estimate = codec.estimate(picture, quality)
        return float(estimate.bits) / 8, estimate.pixels, math.nan, math.nan

    return _measure_all(measure, photos, qualities, description)


def _measure_all(measure, photos, qualities, description, on_point=None, done=()):
    """Points in the order of photos, then qualities; `measure` gives (bytes, pixels, encode and decode seconds)."""
    _require_distinct_names(photos)
    points = {(point.picture, point.quality): point for point in done}
    missing = [[q for q in qualities if (_name(photo), float(q)) not in points] for photo in photos]
    with tqdm(total=sum(map(len, missing)), desc=description, unit="picture", disable=None) as progress:
        for photo, unmeasured in zip(photos, missing, strict=True):
            picture = _opened(photo) if unmeasured else None
            for quality in unmeasured:
                point = _point(_name(photo), picture, float(quality), *measure(picture, quality))
                points[point.picture, point.quality] = point
                if on_point:
                    on_point(point)
                progress.update()
    return [points[_name(photo), float(quality)] for photo in photos for quality in qualities]


def _name(photo):
    return photo.name if isinstance(photo, Path) else photo[0]


def _opened(photo):
    return open_photo(photo) if isinstance(photo, Path) else Image.fromarray(photo[1])


def _point(name, picture, quality, size, pixels, encode_seconds, decode_seconds):
    bpp = 8 * size / (picture.width * picture.height)
    return Point(name, quality, size, bpp, psnr_db(np.asarray(picture), pixels), encode_seconds, decode_seconds)


def _require_distinct_names(photos):
    name, count = Counter(_name(photo) for photo in photos).most_common(1)[0] if photos else ("", 0)
    if count > 1:
        raise InvalidInput(f"{count} photos are named {name}; points are told apart by file name, so rename them")


def write_points(points: Iterable[Point], path):
    """Write a CSV file with one row per picture and quality; `path` is replaced only once all of it is written."""
    with replaced(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Point._fields)
        writer.writerows(points)


def read_points(path):
    """The list of points in a file that `write_points` wrote, every number as it was.

    Raises `InvalidInput` when the file is missing or has other columns, or a row is damaged.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except (OSError, ValueError, csv.Error) as error:
        raise InvalidInput(f"cannot read points from {path}: {error}") from error
    if tuple(header) != Point._fields:
        raise InvalidInput(f"{path} must have the columns {', '.join(Point._fields)}, but has {', '.join(header)}")
    return [_parsed_point(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]


def _parsed_point(row, place):
    try:
        picture, *numbers = row
        return Point(picture, *map(float, numbers))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{place} is not a picture and {len(Point._fields) - 1} numbers: {row}") from error


@contextmanager
def replaced(path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it takes the place of `path` when the block ends without an error."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------- curves


def mean_curve(points: Iterable[Point]) -> Curve:
    """Average the pictures' bpp, and their PSNR in dB, at each quality.

    Raises `InvalidInput` unless every quality was measured on the same pictures, each once.
    """
    by_quality = defaultdict(list)
    for point in points:
        by_quality[point.quality].append(point)
    if not by_quality:
        raise InvalidInput("there are no points to average")
    qualities = sorted(by_quality)
    pictures = sorted({point.picture for group in by_quality.values() for point in group})
    for quality in qualities:
        if sorted(point.picture for point in by_quality[quality]) != pictures:
            raise InvalidInput(f"quality {quality:g} must have each of the {len(pictures)} pictures exactly once")
    return Curve(
        quality=tuple(qualities),
        bpp=tuple(float(np.mean([point.bpp for point in by_quality[quality]])) for quality in qualities),
        psnr_db=tuple(float(np.mean([point.psnr_db for point in by_quality[quality]])) for quality in qualities),
    )


def bd_rate(anchor, test, *, range_db: tuple[float, float] | None = None) -> BdRate:
    """How many per cent more bits `test` needs than `anchor` at the same PSNR (Bjontegaard, VCEG-M33).

    log(bpp) is interpolated over PSNR by PCHIP, and the difference is averaged over the PSNR that both curves cover:
    all of that, or the part of it inside `range_db` = (low, high). A curve on which PSNR does not rise with every
    step in bpp has no rate for each PSNR: then `percent` is nan and `monotonic` False.
    Raises `InvalidInput` when a curve has fewer than four points or they share no PSNR (inside `range_db`).
    """
    anchor_bpp, anchor_db = _sorted_by_bpp(anchor)
    test_bpp, test_db = _sorted_by_bpp(test)
    if min(len(anchor_db), len(test_db)) < FEWEST_POINTS:
        raise InvalidInput(f"BD-rate needs {FEWEST_POINTS} points a curve, not {len(anchor_db)} and {len(test_db)}")
    wanted_low, wanted_high = range_db or (anchor_db.min(), anchor_db.max())
    low = float(max(wanted_low, anchor_db.min(), test_db.min()))
    high = float(min(wanted_high, anchor_db.max(), test_db.max()))
    if low >= high:
        raise InvalidInput(
            f"the test's {test_db.min():.2f} to {test_db.max():.2f} dB shares no range with the anchor's"
            f" {anchor_db.min():.2f} to {anchor_db.max():.2f} dB" + (f" inside {range_db} dB" if range_db else "")
        )
    monotonic = all(np.all(np.diff(axis) > 0) for axis in (anchor_bpp, anchor_db, test_bpp, test_db))
    percent = _bd_percent((anchor_bpp, anchor_db), (test_bpp, test_db), low, high) if monotonic else math.nan
    return BdRate(percent, low, high, float((high - low) / (wanted_high - wanted_low)), monotonic)


def _bd_percent(anchor, test, low_db, high_db):
    from bjontegaard import bd_rate as bjontegaard_rate  # late: it imports matplotlib.pyplot

    # The package averages over the full overlap only, so its interpolators are taken and integrated here. Any overlap
    # will do (by default it warns below 75 %), because the range is reported.
    _, anchor_log10_bpp, test_log10_bpp = bjontegaard_rate(
        *anchor, *test, method="pchip", require_matching_points=False, interpolators=True, min_overlap=0
    )
    difference = test_log10_bpp.integrate(low_db, high_db) - anchor_log10_bpp.integrate(low_db, high_db)
    return float(100 * (10 ** (difference / (high_db - low_db)) - 1))


def psnr_at_bpp(curve, bpp: float) -> float | None:
    """The curve's PSNR in dB at a rate between its points (PCHIP over log(bpp)); None outside its range.

    Raises `InvalidInput` when the curve has fewer than two points, or two of the same rate.
    """
    from scipy.interpolate import PchipInterpolator  # late: takes most of a second

    curve_bpp, curve_db = _sorted_by_bpp(curve)
    if len(curve_bpp) < 2 or not np.all(np.diff(curve_bpp) > 0):
        raise InvalidInput(f"interpolation needs two or more points of different bpp, not {curve_bpp.tolist()}")
    if not curve_bpp[0] <= bpp <= curve_bpp[-1]:
        return None
    return float(PchipInterpolator(np.log(curve_bpp), curve_db)(math.log(bpp)))


def _sorted_by_bpp(curve):
    """An array [2, n], rows bpp and PSNR in dB, of a `Curve`, of anything else with `.points`, or of pairs."""
    points = np.array(list(getattr(curve, "points", curve)), dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise InvalidInput("a curve is a sequence of (bpp, psnr_db) pairs")
    if not np.all(np.isfinite(points)) or not np.all(points[:, 0] > 0):
        raise InvalidInput(
            "a curve's bpp must be positive and finite, and its PSNR finite (that of equal pictures is not)"
        )
    return points[np.argsort(points[:, 0])].T
