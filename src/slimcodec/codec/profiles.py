"""What comes with a picture and is no pixel: EXIF, XMP and the colours' meaning, as bytes of their own."""

import contextlib
import struct
import warnings
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from slimcodec.codec.chunks import MAX_PROFILE_BYTES

EXIF_MARKER = b"Exif\0\0"  # JPEG puts it before EXIF's TIFF structure, and Pillow does as JPEG

# TIFF tags that say how a file is laid out, or hold what has a chunk of its own: they are wrong in any other file.
STRUCTURE = {
    *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266),  # from NewSubfileType to FillOrder
    *(273, 274, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291, 292, 293, 297),  # strips, orientation, fax
    *(317, 320, 321, 322, 323, 324, 325, 326, 327, 328, 330, 332, 333, 334, 336, 337, 338, 339, 340, 341, 342),
    *(343, 344, 345, 346, 347, 351, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 559),
    *(700, 33723, 34377, 34675, 34908, 34909, 34910, 37724),  # XMP, IPTC, Photoshop's blocks, ICC, fax, layers
}
IFDS = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo

SRGB_GAMMA = 1 / 2.2
SRGB_CHROMATICITIES = 0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06  # white, red, green, blue: x and y of each
GAMMA_TOLERANCE, CHROMATICITY_TOLERANCE = 0.02, 0.005  # what no eye sees: writers round
D50 = np.array([0.9642, 1.0, 0.8249])  # the white of every ICC profile
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


# --- EXIF and XMP ---------------------------------------------------------------------------------------------------


def exif(image: Image.Image) -> bytes | None:
    """EXIF's TIFF structure as it came, without JPEG's marker; None if it has no tags or cannot be read."""
    try:
        tags = image.getexif()
    except Exception:  # Pillow's parser raises all sorts of things
        return None
    data = image.info.get("exif")
    if not data and image.format == "TIFF":
        return _of_tiff(tags)
    if not data and "Raw profile type exif" in image.info:  # as text in a PNG of ImageMagick's
        data = tags.tobytes()
    return data.removeprefix(EXIF_MARKER) if data and len(tags) else None


def _of_tiff(tags: Image.Exif) -> bytes | None:
    """A TIFF's own tags → EXIF of those that describe the picture, with its EXIF, interoperability and GPS IFDs."""
    found = Image.Exif()
    for tag in set(tags) - STRUCTURE - set(IFDS):
        _keep(found, tag, tags)
    for tag in set(IFDS) & set(tags):
        entries = dict(tags.get_ifd(tag))
        if ExifTags.IFD.Interop in entries:
            entries[ExifTags.IFD.Interop] = tags.get_ifd(ExifTags.IFD.Interop)
        if entries:
            _keep(found, tag, {tag: entries})
    return found.tobytes().removeprefix(EXIF_MARKER) if len(found) else None


def _keep(found: Image.Exif, tag: int, tags: Any) -> None:
    """Take a tag over if it can be written: one damaged tag must not cost the others."""
    with contextlib.suppress(Exception):
        trial = Image.Exif()
        trial[tag] = tags[tag]
        trial.tobytes()
        found[tag] = tags[tag]


def xmp(image: Image.Image) -> bytes | None:
    """The XMP packet of a JPEG, PNG, TIFF, WebP or AVIF."""
    data = image.info.get("xmp")
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogateescape")
    return data if isinstance(data, bytes) and data else None


def small(data: bytes | None, kind: str, name: str) -> bytes | None:
    """The data if a .slim file can hold it; else None, with a warning: it must not cost the picture."""
    if data is None or len(data) <= MAX_PROFILE_BYTES:
        return data
    left_out = f"its {kind} of {len(data):,} bytes is left out, the limit is {MAX_PROFILE_BYTES:,}"
    warnings.warn(f"{name}: {left_out}", stacklevel=2)
    return None


# --- colours --------------------------------------------------------------------------------------------------------


