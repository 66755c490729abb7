"""A fixture for pytest. A `conftest.py` gets it by `pytest_plugins = ["octsod.testing.cusim.plugin"]`."""

from collections.abc import Callable

import pytest

from . import RawModule, unavailable


@pytest.fixture(scope="session")
def cuda_module() -> Callable[..., RawModule]:
    """A function that makes modules: `cuda_module(code, options=(), mode="check", ...)`, as `RawModule`. The same
    source with the same settings is compiled once per session. Tests that use it are skipped where there is no g++."""
    if reason := unavailable():
        pytest.skip(reason)
    modules: dict[tuple, RawModule] = {}

    def module(code: str, **settings) -> RawModule:
        key = (code, *sorted((name, str(value)) for name, value in settings.items()))
        if key not in modules:
            modules[key] = RawModule(code=code, **settings)
        return modules[key]

    return module
