"""The functions of the library that an array is of, NumPy or PyTorch, by the names of the array API standard."""

from types import ModuleType
from typing import Any

import numpy as np

_NUMPY_HAS_ALL = np.lib.NumpyVersion(np.__version__) >= "2.1.0"


def array_namespace(*arrays: Any) -> ModuleType:
    if _NUMPY_HAS_ALL and all(isinstance(array, np.ndarray) for array in arrays):
        return np
    import array_api_compat  # late: what it has for NumPy takes as long to import as NumPy itself

    found: ModuleType = array_api_compat.array_namespace(*arrays)
    return found


def device_of(array: Any) -> Any:
    """Where new arrays are to be, to go with it."""
    return getattr(array, "device", "cpu")  # NumPy's have none before NumPy 2


def rows_of(array: Any, index: np.ndarray) -> Any:
    """array[index], with none of the search for negative numbers that the standard's `take` makes of a tensor."""
    if isinstance(array, np.ndarray):
        return array.take(index, axis=0)
    return array.index_select(0, array_namespace(array).asarray(index, device=array.device))
