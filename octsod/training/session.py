"""A training, from its settings to its run folder: data sets, loader, network, trainer, run.

    settings = resolve({"data": "DUTS-TR", "val": "ECSSD", "epochs": 100})
    conduct(settings, "runs/first")

`octsod train` does just that, and shows progress.
"""

import datetime
import itertools
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..data.datasets import FolderDataset, Subset, hold_out
from ..data.loader import Loader
from ..data.synthetic import SyntheticDataset
from ..errors import OctsodError
from ..models import CSNet, csnet, load
from ..prune.channels import THRESHOLD
from ..random import manual_seed
from ..threads import get_num_threads, set_num_threads
from .loop import Validation, train
from .runs import Checkpoint, Run
from .settings import DECAYS, EMBEDDED, FINETUNE, LENGTHS, SETTINGS
from .trainer import DivergenceError, Recipe, Trainer

EMBEDDED_PICTURES = 1200  # that a run without data draws
EMBEDDED_SIZE = 112  # of a drawn picture, in pixels; augmentation cuts off its border
LOADER_THREADS = 2  # at most
SHOWN = 3  # how many left-out files a note names


class SetupError(OctsodError):
    """A training cannot be started or continued as requested. Messages name settings in backticks."""


class SettingsError(SetupError, ValueError):
    """Settings that make no sense, alone or together.

    setting: the one whose value is at fault, or None. detail: what is wrong with it.
    """

    def __init__(self, detail: str, setting: str | None = None):
        super().__init__(f"`{setting}`: {detail}" if setting else detail)
        self.detail, self.setting = detail, setting


class Data(NamedTuple):
    """training, held_out: the pictures to train on and to validate on. notes: lines to print about them."""

    training: Subset
    held_out: Subset
    notes: list[str]


def resolve(given: Mapping[str, Any], base: Mapping[str, Any] | None = None, finetune: bool = False) -> dict[str, Any]:
    """All settings of a training, as config.toml holds them, completed from the given ones.

    given: values by the names in `settings.SETTINGS`; None stands for a value that is not given. base: likewise, such
    as the contents of another run's config.toml: `given` takes precedence over it, and it takes precedence over the
    defaults. finetune: use `settings.FINETUNE` as defaults, to recover from pruning; it needs `init`.
    Settings that a run does not have (`val`, `init`, ...) are left out of the result. Paths become absolute.
    Raises SettingsError, which names the setting, if a value is not of its kind or settings conflict.
    """
    given, base = _checked(given), _checked(base or {})
    known = {**base, **given}
    if "val" in known and "data" not in known:
        raise SettingsError("`val` needs `data`.")
    if finetune and "init" not in known:
        raise SettingsError("`finetune` needs `init`, the network to go on with.")
    values = {name: setting.default for name, setting in SETTINGS.items()}
    values.update(EMBEDDED if "data" not in known else {}, **(FINETUNE if finetune else {}))
    values.update(known)
    values.update(_lengths(given, base, finetune, "data" in known))
    if "init" in known:
        for name in ("width", "split"):
            if name in known:
                raise SettingsError(f"`init` says what the network is; leave `{name}` out.")
            values[name] = None
    if "decay" in given and "decay_strength" not in given:  # that of `base` is for another kind of decay
        values["decay_strength"] = None
    if values["decay"] == "none":
        if values["decay_strength"] is not None:
            raise SettingsError("`decay_strength` is of no use with `decay` none.")
    elif values["decay_strength"] is None:
        values["decay_strength"] = DECAYS[values["decay"]]
    if values["learn_channels"] is None:
        if values["threshold"] is not None:
            raise SettingsError("`threshold` needs `learn_channels`.")
    elif values["threshold"] is None:
        values["threshold"] = THRESHOLD
    values["split"] = values["split"] and list(values["split"])  # as when read from a file
    values["threads"] = values["threads"] or get_num_threads()
    return {name: values[name] for name in SETTINGS if values[name] is not None}


