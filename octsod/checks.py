"""Checks of arguments: every error names the op, the argument, what it was and what was expected."""


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


def described(value):
    """What an argument is, as text for `require`: an array's dtype and shape, or else a type."""
    array = hasattr(value, "dtype") and hasattr(value, "shape")
    return f"is {value.dtype} {tuple(value.shape)}" if array else f"is a {type(value).__name__}"


def require_integer(value, op, argument, least):
    """Require an integer of at least `least`; returns it as an int."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{op}: `{argument}` is {shortened(repr(value))}; expected an integer.")
    value = value.__index__()
    require(value >= least, op, argument, f"is {value}", f"at least {least}")
    return value


def require_share(value, op, argument):
    """Require a number of at least 0 and less than 1; returns it as a float."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{op}: `{argument}` is {shortened(repr(value))}; expected a number.")
    require(0 <= value < 1, op, argument, f"is {value}", "at least 0 and less than 1")
    return float(value)


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
