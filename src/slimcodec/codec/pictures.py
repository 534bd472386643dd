"""Pictures as they come, and as they go: any PIL mode or uint8 array ↔ three channels, alpha, ICC, EXIF and XMP."""

import contextlib
import threading
import warnings
from collections.abc import Iterable, Iterator
from functools import cached_property
from io import BytesIO
from os import PathLike
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from slimcodec import InvalidInput, SlimcodecError
from slimcodec.codec import depth, profiles
from slimcodec.codec.profiles import EXIF_MARKER

if TYPE_CHECKING:
    import torch

# What `from_picture` takes: an image, an array or tensor of uint8, the path of a picture file, or its bytes.
AnyPicture: TypeAlias = "Image.Image | np.ndarray | torch.Tensor | str | PathLike | bytes"
LAZY_PIXELS = 1 << 22  # of an image with more, pixels are copied when they are needed, as far as they are
MAX_SIDE = 65535  # pixels; what the header of a .slim file can say
ORIENTATION = 0x0112  # EXIF's tag

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
_LIMITING = threading.Lock()  # Pillow's limit on pixels is one for all threads


class Picture(NamedTuple):
    """A picture the right way up. The arrays may be the caller's own, and read-only."""

    pixels: "np.ndarray | LazyPixels"  # uint8 [H, W, 3], C-contiguous; three times the same channel when it is grey
    grey: bool
    alpha: "np.ndarray | LazyPixels | None"  # uint8 [H, W], C-contiguous
    icc: bytes | None  # a profile of grey or of RGB, whichever the pixels are
    exif: bytes | None  # a TIFF structure, without orientation and without JPEG's marker
    xmp: bytes | None = None  # a packet


def from_picture(picture: AnyPicture, *, strip: bool = False) -> Picture:
    """A PIL image, or uint8 [H, W] (grey), [H, W, 3] (RGB) or [H, W, 4] (RGBA) → `Picture`.

    A tensor of PyTorch's is [H, W], [1, H, W] or [3, H, W]. A path is of a picture file, bytes are its own.

    EXIF's orientation is applied. CMYK becomes sRGB by its own profile. A PNG's gAMA and cHRM become a profile.
    An alpha channel is kept even where it is opaque everywhere: the mode comes back as it was. `strip` drops ICC, EXIF
    and XMP.

    More than 8 bits a channel are rounded to 8, with a warning. White is what the image's file says (bits a sample,
    maxval). An image of mode I;16 or I that comes from no file is taken as 16 bits: 65535 is white, whatever its values
    are. The colours of a file whose pixels Pillow has read already are the 8 bits that it left of them.

    Raises InvalidInput for anything else, for damaged data, and for sides of 0 or more than `MAX_SIDE` pixels.
    """
    if isinstance(picture, str | PathLike | bytes | bytearray | memoryview):
        picture = open_picture(picture if isinstance(picture, str | PathLike) else BytesIO(picture))
    found = _from_image(picture) if isinstance(picture, Image.Image) else _from_array(_array(picture))
    return found._replace(icc=None, exif=None, xmp=None) if strip else found


def to_image(picture: Picture) -> Image.Image:
    """The PIL image, of mode L, LA, RGB or RGBA, with `info`'s icc_profile, exif and xmp where there are any."""
    height, width, _ = picture.pixels.shape
    canvas = Canvas((height, width), grey=picture.grey, alpha=picture.alpha is not None)
    canvas.paste(np.asarray(picture.pixels), 0, 0)
    if picture.alpha is not None:
        canvas.set_alpha([np.asarray(picture.alpha).tobytes()], width, 0, 0)
    return canvas.finish(picture.icc, picture.exif, picture.xmp)


class Canvas:
    """The PIL image of mode L, LA, RGB or RGBA that decoded windows are put on: no second copy of it is ever made."""

    def __init__(self, shape: tuple[int, int], *, grey: bool, alpha: bool):
        self.grey, self.shape = grey, shape
        self.mode = ("L" if grey else "RGB") + ("A" if alpha else "")

    @cached_property
    def image(self) -> Image.Image:
        """Made for the first window: a damaged file must be refused before it takes memory."""
        return Image.new(self.mode, self.shape[::-1])

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

    def finish(self, icc: bytes | None, exif: bytes | None, xmp: bytes | None) -> Image.Image:
        self.image.info |= metadata(icc, exif, xmp)
        return self.image


def metadata(icc: bytes | None, exif: bytes | None, xmp: bytes | None = None) -> dict[Any, bytes]:
    """Profile, EXIF and XMP as `Picture` has them → as Pillow has them in `Image.info`."""
    found = {"icc_profile": icc, "exif": exif and EXIF_MARKER + exif, "xmp": xmp}
    return {key: value for key, value in found.items() if value}


def open_picture(source: str | PathLike | BinaryIO, max_pixels: int | None = None) -> Image.Image:
    """A picture file, by its path or open, → the PIL image with its pixels read: of several frames the first.

    Its pixels have 8 bits a channel; `from_picture` says what becomes of more. `max_pixels` takes the place of Pillow's
    limit on the size, `PIL.Image.MAX_IMAGE_PIXELS`, above whose double it refuses a picture.

    Raises InvalidInput, naming the file, when it is missing, no picture, damaged or suspiciously large.
    """
    name = file_name(source)
    if not isinstance(source, str | PathLike) and hasattr(source, "read") and not source.seekable():
        source = BytesIO(source.read())
    with _limit(max_pixels), _reading(name), Image.open(source) as image:
        _check_pixels(image, max_pixels)
        _warn_of_frames(image, name)
        found = depth.read(image, name)
        if found.format is None or found.format == "TIFF":  # while its file is open: that is where a TIFF's tags are
            exif = profiles.exif(image)
            found.info |= metadata(None, exif)
    return found


