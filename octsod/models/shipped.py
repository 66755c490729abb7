"""The networks that come with octsod: weight files in octsod/shipped, each with a card, and facts about them."""

import difflib
import functools
import os
import pathlib
import re
import warnings
from typing import Any, NamedTuple

from ..errors import FileError
from ..files import named, read_text, read_toml

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "shipped"
MOST_CARD = 1 << 16  # bytes


class Shipped(NamedTuple):
    """A network that comes with octsod, as octsod/shipped/models.toml describes it.

    name: what `load` and --model call it. about: what it is, in a few words. parameters, macs: as `complexity` counts
    them, the latter at its size. size: the side in pixels of the square that it sees. training: how it was trained, in
    a few words. scores: data set -> {"max_f", "mae"}, by the evaluation protocol at that size.
    """

    name: str
    about: str
    parameters: int
    macs: int
    size: int
    training: str
    scores: dict[str, dict[str, float]]

    @property
    def file(self) -> pathlib.Path:
        """Its weight file."""
        return FOLDER / f"{self.name}.safetensors"

    @property
    def card(self) -> str:
        """Its model card, Markdown: data, recipe, scores, licence, what it is known to get wrong."""
        return read_text(FOLDER / f"{self.name}.md", MOST_CARD)

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON can express them."""
        return {**self._asdict(), "file": str(self.file)}


@functools.cache
def networks() -> tuple[Shipped, ...]:
    """The networks that come with octsod, the best first. Raises FileError if the file that lists them is damaged."""
    path = FOLDER / "models.toml"
    try:
        found = tuple(Shipped(name, **facts) for name, facts in read_toml(path).items())
    except TypeError:
        found = ()
    if not found:
        raise FileError(f"{path}: does not describe the networks that come with octsod; install octsod anew.")
    return found


def meant(name: str) -> str | None:
    """The name of the network that comes with octsod that `name` spells in its own way, perhaps exactly, such as
    CSNet_X1 or csnet-x1.safetensors; None if there is none."""

    def letters(text):
        return re.sub(r"[\W_]", "", text.removesuffix(".safetensors").casefold())

    if pathlib.PurePath(name).name != name.rstrip("/\\"):  # in a folder, so it was meant as a file
        return None
    return next((network.name for network in networks() if letters(network.name) == letters(name)), None)


def unknown(name: str) -> str:
    """The end of a sentence that says that no network has this name: which one is meant, or which there are."""
    if known := meant(name):
        return f"a network that comes with octsod is named {known}."
    names = [network.name for network in networks()]
    near = difflib.get_close_matches(name.casefold(), names, 1)
    return f"no network that comes with octsod: {', '.join(names)}{f'; did you mean {near[0]}?' if near else '.'}"


def own_file(name: str) -> pathlib.Path | None:
    """The weight file of the network that comes with octsod under this name; None if there is none."""
    return next((network.file for network in networks() if network.name == name), None)


def shipped_file(name: str | bytes | os.PathLike) -> pathlib.Path | None:
    """As `own_file`, but None also if a file or folder has this name, which then is meant. Warns in that case."""
    text = os.fsdecode(name)
    if os.path.basename(text) != text:
        return None
    found = own_file(text)
    if found is not None and os.path.lexists(text):
        warnings.warn(f"{named(name)}: is a path here, which is used instead of octsod's own network.", stacklevel=3)
        return None
    return found
