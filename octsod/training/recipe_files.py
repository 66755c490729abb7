"""Recipes by name: files of settings that come with octsod, in octsod/recipes, or that people write themselves."""

import os
import pathlib
from typing import Any

from ..errors import FileError
from ..files import named, read_toml

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "recipes"


def recipe_names() -> tuple[str, ...]:
    """The recipes that come with octsod."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def recipe_file(recipe: str | os.PathLike[str]) -> pathlib.Path:
    """The TOML file of a recipe: the file itself, or that of one of the `recipe_names`, unless a file is named so.

    Raises FileError, which says what there is, if there is none.
    """
    path, names = pathlib.Path(recipe), recipe_names()
    if str(recipe) in names and not path.is_file():
        return FOLDER / f"{recipe}.toml"
    if not path.exists():
        raise FileError(f"{named(recipe)}: no such file, and no recipe of octsod's, which are {' and '.join(names)}.")
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
