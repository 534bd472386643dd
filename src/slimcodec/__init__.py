"""slimcodec: learned image compression whose decoder costs about 2,000 multiply-accumulates a pixel.

    import slimcodec
    data = slimcodec.compress(picture, quality=4)           # a PIL image, an array, a tensor, a file → bytes
    picture = slimcodec.decompress(data)                    # bytes → a PIL image
    slimcodec.compress_file("photo.jpg", "photo.slim", quality=4)
    slimcodec.decompress_file("photo.slim", "photo.png")
    codec = slimcodec.load("slim-2k", device="auto")        # one of list_models(), or a model directory → Codec
    files = codec.compress_batch(pictures)

Importing the package is light: what runs a model is imported when the first one is loaded.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimcodec.codec.files import Compressed as Compressed
    from slimcodec.codec.files import Decompressed as Decompressed
    from slimcodec.codec.files import compress as compress
    from slimcodec.codec.files import compress_file as compress_file
    from slimcodec.codec.files import decompress as decompress
    from slimcodec.codec.files import decompress_file as decompress_file
    from slimcodec.codec.inference import Codec as Codec
    from slimcodec.codec.inference import load as load
    from slimcodec.codec.inference import push_to_hub as push_to_hub
    from slimcodec.codec.zoo import list_models as list_models

__version__ = "0.1.0"
# Where each name is, which is imported when it is first used; above for who reads types, below for who runs it.
_LAZY = {
    "Codec": "slimcodec.codec.inference",
    "Compressed": "slimcodec.codec.files",
    "Decompressed": "slimcodec.codec.files",
    "compress": "slimcodec.codec.files",
    "compress_file": "slimcodec.codec.files",
    "decompress": "slimcodec.codec.files",
    "decompress_file": "slimcodec.codec.files",
    "list_models": "slimcodec.codec.zoo",
    "load": "slimcodec.codec.inference",
    "push_to_hub": "slimcodec.codec.inference",
}
__all__ = [
    "Codec",
    "Compressed",
    "Decompressed",
    "InvalidFile",
    "InvalidInput",
    "InvalidModel",
    "SlimcodecError",
    "compress",
    "compress_file",
    "decompress",
    "decompress_file",
    "list_models",
    "load",
    "push_to_hub",
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


forked = False  # whether this process was forked from one that had PyTorch, whose threads are gone then


def _note_fork() -> None:
    global forked
    forked = forked or "torch" in sys.modules


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_note_fork)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


if not TYPE_CHECKING:  # or every name would be one of the package's

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(import_module(_LAZY[name]), name)
        raise AttributeError(f"module 'slimcodec' has no attribute {name!r}")
