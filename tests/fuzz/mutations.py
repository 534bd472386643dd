"""Valid files → damaged ones. Half of them get plausible headers and the right checksum, which would hide the rest."""

import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from slimcodec.codec.bitstream import CORRECTED, HEADER_BYTES, MAGIC, VERSION
from slimcodec.codec.grid import CELL

MAX_PIXELS = 1 << 18  # so that a file takes milliseconds
FIELDS = {  # offset and struct format; docs/format.md
    "version": (4, "<B"),
    "flags": (5, "<B"),
    "hash": (6, "<Q"),
    "width": (14, "<H"),
    "height": (16, "<H"),
    "quality": (18, "<H"),
    "tile": (20, "<B"),
    "checksum": (21, "<I"),
    "first size": (25, "<I"),
    "second size": (29, "<I"),
    "third size": (33, "<I"),
}
CHUNK_FLAGS = 0xFE
CHECKSUM_AT = FIELDS["checksum"][0]
INTERESTING = [0, 1, 2, 3, 7, 8, 15, 16, 31, 63, 64, 65, 127, 128, 129, 254, 255, 256, 257, 511, 512, 2047, 2048, 2049]
INTERESTING += [4096, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]
BOMB = zlib.compress(bytes(16 << 20), 9)


class Seed(NamedTuple):
    name: str
    data: bytes
    model_hash: bytes
    rungs: int  # of the model


class Mutant(NamedTuple):
    data: bytes
    how: str  # what was done to which seed
    model_hash: bytes  # of the model that gets it
    allow_partial: bool
    region: tuple[int, int, int, int] | None


def mutant(number: int, seeds: list[Seed], *, seed: int) -> Mutant:
    """Mutant `number` of a run; it depends on nothing but the arguments."""
    rng = Random(f"{seed}/{number}")
    source = rng.choice(seeds)
    data, steps = bytearray(source.data), []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        mutate = rng.choice(MUTATIONS)
        mutate(data, rng, seeds)
        steps.append(mutate.__name__)
    if number % 2:
        repair(data, rng, source)
        steps.append("repair")
    allow_partial = rng.random() < 0.3
    if allow_partial and rng.random() < 0.7:
        truncate(data, rng, seeds)
        steps.append("truncate at last")
    region = _region(data, rng) if rng.random() < 0.3 else None
    return Mutant(bytes(data), f"{source.name}: {', '.join(steps)}", source.model_hash, allow_partial, region)


# --- mutations: each changes `data` in place ------------------------------------------------------------------------


