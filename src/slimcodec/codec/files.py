"""Files: a picture to a .slim file and back, by the model that it needs. What is written is whole, or is not there.

How it is written is said in codec/atomic.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from io import BytesIO
from os import PathLike
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO, NamedTuple, TypeAlias, Unpack

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from slimcodec import InvalidFile, InvalidInput, SlimcodecError
from slimcodec.codec import bitstream, zoo
from slimcodec.codec.atomic import is_stream, writing
from slimcodec.codec.inference import Codec, CompressSettings, DecompressSettings, load
from slimcodec.codec.pictures import MAX_SIDE, AnyPicture, file_name, open_picture

Source: TypeAlias = str | PathLike | BinaryIO  # a path, or a file open in binary
Model: TypeAlias = str | PathLike | Codec | None  # a name, a directory, a loaded codec, or whichever fits

XMP_TAG = 700  # of TIFF
LOADED_MODELS = 4  # that stay in memory for the next file

# Where Pillow's own choice would visibly lose some of what was decoded, or take long for nothing.
SAVE_SETTINGS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 2},  # photos are larger by a fiftieth than at 6, its own, in a third of the time
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 90, "subsampling": "4:4:4"},
}


class Compressed(NamedTuple):
    bytes: int
    width: int  # pixels
    height: int  # pixels
    quality: float  # the one given, or that a target led to
    seconds: float  # from the picture's file to the .slim file, without loading the model
    psnr_db: float | None = None  # on 8-bit RGB, where it was asked for
    scale: float = 1.0  # of width and height, at which the picture was coded

    @property
    def bpp(self) -> float:
        return 8 * self.bytes / (self.width * self.height)


class Decompressed(NamedTuple):
    width: int  # pixels
    height: int  # pixels
    mode: str  # of PIL: L, LA, RGB or RGBA
    seconds: float  # from the .slim file to the picture's file, without loading the model


def compress(
    picture: AnyPicture, *, model: Model = None, device: str = "cpu", **settings: Unpack[CompressSettings]
) -> bytes:
    """A picture → the bytes of a .slim file.

    What `picture` may be, and what `settings` there are, quality, target_bpp, effort and so on, is said at
    `Codec.compress`. `model` and `device` are as in `compress_file`.
    """
    return _codec(model, device, zoo.default_student).compress(picture, **settings)


def decompress(
    data: bytes | str | PathLike,
    *,
    model: Model = None,
    device: str = "cpu",
    **settings: Unpack[DecompressSettings],
) -> Image.Image:
    """The bytes of a .slim file, or its path → the PIL picture.

    `settings` are those of `Codec.decompress`: region, max_pixels, max_memory and allow_partial. `model` and `device`
    are as in `decompress_file`.
    """
    if isinstance(data, str | PathLike):
        with _naming(data):
            return decompress(_read(data), model=model, device=device, **settings)
    codec = _codec(model, device, lambda: zoo.by_hash(_unpack(data, settings).header.model_hash.hex()))
    return codec.decompress(data, **settings)


def compress_file(
    source: Source,
    target: Source,
    *,
    model: Model = None,
    device: str = "cpu",
    max_pixels: int | None = None,
    measure_psnr: bool = False,
    **settings: Unpack[CompressSettings],
) -> Compressed:
    """A picture file → a .slim file. `settings` are those of `Codec.compress`: quality, target_bpp, effort and so on.

    `model` is a name, a directory or a loaded Codec (then `device` is its own); without one it is the default student.
    A model stays loaded for the next file. `max_pixels` takes the place of Pillow's limit on the size. `measure_psnr`
    decodes the file that was made, for `Compressed.psnr_db`.

    Raises InvalidInput, naming the file, for a picture or a setting that cannot be used, and OSError, naming the
    target, when it cannot be written; then there is no target, or the one from before.
    """
    clock = _Clock()
    with _naming(source):
        picture = open_picture(_seekable(source), max_pixels)
    with clock.stopped():
        codec = _codec(model, device, zoo.default_student)
    with writing(target) as file, _naming(source):
        data = codec.compress(picture, **settings)
        file.write(data)
    seconds = clock.seconds
    return _summary(data, seconds, codec.psnr_db(picture, data) if measure_psnr else None)


def decompress_file(
    source: Source,
    target: Source,
    *,
    model: Model = None,
    device: str = "cpu",
    format: str | None = None,
    **settings: Unpack[DecompressSettings],
) -> Decompressed:
    """A .slim file → a picture file. `settings` are those of `Codec.decompress`: region, max_pixels, max_memory
    and allow_partial.

    `format` is Pillow's name of the picture format; without it the target's suffix decides, PNG for an open file and
    for a pipe or device without one.
    `model` is as in `compress_file`; without one it is the installed model whose hash is in the file. ICC, EXIF
    and XMP are written where the format can hold them.

    Raises InvalidFile, naming the file, when it is damaged or its model is not installed; InvalidInput, before the
    work, for a target that no picture, or not this one, can be written to; and OSError as `compress_file`.
    """
    clock = _Clock()
    format = _format(target, format)
    data = _read(source)
    with _naming(source):
        contents = _unpack(data, settings)
    _check_format(format, mode_of(contents), file_name(target))
    with writing(target) as file:
        with _naming(source):
            with clock.stopped():
                codec = _codec(model, device, lambda: zoo.by_hash(contents.header.model_hash.hex()))
            picture = codec.decompress(data, **settings)
        _save(picture, file, format, file_name(target))
    return Decompressed(picture.width, picture.height, picture.mode, clock.seconds)


def mode_of(contents: bitstream.Contents) -> str:
    """The PIL mode of the picture that is in the file."""
    return ("L" if contents.header.grey else "RGB") + ("A" if "alpha" in contents.chunks else "")


@contextlib.contextmanager
def _naming(source: Source) -> Iterator[None]:
    """Put the file's name before what is refused of it, where it is not there yet."""
    try:
        yield
    except (InvalidInput, InvalidFile) as error:
        name = file_name(source, "")
        if str(error).startswith(name):
            raise
        raise type(error)(f"{name}: {error}") from error


