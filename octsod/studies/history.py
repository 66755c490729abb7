"""What a run has recorded about its network, read from its folder; the figures are drawn from this."""

import dataclasses
import os
import pathlib
import re
from typing import Any

import numpy as np

from .. import prune
from ..errors import FileError, detail
from ..models import Configuration, CSNet, load
from ..models.configuration import block_layer
from ..prune.scales import bin_edges, share_below
from ..training.logs import LOG, each_line
from ..training.settings import MOST_EPOCHS

POWERS = (-3, -10, -20)  # of ten: shares of |gamma| below these are given; the paper prunes below the last


@dataclasses.dataclass(frozen=True, eq=False)
class History:
    """What a run has recorded; epochs are counted from 1, as epochs completed.

    gammas: epoch -> how many scales lie in each bin of `distributions.bin_edges`, (bins,) int64. spreads: for each norm
    of a block, the standard deviation of its outputs among channels, by (name of its layer, branch), from first to
    last. If a run pruned its network, both are from before pruning, when the channels that vanished were still there.
    Empty before the end of the first epoch.
    mae: epoch -> mean absolute error in validation. pruned: how many epochs came before pruning; None if never pruned.
    full, learned: the network's configuration before and after pruning, the same if it cannot be pruned; None if its
    weights are gone, or it is no CSNet.
    """

    name: str
    gammas: dict[int, np.ndarray]
    spreads: dict[tuple[str, int], float]
    mae: dict[int, float]
    pruned: int | None
    full: Configuration | None
    learned: Configuration | None

    @property
    def counts(self) -> np.ndarray | None:
        """The last of `gammas`; None if there is none, or for a network without blocks."""
        counts = list(self.gammas.values())[-1:]
        return counts[0] if counts and counts[0].any() else None

    def summary(self) -> dict[str, Any]:
        """The history in numbers, fit for JSON; None stands for what has not been recorded.

        below: power of ten -> share of the scales with |gamma| below it. spread: mean of `spreads`. mae, best_mae: the
        last and the lowest since pruning. channels: of the blocks, before and after pruning.
        """
        counts, since = self.counts, [mae for epoch, mae in self.mae.items() if epoch > (self.pruned or 0)]
        return {
            "name": self.name,
            "epochs": max([*self.gammas, *self.mae], default=0),
            "below": {f"1e{power}": None if counts is None else share_below(counts, power) for power in POWERS},
            "spread": float(np.mean(list(self.spreads.values()))) if self.spreads else None,
            "mae": since[-1] if since else None,
            "best_mae": min(since, default=None),
            "channels": [c and sum(map(sum, block_channels(c).values())) for c in (self.full, self.learned)],
        }


def read_history(
    folder: str | os.PathLike[str], name: str | None = None, threshold: float | None = None
) -> History:
    """The history of the run in a folder, by default named after the folder.

    If the network has not been pruned, `learned` is as if it were, by `threshold` of gamma, by default the paper's. One
    that has been pruned is pruned anew if a threshold is given. Raises FileError, which names what is missing or
    damaged.
    """
    folder = pathlib.Path(folder)
    gammas, spreads, mae, pruned = {}, {}, {}, None
    for line in each_line(folder):
        try:
            if "pruned" in line:
                pruned = _epoch(line) - 1
            elif "mae" in line:
                if line["mae"] is not None:  # it was not finite
                    mae[_epoch(line)] = float(line["mae"])
            elif "gammas" in line and pruned is None:
                gammas[_epoch(line)] = _counts(line["gammas"])
                spreads = {_place(norm): float(spread) for norm, spread in line["spreads"].items()}
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            step = line.get("step")
            raise FileError(f"{folder / LOG}: the line of step {step} is damaged: {detail(error)}.") from error
    full, learned = _configurations(folder / "weights", threshold)
    return History(name or folder.resolve().name, gammas, spreads, mae, pruned, full, learned)


def _epoch(line):
    epoch = line["epoch"]
    if type(epoch) is not int or not 0 < epoch <= MOST_EPOCHS:
        raise ValueError(f"its epoch is {epoch!r}")
    return epoch


def _counts(values):
    counts = np.array(values, np.int64)
    if counts.shape != (len(bin_edges()) - 1,) or (counts < 0).any():
        raise ValueError("its gammas are no counts of octsod's bins")
    return counts


def _place(norm):
    """(layer, branch) of a norm, by its name."""
    found = re.fullmatch(r"(.+)\.norms\.(\d{1,3})", norm)
    if found is None:
        raise ValueError(f"{norm!r} is no name of a norm")
    return found[1], int(found[2])


def _configurations(weights, threshold):
    """The network's configuration before and after pruning: see `read_history`."""
    if not (weights / "last.safetensors").exists():
        return None, None
    last = load(weights / "last.safetensors")
    wide = load(weights / "wide.safetensors") if (weights / "wide.safetensors").exists() else last
    if not isinstance(wide, CSNet):
        return None, None
    if not prune.prunable(wide) or (threshold is None and wide.configuration != last.configuration):
        return wide.configuration, last.configuration
    plan = prune.plan(wide, threshold=prune.THRESHOLD if threshold is None else threshold)
    return wide.configuration, plan.configuration


def block_channels(configuration: Configuration) -> dict[tuple[int, int], tuple[int, ...]]:
    """(stage, block) -> channels per branch, finest first, of each block of the extractor."""
    return {place[:2]: layer.outputs for layer in configuration.layers() if (place := block_layer(layer.name))}
