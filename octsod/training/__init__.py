"""Training: the settings of a run, a trainer that takes steps, the loop of a run, and the folder it leaves behind."""

from ..lazy import loading

# Names are loaded on first use: the command line reads `settings` and should not wait for the rest.
_NAMES = {
    "Averaging": "hooks",
    "Classification": "classification",
    "DECAYS": "settings",
    "DivergenceError": "trainer",
    "Hook": "hooks",
    "PictureTask": "tasks",
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
    "read_recipe": "recipe_files",
    "recipe_names": "recipe_files",
    "resolve": "session",
    "train": "loop",
}
_MODULES = (
    "charts", "checkpoints", "classification", "diagnosis", "hooks", "logs", "loop", "pictures", "recipe_files",
    "recipes", "runs", "session", "settings", "tasks", "trainer",
)  # fmt: skip

__all__ = [*_NAMES, *_MODULES]

__getattr__ = loading(__name__, _NAMES, {name: name for name in _MODULES})
