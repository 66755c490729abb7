"""Forward and backward passes of a function under test, which watch that nothing is changed in place."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd.graph import backward_all
from ..autograd.mode import no_grad, unguarded
from ..autograd.tensor import Tensor
from .gradient_report import GradientError

SEED = 0x0C75  # a generator of its own: neither reads nor disturbs anybody else's random numbers


def random_numbers(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Numbers away from zero, of either sign and all different."""
    return generator.uniform(0.5, 1.5, shape) * generator.choice((-1.0, 1.0), shape)


def signs(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return generator.choice((-1.0, 1.0), shape)


class Passes:
    """A function with its inputs, on behalf of the check `name`.

    checked: the inputs that gradients are taken of, by number. dtype: that of all outputs. parameters: the names of
    those inputs, the last ones, that are a module's parameters. calls: how often fn has run. names: of all inputs.
    """

    def __init__(
        self, name: str, fn: Callable[..., Any], inputs: Sequence[Any], checked: dict[int, Tensor], dtype: Any,
        parameters: Sequence[str] = (),
    ):  # fmt: skip
        self.name, self.fn, self.inputs, self.checked, self.dtype = name, fn, inputs, checked, np.dtype(dtype)
        self.calls, self._note = 0, ""
        own = [f"input {number}" for number in range(len(inputs) - len(parameters))]
        self.names = (*own, *(f"parameter `{parameter}`" for parameter in parameters))

    def outputs(self) -> list[Tensor]:
        """The tensors that fn returns."""
        self.calls += 1
        result = self.fn(*self.inputs)
        outputs = [result] if isinstance(result, Tensor) else result
        if not isinstance(outputs, (tuple, list)) or not all(y is None or isinstance(y, Tensor) for y in outputs):
            raise TypeError(
                f"{self.name}: `fn` returned {type(result).__name__}; expected a tensor or a tuple of tensors."
            )
        outputs = [y for y in outputs if y is not None]
        if not outputs:
            raise ValueError(f"{self.name}: `fn` returned no tensor; expected at least one.")
        for y in outputs:
            if y.dtype != self.dtype:
                raise TypeError(f"{self.name}: `fn` returned a tensor of {y.dtype}; expected {self.dtype}.")
        return outputs

    def forward(self) -> list[Any]:
        """The outputs as NumPy arrays; nothing is recorded."""
        with no_grad():
            return [y.numpy() for y in self.outputs()]

    def first(self) -> tuple[list[Any], list[Any], dict[int, Any]]:
        """Values of the outputs, their cotangents and the gradients; raises GradientError if fn or a backward changes
        an input, an output or a cotangent in place."""
        try:
            return self._there_and_back()
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            # Of what an op was given. It gets copies that can be written, to see which one it changes.
            for x in self.inputs:
                if isinstance(x, Tensor):
                    x._data = x.device.put(x.numpy().copy())
            with unguarded():
                self._there_and_back()
            raise GradientError(f"{self.name}: `fn` or its backward writes to what it was given: {error}.") from error

    def _there_and_back(self):
        originals = _copies(self.inputs)
        outputs = self.outputs()
        self._require_unchanged(self.names, originals, _copies(self.inputs))
        values = [y.numpy().copy() for y in outputs]
        if not all(np.isfinite(y).all() for y in values):
            raise GradientError(f"{self.name}: `fn` returned a number that is not finite.")
        generator = np.random.default_rng(SEED)
        cotangents = [random_numbers(generator, y.shape).astype(self.dtype) for y in values]
        gradients, given = self._backward(outputs, cotangents)
        self._require_unchanged(self.names, originals, _copies(self.inputs))
        numbers = range(len(outputs))
        self._require_unchanged([f"cotangent {k}" for k in numbers], dict(enumerate(cotangents)), _copies(given))
        self._require_unchanged([f"output {k}" for k in numbers], dict(enumerate(values)), _copies(outputs))
        return values, cotangents, gradients

    def gradients(self, cotangents: Sequence[Any], dirty: bool = False) -> dict[int, Any]:
        """The gradients by input, for a cotangent per output; None for one that takes no part.

        dirty: what backward gets to write an input's gradient to is full of NaN beforehand.
        """
        homes = {number: x._home for number, x in self.checked.items()}
        self._note = ", where it got an array full of NaN to write to" if dirty else ""
        try:
            for x in self.checked.values() if dirty else ():
                x._home = x.device.full(x.shape, np.nan, x.dtype)
            return self._backward(self.outputs(), cotangents)[0]
        finally:
            self._note = ""
            for number, x in self.checked.items():
                x._home = homes[number]

    def _backward(self, outputs, cotangents):
        for x in self.checked.values():
            x.grad = None
        given = [None if v is None else Tensor.on(y.device, v.copy()) for y, v in zip(outputs, cotangents, strict=True)]
        roots = [(y, v) for y, v in zip(outputs, given, strict=True) if v is not None and y.requires_grad]
        backward_all([y for y, _ in roots], [v for _, v in roots])
        gradients = {number: self._gradient(number, x) for number, x in self.checked.items()}
        for x in self.checked.values():
            x.grad = None
        return gradients, given

    def _gradient(self, number, x):
        if x.grad is None:
            return np.zeros(x.shape, x.dtype)
        grad = x.device.get(x.grad).copy()
        if not np.isfinite(grad).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(grad))[0])
            where = f"{self.names[number]} at {index}"
            raise GradientError(f"{self.name}: {where}: backward gives {grad[index]}{self._note}.")
        return grad

    def _require_unchanged(self, names, originals, arrays):
        for number, array in arrays.items():
            if array.tobytes() != originals[number].tobytes():
                raise GradientError(f"{self.name}: `fn` or its backward changed {names[number]} in place.")


def _copies(inputs):
    arrays = [(i, x.numpy() if isinstance(x, Tensor) else x) for i, x in enumerate(inputs)]
    return {i: a.copy() for i, a in arrays if isinstance(a, np.ndarray)}
