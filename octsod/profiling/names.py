"""What layers are called: by their paths in the network that they belong to."""

from typing import Any


class Names:
    """The names of modules. The first network's modules have their paths, such as "stages.1.0.conv"; those of another
    one begin with its name. A network itself, or a module that is called by itself, is called by its class."""

    def __init__(self):
        self._known: dict[int, tuple[Any, str]] = {}  # identity -> module, which stays alive, and name
        self._prefixes: dict[int, str] = {}  # network -> what its modules' names begin with
        self._titles: set[str] = set()

    def of(self, module: Any, network: Any, caller: str) -> str:
        """The name of a module that is called within `network`, the outermost one, or None if this is it. caller: the
        name of the layer that calls it, which names it if the network does not."""
        known = self._known.get(id(module))
        if known is not None and known[0] is module:
            return known[1]
        if network is None:
            self._add(module)
        else:
            self._look(network)
        known = self._known.get(id(module))
        if known is None or known[0] is not module:
            kind = type(module).__name__
            known = self._known[id(module)] = module, f"{caller}.{kind}" if caller else kind
        return known[1]

    def _add(self, network):
        title, number = type(network).__name__, 1
        while title in self._titles:
            number += 1
            title = f"{type(network).__name__} {number}"
        self._prefixes[id(network)] = f"{title}." if self._titles else ""
        self._titles.add(title)
        self._known[id(network)] = network, title
        self._look(network)

    def _look(self, network):
        """Learn the names of a network's modules, some of which may be new."""
        prefix = self._prefixes.get(id(network), "")
        for path, module in network.named_modules():
            known = self._known.get(id(module))
            if known is None or known[0] is not module:
                self._known[id(module)] = module, prefix + path
