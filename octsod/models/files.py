"""Weight files: safetensors, with the model's configuration beside the arrays."""

import os
import pathlib
import re

import numpy as np

from ..errors import FileError
from ..files import write_atomically
from .configuration import Configuration
from .network import CSNet

FORMAT = "octsod-csnet-1"


def save(model: CSNet, path: str | os.PathLike[str]) -> None:
    """Write a CSNet's parameters, running statistics, configuration and size to a safetensors file, all or nothing."""
    import safetensors.numpy

    facts = {"format": FORMAT, "configuration": model.configuration.to_json(), "size": str(model.size)}
    write_atomically(path, safetensors.numpy.save(dict(model.state_dict()), facts))


def load(path: str | os.PathLike[str]) -> CSNet:
    """The CSNet in a weight file. Raises FileError, which names the file, for anything else."""
    import safetensors
    import safetensors.numpy

    path = pathlib.Path(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise FileError(f"{path}: holds no CSNet of octsod's (its metadata do not name {FORMAT!r}).")
            configuration = Configuration.from_json(metadata.get("configuration", ""))
            size = _size(metadata, configuration)
            names = file.keys()
            dtypes = {file.get_slice(name).get_dtype() for name in names}
            if dtypes not in ({"F32"}, {"F64"}):
                listed = ", ".join(sorted(dtypes)) or "none"
                raise FileError(f"{path}: holds arrays of dtype {listed}; expected F32, or F64, for all.")
            state = {name: file.get_tensor(name) for name in names}
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}.") from error
    except (safetensors.SafetensorError, ValueError) as error:
        raise FileError(f"{path}: not a weight file: {str(error).rstrip('.')}.") from error
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise FileError(f"{path}: `{name}` holds a number that is not finite.")
    try:
        configuration.require_at_most(sum(array.size for array in state.values()))
        model = CSNet(configuration, "float32" if dtypes == {"F32"} else "float64")
        model.load_state_dict(state)
        model.size = size
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error
    return model


def _size(metadata, configuration):
    """The size that a weight file names, or else the paper's; ValueError if the network does not accept it."""
    text, multiple = metadata.get("size", "224"), configuration.multiple
    if not re.fullmatch("[1-9][0-9]{0,4}", text) or int(text) % multiple:
        raise ValueError(f"its size is {text[:20]!r}; expected a multiple of {multiple}")
    return int(text)
