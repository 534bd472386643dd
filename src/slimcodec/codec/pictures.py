"""Pictures as they come, and as they go: any PIL mode or uint8 array ↔ three channels, alpha, ICC and EXIF."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from io import BytesIO
from os import PathLike
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from slimcodec import InvalidInput, SlimcodecError

LAZY_PIXELS = 1 << 22  # of an image with more, pixels are copied when they are needed, as far as they are
MAX_SIDE = 65535  # pixels; what the header of a .slim file can say
ORIENTATION = 0x0112  # EXIF's tag
EXIF_MARKER = b"Exif\0\0"  # JPEG puts it before EXIF's TIFF structure, and Pillow does as JPEG

# PIL modes and the one of L, LA, RGB, RGBA that loses nothing of them.
MODES = {
    "1": "L",
    "L": "L",
    "LA": "LA",
    "La": "LA",
    "P": "RGB",
    "PA": "RGBA",
    "RGB": "RGB",
    "RGBX": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "HSV": "RGB",
    "CMYK": "RGB",
}
KEYED = "1", "L", "P", "RGB"  # modes in which a colour may stand for transparency


class Picture(NamedTuple):
    """A picture the right way up. The arrays may be the caller's own, and read-only."""

    pixels: "np.ndarray | LazyPixels"  # uint8 [H, W, 3], C-contiguous; three times the same channel when it is grey
    grey: bool
    alpha: "np.ndarray | LazyPixels | None"  # uint8 [H, W], C-contiguous
    icc: bytes | None  # a profile of grey or of RGB, whichever the pixels are
    exif: bytes | None  # a TIFF structure, without orientation and without JPEG's marker


def from_picture(picture: Image.Image | np.ndarray, *, strip: bool = False) -> Picture:
    """A PIL image, or uint8 [H, W] (grey), [H, W, 3] (RGB) or [H, W, 4] (RGBA) → `Picture`.

    EXIF's orientation is applied. 16 bits are rounded to 8, with a warning. CMYK becomes sRGB by its own profile. An
    alpha channel is kept even where it is opaque everywhere: the mode comes back as it was. `strip` drops ICC and EXIF.

    Raises InvalidInput for anything else, for damaged data, and for sides of 0 or more than `MAX_SIDE` pixels.
    """
    found = _from_image(picture) if isinstance(picture, Image.Image) else _from_array(_array(picture))
    return found._replace(icc=None, exif=None) if strip else found


def to_image(picture: Picture) -> Image.Image:
    """The PIL image, of mode L, LA, RGB or RGBA, with `info["icc_profile"]` and `info["exif"]` where there are any."""
    height, width, _ = picture.pixels.shape
    canvas = Canvas((height, width), grey=picture.grey, alpha=picture.alpha is not None)
    canvas.paste(np.asarray(picture.pixels), 0, 0)
    if picture.alpha is not None:
        canvas.set_alpha([np.asarray(picture.alpha).tobytes()], width, 0, 0)
    return canvas.finish(picture.icc, picture.exif)


class Canvas:
    """The PIL image of mode L, LA, RGB or RGBA that decoded windows are put on: no second copy of it is ever made."""

    def __init__(self, shape: tuple[int, int], *, grey: bool, alpha: bool):
        self.grey = grey
        self.image = Image.new(("L" if grey else "RGB") + ("A" if alpha else ""), shape[::-1])

    def paste(self, pixels: np.ndarray, top: int, left: int) -> None:
        """uint8 [h, w, 3]."""
        piece = Image.fromarray(_nearest_grey(pixels) if self.grey else pixels)
        self.image.paste(piece.convert(self.image.mode), (left, top))

    def set_alpha(self, rows: Iterable[bytes], width: int, top: int, left: int) -> None:
        """Alpha of a picture of that width, whole rows from its top, of which the canvas begins at top and left."""
        at = -top
        for piece in rows:
            values = np.frombuffer(piece, np.uint8).reshape(-1, width)[:, left : left + self.image.width]
            first, end = max(at, 0), min(at + len(values), self.image.height)
            if first < end:
                part = self.image.crop((0, first, self.image.width, end))
                part.putalpha(Image.fromarray(np.ascontiguousarray(values[first - at : end - at])))
                self.image.paste(part, (0, first))
            at += len(values)

    def finish(self, icc: bytes | None, exif: bytes | None) -> Image.Image:
        self.image.info |= metadata(icc, exif)
        return self.image


def metadata(icc: bytes | None, exif: bytes | None) -> dict[str, bytes]:
    """Profile and EXIF as `Picture` has them → as Pillow has them in `Image.info`."""
    found = {"icc_profile": icc, "exif": exif and EXIF_MARKER + exif}
    return {key: value for key, value in found.items() if value}


