"""What the page's picture viewer shows: a few pictures, a crop of each, and that crop as each codec decodes it.

    points ──► pictures spread over the set ──► crop of the largest error of the main codec ──► View each

Every codec is shown at the measured quality whose rate on that picture is nearest to the main codec's.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from slimcodec import InvalidInput
from slimcodec.codec import json_files
from slimcodec.codec.atomic import write_bytes
from slimcodec.evaluation.metrics import PSNR
from slimcodec.evaluation.photos import Photo, names_of, open_photo
from slimcodec.evaluation.points import NAMES, Point

THUMBNAIL_SIDE = 224
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


class Shown(NamedTuple):
    """One codec's crop. The rate and the metrics are those of the whole picture."""

    quality: float
    bytes: float
    bpp: float
    metrics: Mapping[str, float]
    image: bytes  # lossless WebP


class View(NamedTuple):
    """One picture of the viewer."""

    picture: str
    width: int
    height: int
    box: Box
    original: bytes  # the crop, lossless WebP
    thumbnail: bytes  # the whole picture, small, WebP
    codecs: Mapping[str, Shown]
    left_out: Mapping[str, str]  # codecs that have no crop of this picture, and why


def views(
    photos: Sequence[Photo],
    points: Sequence[Point],
    codecs: Mapping[str, object],
    main: str,
    *,
    folder: Path,
    pictures: int = 6,
    side: int = 256,
) -> list[View]:
    """Views of `pictures` of the photos, or of all if there are fewer, in the order of the photos.

    The pictures are spread evenly between the one that the codec `main` serves worst and the one it serves best. Of
    each, a square of `side` pixels is shown, where `main` has the largest squared error; of a smaller picture, all.
    `codecs` are by name; what they decoded is kept in `folder`, and not decoded again by a second call. A codec that
    fails is left out of that picture, with the reason. A progress bar is shown.
    Raises `InvalidInput` when there is no codec `main` or no point of it.
    """
    if main not in codecs:
        raise InvalidInput(f"the viewer's main codec {main!r} is not among the codecs: {', '.join(codecs) or 'none'}")
    table = _by_picture(points)
    named = {name: photo for name, photo in zip(names_of(photos), photos, strict=True) if table[name].get(main)}
    if not named:
        raise InvalidInput(f"there is no point of {main!r} on any of the photos")
    chosen = _spread({name: _error(table[name][main]) for name in named}, pictures)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(chosen) * len(codecs), desc="viewer", unit="crop", disable=None) as progress:
        return [_view(name, named[name], table[name], codecs, main, side, folder, progress) for name in chosen]


def _by_picture(points):
    """picture → codec → points of rising rate."""
    table = defaultdict(lambda: defaultdict(list))
    for point in sorted(points, key=lambda point: point.bpp):
        table[point.picture][point.codec].append(point)
    return table


