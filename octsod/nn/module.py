"""Parameters, and modules that hold and name them."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from ..autograd import Tensor
from ..backend import Device, default_device, device_of, get_device, is_array, watching
from ..backend.arrays import numbers

if TYPE_CHECKING:
    from .layers import NormAct

Self = TypeVar("Self", bound="Module")


class Parameter(Tensor):
    """A tensor that is learned. It owns its memory, a copy of `array`; setting `data` writes there."""

    __slots__ = ()

    def __init__(self, array: Any):
        on_host = isinstance(array, np.ndarray) or not is_array(array)
        super().__init__(numbers(array, "Parameter: `array`").copy() if on_host else array, True)

    @Tensor.data.setter  # type: ignore[attr-defined]
    def data(self, array: Any) -> None:
        self._fitting(array, "data", self._data)

    def move(self, device: str | Device) -> None:
        """Move to another device, with the gradient."""
        own, device = self.device, get_device(device)
        if not device.shares_memory_with(own):
            self._data = device.put(own.get(self._data))
            self._grad = self._grad if self._grad is None else device.put(own.get(self._grad))
            self._home = None


class Module:
    """Base of all layers and models.

    A subclass has a method `forward`. Attributes that are Parameters, Modules, or lists, tuples or dicts of them (None
    for a missing entry) are found by name. Arrays named in `buffers` are saved with the parameters; setting one keeps a
    copy of an array of its shape and dtype. What is found by two names counts once. training: whether batch statistics
    are used; frozen: whether it stays as it is, see `freeze`.
    """

    buffers: tuple[str, ...] = ()
    training = True
    frozen = False

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, self._buffer(name, value) if name in self.buffers else value)

    def _buffer(self, name, value):
        """What is set as a buffer, as an array that is fit for kernels and like the one before: a copy on hosts, since
        buffers are updated in place."""
        what, before = f"{type(self).__name__}: `{name}`", vars(self).get(name)
        if value is before and value is not None:  # as after `self.count += 1`
            return value
        value = value.array() if isinstance(value, Tensor) else value
        on_host = isinstance(value, np.ndarray) or not is_array(value)
        array = numbers(value, what).copy() if on_host else value
        if before is not None and (array.shape != before.shape or array.dtype != before.dtype):
            raise ValueError(
                f"{what} is {array.dtype} {tuple(array.shape)}; expected {before.dtype} {tuple(before.shape)}, "
                "like the array before."
            )
        return array

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        profiler = watching.profiler
        if profiler is None:
            return self.forward(*inputs, **keywords)
        with profiler.layer(self):
            return self.forward(*inputs, **keywords)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        raise TypeError(f"{type(self).__name__} needs a method `forward`.")

    def _children(self):
        """(name, parameter or module) of all that this module holds itself."""
        found = []
        for name, value in vars(self).items():
            _collect(name, value, found)
        return found

    def _named(self, prefix=""):
        """(name and a dot, module, its `_children`) of this module and all below it, by each of their names."""
        children = self._children()
        yield prefix, self, children
        for name, child in children:
            if isinstance(child, Module):
                yield from child._named(f"{prefix}{name}.")

    def _state(self):
        """(name, module, attribute or None, parameter or None) of each parameter and buffer, by each of its names."""
        passed = []
        for prefix, module, children in self._named():  # lazily: often only the first parameter is wanted
            passed.append((prefix, module))
            for name, child in children:
                if isinstance(child, Parameter):
                    yield prefix + name, module, None, child
        for prefix, module in passed:
            for name in module.buffers:
                yield prefix + name, module, name, None

    def named_modules(self) -> Iterator[tuple[str, "Module"]]:
        """(name, module) of this module and all below it, each once."""
        return _once((prefix[:-1], module) for prefix, module, _ in self._named())

    def modules(self) -> Iterator["Module"]:
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(name, parameter), in the order of definition, each once."""
        return _once((name, parameter) for name, _, _, parameter in self._state() if parameter is not None)

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, in the order of definition."""
        return (parameter for _, parameter in self.named_parameters())

    def decayed_norms(self) -> list[tuple["NormAct", int]]:
        """The norms of this module itself, not of its children, whose scales dynamic weight decay acts on, each with
        the number of its branch, finest 0."""
        return []

    def constants(self) -> tuple[Any, ...] | None:
        """What `forward` depends on besides arrays, such as numbers and switches: while this stays the same, a training
        step that was captured on a GPU may be replayed. None, the default: it never is, since nobody knows what a
        `forward` looks at. One that looks at nothing but what `plain_settings` lists may return that."""
        return None

    def plain_settings(self) -> tuple[Any, ...]:
        """All numbers, switches and names among the attributes of this module and of those below it, and which
        parameters require gradients."""
        found = [
            (name, attribute, value)
            for name, module in self.named_modules() for attribute, value in vars(module).items()
            if isinstance(value, (bool, int, float, str, tuple, type(None)))
        ]  # fmt: skip
        return (*found, *(parameter.requires_grad for parameter in self.parameters()))

    @property
    def device(self) -> Device:
        """Where the first parameter is; the default device, if there is none."""
        return next((parameter.device for parameter in self.parameters()), default_device())

    def to(self: Self, device: str | Device) -> Self:
        """Move all parameters, their gradients and all buffers to `device`, a name or a `Device`; returns the module.

        An optimiser is made after this: it keeps the parameters where they are. Between hosts ("cpu", "reference")
        nothing moves, since they share their memory; `use_backend` says which of them computes.
        """
        device = get_device(device)
        for parameter in self.parameters():
            parameter.move(device)
        for module in self.modules():
            for name in module.buffers:
                array = getattr(module, name)
                if not device.shares_memory_with(device_of(array)):
                    setattr(module, name, device.put(device_of(array).get(array)))
        return self

    def arrays(self) -> dict[str, Any]:
        """name -> array of every parameter and buffer, on its device."""
        found = {}
        for name, module, attribute, parameter in self._state():
            if name in found:
                raise ValueError(f"state_dict: two parameters or buffers are called `{name}`.")
            found[name] = parameter.data if parameter is not None else getattr(module, attribute)
        return found

    def state_dict(self) -> dict[str, np.ndarray]:
        """name -> NumPy array of every parameter and buffer: on a host the array itself, elsewhere a copy."""
        return {name: device_of(array).get(array) for name, array in self.arrays().items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Copy the arrays of `state` into this module, in its dtypes. Raises ValueError, and changes nothing, unless
        names, shapes and kinds of numbers fit."""
        own = {name: (module, attribute, parameter) for name, module, attribute, parameter in self._state()}
        missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or extra:
            what = " and ".join(
                f"{label} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
                for label, names in (("lacks", missing), ("has unknown", extra)) if names
            )  # fmt: skip
            raise ValueError(f"load_state_dict: `state` {what}.")
        targets = {
            name: parameter.data if parameter is not None else getattr(module, attribute)
            for name, (module, attribute, parameter) in own.items()
        }
        arrays = {}
        for name, value in state.items():
            if isinstance(value, np.ndarray) and value.dtype == np.float16:  # of a small checkpoint
                value = value.astype(np.float32)
            try:
                array = numbers(value, f"load_state_dict: `{name}`")
            except TypeError as error:
                raise ValueError(str(error)) from None
            if array.shape != targets[name].shape:
                raise ValueError(
                    f"load_state_dict: `{name}` has shape {array.shape}; expected {targets[name].shape}, the model's."
                )
            if not np.can_cast(array.dtype, targets[name].dtype, "same_kind"):
                raise ValueError(
                    f"load_state_dict: `{name}` has dtype {array.dtype}; expected {targets[name].dtype}, the model's."
                )
            arrays[name] = array
        for name, array in arrays.items():
            target = targets[name]
            device_of(target).put(array.astype(target.dtype, copy=False), target)

    def train(self: Self, mode: bool = True) -> Self:
        """Use batch statistics from now on, or running ones if not `mode`; returns the module. Frozen modules always
        use running ones."""
        for module in self.modules():
            module.training = mode and not module.frozen
        return self

    def eval(self: Self) -> Self:
        """Use running statistics from now on; returns the module."""
        return self.train(False)

    def freeze(self: Self) -> Self:
        """Keep this module and all below as they are: parameters require no gradients, and running statistics are used
        and stay, even after `train()`; returns the module."""
        for module in self.modules():
            module.frozen, module.training = True, False
        for parameter in self.parameters():
            parameter.requires_grad = False
            parameter.zero_grad()  # an optimiser leaves alone what has no gradient
        return self

    def unfreeze(self: Self) -> Self:
        """Let all parameters of this module learn again, and running statistics from the next `train()` on; returns the
        module."""
        for module in self.modules():
            module.frozen = False
        for parameter in self.parameters():
            parameter.requires_grad = True
        return self

    def freeze_like(self, other: "Module") -> None:
        """Take over, from a module with the same names or with more, what is frozen, what requires no gradient, and the
        mode (training or eval) of each part."""
        theirs = dict(other.named_modules())
        for name, module in self.named_modules():
            module.frozen, module.training = theirs[name].frozen, theirs[name].training
        learned = {name: p.requires_grad for name, p in other.named_parameters()}
        for name, parameter in self.named_parameters():
            parameter.requires_grad = learned[name]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.zero_grad()


@contextlib.contextmanager
def evaluating(module: Module) -> Iterator[None]:
    """Within it, a module is in eval mode; afterwards it and all below it are in their own modes again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _collect(name, value, found):
    """Add (name, parameter or module) of all that `value` is or, as a list, tuple or dict, holds at any depth."""
    if isinstance(value, (Parameter, Module)):
        found.append((name, value))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _collect(f"{name}.{index}", item, found)
    elif isinstance(value, dict):
        for key, item in value.items():
            _collect(f"{name}.{key}", item, found)


def _once(named):
    seen = set()
    for name, item in named:
        if id(item) not in seen:
            seen.add(id(item))
            yield name, item