def open_picture(source: str | PathLike | BinaryIO) -> Image.Image:
    """A picture file, by its path or open, → the PIL image with its pixels read; of an animation the first.

    Raises InvalidInput, naming the file, when it is missing, no picture, damaged or suspiciously large.
    """
    name = file_name(source)
    if hasattr(source, "read") and not source.seekable():
        source = BytesIO(source.read())
    with _reading(name), Image.open(source) as image:
        image.load()
        # Phones append a depth map or a gain map to a JPEG (MPO): nobody misses it in a .slim file.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            warnings.warn(f"{name}: only the first of its {image.n_frames} frames is used", stacklevel=2)
    return image


def file_name(source: Any, unnamed: str = "the file") -> str:
    """What messages call a path or an open file."""
    name = getattr(source, "name", None) if hasattr(source, "read") or hasattr(source, "write") else source
    return str(name) if isinstance(name, str | PathLike) else unnamed


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Whatever Pillow raises as one line that names the file: on damaged data its readers raise all sorts of things."""
    try:
        yield
    except (SlimcodecError, Warning):
        raise
    except UnidentifiedImageError as error:
        raise InvalidInput(f"{name}: is not a picture, or of a format that Pillow does not know") from error
    except Image.DecompressionBombError as error:
        raise InvalidInput(f"{name}: {error} If you trust it, raise PIL.Image.MAX_IMAGE_PIXELS") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InvalidInput(f"{name}: cannot be read ({error.strerror})") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInput(f"{name}: is not a picture that can be read ({reason}); the file may be damaged") from error


def _from_image(image: Image.Image) -> Picture:
    name = getattr(image, "filename", "") or "the picture"
    _check_size(image.height, image.width)
    with _reading(name):
        image.load()
        image = _upright(image)
        exif, icc = _exif(image), image.info.get("icc_profile")
        image = _standard(image, name)
        pixels, alpha = _split(image)
    grey = image.mode in ("L", "LA")
    return Picture(pixels, grey, alpha, _fitting(icc, grey), exif)


def _upright(image: Image.Image) -> Image.Image:
    """The picture as EXIF says that it is to be seen, and EXIF without saying so; itself if nothing has to be done."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # EXIF that cannot be read; the picture can
        return image
    if orientation == 1:
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the other tags cannot be written again: do without them
        image = image.copy()
        image.info.pop("exif", None)
        image.getexif()[ORIENTATION] = orientation
        return ImageOps.exif_transpose(image)


def _exif(image: Image.Image) -> bytes | None:
    """EXIF's TIFF structure as it came; None if it has no tags or cannot be read."""
    try:
        tags = image.getexif()
    except Exception:
        return None
    data = image.info.get("exif")
    if not data and "Raw profile type exif" in image.info:  # as text in a PNG of ImageMagick's
        data = tags.tobytes()
    return data.removeprefix(EXIF_MARKER) if data and len(tags) else None


def _standard(image: Image.Image, name: str) -> Image.Image:
    """The image in mode L, LA, RGB or RGBA; itself if it is already."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bits(image, name)
    if image.mode not in MODES:
        raise InvalidInput(f"{name}: has PIL mode {image.mode}; turn it into 8 bits a channel, 0..255, first")
    mode = MODES[image.mode]
    if image.mode in KEYED and image.has_transparency_data:
        mode += "A"
    if image.mode == "CMYK":
        image = _without_ink(image)
    return image if image.mode == mode else image.convert(mode)


def _from_16_bits(image: Image.Image, name: str) -> Image.Image:
    """Grey of 16 bits (PIL's I;16 and its variants, and I in that range) → L, each value rounded to 255ths of white."""
    values = np.asarray(image)
    if image.mode == "I":
        if values.min() < 0 or values.max() > 65535:
            raise InvalidInput(
                f"{name}: has PIL mode I and values outside 0..65535; turn it into 8 bits, 0..255, first"
            )
        if values.max() <= 255:  # 8 bits in a wide mode, as `convert("I")` makes them
            return Image.fromarray(values.astype(np.uint8))
    warnings.warn(f"{name}: has 16 bits a channel, rounded to 8", stacklevel=2)
    eight_bits = ((np.arange(65536) + 128) // 257).astype(np.uint8)
    return Image.fromarray(eight_bits[values])


def _without_ink(image: Image.Image) -> Image.Image:
    """CMYK → sRGB by the profile inside; without one, or with one that cannot be used, by Pillow's rule of thumb."""
    profile = image.info.get("icc_profile") or b""
    if profile[16:20] == b"CMYK":
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ImportError):
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, BytesIO(profile), srgb, outputMode="RGB")
    return image.convert("RGB")