@contextlib.contextmanager
def _limit(max_pixels: int | None) -> Iterator[None]:
    """Pillow's limit raised for a while. It is Pillow's alone to ask, and one for all threads: meanwhile others find it
    higher, too. So calls that raise it wait for each other, and what they put back is what was there.
    """
    if max_pixels is None:
        yield
        return
    if not isinstance(max_pixels, int) or max_pixels < 1:
        raise InvalidInput(f"max_pixels {max_pixels!r}: must be a whole number from 1")
    with _LIMITING:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_SIDE**2
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _check_pixels(image: Image.Image, max_pixels: int | None) -> None:
    """Within `_limit`, which this makes as tight as it can be for what follows."""
    if max_pixels is None:
        return
    if image.width * image.height > max_pixels:
        raise Image.DecompressionBombError(
            f"the picture has {image.width} x {image.height} pixels, more than the limit of {max_pixels:,}."
        )
    Image.MAX_IMAGE_PIXELS = max_pixels


def _warn_of_frames(image: Image.Image, name: str) -> None:
    """Phones append a depth map or a gain map to a JPEG (MPO): nobody misses it in a .slim file."""
    frames = 1 if image.format == "MPO" else _frames(image)
    if frames == 1:
        return
    used = f"only the first of its {frames or 'several'} frames is used"
    if image.format == "PSD":
        used = f"its merged picture is used, without its {frames or 'several'} layers"
    warnings.warn(f"{name}: {used}", stacklevel=3)


def _frames(image: Any) -> int:
    """How many there are; 0: several, but the later ones are damaged.

    Some formats must be gone through to count them, and then the image is not what it was: a second one counts.
    """
    if not isinstance(getattr(type(image), "n_frames", None), property):
        return getattr(image, "n_frames", 1)
    position = image.fp.tell()
    image.fp.seek(0)
    try:
        return max(type(image)(image.fp, image.filename).n_frames, 1)
    except Exception:
        return 0
    finally:
        image.fp.seek(position)


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
        raise InvalidInput(f"{name}: {error} If you trust it, compress takes --max-pixels (max_pixels=)") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InvalidInput(f"{name}: cannot be read ({error.strerror})") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInput(f"{name}: is not a picture that can be read ({reason}); the file may be damaged") from error


def _from_image(image: Image.Image) -> Picture:
    name = getattr(image, "filename", "") or "the picture"
    _check_size(image.height, image.width)
    with _reading(name):
        read = depth.read(image, name)
        upright = _upright(read)
        exif, xmp = profiles.exif(image if image.format == "TIFF" else upright), profiles.xmp(upright)
        standard = _standard(upright, name)
        pixels, alpha = _split(standard)
    grey = standard.mode in ("L", "LA")
    icc = profiles.icc(upright, grey, name)
    kept = zip((icc, exif, xmp), ("ICC profile", "EXIF", "XMP"), strict=True)
    return Picture(pixels, grey, alpha, *(profiles.small(data, kind, name) for data, kind in kept))


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


def _standard(image: Image.Image, name: str) -> Image.Image:
    """The image in mode L, LA, RGB or RGBA; itself if it is already."""
    if image.mode not in MODES:
        raise InvalidInput(f"{name}: has PIL mode {image.mode}; turn it into 8 bits a channel, 0..255, first")
    mode = MODES[image.mode]
    if image.mode in KEYED and image.has_transparency_data:
        mode += "A"
    if image.mode == "CMYK":
        image = _without_ink(image)
    return image if image.mode == mode else image.convert(mode)


def _without_ink(image: Image.Image) -> Image.Image:
    """CMYK → sRGB by the profile inside; without one, or with one that cannot be used, by Pillow's rule of thumb."""
    profile = image.info.get("icc_profile") or b""
    if profile[16:20] == b"CMYK":
        from PIL import ImageCms  # late: hardly any picture needs it

        with contextlib.suppress(ImageCms.PyCMSError, OSError, ImportError):
            srgb = ImageCms.createProfile("sRGB")
            found = ImageCms.profileToProfile(image, BytesIO(profile), srgb, outputMode="RGB")
            return found or image.convert("RGB")
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


def _array(picture: Any) -> np.ndarray:
    """The picture if it is an array that can be one."""
    if hasattr(picture, "detach"):
        return _of_tensor(picture)
    if not isinstance(picture, np.ndarray):
        kind = type(picture).__name__
        raise InvalidInput(
            f"the picture is of type {kind}: it must be a PIL image, a uint8 array [height, width, 3], "
            "or a picture file's path or bytes"
        )
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


def _of_tensor(tensor: "torch.Tensor") -> np.ndarray:
    """PyTorch's order is [channels, height, width]."""
    kind, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    if kind != "uint8" or len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        raise InvalidInput(
            f"the picture is a torch tensor of {kind} and shape {shape}: it must be uint8, 0..255, and "
            "[height, width], or [channels, height, width] with 1 or 3 channels"
        )
    array = tensor.detach().cpu().numpy()
    if array.ndim == 2:
        return array
    return array[0] if len(array) == 1 else np.moveaxis(array, 0, 2)


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
