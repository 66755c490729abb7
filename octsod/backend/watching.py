"""Who watches what is computed: the profiler, while one is at work. Autograd, modules, optimisers, memory and kernels
look here, and see no more of it than this. They read `profiler` once each time: another thread may end the profile."""

import contextlib
from typing import Any, Protocol

_Within = contextlib.AbstractContextManager[Any]


class Profiler(Protocol):
    """What is told of the computation, in each thread."""

    def forward(self, function: Any, tensors: Any, settings: Any) -> _Within:
        """Within it, the op `function` is applied, to what `Function.apply` was given."""

    def noted(self) -> Any:
        """What a node of the op that is being applied keeps for `backward`."""

    def backward(self, node: Any) -> _Within:
        """Within it, a node's backward runs, and its results go to where they belong."""

    def layer(self, module: Any) -> _Within:
        """Within it, a module is called."""

    def span(self, name: str, phase: str) -> _Within:
        """Within it, something else happens that has a name, such as an optimiser's step."""

    def part(self, layer: str, name: str, function: Any, *arguments: Any) -> None:
        """Call `function(*arguments)`, the kernel of that name, which another kernel launches for a layer."""

    def waiting(self, device: Any) -> _Within:
        """Within it, the host waits for a device."""

    def compiling(self) -> _Within:
        """Within it, something is compiled or loaded that later calls find ready."""

    def taken(self, block: Any, size: int) -> None:
        """Bytes of memory were handed out; `block` is hashed by its identity."""

    def returned(self, block: Any, size: int) -> None:
        """They were given back."""


profiler: Profiler | None = None

_NOTHING: _Within = contextlib.nullcontext()


def span(name: str, phase: str) -> _Within:
    """See `Profiler.span`; nothing without a profiler."""
    now = profiler
    return _NOTHING if now is None else now.span(name, phase)


def waiting(device: Any) -> _Within:
    """See `Profiler.waiting`; nothing without a profiler."""
    now = profiler
    return _NOTHING if now is None else now.waiting(device)


def compiling() -> _Within:
    """See `Profiler.compiling`; nothing without a profiler."""
    now = profiler
    return _NOTHING if now is None else now.compiling()
