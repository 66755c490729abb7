"""Where weights are: in a weight file, in the folder of a run, which stands for its best ones, or with octsod."""

import os
import pathlib
import shlex

from ..errors import FileError
from ..files import named, open_file, read_from
from .shipped import meant, shipped_file, unknown

_IN_A_RUN = ("weights/best.safetensors", "weights/last.safetensors")  # the first that is there
_CHECKPOINTS = (".pth.tar", ".pth", ".pt", ".ckpt", ".pkl", ".pickle")
_STARTS = (b"PK\3\4", b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")  # of a zip, and of pickles by their protocol


def weight_file(path: str | bytes | os.PathLike) -> pathlib.Path:
    """The weight file that `path` means: itself, or if it is the folder of a run, its weights/best.safetensors, or
    weights/last.safetensors before the first validation; or that of the network that comes with octsod under this name,
    see `shipped.networks`.

    Raises FileError, which names `path`, if there is no such file, if a folder has neither, and if the file is a
    checkpoint as PyTorch writes them: `octsod convert` reads those of CSNet's authors. If a file is missing, but
    `path` is nearly the name of a network that comes with octsod, the error says that name (`shipped.unknown`).
    """
    if (file := shipped_file(path)) is not None:
        return file
    text = os.fsdecode(path)
    path = pathlib.Path(text)
    if os.path.isdir(path):
        found = next((path / name for name in _IN_A_RUN if os.path.isfile(path / name)), None)
        if found is None:
            raise FileError(f"{path}: is no run folder: it has no {' or '.join(_IN_A_RUN)}.")
        return found
    if not os.path.lexists(path):
        if meant(text):
            raise FileError(f"{named(text)}: no such file; {unknown(text)}")
        if path.name == text and not path.suffix:
            raise FileError(f"{path}: no such file, and {unknown(text)}")
    if os.path.isfile(path) and _is_checkpoint(path):
        ending = next((ending for ending in _CHECKPOINTS if path.name.lower().endswith(ending)), path.suffix)
        target = f"{path.name[: len(path.name) - len(ending)]}.safetensors"
        command = f"octsod convert {shlex.quote(str(path))} -o {shlex.quote(target)} --config LAYERS.bin"
        raise FileError(f"{path}: is a checkpoint, not a weight file; if it is the authors', `{command}` converts it.")
    return path


def _is_checkpoint(path):
    """Whether a file is a zip or a pickle. One that is neither counts as a checkpoint if it is named like one, unless
    it begins as a weight file does: with the length of its header, 8 bytes, and a brace."""
    with open_file(path) as file:
        start = read_from(file, named(path), 9)
    return start[8:] != b"{" and (start.startswith(_STARTS) or path.name.lower().endswith(_CHECKPOINTS))
