"""What the paper plots of a network in training: the distribution of its scales, and how even its outputs are."""

from collections.abc import Sequence

import numpy as np

from ..nn import Module, NormAct
from ..optim.decay import decayed_norms

PER_DECADE = 4
LOWEST, HIGHEST = -40, 2  # powers of ten; float32's smallest normal number is 1.2e-38


def bin_edges() -> np.ndarray:
    """The edges of the bins of `gammas`: |gamma|, from 1e-40 to 1e2, four bins to a decade."""
    return 10.0 ** np.linspace(LOWEST, HIGHEST, PER_DECADE * (HIGHEST - LOWEST) + 1)


def gammas(model: Module) -> list[int]:
    """How many scales of the ILBlocks' norms lie in each bin of |gamma| (paper, figure 5); zeros lie in the first."""
    sizes = [np.zeros(0), *(np.abs(norm.weight.numpy().astype(np.float64)) for norm in decayed_norms(model))]
    edges = bin_edges()
    sizes = np.clip(np.concatenate(sizes), edges[0], edges[-1])
    return np.histogram(sizes, edges)[0].tolist()


def share_below(counts: Sequence[int] | np.ndarray, power: int) -> float:
    """The share of the scales with |gamma| < 10**power, from 0 to 1; counts: what `gammas` returns."""
    return float(np.sum(counts[: PER_DECADE * (power - LOWEST)]) / np.sum(counts))


def spreads(model: Module) -> dict[str, float]:
    """Per norm of an ILBlock, the standard deviation of the outputs among its channels (paper, figure 4).

    A channel's output in a picture is its mean over pixels after batch norm and PReLU, as in equation 4; the deviation
    among channels is averaged over the pictures of the latest step, whose sums the norms still hold. Keys are the
    norms' names; one that has no channels, or has not run, is left out.
    """
    decayed = {id(norm) for norm in decayed_norms(model)}
    result = {}
    for name, module in model.named_modules():
        if not isinstance(module, NormAct) or id(module) not in decayed or module.activation is None:
            continue
        if module.activation.values.shape[1]:
            means = module.device.get(module.activation.values) / module.activation.pixels
            result[name] = float(f"{means.std(axis=1).mean():.4g}")
    return result
