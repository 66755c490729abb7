"""Weight files: safetensors, with the network's architecture and configuration beside the arrays."""

import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..checks import require
from ..errors import FileError
from ..files import write_atomically
from ..nn import Module
from .configuration import Configuration
from .network import CSNet

FORMAT = "octsod-network-1"

Builder = Callable[[Any, str, int], Module]
_architectures: dict[str, Builder] = {}


def register(architecture: str, build: Builder) -> None:
    """Make an architecture known, so that `load` and `octsod train --resume` can build its networks.

    A network's architecture is its attribute `architecture`, or else the name of its class; its configuration is its
    attribute `configuration`, which JSON can express, or else None. build: called with that configuration, "float32" or
    "float64", and the count of numbers in the file; returns a network. Where a small file could describe a giant
    network, it should raise ValueError if the network would have many more numbers than the file.
    """
    _architectures[architecture] = build


def _csnet(values, dtype, count):
    configuration = Configuration.from_json(json.dumps(values))
    configuration.require_at_most(count)
    return CSNet(configuration, dtype)


register(CSNet.architecture, _csnet)


def describe(model: Module) -> dict[str, str]:
    """What a file says about a network beside its arrays: its architecture, configuration, size and labels."""
    configuration = getattr(model, "configuration", None)
    if isinstance(configuration, Configuration):
        text = configuration.to_json()
    else:
        text = json.dumps(configuration)
    facts = {"architecture": architecture_of(model), "configuration": text}
    size, labels = getattr(model, "size", None), getattr(model, "labels", ())
    if isinstance(size, int):
        facts["size"] = str(size)
    if labels:
        facts["labels"] = json.dumps(list(labels))
    return facts


def architecture_of(model: Module) -> str:
    """What kind of network this is."""
    return getattr(model, "architecture", type(model).__name__)


def require_salience(model: Any, op: str, argument: str = "model") -> None:
    """Raise ValueError, which says what it does instead, unless the network is a CSNet that finds salient objects."""
    expected = "a CSNet that finds salient objects"
    require(isinstance(model, CSNet), op, argument, f"is of the architecture {architecture_of(model)!r}", expected)
    classes = model.configuration.classes
    require(not classes, op, argument, f"tells {classes} classes of pictures apart", expected)


def build(facts: Mapping[str, str], state: Mapping[str, np.ndarray]) -> Module:
    """The network that `describe` described, with the arrays of `state`.

    Raises ValueError if the architecture is not known, or the facts or the arrays do not fit.
    """
    dtype = _dtype_of(state)
    architecture = facts.get("architecture", "")
    if architecture not in _architectures:
        known = ", ".join(sorted(_architectures))
        raise ValueError(
            f"holds a network of the architecture {architecture[:50]!r}; known are {known}. "
            "`octsod.models.register` makes another one known."
        )
    try:
        configuration = json.loads(facts.get("configuration", ""))
    except (ValueError, RecursionError) as error:
        raise ValueError("not a configuration: its text is no JSON") from error
    model = _architectures[architecture](configuration, dtype, sum(array.size for array in state.values()))
    model.load_state_dict(state)
    restore_facts(model, facts)
    return model


def _dtype_of(state):
    """The name of all arrays' dtype, float32 or float64; ValueError unless they have one, and finite numbers."""
    dtypes = {str(array.dtype) for array in state.values()}
    if dtypes not in ({"float32"}, {"float64"}):
        listed = ", ".join(sorted(dtypes)) or "none"
        raise ValueError(f"holds arrays of dtype {listed}; expected float32, or float64, for all.")
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise ValueError(f"`{name}` holds a number that is not finite.")
    return dtypes.pop()


def restore_facts(model: Any, facts: Mapping[str, str]) -> None:
    """Give a network the size and labels of a file. Raises ValueError if it does not accept them."""
    if "size" in facts:
        text, multiple = facts["size"], getattr(getattr(model, "configuration", None), "multiple", 1)
        if not re.fullmatch("[1-9][0-9]{0,4}", text) or int(text) % multiple:
            raise ValueError(f"its size is {text[:20]!r}; expected a multiple of {multiple}")
        model.size = int(text)
    if "labels" in facts:
        try:
            labels = json.loads(facts["labels"])
        except (ValueError, RecursionError) as error:
            raise ValueError("its labels are no JSON") from error
        if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
            raise ValueError("its labels are no list of names")
        model.labels = tuple(labels)


def save(model: Module, path: str | os.PathLike[str]) -> None:
    """Write a network's parameters, running statistics, architecture, configuration, size and labels to a safetensors
    file, all or nothing. What a CSNet has in training only is left out."""
    import safetensors.numpy

    model = model.deployed() if isinstance(model, CSNet) else model
    write_atomically(path, safetensors.numpy.save(dict(model.state_dict()), {"format": FORMAT, **describe(model)}))


def load(path: str | os.PathLike[str], model: Module | None = None) -> Any:
    """The network in a weight file; a CSNet, or another architecture made known by `register`.

    model: a network to copy the weights into and return instead; the file must hold one of its architecture and
    configuration. Raises FileError, which names the file, for anything else.
    """
    import safetensors

    path = pathlib.Path(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            if facts.get("format") != FORMAT:
                raise FileError(f"{path}: holds no network of octsod's (its metadata do not name {FORMAT!r}).")
            names = file.keys()
            # A file may have types that NumPy lacks.
            foreign = {file.get_slice(name).get_dtype() for name in names} - {"F32", "F64"}
            if foreign:
                listed = ", ".join(sorted(foreign))
                raise FileError(f"{path}: holds arrays of dtype {listed}; expected F32, or F64, for all.")
            state = {name: file.get_tensor(name) for name in names}
        if model is None:
            return build(facts, state)
        own = describe(model)
        for name in ("architecture", "configuration"):
            if facts.get(name) != own[name]:
                raise ValueError(f"its {name} is {facts.get(name, '')[:200]}; expected {own[name][:200]}.")
        _dtype_of(state)
        model.load_state_dict(state)
        restore_facts(model, facts)
        return model
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}.") from error
    except safetensors.SafetensorError as error:
        raise FileError(f"{path}: not a weight file: {str(error).rstrip('.')}.") from error
    except (ValueError, TypeError) as error:
        raise FileError(f"{path}: {str(error).rstrip('.')}.") from error
