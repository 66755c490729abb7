"""Checks of what ops are given: every error names the op, the argument, what it was and what was expected."""


def require(condition, op, argument, was, expected):
    """Raise ValueError unless `condition`."""
    if not condition:
        raise ValueError(f"{op}: `{argument}` {was}; expected {expected}.")


def require_integer(value, op, argument, least):
    """A plain integer of at least `least`; returns it."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{op}: `{argument}` is {value!r}; expected an integer.")
    value = value.__index__()
    require(value >= least, op, argument, f"is {value}", f"at least {least}")
    return value


def require_map(x, op, argument="x"):
    """A map (N, C, H, W) of float32 or float64."""
    require(x.ndim == 4, op, argument, f"has shape {tuple(x.shape)}", "four dimensions (N, C, H, W)")
    require(
        x.dtype.kind == "f" and x.dtype.itemsize in (4, 8), op, argument, f"has dtype {x.dtype}", "float32 or float64"
    )


def require_dtype(value, like, op, argument, other="x"):
    """The dtype of `other`."""
    same = value.dtype == like.dtype
    require(same, op, argument, f"has dtype {value.dtype}", f"{like.dtype}, the dtype of `{other}`")


def require_channels(value, channels, op, argument, other="x"):
    """A vector with one entry per channel."""
    require(
        tuple(value.shape) == (channels,), op, argument, f"has shape {tuple(value.shape)}",
        f"({channels},), one entry per channel of `{other}`",
    )  # fmt: skip
