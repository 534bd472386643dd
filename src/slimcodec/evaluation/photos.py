"""Photos to measure on: found in folders, opened, and named.

A photo is the path of a picture file, or a pair of its name and its pixels, uint8 [H, W, 3].
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from slimcodec import InvalidInput
from slimcodec.codec import pictures

PHOTO_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp"}
Photo = Path | tuple[str, np.ndarray]


def find_photos(root: str | Path, limit: int | None = None) -> list[Path]:
    """Picture files below the folder `root`, in all its folders, sorted by path; the first `limit` of them.

    Hidden files and folders are left out: they hold thumbnails (`.thumbnails/`) and what is no picture (`._photo.jpg`).
    Links to folders are not followed.
    Raises `InvalidInput` when there is no such folder or no picture in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise InvalidInput(f"{root} is not a folder; name one that holds photos")
    found = (path for path in root.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    photos = sorted(path for path in found if not _is_hidden(path.relative_to(root)) and path.is_file())
    if not photos:
        raise InvalidInput(f"{root} holds no picture ({', '.join(sorted(PHOTO_SUFFIXES))})")
    return photos[:limit]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def open_photo(photo: Photo) -> Image.Image:
    """A photo as an 8-bit RGB Pillow image, the right way up, without its metadata.

    Raises `InvalidInput` when the file is missing, damaged or not a picture.
    """
    if isinstance(photo, tuple):
        return Image.fromarray(photo[1])
    # Without metadata, for Pillow would write some of it into the files it saves, and their size is measured.
    return Image.fromarray(read_pixels(photo))


def read_pixels(file: Path | BinaryIO) -> np.ndarray:
    """The pixels that `open_photo` shows: uint8 [H, W, 3], which may be read-only."""
    return np.asarray(pictures.from_picture(pictures.open_picture(file), strip=True).pixels)


def names_of(photos: Sequence[Photo]) -> list[str]:
    """What the photos are called: files by their path below the folder that holds them all.

    Raises `InvalidInput` when two have the same name.
    """
    files = [photo for photo in photos if isinstance(photo, Path)]
    root = Path(os.path.commonpath([file.absolute().parent for file in files])) if files else None
    names = [photo.absolute().relative_to(root).as_posix() if isinstance(photo, Path) else photo[0] for photo in photos]
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise InvalidInput(f"{count} photos are named {name}; points are told apart by name, so rename them")
    return names
