"""The file format `.slim`: how to decode a picture, what belongs to it, and one entropy-coded stream per tile.

docs/format.md describes it for whoever writes another decoder.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec.chunks import compress_chunks, decompress, in_rows, most_bytes
from slimcodec.codec.grid import QUARTERS, Window, block_side, cells_of, whole

MAGIC = b"SLIM"
# A file with a correction is of version 3, one of a model with specialists of version 4, one with several corrections,
# a filter, long paths, or a picture coded smaller than it is shown, of version 5, whatever else it has; others of
# version 2.
VERSION, CORRECTED, MAPPED, FEATURED = 2, 3, 4, 5
EXTENSION = ".slim"
HASH_BYTES = 8  # of the SHA-256 of a model's weights: so files name it
QUALITY_ONE = 256  # quality is 8.8 fixed point
MAX_PIXELS = 200_000_000  # what a decoder accepts unless told otherwise
MAX_MEMORY = 1536 << 20  # bytes that decoding may take unless told otherwise: enough for so many pixels in tiles
MAX_CORRECTIONS = 64  # of a basis
MAX_CORRECTION_BYTES = 255  # of one
MAX_SEVERAL = 16  # corrections of a picture, and filters
MAX_FILTERS = 255  # of a basis, and coefficients of a picture's filter

# A .slim file, little endian throughout:
#
#   magic       4 bytes   "SLIM"
#   version     u8        2; 3 where the first tile's stream begins with a correction: u8, its bytes, and they; 4 where
#                         it begins so (perhaps with no bytes), and a map of the specialists follows: as many bytes as
#                         a number of 7 bits a byte says, the lowest first, bit 7 set where more follow, and they;
#                         5 where features say what there is of all this, and of several corrections: their size as
#                         that of a map, each with a u8 in front of it, the size of a map of them, and it; and in the
#                         end of a filter: u8, as many coefficients i8; or of several, and of a map of them, like that
#   flags       u8        bit 0: the picture was greyscale; bits 1, 2, 3: ICC, EXIF, alpha are there; bits 4 to 7:
#                         an ancillary chunk each, which a decoder may skip; bit 4 is XMP, the others mean nothing yet
#   model hash  8 bytes   the first 8 of the SHA-256 of the model's weights.safetensors
#   width       u16       pixels of the picture that is shown, at least 1
#   height      u16       the same
#   quality     u16       8.8 fixed point
#   tile        u8        side of an independently coded tile in cells of 64 x 64 pixels; 0: the whole picture is one
#   checksum    u32       CRC-32 (zlib's) of every other byte of the file, in order
#   features    u8        in version 5 alone; bit 0: there is a correction; bit 1: there is a map; bits 2 and 3: how
#                         many quarters of its width and height the picture is coded with, 0: all four; bit 4: there are
#                         several corrections, and bit 0 is 0; bit 5: there is a filter; bit 6: there are several,
#                         and bit 5 is 0; bit 7: a path of codec/dependent leads through more than one cell
#   sizes       u32 each  bytes of the chunks that are there, in the order of their bits, then of every tile's stream
#   chunks                each compressed by zlib; alpha is one byte a pixel, rows from the top
#   streams               of the tiles in raster order: codec/entropy, z and then the residuals r stage by stage
#
# Sides below 65536 bound what padding to whole cells adds: 8.3 million pixels at most.
_FIELDS = struct.Struct(f"<4sBB{HASH_BYTES}sHHHB")
_CHECKSUM = struct.Struct("<I")
_GREY = 1
# In the order of the chunks. Those without a meaning are there so that a later format can add some to version 2.
_CHUNK_FLAGS = {"icc": 2, "exif": 4, "alpha": 8, "xmp": 16, "bit 5": 32, "bit 6": 64, "bit 7": 128}
# In the features:
_HAS_CORRECTION, _HAS_MAP, _QUARTERS_AT, _HAS_SEVERAL, _HAS_FILTER, _HAS_FILTERS, _LONG_PATHS = 1, 2, 2, 16, 32, 64, 128
_IMPLIED = {VERSION: 0, CORRECTED: _HAS_CORRECTION, MAPPED: _HAS_CORRECTION | _HAS_MAP}
_SIZE_BYTES = 4
_MOST_SIZE_BYTES = 4  # of a map's size: a million cells have less than a megabyte
HEADER_BYTES = _FIELDS.size + _CHECKSUM.size  # without features
_U16 = (1 << 16) - 1
_RANGES = {"width": (1, _U16), "height": (1, _U16), "quality": (0, _U16), "tile": (0, 255), "quarters": (1, QUARTERS)}


class Header(NamedTuple):
    """What a decoder must know before it reads a stream."""

    model_hash: bytes  # the first 8 bytes of the weights' SHA-256
    width: int  # pixels
    height: int  # pixels
    quality: int  # in 1/QUALITY_ONE
    tile: int = 0  # cells; 0: one tile
    grey: bool = False
    quarters: int = QUARTERS  # of its width and height that the picture is coded with
    long_paths: bool = False  # of codec/dependent, through blocks of cells

    @property
    def block(self) -> int:
        """Cells along the side of a block that has a path of its own."""
        return block_side(self.tile) if self.long_paths else 1

    @property
    def shown(self) -> Window:
        """All pixels of the picture."""
        return whole((self.height, self.width))

    @property
    def scale(self) -> float:
        """The share of its width and height at which the picture is coded."""
        return self.quarters / QUARTERS

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of cells of the coded picture, the last ones padded."""
        coded = self.shown if self.quarters == QUARTERS else self.shown.coarser(QUARTERS).finer(self.quarters)
        return cells_of(*coded.shape).shape

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of tiles; the last ones may be smaller."""
        rows, columns = self.cells
        side = self.tile or max(rows, columns)
        return -(-rows // side), -(-columns // side)


class Adapted(NamedTuple):
    """What a file has to fit its picture, as `Contents` has it."""

    correction: bytes = b""
    cell_map: bytes | None = None
    correction_map: bytes | None = None
    filtering: bytes = b""
    filter_map: bytes | None = None


NOT_ADAPTED = Adapted()


class Contents(NamedTuple):
    """What `unpack` finds."""

    header: Header
    streams: list[bytes]  # of the tiles in raster order; in a partial file the last ones are shorter or empty
    chunks: dict[str, bytes]  # those that are there of "icc", "exif", "alpha", "xmp", "bit 5" to "bit 7"; compressed
    complete: bool  # False: the file ends early, its checksum could not be tested
    correction: bytes = b""  # of the model for this picture: codec/adapt; of several, each with its size in front
    cell_map: bytes | None = None  # which specialist every cell has: codec/maps
    correction_map: bytes | None = None  # which correction every cell has, if there are several: codec/maps
    filtering: bytes = b""  # coefficients of the filter, or of several: codec/bilateral
    filter_map: bytes | None = None  # which filter every cell has, if there are several: codec/maps

    @property
    def adapted(self) -> Adapted:
        return Adapted(self.correction, self.cell_map, self.correction_map, self.filtering, self.filter_map)

    def chunk(self, name: str) -> bytes | None:
        """A chunk's bytes; None if there is none. Raises `InvalidFile` if it is damaged or larger than it may be."""
        if name not in self.chunks:
            return None
        pixels = self.header.width * self.header.height
        data = b"".join(decompress(self.chunks[name], name, most_bytes(name, pixels)))
        if name == "alpha" and len(data) != pixels:
            raise InvalidFile(f"the file's alpha chunk has {len(data):,} bytes for {pixels:,} pixels")
        return data

    def alpha_rows(self) -> Iterator[bytes]:
        """The rows of alpha, from the top, a few at a time. Raises `InvalidFile` as `chunk`, before the first."""
        width, height = self.header.width, self.header.height
        pieces = decompress(self.chunks["alpha"], "alpha", width * height)
        if (found := sum(map(len, pieces))) != width * height:
            raise InvalidFile(f"the file's alpha chunk has {found:,} bytes for {width * height:,} pixels")
        return in_rows(decompress(self.chunks["alpha"], "alpha", width * height), width)


