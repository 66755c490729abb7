"""CSNet for inference: the whole network in one call of a kernel. Maps are stored as they are read, activated.

Batch norm is a multiply-add at the end of each convolution; the convolution's weights stay as they are. So the
arithmetic, down to its order, is that of the model in eval mode. Only the last upsampling rounds differently.
"""

import dataclasses
import threading
import weakref
import zlib
from typing import TYPE_CHECKING

import numpy as np

from ..backend import Device, Host, host
from ..checks import require
from ..nn.layers import WEIGHT_SCALE

if TYPE_CHECKING:
    from ..models import Configuration, CSNet


@dataclasses.dataclass(frozen=True, eq=False)
class Finish:
    """Batch norm and PReLU as `prelu(x*scale + shift, slope)`, per channel (C,)."""

    scale: np.ndarray
    shift: np.ndarray
    slope: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Octave:
    """A gOctConv: weight (sum outs, sum ins, k, k), and per output branch a `Finish` (None for a missing one)."""

    ins: tuple[int, ...]
    outs: tuple[int, ...]
    stride: int
    weight: np.ndarray
    finish: tuple[Finish | None, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Depthwise:
    """A depthwise 3x3 layer: per branch a weight (C, 3, 3) and a `Finish`, None for a missing one."""

    weights: tuple[np.ndarray | None, ...]
    finish: tuple[Finish | None, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Dilated:
    """Parallel dilated 3x3 convolutions: per scale, (dilation, weight (O, C, 3, 3)) of each group, and a `Finish`."""

    groups: tuple[tuple[tuple[int, np.ndarray], ...], ...]
    finish: tuple[Finish | None, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Frozen:
    """A CSNet in eval mode.

    stages: per stage, per block, (Octave, Depthwise, Depthwise). fuse, dilated, merge: the cross-stage fusion.
    classifier: weight (C,) and bias. All arrays are NumPy's. device: where the network runs, or None for the host that
    is in use then.
    """

    configuration: "Configuration"
    dtype: np.dtype
    stages: tuple[tuple[tuple[Octave, Depthwise, Depthwise], ...], ...]
    fuse: Octave
    dilated: Dilated
    merge: Octave
    classifier: tuple[np.ndarray, float]
    device: Device | None = None


def freeze(model: "CSNet") -> Frozen:
    """A snapshot of a CSNet's weights and running statistics; later changes of the model do not reach it."""
    factor = model.dtype.type(WEIGHT_SCALE)

    def finish(norms):
        return tuple(norm and _finish(norm) for norm in norms)

    def octave(layer):
        weight = layer.weight.numpy() * factor if layer.single else layer.weight.numpy().copy()
        return Octave(layer.in_channels, layer.out_channels, layer.stride, weight, finish(layer.norms))

    def depthwise(layer):
        weights = tuple(w if w is None else w.numpy()[:, 0] * factor for w in layer.weights)
        return Depthwise(weights, finish(layer.norms))

    def dilated(layer):
        groups = tuple(
            tuple((d, w.numpy() * factor) for d, w in zip(layer.dilations, weights, strict=True) if w is not None)
            for weights in layer.weights
        )
        return Dilated(groups, finish(layer.norms))

    fusion, classifier = model.fusion, model.classifier
    return Frozen(
        model.configuration, model.dtype,
        tuple(tuple((octave(b.mix), *map(depthwise, b.depthwise)) for b in stage) for stage in model.extractor.stages),
        octave(fusion.fuse), dilated(fusion.dilated), octave(fusion.merge),
        (classifier.weight.numpy().reshape(-1).copy(), classifier.bias.numpy()[0]),
        None if isinstance(model.device, Host) else model.device,
    )  # fmt: skip


def _finish(norm):
    coefficients = np.empty((4, norm.weight.size), norm.weight.dtype)
    mean, variance = (norm.device.get(a).astype(np.float64) for a in (norm.running_mean, norm.running_var))
    parts = [parameter.numpy() for parameter in (norm.weight, norm.bias, norm.slope)]
    host().kernels.batch_norm_coefficients(mean, variance, norm.eps, *parts, coefficients)
    return Finish(*coefficients[:3])


def logits(frozen: Frozen, x: np.ndarray) -> np.ndarray:
    """Normalised pictures x (N, 3, H, W), in the network's dtype -> logits (N, 1, H, W), as `model.eval()(x)`.

    Raises ValueError if the network does not take x.
    """
    op, multiple = "csnet", frozen.configuration.multiple
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


class _Snapshots:
    """The frozen form of models, made anew when a parameter or running statistic has changed."""

    def __init__(self):
        self._kept = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def of(self, model: "CSNet") -> Frozen:
        checksum = 0
        for array in model.state_dict().values():
            checksum = zlib.crc32(array.data, checksum)
        with self._lock:
            known = self._kept.get(model)
            if known is None or known[0] != checksum:
                known = self._kept[model] = checksum, freeze(model)
            return known[1]


snapshots = _Snapshots()
