"""Pictures of more than 8 bits a channel → 8 bits: scaled by what the file says, rounded, and said in one warning.

Pillow has no colour of more than 8 bits, and keeps of two bytes the one that its raw mode names. So a picture of 16
bits is read twice: as it is, and with the raw mode that names the other byte.
"""

import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

from slimcodec import InvalidInput

BLOCK = 256  # rows that are computed at a time, so that no wide copy of a whole picture is made
OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # the end of a raw mode of 16 bits
ENDS = {b"II": "L", b"MM": "B"}  # of a TIFF
BITS, PHOTOMETRIC, PLANES, SAMPLE_FORMAT = 258, 262, 284, 339  # TIFF's tags
WHITE_IS_ZERO, SEPARATE, SIGNED = 0, 2, 2  # and values of theirs
MODE_OF_CHANNELS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
OfFile = Any  # an ImageFile: formats add attributes of their own, such as tag_v2
HEAD_BYTES = 1 << 20  # of a JPEG 2000 or an AVIF, within which it says how deep it is


def read(image: OfFile, name: str) -> Image.Image:
    """The image with its pixels read, in a mode of 8 bits: itself where it was in one, and nothing was lost.

    Modes I;16 and I hold grey: what white is says the file; without one 65535 is. A key for transparency that belongs
    to the deeper values becomes alpha. Raises InvalidInput for numbers of which nobody says what is white.
    """
    if _format(image) == "TIFF" and SIGNED in image.tag_v2.get(SAMPLE_FORMAT, ()):
        raise InvalidInput(_unsaid(name, "signed numbers"))
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey(image, name)
    bits, key = _bits(image), _key(image)
    found = _deep(image, name, bits) if bits > 8 else None
    image.load()
    if found is not None:
        pixels, mode = found
        size = pixels.shape[1], pixels.shape[0]
        return _with_info(Image.frombuffer(mode, size, np.ascontiguousarray(pixels), "raw", mode, 0, 1), image)
    if _format(image) == "XBM":  # whose ones are ink: Pillow makes them white
        return _with_info(ImageOps.invert(image.convert("L")), image)
    return image if key in (None, image.info.get("transparency")) else _rekeyed(image, key)


# --- what the file says ---------------------------------------------------------------------------------------------


def _format(image: Image.Image) -> str | None:
    """Of the file that the image is; a format that somebody wrote into another image says nothing of its values."""
    return image.format if isinstance(image, ImageFile.ImageFile) else None


