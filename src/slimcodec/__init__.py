"""slimcodec: learned image compression whose decoder costs about 2,000 multiply-accumulates a pixel.

    import slimcodec
    codec = slimcodec.load("slim-2k")               # a name in students/ or teachers/, or a model directory
    data = codec.compress(picture, quality=4)       # PIL picture -> bytes
    picture = codec.decompress(data)                # bytes -> PIL picture
    slimcodec.compress_file("photo.jpg", "photo.slim", quality=4)
    slimcodec.decompress_file("photo.slim", "photo.png")

Importing the package is light: torch and numba are imported when a model is first loaded.
"""

import os
import sys
from importlib import import_module

__version__ = "0.1.0"
__all__ = [
    "Codec",
    "InvalidFile",
    "InvalidInput",
    "InvalidModel",
    "SlimcodecError",
    "compress_file",
    "decompress_file",
    "load",
]


class SlimcodecError(Exception):
    """Whatever slimcodec refuses; the message is one line that says what was wrong, where, and what to do."""


class InvalidInput(SlimcodecError):
    """A picture, a folder or a setting that cannot be used."""


class InvalidFile(SlimcodecError, OSError):
    """Bytes that are not a complete .slim file, or one made with another model.

    An OSError, as Pillow's UnidentifiedImageError is: `except OSError` skips whatever cannot be read as a picture.
    """


class InvalidModel(SlimcodecError):
    """A model directory that is missing, damaged, edited or of another format version."""


_LAZY = {
    "Codec": "slimcodec.codec.inference",
    "load": "slimcodec.codec.inference",
    "compress_file": "slimcodec.codec.files",
    "decompress_file": "slimcodec.codec.files",
}


forked = False  # whether this process was forked from one that had PyTorch, whose threads are gone then


def _note_fork():
    global forked
    forked = forked or "torch" in sys.modules


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_note_fork)


def __getattr__(name):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'slimcodec' has no attribute {name!r}")
