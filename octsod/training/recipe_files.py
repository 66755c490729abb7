"""Recipes by name: files of settings that come with octsod, in octsod/recipes, or that people write themselves."""

import os
import pathlib
import warnings
from typing import Any

from ..errors import FileError
from ..files import named, read_toml

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "recipes"


def recipe_names() -> tuple[str, ...]:
    """The recipes that come with octsod."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def recipe_file(recipe: str | os.PathLike[str]) -> pathlib.Path:
    """The TOML file of a recipe: the file itself, or that of one of the `recipe_names`. A file of such a name is meant
    instead, with a warning.

    Raises FileError, which says what there is, if there is none.
    """
    path, names = pathlib.Path(recipe), recipe_names()
    if str(recipe) in names:
        if not path.is_file():
            return FOLDER / f"{recipe}.toml"
        warnings.warn(f"{named(recipe)}: is a file here, which is used instead of octsod's own recipe.", stacklevel=2)
    if not os.fspath(recipe) or not path.exists():
        known = " and ".join(names)
        raise FileError(f"{named(recipe) or repr(recipe)}: no such file, and no recipe of octsod's, which are {known}.")
    return path


def read_recipe(recipe: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings of a recipe, for `resolve`'s `base`. recipe: one of the `recipe_names`, or a TOML file of settings.

    Raises FileError, which names the file, if it cannot be read or holds what is no setting.
    """
    from .session import SettingsError, checked

    path = recipe_file(recipe)
    try:
        return checked(read_toml(path))
    except SettingsError as error:
        raise FileError(f"{named(path)}: {error}") from error
