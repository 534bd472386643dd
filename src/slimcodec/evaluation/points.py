"""Rate–distortion points: every photo by every codec at every quality, in real files, kept in a CSV file.

photos × codecs × qualities ──measure──► Point each ──► points.csv, which is also the cache
"""

import csv
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import StringIO
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from slimcodec import InvalidInput
from slimcodec.codec.atomic import write_text
from slimcodec.codec.progress import bar
from slimcodec.evaluation import metrics as quality_metrics
from slimcodec.evaluation.locks import alone
from slimcodec.evaluation.metrics import METRICS, psnr_db
from slimcodec.evaluation.photos import Photo, names_of, open_photo

DIGITS = 6  # after the point, of seconds and metrics: enough, and points are kept by the thousand
NAMES = "surrogateescape"  # how names of files that are not UTF-8 stand in points.csv: as their own bytes
KEY_DIGITS = 16  # hexadecimal, of a SHA-256
CANNOT = "cannot: "  # before the reason why a metric could not be computed, in its cell


class Codec(Protocol):
    """What can be measured. It travels to worker processes, so it must be picklable."""

    name: str
    kind: str  # "model" or "anchor"
    settings: str  # tool, version and options in one line; two codecs of the same settings make the same files
    qualities: tuple[float, ...]  # what to measure unless told otherwise, lowest rate first

    def compress(self, picture: Image.Image, quality: float) -> bytes: ...

    def decompress(self, data: bytes) -> Image.Image: ...


class Point(NamedTuple):
    """One picture at one quality by one codec. `bytes` may have a fraction when it is an estimate."""

    codec: str
    picture: str
    quality: float
    bytes: float
    bpp: float  # over the picture's own pixels
    encode_seconds: float  # nan in an estimate, as the next
    decode_seconds: float
    metrics: Mapping[str, float]
    missing: Mapping[str, str] = {}  # metrics that this picture cannot have, and why
    picture_sha256: str = ""  # the first digits of the file's
    codec_key: str = ""  # and of that of the codec's settings

    @property
    def place(self):
        """What tells it from the other points of a file."""
        return self.codec, self.picture, self.quality


class Failure(NamedTuple):
    """A codec that could not code a picture, or a photo that could not be read: then `codec` and `quality` are None."""

    picture: str
    codec: str | None
    quality: float | None
    reason: str


class Measured(NamedTuple):
    points: list[Point]  # all that were asked for and could be had, by codec, picture and quality
    failures: list[Failure]


# ---------------------------------------------------------------------------------------------------------- measuring


class _Task(NamedTuple):
    codec: Codec
    photo: Photo
    picture: str
    quality: float
    picture_sha256: str
    metrics: tuple[str, ...]

    @property
    def place(self):
        return self.codec.name, self.picture, self.quality


def measure(
    codecs: Sequence[Codec],
    photos: Sequence[Photo],
    file: Path,
    *,
    qualities: Mapping[str, Sequence[float]] | None = None,
    metrics: Iterable[str] = quality_metrics.DEFAULT,
    jobs: int = 1,
) -> Measured:
    """Compress and decompress every photo by every codec at every quality, and keep each point in `file` at once.

    `qualities` names those of a codec (by default its own). What `file` has already is not measured again: points of
    the same settings, picture and quality that have all the metrics. Points of a codec's former settings go; those of
    other codecs and pictures stay. `jobs` processes work at a time, each on one thread. A progress bar is shown.
    Photos that cannot be read and codecs that fail are told in `failures`; everything else goes on.
    Another call or command that works on a file in the same folder is waited for.
    Raises `InvalidInput` when two photos or codecs have the same name, or `file` is not such a file.
    """
    _require_distinct([codec.name for codec in codecs])
    ladders = qualities or {}
    hashes, failures = _hashes(photos)
    tasks = [
        _Task(codec, photo, picture, quality, hashes[picture], tuple(metrics))
        for codec in codecs
        for photo, picture in zip(photos, names_of(photos), strict=True)
        if picture in hashes
        for quality in map(float, ladders.get(codec.name, codec.qualities))
    ]
    with alone(Path(file).parent), _kept(file, {codec.name: codec_key(codec) for codec in codecs}) as table:
        for result in _results([task for task in tasks if not table.has(task)], jobs):
            if isinstance(result, Failure):
                failures.append(result)
            else:
                table.add(result)
    points = [table.points[task.place] for task in tasks if table.has(task)]
    return Measured(points, _summed_up(failures))


