"""What belongs to a picture beside its colours, as a file has it: alpha, ICC, EXIF and XMP, each compressed by zlib."""

import zlib
from collections.abc import Iterable, Iterator

from slimcodec import InvalidFile, InvalidInput

MAX_PROFILE_BYTES = 8 << 20  # of ICC, EXIF or XMP before compression
_PIECE_BYTES = 1 << 20  # what is decompressed at a time


def compress_chunks(
    *,
    pixels: int,
    icc: bytes | None = None,
    exif: bytes | None = None,
    alpha: bytes | Iterable[bytes] | None = None,
    xmp: bytes | None = None,
) -> dict[str, bytes]:
    """Those of the chunks that are given, as a file has them. `icc`, `exif`, `xmp`: bytes; `alpha`: `pixels` bytes,
    rows from the top, or an iterator over pieces of them. Raises `InvalidInput` for one that is too large.
    """
    given = {"icc": icc, "exif": exif, "alpha": alpha, "xmp": xmp}
    return {name: _compress(data, name, pixels) for name, data in given.items() if data is not None}


def most_bytes(name: str, pixels: int) -> int:
    """The most bytes that a chunk may have before compression."""
    return pixels if name == "alpha" else MAX_PROFILE_BYTES


def _compress(data: bytes | Iterable[bytes], name: str, pixels: int) -> bytes:
    stream, length, parts = zlib.compressobj(), 0, []
    for piece in [data] if isinstance(data, bytes) else data:
        length += len(piece)
        parts.append(stream.compress(piece))
    if name == "alpha" and length != pixels:
        raise InvalidInput(f".slim file: alpha has {length:,} bytes for {pixels:,} pixels")
    if length > most_bytes(name, pixels):
        raise InvalidInput(f".slim file: {name} has {length:,} bytes, at most {MAX_PROFILE_BYTES:,} are possible")
    return b"".join([*parts, stream.flush()])


def decompress(data: bytes, name: str, limit: int) -> Iterator[bytes]:
    """At most `limit` bytes, whatever the compressed ones ask for, in pieces."""
    stream, left = zlib.decompressobj(), limit
    try:
        while left and (piece := stream.decompress(data, min(left, _PIECE_BYTES))):
            yield piece
            left, data = left - len(piece), stream.unconsumed_tail
        more = b"" if stream.eof or left else stream.decompress(data, 1)
    except zlib.error as error:
        raise InvalidFile(f"the file's {name} chunk is damaged ({error})") from error
    if more:
        raise InvalidFile(f"the file's {name} chunk is damaged: it holds more than {limit:,} bytes")
    if not stream.eof or stream.unused_data:
        raise InvalidFile(f"the file's {name} chunk is damaged: it does not end where it should")


def in_rows(pieces: Iterable[bytes], width: int) -> Iterator[bytes]:
    """The same bytes in pieces of whole rows."""
    rest = b""
    for piece in pieces:
        rest += piece
        whole = len(rest) - len(rest) % width
        if whole:
            yield rest[:whole]
            rest = rest[whole:]
