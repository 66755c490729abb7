"""Weight files: safetensors, with the network's architecture and configuration beside the arrays."""

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..checks import require, require_integer, shortened
from ..errors import FileError, detail
from ..files import parse_json, write_atomically
from ..nn import Module
from ..tensor_files import checksum, pack, read_arrays
from .configuration import Configuration
from .network import CSNet
from .shapes import require_as_described
from .weights import weight_file

FORMAT = "octsod-network-1"
MOST_UNASKED = 1 << 30  # bytes of memory that a file alone may ask for: a CSNet of width 1 sees 2800 pixels with them

Builder = Callable[[Any, str, int], Module]
_architectures: dict[str, Builder] = {}


def register(architecture: str, build: Builder) -> None:
    """Make an architecture known in this process, so that `load` and a run's `Checkpoint.model` can build its networks.

    A network's architecture is its attribute `architecture`, or else the name of its class; its configuration is its
    attribute `configuration`, which JSON can express, or else None. build: called with that configuration, the dtype of
    all arrays, such as "float32" (of several, their names with commas between), and the count of numbers in the file;
    returns a network. Where a small file could describe a giant network, it should raise ValueError if the network
    would have many more numbers than the file.
    """
    _architectures[architecture] = build


def _csnet(values, dtype, count):
    configuration = Configuration.from_values(values)
    if dtype not in ("float32", "float64"):
        raise ValueError(f"holds arrays of dtype {dtype}; expected float32, or float64, for all")
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
    size: Any = getattr(model, "size", None)
    labels = getattr(model, "labels", ())
    if hasattr(size, "__index__") and not isinstance(size, (bool, np.ndarray)) and 0 < size < 100_000:
        facts["size"] = str(int(size))
    if _are_labels(labels) and labels:
        facts["labels"] = json.dumps(labels)
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


def side_for(model: Any, size: int | None, op: str) -> int:
    """The side of the square that a network is to see: `size`, or if that is None, its own, which a file may have set.

    Raises ValueError for the latter if a CSNet would take more than `MOST_UNASKED` bytes: a stranger's file could name
    any size, and any number of channels. Who gives a size means it.
    """
    if size is not None:
        return require_integer(size, op, "size", 1)
    own = require_integer(model.size, op, "model.size", 1)
    if isinstance(model, CSNet):
        needed = 2 * model.configuration.largest_map(own) * model.dtype.itemsize  # a layer reads one, writes one
        if needed > MOST_UNASKED:
            what = f"the network's own size is {own} pixels, at which it takes {needed / 1e9:.1f} GB or more"
            raise ValueError(f"{op}: {what}; give `size` if you mean it.")
    return own


