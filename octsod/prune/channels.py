"""Pruning: a smaller CSNet without the channels that do not count (paper, section 3.2; csnet.md, section 4).

Channels go together as in the paper: an output channel of an ILBlock's gOctConv, its two depthwise channels, and the
inputs of whatever reads it, the next block or the cross-stage fusion. In the fusion, a channel of the first gOctConv,
of a dilated convolution or of the second gOctConv goes with the inputs of the next layer. A branch, a dilation or a
scale of the fusion may lose all its channels; every block, the fusion's gOctConvs and its dilated convolutions keep at
least one.

A removed channel is taken for a constant, and the layers that follow make up for it: see `apply`.
"""

import bisect
import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from ..backend import Host, host, use_backend
from ..checks import require
from ..inference.prediction import infer
from ..models import Configuration, CSNet
from ..models.configuration import FUSED
from ..nn.layers import WEIGHT_SCALE
from ..nn.octave import ILBlock
from .counts import complexity

CRITERIA = ("gamma", "l1", "geometric-median")
THRESHOLD = 1e-20  # of gamma: the paper's


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Which channels of a CSNet stay.

    before: the network's configuration. kept: layer -> per branch a mask (C,) bool, True for a channel that stays. The
    layers are "extractor.stages.S.B" (an ILBlock) and "fusion.fuse", ".dilated" (per scale, its dilations one after the
    other) and ".merge".
    """

    before: Configuration
    kept: dict[str, tuple[np.ndarray, ...]]

    @functools.cached_property
    def configuration(self) -> Configuration:
        """That of the pruned network."""
        counts = {name: tuple(int(mask.sum()) for mask in masks) for name, masks in self.kept.items()}
        dilated = tuple(
            tuple(int(part.sum()) for part in np.split(mask, np.cumsum(scale)[:-1]))
            for mask, scale in zip(self.kept["fusion.dilated"], self.before.dilated, strict=True)
        )
        stages = tuple(
            tuple(counts[_block(s, b)] for b in range(len(stage))) for s, stage in enumerate(self.before.stages)
        )
        return Configuration(stages, counts["fusion.fuse"], dilated, counts["fusion.merge"][0])

    def slice(self, name: str, array: np.ndarray) -> np.ndarray:
        """What stays of `array`, which has the shape of the parameter or running statistic `name`; a copy.

        Adam's moments can be sliced in the same way. The array is empty if the pruned network lacks `name` altogether.
        Raises ValueError if the network has no such name, or if that has another shape.
        """
        require(name in self._masks, "slice", "name", f"is {name!r}", "a parameter or running statistic of the network")
        masks = self._masks[name]
        leading = tuple(len(mask) for mask in masks)
        was = f"has shape {array.shape}"
        require(array.shape[: len(masks)] == leading, "slice", name, was, f"{leading} first, as of the network's")
        for axis, mask in enumerate(masks):
            array = np.compress(mask, array, axis)
        return array

    @functools.cached_property
    def _masks(self):
        """Name of a parameter or running statistic -> the masks of its leading axes."""
        found, kept = {}, self.kept

        def norms(layer, masks):
            for branch, mask in enumerate(masks):
                for part in ("weight", "bias", "slope", "running_mean", "running_var"):
                    found[f"{layer}.norms.{branch}.{part}"] = (mask,)

        inputs = (np.ones(3, bool),)
        for s, stage in enumerate(self.before.stages):
            for b in range(len(stage)):
                name = _block(s, b)
                masks = kept[name]
                found[f"{name}.mix.weight"] = np.concatenate(masks), np.concatenate(inputs)
                norms(f"{name}.mix", masks)
                for d in range(2):
                    found.update({f"{name}.depthwise.{d}.weights.{i}": (mask,) for i, mask in enumerate(masks)})
                    norms(f"{name}.depthwise.{d}", masks)
                inputs = masks
        fuse, dilated, merge = (kept[f"fusion.{name}"] for name in ("fuse", "dilated", "merge"))
        inputs = [kept[_block(s, len(self.before.stages[s]) - 1)][0] for s in FUSED]
        found["fusion.fuse.weight"] = np.concatenate(fuse), np.concatenate(inputs)
        for i, (ins, outs) in enumerate(zip(fuse, dilated, strict=True)):
            for d, part in enumerate(np.split(outs, np.cumsum(self.before.dilated[i])[:-1])):
                found[f"fusion.dilated.weights.{i}.{d}"] = part, ins
        found["fusion.merge.weight"] = merge[0], np.concatenate(dilated)
        for name in ("fuse", "dilated", "merge"):
            norms(f"fusion.{name}", kept[f"fusion.{name}"])
        found["classifier.weight"] = np.ones(1, bool), merge[0]
        found["classifier.bias"] = (np.ones(1, bool),)
        return found


def plan(
    model: CSNet, criterion: str = "gamma", *, threshold: float | None = None, ratio: float | None = None,
    macs: float | None = None,
) -> Plan:  # fmt: skip
    """Which channels of a CSNet to remove: those with the lowest scores.

    Exactly one of these says how many. threshold: all whose score is less (the paper's way: 1e-20 of gamma). ratio:
    this share of all channels of the network, in (0, 1), ranked over the whole network. macs: as few as bring the
    multiply-accumulates at 224x224 (see `complexity`) down to this number.

    Scores, by `criterion`:
    "gamma": the least |gamma| of a channel's norms (network slimming). An ILBlock's channel has three in a row, and is
    a constant as soon as one of them is zero. The authors look at the first alone, the gOctConv's. Whatever goes by
    their rule goes by this one, too.
    "l1": the mean of |w| over the filter that makes a channel, the gOctConv's or the dilated convolution's, divided by
    the average of its layer. Batch norm hides the scale of filters, so only such shares can be ranked over layers.
    "geometric-median": the sum of the filter's distances from the other filters of its layer, divided by the layer's
    average. Filters of a layer are those that see the same inputs.

    A scale of the fusion that loses its first convolution's channels or its dilated ones loses both. Every layer keeps
    its best channel; in the fusion, these two of the scale whose lower one scores highest.

    Raises ValueError on a bad argument or if `macs` is out of reach.
    """
    op = "plan"
    model = _on_host(model)
    require(criterion in CRITERIA, op, "criterion", f"is {criterion!r}", " or ".join(map(repr, CRITERIA)))
    given = [name for name, v in (("threshold", threshold), ("ratio", ratio), ("macs", macs)) if v is not None]
    require(len(given) == 1, op, "threshold, ratio, macs", f"are given {len(given)} times", "exactly one of them")
    scores = _scores(model, criterion)
    flat = np.concatenate([branch for branches in scores.values() for branch in branches])
    require(bool(np.isfinite(flat).all()), op, "model", "has scores that are not finite", "finite weights")
    flat[_protected(scores)] = np.inf
    order = np.argsort(flat, kind="stable")
    free = int(np.isfinite(flat).sum())

    def without(count):
        keep = np.ones(flat.size, bool)
        keep[order[:count]] = False
        return _plan(model.configuration, scores, keep)

    if threshold is not None:
        require(threshold > 0, op, "threshold", f"is {threshold}", "a positive number")
        return without(min(int(np.searchsorted(flat[order], threshold)), free))
    if ratio is not None:
        require(0 < ratio < 1, op, "ratio", f"is {ratio}", "a number between 0 and 1")
        return without(min(round(ratio * flat.size), free))

    def cost(count):
        return complexity(CSNet(without(count).configuration)).macs

    least = cost(free)
    require(least <= macs, op, "macs", f"is {macs:,}", f"at least {least:,}, those with one channel per layer")
    return without(bisect.bisect_left(range(free), True, key=lambda count: cost(count) <= macs))


def apply(model: CSNet, plan: Plan) -> CSNet:
    """The pruned network, in the model's dtype and mode; `model` stays as it is.

    A removed channel is taken for a constant: what it would be if the least of its gammas (of equal ones, the last)
    were zero. This is PReLU(beta) of that norm, taken through the depthwise layers that follow. What the constant
    contributed to a norm's input is subtracted from the norm's running mean, and what it contributed to the logits is
    added to the classifier's bias. So if that gamma is zero, nothing changes in eval mode, except near a picture's
    border, where zero padding made the constant smaller. `change` measures both.

    Raises ValueError if the plan is another network's.
    """
    fits = plan.before == model.configuration
    require(fits, "apply", "plan", "is for a network of another configuration", "a plan for `model`")
    device, model = model.device, _on_host(model)
    with use_backend(host()):
        pruned = CSNet(plan.configuration, model.dtype).train(model.training)
    pruned.size = model.size
    state = {**model.state_dict(), **_folded(model, plan)}
    pruned.load_state_dict({name: plan.slice(name, state[name]) for name in pruned.state_dict()})
    return pruned.to(device)


class Change(NamedTuple):
    """How salience, in [0, 1], changes: (mean, greatest) absolute difference over all pixels.

    gammas: where the gammas of removed channels are set to zero, which they may not have been. borders: where such
    channels are then removed; only pixels near the borders change.
    """

    gammas: tuple[float, float]
    borders: tuple[float, float]


def change(model: CSNet, plan: Plan, x: np.ndarray) -> Change:
    """What pruning changes on prepared pictures x (N, 3, H, W), in eval mode, before any finetuning."""
    model = _on_host(model)
    silenced = _copy(model)
    for name, layer in _layers(silenced):
        for branch, (chain, mask) in enumerate(zip(_chains(layer), plan.kept[name], strict=True)):
            constant = name == "fusion.dilated" and not plan.kept["fusion.fuse"][branch].any()
            if mask.size and not constant:
                least = _least(chain)
                for i, norm in enumerate(chain):
                    norm.weight.data[~mask & (least == i)] = 0
    before, between, after = (infer(network, x).astype(np.float64) for network in (model, silenced, apply(model, plan)))
    differences = np.abs(between - before), np.abs(after - between)
    return Change(*((float(d.mean()), float(d.max())) for d in differences))


def _on_host(model):
    """The network, or a copy of it, whose arrays are NumPy's."""
    return model if isinstance(model.device, Host) else _copy(model)


def _copy(model):
    """A copy of a network on the host."""
    with use_backend(host()):
        copy = CSNet(model.configuration, model.dtype).train(model.training)
    copy.size = model.size
    copy.load_state_dict(model.state_dict())
    return copy


def _block(stage, block):
    return f"extractor.stages.{stage}.{block}"


def _layers(model):
    """(name, layer) of all that have channels to lose, from first to last: ILBlocks and the fusion's three."""
    for s, stage in enumerate(model.extractor.stages):
        for b, block in enumerate(stage):
            yield _block(s, b), block
    for name in ("fuse", "dilated", "merge"):
        yield f"fusion.{name}", getattr(model.fusion, name)


def _chains(layer):
    """Per branch, the norms that a channel goes through one after the other; [None] of a missing branch."""
    layers = (layer.mix, *layer.depthwise) if isinstance(layer, ILBlock) else (layer,)
    return [[part.norms[branch] for part in layers] for branch in range(len(layers[0].norms))]


def _banks(layer):
    """The layer's filters that see the same inputs, (filters, weights), with their number in each branch."""
    if isinstance(layer, ILBlock):
        layer = layer.mix
    if hasattr(layer, "weight"):
        weight = layer.weight.data
        return [(weight.reshape(len(weight), -1), layer.out_channels)]
    filters = (_dilated_filters(layer, i) for i in range(len(layer.channels)))
    return [(bank.reshape(len(bank), 9 * bank.shape[1]), [len(bank)]) for bank in filters]


def _dilated_filters(layer, scale):
    """The weights of a scale's dilated convolutions, one after the other: (sum of outputs, inputs, 3, 3)."""
    none = np.zeros((0, layer.in_channels[scale], 3, 3))
    return np.concatenate([none, *(w.data for w in layer.weights[scale] if w is not None)])


def _scores(model, criterion):
    """Layer -> per branch (C,) float64: see `plan`."""
    scores = {}
    for name, layer in _layers(model):
        if criterion == "gamma":
            scores[name] = [_gammas(chain).min(axis=0) for chain in _chains(layer)]
            continue
        scores[name] = []
        for filters, counts in _banks(layer):
            filters = filters.astype(np.float64)
            if criterion == "l1":
                values = np.abs(filters).mean(axis=1) if len(filters) else np.zeros(0)
            else:
                values = np.array([np.linalg.norm(filters - one, axis=1).sum() for one in filters])
            average = values.mean() if len(values) else 0.0
            # Where all are nothing, or there is one filter alone and so no distance, none is better than another.
            values = values / average if average > 0 else np.ones(len(values))
            scores[name] += np.split(values, np.cumsum(counts)[:-1])
    return scores


def _gammas(chain):
    """|gamma| of a branch's norms, (norms, C) float64."""
    return np.array([np.zeros(0) if norm is None else np.abs(norm.weight.data.astype(np.float64)) for norm in chain])


def _least(chain):
    """(C,): which of a branch's norms has the least |gamma|; of equal ones, the last."""
    return len(chain) - 1 - np.argmin(_gammas(chain)[::-1], axis=0)


def _protected(scores):
    """Places, in all scores one after the other, of those channels that have to stay: see `Configuration`."""
    # The fusion needs one scale with both: that whose weaker best is best.
    best = [[branch.max(initial=-np.inf) for branch in scores[f"fusion.{name}"]] for name in ("fuse", "dilated")]
    scale = int(np.argmax(np.min(best, axis=0)))
    places, start = [], 0
    for name, branches in scores.items():
        values = np.concatenate(branches)
        ends = np.cumsum([0, *map(len, branches)])
        low, high = ends[scale : scale + 2] if name in ("fusion.fuse", "fusion.dilated") else (0, ends[-1])
        places.append(start + int(low) + int(values[low:high].argmax()))
        start += len(values)
    return places


def _plan(configuration, scores, keep):
    """The plan that keeps the channels of the flat mask `keep`, but for scales of the fusion that lead nowhere."""
    kept, start = {}, 0
    for name, branches in scores.items():
        ends = start + np.cumsum([len(branch) for branch in branches])
        kept[name] = tuple(keep[end - len(branch) : end].copy() for end, branch in zip(ends, branches, strict=True))
        start = int(ends[-1])
    for ins, outs in zip(kept["fusion.fuse"], kept["fusion.dilated"], strict=True):
        if not (ins.any() and outs.any()):
            ins[:] = outs[:] = False
    return Plan(configuration, kept)


def _folded(model, plan):
    """Name -> array, of full size: the running means and the bias that make up for the removed channels."""
    folded = {}

    def fold(layer, norms, weight, constants):
        """Take off the means of `norms` what `constants` (I,) contribute through `weight` (O, I, k, k)."""
        added = np.split(_sums(weight) @ constants, np.cumsum([0 if n is None else n.weight.size for n in norms])[:-1])
        for branch, (norm, part) in enumerate(zip(norms, added, strict=True)):
            if norm is not None:
                folded[f"{layer}.norms.{branch}.running_mean"] = norm.running_mean - part

    def fold_octave(name, layer, constants):
        factor = WEIGHT_SCALE if layer.single else 1.0
        fold(name, layer.norms, layer.weight.data * factor, np.concatenate(constants))

    constants, fused = [np.zeros(3)], []
    for s, stage in enumerate(model.extractor.stages):
        for b, block in enumerate(stage):
            name = _block(s, b)
            fold_octave(f"{name}.mix", block.mix, constants)
            weights = [[layer.weights[i] for layer in block.depthwise] for i in range(len(block.mix.norms))]
            constants = [_constants(*branch) for branch in zip(_chains(block), plan.kept[name], weights, strict=True)]
        if s in FUSED:
            fused.append(constants[0])
    fusion, kept = model.fusion, plan.kept
    fold_octave("fusion.fuse", fusion.fuse, fused)
    merged = []
    for i, norm in enumerate(fusion.dilated.norms):
        constants = _constants([fusion.fuse.norms[i]], kept["fusion.fuse"][i])
        if norm is None:
            merged.append(np.zeros(0))
            continue
        added = _sums(_dilated_filters(fusion.dilated, i) * WEIGHT_SCALE) @ constants
        folded[f"fusion.dilated.norms.{i}.running_mean"] = norm.running_mean - added
        if kept["fusion.fuse"][i].any():
            merged.append(_constants([norm], kept["fusion.dilated"][i]))
        else:  # all that it read is constant, and so is it, whatever its gamma
            merged.append(_activated(norm, added))
    fold_octave("fusion.merge", fusion.merge, merged)
    constants = _constants([fusion.merge.norms[0]], kept["fusion.merge"][0])
    classifier = model.classifier
    folded["classifier.bias"] = classifier.bias.data + _sums(classifier.weight.data) @ constants
    return folded


def _sums(weight):
    """Sums over the taps of a weight (O, I, k, k), (O, I) float64: what a convolution makes of constants."""
    return weight.sum(axis=(2, 3), dtype=np.float64)


def _constants(chain, mask, weights=()):
    """(C,) float64: what a branch's removed channels are taken for, and 0 for those that stay. See `apply`.

    weights: of the depthwise convolutions between the branch's norms, (C, 1, 3, 3) each.
    """
    if chain[0] is None:
        return np.zeros(0)
    least, values = _least(chain), np.zeros(mask.size)
    for i, norm in enumerate(chain):
        raw = values * _sums(weights[i - 1].data)[:, 0] * WEIGHT_SCALE if i else values
        values = np.where(least >= i, _prelu(norm, norm.bias.data.astype(np.float64)), _activated(norm, raw))
    return np.where(mask, 0.0, values)


def _activated(norm, raw):
    """Batch norm with running statistics, and PReLU, of one value per channel, in float64."""
    scale = norm.weight.data / np.sqrt(norm.running_var.astype(np.float64) + norm.eps)
    return _prelu(norm, (raw - norm.running_mean) * scale + norm.bias.data)


def _prelu(norm, values):
    return np.where(values > 0, values, norm.slope.data * values)