def _lengths(given, base, finetune, has_data):
    """`epochs` and `steps`. If either is given, both of `base` are replaced: to make a run longer, one is enough."""
    paper = {"epochs": SETTINGS["epochs"].default}
    for source in (given, base, FINETUNE if finetune else {}, paper if has_data else EMBEDDED):
        if any(name in source for name in LENGTHS):
            return {name: source.get(name) for name in LENGTHS}


def _checked(values):
    """The values as config.toml holds them, without those that are None. Raises SettingsError."""
    if odd := [name for name in values if name not in SETTINGS]:
        raise SettingsError(f"`{odd[0]}` is no setting; known are {', '.join(SETTINGS)}.")
    return {name: _value(name, value) for name, value in values.items() if value is not None}


def _value(name, value):
    setting = SETTINGS[name]
    try:
        if setting.kind == "path":
            return os.path.abspath(os.fspath(value))
        if setting.kind == "split":
            shares = [float(share) for share in value]
            if 1 <= len(shares) <= 3 and all(0 <= share < math.inf for share in shares) and sum(shares) > 0:
                return shares
        elif isinstance(setting.kind, tuple):
            if value in setting.kind:
                return value
        elif not isinstance(value, bool):
            number = value.__index__() if setting.kind is int else float(value)
            low, high = setting.least, setting.most
            above = low is None or (number > low if setting.above else number >= low)
            if math.isfinite(number) and above and (high is None or number <= high):
                return number
    except (TypeError, ValueError, AttributeError, OverflowError):
        pass
    raise SettingsError(f"is {value!r}; expected {setting.expected}.", name)


def open_data(settings: Mapping[str, Any], verbose: bool = False) -> Data:
    """The pictures for a training: those of `data` and `val`, or drawn ones.

    verbose: have the notes name all files that are left out. Raises FileError if a folder is not a data set, SetupError
    if it has too few pictures.
    """
    if "data" not in settings:
        drawn = SyntheticDataset(EMBEDDED_PICTURES, EMBEDDED_SIZE, settings["seed"])
        training, held_out = hold_out(drawn, settings["seed"])
        return Data(training, held_out, [f"{len(training)} drawn pictures to train on, {len(held_out)} held out"])
    folders = [FolderDataset(settings[name]) for name in ("data", "val") if name in settings]
    notes = []
    for folder in folders:
        if folder.unpaired:
            shown = folder.unpaired[: None if verbose else SHOWN]
            more = f" and {len(folder.unpaired) - len(shown)} more" if len(shown) < len(folder.unpaired) else ""
            names = ", ".join(path.name for path in shown)
            notes.append(f"{folder.root}: left out for want of a partner: {names}{more}")
    if len(folders) == 2:
        training, held_out = (Subset(folder, range(len(folder))) for folder in folders)
        notes.append(f"{len(training)} pictures to train on, {len(held_out)} of {folders[1].root} to validate on")
    else:
        if len(folders[0]) < 2:
            raise SetupError(f"{folders[0].root}: holds one picture with a mask; without `val`, two are needed.")
        training, held_out = hold_out(folders[0], settings["seed"])
        notes.append(f"{len(training)} pictures to train on, {len(held_out)} held out to validate on (data.json)")
    return Data(training, held_out, notes)


