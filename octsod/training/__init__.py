"""Training: the settings of a run, a trainer that takes steps, the loop of a run, and the folder it leaves behind."""

from typing import TYPE_CHECKING

from ..lazy import loading

if TYPE_CHECKING:  # what `_NAMES` loads on first use, for editors, type checkers and the reference
    from .checkpoints import read_checkpoint as read_checkpoint
    from .classification import Classification as Classification
    from .hooks import Averaging as Averaging
    from .hooks import Hook as Hook
    from .hooks import Pruning as Pruning
    from .hooks import Recording as Recording
    from .hooks import ScaleDecay as ScaleDecay
    from .logs import read_log as read_log
    from .loop import fit as fit
    from .loop import train as train
    from .pictures import open_data as open_data
    from .recipe_files import read_recipe as read_recipe
    from .recipe_files import recipe_names as recipe_names
    from .recipes import Recipe as Recipe
    from .session import Session as Session
    from .session import conduct as conduct
    from .session import new_folder as new_folder
    from .session import resolve as resolve
    from .settings import DECAYS as DECAYS
    from .settings import SCHEDULES as SCHEDULES
    from .settings import SettingsError as SettingsError
    from .settings import SetupError as SetupError
    from .tasks import PictureTask as PictureTask
    from .tasks import Saliency as Saliency
    from .tasks import Stopped as Stopped
    from .tasks import Task as Task
    from .tasks import Validated as Validated
    from .trainer import DivergenceError as DivergenceError
    from .trainer import Step as Step
    from .trainer import Trainer as Trainer

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
