"""Finds where a non-finite number came from, for the error message of a training that diverged."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.mode import observe
from ..nn import Module


def first_nonfinite(model: Module, forward: Callable[[], Any]) -> str | None:
    """What first became infinite or not a number: a parameter of `model`, or else an op when `forward()` is run again.

    Returns words such as "OctaveConv2d in `extractor.stages.2.0.mix`", or None if all is finite. In training mode,
    the pass updates batch norm's running statistics.
    """
    for name, parameter in model.named_parameters():
        if not np.isfinite(parameter.numpy()).all():
            return f"the parameter `{name}`"
    layers: list[str] = []
    found: list[str] = []

    def check(function, outputs):
        if not found and not all(np.isfinite(output.numpy()).all() for output in outputs if output is not None):
            place = f"in `{layers[-1]}`" if layers and layers[-1] else "after the last layer"
            found.append(f"{function.__name__} {place}")

    with np.errstate(all="ignore"), _tracked(model, layers), observe(check):
        forward()
    return found[0] if found else None


@contextlib.contextmanager
def _tracked(model, layers):
    """Within it, `layers` is the stack of names of the modules whose forward is running."""

    def tracked(name, forward):
        def run(*inputs, **keywords):
            layers.append(name)
            try:
                return forward(*inputs, **keywords)
            finally:
                layers.pop()

        return run

    modules = list(model.named_modules())
    for name, module in modules:
        module.forward = tracked(name, module.forward)  # on the instance, where it hides the method of the class
    try:
        yield
    finally:
        for _, module in modules:
            del module.forward