def pack(
    header: Header,
    streams: Sequence[bytes],
    correction: bytes = b"",
    cell_map: bytes | None = None,
    correction_map: bytes | None = None,
    filtering: bytes = b"",
    filter_map: bytes | None = None,
    **chunks: bytes | Iterable[bytes] | None,
) -> bytes:
    """The bytes of a whole file; chunks as for `compress_chunks`.

    Raises `InvalidInput` for a field, a number of streams or a chunk that the format cannot hold.
    """
    _check_header(header, len(streams))
    packed = compress_chunks(pixels=header.width * header.height, **chunks)  # type: ignore[arg-type]  # only alpha may be pieces
    return join(header, streams, packed, Adapted(correction, cell_map, correction_map, filtering, filter_map))


def join(
    header: Header,
    streams: Sequence[bytes],
    chunks: dict[str, bytes],
    adapted: Adapted = NOT_ADAPTED,
) -> bytes:
    """As `pack`, of chunks that are compressed already."""
    _check_header(header, len(streams))
    most = MAX_CORRECTION_BYTES if adapted.correction_map is None else MAX_SEVERAL * (1 + MAX_CORRECTION_BYTES)
    if len(adapted.correction) > most:
        raise InvalidInput(f".slim file: a correction of {len(adapted.correction)} bytes, {most} are possible")
    version, features, begin = _adaptation(header, adapted)
    parts = [*chunks.values(), begin + streams[0] if begin else streams[0], *streams[1:]]
    if max(map(len, parts)) >= 1 << 32:
        raise InvalidInput(".slim file: a stream or a chunk has 4 GiB or more")
    flags = _GREY * header.grey + sum(_CHUNK_FLAGS[name] for name in chunks)
    fields = _FIELDS.pack(MAGIC, version, flags, *header[:5])
    parts.insert(0, features + struct.pack(f"<{len(parts)}I", *map(len, parts)))
    checksum = zlib.crc32(fields)
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return b"".join([fields, _CHECKSUM.pack(checksum), *parts])


