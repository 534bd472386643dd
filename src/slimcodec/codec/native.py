"""The functions of coder.c. Each looks at the kinds of its arrays: a wrong one is an error, not a crash.

They run without Python's lock, so threads code at the same time. An array that another thread may change must be
copied before it is checked.
"""

import ctypes
import functools
from typing import Any, NamedTuple

import numpy as np

from slimcodec import InvalidInput
from slimcodec.codec import building


class _Array(NamedTuple):
    """A kind of arrays, as ctypes asks for it: in half of the time that NumPy's own takes."""

    dtype: np.dtype | None  # None: any
    dimensions: int
    written: bool

    def from_param(self, array: np.ndarray) -> ctypes.c_void_p:
        flags = array.flags
        fits = flags.c_contiguous and (flags.writeable or not self.written) and array.ndim == self.dimensions
        if not fits or (self.dtype is not None and array.dtype != self.dtype):
            raise TypeError(f"an array of another kind: {array.dtype}, {array.shape}")
        return ctypes.c_void_p(array.ctypes.data)


def _read(dtype: type | None, dimensions: int = 1) -> _Array:
    return _Array(None if dtype is None else np.dtype(dtype), dimensions, written=False)


def _written(dtype: type, dimensions: int = 1) -> _Array:
    return _Array(np.dtype(dtype), dimensions, written=True)


COUNT = ctypes.c_int64
TABLES = (_read(np.uint32), _read(np.int64), _read(np.int32), _read(np.uint16, 2), COUNT, ctypes.c_int)
INDEX = (_read(None), ctypes.c_int)  # and its bytes an entry, 1 or 4
STREAM = (_written(np.uint64), _read(np.uint32), COUNT, COUNT)
EDGES = (_read(np.int32, 2), COUNT)
RULE = (_read(np.int32), *EDGES, *EDGES, _read(np.uint8, 3), COUNT)
CELLS = (_written(np.uint8), *4 * (COUNT,))  # tables of channels, rows and columns of cells, and the side of blocks
COSTS = (_read(np.float32, 2), _read(np.float32), COUNT, ctypes.c_double, COUNT)
STATES = (_written(np.uint16, 2),)
CODE = COUNT, COUNT, COUNT
RESIDUALS = (_read(np.float32), *CELLS, *COSTS)
LAYER = _read(np.float32, 2), _read(np.float32), _read(np.float32)  # weight, bias, and zeros
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "look_up": (_read(np.int16), COUNT, *INDEX, *TABLES, _written(np.uint32), ctypes.POINTER(COUNT)),
    "encode": (_read(np.uint32), COUNT, _written(np.uint64), _written(np.uint32), COUNT),
    "decode": (*STREAM, *INDEX, COUNT, *TABLES, _written(np.int16)),
    "decode_dependent": (*STREAM, *CELLS, *TABLES, COUNT, _read(np.uint16, 2), *STATES, _written(np.int16)),
    "search": (*RESIDUALS, *CODE, *STATES, _written(np.int16), _written(np.uint8), _written(np.int16)),
    "depthwise": (_read(np.float32, 2), COUNT, COUNT, _read(np.int32, 2), COUNT, *LAYER, _written(np.float32, 2)),
    "integers": (*(_read(np.float64, n) for n in (2, 1, 2)), COUNT, COUNT, COUNT, _written(np.int64)),
    "finish": (_written(np.float32, 2), COUNT, COUNT, _read(np.float32), _read(np.float32, 2), COUNT, COUNT),
    "add_rows": (_written(np.float32), _read(np.float32, 2), _read(np.float32), COUNT, COUNT),
    "levels": (_read(np.float32, 3), _written(np.uint8, 3), COUNT),
    "luma": (_read(np.uint8, 3), _written(np.uint8, 2), COUNT),
    "neighbours": (_read(np.uint8, 2), COUNT, COUNT, _read(np.int16, 2), _written(np.int16, 2)),
    "neighbours_by_cell": (
        _read(np.uint8, 2),
        COUNT,
        COUNT,
        _read(np.int16, 3),
        _read(np.uint8, 2),
        *4 * (COUNT,),
        _written(np.int16, 2),
    ),
    "move": (_read(np.uint8, 3), _read(np.int16, 2), _written(np.uint8, 3), COUNT),
    "reconstruct": (_read(np.float32), _read(np.uint8), _read(np.float32), _written(np.float32), COUNT),
    "map": (_written(np.uint8, 2), COUNT, COUNT, COUNT, _written(np.uint8), COUNT, COUNT),
    "decode_banks": (*STREAM, *RULE, *TABLES, COUNT, COUNT, COUNT, _written(np.int16, 3)),
}


@functools.cache
def functions() -> dict[str, Any]:
    """By their names in coder.c. Raises InvalidInput where there is no library and none can be made."""
    with building.library() as path:
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise InvalidInput(f"{path}: cannot be loaded ({error}); delete it, and it is made anew") from error
    found = {}
    for name, arguments in FUNCTIONS.items():
        found[name] = getattr(library, f"slimcodec_{name}")
        found[name].argtypes, found[name].restype = arguments, COUNT
    return found


def call(name: str, *arguments: Any) -> int:
    result: int = functions()[name](*arguments)
    return result
