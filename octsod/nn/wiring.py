"""Whether a module still consists of what it did: the modules, parameters and arrays that hang in it."""

import itertools
import operator

from .module import Module, Parameter


class Wiring:
    """What hung in a module, and in all below it, when this was made.

    It keeps the attributes alive, but not the module itself.
    """

    def __init__(self, module: Module):
        self._holders: list = []  # live views, which show what hangs there now
        for part in module.modules():
            self._hold(vars(part))
        self._held = list(itertools.chain.from_iterable(self._holders))
        self._parameters = [item for item in self._held if isinstance(item, Parameter)]
        self._arrays = [parameter.data for parameter in self._parameters]

    def _hold(self, container):
        values = container.values() if isinstance(container, dict) else container
        self._holders.append(values)
        for value in values:
            if isinstance(value, (list, tuple, dict)):
                self._hold(value)

    def is_current(self) -> bool:
        """Whether every attribute, and every item of lists and dicts among them, is the same object as it was, and
        every parameter has the same array; the numbers in it may be others."""
        if sum(map(len, self._holders)) != len(self._held):
            return False
        now = itertools.chain.from_iterable(self._holders)
        data = (parameter.data for parameter in self._parameters)
        return all(map(operator.is_, now, self._held)) and all(map(operator.is_, data, self._arrays))
