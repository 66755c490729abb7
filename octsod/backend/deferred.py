"""Deferred normalisation: the types passed between ops in place of normalised maps.

A convolution's raw output, its batch norm and its PReLU are one `Deferred`: the raw map and, per channel, scale, shift
and slope. Whoever reads it applies them while loading; the normalised activation is never stored. In the backward pass,
the gradient of a raw map is an affine function of two maps that already exist. So it is passed on as a
`DeferredGradient` and computed while loading, too. All backends share these types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .device import device_of, empty, is_array, kernels, on

if TYPE_CHECKING:
    from .contract import Array


class ActivationSums:
    """Sums of an activation over its pixels, (N, C) in float64, filled in by the first op that reads it.

    The metric of dynamic weight decay is computed from them; this object outlives the map.
    """

    __slots__ = ("pixels", "values")

    def __init__(self, pixels: int):
        self.values: Any = None
        self.pixels = pixels

    def claim(self, images: int, channels: int) -> Array | None:
        """The array to fill, or None if another op has already claimed it."""
        if self.values is not None:
            return None
        self.values = empty((images, channels), "float64")
        return self.values


class Deferred:
    """The map `prelu(raw*scale + shift)` that has not been computed.

    raw: (N, C, H, W). coefficients: (4, C), the rows scale, shift, slope and mean (about which sums of gradients are
    taken), or None for the raw map itself. moments: (N, 3, C) in float64, the raw map's per-image reference value, and
    its sum and sum of squares about that, if the op that made it was asked for them.
    """

    __slots__ = ("activation_sums", "coefficients", "moments", "raw")

    def __init__(
        self, raw: Array, coefficients: Array | None = None, moments: Array | None = None,
        activation_sums: ActivationSums | None = None,
    ):  # fmt: skip
        self.raw, self.coefficients = raw, coefficients
        self.moments = moments
        self.activation_sums = activation_sums

    @property
    def is_raw(self) -> bool:
        return self.coefficients is None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.raw.shape

    @property
    def dtype(self) -> Any:
        return self.raw.dtype

    @property
    def ndim(self) -> int:
        return self.raw.ndim

    def claim_activation_sums(self) -> Array | None:
        """The array (N, C) that the next reader must fill with sums of the activation, or None."""
        if self.activation_sums is None:
            return None
        return self.activation_sums.claim(*self.raw.shape[:2])

    def value(self) -> Array:
        """The map as an array."""
        if self.is_raw:
            return self.raw
        with on(device_of(self.raw)):
            out = empty(self.shape, self.dtype)
            kernels.activate(self, out)
        return out

    @staticmethod
    def of(array: Any) -> Deferred:
        """Any map as a `Deferred`."""
        return array if isinstance(array, Deferred) else Deferred(array)


class DeferredGradient:
    """The gradient `k0*g*prelu'(raw*scale + shift) + k1*raw + k2` that has not been computed.

    g, raw: (N, C, H, W); coefficients: (6, C), the rows scale, shift, slope, k0, k1, k2, or None for g itself. spent:
    nobody needs g after the op that takes this gradient, so that op may write its input's gradient over g, while g's
    lines are in the cache.
    """

    __slots__ = ("coefficients", "g", "raw", "spent")

    def __init__(self, g: Array, raw: Array, coefficients: Array | None = None, spent: bool = False):
        self.g, self.raw, self.coefficients, self.spent = g, raw, coefficients, spent

    @property
    def shape(self) -> tuple[int, ...]:
        return self.g.shape

    @property
    def dtype(self) -> Any:
        return self.g.dtype

    def value(self) -> Array:
        """The gradient as an array."""
        if self.coefficients is None:
            return self.g
        with on(device_of(self.g)):
            out = empty(self.shape, self.dtype)
            kernels.differentiate(self, out)
        return out

    @staticmethod
    def of(gradient: Any) -> DeferredGradient:
        """Any gradient of a map as a `DeferredGradient`."""
        return gradient if isinstance(gradient, DeferredGradient) else DeferredGradient(gradient, gradient)


def require_sound(value: Deferred | DeferredGradient, device: Any, what: str) -> None:
    """Raise ValueError or TypeError, which begin with `what`, unless the arrays of a map or gradient belong together
    and are the device's: for those that are not from ops of our own."""
    maps, parts = [value.raw], [(value.coefficients, 4)]
    if isinstance(value, DeferredGradient):
        maps, parts = [value.g, value.raw], [(value.coefficients, 6)]
    arrays = [array for array, _ in parts if array is not None]
    moments = value.moments if isinstance(value, Deferred) else None
    arrays += [*maps, *([] if moments is None else [moments])]
    fits = all(is_array(array) and device.adopt(array, what) is array for array in arrays)
    fits = fits and all(array.shape == value.shape and array.dtype == value.dtype for array in maps)
    if fits and len(arrays) > len(maps):  # which only maps have
        images, channels = value.shape[:2] if len(value.shape) == 4 else (-1, -1)
        fits = all(a is None or (a.shape == (rows, channels) and a.dtype == value.dtype) for a, rows in parts)
        fits = fits and (moments is None or (moments.shape == (images, 3, channels) and moments.dtype == "float64"))
    if not fits:
        raise ValueError(f"{what} does not fit together; expected a map (N, C, H, W) and the arrays that belong to it.")


class GradientTarget:
    """Where a backward pass writes the gradient of one input.

    array: (N, C, H, W) to write, or to add to where `accumulate`. gradient_sums: (N, 3, C) in float64, to fill with the
    channel sums that batch norm's gradient needs (see the kernel `gradient_sums`), or None: only the last reader of a
    map can.
    """

    __slots__ = ("accumulate", "array", "gradient_sums")

    def __init__(self, array: Array, accumulate: bool = False, gradient_sums: Array | None = None):
        self.array, self.accumulate, self.gradient_sums = array, accumulate, gradient_sums


class ActivationGradient:
    """The complete gradient of a normalised map, as passed to the backward of the op that made the map.

    array: (N, C, H, W). gradient_sums: (N, 3, C) in float64, if the last reader filled them in, else None. spent:
    nobody else holds the array.
    """

    __slots__ = ("array", "gradient_sums", "spent")

    def __init__(self, array: Array, gradient_sums: Array | None = None, spent: bool = False):
        self.array, self.gradient_sums, self.spent = array, gradient_sums, spent
