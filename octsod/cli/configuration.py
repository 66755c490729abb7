"""Settings from a TOML file, which replace the defaults of a command's options."""

import click

from .options import Parsed

# What the value of a setting may be in a file, by the type of its option.
_TOML = (
    (click.IntRange, (int,), "an integer"),
    (click.FloatRange, (int, float), "a number"),
    (Parsed, (str, list, int), "text, a number or a list"),
    (click.types.BoolParamType, (bool,), "true or false"),
    (click.ParamType, (str,), "a string"),
)


def read_configuration(path, ctx, names) -> dict:
    """The settings in the file, converted just as the command's options `names` convert theirs.

    Raises FileError, which names the file and the key, for anything else.
    """
    from ..checks import shortened
    from ..errors import FileError
    from ..files import read_toml

    options = {option.name: option for option in ctx.command.params if option.name in names}
    settings = {}
    for key, value in read_toml(path).items():
        if key == "recipe":
            raise FileError(f"{path}: `recipe` is no setting: a file of settings cannot build on a recipe; "
                            "`octsod train --recipe NAME -c FILE` lays the file over one.")  # fmt: skip
        if key not in options:
            import difflib

            near = difflib.get_close_matches(key, options, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(names)}."
            raise FileError(f"{path}: `{shortened(key)}` is no setting; {hint}")
        option = options[key]
        allowed, expected = next((types, words) for kind, types, words in _TOML if isinstance(option.type, kind))
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            # A table's or a list's own text may be nested too deeply to be made.
            was = f"a {type(value).__name__}" if isinstance(value, (dict, list)) else shortened(repr(value))
            raise FileError(f"{path}: `{key}` is {was}; expected {expected}.")
        try:
            settings[key] = option.type.convert(value, option, ctx)
        except click.BadParameter as error:
            raise FileError(f"{path}: `{key}`: {shortened(error.message)}") from error
        except FileError as error:  # of a file that is named there
            raise FileError(f"{path}: `{key}`: {shortened(error)}") from error
    return settings
