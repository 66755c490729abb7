"""The settings of a training: what values each may have, and its default.

All of this is defined here alone: `Recipe`, `session.resolve` and the options of the command line read it. It is quick
to import, since `octsod --help` does.
"""

from typing import Any, NamedTuple

SCHEDULES = ("milestones", "cosine", "constant")  # of the learning rate
DECAYS = {"dynamic": 3.0, "standard": 5e-3, "none": 0.0}  # of the ILBlocks' scales, each with its usual strength


class Setting(NamedTuple):
    """What values a setting may have.

    kind: int, float, "path", "split" (shares of the channels per scale, fine first), or a tuple of strings to choose
    from. default: the paper's, or None. least, most: bounds of a number; None means no bound. above: the number must be
    more than `least`, not equal to it.
    """

    kind: Any
    default: Any = None
    least: Any = None
    most: Any = None
    above: bool = False

    @property
    def expected(self) -> str:
        """The values it may have, in words."""
        if isinstance(self.kind, tuple):
            return " or ".join(self.kind)
        if self.kind not in (int, float):
            return {"path": "a path", "split": "one to three shares such as 3, 1"}[self.kind]
        words = "an integer" if self.kind is int else "a finite number"
        if self.most is not None:
            return f"{words} from {self.least} to {self.most:g}"
        return words if self.least is None else f"{words} {'above' if self.above else 'of at least'} {self.least}"


# In the order of config.toml, which holds them.
SETTINGS = {
    "data": Setting("path"),
    "val": Setting("path"),
    "init": Setting("path"),
    "width": Setting(float, 1.0, 0.2, 20),
    "split": Setting("split", (0.5, 0.5)),
    "epochs": Setting(int, 300, 1),
    "steps": Setting(int, None, 1),
    "batch_size": Setting(int, 24, 1),
    "lr": Setting(float, 1e-4, 0, above=True),
    "schedule": Setting(SCHEDULES, "milestones"),
    "weight_decay": Setting(float, 5e-3, 0),
    "decay": Setting(tuple(DECAYS), "dynamic"),
    "decay_strength": Setting(float, None, 0),
    "learn_channels": Setting(int, None, 1),
    "threshold": Setting(float, None, 0, above=True),
    "size": Setting(int, 224, 16, 1 << 14),
    "seed": Setting(int, 0, 0),
    "threads": Setting(int, None, 1, 1024),
}

# The defaults of a run without `data`, where they differ from the paper's: a laptop should finish it while one waits.
# There is no decay of any kind: it would only slow down so short a run.
EMBEDDED = {
    "batch_size": 16, "lr": 1e-2, "schedule": "cosine", "decay": "none", "weight_decay": 0.0, "size": 96, "width": 0.5,
    "steps": 600,
}  # fmt: skip

# The defaults of finetuning: the last 20 of the paper's 300 epochs, by when the learning rate has fallen twice.
FINETUNE = {"epochs": 20, "lr": 1e-6, "schedule": "constant", "decay": "standard"}

LENGTHS = ("epochs", "steps")  # a run ends with whichever comes first