def _adaptation(header: Header, adapted: Adapted) -> tuple[int, bytes, bytes]:
    """A file's version, its features, and what its first stream begins with."""
    correction, cell_map, correction_map, filtering, filter_map = adapted
    corrected = bytes([len(correction)]) + correction if correction_map is None else _sized(correction)
    several = b"" if correction_map is None else _sized(correction_map)
    mapped = b"" if cell_map is None else _sized(cell_map)
    if filter_map is not None:
        filters = _sized(filtering) + _sized(filter_map)
    else:
        filters = bytes([len(filtering)]) + filtering if filtering else b""
    if header.quarters < QUARTERS or several or filters or header.long_paths:
        there = _HAS_SEVERAL if several else _HAS_CORRECTION if correction else 0
        there |= 0 if cell_map is None else _HAS_MAP
        there |= 0 if not filters else _HAS_FILTER if filter_map is None else _HAS_FILTERS
        there |= _LONG_PATHS if header.long_paths else 0
        features = bytes([there | header.quarters % QUARTERS << _QUARTERS_AT])
        return FEATURED, features, (corrected if correction or several else b"") + several + mapped + filters
    if cell_map is not None:
        return MAPPED, b"", corrected + mapped
    return (CORRECTED, b"", corrected) if correction else (VERSION, b"", b"")


