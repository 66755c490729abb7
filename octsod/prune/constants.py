"""What removed channels are taken for, and how the layers that read them make up for it: see `channels.apply`."""

from typing import Any

import numpy as np

from ..models import CSNet, Layer
from ..models.configuration import IMAGE
from .groups import chains, filters, gammas, modules_of, read
from .plans import Plan

ALREADY = -1  # instead of the place of a norm: the channel is constant without


def silenced(model: CSNet, plan: Plan) -> dict[str, list[np.ndarray]]:
    """Each layer that makes channels -> per branch (C,), of those that it loses: which of the norms that a channel goes
    through is taken to have a gamma of zero: that of the least |gamma|, of equal ones the last.

    `ALREADY` in a branch of a dilated layer that reads no channel that stays.
    """
    sizes, found = gammas(model), {}
    for layer in plan.before.layers():
        if layer.makes_channels:
            found[layer.name] = [len(norms) - 1 - np.argmin(norms[::-1], axis=0) for norms in sizes[layer.name]]
            if layer.kind == "dilated":
                for places, mask in zip(found[layer.name], read(layer, plan.masks), strict=True):
                    if not mask.any():
                        places[:] = ALREADY
    return found


def folded(model: CSNet, plan: Plan) -> dict[str, np.ndarray]:
    """Name -> array, of full size: the running means and biases that make up for the removed channels."""
    modules, places, result = modules_of(model), silenced(model, plan), {}
    steps = {name: (maker, step) for maker, chain in chains(plan.before).items() for step, name in enumerate(chain)}
    constants = {IMAGE: [np.zeros(3)]}  # layer -> per branch (C,): what each channel is taken for, or 0 if it stays
    for layer in plan.before.layers():
        module = modules[layer.name]
        added = _responses(layer, module, read(layer, constants))
        if not layer.normed:
            result[f"{layer.name}.bias"] = module.bias.numpy() + added[0]
            continue
        maker, step = steps[layer.name]
        constants[layer.name] = []
        for branch, (norm, raw) in enumerate(zip(module.norms, added, strict=True)):
            if norm is None:
                constants[layer.name].append(np.zeros(0))
                continue
            result[f"{layer.name}.norms.{branch}.running_mean"] = norm.running_mean - raw
            scale, shift = norm.affine()
            # From the norm of gamma zero on; what comes before it has no effect.
            values = np.where(places[maker][branch] >= step, norm.bias.numpy(), raw * scale + shift)
            values = np.where(values > 0, values, norm.slope.numpy() * values)
            constants[layer.name].append(np.where(plan.masks[layer.name][branch], 0.0, values))
    return result


def _responses(layer: Layer, module: Any, constants: list[np.ndarray]) -> list[np.ndarray]:
    """What a layer's convolutions make of channels that are constant, away from borders: per output branch (C,)."""
    sums = [bank.sum(axis=2) for bank in filters(layer, module)]
    if layer.kind == "depthwise":
        return [weight[:, 0] * values for weight, values in zip(sums, constants, strict=True)]
    if layer.kind == "dilated":
        return [weight @ values for weight, values in zip(sums, constants, strict=True)]
    return np.split(sums[0] @ np.concatenate(constants), np.cumsum(layer.outputs)[:-1])
