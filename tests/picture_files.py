"""Small picture files of kinds that Pillow cannot write, as bytes."""

import base64
import struct
import zlib

import numpy as np


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: np.ndarray, bits: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """[H, W] or [H, W, channels] of `bits` each, with PNG's number for the colour type, and more chunks before IDAT."""
    height, width = values.shape[:2]
    samples = values.reshape(height, -1)
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        digits = np.unpackbits(samples.astype(np.uint8)[:, :, None], axis=2)[:, :, 8 - bits :]
        rows = [row.tobytes() for row in np.packbits(digits.reshape(height, -1), axis=1)]
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = [(b"IHDR", head), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in body)


def tiff(
    values: np.ndarray, bits: int, *, photometric: int = 1, sample_format: int = 1, extra: int | None = None
) -> bytes:
    """Grey [H, W] or colour [H, W, channels] of 12, 16 or 32 bits, uncompressed and little endian."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    if bits == 12:
        digits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(height, width, 2), axis=2)[:, :, 4:]
        data = np.packbits(digits.reshape(height, -1), axis=1).tobytes()
    else:
        data = values.astype(f"<u{bits // 8}").tobytes()
    bits_at = 8 + len(data)
    depth = (258, 3, 1, bits) if channels == 1 else (258, 3, channels, bits_at)
    tags = [(256, 3, 1, width), (257, 3, 1, height), depth, (259, 3, 1, 1), (262, 3, 1, photometric), (273, 4, 1, 8)]
    tags += [(277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(data))]
    tags += [] if extra is None else [(338, 3, 1, extra)]
    tags += [(339, 3, 1, sample_format)] if channels == 1 else []
    table = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    after = struct.pack(f"<{channels}H", *[bits] * channels)
    directory = struct.pack("<H", len(tags)) + table + bytes(4)
    return b"II*\0" + struct.pack("<I", bits_at + len(after)) + data + after + directory


def pnm(values: np.ndarray, maxval: int, *, plain: bool = False) -> bytes:
    """PGM of [H, W], PPM of [H, W, 3]; binary, or in digits."""
    height, width = values.shape[:2]
    kind = (2 if values.ndim == 2 else 3) if plain else (5 if values.ndim == 2 else 6)
    head = f"P{kind}\n{width} {height}\n{maxval}\n".encode()
    if plain:
        return head + " ".join(map(str, values.ravel().tolist())).encode()
    return head + values.astype(">u2" if maxval > 255 else "u1").tobytes()


def sgi(values: np.ndarray) -> bytes:
    """16 bits, [H, W, 3]."""
    height, width, channels = values.shape
    head = struct.pack(">HBBHHHHII", 474, 0, 2, 3, width, height, channels, 0, 65535)
    return head.ljust(512, b"\0") + values[::-1].transpose(2, 0, 1).astype(">u2").tobytes()


def dcx(pages: list[bytes]) -> bytes:
    """Several PCX in one file."""
    at, offsets = 4 + 4 * (len(pages) + 1), []
    for page in pages:
        offsets.append(at)
        at += len(page)
    return struct.pack(f"<{len(pages) + 2}I", 0x3ADE68B1, *offsets, 0) + b"".join(pages)


# 8 x 8: four rows of white, four of 1000, 30000, 65400 (of 65535). From imagecodecs, lossless.
JPEG2000_OF_16_BITS = base64.b64decode(
    "/0//UQAvAAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAADDwEBDwEBDwEB/1IADAAAAAEBAAQEAAH/XAAEQID/ZAAlAAFDcmVhdGVk"
    "IGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAACrAAH/k8/8MQgUAFsfHp09n1NsGwDCPdYIAAAAMI1h9kJbWcAAwjvlMI+5TRH3KaJC"
    "WxS4AMI75TCPuU0R9ymiPuU0R9ymiPuU0R/f+JFIO7kOx43+Oi6oAAGEfuVsgo5ESCJkRISz0dAYR+OiCQlRCUBhH1/KJCXP/DCYOw0Mx4JD0TpA"
    "MJCX9Z7AAMI/+gRIHnQEgcBESEsRkgGEfY8YkJf/2Q=="
)
# 8 x 8 grey of 12 bits, the first row 0, 1, 2, 1000, 2000, 2048, 4094, 4095.
JPEG2000_OF_12_BITS = base64.b64decode(
    "/0//UQApAAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABCwEB/1IADAAAAAEAAAQEAAH/XAAEQGD/ZAAlAAFDcmVhdGVkIGJ5IE9w"
    "ZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAABKAAH/k9/g5BIpgmE3465xN1hTLTQ/3D7IzvVE95BABhHzKUI7BhCQBU8L7CgYkAVO7kAETkB1"
    "KXM5iMucKyJYR//Z"
)
# 8 x 8 of 10 bits: the same colours as the first.
AVIF_OF_10_BITS = base64.b64decode(
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAAAAAAAAAOcGl0"
    "bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAANQAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEAAGF2MDFDb2xvcgAAAABqaXBy"
    "cAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAACAAAAAgAAAAQcGl4aQAAAAADCgoKAAAADGF2MUOBIEAAAAAAE2NvbHJuY2x4AAIAAgAAgAAAABdpcG1h"
    "AAAAAAAAAAEAAQQBAoMEAAAAPW1kYXQSAAoIOAi/YwICAJAyJxAAAEZnrPp0ogi5wz2ur7HGc2isjmnTtrtoox0L9n6yZBz2VOERfg=="
)
