"""Training: the settings of a run, a trainer that takes steps, the loop of a run, and the folder it leaves behind."""

import importlib

from ..threads import uninterrupted

# Names are loaded on first use: the command line reads `settings` and should not wait for the rest.
_NAMES = {
    "Averaging": "hooks",
    "Classification": "classification",
    "DECAYS": "settings",
    "DivergenceError": "trainer",
    "Hook": "hooks",
    "Pruning": "hooks",
    "Recipe": "recipes",
    "Recording": "hooks",
    "SCHEDULES": "settings",
    "Saliency": "tasks",
    "ScaleDecay": "hooks",
    "Session": "session",
    "SettingsError": "settings",
    "SetupError": "settings",
    "Step": "trainer",
    "Stopped": "tasks",
    "Task": "tasks",
    "Trainer": "trainer",
    "Validated": "tasks",
    "conduct": "session",
    "fit": "loop",
    "new_folder": "session",
    "open_data": "pictures",
    "read_checkpoint": "checkpoints",
    "read_log": "logs",
    "resolve": "session",
    "train": "loop",
}
_MODULES = (
    "charts", "checkpoints", "classification", "diagnosis", "hooks", "logs", "loop", "pictures", "recipes", "runs",
    "session", "settings", "tasks", "trainer",
)  # fmt: skip

__all__ = [*_NAMES, *_MODULES]


def __getattr__(name):
    with uninterrupted():
        if name in _NAMES:
            value = getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
            globals()[name] = value
            return value
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
