"""The file format `.slim`: a header that says how to decode, a checksum, and one entropy-coded stream."""

from struct import Struct
from typing import NamedTuple
from zlib import crc32

from slimcodec import InvalidFile, InvalidInput

MAGIC = b"SLIM"
VERSION = 1
MAX_PIXELS = 200_000_000  # what a decoder accepts unless told otherwise

# A .slim file, little endian throughout:
#
#   magic       4 bytes   "SLIM"
#   version     u8        1
#   flags       u8        0; a reader refuses what it does not know
#   model hash  8 bytes   the first 8 of the SHA-256 of the model's weights.safetensors
#   width       u32       pixels, at least 1
#   height      u32       pixels, at least 1
#   quality     u16       8.8 fixed point
#   checksum    u32       CRC-32 (zlib's) of every other byte of the file, in order
#   payload               to the end: one stream of codec/entropy, z and then the residuals r stage by stage
_FIELDS = Struct("<4sBB8sIIH")
_CHECKSUM = Struct("<I")
HEADER_BYTES = _FIELDS.size + _CHECKSUM.size


class Header(NamedTuple):
    """What a decoder must know before it reads the payload."""

    model_hash: bytes  # the first 8 bytes of the weights' SHA-256
    width: int  # pixels
    height: int  # pixels
    quality: int  # in 1/256


def pack(header, payload):
    """The bytes of a whole file. Raises `InvalidInput` for a header field that the format cannot hold."""
    if not isinstance(header.model_hash, bytes) or len(header.model_hash) != 8:
        raise InvalidInput(f".slim header: model_hash must be 8 bytes, not {header.model_hash!r}")
    for name, lowest, bits in (("width", 1, 32), ("height", 1, 32), ("quality", 0, 16)):
        value = getattr(header, name)
        if not isinstance(value, int) or not lowest <= value < 1 << bits:
            raise InvalidInput(f".slim header: {name} must be an integer in {lowest}..{(1 << bits) - 1}, not {value!r}")
    fields = _FIELDS.pack(MAGIC, VERSION, 0, *header)
    return fields + _CHECKSUM.pack(crc32(payload, crc32(fields))) + payload


def unpack(data, *, max_pixels=MAX_PIXELS):
    """`(header, payload)` of a whole file. Raises `InvalidFile` for bytes that are not a complete and intact one, and
    for a picture of more than `max_pixels`: a few damaged bytes must not make the decoder fill the memory."""
    if len(data) < HEADER_BYTES:
        raise InvalidFile(f"not a complete .slim file: {len(data)} bytes, the header alone has {HEADER_BYTES}")
    magic, version, flags, *values = _FIELDS.unpack_from(data)
    header = Header(*values)
    if magic != MAGIC:
        raise InvalidFile(f"not a .slim file: it begins with {magic!r} instead of {MAGIC!r}")
    if version != VERSION:
        raise InvalidFile(f"the file has format version {version}, this slimcodec reads version {VERSION}")
    if flags != 0:
        raise InvalidFile(f"the file has flags {flags:#04x}, but version {VERSION} of the format knows none")
    if header.width == 0 or header.height == 0:
        raise InvalidFile(f"the file says that its picture has {header.width} x {header.height} pixels")
    if header.width * header.height > max_pixels:
        raise InvalidFile(
            f"the picture has {header.width} x {header.height} pixels, more than the limit of {max_pixels}; "
            "pass a larger max_pixels to allow it"
        )
    payload = data[HEADER_BYTES:]
    (checksum,) = _CHECKSUM.unpack_from(data, _FIELDS.size)
    if checksum != crc32(payload, crc32(data[: _FIELDS.size])):
        raise InvalidFile("the file is damaged or incomplete: its checksum does not match")
    return header, payload
