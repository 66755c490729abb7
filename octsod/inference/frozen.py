"""CSNet for inference: the whole network in one call of a kernel. Maps are stored as they are read, activated.

Batch norm is a multiply-add at the end of each convolution; the convolution's weights stay as they are. So the
arithmetic, down to its order, is that of the model in eval mode. Only the last upsampling rounds differently.
"""

import dataclasses
import weakref
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import Device, Host, host
from ..backend.arrays import numbers
from ..checks import require, require_number
from ..models.files import require_salience
from ..models.shapes import require_as_described
from ..nn.layers import NormAct, ScaledLayer
from ..nn.wiring import Wiring
from ..threads import new_lock

if TYPE_CHECKING:
    from ..models import Configuration, CSNet, Layer


@dataclasses.dataclass(frozen=True, eq=False)
class Finish:
    """Batch norm and PReLU as `prelu(x*scale + shift, slope)`, per channel (C,)."""

    scale: np.ndarray
    shift: np.ndarray
    slope: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenLayer:
    """A layer as its description says. Its weights are those that its convolutions use.

    weights: of an octave layer, one array (sum outs, sum ins, k, k); of a depthwise layer, (C, 3, 3) per branch, None
    for a missing one; of a dilated layer, per branch, (dilation, weight (O, C, 3, 3)) of each that has outputs; of a
    1x1 convolution to one channel, weight (C,) and bias. finish: per output branch, None for a missing one; of the
    1x1 convolution, nothing.
    """

    layer: "Layer"
    weights: tuple[Any, ...]
    finish: tuple[Finish | None, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Frozen:
    """A CSNet in eval mode.

    layers: those of `configuration.layers()` that are used outside of training, in that order; the last one makes the
    logits, which are then upsampled by 2**scale. All arrays are NumPy's. device: where the network runs, or None for
    the host that is in use then.
    """

    configuration: "Configuration"
    dtype: np.dtype
    layers: tuple[FrozenLayer, ...]
    device: Device | None = None


def freeze(model: "CSNet") -> Frozen:
    """A snapshot of a CSNet's weights and running statistics; later changes of the model do not reach it.

    Raises ValueError if the network is anything but a CSNet that finds salient objects, or if its arrays are not those
    that its configuration describes.
    """
    require_salience(model, "freeze")
    used = [layer for layer in model.configuration.layers() if not layer.training_only]
    modules = dict(model.named_modules())
    dtype = require_as_described(model, used, "freeze")
    layers = tuple(FrozenLayer(layer, *_FREEZE[layer.kind](modules[layer.name])) for layer in used)
    return Frozen(model.configuration, dtype, layers, None if isinstance(model.device, Host) else model.device)


def _octave(layer):
    return (layer.effective_weight(layer.weight),), _finishes(layer)


def _depthwise(layer):
    return tuple(None if w is None else layer.effective_weight(w)[:, 0] for w in layer.weights), _finishes(layer)


def _dilated(layer):
    groups = tuple(
        tuple((d, layer.effective_weight(w)) for d, w in zip(layer.dilations, weights, strict=True) if w is not None)
        for weights in layer.weights
    )
    return groups, _finishes(layer)


def _conv(layer):
    return ((layer.weight.numpy().reshape(-1).copy(), layer.bias.numpy()[0]),)


_FREEZE = {"octave": _octave, "depthwise": _depthwise, "dilated": _dilated, "conv": _conv}  # by `Layer.kind`


def _finishes(layer):
    return tuple(norm and _finish(norm) for norm in layer.norms)


def _finish(norm):
    coefficients, statistics = np.empty((4, norm.weight.size), norm.weight.dtype), np.empty((2, norm.weight.size))
    running = [norm.device.get(a).astype(np.float64) for a in (norm.running_mean, norm.running_var)]
    parts = [parameter.numpy() for parameter in (norm.weight, norm.bias, norm.slope)]
    eps = require_number(norm.eps, "freeze", "eps", 0)
    host().kernels.batch_norm([None], [1], [0.0], [eps], [parts], [running], [statistics], [coefficients])
    return Finish(*coefficients[:3])


def logits(frozen: Frozen, x: np.ndarray) -> np.ndarray:
    """Normalised pictures x (N, 3, H, W), in the network's dtype -> logits (N, 1, H, W), as `model.eval()(x)`.

    Raises ValueError if the network does not take x, TypeError if it is no array of numbers.
    """
    op, multiple = "csnet", frozen.configuration.multiple
    x = numbers(x, f"{op}: `x`")
    require(x.ndim == 4 and x.shape[1] == 3, op, "x", f"has shape {x.shape}", "(N, 3, H, W), normalised RGB images")
    require(x.dtype == frozen.dtype, op, "x", f"has dtype {x.dtype}", f"{frozen.dtype}, the model's")
    require(
        all(n > 0 and n % multiple == 0 for n in x.shape[2:]) and x.shape[0] > 0, op, "x", f"has shape {x.shape}",
        f"height and width that are positive multiples of {multiple}",
    )  # fmt: skip
    device = frozen.device or host()
    out = device.empty((x.shape[0], 1, *x.shape[2:]), x.dtype)
    device.kernels.csnet(frozen, device.put(x), out)
    return device.get(out)


class _Look:
    """A look at all that the frozen form of a model depends on. As long as the model is wired as it was, the next look
    need not search it, which takes over a millisecond, beside some ten of the network."""

    def __init__(self, model):
        state = model.arrays()
        self._names, self._arrays = list(state), list(state.values())
        self._kinds = [(array.dtype, array.shape) for array in self._arrays]
        self._device = model.device
        on_host = isinstance(self._device, Host)
        self._bytes = [array.data for array in self._arrays] if on_host else None
        modules = list(model.modules())
        self._norms = [module for module in modules if isinstance(module, NormAct)]
        self._scaled = [module for module in modules if isinstance(module, ScaledLayer)]
        self._wiring = Wiring(model)

    def is_current(self) -> bool:
        """Whether modules, parameters and arrays are still those that were found."""
        return self._wiring.is_current()

    def facts(self, model):
        """What the frozen form depends on, the numbers as a checksum."""
        checksum = 0
        for data in self._at_once() if self._bytes is None else self._bytes:
            checksum = zlib.crc32(data, checksum)
        settings = [("eps", norm.eps) for norm in self._norms]
        settings += [("weight_scale", layer.weight_scale) for layer in self._scaled]
        numbers = [value if type(value) is float else require_number(value, "freeze", name) for name, value in settings]
        where = self._device.name if self._bytes is None else None
        return checksum, numbers, self._kinds, self._names, model.configuration, where

    def _at_once(self):
        """The numbers of a device's arrays, brought to the host together: one by one, that takes longer than a network.
        """
        together = self._device.empty((sum(array.size for array in self._arrays),), "float64")
        self._device.kernels.gather(self._arrays, together)
        return [self._device.get(together).data]


class _Snapshots:
    """The frozen form of models, made anew when anything that it depends on has changed."""

    def __init__(self):
        self._kept = weakref.WeakKeyDictionary()  # model -> (look, facts, frozen form)
        self._lock = new_lock()

    def of(self, model: "CSNet") -> Frozen:
        with self._lock:
            look, known, frozen = self._kept.get(model, (None, None, None))
            if look is None or not look.is_current():
                look = _Look(model)
            facts = look.facts(model)
            if facts != known:
                frozen = freeze(model)
            self._kept[model] = look, facts, frozen
            return frozen


snapshots = _Snapshots()