def unpack(data: bytes, *, max_pixels: int = MAX_PIXELS, allow_partial: bool = False) -> Contents:
    """Take a whole file apart. Raises `InvalidFile` for bytes that are not a complete and intact one, and for a
    picture of more than `max_pixels`: a few damaged bytes must not make the decoder fill the memory.

    With `allow_partial` a file may end early within its streams.
    """
    view = memoryview(data).cast("B")
    header, flags, version, features = _read_fields(view)
    _check_size(header, max_pixels)
    names = [name for name, flag in _CHUNK_FLAGS.items() if flags & flag]
    begin, sizes = _read_sizes(view, HEADER_BYTES + (version == FEATURED), len(names), header)
    first_stream, end = begin + sum(sizes[: len(names)]), begin + sum(sizes)
    _check_length(len(view), first_stream, end, allow_partial)
    if complete := len(view) == end:
        _check_checksum(view)
    parts = list(_split(view, begin, sizes))
    chunks, streams = dict(zip(names, parts, strict=False)), parts[len(names) :]
    correction, cell_map, correction_map, filtering, filter_map = NOT_ADAPTED
    if features & _HAS_CORRECTION:
        correction, streams[0] = _take_short(streams[0], "its correction does", least=0 if version == MAPPED else 1)
    if features & _HAS_SEVERAL:
        correction, streams[0] = _take_sized(streams[0], "its corrections do")
        correction_map, streams[0] = _take_sized(streams[0], "its map of corrections does")
    if features & _HAS_MAP:
        cell_map, streams[0] = _take_sized(streams[0], "its map of specialists does")
    if features & _HAS_FILTER:
        filtering, streams[0] = _take_short(streams[0], "its filter's coefficients do", least=1)
    if features & _HAS_FILTERS:
        filtering, streams[0] = _take_sized(streams[0], "its filters' coefficients do")
        filter_map, streams[0] = _take_sized(streams[0], "its map of filters does")
    return Contents(header, streams, chunks, complete, correction, cell_map, correction_map, filtering, filter_map)


def _check_header(header: Header, streams: int) -> None:
    if not isinstance(header.model_hash, bytes) or len(header.model_hash) != 8:
        raise InvalidInput(f".slim header: model_hash must be 8 bytes, not {header.model_hash!r}")
    for name in ("grey", "long_paths"):
        if not isinstance(value := getattr(header, name), bool):
            raise InvalidInput(f".slim header: {name} must be True or False, not {value!r}")
    for name, (lowest, highest) in _RANGES.items():
        value = getattr(header, name)
        if not isinstance(value, int) or not lowest <= value <= highest:
            raise InvalidInput(f".slim header: {name} must be an integer in {lowest}..{highest}, not {value!r}")
    rows, columns = header.tiles
    if streams != rows * columns:
        raise InvalidInput(f".slim file: {streams} streams for {rows} x {columns} tiles")


def _read_fields(data: memoryview) -> tuple[Header, int, int, int]:
    """The header and the flags, whose values may still be impossible, the version, and the features."""
    if data[:4] != MAGIC:
        raise InvalidFile(f"not a .slim file: it begins with {bytes(data[:4])!r} instead of {MAGIC!r}")
    if len(data) < HEADER_BYTES:
        raise InvalidFile(f"the file is truncated: {len(data)} bytes, the header alone has {HEADER_BYTES}")
    _, version, flags, model_hash, width, height, quality, tile = _FIELDS.unpack_from(data)
    if not VERSION <= version <= FEATURED:
        read = f"{VERSION} to {FEATURED}"
        raise InvalidFile(f"the file has format version {version}, this slimcodec reads versions {read}")
    features = _read_features(data) if version == FEATURED else _IMPLIED[version]
    quarters = (features >> _QUARTERS_AT) % QUARTERS or QUARTERS
    of_picture = bool(flags & _GREY), quarters, bool(features & _LONG_PATHS)
    return Header(model_hash, width, height, quality, tile, *of_picture), flags, version, features


