"""Photos in shards: tar files, as WebDataset reads them, and an index by which any photo is read alone.

    DIR/shards.json          what is in the folder: written last, so what has it is whole
    DIR/index.npy            an ENTRY for each photo, 32 bytes, mapped into memory
    DIR/photos-000000.tar    number/name.jpg of each photo, one after the other

A photo's number is its place in the sorted tree that it comes from. Dots in the stem of its name became underscores:
for WebDataset a name ends at its first dot. Two ways to store photos:

    files     the bytes of their files: smallest, and decoded whole for every crop
    pixels    decoded, as NumPy's .npy: 3 bytes a pixel, of which a crop reads its own rows
"""

import hashlib
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from slimcodec import InvalidInput
from slimcodec.codec import json_files
from slimcodec.codec.pictures import MAX_SIDE
from slimcodec.evaluation.photos import read_pixels
from slimcodec.training.photos import Photo

VERSION = 1
DESCRIPTION, INDEX = "shards.json", "index.npy"
FILES, PIXELS = STORES = "files", "pixels"
CHANNELS = 3
ENTRY = np.dtype(
    [
        ("photo", "<i4"),  # its number
        ("shard", "<i4"),
        ("height", "<i4"),  # in pixels, the right way up
        ("width", "<i4"),
        ("offset", "<i8"),  # of its first byte in the shard; the tar's header is before that
        ("bytes", "<i8"),
    ]
)
REMEDY = "copy it again, or remove the folder and write it anew with slimcodec shards"


class Shard(NamedTuple):
    bytes: int
    photos: int


class Description(NamedTuple):
    """shards.json: what was asked for, and what came of it."""

    format_version: int
    store: str
    max_pixels: int | None  # larger photos were downscaled to so many
    shard_bytes: int  # a shard ends with the photo that reaches them
    source_photos: int  # of the tree; those that cannot be read are in no shard
    source_sha256: str  # of their names, sorted
    complete: bool = False
    shards: list[Shard] = []  # noqa: RUF012 - never changed


