"""Parameters, and modules that hold and name them."""

import numpy as np

from ..autograd.tensor import Tensor


class Parameter(Tensor):
    """A tensor that is learned."""

    __slots__ = ()

    def __init__(self, array):
        super().__init__(array, requires_grad=True)


class Module:
    """Base of all layers and models.

    Attributes that are Parameters, Modules, or lists of them (None for a missing entry) are found by name; arrays named
    in `buffers` are saved with the parameters.
    """

    buffers = ()
    training = True

    def __call__(self, *inputs):
        return self.forward(*inputs)

    def forward(self, *inputs):
        raise TypeError(f"{type(self).__name__} needs a method `forward`.")

    def _children(self):
        for name, value in vars(self).items():
            for path, item in _entries(name, value):
                if isinstance(item, (Parameter, Module)):
                    yield path, item

    def named_modules(self, prefix=""):
        """(name, module) of this module and all below it."""
        yield prefix, self
        for name, child in self._children():
            if isinstance(child, Module):
                yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self):
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def named_parameters(self):
        """(name, parameter), in the order of definition."""
        for prefix, module in self.named_modules():
            for name, child in module._children():
                if isinstance(child, Parameter):
                    yield f"{prefix}.{name}" if prefix else name, child

    def parameters(self):
        """All parameters, in the order of definition."""
        return (parameter for _, parameter in self.named_parameters())

    def state_dict(self):
        """name -> array (not a copy) of every parameter and buffer."""
        state = {name: parameter.data for name, parameter in self.named_parameters()}
        for prefix, module in self.named_modules():
            for name in module.buffers:
                state[f"{prefix}.{name}" if prefix else name] = getattr(module, name)
        return state

    def load_state_dict(self, state):
        """Copy the arrays of `state` into this module; raises, and changes nothing, unless names and shapes fit."""
        own = self.state_dict()
        missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or extra:
            what = " and ".join(
                f"{label} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
                for label, names in (("lacks", missing), ("has unknown", extra)) if names
            )  # fmt: skip
            raise ValueError(f"load_state_dict: `state` {what}.")
        arrays = {name: np.asarray(value) for name, value in state.items()}
        for name, array in arrays.items():
            if array.shape != own[name].shape:
                raise ValueError(
                    f"load_state_dict: `{name}` has shape {array.shape}; expected {own[name].shape}, the model's."
                )
        for name, array in arrays.items():
            own[name][...] = array

    def train(self, mode=True):
        """Use batch statistics (or, with mode=False, running ones) from now on."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        """Use running statistics from now on."""
        return self.train(False)

    def zero_grad(self):
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None


def _entries(name, value):
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _entries(f"{name}.{i}", item)
    else:
        yield name, value
