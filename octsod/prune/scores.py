"""How much each channel counts, and which ones have to stay whatever their scores."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..models import Configuration, CSNet
from .groups import filters, gammas, modules_of, pairs

CRITERIA = ("gamma", "l1", "geometric-median")

Scores = Mapping[str, Sequence[np.ndarray]]


def scores(model: CSNet, criterion: str) -> Scores:
    """Each layer that makes channels -> per branch, their scores (C,) float64, by one of `CRITERIA`: see `plan`."""
    if criterion == "gamma":
        return {maker: [sizes.min(axis=0) for sizes in branches] for maker, branches in gammas(model).items()}
    rate = _sizes if criterion == "l1" else _distances
    modules, found = modules_of(model), {}
    for layer in model.configuration.layers():
        if layer.makes_channels:
            values = np.concatenate([_shares(rate(bank)) for bank in filters(layer, modules[layer.name])])
            found[layer.name] = np.split(values, np.cumsum(layer.outputs)[:-1])
    return found


def _sizes(bank):
    return np.abs(bank).sum(axis=(1, 2))


def _distances(bank):
    return np.array([np.sqrt(((bank - one) ** 2).sum(axis=(1, 2))).sum() for one in bank])


def _shares(values):
    """Values divided by their average."""
    average = values.mean() if len(values) else 0.0
    # Where all are nothing, or there is one filter alone and so no distance, none is better than another.
    return values / average if average > 0 else np.ones(len(values))


def protected(configuration: Configuration, scores: Scores) -> list[int]:
    """Places, in all scores one after the other, of the channels that have to stay: each layer's best.

    A dilated layer and what it reads keep theirs in the same branch: that whose weaker best is best.
    """
    allowed = {}
    for names in pairs(configuration):
        best = [[branch.max(initial=-np.inf) for branch in scores[name]] for name in names]
        allowed.update(dict.fromkeys(names, int(np.argmax(np.min(best, axis=0)))))
    places, start = [], 0
    for name, branches in scores.items():
        values = np.concatenate(branches)
        ends = np.cumsum([0, *map(len, branches)])
        low, high = ends[allowed[name] : allowed[name] + 2] if name in allowed else (0, len(values))
        places.append(start + int(low) + int(values[low:high].argmax()))
        start += len(values)
    return places
