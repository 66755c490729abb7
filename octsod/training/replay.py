"""Steps that a device repeats: captured once, then replayed as one launch."""

from collections.abc import Callable, Sequence
from typing import Any

from .. import random
from ..autograd.tensor import Tensor
from ..backend import Device, on, watching
from ..errors import NotReplayableError

WARM = 1  # steps that are made launch by launch first, so that kernels are compiled, and numbers on the device


def constants_of(thing: Any, method: str) -> tuple[Any, ...] | None:
    """`thing.constants()`; None if a subclass has a `method` of its own, of which those constants know nothing."""
    classes = type(thing).__mro__
    where = {name: next(i for i, kind in enumerate(classes) if name in vars(kind)) for name in ("constants", method)}
    return thing.constants() if where["constants"] <= where[method] else None


class Replays:
    """Runs the steps of a trainer, on a device that captures: by launching their kernels, or by replaying them.

    A step is captured once the same one, by shapes, arrays and constants, has been made `WARM` times. One that differs
    begins anew: sizes of pictures change rarely, and a captured step keeps the memory for all its maps.
    """

    def __init__(self, device: Device):
        self._device = device
        self._able = True  # until a step turns out to need the host
        self._known: tuple[Any, ...] | None = None  # what the latest step was like
        self._made = 0  # how many such steps
        self._inputs: list[Tensor] = []
        self._replay: Callable[[], None] | None = None

    @property
    def captured(self) -> bool:
        """Whether there is a captured step."""
        return self._replay is not None

    def run(
        self, constants: tuple[Any, ...] | None, arrays: Sequence[Any], inputs: Sequence[Tensor],
        launch: Callable[[Sequence[Tensor]], None],
    ) -> None:  # fmt: skip
        """Make a step: `launch(inputs)`, or the same from what was captured.

        constants: all that the step depends on besides arrays; None if nobody knows. arrays: those that it uses beside
        its inputs and may find in other places later.
        """
        if watching.profiler is not None:  # which wants to see each launch
            launch(inputs)
            return
        if constants is None or not self._able:
            self._forget()
            launch(inputs)
            return
        known = (constants, [(tensor.shape, tensor.dtype) for tensor in inputs])
        if self._known is None or known != self._known[:2] or not _same(arrays, self._known[2]):
            self._forget()
            self._known = (*known, list(arrays))
        self._made += 1
        if self._made <= WARM or not self._captured(inputs, launch):
            launch(inputs)
            return
        with on(self._device):
            for source, target in zip(inputs, self._inputs, strict=True):
                self._device.kernels.copy(source.array(), target.array())
        self._replay()  # type: ignore[misc]

    def _captured(self, inputs, launch):
        """Whether the step is captured; it is, if possible."""
        if self._replay is None:
            device = self._device
            self._inputs = [Tensor.on(device, device.empty(x.shape, x.dtype)) for x in inputs]
            try:
                with random.undrawn():
                    self._replay = device.capture(lambda: launch(self._inputs))
            except NotReplayableError:
                self._able = False
                self._forget()
        return self._replay is not None

    def _forget(self):
        self._known, self._made, self._inputs, self._replay = None, 0, [], None


def _same(some, others):
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))