def _read_features(data: memoryview) -> int:
    if len(data) == HEADER_BYTES:
        raise InvalidFile(f"the file is truncated: {HEADER_BYTES} bytes, the header alone has {HEADER_BYTES + 1}")
    features = data[HEADER_BYTES]
    if features & _HAS_CORRECTION and features & _HAS_SEVERAL:
        raise InvalidFile("the file says that it has one correction, and that it has several; it is damaged")
    if features & _HAS_FILTER and features & _HAS_FILTERS:
        raise InvalidFile("the file says that it has one filter, and that it has several; it is damaged")
    return features


def _check_size(header: Header, max_pixels: int) -> None:
    if header.width == 0 or header.height == 0:
        raise InvalidFile(f"the file says that its picture has {header.width} x {header.height} pixels")
    if header.width * header.height > max_pixels:
        raise InvalidFile(
            f"the picture has {header.width} x {header.height} pixels, more than the limit of {max_pixels:,}; "
            "pass a larger max_pixels (--max-pixels on the command line) to allow it"
        )


def _read_sizes(data: memoryview, begin: int, chunks: int, header: Header) -> tuple[int, tuple[int, ...]]:
    """Where the table of sizes ends, and the table: nothing is allocated before the file is known to be long enough."""
    rows, columns = header.tiles
    count = chunks + rows * columns
    end = begin + _SIZE_BYTES * count
    if len(data) < end:
        raise InvalidFile(f"the file is truncated: {len(data):,} bytes, its table of sizes ends at {end:,}")
    return end, struct.unpack_from(f"<{count}I", data, begin)


def _check_length(length: int, first_stream: int, end: int, allow_partial: bool) -> None:
    if length > end:
        raise InvalidFile(f"the file is damaged: {length:,} bytes, {length - end:,} more than it says")
    truncated = f"the file is truncated: {length:,} of {end:,} bytes"
    if length < first_stream:
        raise InvalidFile(f"{truncated}, and the picture itself only begins at {first_stream:,}")
    if length < end and not allow_partial:
        raise InvalidFile(f"{truncated}; allow_partial=True (decompress --partial) decodes what is there")


def _check_checksum(data: memoryview) -> None:
    (checksum,) = _CHECKSUM.unpack_from(data, _FIELDS.size)
    if checksum != zlib.crc32(data[HEADER_BYTES:], zlib.crc32(data[: _FIELDS.size])):
        raise InvalidFile("the file is damaged: its checksum does not match")


def _split(data: memoryview, begin: int, sizes: Iterable[int]) -> Iterator[bytes]:
    """The parts that follow each other from `begin`, cut where the data ends."""
    for size in sizes:
        yield bytes(data[begin : begin + size])
        begin += size


def _take_sized(stream: bytes, what: str) -> tuple[bytes, bytes]:
    """What a stream begins with, whose size is in front of it, and the rest. what: "its map of … does"."""
    size = place = 0
    for place, byte in enumerate(stream[:_MOST_SIZE_BYTES], start=1):
        size |= (byte & 127) << 7 * (place - 1)
        if byte < 128:
            break
    if not place or stream[place - 1] > 127 or place + size > len(stream):
        raise InvalidFile(f"the file is truncated or damaged: it ends before {what}")
    return stream[place : place + size], stream[place + size :]


def _take_short(stream: bytes, what: str, least: int) -> tuple[bytes, bytes]:
    """The same, with a byte for the size."""
    end = 1 + stream[0] if stream else 0
    if not 1 + least <= end <= len(stream):
        raise InvalidFile(f"the file is truncated or damaged: it ends before {what}")
    return stream[1:end], stream[end:]


def _sized(data: bytes) -> bytes:
    """With its size in front, in 7 bits a byte, the lowest first."""
    return _size(len(data)) + data


def _size(length: int) -> bytes:
    low, high = length & 127, length >> 7
    return bytes([low | 128]) + _size(high) if high else bytes([low])
