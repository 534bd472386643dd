"""How good a codec is: metrics of pictures, points and curves, BD-rate, other codecs to compare with, and the report.

    from slimcodec.evaluation import bd_rate
    bd_rate(anchor, test).percent  # of two lists of (bpp, quality): bits that the test needs more

Importing the package is light: the modules in it are imported when they are used.
"""

from importlib import import_module

__all__ = ["bd_quality", "bd_rate"]

_LAZY = {
    "bd_quality": "slimcodec.evaluation.curves",
    "bd_rate": "slimcodec.evaluation.curves",
}


def __getattr__(name):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'slimcodec.evaluation' has no attribute {name!r}")
