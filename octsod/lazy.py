"""Packages whose names load the modules that they come from, when they are first used."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def loading(package: str, names: Mapping[str, str], modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package. names: a name -> the module that has it; modules: a name -> the module that it
    stands for. Modules are relative to the package."""

    def load(name):
        from .threads import uninterrupted

        with uninterrupted():
            if name in names:
                value = getattr(importlib.import_module(f"{package}.{names[name]}"), name)
                setattr(sys.modules[package], name, value)
                return value
            if name in modules:
                return importlib.import_module(f"{package}.{modules[name]}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load
