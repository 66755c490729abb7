"""CSNet for inference: the whole network in one call of a kernel. Maps are stored as they are read, activated.

Batch norm is a multiply-add at the end of each convolution; the convolution's weights stay as they are. So the
arithmetic, down to its order, is that of the model in eval mode. Only the last upsampling rounds differently.
"""

import dataclasses
import weakref
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import Device, Host, host, watching
from ..backend.arrays import numbers
from ..checks import require, require_number
from ..models.files import require_salience
from ..models.shapes import require_as_described
from ..nn.layers import NormAct, ScaledLayer
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
    with watching.span("predict", "predict"):
        out = device.empty((x.shape[0], 1, *x.shape[2:]), x.dtype)
        device.kernels.csnet(frozen, device.put(x), out)
        return device.get(out)


def _facts(model):
    """All that the frozen form of a model depends on, the numbers as a checksum."""
    state, checksum = model.arrays(), 0
    arrays, device = list(state.values()), model.device
    for array in arrays if isinstance(device, Host) else _at_once(device, arrays):
        checksum = zlib.crc32(array.data, checksum)
    named = [
        ("eps", module.eps) if isinstance(module, NormAct) else ("weight_scale", module.weight_scale)
        for module in model.modules() if isinstance(module, (NormAct, ScaledLayer))
    ]  # fmt: skip
    settings = [value if type(value) is float else require_number(value, "freeze", name) for name, value in named]
    kinds = [array.dtype for array in arrays], [array.shape for array in arrays]
    where = None if isinstance(device, Host) else device.name
    return checksum, settings, kinds, list(state), model.configuration, where


def _at_once(device, arrays):
    """The numbers of arrays of a device, brought to the host together: one by one, that takes longer than a network."""
    together = device.empty((sum(array.size for array in arrays),), "float64")
    device.kernels.gather(arrays, together)
    return [device.get(together)]


class _Snapshots:
    """The frozen form of models, made anew when anything that it depends on has changed."""

    def __init__(self):
        self._kept = weakref.WeakKeyDictionary()
        self._lock = new_lock()

    def of(self, model: "CSNet") -> Frozen:
        facts = _facts(model)
        with self._lock:
            known = self._kept.get(model)
            if known is None or known[0] != facts:
                known = self._kept[model] = facts, freeze(model)
            return known[1]


snapshots = _Snapshots()