def _split(image: Image.Image) -> tuple["np.ndarray | LazyPixels", "np.ndarray | LazyPixels | None"]:
    """An image of a standard mode → uint8 [H, W, 3] and alpha, uint8 [H, W]; big ones are not copied."""
    big = image.width * image.height > LAZY_PIXELS
    colours, alpha = LazyPixels(image), LazyPixels(image, alpha=True) if image.mode.endswith("A") else None
    if big:
        return colours, alpha
    return np.asarray(colours), None if alpha is None else np.asarray(alpha)


class LazyPixels:
    """The colours of an image of mode L, LA, RGB or RGBA, or its alpha: an array as far as it is sliced."""

    dtype = np.dtype(np.uint8)

    def __init__(self, image: Image.Image, *, alpha: bool = False):
        self.image, self.alpha = image, alpha
        self.shape = (image.height, image.width) if alpha else (image.height, image.width, 3)

    def __getitem__(self, at: slice | tuple[slice, slice]) -> np.ndarray:
        """Rows, or rows and columns, both as slices without a step → uint8 [h, w, 3] or [h, w], C-contiguous."""
        rows, columns = at if isinstance(at, tuple) else (at, slice(None))
        top, bottom, _ = rows.indices(self.image.height)
        left, right, _ = columns.indices(self.image.width)
        if (left, top, right, bottom) == (0, 0, *self.image.size):
            return self._values(self.image)
        return self._values(self.image.crop((left, top, max(left, right), max(top, bottom))))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def _values(self, part: Image.Image) -> np.ndarray:
        if self.alpha:
            return np.asarray(part.getchannel("A"))
        if part.mode in ("L", "LA"):
            return _three(np.asarray(part if part.mode == "L" else part.getchannel("L")))
        rgb = part.tobytes("raw", "RGB")  # of RGBA, too: without a copy of the image in between
        return np.frombuffer(rgb, np.uint8).reshape(part.height, part.width, 3)


def _three(grey: np.ndarray) -> np.ndarray:
    """uint8 [H, W] → [H, W, 3]."""
    return np.repeat(grey[:, :, None], 3, axis=2)


def _fitting(icc: Any, grey: bool) -> bytes | None:
    """The profile if it describes such pixels: its bytes 16..20 name its colour space."""
    return icc if isinstance(icc, bytes) and icc[16:20] == (b"GRAY" if grey else b"RGB ") else None


def _array(picture: Any) -> np.ndarray:
    """The picture if it is an array that can be one."""
    if type(picture).__module__.partition(".")[0] == "torch":
        raise InvalidInput("the picture is a torch tensor: pass it as a uint8 numpy array [height, width, 3], 0..255")
    if not isinstance(picture, np.ndarray):
        kind = type(picture).__name__
        raise InvalidInput(f"the picture is of type {kind}: it must be a PIL image or a uint8 array [height, width, 3]")
    if picture.dtype.kind == "f":
        raise InvalidInput(
            f"the picture is an array of {picture.dtype}: turn it into uint8, 0..255, first "
            "(values of 0..1 times 255, rounded, no NaN or infinity)"
        )
    if picture.dtype != np.uint8:
        raise InvalidInput(f"the picture is an array of {picture.dtype}: it must be uint8, 0..255")
    if picture.ndim != 2 and (picture.ndim != 3 or picture.shape[2] not in (3, 4)):
        raise InvalidInput(
            f"the picture is an array of shape {picture.shape}: it must be [height, width], "
            "[height, width, 3] or [height, width, 4]"
        )
    return picture


def _from_array(array: np.ndarray) -> Picture:
    _check_size(*array.shape[:2])
    if array.ndim == 2:
        return Picture(_three(array), True, None, None, None)
    alpha = np.ascontiguousarray(array[:, :, 3]) if array.shape[2] == 4 else None
    return Picture(np.ascontiguousarray(array[:, :, :3]), False, alpha, None, None)


def _check_size(height: int, width: int) -> None:
    if height == 0 or width == 0:
        raise InvalidInput(f"the picture has no pixels: it is {width} x {height}")
    if max(height, width) > MAX_SIDE:
        raise InvalidInput(f"the picture has {width} x {height} pixels, a side may have {MAX_SIDE}; cut it into parts")


def _nearest_grey(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] → the channels' mean, uint8 [H, W].

    Not luma: the mean is the grey picture nearest to the decoded one, and the original is grey, so it can only come
    closer to it. Luma weights would let through more of green's error.
    """
    total = pixels[:, :, 0].astype(np.uint16)
    total += pixels[:, :, 1]
    total += pixels[:, :, 2]
    return ((total + 1) // 3).astype(np.uint8)
