"""Arrays whose elements nobody has written yet, as a GPU's memory pool hands them out."""

import weakref

import numpy as np

_marks: dict[int, tuple[weakref.ref, np.ndarray]] = {}  # by the identity of the array that owns the memory


def empty(shape, dtype=np.float32) -> np.ndarray:
    """A new array, all of whose bytes are 0xFF: NaN in floating point. In mode `check`, a kernel that reads a byte of
    it, or of a view of it, before a kernel has written that byte is refused. The other modes do not watch: they take
    for written all that a kernel could have written. What the host writes, `mark_written` tells."""
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8).fill(0xFF)
    identity = id(array)
    forget = weakref.ref(array, lambda _: _marks.pop(identity, None))
    _marks[identity] = forget, np.zeros(array.nbytes, np.uint8)
    return array


def mark_written(array: np.ndarray) -> None:
    """Take all of a contiguous array, such as a view of one from `empty`, for written."""
    owner, marks = owner_of(array)
    if marks is not None:
        start = address(array) - address(owner)
        marks[start : start + array.nbytes] = 1


def owner_of(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The array that owns the memory, and a byte for each of its bytes that says whether it is written; None for an
    array that is not from `empty`."""
    while id(array) not in _marks and isinstance(array.base, np.ndarray):
        array = array.base
    entry = _marks.get(id(array))
    return array, entry[1] if entry else None


def address(array: np.ndarray) -> int:
    """Where the first element lies."""
    return array.__array_interface__["data"][0]
