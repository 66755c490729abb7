"""The whole network for inference: batch norm and PReLU finish each convolution, maps are stored activated."""

import numpy as np

from octsod.backend.deferred import Deferred

from .convolution import depthwise_conv2d, dilated_conv2d, octave_conv2d
from .resampling import resize


def csnet(frozen, x, out):
    maps = {("image", 0): Deferred(x.astype(np.float64))}
    *layers, classifier = frozen.layers
    for part in layers:
        layer = part.layer
        size = [n >> layer.scale for n in x.shape[2:]]
        outs = [np.empty((len(x), n, *(s >> j for s in size))) if n else None for j, n in enumerate(layer.outputs)]
        _CONVOLVE[layer.kind](part, [read and maps[read] for read in layer.reads], outs)
        for j, (a, finish) in enumerate(zip(outs, part.finish, strict=True)):
            if a is not None:
                scale, shift, slope = (v[:, None, None] for v in (finish.scale, finish.shift, finish.slope))
                u = a * scale + shift
                maps[layer.name, j] = Deferred(np.where(u > 0, u, slope * u))
    weight, bias = classifier.weights
    (read,) = classifier.layer.reads
    logits = np.einsum("c,nchw->nhw", weight, maps[read].raw)[:, None] + bias
    out[...] = resize(logits, out.shape[2:])


def _octave(part, maps, outs):
    octave_conv2d(maps, *part.weights, outs, part.layer.stride)


def _depthwise(part, maps, outs):
    for a, weight, out in zip(maps, part.weights, outs, strict=True):
        if out is not None:
            depthwise_conv2d(a, weight[:, None], out, 1, 1, 1)


def _dilated(part, maps, outs):
    for a, groups, out in zip(maps, part.weights, outs, strict=True):
        if out is not None:
            dilations, weights = zip(*groups, strict=True)
            dilated_conv2d(a, weights, dilations, out)


_CONVOLVE = {"octave": _octave, "depthwise": _depthwise, "dilated": _dilated}  # by the layer's kind
