"""Strategies of networks: small ones of every kind, to check what works with any network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from ... import nn, random
from ...autograd import Tensor
from ...models import Configuration, CSNet

FUSED = ((4,), (3, 4), (2, 3, 4), (1, 4))


class _Stack(nn.Module):
    """Modules in turn."""

    def __init__(self, *layers: nn.Module):
        self.layers = list(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to be made. kind: "csnet", of this configuration, or "convolutional", which has blocks of convolution,
    batch norm and PReLU with so many channels, then global average pooling and a linear layer. seed: of its weights.
    """

    kind: str
    channels: tuple[int, ...] = ()
    configuration: Configuration | None = None
    seed: int = 0

    @property
    def side(self) -> int:
        """The side of the smallest pictures that it takes."""
        return 1 if self.configuration is None else self.configuration.multiple

    def make(self, dtype: str = "float64") -> nn.Module:
        """The network, a module in training mode that takes pictures (N, 3, side, side)."""
        before = random.generator
        try:
            random.manual_seed(self.seed)
            if self.configuration is not None:
                return CSNet(self.configuration, dtype)
            layers: list[nn.Module] = []
            for ins, outs in zip((3, *self.channels), self.channels, strict=False):
                layers += [nn.Conv2d(ins, outs, 3, padding=1, dtype=dtype), nn.NormAct(outs, dtype)]
            return _Stack(*layers, nn.GlobalAveragePool(), nn.Linear(self.channels[-1], 2, dtype))
        finally:
            random.generator = before


def configurations(**more: Any) -> st.SearchStrategy[Configuration]:
    """Configurations of narrow CSNets of all variants, with branches without channels, whatever stages they fuse.
    more: for `Configuration.standard`, such as classes=2."""
    variants = st.sampled_from(["csnet", "extractor", "vanilla"])
    splits = st.sampled_from([(1,), (0.5, 0.5), (1, 0), (0, 1), (0.25, 0.25, 0.5)])
    fused = st.none() | st.sampled_from(FUSED)
    return st.builds(Configuration.standard, st.sampled_from([0.2, 0.35]), splits, variants, fused, **more)


@st.composite
def networks(draw: Callable[..., Any], kinds: tuple[str, ...] = ("convolutional", "csnet")) -> Network:
    """Networks of these kinds."""
    kind, seed = draw(st.sampled_from(kinds)), draw(st.integers(0, 1000))
    if kind == "csnet":
        return Network(kind, (), draw(configurations()), seed)
    return Network(kind, tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))), None, seed)
