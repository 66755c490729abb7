"""Pruning: a smaller CSNet without the channels that do not count (paper, section 3.2; csnet.md, section 4).

Channels go together as in the paper: an output channel of an ILBlock's gOctConv, its two depthwise channels, and the
inputs of whatever reads it: the next block, the cross-stage fusion, a side output or the classifier. In the fusion, a
channel of the first gOctConv, of a dilated convolution or of the second gOctConv goes with the inputs of the next
layer. A branch, a dilation or a scale of the fusion may lose all its channels; every block, the fusion's gOctConvs and
its dilated convolutions keep at least one.

A removed channel is taken for a constant, and the layers that follow make up for it: see `apply`.
"""

import bisect
from typing import NamedTuple

import numpy as np

from .. import functional
from ..autograd import Tensor, no_grad
from ..backend import Host, host, use_backend
from ..checks import require
from ..models import CSNet
from .constants import folded, silenced
from .counts import complexity
from .groups import chains, modules_of, pairs, require_prunable
from .plans import Plan
from .scores import CRITERIA, protected, scores

THRESHOLD = 1e-20  # of gamma: the paper's


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

    Raises ValueError on a bad argument, if the network is no CSNet or a vanilla one, or if `macs` is out of reach.
    """
    op = "plan"
    model = _on_host(op, model)
    require(criterion in CRITERIA, op, "criterion", f"is {criterion!r}", " or ".join(map(repr, CRITERIA)))
    given = [name for name, v in (("threshold", threshold), ("ratio", ratio), ("macs", macs)) if v is not None]
    require(len(given) == 1, op, "threshold, ratio, macs", f"are given {len(given)} times", "exactly one of them")
    scored = scores(model, criterion)
    flat = np.concatenate([branch for branches in scored.values() for branch in branches])
    require(bool(np.isfinite(flat).all()), op, "model", "has scores that are not finite", "finite weights")
    flat[protected(model.configuration, scored)] = np.inf
    order = np.argsort(flat, kind="stable")
    free = int(np.isfinite(flat).sum())

    def without(count):
        keep = np.ones(flat.size, bool)
        keep[order[:count]] = False
        return _plan(model.configuration, scored, keep)

    if threshold is not None:
        require(threshold > 0, op, "threshold", f"is {threshold}", "a positive number")
        return without(min(int(np.searchsorted(flat[order], threshold)), free))
    if ratio is not None:
        require(0 < ratio < 1, op, "ratio", f"is {ratio}", "a number between 0 and 1")
        return without(min(round(ratio * flat.size), free))

    def cost(count):
        return complexity(without(count).configuration).macs

    least = cost(free)
    require(least <= macs, op, "macs", f"is {macs:,}", f"at least {least:,}, those with one channel per layer")
    return without(bisect.bisect_left(range(free), True, key=lambda count: cost(count) <= macs))


def apply(model: CSNet, plan: Plan) -> CSNet:
    """The pruned network, in the model's dtype and mode; `model` stays as it is.

    A removed channel is taken for a constant: what it would be if the least of its gammas (of equal ones, the last)
    were zero. This is PReLU(beta) of that norm, taken through the depthwise layers that follow. What the constant
    contributed to a norm's input is subtracted from the norm's running mean, and what it contributed to the logits is
    added to the bias of the classifier or side output. So if that gamma is zero, nothing changes in eval mode, except
    near a picture's border, where zero padding made the constant smaller. `change` measures both.

    Raises ValueError if the plan is another network's.
    """
    device, model = model.device, _on_host("apply", model)
    fits = plan.before == model.configuration
    require(fits, "apply", "plan", "is for a network of another configuration", "a plan for `model`")
    state = {**model.state_dict(), **folded(model, plan)}
    pruned = _like(model, plan.configuration)
    pruned.load_state_dict({name: plan.slice(name, state[name]) for name in pruned.state_dict()})
    return pruned.to(device)


class Change(NamedTuple):
    """How salience, in [0, 1], changes: (mean, greatest) absolute difference over all pixels. Of a network that tells
    classes of pictures apart, how their probabilities change, over pictures and classes.

    gammas: where the gammas of removed channels are set to zero, which they may not have been. borders: where such
    channels are then removed; only pixels near the borders change.
    """

    gammas: tuple[float, float]
    borders: tuple[float, float]


def change(model: CSNet, plan: Plan, x: np.ndarray) -> Change:
    """What pruning changes on prepared pictures x (N, 3, H, W), in eval mode, before any finetuning."""
    model = _copy(_on_host("change", model))
    before, after = _answers(model, x), _answers(apply(model, plan), x)
    modules, places = modules_of(model), silenced(model, plan)
    for maker, chain in chains(model.configuration).items():
        for step, name in enumerate(chain):
            for norm, place, mask in zip(modules[name].norms, places[maker], plan.kept[maker], strict=True):
                if norm is not None:
                    norm.weight.data[~mask & (place == step)] = 0
    between = _answers(model, x)
    differences = np.abs(between - before), np.abs(after - between)
    return Change(*((float(d.mean()), float(d.max())) for d in differences))


def _answers(model, x):
    """Salience (N, 1, H, W), or the probabilities of classes (N, classes), in eval mode, float64.

    By the model itself, picture by picture: inference would gain little by so few. Changes the model's mode.
    """
    model.eval()
    with use_backend(host()), no_grad():
        pictures = (Tensor(x[i : i + 1].astype(model.dtype)) for i in range(len(x)))
        logits = [model(picture) for picture in pictures]
        classes = model.configuration.classes
        answers = (functional.log_softmax(y).exp() if classes else functional.sigmoid(y) for y in logits)
        return np.concatenate([answer.numpy() for answer in answers]).astype(np.float64)


def _on_host(op, model):
    """The network, or a copy of it, whose arrays are NumPy's. Raises ValueError if it cannot be pruned."""
    require_prunable(op, model)
    return model if isinstance(model.device, Host) else _copy(model)


def _copy(model):
    """A copy of a network on the host."""
    copy = _like(model, model.configuration)
    copy.load_state_dict(model.state_dict())
    return copy


def _like(model, configuration):
    """A fresh network of another configuration on the host, otherwise like `model`."""
    with use_backend(host()):
        network = CSNet(configuration, model.dtype)
    network.freeze_like(model)
    network.size, network.labels = model.size, model.labels
    return network


def _plan(configuration, scored, keep):
    """The plan that keeps the channels of the flat mask `keep`, but for scales of the fusion that lead nowhere."""
    kept, start = {}, 0
    for name, branches in scored.items():
        ends = start + np.cumsum([len(branch) for branch in branches])
        kept[name] = tuple(keep[end - len(branch) : end].copy() for end, branch in zip(ends, branches, strict=True))
        start = int(ends[-1])
    for source, name in pairs(configuration):
        for ins, outs in zip(kept[source], kept[name], strict=True):
            if not (ins.any() and outs.any()):
                ins[:] = outs[:] = False
    return Plan(configuration, kept)
