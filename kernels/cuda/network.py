"""The whole network for inference: layer by layer, by the kernels of training. Whatever reads a map applies batch norm
and PReLU while it loads, so that each map is written once."""

import collections
import weakref
from typing import Any, NamedTuple

import numpy as np

from octsod.backend import watching
from octsod.backend.deferred import Deferred
from octsod.threads import new_lock

from .arrays import copy
from .convolution import conv2d, dilated_conv2d
from .depthwise import depthwise_conv2d
from .driver import driver
from .octave import octave_conv2d
from .resampling import upsample_bilinear


class Step(NamedTuple):
    """A layer with its arrays on the device, in the shapes that kernels take. coefficients: those of the maps that it
    makes. finished: the maps that nobody reads after it."""

    layer: Any
    weights: tuple[Any, ...]
    coefficients: tuple[Any, ...]
    finished: tuple[tuple[str, int], ...]


SHAPES = 4  # how many shapes a network is kept captured for, each with memory for its maps

_networks = weakref.WeakKeyDictionary()  # network -> its steps, which do not refer to it
_replays = weakref.WeakKeyDictionary()  # network -> shape -> its `_Replay`
_lock = new_lock()


def csnet(frozen, x, out):
    if frozen.device is None or not frozen.device.captures or watching.profiler is not None:
        _through(_steps(frozen), x, out)
        return
    with _lock:
        replays = _replays.setdefault(frozen, collections.OrderedDict())
        replay = replays.pop(x.shape, None) or _Replay(frozen.device, _steps(frozen))
        replays[x.shape] = replay  # as the latest
        if len(replays) > SHAPES:
            replays.popitem(last=False)
        replay(x, out)


class _Replay:
    """The network for maps of one shape, as one launch. The first call launches its kernels one by one, so that they
    are compiled and loaded; the second captures them."""

    def __init__(self, device, steps):
        self._device, self._steps = device, steps
        self._warm, self._run, self._x, self._out = False, None, None, None

    def __call__(self, x, out):
        if not self._warm:
            self._warm = True
            _through(self._steps, x, out)
            return
        if self._run is None:
            self._x, self._out = driver().empty(x.shape, x.dtype), driver().empty(out.shape, out.dtype)
            self._run = self._device.capture(lambda: _through(self._steps, self._x, self._out))
        copy(x, self._x)
        self._run()
        copy(self._out, out)


def _through(steps, x, out):
    """out = the logits of a network, given by its steps, for pictures x."""
    *steps, classifier = steps
    maps = {("image", 0): Deferred(x)}
    for step in steps:
        layer = step.layer
        outs = [_map(x, n, layer.scale + j) if n else None for j, n in enumerate(layer.outputs)]
        _CONVOLVE[layer.kind](step, [read and maps[read] for read in layer.reads], outs)
        for j, (raw, coefficients) in enumerate(zip(outs, step.coefficients, strict=True)):
            if raw is not None:
                maps[layer.name, j] = Deferred(raw, coefficients)
        for read in step.finished:
            del maps[read]
    (read,) = classifier.layer.reads
    logits = _map(x, 1, classifier.layer.scale)
    _launch(classifier, conv2d, maps[read], *classifier.weights, logits, 1, 0, 1)
    _launch(classifier, upsample_bilinear, logits, out)


def _launch(step, kernel, *arguments):
    profiler = watching.profiler
    if profiler is None:
        kernel(*arguments)
    else:
        profiler.part(step.layer.name, kernel.__name__, kernel, *arguments)


def _map(x, channels, scale):
    images, _, height, width = x.shape
    return driver().empty((images, channels, height >> scale, width >> scale), x.dtype)


def _octave(step, maps, outs):
    _launch(step, octave_conv2d, maps, *step.weights, outs, step.layer.stride)


def _depthwise(step, maps, outs):
    for x, weight, out in zip(maps, step.weights, outs, strict=True):
        if out is not None:
            _launch(step, depthwise_conv2d, x, weight, out, 1, 1, 1)


def _dilated(step, maps, outs):
    for x, groups, out in zip(maps, step.weights, outs, strict=True):
        if out is not None:
            dilations, weights = zip(*groups, strict=True)
            _launch(step, dilated_conv2d, x, weights, dilations, out)


_CONVOLVE = {"octave": _octave, "depthwise": _depthwise, "dilated": _dilated}  # by the layer's kind


def _steps(frozen):
    """The steps of a network. Its arrays are put on the device once, and stay there as long as the network lives."""
    with _lock:
        steps = _networks.get(frozen)
        if steps is None:
            steps = _networks[frozen] = _prepared(frozen)
        return steps


def _prepared(frozen):
    put = frozen.device.put if frozen.device else np.ascontiguousarray  # without a device, arrays are NumPy's
    last = {read: part.layer for part in frozen.layers for read in part.layer.reads if read}
    steps = []
    for part in frozen.layers:
        coefficients = tuple(
            finish and put(np.stack([finish.scale, finish.shift, finish.slope, np.zeros_like(finish.scale)]))
            for finish in part.finish
        )
        finished = tuple(read for read, layer in last.items() if layer is part.layer)
        steps.append(Step(part.layer, _WEIGHTS[part.layer.kind](part.weights, put), coefficients, finished))
    return steps


def _octave_weights(weights, put):
    (weight,) = weights
    return (put(weight),)


def _depthwise_weights(weights, put):
    return tuple(None if weight is None else put(weight[:, None]) for weight in weights)


def _dilated_weights(weights, put):
    return tuple(tuple((dilation, put(weight)) for dilation, weight in groups) for groups in weights)


def _classifier_weights(weights, put):
    weight, bias = weights
    return put(weight.reshape(1, -1, 1, 1)), put(bias.reshape(1))


_WEIGHTS = {
    "octave": _octave_weights,
    "depthwise": _depthwise_weights,
    "dilated": _dilated_weights,
    "conv": _classifier_weights,
}