def new_folder(settings: Mapping[str, Any], folder: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """A folder for a new run: `folder`, or else runs/<time>-<name of the data>, which does not exist yet.

    Raises SetupError if `folder` is not empty.
    """
    if folder is not None:
        folder = pathlib.Path(folder)
        if folder.exists() and any(folder.iterdir()):
            other = "name another run folder, or `resume` this one"
            raise SetupError(f"{folder}: exists already and is not empty; {other}.")
        return folder
    name = pathlib.Path(settings["data"]).name if "data" in settings else "drawn"
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    suffixes = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    folders = (pathlib.Path("runs", f"{stamp}-{name}{suffix}") for suffix in suffixes)
    return next(folder for folder in folders if not folder.exists())


class Session:
    """A training with all its parts: `with Session(settings, folder) as session: session.conduct()`.

    settings: see `resolve`. folder: of the run, either new or holding the `checkpoint` to continue from. data: by
    default, what `open_data` returns. data, loader, trainer, validation, run: the parts of the training.
    Raises SetupError if settings, pictures and checkpoint do not fit together, FileError if a file is at fault.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        folder: str | os.PathLike[str],
        data: Data | None = None,
        checkpoint: Checkpoint | None = None,
    ):
        self.settings = settings
        self.data = open_data(settings) if data is None else data
        self.loader = _loader(settings, self.data.training)
        self.trainer = _trainer(settings, len(self.loader), checkpoint)
        self.validation = Validation(self.data.held_out)
        pictures = (self.data.training.names, self.data.held_out.names)
        if checkpoint is None:
            self.run = Run.create(folder, settings, pictures)
        else:
            if checkpoint.finished(self.trainer.total):
                done = f"is finished after {checkpoint.steps} steps"
                raise SetupError(f"{folder}: {done}; more `epochs` or `steps` go on.")
            checkpoint.restore(self.trainer)
            self.run = Run.resume(folder, settings, pictures, checkpoint)

    def __enter__(self):
        self.run.__enter__()
        return self

    def __exit__(self, *error):
        return self.run.__exit__(*error)

    def conduct(
        self, on_line: Callable[[dict], None] | None = None, stop: Callable[[], bool] = lambda: False
    ) -> bool:
        """Train; returns whether training is complete, which `stop()` can prevent. on_line: called with each log line.

        Meanwhile, the kernels use as many threads as the settings say. Raises DivergenceError, which says what is
        intact, if a number is not finite.
        """
        before = get_num_threads()
        set_num_threads(self.settings["threads"])
        try:
            return train(self.trainer, self.loader, self.run, self.validation, on_line=on_line, stop=stop)
        except DivergenceError as error:
            raise DivergenceError(f"{str(error).rstrip('.')}; {self.run.kept}.") from error
        finally:
            set_num_threads(before)


def conduct(
    settings: Mapping[str, Any],
    folder: str | os.PathLike[str],
    data: Data | None = None,
    checkpoint: Checkpoint | None = None,
    on_line: Callable[[dict], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train as the settings say, in a new run folder or, given its checkpoint, in a run's: see `Session`.

    Returns whether training is complete, which `stop()` can prevent; the run can then be continued. on_line: called
    with each line of the log. Raises SetupError if a new run's folder is not empty; for other errors, see `Session`.
    """
    if checkpoint is None:
        folder = new_folder(settings, folder)
    with Session(settings, folder, data, checkpoint) as session:
        return session.conduct(on_line, stop)


def _loader(settings, pictures):
    size, threads = settings["batch_size"], min(LOADER_THREADS, settings["threads"])
    if size > len(pictures):
        raise SettingsError(f"{size} is more than the {len(pictures)} pictures to train on.", "batch_size")
    return Loader(pictures, size, settings["size"], settings["seed"], threads=threads)


def _model(settings, checkpoint) -> CSNet:
    """The network that the run trains."""
    if checkpoint is not None:
        return checkpoint.model()
    if "init" in settings:
        return load(settings["init"])
    manual_seed(settings["seed"])
    return csnet(settings["width"], settings["split"])


def _trainer(settings, steps_per_epoch, checkpoint):
    """A trainer for the run's network, for as many steps as the run will have."""
    model = _model(settings, checkpoint)
    size, multiple = settings["size"], model.configuration.multiple
    if size % multiple:
        raise SettingsError(f"{size} is not a multiple of {multiple}, as this network needs.", "size")
    lengths = [settings["steps"]] if "steps" in settings else []
    lengths += [settings["epochs"] * steps_per_epoch] if "epochs" in settings else []
    total, finetuning = min(lengths), settings.get("learn_channels", 0) * steps_per_epoch
    if finetuning >= total:
        raise SettingsError(f"the run has {total} steps, and finetuning alone {finetuning}.", "learn_channels")
    recipe = Recipe(
        lr=settings["lr"], schedule=settings["schedule"], weight_decay=settings["weight_decay"],
        decay=settings["decay"], decay_strength=settings.get("decay_strength"), finetuning=finetuning,
        **({"threshold": settings["threshold"]} if finetuning else {}),
    )  # fmt: skip
    return Trainer(model, recipe, total)
