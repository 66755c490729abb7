"""Checks of arguments: every error names the op, the argument, what it was and what was expected."""

import math
import operator
from numbers import Real


def require(condition, op, argument, was, expected):
    """Raise ValueError unless `condition` holds."""
    if not condition:
        raise ValueError(f"{op}: `{argument}` {shortened(was)}; expected {expected}.")


def shortened(value, most=200):
    """`value` as text of at most `most` characters: of longer text, the middle is left out."""
    text = str(value)
    if len(text) <= most:
        return text
    gap = " ... "
    head = (most - len(gap) + 1) // 2
    return text[:head] + gap + text[len(text) - (most - len(gap) - head) :]


def printable(text):
    """`text` made safe for a terminal: names may hold line breaks, escape sequences or half a character."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def described(value):
    """What an argument is, as text for `require`: an array's dtype and shape, or else a type."""
    array = hasattr(value, "dtype") and hasattr(value, "shape")
    masked = " with a mask" if array and type(value).__name__ == "MaskedArray" else ""
    return f"is {value.dtype} {tuple(value.shape)}{masked}" if array else f"is a {type(value).__name__}"


def require_integer(value, op, argument, least):
    """Require an integer of at least `least`; returns it as an int."""
    try:
        index = None if isinstance(value, bool) else operator.index(value)
    except TypeError:  # an array has the method, too, but only one of a single integer has an answer
        index = None
    if index is None:
        raise TypeError(f"{op}: `{argument}` is {_quoted(value)}; expected an integer.")
    require(index >= least, op, argument, f"is {index}", f"at least {least}")
    return index


def require_number(value, op, argument, least=-math.inf, above=False):
    """Require a finite number of at least `least`, or above it; returns it as a float. Settings go to kernels, which
    would make of an array or a text an error about something else."""
    number = value.item() if getattr(value, "shape", None) == () else value  # NumPy's own, and arrays without axes
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"{op}: `{argument}` is {_quoted(value)}; expected a number.")
    fits = math.isfinite(number) and (number > least if above else number >= least)
    limit = "" if least == -math.inf else f" above {least}" if above else f" of at least {least}"
    require(fits, op, argument, f"is {number}", f"a finite number{limit}")
    return float(number)


def _quoted(value):
    """A value that is of the wrong kind, for a message: an array by its shape, for it may be a large one."""
    return described(value).removeprefix("is ") if hasattr(value, "shape") else shortened(repr(value))


def require_share(value, op, argument):
    """Require a number of at least 0 and less than 1; returns it as a float."""
    share = require_number(value, op, argument)
    require(0 <= share < 1, op, argument, f"is {value}", "at least 0 and less than 1")
    return share


def require_samples(dataset, op, argument):
    """Require a data set, anything with a length and items, that is not empty."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        kind = type(dataset).__name__
        raise TypeError(f"{op}: `{argument}` is a {kind}; expected a data set, which has a length and items.")
    require(len(dataset) > 0, op, argument, "is empty", "at least one picture")


def require_given(value, op, argument):
    """Require anything but None."""
    require(value is not None, op, argument, "is None", "a tensor")


def require_float(x, op, argument="x"):
    """Require an array of float32 or float64."""
    require_given(x, op, argument)
    dtype = x.dtype
    if not (dtype.kind == "f" and dtype.itemsize in (4, 8) and dtype.isnative):  # slow to print, so only on failure
        require(False, op, argument, f"has dtype {x.dtype}", "float32 or float64")


def require_map(x, op, argument="x"):
    """Require a map (N, C, H, W) of float32 or float64."""
    require_given(x, op, argument)
    require(x.ndim == 4, op, argument, f"has shape {tuple(x.shape)}", "four dimensions (N, C, H, W)")
    require_float(x, op, argument)


def require_dtype(value, like, op, argument, other="x"):
    """Require the dtype of `other`."""
    require_given(value, op, argument)
    if value.dtype != like.dtype:
        require(False, op, argument, f"has dtype {value.dtype}", f"{like.dtype}, the dtype of `{other}`")


def require_channels(value, channels, op, argument, other="x"):
    """Require a vector with one entry per channel."""
    require_given(value, op, argument)
    require(
        tuple(value.shape) == (channels,), op, argument, f"has shape {tuple(value.shape)}",
        f"({channels},), one entry per channel of `{other}`",
    )  # fmt: skip