def flip_bits(data: bytearray, rng: Random, _) -> None:
    for _ in range(rng.choice((1, 1, 2, 8)) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite_bytes(data: bytearray, rng: Random, _) -> None:
    at = _at(data, rng)
    end = min(at + rng.choice((1, 2, 4, 8, 40)), len(data))
    data[at:end] = rng.choice((rng.randbytes(end - at), bytes(end - at), b"\xff" * (end - at)))


def change_field(data: bytearray, rng: Random, _) -> None:
    at, kind = rng.choice(list(FIELDS.values()))
    size = struct.calcsize(kind)
    if at + size <= len(data):
        (old,) = struct.unpack_from(kind, data, at)
        value = rng.choice((rng.choice(INTERESTING), old + rng.choice((-64, -1, 1, 64)), len(data) - rng.randrange(64)))
        struct.pack_into(kind, data, at, value % (1 << 8 * size))


def truncate(data: bytearray, rng: Random, _) -> None:
    del data[rng.choice((_at(data, rng), rng.randrange(len(data) + 1), max(0, len(data) - rng.randrange(1, 9)))) :]


def insert(data: bytearray, rng: Random, _) -> None:
    at, size = _at(data, rng), rng.choice((1, 2, 4, 16, 300))
    data[at:at] = rng.choice((rng.randbytes(size), bytes(size), b"\xff" * size))


def duplicate_block(data: bytearray, rng: Random, _) -> None:
    at, size = _at(data, rng), rng.choice((1, 4, 8, 64, 500))
    data[at:at] = data[at : at + size] * rng.choice((1, 1, 1, 5))


def remove_block(data: bytearray, rng: Random, _) -> None:
    at = _at(data, rng)
    del data[at : at + rng.choice((1, 2, 4, 8, 64, 500))]


def move_block(data: bytearray, rng: Random, _) -> None:
    at, size = _at(data, rng), rng.choice((4, 8, 64))
    block = data[at : at + size]
    del data[at : at + size]
    at = _at(data, rng)
    data[at:at] = block


def splice(data: bytearray, rng: Random, seeds: list[Seed]) -> None:
    """The beginning of one file and the end of another; sometimes both cut at the same place."""
    other = rng.choice(seeds).data
    at = _at(data, rng)
    data[at:] = other[rng.choice((at, rng.randrange(len(other)))) :]


def swap_sizes(data: bytearray, rng: Random, _) -> None:
    entries = (len(data) - HEADER_BYTES) // 4
    if entries > 1:
        one, other = (HEADER_BYTES + 4 * rng.randrange(min(entries, 12)) for _ in range(2))
        data[one : one + 4], data[other : other + 4] = data[other : other + 4], data[one : one + 4]


def shift_size(data: bytearray, rng: Random, _) -> None:
    """Move the border between two parts."""
    at = HEADER_BYTES + 4 * rng.randrange(8)
    if at + 8 <= len(data):
        one, other = struct.unpack_from("<2I", data, at)
        bytes_moved = rng.choice((1, 4, 8, 64, other)) * rng.choice((-1, 1))
        struct.pack_into("<2I", data, at, (one + bytes_moved) % (1 << 32), (other - bytes_moved) % (1 << 32))


def plant_bomb(data: bytearray, rng: Random, _) -> None:
    """A chunk far larger than it may be once it is decompressed: before the one that is there, or as a new one."""
    if len(data) < HEADER_BYTES + 4:
        return
    flag = rng.choice((2, 4, 8, 16, 128))
    index = (data[5] & (flag - 1) & CHUNK_FLAGS).bit_count()
    at = HEADER_BYTES + 4 * index
    chunks = (data[5] & CHUNK_FLAGS).bit_count()
    begin = HEADER_BYTES + 4 * (_parts(data) if chunks else 1)
    if data[5] & flag == 0:
        data[5] |= flag
        data[at:at] = bytes(4)
        begin += 4
    before = sum(struct.unpack_from(f"<{index}I", data, HEADER_BYTES)) if at + 4 <= len(data) else 0
    if begin + before <= len(data):
        data[begin + before : begin + before] = BOMB
        struct.pack_into("<I", data, at, len(BOMB))


MUTATIONS: list[Callable[[bytearray, Random, list[Seed]], None]] = [
    flip_bits,
    flip_bits,
    overwrite_bytes,
    overwrite_bytes,
    change_field,
    change_field,
    truncate,
    insert,
    duplicate_block,
    remove_block,
    move_block,
    splice,
    swap_sizes,
    shift_size,
    plant_bomb,
]


def _at(data: bytearray, rng: Random) -> int:
    """A place in the file: anywhere, or in what comes first, which decides more."""
    return rng.randrange(rng.choice((len(data), min(len(data), HEADER_BYTES + 16))) + 1)


# --- plausible headers ----------------------------------------------------------------------------------------------


def repair(data: bytearray, rng: Random, source: Seed) -> None:
    """Make the header one that this model may have written, the sizes add up, and the checksum right.

    Each is left as it is now and then: some checks come only after others.
    """
    data.extend(bytes(max(0, HEADER_BYTES - len(data))))
    if rng.random() < 0.97:
        _repair_fields(data, rng, source)
    if rng.random() < 0.9:
        _repair_sizes(data)
    seal(data)


def _repair_fields(data: bytearray, rng: Random, source: Seed) -> None:
    data[:5] = MAGIC + bytes([CORRECTED if data[4] == CORRECTED else VERSION])
    data[5] &= 15
    data[6:14] = source.model_hash
    width, height, quality = struct.unpack_from("<3H", data, 14)
    width, height = max(width, 1), max(height, 1)
    if width * height > MAX_PIXELS and rng.random() < 0.9:
        width, height = width % 512 + 1, height % 512 + 1
    quality = min(max(quality, 256), 256 * source.rungs)
    struct.pack_into("<3H", data, 14, width, height, quality)


def _repair_sizes(data: bytearray) -> None:
    """What is left of the file is shared out among the parts as far as it goes; the last one takes the rest."""
    count = _parts(data)
    if count > 5000:
        return
    begin = HEADER_BYTES + 4 * count
    data.extend(bytes(max(0, begin - len(data))))
    left = len(data) - begin
    for part in range(count):
        at = HEADER_BYTES + 4 * part
        (size,) = struct.unpack_from("<I", data, at)
        size = left if part == count - 1 else min(size, left)
        struct.pack_into("<I", data, at, size)
        left -= size


def _parts(data: bytearray) -> int:
    """How many sizes the header says that there are."""
    width, height = struct.unpack_from("<2H", data, 14)
    rows, columns = -(-height // CELL), -(-width // CELL)
    side = data[20] or max(rows, columns, 1)
    return (data[5] & CHUNK_FLAGS).bit_count() + -(-rows // side) * -(-columns // side)


def seal(data: bytearray) -> None:
    checksum = zlib.crc32(data[HEADER_BYTES:], zlib.crc32(data[:CHECKSUM_AT]))
    struct.pack_into("<I", data, CHECKSUM_AT, checksum)


def declared_size(data: bytes) -> tuple[int, int]:
    """Width and height as they are in the file; 1 x 1 if it ends before them."""
    return struct.unpack_from("<2H", data, 14) if len(data) >= 18 else (1, 1)


def _region(data: bytearray, rng: Random) -> tuple[int, int, int, int]:
    """A part of the picture that the file declares."""
    sides = [max(side, 1) for side in declared_size(data)]
    corner = [rng.randrange(side) for side in sides]
    extent = [rng.randint(1, side - at) for side, at in zip(sides, corner, strict=True)]
    return *corner, *extent