def _raw_mode(image: Image.Image) -> str:
    """How the pixels lie in the file; "" where they were read already, or where Pillow knows no such thing."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0].args
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _bits(image: OfFile) -> int:
    """Bits a channel of a picture whose pixels were not read yet; 8 where Pillow keeps them all."""
    if _format(image) == "AVIF" and getattr(image, "fp", None):
        return _bits_of_avif(image)
    if not getattr(image, "tile", None):
        return 8
    codec, arguments = image.tile[0].codec_name, image.tile[0].args
    if codec in ("ppm", "ppm_plain"):
        return int(arguments[-1]).bit_length()
    if _format(image) == "JPEG2000":
        return max(_precisions(image))
    if _format(image) == "TIFF":
        return max(image.tag_v2.get(BITS, (8,)))
    return 16 if codec == "SGI16" or _raw_mode(image)[-4:-1] == ";16" else 8


def _head(image: OfFile, size: int = HEAD_BYTES) -> bytes:
    position = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read(size)
    image.fp.seek(position)
    return data


def _precisions(image: OfFile) -> list[int]:
    """Bits of every channel of a JPEG 2000: its SIZ marker (ITU-T T.800, A.5.1), the first of the codestream."""
    head = _head(image)
    at = head.find(b"\xff\x4f\xff\x51")
    channels = int.from_bytes(head[at + 40 : at + 42], "big")
    return [(size & 0x7F) + 1 for size in head[at + 42 : at + 42 + 3 * channels : 3]] if at >= 0 else [8]


def _bits_of_avif(image: OfFile) -> int:
    """By the flags high_bitdepth and twelve_bit of the av1C box (AV1 in ISOBMFF, 2.3.3)."""
    head = _head(image)
    at = head.find(b"av1C")
    flags = head[at + 6] if 0 <= at < len(head) - 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


# --- grey -----------------------------------------------------------------------------------------------------------


def _grey(image: OfFile, name: str) -> Image.Image:
    """Modes I;16, its variants, and I → L, or LA where a value stands for transparency."""
    white, said = _white(image, name)
    image.load()
    values = _values(image, white)
    if values.min() < 0 or values.max() > max(white, 65535):
        raise InvalidInput(f"{name}: has PIL mode I and values outside 0..65535; turn it into 8 bits, 0..255, first")
    warnings.warn(f"{name}: {said}, rounded to 8", stacklevel=3)
    grey = Image.fromarray(_rounded(values, white, _negative(image)))
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return _with_info(grey, image)


def _white(image: OfFile, name: str) -> tuple[int, str]:
    """The value of white in an image of a mode of 16 or 32 bits, and how a warning calls them."""
    if _format(image) == "FITS" or (_format(image) == "IM" and image.mode == "I"):
        raise InvalidInput(_unsaid(name, "signed numbers"))
    if _format(image) in (None, "IM"):
        return 65535, f"has PIL mode {image.mode}, taken as 16 bits a channel (white is 65535)"
    white = 65535
    if _format(image) == "TIFF":
        white = (1 << image.tag_v2.get(BITS, (16,))[0]) - 1
    elif image.tile and _format(image) == "JPEG2000":
        white = (1 << _bits(image)) - 1
    elif image.tile and image.tile[0].codec_name in ("ppm", "ppm_plain"):
        white = int(image.tile[0].args[-1])
    return white, f"has {white.bit_length()} bits a channel"


def _values(image: OfFile, white: int) -> np.ndarray:
    """The values of the file, without what Pillow does to spread them over 16 bits."""
    values = np.asarray(image)
    if _format(image) == "TIFF" and image.mode == "I":
        return values.view(np.uint32)
    if _format(image) == "JPEG2000":
        return values >> (16 - white.bit_length())
    return (values.astype(np.int64) * white + 32767) // 65535 if _format(image) == "PPM" and white < 65535 else values


def _unsaid(name: str, numbers: str) -> str:
    return f"{name}: holds {numbers}, and not what is white among them; turn it into 8 or 16 unsigned bits first"


def _negative(image: OfFile) -> bool:
    """Whether 0 is white, which Pillow turns round at 8 bits and not at 16."""
    return _format(image) == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _rounded(values: np.ndarray, white: int, negative: bool = False) -> np.ndarray:
    """0..white → 0..255, uint8 of the same shape."""
    found = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), BLOCK):
        block = np.minimum(values[top : top + BLOCK].astype(np.uint64), np.uint64(white))
        eight = ((block * np.uint64(510) + np.uint64(white)) // np.uint64(2 * white)).astype(np.uint8)
        found[top : top + BLOCK] = 255 - eight if negative else eight
    return found


# --- colour ---------------------------------------------------------------------------------------------------------


def _deep(image: OfFile, name: str, bits: int) -> tuple[np.ndarray, str] | None:
    """Pixels and PIL mode of a colour picture of more than 8 bits a channel; None: what Pillow reads is right."""
    said = f"{name}: has {bits} bits a channel"
    if _format(image) == "JPEG2000":
        found = _of_jpeg2000(image, name, bits)
    elif bits == 16 and _format(image) in ("PNG", "TIFF") and not _separate(image):
        found = _of_two_bytes(image)
    elif _format(image) in ("AVIF", "PPM"):  # Pillow rounds them itself
        found = None
    else:
        warnings.warn(f"{said}, of which Pillow cuts off all but 8 without rounding", stacklevel=3)
        return None
    warnings.warn(f"{said}, rounded to 8", stacklevel=3)
    return found


def _separate(image: OfFile) -> bool:
    """Whether libtiff unpacks planes, for which Pillow does not ask the raw mode."""
    return image.tile[0].codec_name == "libtiff" and image.tag_v2.get(PLANES) == SEPARATE


def _of_two_bytes(image: OfFile) -> tuple[np.ndarray, str]:
    raw_mode, mode = _raw_mode(image), image.mode
    if raw_mode == "LA;16B":  # four bytes, which mode RGBA takes as they are
        both = _again(image, lambda _: "RGBA")
        return _nearest(both[:, :, 0::2], both[:, :, 1::2]), "LA"
    end = raw_mode[-1] if ";16" in raw_mode else ENDS[image.tag_v2.prefix]  # a TIFF's planes have modes like R
    low = _again(image, lambda raw: f"{_plain(raw)};16{OTHER[end]}")
    if raw_mode == f"{mode};16{end}":
        image.load()
        high = np.asarray(image)
    else:
        high = _again(image, lambda raw: f"{_plain(raw)};16{end}")
    if raw_mode.startswith("RGBa"):
        return _divided(high, low), mode
    found, key = _nearest(high, low), image.info.get("transparency")
    if isinstance(key, tuple) and mode == "RGB":
        opaque = ((high != np.right_shift(key, 8)) | (low != np.bitwise_and(key, 255))).any(axis=2)
        return np.dstack([found, 255 * opaque.astype(np.uint8)]), "RGBA"
    return found, mode


def _plain(raw_mode: str) -> str:
    """Without its depth, and without that Pillow divides by alpha, which it would do to each byte alone."""
    return raw_mode.partition(";")[0].replace("RGBa", "RGBA")


def _again(image: OfFile, change: Callable[[str], str]) -> np.ndarray:
    """The same picture read anew from the same file, its bytes taken apart in another way."""
    position = image.fp.tell()
    image.fp.seek(0)
    try:
        again = type(image)(image.fp, image.filename)
        if image.tell():
            again.seek(image.tell())
        again.tile = [_with_raw_mode(tile, change) for tile in again.tile]
        again.load()
        return np.asarray(again)
    finally:
        image.fp.seek(position)


def _with_raw_mode(tile: Any, change: Callable[[str], str]) -> Any:
    if isinstance(tile.args, str):
        return tile._replace(args=change(tile.args))
    return tile._replace(args=(change(tile.args[0]), *tile.args[1:]))


def _nearest(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """The two bytes of 16 bits → round(value / 257): as value = 257 high + (low - high), high or a neighbour."""
    found = np.array(high)
    for top in range(0, len(high), BLOCK):
        rows = slice(top, top + BLOCK)
        more = low[rows].astype(np.int16) - high[rows]
        found[rows] += (more > 128).astype(np.uint8)
        found[rows] -= (more < -128).astype(np.uint8)
    return found


def _divided(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """16 bits of colours that were multiplied by alpha → 8 bits of the colours and alpha."""
    found = np.empty_like(high)
    for top in range(0, len(high), BLOCK):
        rows = slice(top, top + BLOCK)
        values = high[rows].astype(np.uint32) * 256 + low[rows]
        colours, alpha = values[:, :, :3], np.maximum(values[:, :, 3:], 1)
        found[rows, :, :3] = np.minimum((colours * 255 + alpha // 2) // alpha, 255)
        found[rows, :, 3] = (values[:, :, 3] + 128) // 257
    return found


def _of_jpeg2000(image: OfFile, name: str, bits: int) -> tuple[np.ndarray, str]:
    """By imagecodecs: of Pillow's own rounding white overflows and comes out black."""
    try:
        imagecodecs = importlib.import_module("imagecodecs")
    except ImportError as error:
        raise InvalidInput(
            f"{name}: has {bits} bits a channel, of which Pillow makes wrong colours; pip install 'slimcodec[deep]'"
        ) from error
    values = imagecodecs.jpeg2k_decode(_head(image, -1))
    if values.dtype.kind != "u" or values.shape[:2] != (image.height, image.width) or len(set(_precisions(image))) > 1:
        raise InvalidInput(_unsaid(name, "channels of different kinds"))
    mode = image.mode if image.mode == "CMYK" else MODE_OF_CHANNELS[values.shape[2]]
    return _rounded(values, (1 << bits) - 1), mode


# --- transparency ---------------------------------------------------------------------------------------------------


def _key(image: OfFile) -> Any:
    """A PNG's transparent colour in the 8 bits to which Pillow spreads fewer; None: it is right as it is.

    Of the key's own 16 bits only as many count as a sample has.
    """
    bits = {"L;2": 2, "L;4": 4, "L": 8, "RGB": 8}.get(_raw_mode(image))
    key = image.info.get("transparency")
    if _format(image) != "PNG" or bits is None or not isinstance(key, int | tuple):
        return None
    most = (1 << bits) - 1
    if isinstance(key, int):
        return (key & most) * 255 // most
    return tuple(value & most for value in key)


def _rekeyed(image: Image.Image, key: Any) -> Image.Image:
    found = image.copy()
    found.info["transparency"] = key
    return found


def _with_info(found: Image.Image, image: Image.Image) -> Image.Image:
    """With what came with the image, but a key for transparency, which belonged to its deeper values."""
    found.info = {key: value for key, value in image.info.items() if key != "transparency"}
    found.filename = getattr(image, "filename", "")  # type: ignore[attr-defined]  # for what is said of it later
    return found