class Shards(Sequence[Photo]):
    """Photos that are read from their shards when they are asked for. A slice is one of these too, and reads nothing.

    heights, widths   of the photos, in pixels: int32 [N]
    """

    def __init__(self, root: Path, store: str, index: np.ndarray):
        self._root, self._store, self._index = root, store, index
        self.heights, self.widths = np.asarray(index["height"]), np.asarray(index["width"])

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, place: int) -> Photo: ...
    @overload
    def __getitem__(self, place: slice) -> "Shards": ...
    def __getitem__(self, place: int | slice) -> "Photo | Shards":
        if isinstance(place, slice):
            return self.at(place)
        return Photo(self._name(self._index[place]), np.array(self._pixels(self._index[place])))

    @property
    def sha256(self) -> str:
        """Of the index: of the photos' places and sizes, not of what is in them."""
        return hashlib.sha256(np.ascontiguousarray(self._index)).hexdigest()

    def at(self, places: np.ndarray | slice) -> "Shards":
        """The photos at these places."""
        return Shards(self._root, self._store, self._index[places])

    def evenly_spaced(self, count: int | None) -> "Shards":
        """So many of them, or all, if there are no more."""
        if count is None or count >= len(self):
            return self
        return self.at(np.arange(count) * len(self) // count)

    def window(self, photo: int, top: int, left: int, side: int) -> np.ndarray:
        """A square of a photo: uint8 [side, side, 3].

        Raises InvalidInput, naming the shard, when it cannot be read or is damaged.
        """
        entry = self._index[photo]
        if self._store == FILES:
            return self._pixels(entry)[top : top + side, left : left + side].copy()
        return self._rows(entry, top, side)[:, left : left + side]

    def stored(self, photo: int) -> np.ndarray:
        """What the shard holds of a photo: uint8 [bytes]. Raises InvalidInput as `window` does."""
        return self._read(self._index[photo], 0, int(self._index[photo]["bytes"]))

    def _pixels(self, entry: np.void) -> np.ndarray:
        """A whole photo: uint8 [H, W, 3], which may be read-only."""
        shape = int(entry["height"]), int(entry["width"]), CHANNELS
        if self._store == PIXELS:
            return self._rows(entry, 0, shape[0])
        data = self._read(entry, 0, int(entry["bytes"]))
        try:
            pixels = read_pixels(BytesIO(data))
        except Exception as error:  # on damaged bytes Pillow's decoders raise almost anything
            raise self._damaged(entry, "cannot be decoded") from error
        if pixels.shape != shape:
            raise self._damaged(entry, "is another picture than the index says")
        return pixels

    def _rows(self, entry: np.void, top: int, count: int) -> np.ndarray:
        """Rows of a photo that is stored as pixels, which are the end of its .npy: uint8 [count, W, 3]."""
        height, width = int(entry["height"]), int(entry["width"])
        row = width * CHANNELS
        header = int(entry["bytes"]) - height * row
        return self._read(entry, header + top * row, count * row).reshape(count, width, CHANNELS)

    def _read(self, entry: np.void, start: int, count: int) -> np.ndarray:
        """Bytes of an entry. The shard is opened for each: of thousands, not all can stay open."""
        path, data = self._shard(entry), np.empty(count, np.uint8)
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(int(entry["offset"]) + start)
                found = file.readinto(data)
        except OSError as error:
            raise InvalidInput(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from error
        if found != count:
            raise InvalidInput(f"{path}: is damaged (it ends too early); {REMEDY}")
        return data

    def _shard(self, entry: np.void) -> Path:
        return self._root / shard_name(int(entry["shard"]))

    def _damaged(self, entry: np.void, what: str) -> InvalidInput:
        return InvalidInput(f"{self._shard(entry)}: is damaged (photo {int(entry['photo'])} {what}); {REMEDY}")

    def _name(self, entry: np.void) -> str:
        """What the shard calls it, without its number: as much as the header just before it has room for."""
        header = self._read(entry, -tarfile.BLOCKSIZE, tarfile.BLOCKSIZE).tobytes()
        try:
            return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name.partition("/")[2]
        except tarfile.TarError as error:
            raise self._damaged(entry, "has no header of a tar file") from error


def shard_name(number: int) -> str:
    return f"photos-{number:06d}.tar"


def open_shards(root: str | Path) -> Shards:
    """The photos in a folder that `slimcodec shards` wrote, none of them read yet.

    Raises InvalidInput, naming the file, when something is missing, unfinished or of another size than it should be.
    """
    root = Path(root)
    description = read_description(root)
    if not description.complete:
        raise InvalidInput(f"{root / DESCRIPTION}: not all shards were written; run slimcodec shards again to go on")
    for number, shard in enumerate(description.shards):
        _require_size(root / shard_name(number), shard.bytes)
    return Shards(root, description.store, _index(root / INDEX, description))


def read_description(root: Path) -> Description:
    """shards.json of a folder. Raises InvalidInput when there is none, or one that is damaged or of another version."""
    path = root / DESCRIPTION
    if not path.is_file():
        raise InvalidInput(f"{path}: there is none; write shards with slimcodec shards, or name the folder that has it")
    values = json_files.read(path, remedy=REMEDY)
    if values.get("format_version") != VERSION:
        found = values.get("format_version")
        raise InvalidInput(f"{path}: is of version {found}, this slimcodec reads {VERSION}; {REMEDY}")
    try:
        description = json_files.record(Description, values)
        if description.store not in STORES:
            raise ValueError(f"store is none of {', '.join(STORES)}")
    except ValueError as error:
        raise InvalidInput(f"{path}: is damaged ({error}); {REMEDY}") from error
    return description


def _require_size(path: Path, size: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from error
    if found != size:
        raise InvalidInput(f"{path}: is damaged ({found:,} bytes instead of {size:,}); {REMEDY}")


def _index(path: Path, description: Description) -> np.ndarray:
    """The entries, mapped from the file: [N] of ENTRY."""
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or 'no .npy'}); {REMEDY}") from error
    except (ValueError, EOFError) as error:
        raise InvalidInput(f"{path}: is damaged (no .npy); {REMEDY}") from error
    if problem := _problem(index, description):
        raise InvalidInput(f"{path}: is damaged ({problem}); {REMEDY}")
    return index


def _problem(index: Any, description: Description) -> str | None:
    """What is wrong with an index. No entry of a sound one leads outside its shard."""
    photos = sum(shard.photos for shard in description.shards)
    if not isinstance(index, np.ndarray) or index.dtype != ENTRY or index.shape != (photos,) or not photos:
        return f"no index of {photos:,} photos"
    _, shards, heights, widths, offsets, sizes = (np.asarray(index[name]) for name in ENTRY.names or ())
    if shards.min() < 0 or shards.max() >= len(description.shards):
        return "an entry is of no shard"
    if min(heights.min(), widths.min()) < 1 or max(heights.max(), widths.max()) > MAX_SIDE:
        return f"an entry has sides of less than 1 or more than {MAX_SIDE:,} pixels"
    least = heights.astype(np.int64) * widths * CHANNELS if description.store == PIXELS else 1
    ends = np.array([shard.bytes for shard in description.shards])[shards]
    if offsets.min() < tarfile.BLOCKSIZE or (sizes < least).any() or (sizes > ends - offsets).any():
        return "an entry is outside its shard"
    return None