def icc(image: Image.Image, grey: bool, name: str) -> bytes | None:
    """The ICC profile that describes such pixels: the image's own, or one that says what a PNG's gAMA and cHRM say.

    None for sRGB without a profile. A profile of another colour space, by its bytes 16..20, does not fit and is None.
    """
    own = image.info.get("icc_profile")
    if own:
        return own if isinstance(own, bytes) and own[16:20] == (b"GRAY" if grey else b"RGB ") else None
    if "srgb" in image.info:
        return None
    return _of_png(image.info.get("gamma"), image.info.get("chromaticity"), grey, name)


def _of_png(gamma: float | None, chromaticities: tuple[float, ...] | None, grey: bool, name: str) -> bytes | None:
    gamma = SRGB_GAMMA if gamma is None else gamma
    chromaticities = SRGB_CHROMATICITIES if chromaticities is None else chromaticities
    off = np.abs(np.subtract(chromaticities, SRGB_CHROMATICITIES)[: 2 if grey else None]).max()
    if abs(gamma / SRGB_GAMMA - 1) <= GAMMA_TOLERANCE and off <= CHROMATICITY_TOLERANCE:
        return None
    try:
        return profile(gamma, chromaticities, grey)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError, struct.error):
        warnings.warn(f"{name}: its gAMA and cHRM describe no colours that there are, taken as sRGB", stacklevel=2)
        return None


def profile(gamma: float, chromaticities: tuple[float, ...], grey: bool) -> bytes:
    """An ICC profile (version 2.1, matrix and curve) of pixels that are light to the power of `gamma`.

    `chromaticities`: x and y of white, red, green and blue, as in PNG's cHRM. Raises ValueError, ZeroDivisionError,
    LinAlgError or struct.error if they describe no colours.
    """
    if not 0.1 <= gamma <= 10:
        raise ValueError(f"gamma {gamma}")
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 / gamma))
    tags = {b"desc": _description("gAMA and cHRM of a PNG"), b"cprt": b"text\0\0\0\0No copyright\0", b"wtpt": _xyz(D50)}
    if grey:
        tags[b"kTRC"] = curve
    else:
        columns = zip((b"rXYZ", b"gXYZ", b"bXYZ"), _primaries(chromaticities).T, strict=True)
        tags |= {name: _xyz(column) for name, column in columns}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _assembled(tags, b"GRAY" if grey else b"RGB ")


def _primaries(chromaticities: tuple[float, ...]) -> np.ndarray:
    """cHRM → [3, 3], the XYZ of red, green and blue in columns, adapted from their own white to D50 as ICC asks."""
    white, *primaries = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in np.reshape(chromaticities, (4, 2)).tolist())
    columns = np.stack(primaries, axis=1)
    columns = columns * np.linalg.solve(columns, white)
    adapted = np.linalg.solve(BRADFORD, np.diag(BRADFORD @ D50 / (BRADFORD @ white)) @ BRADFORD)
    found = adapted @ columns
    if not np.isfinite(found).all() or abs(np.linalg.det(found)) < 1e-4:
        raise ValueError("primaries that lie on a line")
    return found


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in values.tolist()))


def _description(text: str) -> bytes:
    ascii = text.encode("ascii") + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(ascii)) + ascii + bytes(4 + 4 + 2 + 1 + 67)


def _assembled(tags: dict[bytes, bytes], space: bytes) -> bytes:
    """Header (128 bytes), table of tags, and the tags at multiples of four; equal ones lie there once."""
    at, places, body = 132 + 12 * len(tags), {}, b""
    for data in dict.fromkeys(tags.values()):
        places[data] = at + len(body)
        body += data + bytes(-len(data) % 4)
    table = b"".join(struct.pack(">4sII", name, places[data], len(data)) for name, data in tags.items())
    date = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    white = struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)  # D50 in the digits that the standard gives
    fields = struct.pack(">4sI4s4s4s12s4s", bytes(4), 0x02100000, b"mntr", space, b"XYZ ", date, b"acsp")
    header = struct.pack(">I", at + len(body)) + fields + bytes(28) + white + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body
