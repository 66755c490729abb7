"""A plan of pruning: which channels of a network stay."""

import dataclasses
import functools

import numpy as np

from ..checks import require
from ..models import Configuration
from ..models.configuration import IMAGE
from .groups import read


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Which channels of a CSNet stay.

    before: the network's configuration. kept: layer -> per branch a mask (C,) bool, True for a channel that stays. The
    layers are those that make channels, by their names in `before.layers()`: gOctConvs, such as
    "extractor.stages.2.0.mix" or "fusion.fuse", and "fusion.dilated" (per scale, its dilations one after the other).
    """

    before: Configuration
    kept: dict[str, tuple[np.ndarray, ...]]

    @functools.cached_property
    def configuration(self) -> Configuration:
        """That of the pruned network."""
        counts: dict[str, tuple] = {name: tuple(int(mask.sum()) for mask in masks) for name, masks in self.kept.items()}
        for layer in self.before.layers():
            if layer.kind == "dilated":
                pieces = [_split(m, d) for m, d in zip(self.kept[layer.name], layer.dilations, strict=True)]
                counts[layer.name] = tuple(tuple(int(piece.sum()) for piece in scale) for scale in pieces)
        return self.before.with_channels(counts)

    @functools.cached_property
    def masks(self) -> dict[str, tuple[np.ndarray, ...]]:
        """As `kept`, but of all layers, and of the picture."""
        masks = {IMAGE: (np.ones(3, bool),), **self.kept}
        for layer in self.before.layers():
            if layer.kind == "depthwise":
                masks[layer.name] = tuple(read(layer, masks))
            elif not layer.normed:
                masks[layer.name] = tuple(np.ones(n, bool) for n in layer.outputs)
        return masks

    def slice(self, name: str, array: np.ndarray) -> np.ndarray:
        """What stays of `array`, which has the shape of the parameter or running statistic `name`; a copy.

        Adam's moments can be sliced in the same way. The array is empty if the pruned network lacks `name` altogether.
        Raises ValueError if the network has no such name, or if that has another shape.
        """
        require(name in self._axes, "slice", "name", f"is {name!r}", "a parameter or running statistic of the network")
        masks = self._axes[name]
        leading = tuple(len(mask) for mask in masks)
        was = f"has shape {array.shape}"
        require(array.shape[: len(masks)] == leading, "slice", name, was, f"{leading} first, as of the network's")
        for axis, mask in enumerate(masks):
            array = np.compress(mask, array, axis)
        return array

    @functools.cached_property
    def _axes(self):
        """Name of a parameter or running statistic -> the masks of its leading axes."""
        found = {}
        for layer in self.before.layers():
            name, ins, outs = layer.name, read(layer, self.masks), self.masks[layer.name]
            if layer.kind == "depthwise":
                found.update({f"{name}.weights.{i}": (mask,) for i, mask in enumerate(outs) if mask.size})
            elif layer.kind == "dilated":
                for i, (mask, counts) in enumerate(zip(outs, layer.dilations, strict=True)):
                    pieces = enumerate(_split(mask, counts))
                    found.update({f"{name}.weights.{i}.{d}": (piece, ins[i]) for d, piece in pieces if piece.size})
            else:
                found[f"{name}.weight"] = np.concatenate(outs), np.concatenate(ins)
            if layer.normed:
                parts = ("weight", "bias", "slope", "running_mean", "running_var")
                norms = {f"{name}.norms.{i}": mask for i, mask in enumerate(outs) if mask.size}
                found.update({f"{norm}.{part}": (mask,) for norm, mask in norms.items() for part in parts})
            else:
                found[f"{name}.bias"] = outs
        return found


def _split(array, counts):
    """An array (sum of counts, ...) in pieces of so many entries."""
    return np.split(array, np.cumsum(counts)[:-1])
