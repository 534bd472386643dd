"""`import slimcodec.pillow`: Pillow opens and saves .slim files.

    Image.open("photo.slim")                     # reads the header; load(), or whatever needs pixels, decodes
    picture.save("photo.slim", target_bpp=0.5)   # the settings are those of Codec.compress, model= and device=

Which model is taken is said in codec/files. A file is written whole or not at all, as said in codec/atomic.
"""

import os
from functools import wraps
from threading import Lock
from typing import Any, BinaryIO

from PIL import Image, ImageFile

from slimcodec import InvalidFile
from slimcodec.codec import bitstream
from slimcodec.codec.atomic import write_all, writing
from slimcodec.codec.files import compress, decompress, mode_of
from slimcodec.codec.pictures import MAX_SIDE, metadata

FORMAT, MIME_TYPE = "SLIM", "image/x-slim"
SETTINGS = "quality", "target_bpp", "max_bytes", "target_psnr_db", "scale", "effort"
SETTINGS += "strip", "tile", "model", "device"
HEAD_BYTES = 1 << 16  # read at first; the chunks may need more


class SlimImageFile(ImageFile.ImageFile):
    """A .slim file whose pixels are decoded when they are needed.

    Opening raises UnidentifiedImageError when the header is wrong; loading raises InvalidFile for a damaged file, and
    for a truncated one unless `ImageFile.LOAD_TRUNCATED_IMAGES` is set.
    """

    format, format_description = FORMAT, "slimcodec"

    def _open(self) -> None:
        self._loading = Lock()
        try:
            contents = _head(self.fp)
            self.info.update(metadata(*map(contents.chunk, ("icc", "exif", "xmp"))))
        except InvalidFile as error:
            raise SyntaxError(str(error)) from error  # which is how Pillow is told to try another format
        self._size = contents.header.width, contents.header.height
        self._mode = mode_of(contents)

    def load(self) -> Any:
        if self._im is None:
            with self._loading:  # threads may share the image: one decodes, the others wait
                self._decode()
        return super().load()

    def _decode(self) -> None:
        if self._im is not None or self.fp is None:
            return
        self.fp.seek(0)
        picture = decompress(self.fp.read(), max_pixels=_max_pixels(), allow_partial=ImageFile.LOAD_TRUNCATED_IMAGES)
        self.readonly = picture.readonly
        self.im = picture.im  # last, for now it is loaded
        if self._exclusive_fp:
            self.fp.close()
        self.fp = None

    def verify(self) -> None:
        """Raises InvalidFile for a damaged or truncated file; nothing is decoded."""
        self.fp.seek(0)
        bitstream.unpack(self.fp.read(), max_pixels=MAX_SIDE**2)
        super().verify()


def _max_pixels() -> int:
    """Pillow warns at its limit and refuses, of any format, what is twice as large; None is no limit."""
    return MAX_SIDE**2 if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def _head(file: BinaryIO) -> bitstream.Contents:
    """A file's contents up to its streams, which are left out: reading no more than it takes."""
    data = b""
    while True:
        more = file.read(max(HEAD_BYTES, len(data)))
        data += more
        try:
            # Without its last byte a file is a partial one, whose checksum is not tested: that is for load().
            return bitstream.unpack(data[:-1], max_pixels=MAX_SIDE**2, allow_partial=True)
        except InvalidFile:
            if not more:
                raise


def _save(image: Image.Image, file: BinaryIO, filename: str | bytes) -> None:
    given = image.encoderinfo
    profiles = {key: given[key] for key in ("icc_profile", "exif", "xmp") if key in given}
    if profiles:  # Pillow's way to save others than those that the picture came with
        image = image.copy()
        image.info |= {key: value.tobytes() if hasattr(value, "tobytes") else value for key, value in profiles.items()}
    write_all(file, compress(image, **{name: given[name] for name in SETTINGS if name in given}))


def _whole_or_none(save: Any) -> Any:
    """`Image.save`, but a .slim file that is there already outlives whatever goes wrong, as a wrong setting.

    Pillow empties the file before it asks the plugin for anything, so a plugin cannot do this from inside. All other
    formats are saved as ever.
    """

    @wraps(save)
    def whole_or_none(self: Image.Image, fp: Any, format: str | None = None, **params: Any) -> None:
        if not isinstance(fp, str | bytes | os.PathLike) or not _is_slim(fp, format):
            return save(self, fp, format, **params)
        with writing(fp) as file:
            return save(self, file, FORMAT, **params)

    whole_or_none.is_whole_or_none = True
    return whole_or_none


def _is_slim(path: str | bytes | os.PathLike, format: str | None) -> bool:
    suffix = os.path.splitext(os.fsdecode(path))[1].lower()
    return (format or Image.EXTENSION.get(suffix, "")).upper() == FORMAT


Image.register_open(FORMAT, SlimImageFile, lambda prefix: prefix.startswith(bitstream.MAGIC))
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, bitstream.EXTENSION)
Image.register_mime(FORMAT, MIME_TYPE)
if not hasattr(Image.Image.save, "is_whole_or_none"):  # a module that is loaded anew must not wrap twice
    Image.Image.save = _whole_or_none(Image.Image.save)