def build(facts: Mapping[str, str], state: Mapping[str, np.ndarray]) -> Module:
    """The network that `describe` described, with the arrays of `state`.

    Raises ValueError if the architecture is not known, or the facts or the arrays do not fit.
    """
    if not all(isinstance(text, str) for text in facts.values()):
        raise ValueError("its facts about the network are no texts")
    _require_finite(state)
    architecture = facts.get("architecture", "")
    if architecture not in _architectures:
        known = ", ".join(sorted(_architectures))
        raise ValueError(
            f"holds a network of the architecture {architecture[:50]!r}; known are {known}. "
            "`octsod.models.register` makes another one known."
        )
    try:
        configuration = parse_json(facts.get("configuration", ""))
    except ValueError as error:
        raise ValueError(f"not a configuration: {error}") from error
    dtype = ", ".join(sorted({str(array.dtype) for array in state.values()})) or "none"
    try:
        model = _architectures[architecture](configuration, dtype, sum(array.size for array in state.values()))
    except (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
        what = f"its configuration makes no network of architecture {architecture!r}"
        raise ValueError(f"{what}: {detail(error)}") from error
    own = _own_facts(model, facts)
    model.load_state_dict(state)
    vars(model).update(own)
    return model


def _require_finite(state):
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise ValueError(f"`{shortened(name)}` holds a number that is not finite.")


def _own_facts(model, facts):
    """The size and labels of a file, by the names of the network's attributes. Raises ValueError if it does not accept
    them."""
    found = {}
    configuration = getattr(model, "configuration", None)
    if "size" in facts:
        text, multiple = facts["size"], getattr(configuration, "multiple", 1)
        if not re.fullmatch("[1-9][0-9]{0,4}", text) or int(text) % multiple:
            raise ValueError(f"its size is {text[:20]!r}; expected a multiple of {multiple}")
        found["size"] = int(text)
    if "labels" in facts:
        try:
            labels = parse_json(facts["labels"])
        except ValueError as error:
            raise ValueError(f"its labels are no JSON: {error}") from error
        if not _are_labels(labels):
            raise ValueError("its labels are no list of different names")
        classes = getattr(configuration, "classes", len(labels))
        if len(labels) != classes:
            raise ValueError(f"it has {len(labels)} labels for {classes} classes")
        found["labels"] = tuple(labels)
    return found


def _are_labels(labels):
    names = isinstance(labels, (list, tuple)) and all(isinstance(label, str) for label in labels)
    return names and len(set(labels)) == len(labels)


def _deployed(model):
    return model.deployed() if isinstance(model, CSNet) else model


def save(model: Module, path: str | os.PathLike[str]) -> None:
    """Write a network's parameters, running statistics, architecture, configuration, size and labels to a safetensors
    file, all or nothing, with a checksum. What a CSNet has in training only is left out.

    Raises ValueError for what `load` would not read: numbers that are not finite, and a CSNet whose arrays are not
    those that its configuration describes.
    """
    model = _deployed(model)
    state = model.state_dict()
    _require_finite(state)
    if isinstance(model, CSNet):
        require_as_described(model, model.configuration.layers(), "save")
        require_integer(model.size, "save", "model.size", 1)
    facts = {"format": FORMAT, **describe(model)}
    write_atomically(path, pack(state, {**facts, "crc32": _checksum(facts, state)}))


def _checksum(facts, state):
    """That of all a file holds but the checksum itself."""
    return checksum(state, json.dumps(facts, sort_keys=True))


def load(path: str | os.PathLike[str], model: Module | None = None) -> Any:
    """The network in a weight file; a CSNet, or another architecture made known by `register`.

    path: a weight file; the folder of a run, which stands for its best weights (`weights.weight_file`); or the name of
    a network that comes with octsod (`shipped.networks`), unless there is a file or folder of that name. model: a
    network to copy the weights into and return instead; the file must hold one of its architecture and configuration.
    Raises FileError, which names the file, for anything else, and if the file has a checksum that does not fit.
    """
    path = weight_file(path)
    facts, state = read_arrays(path, "weight file")
    if facts.get("format") != FORMAT:
        raise FileError(f"{path}: holds no network of octsod's (its metadata do not name {FORMAT!r}).")
    try:
        known = facts.pop("crc32", None)  # other tools write none
        if known is not None and known != _checksum(facts, state):
            raise ValueError("is damaged: its contents do not match their checksum; get or make it again")
        if model is None:
            return build(facts, state)
        own = _deployed(model)
        expected = describe(own)
        for name in ("architecture", "configuration"):
            if facts.get(name) != expected[name]:
                raise ValueError(f"its {name} is {facts.get(name, '')[:200]}; expected {expected[name][:200]}.")
        _require_finite(state)
        attributes = _own_facts(model, facts)
        # What the model has in training only stays as it is; the file has the rest.
        model.load_state_dict({**{n: a for n, a in model.state_dict().items() if n not in own.state_dict()}, **state})
        vars(model).update(attributes)
        return model
    except (ValueError, TypeError) as error:
        raise FileError(f"{path}: {detail(error)}.") from error
