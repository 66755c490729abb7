"""Which arrays the layers of a CSNet hold, by its configuration."""

import collections
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..checks import described, require
from ..nn import Module, NormAct
from .configuration import Layer


def require_as_described(model: Module, layers: Iterable[Layer], op: str) -> np.dtype:
    """The dtype of a CSNet. Raises ValueError, which names the array, unless the modules of these layers hold the
    arrays that their descriptions say: kernels take their sizes from these, and so does who reads a weight file."""
    modules = dict(model.named_modules())
    counts = collections.Counter(parameter.dtype for parameter in model.parameters())
    dtype = max(counts, key=counts.__getitem__, default=np.dtype("float32"))  # where one has another, that one is wrong
    for layer in layers:
        _require_layer(layer, modules.get(layer.name), dtype, op)
    return dtype


def _require_layer(layer: Layer, module: Any, dtype: np.dtype, op: str) -> None:
    expected = _shapes(layer)
    require(isinstance(module, Module), op, layer.name, described(module), f"the {layer.kind} layer of the model")
    held = module.state_dict()
    for name in sorted(expected.keys() ^ held.keys()):
        was, wanted = "is no parameter or buffer", f"one of shape {expected.get(name)}"
        was, wanted = ("is one too many", "none of this name") if name in held else (was, wanted)
        require(False, op, f"{layer.name}.{name}", was, f"{wanted}, as the model's configuration says")
    for name, array in held.items():
        fits = array.shape == expected[name] and array.dtype == dtype
        wanted = f"{dtype} {expected[name]}, as the model's configuration says"
        require(fits, op, f"{layer.name}.{name}", described(array), wanted)


def _shapes(layer):
    """Name -> shape of each array that the module of a layer holds."""
    size, ins, outs = (layer.kernel_size,) * 2, layer.inputs, layer.outputs
    if layer.kind == "depthwise":
        shapes = {f"weights.{b}": (n, 1, *size) for b, n in enumerate(outs) if n}
    elif layer.kind == "dilated":
        groups = ((b, k, n) for b, counts in enumerate(layer.dilations) for k, n in enumerate(counts))
        shapes = {f"weights.{b}.{k}": (n, ins[b], *size) for b, k, n in groups if n and ins[b]}
        outs = [n if i else 0 for n, i in zip(outs, ins, strict=True)]
    else:
        shapes = {"weight": (sum(outs), sum(ins), *(() if layer.kind == "linear" else size))}
    if not layer.normed:
        return {**shapes, "bias": (sum(outs),)}
    parts = ("weight", "bias", "slope", *NormAct.buffers)
    return {**shapes, **{f"norms.{b}.{part}": (n,) for b, n in enumerate(outs) if n for part in parts}}
