"""The whole network for inference: batch norm and PReLU finish each convolution, maps are stored activated."""

import numpy as np

from octsod.backend.deferred import Deferred

from .convolution import depthwise_conv2d, dilated_conv2d, octave_conv2d
from .resampling import resize


def csnet(frozen, x, out):
    def finished(maps, finishes):
        """`prelu(map*scale + shift)` of each branch."""
        results = []
        for a, finish in zip(maps, finishes, strict=True):
            if a is not None:
                scale, shift, slope = (v[:, None, None] for v in (finish.scale, finish.shift, finish.slope))
                u = a * scale + shift
                a = Deferred(np.where(u > 0, u, slope * u))
            results.append(a)
        return results

    def octave(layer, maps):
        level, first = next((i, a) for i, a in enumerate(maps) if a is not None)
        size = [(n << level) // layer.stride for n in first.shape[2:]]
        outs = [np.empty((len(x), n, size[0] >> j, size[1] >> j)) if n else None for j, n in enumerate(layer.outs)]
        octave_conv2d(maps, layer.weight, outs, layer.stride)
        return finished(outs, layer.finish)

    def depthwise(layer, maps):
        outs = [None if a is None else np.empty(a.shape) for a in maps]
        for a, weight, out in zip(maps, layer.weights, outs, strict=True):
            if a is not None:
                depthwise_conv2d(a, weight[:, None], out, 1, 1, 1)
        return finished(outs, layer.finish)

    def dilated(layer, maps):
        outs = []
        for a, groups in zip(maps, layer.groups, strict=True):
            outs.append(None)
            if groups:
                dilations, weights = zip(*groups, strict=True)
                outs[-1] = np.empty((len(x), sum(map(len, weights)), *a.shape[2:]))
                dilated_conv2d(a, weights, dilations, outs[-1])
        return finished(outs, layer.finish)

    maps, fused = [Deferred(x.astype(np.float64))], []
    for number, stage in enumerate(frozen.stages):
        for mix, *layers in stage:
            maps = octave(mix, maps)
            for layer in layers:
                maps = depthwise(layer, maps)
        if number >= len(frozen.stages) - 3:
            fused.append(maps[0])
    (merged,) = octave(frozen.merge, dilated(frozen.dilated, octave(frozen.fuse, fused)))
    weight, bias = frozen.classifier
    logits = np.einsum("c,nchw->nhw", weight, merged.raw)[:, None] + bias
    out[...] = resize(logits, out.shape[2:])
