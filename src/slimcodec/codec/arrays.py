"""The functions of the library that an array is of, NumPy or PyTorch, by the names of the array API standard."""

from types import ModuleType
from typing import Any

import array_api_compat
import numpy as np

# NumPy has them by itself. To import what stands in for it in older versions takes as long as NumPy's own import.
_NUMPY_HAS_ALL = np.lib.NumpyVersion(np.__version__) >= "2.1.0"


def array_namespace(*arrays: Any) -> ModuleType:
    if _NUMPY_HAS_ALL and all(isinstance(array, np.ndarray) for array in arrays):
        return np
    found: ModuleType = array_api_compat.array_namespace(*arrays)
    return found
