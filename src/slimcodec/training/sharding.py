"""A tree of photos → shards (training/shards), a shard at a time.

    photos ──decoded, downscaled──► photos-000000.tar + photos-000000.npy, …  ──at the end──► index.npy, shards.json

Every file is written whole. A command that was stopped leaves its complete shards, each with its entries beside it, and
the same command goes on after them.
"""

import hashlib
import json
import os
import tarfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from slimcodec import InvalidInput
from slimcodec.codec.atomic import remove_partial, write_text, writing
from slimcodec.evaluation.locks import alone
from slimcodec.evaluation.photos import find_photos, open_photo
from slimcodec.training.photos import MOST_NAMES, shrunk
from slimcodec.training.shards import (
    DESCRIPTION,
    ENTRY,
    FILES,
    INDEX,
    PIXELS,
    VERSION,
    Description,
    Shard,
    read_description,
    shard_name,
)

BLOCK = tarfile.BLOCKSIZE  # a member's bytes are filled up to a multiple
AHEAD = 2  # photos that are decoded meanwhile, for each thread


class Stored(NamedTuple):
    """A photo as it goes into a shard."""

    photo: int
    name: str
    height: int
    width: int
    data: bytes


class Progress(NamedTuple):
    """After a shard: its name, photos and bytes, and how many photos of the tree are done."""

    shard: str
    photos: int
    bytes: int
    done: int
    source_photos: int


def write_shards(
    photos: str | Path,
    out: str | Path,
    *,
    store: str = FILES,
    max_pixels: int | None = None,
    shard_bytes: int = 1 << 30,
    threads: int | None = None,
) -> Iterator[Progress]:
    """Write all photos below the folder `photos` into shards in the folder `out`; yields after each shard.

    store        files: their bytes as they are, and what is downscaled as PNG. pixels: decoded, 3 bytes a pixel
    max_pixels   downscale larger photos
    shard_bytes  a shard ends with the photo that reaches them
    threads      that decode; default: one a core

    Goes on after the shards that are there. Photos that cannot be read are skipped, with one warning that names them.
    Raises InvalidInput when `photos` is no folder, no photo can be read, or `out` holds shards of something else.
    """
    root, out = Path(photos), Path(out)
    paths = find_photos(root)
    wanted = Description(VERSION, store, max_pixels, shard_bytes, len(paths), _hash(root, paths))
    with alone(out):
        remove_partial(out)
        if not _begin(out, wanted):
            return
        done = _entries(out)
        first = int(done[-1]["photo"]) + 1 if len(done) else 0
        threads = threads or os.cpu_count() or 1
        with ThreadPoolExecutor(threads) as pool:  # Pillow's decoders release the GIL
            work = partial(_stored, root, paths, store, max_pixels)
            numbers = tqdm(range(first, len(paths)), "writing shards", len(paths), initial=first, disable=None)
            stored = filter(None, _in_order(pool, work, numbers, AHEAD * threads))
            for progress in _write(out, stored, shard_bytes):
                yield progress._replace(source_photos=len(paths))
        _finish(out, wanted)
        _warn_of_unreadable(root, paths, np.load(out / INDEX, mmap_mode="r")["photo"])


def _hash(root: Path, paths: Iterable[Path]) -> str:
    """Of the names of the photos."""
    found = hashlib.sha256()
    for path in paths:
        found.update(os.fsencode(path.relative_to(root).as_posix()) + b"\0")
    return found.hexdigest()


def _begin(out: Path, wanted: Description) -> bool:
    """Whether there is anything to do. Raises InvalidInput when the folder holds shards of something else."""
    if not (out / DESCRIPTION).exists():
        _describe(out, wanted)
        return True
    found = read_description(out)
    for name, value in wanted._asdict().items():
        if name not in ("complete", "shards") and getattr(found, name) != value:
            raise InvalidInput(f"{out}: holds shards of another {name}; name another folder, or remove this one")
    return not found.complete


def _describe(out: Path, description: Description) -> None:
    values = description._asdict() | {"shards": [shard._asdict() for shard in description.shards]}
    write_text(out / DESCRIPTION, json.dumps(values, indent=1) + "\n")


# ------------------------------------------------------------------------------------------------------------- photos


