"""The authors' names for a CSNet's parameters (in their released checkpoints, and in the golden files made with them).

Ours on the left, theirs on the right:

    extractor.stages.S.B.mix.weight                   stageS.B.conv1x1.conv.weight
    extractor.stages.S.B.mix.norms.I.*                stageS.B.conv1x1.{bns,prelus}.I.*
    extractor.stages.S.B.depthwise.Q.weights.I        stageS.B.conv3x3_{Q+1}.convs.I.weight
    extractor.stages.S.B.depthwise.Q.norms.I.*        stageS.B.conv3x3_{Q+1}.{bns,prelus}.I.*
    fusion.fuse, fusion.merge                         oct_fuse.fuse, oct_fuse.fuse1x1 (like conv1x1)
    fusion.dilated.weights.I.D                        oct_fuse.ms.convs.I.msconv.D.weight
    fusion.dilated.norms.I.*                          oct_fuse.ms.convs.I.{bn,prelu}.*
    classifier.*                                      cls_layer.*
"""

import os
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike

from ..backend.device import device_of
from ..checks import shortened
from ..errors import FileError, detail
from ..models import Configuration, CSNet
from .pickles import read_checkpoint, read_layers

_RULES = [
    (r"extractor\.stages\.(\d+)\.(\d+)\.mix\.(.*)", r"stage\1.\2.conv1x1.\3"),
    (r"extractor\.stages\.(\d+)\.(\d+)\.depthwise\.0\.(.*)", r"stage\1.\2.conv3x3_1.\3"),
    (r"extractor\.stages\.(\d+)\.(\d+)\.depthwise\.1\.(.*)", r"stage\1.\2.conv3x3_2.\3"),
    (r"fusion\.fuse\.(.*)", r"oct_fuse.fuse.\1"),
    (r"fusion\.merge\.(.*)", r"oct_fuse.fuse1x1.\1"),
    (r"fusion\.dilated\.weights\.(\d+)\.(\d+)", r"oct_fuse.ms.convs.\1.msconv.\2.weight"),
    (r"fusion\.dilated\.norms\.(\d+)\.slope", r"oct_fuse.ms.convs.\1.prelu.weight"),
    (r"fusion\.dilated\.norms\.(\d+)\.(.*)", r"oct_fuse.ms.convs.\1.bn.\2"),
    (r"classifier\.(.*)", r"cls_layer.\1"),
    (r"(.*)\.weights\.(\d+)", r"\1.convs.\2.weight"),
    (r"(.*)\.norms\.(\d+)\.slope", r"\1.prelus.\2.weight"),
    (r"(.*)\.norms\.(\d+)\.(.*)", r"\1.bns.\2.\3"),
    (r"(stage.*conv1x1|oct_fuse\.fuse(?:1x1)?)\.weight", r"\1.conv.weight"),
]


def authors_name(name: str) -> str:
    """The authors' name for one of ours."""
    for pattern, replacement in _RULES:
        name = re.sub(f"^{pattern}$", replacement, name)
    return name


def load_arrays(model: CSNet, mapping: Mapping[str, np.ndarray]) -> None:
    """Copy arrays, by the authors' names, into a CSNet (ignoring `num_batches_tracked`); none if one does not fit."""
    given = {name: value for name, value in mapping.items() if not name.endswith("num_batches_tracked")}
    own = {authors_name(name): name for name in model.state_dict()}
    model.load_state_dict({own.get(name, name): value for name, value in given.items()})


def arrays(model: CSNet, kind: str = "data") -> dict[str, np.ndarray]:
    """The authors' name -> NumPy array of every parameter and running statistic ("data"), or gradient ("grad")."""
    if kind == "data":
        return {authors_name(name): array for name, array in model.state_dict().items()}
    if kind != "grad":
        raise ValueError(f'arrays: `kind` (={shortened(repr(kind))}) must be "data" or "grad".')
    gradients = ((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    return {authors_name(name): device_of(gradient).get(gradient) for name, gradient in gradients}


def configuration(layers: list) -> Configuration:
    """The `Configuration` that a layer list (see `read_layers`) describes; ValueError if it describes none."""
    if not (isinstance(layers, list) and len(layers) >= 5 and isinstance(layers[-1], list)):
        raise ValueError("the layer list does not end with the blocks of each stage")
    *layers, blocks = layers
    if len(layers) != 1 + sum(blocks) + 3 or len(blocks) != 4:
        raise ValueError(f"{len(layers)} layers do not fit {shortened(blocks)} blocks of stages 1 to 4")
    pairs = [[_counts(side) for side in layer[:2]] for layer in layers]
    stages, position = [], 0
    for count in (1, *blocks):
        stages.append(tuple(tuple(out) for _, out in pairs[position : position + count]))
        position += count
    fuse, _, merge = pairs[position:]
    if len(layers[position + 1]) != 3:
        raise ValueError("the dilated layer does not list its channels per dilation")
    result = Configuration(tuple(stages), tuple(fuse[1]), layers[position + 1][2], sum(merge[1]))
    expected = [list(layer.inputs) for layer in result.layers() if layer.makes_channels]
    for number, ((given, _), wanted) in enumerate(zip(pairs, expected, strict=True)):
        if given != wanted:
            given = shortened(given)
            raise ValueError(f"layer {number} takes {given} channels, but the layers before it give {wanted}")
    return result


def _counts(side):
    return [side] if isinstance(side, int) else list(side)


def read_model(
    checkpoint: str | os.PathLike[str], layers: str | os.PathLike[str], dtype: DTypeLike = "float32"
) -> CSNet:
    """The CSNet in a released checkpoint (.pth.tar) with its layer file (.bin). Raises FileError."""
    state = read_checkpoint(checkpoint)
    try:
        config = configuration(read_layers(layers))
    except FileError:
        raise
    except (ValueError, TypeError, IndexError) as error:
        raise FileError(f"{layers}: not the layer file of a CSNet: {detail(error)}.") from error
    try:
        config.require_at_most(sum(array.size for array in state.values()))
        model = CSNet(config, dtype)
        load_arrays(model, state)
    except ValueError as error:
        raise FileError(f"{checkpoint}: does not fit the layers in {layers}: {detail(error)}.") from error
    for name, array in model.state_dict().items():
        if not np.isfinite(array).all():
            raise FileError(f"{checkpoint}: `{authors_name(name)}` holds a value that is not finite.")
    return model
