"""The door: what a NumPy array must be before a kernel may have it.

Kernels get addresses and believe them, so arrays are checked where they enter the library, once, and not at each
launch. Behind the door every array of a host is a plain `ndarray` of native numbers that is C-contiguous, aligned and
writable; its shape is checked where it is known. What differs only in its layout comes in as a copy; numbers of other
kinds do not come in at all.
"""

from typing import Any

import numpy as np

FLOATS = tuple(map(np.dtype, ("float32", "float64")))
NUMBERS = (*FLOATS, *map(np.dtype, ("int64", "uint8", "bool", "int32", "int16", "int8", "uint64", "uint32", "uint16")))


def require_numbers(dtype: Any, what: str) -> None:
    """Raise TypeError, which begins with `what`, unless arrays of this dtype may come in."""
    if dtype not in NUMBERS:
        native = dtype.newbyteorder("=")
        swapped = native in NUMBERS
        was = f"{dtype}, in foreign byte order" if swapped else str(dtype)
        how = f"; `.astype({native.name!r})` converts it" if swapped else ""
        raise TypeError(f"{what} has dtype {was}; expected numbers: float32, float64, integers or bools{how}.")


def numbers(value: Any, what: str) -> np.ndarray:
    """Anything that `numpy.asarray` takes as a plain array of numbers: the array itself, if it is one.

    Raises TypeError, which begins with `what`, for other dtypes and for masked arrays, whose masks would be lost.
    """
    if type(value) is not np.ndarray:
        value = np.asarray(plain(value, what))
    require_numbers(value.dtype, what)
    return value


def plain(value: Any, what: str) -> Any:
    """An array of a subclass of NumPy's, such as a matrix, as a plain array; anything else as it is.

    Raises TypeError, which begins with `what`, for masked arrays, whose masks would be lost.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{what} is a masked array; expected one without a mask, such as `.filled(0)` makes.")
    if isinstance(value, np.memmap):  # a file that is cut while it is mapped would end the process: it is read now
        return np.array(value, subok=False)
    return np.asarray(value) if isinstance(value, np.ndarray) else value


def is_plain(value: Any, dimensions: int, dtype: Any = np.uint8) -> bool:
    """Whether something is a NumPy array of this dtype and so many dimensions, without a mask that would be lost."""
    fits = isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray)
    return fits and value.dtype == dtype and value.ndim == dimensions


def compact(array: np.ndarray) -> np.ndarray:
    """The array itself if it is contiguous, aligned and writable, else a copy that is."""
    return array if array.flags.carray else np.array(array, order="C", subok=False)


def overlap(a: Any, b: Any) -> bool:
    """Whether arrays may share memory; of those that are not NumPy's, whether they are the same."""
    return a is b or (isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.may_share_memory(a, b))


def read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written."""
    view = array.view()
    view.flags.writeable = False
    return view
