"""What the page's picture viewer shows: a few whole pictures, and what some codecs make of them at a few qualities.

    points ──► pictures spread over the set ──► qualities of the main codec ──► of every codec the nearest rates

A file that a browser shows by itself (JPEG, WebP, AVIF) is shown as it is. What others decode is shown as a close copy.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, features

from slimcodec import InvalidInput
from slimcodec.codec import json_files
from slimcodec.codec.atomic import write_bytes
from slimcodec.codec.progress import bar
from slimcodec.evaluation.metrics import PSNR
from slimcodec.evaluation.photos import Photo, names_of, open_photo
from slimcodec.evaluation.points import NAMES, Point, middle

PICTURES = 6
MOST_CODECS = 5  # beside the original
STOPS = 4  # of the slider
HIGHEST_STOP = 0.7  # of the way up the main codec's qualities: above, nothing is to be seen and the files are large
SIDE = 256  # of the square of the largest error
INDEX = "viewer.json"
# The quality of copies: on three Kodak pictures they are 33 to 42 dB from what was decoded, and 19 to 90 KB each.
AVIF = {"format": "avif", "quality": 65, "subsampling": "4:4:4", "speed": 6, "max_threads": 1}
WEBP = {"format": "webp", "quality": 85, "method": 4}
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


class Shown(NamedTuple):
    """What one codec makes of the picture at one quality."""

    quality: float
    bytes: float
    bpp: float
    metrics: Mapping[str, float]
    image: bytes  # a file that browsers show
    copied: bool  # not the codec's own file, but a copy of what it decodes to


class View(NamedTuple):
    """One picture of the viewer."""

    picture: str
    width: int
    height: int
    box: Box  # where the main codec errs most
    original: bytes  # a copy
    codecs: Mapping[str, tuple[Shown, ...]]  # one for each stop of the slider, of rising rate
    left_out: Mapping[str, str]  # codecs that are not shown of this picture, and why


def views(
    photos: Sequence[Photo],
    points: Sequence[Point],
    codecs: Mapping[str, Any],
    main: str,
    *,
    folder: Path,
    pictures: int = PICTURES,
) -> list[View]:
    """Views of `pictures` of the photos, or of all if there are fewer, in the order of the photos.

    The pictures are spread evenly between the one that the codec `main` serves worst and the one it serves best.
    `codecs` are by name, of which the first five are shown; what they made is kept in `folder`, and not made again by
    a second call. A codec that fails is left out of that picture, with the reason. A progress bar is shown.
    Raises `InvalidInput` when there is no codec `main` or no point of it.
    """
    if main not in codecs:
        raise InvalidInput(f"the viewer's main codec {main!r} is not among the codecs: {', '.join(codecs) or 'none'}")
    table = _by_picture(points)
    named = {name: photo for name, photo in zip(names_of(photos), photos, strict=True) if table[name].get(main)}
    if not named:
        raise InvalidInput(f"there is no point of {main!r} on any of the photos")
    chosen = _spread({name: _error(table[name][main]) for name in named}, pictures)
    names = list(dict.fromkeys([main, *codecs]))[:MOST_CODECS]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / INDEX, json.dumps(_Index(main, names, chosen)._asdict()).encode())
    return _views({name: named[name] for name in chosen}, table, {name: codecs[name] for name in names}, main, folder)


def again(points: Sequence[Point], folder: Path) -> list[View]:
    """The views that an earlier call of `views` left in `folder`, as far as the points still are of the same files.

    It takes neither photos nor codecs. Raises `InvalidInput` when the list of what was shown is damaged.
    """
    path, remedy = Path(folder) / INDEX, "remove it and name the photos, --data"
    if not path.is_file():
        return []
    try:
        index = json_files.record(_Index, json_files.read(path, remedy=remedy))
    except ValueError as error:
        raise InvalidInput(f"{path}: is damaged ({error}); {remedy}") from error
    table = _by_picture(points)
    named = {name: None for name in index.pictures if table[name].get(index.main)}
    found = _views(named, table, dict.fromkeys(index.codecs), index.main, Path(folder))
    return [view for view in found if index.main in view.codecs and view.original and view.width]


class _Index(NamedTuple):
    """What was shown the last time."""

    main: str
    codecs: list[str]
    pictures: list[str]


def _by_picture(points: Iterable[Point]) -> dict[str, dict[str, list[Point]]]:
    """picture → codec → points of rising rate."""
    table: dict[str, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for point in sorted(points, key=lambda point: point.bpp):
        table[point.picture][point.codec].append(point)
    return table


def nearest(ladder: Sequence[Point], bpp: float) -> Point:
    """The point whose rate is nearest by factor."""
    return min(ladder, key=lambda point: abs(math.log(point.bpp / bpp)))


def stops(ladder: Sequence[Point]) -> list[Point]:
    """At most four points of rising rate, from the lowest on: of the qualities 1 to 8, 1, 3, 4 and 6."""
    places = np.linspace(0, HIGHEST_STOP * (len(ladder) - 1), STOPS).round().astype(int)
    return [ladder[place] for place in sorted(set(places.tolist()))]


def _error(ladder):
    """Something that rises with the error at the middle quality; level where PSNR was not measured."""
    return -middle(ladder).metrics.get(PSNR, 0)


def _spread(errors: Mapping[str, float], count):
    """Names at even steps through the order of the errors, in the order in which they came."""
    ranked = sorted(errors, key=lambda name: -errors[name])
    steps = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    chosen = {ranked[step] for step in steps}
    return [name for name in errors if name in chosen]


# ------------------------------------------------------------------------------------------------------- one picture


def _views(named: Mapping[str, Photo | None], table, codecs, main, folder) -> list[View]:
    with bar(total=len(named) * len(codecs), desc="viewer", unit="codecs") as progress:
        return [_view(name, photo, table[name], codecs, main, folder, progress) for name, photo in named.items()]


def _view(name, photo, ladders, codecs, main, folder, progress) -> View:
    kept = _Kept(photo, folder)
    kept.find_box(codecs[main], middle(ladders[main]))
    rates = [point.bpp for point in stops(ladders[main])]
    shown, left_out = {}, {}
    for codec in codecs:
        progress.set_postfix_str(f"{codec}, {name}", refresh=False)
        if ladders.get(codec):
            _show(kept, codec, codecs[codec], [nearest(ladders[codec], bpp) for bpp in rates], shown, left_out)
        else:
            left_out[codec] = "not measured on this picture"
        progress.update()
    facts = kept.facts
    return View(name, facts.width, facts.height, facts.box, kept.copy_of_original(), shown, left_out)


def _show(kept, name, codec, points, shown, left_out):
    try:
        shown[name] = tuple(kept.of(codec, point) for point in points)
    except Exception as error:  # a codec is other people's code: whatever it raises, the others are shown
        left_out[name] = " ".join(str(error).split()) or type(error).__name__


class _Facts(NamedTuple):
    """A picture's size, and where its largest error is."""

    width: int
    height: int
    box: Box