class _Clock:
    """How long the work takes."""

    def __init__(self) -> None:
        self.begin = perf_counter()

    @property
    def seconds(self) -> float:
        return perf_counter() - self.begin

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """What is done meanwhile does not count."""
        begin = perf_counter()
        yield
        self.begin += perf_counter() - begin


def _summary(data: bytes, seconds: float, psnr_db: float | None) -> Compressed:
    header = bitstream.unpack(data, max_pixels=MAX_SIDE**2).header
    quality = header.quality / bitstream.QUALITY_ONE
    return Compressed(len(data), header.width, header.height, quality, seconds, psnr_db, header.scale)


def _codec(model: Model, device: str, default: Callable[[], Path]) -> Codec:
    if model is not None and not isinstance(model, str | PathLike):
        return model
    directory = default() if model is None else zoo.find(model)
    with _LOADING:  # threads that want the same model wait for the first of them
        return _loaded(directory.resolve(), zoo.read_description(directory)["weights_sha256"], device)


_LOADING = threading.Lock()


@lru_cache(LOADED_MODELS)
def _loaded(directory: Path, sha256: str, device: str) -> Codec:
    """The codec; the hash is there so that a directory that was written anew is loaded anew."""
    return load(directory, device)


class _Piped(BytesIO):
    name: str


def _seekable(source: Source) -> Source:
    """The source, or all that came through it where that is a pipe or a device: Pillow reads back and forth."""
    if hasattr(source, "read") or not is_stream(source):
        return source
    piped = _Piped(_read(source, InvalidInput))
    piped.name = str(source)
    return piped


def _read(source: Source, refusal: type[SlimcodecError] = InvalidFile) -> bytes:
    try:
        return source.read() if hasattr(source, "read") else Path(source).read_bytes()
    except OSError as error:
        raise refusal(f"{file_name(source)}: cannot be read ({error.strerror or error})") from error


def _unpack(data: bytes, settings: DecompressSettings) -> bitstream.Contents:
    known: dict[str, Any] = {name: settings[name] for name in ("max_pixels", "allow_partial") if name in settings}
    return bitstream.unpack(data, **known)


def _format(target: Source, format: str | None) -> str:
    """Pillow's name of the format to write."""
    wanted = f"is called {format!r}"
    if format is None:
        suffix = "" if hasattr(target, "write") else Path(target).suffix.lower()
        suffix = suffix or (".png" if is_stream(target) else "")
        wanted, format = f"ends in {suffix!r}", _format_of_suffix(suffix)
    format = format.upper()
    if format not in Image.SAVE:
        Image.init()
    if format not in Image.SAVE or format == "SLIM":  # which is one where slimcodec.pillow has been imported
        raise InvalidInput(f"{file_name(target)}: no picture format that Pillow writes {wanted}; try .png")
    return format


def _format_of_suffix(suffix: str) -> str:
    Image.preinit()  # the usual formats: to know all takes a tenth of a cold start
    return Image.EXTENSION.get(suffix) or Image.registered_extensions().get(suffix, "")


def _check_format(format: str, mode: str, name: str) -> None:
    """Try a tiny picture, before the work rather than after it."""
    _save(Image.new(mode, (16, 16)), BytesIO(), format, name)


def _save(picture: Image.Image, file: BinaryIO, format: str, name: str) -> None:
    try:
        picture.save(file, format, **SAVE_SETTINGS.get(format, {}), **_metadata(picture, format))
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InvalidInput(
            f"{name}: a picture of mode {picture.mode} cannot be written as {format} ({error}); try .png"
        ) from error


def _metadata(picture: Image.Image, format: str) -> dict[str, Any]:
    """Those of ICC, EXIF and XMP that the format's writer takes: damaged EXIF must not cost the picture."""
    found: dict[str, Any] = {}
    for key in ("icc_profile", "exif", "xmp"):
        with contextlib.suppress(Exception):  # writers that cannot parse it raise all sorts of things
            settings = {key: picture.info[key]}
            if key == "xmp" and format in ("PNG", "TIFF"):
                settings = _with_xmp(picture.info[key], format, found.get("exif"))
            Image.new(picture.mode, (16, 16)).save(BytesIO(), format, **settings)
            found |= settings
    return found


def _with_xmp(xmp: bytes, format: str, exif: bytes | None) -> dict[str, Any]:
    """What the two writers want that have no setting for XMP: a PNG's text, and a tag among those of EXIF in a TIFF."""
    if format == "PNG":
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        return {"pnginfo": text}
    tags = Image.Exif()
    tags.load(exif or b"")
    tags[XMP_TAG] = xmp
    return {"exif": tags}
