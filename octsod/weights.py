"""Weight files: safetensors, with the model's configuration beside the arrays."""

import os
import pathlib
import tempfile

from .errors import FileError

FORMAT = "octsod-csnet-1"


def save(model, path):
    """Write a CSNet's parameters, running statistics and configuration to a safetensors file, all or nothing."""
    import safetensors.numpy

    path = pathlib.Path(path)
    data = safetensors.numpy.save(
        dict(model.state_dict()), {"format": FORMAT, "configuration": model.configuration.to_json()}
    )
    write_atomically(path, data)


def write_atomically(path, data):
    """Write bytes under a temporary name, flush them to the disk, then rename: readers see all of it or nothing."""
    path = pathlib.Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise


def load(path):
    """The CSNet in a weight file. Raises FileError, which names the file, on anything else."""
    import safetensors
    import safetensors.numpy

    from .models import Configuration, CSNet

    path = pathlib.Path(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise FileError(f"{path}: holds no CSNet of octsod's (format {metadata.get('format')!r}).")
            configuration = Configuration.from_json(metadata.get("configuration", ""))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}.") from error
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise FileError(f"{path}: not a weight file: {error}") from error
    dtypes = {array.dtype for array in state.values()}
    if len(dtypes) != 1:
        raise FileError(f"{path}: arrays of {len(dtypes)} dtypes; expected one.")
    try:
        model = CSNet(configuration, dtypes.pop())
        model.load_state_dict(state)
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error
    return model
