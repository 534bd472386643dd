"""Photos to train on and to validate with, decoded: from a folder, or from inside installed packages."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from slimcodec import InvalidInput
from slimcodec.codec.grid import CELL
from slimcodec.codec.progress import bar
from slimcodec.evaluation.photos import find_photos, open_photo

# Photos inside installed packages: (package, path in it). Only natural photos: the retina, the telescope picture and
# the tissue section that scikit-image also ships look like nothing a user compresses. Of the stereo pair one is enough.
EMBEDDED = {
    "train": (
        ("skimage", "data/astronaut.png"),
        ("skimage", "data/coffee.png"),
        ("skimage", "data/motorcycle_left.png"),
        ("skimage", "data/rocket.jpg"),
        ("sklearn", "datasets/images/china.jpg"),
    ),
    # One picture of fine texture (fur) and one of smooth background, from both ends of what is hard to code.
    "validation": (
        ("skimage", "data/chelsea.png"),
        ("sklearn", "datasets/images/flower.jpg"),
    ),
}
MOST_NAMES = 10  # of photos in a warning


class Photo(NamedTuple):
    """A decoded photo: `pixels` is uint8 [H, W, 3], RGB."""

    name: str
    pixels: np.ndarray


def embedded(split: str) -> list[Photo]:
    """The real photos inside scikit-image and scikit-learn: five for `split="train"`, two for `"validation"`.

    They are read from the installed packages, never from the network. They are for demonstrations and tests: the five
    have 1.4 Mpixel together, too little to train a codec on.
    Raises InvalidInput when a package is missing.
    """
    return [Photo(Path(path).stem, _read_embedded(package, path)) for package, path in EMBEDDED[split]]


def _read_embedded(package: str, path: str) -> np.ndarray:
    try:
        with resources.as_file(resources.files(package) / path) as file:
            return np.array(open_photo(file))
    except (ModuleNotFoundError, FileNotFoundError, InvalidInput) as error:
        raise InvalidInput(f"the embedded photo {package}/{path} is missing; pip install 'slimcodec[train]'") from error


def folder_photos(root: str | Path, *, limit: int | None = None, max_pixels: int | None = None) -> list[Photo]:
    """All photos below the folder `root` (PNG, JPEG, WebP, AVIF, TIFF, BMP), named and sorted by their path in it.

    limit       take this many, evenly spaced over the sorted paths, so that a part is as varied as the whole
    max_pixels  downscale larger photos: a camera's full resolution is soft, and it costs 3 bytes of memory a pixel

    Files that cannot be read are skipped, with one warning that names them. Raises InvalidInput when `root` is no
    folder or no photo in it can be read.
    """
    paths = _evenly_spaced(find_photos(root), limit)
    photos, unreadable = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow's decoders release the GIL
        decoded = pool.map(lambda path: _try_to_read(path, max_pixels), paths)
        shown = bar(decoded, desc="decoding photos", total=len(paths), unit="photos")
        for path, pixels in zip(paths, shown, strict=True):
            name = path.relative_to(root).as_posix()
            if pixels is None:
                unreadable.append(name)
            else:
                photos.append(Photo(name, pixels))
    if not photos:
        raise InvalidInput(f"{root}: none of its {len(paths)} photos can be read; are the files complete?")
    if unreadable:
        warnings.warn(f"{root}: skipped {len(unreadable)} unreadable photos: {', '.join(unreadable)}", stacklevel=2)
    return photos


def _evenly_spaced(paths: list[Path], limit: int | None) -> list[Path]:
    if limit is None or limit >= len(paths):
        return paths
    return [paths[i * len(paths) // limit] for i in range(limit)]


def _try_to_read(path: Path, max_pixels: int | None) -> np.ndarray | None:
    try:
        picture = open_photo(path)
        return np.array(picture if max_pixels is None else shrunk(picture, max_pixels))
    except Exception:  # on a damaged file Pillow's decoders raise almost anything
        return None


def shrunk(picture: Image.Image, max_pixels: int) -> Image.Image:
    scale = (max_pixels / (picture.width * picture.height)) ** 0.5
    if scale >= 1:
        return picture
    size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def for_validation(photos: Sequence[Photo]) -> list[Photo]:
    """The photos that validation can use: those of at least 64 pixels on both sides, `CELL`.

    One warning names the others. Raises InvalidInput when there is none.
    """
    large = [photo for photo in photos if min(photo.pixels.shape[:2]) >= CELL]
    needed = f"{CELL} pixels on both sides, which validation needs"
    if not large:
        raise InvalidInput(f"none of the {len(photos)} validation photos has {needed}; name larger ones")
    if small := [photo for photo in photos if min(photo.pixels.shape[:2]) < CELL]:
        warnings.warn(f"left out of validation, with less than {needed}: {names_and_sizes(small)}", stacklevel=2)
    return large


def names_and_sizes(photos: Sequence[Photo]) -> str:
    """Their names and sizes, of the first ten."""
    names = [f"{photo.name} ({photo.pixels.shape[1]}x{photo.pixels.shape[0]})" for photo in photos[:MOST_NAMES]]
    more = [f"and {len(photos) - MOST_NAMES} more"] if len(photos) > MOST_NAMES else []
    return ", ".join(names + more)


def centre_crops(photos: Sequence[Photo], side: int) -> list[Photo]:
    """The middle of each photo, at most `side` pixels high and wide: validation that is quick to repeat."""
    return [Photo(name, np.ascontiguousarray(_centre(_centre(pixels, side, 0), side, 1))) for name, pixels in photos]


def _centre(pixels: np.ndarray, side: int, axis: int) -> np.ndarray:
    length = min(side, pixels.shape[axis])
    first = (pixels.shape[axis] - length) // 2
    return pixels.take(range(first, first + length), axis)