def middle(ladder: Sequence[Point]) -> Point:
    """The point in the middle of the qualities: of 1 to 8, quality 4."""
    return sorted(ladder, key=lambda point: point.quality)[(len(ladder) - 1) // 2]


def codec_key(codec: Codec) -> str:
    """Digits that differ between codecs whose files may."""
    return _digits(codec.settings.encode("utf-8", NAMES))


def _hashes(photos):
    """Names of the photos → digits of their SHA-256; failures for files that cannot be read."""
    hashes, failures = {}, []
    for photo, name in zip(photos, names_of(photos), strict=True):
        try:
            hashes[name] = _digits(photo.read_bytes() if isinstance(photo, Path) else photo[1].tobytes())
        except OSError as error:
            failures.append(Failure(name, None, None, f"{photo}: cannot be read ({error.strerror})"))
    return hashes, failures


def _digits(data):
    return hashlib.sha256(data).hexdigest()[:KEY_DIGITS]


def _results(tasks, jobs) -> Iterator[Point | Failure]:
    """What the tasks give, in the order in which they are done."""
    from joblib import Parallel, delayed, parallel_config  # late: takes a moment

    # One thread a process, or many more threads than cores would wait for each other.
    settings = {"inner_max_num_threads": 1} if jobs > 1 else {}
    with (
        parallel_config("loky" if jobs > 1 else "sequential", n_jobs=jobs, **settings),
        bar(total=len(tasks), desc="measure", unit="files") as progress,
    ):
        for result in Parallel(return_as="generator_unordered")(delayed(_result)(task) for task in tasks):
            progress.set_postfix_str(f"{result.codec or ''} {result.picture}", refresh=False)
            progress.update()
            yield result


def _result(task: _Task) -> Point | Failure:
    try:
        original = _from_file(task.photo) if isinstance(task.photo, Path) else open_photo(task.photo)
    except InvalidInput as error:
        return Failure(task.picture, None, None, str(error))
    try:
        return _measured(task, original)
    except Exception as error:  # a codec is other people's code: whatever it raises, the others go on
        reason = " ".join(str(error).split()) or type(error).__name__
        return Failure(task.picture, task.codec.name, task.quality, reason)


@lru_cache(maxsize=1)
def _from_file(path):
    return open_photo(path)


def _measured(task, original):
    start = perf_counter()
    data = task.codec.compress(original, task.quality)
    compressed = perf_counter()
    decoded = task.codec.decompress(data)
    decompressed = perf_counter()
    values, missing = quality_metrics.measure(task.metrics, np.asarray(original), np.asarray(decoded))
    return Point(
        codec=task.codec.name,
        picture=task.picture,
        quality=task.quality,
        bytes=len(data),
        bpp=8 * len(data) / (original.width * original.height),
        encode_seconds=round(compressed - start, DIGITS),
        decode_seconds=round(decompressed - compressed, DIGITS),
        metrics={name: round(value, DIGITS) for name, value in values.items()},
        missing=missing,
        picture_sha256=task.picture_sha256,
        codec_key=codec_key(task.codec),
    )


def _summed_up(failures):
    """A photo that cannot be read fails in all its tasks: once is enough."""
    return sorted(set(failures), key=lambda failure: (failure.picture, failure.codec or "", failure.quality or 0))


def _require_distinct(names):
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise InvalidInput(f"{count} codecs are named {name}; measure them one after the other, in different folders")


def estimated_points(
    codec, photos: Sequence[Photo], qualities: Sequence[float], *, description: str = ""
) -> list[Point]:
    """Points that need no file: the sizes are the bits that the entropy model predicts, the metric is RGB PSNR.

    `codec.estimate(picture, quality)` returns an object with `bits` and `pixels`, the decoded picture, uint8 [H, W, 3].
    Nothing is encoded or decoded, so `encode_seconds` and `decode_seconds` are nan. A progress bar shows `description`.
    Raises `InvalidInput` when a photo cannot be read or two have the same name.
    """
    points = []
    with bar(total=len(photos) * len(qualities), desc=description, unit="pictures") as progress:
        for photo, name in zip(photos, names_of(photos), strict=True):
            picture = open_photo(photo)
            for quality in map(float, qualities):
                estimate = codec.estimate(picture, quality)
                size = float(estimate.bits) / 8
                values = {"psnr_rgb_db": psnr_db(np.asarray(picture), estimate.pixels)}
                bpp = 8 * size / (picture.width * picture.height)
                points.append(Point(description, name, quality, size, bpp, math.nan, math.nan, values))
                progress.update()
    return points


# ---------------------------------------------------------------------------------------------------------- files

NUMBERS = ("quality", "bytes", "bpp", "encode_seconds", "decode_seconds")
COLUMNS = ("codec", "picture", *NUMBERS, *METRICS, "picture_sha256", "codec_key")


class _Table:
    """The points of a file, which grows by a line with each new one."""

    def __init__(self, points: Iterable[Point], file):
        self.points = {point.place: point for point in points}
        self.file = file
        self.writer = csv.writer(file)

    def has(self, task: _Task) -> bool:
        point = self.points.get(task.place)
        return (
            point is not None
            and point.picture_sha256 == task.picture_sha256
            and set(task.metrics) <= point.metrics.keys() | point.missing.keys()
        )

    def add(self, point: Point):
        before = self.points.get(point.place)
        if before is not None and before.picture_sha256 == point.picture_sha256:
            point = point._replace(metrics={**before.metrics, **point.metrics})
        self.points[point.place] = point
        self.writer.writerow(_row(point))
        self.file.flush()


@contextmanager
def _kept(path, keys: Mapping[str, str]) -> Iterator[_Table]:
    """The points in `path`, but those of former settings of the codecs in `keys`; in the end all are put in order."""
    points = read_points(path) if Path(path).is_file() else []
    points = [point for point in points if keys.get(point.codec, point.codec_key) == point.codec_key]
    write_points(points, path)  # without what is out of date, and without a line that was cut off
    with open(path, "a", newline="", encoding="utf-8", errors=NAMES) as file:
        table = _Table(points, file)
        yield table
    order = {name: index for index, name in enumerate(dict.fromkeys([*(p.codec for p in points), *keys]))}
    write_points(sorted(table.points.values(), key=lambda p: (order[p.codec], p.picture, p.quality)), path)


def write_points(points: Iterable[Point], path):
    """Write a CSV file with one row per point; `path` is replaced only once all of it is written."""
    text = StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(map(_row, points))
    write_text(path, text.getvalue(), errors=NAMES)


def read_points(path):
    """The list of points in a file that `write_points` wrote, every number as it was; of a point twice, the last.

    A last line that was cut off, because whoever wrote it was killed, is left out.
    Raises `InvalidInput` when the file cannot be read or has other columns, or a row is damaged.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8", NAMES)
        header, *rows = list(csv.reader(StringIO(text[: text.rfind("\n") + 1], newline=""))) or [()]
    except (OSError, ValueError, csv.Error) as error:
        raise InvalidInput(f"cannot read points from {path}: {error}") from error
    if not header:
        raise InvalidInput(
            f"cannot read points from {path}: it ends in its first line; remove it, to measure again what it held"
        )
    if tuple(header) != COLUMNS:
        raise InvalidInput(f"{path} must have the columns {', '.join(COLUMNS)}, but has {', '.join(header)}")
    points = [_parsed(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]
    return list({point.place: point for point in points}.values())


def _row(point):
    numbers = [_shortest(getattr(point, name)) for name in NUMBERS]
    cells = [point.metrics.get(name, CANNOT + point.missing[name] if name in point.missing else "") for name in METRICS]
    return [point.codec, point.picture, *numbers, *cells, point.picture_sha256, point.codec_key]


def _shortest(number):
    """1 rather than 1.0; every number is read again as it was."""
    return int(number) if float(number).is_integer() else number


def _parsed(row, place):
    try:
        cells = dict(zip(COLUMNS, row, strict=True))
        if not all(0 < float(cells[name]) < math.inf for name in ("bytes", "bpp")):
            raise ValueError(f"{cells['bytes']} bytes, {cells['bpp']} bpp")
        return Point(
            codec=cells["codec"],
            picture=cells["picture"],
            **{name: float(cells[name]) for name in NUMBERS},
            metrics={n: float(cells[n]) for n in METRICS if cells[n] and not cells[n].startswith(CANNOT)},
            missing={n: cells[n].removeprefix(CANNOT) for n in METRICS if cells[n].startswith(CANNOT)},
            picture_sha256=cells["picture_sha256"],
            codec_key=cells["codec_key"],
        )
    except ValueError as error:
        raise InvalidInput(f"{place} is not a point ({error}); remove that row") from error
