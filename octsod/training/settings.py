"""The settings of a training: what values each may have, and its default.

All of this is defined here alone: `Recipe`, `session.resolve` and the options of the command line read it. It is quick
to import, since `octsod --help` does.
"""

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import OctsodError

TASKS = ("saliency", "classify")
VARIANTS = ("csnet", "extractor", "vanilla")  # of the network
LOSSES = ("bce", "bce+iou", "bce+dice")  # of saliency
OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("milestones", "cosine", "one-cycle", "constant")  # of the learning rate
DECAYS = {"dynamic": 3.0, "standard": 5e-3, "none": 0.0}  # of the ILBlocks' scales, each with its usual strength


class SetupError(OctsodError):
    """A training cannot be started or continued as requested. Messages name settings in backticks."""


class SettingsError(SetupError, ValueError):
    """Settings that make no sense, alone or together.

    setting: the one whose value is at fault, or None. detail: what is wrong with it.
    """

    def __init__(self, detail: str, setting: str | None = None):
        super().__init__(f"`{setting}`: {detail}" if setting else detail)
        self.detail, self.setting = detail, setting


class Setting(NamedTuple):
    """What values a setting may have.

    kind: int, float, bool, a tuple of strings to choose from, or the name of a kind in `KINDS`. default: the paper's,
    or None. least, most: bounds of a number; None means no bound. above, below: the number must be more than `least`,
    less than `most`, not equal to it.
    """

    kind: Any
    default: Any = None
    least: Any = None
    most: Any = None
    above: bool = False
    below: bool = False

    @property
    def expected(self) -> str:
        """The values it may have, in words."""
        if isinstance(self.kind, tuple):
            return " or ".join(self.kind)
        if self.kind is bool:
            return "true or false"
        if self.kind not in (int, float):
            return KINDS[self.kind][1]
        words = "an integer" if self.kind is int else "a finite number"
        if self.most is not None:
            most = f"{self.most:,}" if self.kind is int else f"{self.most:g}"
            return f"{words} from {self.least} to {'below ' if self.below else ''}{most}"
        return words if self.least is None else f"{words} {'above' if self.above else 'of at least'} {self.least}"

    def parse(self, value: Any) -> Any:
        """A value as config.toml holds it, from that or from the text of an option. Raises ValueError or TypeError."""
        if isinstance(self.kind, str):
            return KINDS[self.kind][0](value)
        if isinstance(self.kind, tuple):
            if value in self.kind:
                return value
        elif self.kind is bool:
            if isinstance(value, bool):
                return value
        elif not isinstance(value, bool):
            number = value.__index__() if self.kind is int else float(value)
            above = self.least is None or (number > self.least if self.above else number >= self.least)
            below = self.most is None or (number < self.most if self.below else number <= self.most)
            if math.isfinite(number) and above and below:
                return number
        raise ValueError


def _path(value):
    import os

    return os.path.abspath(os.fspath(value))


def _network(value):
    import os

    from ..models.shipped import shipped_file
    from ..models.weights import weight_file

    return os.fsdecode(value) if shipped_file(value) is not None else _path(weight_file(value))


def _device(value):
    if DEVICE.fullmatch(value):
        return value
    raise ValueError


def _items(value):
    """The parts of a text with commas, or of a list. Raises ValueError if one is true or false, which count as 1 and 0
    where a number is wanted."""
    items = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
    if any(isinstance(item, bool) for item in items):
        raise ValueError
    return items


def _split(value):
    shares = [float(share) for share in _items(value)]
    if 1 <= len(shares) <= 3 and all(0 <= share < math.inf for share in shares) and sum(shares) > 0:
        return shares
    raise ValueError


def _stages(value):
    return [int(stage) if isinstance(stage, str) else stage.__index__() for stage in _items(value)]


def _names(value):
    names = _items(value)
    if names and all(isinstance(name, str) and name for name in names):
        return names
    raise ValueError


LEAST_SIDE, MOST_SIDE = 16, 1 << 14  # of a picture, in pixels
MOST_EPOCHS, MOST_STEPS = 10**6, 10**12  # far more than any run needs; logs and checkpoints count exactly so far


def sizes(value: Any) -> list[tuple[int, float]]:
    """(side in pixels, share of the run from which on it is used) of a size: a number, or text such as
    "112:0,160:0.7,224:0.9". Raises ValueError or TypeError if it is none."""
    if isinstance(value, str) and ":" in value:
        pairs = [part.split(":") for part in _items(value)]
        found = [(int(side), float(share)) for side, share in pairs]
    else:
        found = [(int(value) if isinstance(value, str) else value.__index__(), 0.0)]
    shares = [share for _, share in found]
    rising = shares[0] == 0 and all(a < b for a, b in itertools.pairwise(shares)) and shares[-1] < 1
    if isinstance(value, bool) or not rising or not all(LEAST_SIDE <= side <= MOST_SIDE for side, _ in found):
        raise ValueError
    return found


def _size(value):
    found = sizes(value)
    return found[0][0] if len(found) == 1 else ",".join(f"{side}:{share!r}" for side, share in found)


DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?|auto")
DEVICES = "cpu, cuda, cuda:N or auto"  # in words

# Kinds of settings that are more than a number or a choice: how they are parsed, and what they are in words.
KINDS: dict[str, tuple[Any, str]] = {
    "path": (_path, "a path"),
    "network": (_network, "a path, or the name of a network that comes with octsod"),
    "device": (_device, DEVICES),
    "split": (_split, "one to three shares such as 3, 1"),
    "stages": (_stages, "numbers of stages such as 2,3,4"),
    "names": (_names, "names such as stage1, fuse"),
    "size": (
        _size,
        f"pixels from {LEAST_SIDE} to {MOST_SIDE}, or several with the share of the run from which on each is used, "
        "such as 112:0,160:0.7,224:0.9",
    ),
}


# In the order of config.toml, which holds them.
SETTINGS = {
    "task": Setting(TASKS, "saliency"),
    "data": Setting("path"),
    "images": Setting("path"),
    "masks": Setting("path"),
    "val": Setting("path"),
    "max_pixels": Setting(int, None, 1, 10**12),
    "init": Setting("network"),
    "width": Setting(float, 1.0, 0.2, 20),
    "split": Setting("split", (0.5, 0.5)),
    "variant": Setting(VARIANTS, "csnet"),
    "fused": Setting("stages"),
    "freeze": Setting("names"),
    "epochs": Setting(int, 300, 1, MOST_EPOCHS),
    "steps": Setting(int, None, 1, MOST_STEPS),
    "batch_size": Setting(int, 24, 1, 10**6),
    "loss": Setting(LOSSES, "bce"),
    "side_outputs": Setting(bool, False),
    "scale_crop": Setting(float, 1.0, 0, 1, above=True),
    "colour": Setting(float, 0.0, 0, 1),
    "optimizer": Setting(OPTIMIZERS, "adam"),
    "lr": Setting(float, 1e-4, 0, above=True),
    "schedule": Setting(SCHEDULES, "milestones"),
    "momentum": Setting(float, 0.9, 0, 1, below=True),
    "clip": Setting(float, None, 0, above=True),
    "weight_decay": Setting(float, 5e-3, 0),
    "decay": Setting(tuple(DECAYS), "dynamic"),
    "decay_strength": Setting(float, None, 0),
    "learn_channels": Setting(int, None, 1, MOST_EPOCHS),
    "threshold": Setting(float, None, 0, above=True),
    "average": Setting(float, None, 0, 1, below=True),
    "size": Setting("size", 224),
    "seed": Setting(int, 0, 0, (1 << 63) - 1),
    "save_every": Setting(int, 100, 1, MOST_STEPS),
    "save_minutes": Setting(float, 10.0, 0, above=True),
    "validate_minutes": Setting(float, None, 0, above=True),
    "device": Setting("device", "auto"),
    "threads": Setting(int, None, 1, 1024),
}

# The defaults of classification, where they differ from the paper's, which are for saliency. Channels are not learned.
CLASSIFY = {
    "batch_size": 32, "lr": 4e-3, "schedule": "one-cycle", "decay": "none", "weight_decay": 5e-4, "size": 128,
    "epochs": 30,
}  # fmt: skip
SALIENCY_ONLY = ("images", "masks", "loss", "side_outputs", "scale_crop", "colour", "learn_channels")

# The defaults of a run that draws its pictures, where they differ from the paper's: a laptop should finish it while one
# waits. There is no decay of any kind: it would only slow down so short a run.
EMBEDDED = {
    "batch_size": 16, "lr": 1e-2, "schedule": "cosine", "decay": "none", "weight_decay": 0.0, "size": 96, "width": 0.5,
    "steps": 600,
}  # fmt: skip

# The defaults of finetuning: the last 20 of the paper's 300 epochs, by when the learning rate has fallen twice.
FINETUNE = {"epochs": 20, "lr": 1e-6, "schedule": "constant", "decay": "standard"}

NETWORK = ("width", "split", "variant", "fused")  # what the network is, unless `init` says so
LENGTHS = ("epochs", "steps")  # a run ends with whichever comes first


def draws(settings: Mapping[str, Any]) -> bool:
    """Whether a run of these settings draws its pictures, since they name none to train on."""
    return "data" not in settings and "images" not in settings


def overlaid(upper: Mapping[str, Any], lower: Mapping[str, Any]) -> dict[str, Any]:
    """The settings `upper` over those of `lower`, without what `lower` says of the same matter under another name.

    If `upper` names pictures, by `data` or by `images` and `masks`, those of `lower` are left out; if it has `epochs`
    or `steps`, both of `lower`; if it has `decay`, the strength in `lower`, which is for another kind of decay; if it
    has `init`, which says what the network is, what `lower` says of it.
    """
    replaced = set(LENGTHS) if upper.keys() & {*LENGTHS} else set()
    if not draws(upper):
        replaced |= {"images", "masks"} if "data" in upper else {"data"}
    if "decay" in upper:
        replaced.add("decay_strength")
    if "init" in upper:
        replaced.update(NETWORK)
    return {**{name: value for name, value in lower.items() if name not in replaced}, **upper}