def _in_order(pool: ThreadPoolExecutor, work: Callable[[int], Any], items: Iterable[int], ahead: int) -> Iterator[Any]:
    """`work` of each item, in order: like pool.map, but no more than `ahead` items are begun before they are wanted."""
    begun: deque[Any] = deque()
    for item in items:
        begun.append(pool.submit(work, item))
        if len(begun) > ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def _stored(root: Path, paths: list[Path], store: str, max_pixels: int | None, photo: int) -> Stored | None:
    """None for a photo that cannot be read."""
    path = paths[photo]
    try:
        picture = open_photo(path)
        kept = picture if max_pixels is None else shrunk(picture, max_pixels)
        suffix, data = _encoded(kept, store) if store == PIXELS or kept is not picture else _as_it_is(path)
    except Exception:  # on a damaged file Pillow's decoders raise almost anything
        return None
    name = path.relative_to(root).with_name(path.stem.replace(".", "_") + suffix)
    return Stored(photo, f"{photo:09d}/{name.as_posix()}", kept.height, kept.width, data)


def _as_it_is(path: Path) -> tuple[str, bytes]:
    return path.suffix.lower(), path.read_bytes()


def _encoded(picture: Image.Image, store: str) -> tuple[str, bytes]:
    """Its suffix and bytes, without a loss."""
    data = BytesIO()
    if store == PIXELS:
        np.save(data, np.asarray(picture))
        return ".npy", data.getvalue()
    picture.save(data, "PNG", compress_level=1)
    return ".png", data.getvalue()


# ------------------------------------------------------------------------------------------------------------- shards


def _write(out: Path, stored: Iterator[Stored], shard_bytes: int) -> Iterator[Progress]:
    """Write shards for as long as there are photos."""
    numbers = count(len(_parts(out)))
    for first in stored:
        number = next(numbers)
        path = out / shard_name(number)
        entries = _write_shard(path, number, chain([first], stored), shard_bytes)
        with writing(path.with_suffix(".npy")) as file:  # after the shard: what has entries is whole
            np.save(file, entries)
        yield Progress(path.name, len(entries), path.stat().st_size, int(entries[-1]["photo"]) + 1, 0)


def _write_shard(path: Path, number: int, stored: Iterator[Stored], shard_bytes: int) -> np.ndarray:
    """Write a tar file; the entries of its photos, [N] of ENTRY."""
    entries = []
    with writing(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for photo in stored:
            member = tarfile.TarInfo(photo.name)
            member.size = len(photo.data)
            tar.addfile(member, BytesIO(photo.data))
            offset = file.tell() - -(-member.size // BLOCK) * BLOCK
            entries.append((photo.photo, number, photo.height, photo.width, offset, member.size))
            if file.tell() >= shard_bytes:
                break
    return np.array(entries, ENTRY)


def _parts(out: Path) -> list[Path]:
    """The entries of each shard that is complete."""
    return sorted(out.glob("photos-*.npy"))


def _entries(out: Path) -> np.ndarray:
    """Of all shards that are complete."""
    return np.concatenate([np.empty(0, ENTRY), *(np.load(path, allow_pickle=False) for path in _parts(out))])


def _finish(out: Path, wanted: Description) -> None:
    """Write the index, and what says that all is there."""
    entries, parts = _entries(out), _parts(out)
    if not len(entries):
        raise InvalidInput(f"none of the {wanted.source_photos} photos can be read; are the files complete?")
    with writing(out / INDEX) as file:
        np.save(file, entries)
    counts = np.bincount(entries["shard"], minlength=len(parts))
    shards = [Shard((out / shard_name(number)).stat().st_size, int(photos)) for number, photos in enumerate(counts)]
    _describe(out, wanted._replace(complete=True, shards=shards))
    for path in parts:
        path.unlink()


def _warn_of_unreadable(root: Path, paths: list[Path], stored: np.ndarray) -> None:
    unreadable = np.setdiff1d(np.arange(len(paths)), stored)
    if len(unreadable):
        names = [paths[photo].relative_to(root).as_posix() for photo in unreadable[:MOST_NAMES]]
        more = [f"and {len(unreadable) - MOST_NAMES} more"] if len(unreadable) > MOST_NAMES else []
        warnings.warn(f"{root}: skipped {len(unreadable)} unreadable photos: {', '.join(names + more)}", stacklevel=3)
