"""Which layer's calls hold how much memory."""

from .results import LayerMemory


class Holdings:
    """Memory by the layer whose call took it, and how it was shared when most was in use.

    Of one kind of memory: that of a host's pool, where arrays of less than 16 KB are not counted, or a GPU's. before:
    how many bytes were in use at first; they are nobody's, "".
    """

    def __init__(self, before: int = 0):
        self.live = {"": before}
        self._owners: dict[int, str] = {}
        self.restart()

    def restart(self) -> None:
        """Measure from here."""
        self.total = self.peak = sum(self.live.values())
        self.most, self.at_peak = dict(self.live), dict(self.live)
        self.used = False

    def taken(self, block: int, size: int, layer: str) -> None:
        self.used = True
        self._owners[block] = layer
        now = self.live[layer] = self.live.get(layer, 0) + size
        if now > self.most.get(layer, 0):
            self.most[layer] = now
        self.total += size
        if self.total > self.peak:
            self.peak, self.at_peak = self.total, self.live.copy()

    def returned(self, block: int, size: int) -> None:
        layer = self._owners.pop(block, "")
        self.live[layer] = self.live.get(layer, 0) - size
        self.total -= size

    def by_layer(self) -> list[LayerMemory]:
        """Layers in the order in which they first took memory; "" is what was in use before, or taken outside of
        layers."""
        return [LayerMemory(layer, self.most[layer], self.at_peak.get(layer, 0)) for layer in self.most]