def middle(ladder: Sequence[Point]) -> Point:
    """The point in the middle of the qualities: of 1 to 8, quality 4."""
    return sorted(ladder, key=lambda point: point.quality)[(len(ladder) - 1) // 2]


def nearest(ladder: Sequence[Point], bpp: float) -> Point:
    """The point whose rate is nearest by factor."""
    return min(ladder, key=lambda point: abs(math.log(point.bpp / bpp)))


def _error(ladder):
    """Something that rises with the error at the quality that is shown; level where PSNR was not measured."""
    return -middle(ladder).metrics.get(PSNR, 0)


def _spread(errors: Mapping[str, float], count):
    """Names at even steps through the order of the errors, in the order in which they came."""
    ranked = sorted(errors, key=lambda name: -errors[name])
    steps = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    chosen = {ranked[step] for step in steps}
    return [name for name in errors if name in chosen]


# ------------------------------------------------------------------------------------------------------- one picture


def _view(name, photo, ladders, codecs, main, side, folder, progress) -> View:
    crops = _Crops(photo, folder)
    point = middle(ladders[main])
    crops.find_box(codecs[main], point, side)
    shown, left_out = {}, {}
    for codec in codecs:
        progress.set_postfix_str(f"{codec}, {name}", refresh=False)
        if ladders.get(codec):
            _show(crops, codec, codecs[codec], nearest(ladders[codec], point.bpp), shown, left_out)
        else:
            left_out[codec] = "not measured on this picture"
        progress.update()
    facts = crops.facts
    return View(
        picture=name,
        width=facts.width,
        height=facts.height,
        box=facts.box,
        original=crops.kept("original", lambda: _lossless(crops.original.crop(facts.box))),
        thumbnail=crops.kept("thumbnail", lambda: _thumbnail(crops.original)),
        codecs=shown,
        left_out=left_out,
    )


def _show(crops, name, codec, point, shown, left_out):
    try:
        image = crops.of(codec, point)
    except Exception as error:  # a codec is other people's code: whatever it raises, the others are shown
        left_out[name] = " ".join(str(error).split()) or type(error).__name__
    else:
        shown[name] = Shown(point.quality, point.bytes, point.bpp, point.metrics, image)


class _Facts(NamedTuple):
    """A picture's size, and where its crop is."""

    width: int
    height: int
    box: Box


class _Crops:
    """The crops of one picture: from the folder where they are there, else decoded and put there."""

    def __init__(self, photo: Photo, folder: Path):
        self.photo, self.folder = photo, folder
        self.decoded: dict[tuple[str, float], Image.Image] = {}  # what find_box decoded is shown as well
        self.opened: Image.Image | None = None
        self.facts = _Facts(0, 0, (0, 0, 0, 0))
        self.key = ""

    @property
    def original(self) -> Image.Image:
        if self.opened is None:
            self.opened = open_photo(self.photo) if isinstance(self.photo, Path) else Image.fromarray(self.photo[1])
        return self.opened

    def find_box(self, codec, point: Point, side: int):
        """Set where the crop is: the square of the largest squared error at this point; the middle if that fails."""
        digits = point.picture_sha256 or self._sha256()
        path = self.folder / f"{_digest(point.codec, point.codec_key, digits, point.quality, side)}.json"
        if path.is_file():
            self.facts = json_files.record(_Facts, json.loads(path.read_bytes()))
        else:
            width, height = self.original.size
            try:
                box = largest_error(np.asarray(self.original), np.asarray(self._decode(codec, point)), side)
            except Exception:  # as in _show, where the reason is told
                self.facts = _Facts(width, height, _middle_box(width, height, side))
            else:
                self.facts = _Facts(width, height, box)
                write_bytes(path, json.dumps(self.facts._asdict()).encode())
        self.key = _digest(digits, *self.facts.box)

    def of(self, codec, point: Point) -> bytes:
        """The crop of what the codec makes of the picture at this point, as lossless WebP."""
        name = _digest(point.codec, point.codec_key, point.quality)
        return self.kept(name, lambda: _lossless(self._decode(codec, point).crop(self.facts.box)))

    def kept(self, name: str, make: Callable[[], bytes]) -> bytes:
        path = self.folder / f"{self.key}-{name}.webp"
        if not path.is_file():
            write_bytes(path, make())
        return path.read_bytes()

    def _decode(self, codec, point):
        place = point.codec, point.quality
        if place not in self.decoded:
            data = codec.compress(self.original, point.quality)
            self.decoded[place] = codec.decompress(data).convert("RGB")
        return self.decoded[place]

    def _sha256(self):
        return _digest(self.photo.read_bytes() if isinstance(self.photo, Path) else self.photo[1].tobytes())


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


def _lossless(picture):
    file = BytesIO()
    picture.save(file, format="webp", lossless=True, quality=100, method=4)
    return file.getvalue()


def _thumbnail(picture):
    small, file = picture.copy(), BytesIO()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    small.save(file, format="webp", quality=80)
    return file.getvalue()