class _Kept:
    """The images of one picture: from the folder where they are there, else made and put there."""

    def __init__(self, photo: Photo | None, folder: Path):
        self.photo, self.folder = photo, folder
        self.decoded: dict[tuple[str, float], Image.Image] = {}  # what find_box decoded is shown as well
        self.opened: Image.Image | None = None
        self.facts = _Facts(0, 0, (0, 0, 0, 0))
        self.key = ""

    @property
    def original(self) -> Image.Image:
        if self.photo is None:
            raise InvalidInput("its photo is not at hand; name the photos, --data")
        if self.opened is None:
            self.opened = open_photo(self.photo)
        return self.opened

    def find_box(self, codec, point: Point):
        """Set the place of the largest squared error at this point; the middle if that fails."""
        self.key = point.picture_sha256 or self._sha256()
        path = self.folder / f"{_digest(point.codec, point.codec_key, self.key, point.quality, SIDE)}.json"
        if path.is_file():
            self.facts = json_files.record(_Facts, json.loads(path.read_bytes()))
        elif self.photo is not None:
            width, height = self.original.size
            try:
                box = largest_error(np.asarray(self.original), np.asarray(self._decode(codec, point)), SIDE)
            except Exception:  # as in _show, where the reason is told
                self.facts = _Facts(width, height, _middle_box(width, height, SIDE))
            else:
                self.facts = _Facts(width, height, box)
                write_bytes(path, json.dumps(self.facts._asdict()).encode())

    def of(self, codec, point: Point) -> Shown:
        """What the codec makes of the picture at this point."""
        name = _digest(point.codec, point.codec_key, point.quality)
        image = self._kept(name, lambda: self._image(codec, point))
        copied = point.bytes != len(image)
        return Shown(point.quality, point.bytes, point.bpp, point.metrics, image, copied)

    def copy_of_original(self) -> bytes:
        try:
            return self._kept("original", lambda: _copy(self.original))
        except InvalidInput:
            return b""

    def _image(self, codec, point) -> bytes:
        data = codec.compress(self.original, point.quality) if codec else b""
        if media_type(data):
            return data
        return _copy(self._decode(codec, point, data))

    def _kept(self, name: str, make: Callable[[], bytes]) -> bytes:
        path = self.folder / f"{_digest(self.key, AVIF, WEBP)}-{name}"
        if not path.is_file():
            write_bytes(path, make())
        return path.read_bytes()

    def _decode(self, codec, point, data=b""):
        place = point.codec, point.quality
        if place not in self.decoded:
            data = data or codec.compress(self.original, point.quality)
            self.decoded[place] = codec.decompress(data).convert("RGB")
        return self.decoded[place]

    def _sha256(self):
        return _digest(self.photo.read_bytes() if isinstance(self.photo, Path) else self.photo[1].tobytes())


def media_type(data: bytes) -> str | None:
    """The type of a picture file that browsers show; None of any other."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return "image/avif" if data[4:12] == b"ftypavif" else None


def _copy(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, **(AVIF if features.check("avif") else WEBP))
    return file.getvalue()


def largest_error(original: np.ndarray, decoded: np.ndarray, side: int) -> Box:
    """The square of `side` pixels in which the squared error of two uint8 [H, W, 3] is largest; all, where smaller.

    Every place is tried, by sums over rectangles from the error's running sums (an integral image).
    """
    error = np.square(original.astype(np.int32) - decoded).sum(axis=2)
    height, width = error.shape
    rows, columns = min(side, height), min(side, width)
    sums = np.pad(error.cumsum(axis=0, dtype=np.int64).cumsum(axis=1), ((1, 0), (1, 0)))
    inside = sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
    top, left = (int(index) for index in np.unravel_index(inside.argmax(), inside.shape))
    return left, top, left + columns, top + rows


def _middle_box(width, height, side):
    left, top = max(0, width - side) // 2, max(0, height - side) // 2
    return left, top, left + min(side, width), top + min(side, height)


def _digest(*parts):
    text = b"|".join(part if isinstance(part, bytes) else str(part).encode("utf-8", NAMES) for part in parts)
    return hashlib.sha256(text).hexdigest()[:16]
