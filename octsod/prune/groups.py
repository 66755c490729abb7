"""Which channels of a CSNet go together, and what makes them, by the list of its layers (`Configuration.layers`).

Channels are made by gOctConvs and dilated layers. A depthwise layer passes on those that it reads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..checks import require
from ..models import Configuration, CSNet, Layer
from ..models.files import architecture_of
from ..nn import Module


def require_prunable(op: str, model: Any) -> None:
    """Raise ValueError unless `model` is a network whose channels can be removed."""
    expected = "a CSNet whose blocks have depthwise layers: of variant 'csnet' or 'extractor'"
    known = isinstance(model, CSNet)
    require(known, op, "model", f"is a network of the architecture {architecture_of(model)!r}", expected)
    # One count of a vanilla block stands for three convolutions, which could only lose the same channels.
    require(prunable(model), op, "model", f"is a CSNet of variant {model.configuration.variant!r}", expected)


def prunable(model: Module) -> bool:
    """Whether channels of a network can be removed."""
    return isinstance(model, CSNet) and model.configuration.variant != "vanilla"


def chains(configuration: Configuration) -> dict[str, list[str]]:
    """Each layer that makes channels -> the layers whose norms these go through: itself, then depthwise ones."""
    found: dict[str, list[str]] = {}
    makers = {}
    for layer in configuration.layers():
        if layer.makes_channels:
            makers[layer.name] = layer.name
            found[layer.name] = [layer.name]
        elif layer.kind == "depthwise":
            (maker,) = {makers[read[0]] for read in layer.reads if read}
            makers[layer.name] = maker
            found[maker].append(layer.name)
    return found


def pairs(configuration: Configuration) -> list[tuple[str, str]]:
    """(what it reads, its name) of each dilated layer. Its branches are apart: each needs the same branch of the other,
    and is all that reads it, so if one of the two loses all channels, so does the other."""
    dilated = (layer for layer in configuration.layers() if layer.kind == "dilated")
    return [(next(read[0] for read in layer.reads if read), layer.name) for layer in dilated]


def read(layer: Layer, maps: Mapping[str, Sequence[np.ndarray]]) -> list[np.ndarray]:
    """What a layer reads, per input branch, of maps: layer -> per branch (C,); of a missing one, an empty array."""
    return [maps[source[0]][source[1]] if source else np.zeros(0, bool) for source in layer.reads]


def modules_of(model: CSNet) -> dict[str, Any]:
    """Name -> module, of all in a network: a layer has the same name."""
    return dict(model.named_modules())


def filters(layer: Layer, module: Any) -> list[np.ndarray]:
    """The weights that a layer's convolutions use, (outputs, inputs, taps) float64, its branches one after the other.

    Filters that see the same inputs are together: all of them, or those of a branch in depthwise and dilated layers.
    """
    taps = layer.kernel_size**2

    def together(weights, inputs):
        arrays = [np.zeros((0, inputs, taps))]
        for weight in weights:
            if weight is not None:
                used = module.effective_weight(weight, "float64") if layer.normed else weight.numpy().astype("float64")
                arrays.append(used.reshape(len(used), inputs, taps))
        return np.concatenate(arrays)

    if layer.kind == "depthwise":
        return [together([weight], 1) for weight in module.weights]
    if layer.kind == "dilated":
        return [together(weights, ins) for weights, ins in zip(module.weights, layer.inputs, strict=True)]
    return [together([module.weight], sum(layer.inputs))]


def gammas(model: CSNet) -> dict[str, list[np.ndarray]]:
    """Each layer that makes channels -> per branch |gamma| of the norms that these go through, (norms, C) float64."""
    modules, found = modules_of(model), {}
    for maker, chain in chains(model.configuration).items():
        branches = zip(*(modules[name].norms for name in chain), strict=True)
        found[maker] = [np.array([_sizes(norm) for norm in norms]) for norms in branches]
    return found


def _sizes(norm):
    return np.zeros(0) if norm is None else np.abs(norm.weight.numpy().astype(np.float64))
