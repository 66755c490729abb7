"""A training, from its settings to its run folder: data sets, loader, network, trainer, run.

    settings = resolve({"data": "DUTS-TR", "val": "ECSSD", "epochs": 100})
    conduct(settings, "runs/first")

`octsod train` does just that, and shows progress.
"""

import dataclasses
import datetime
import itertools
import math
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ..backend import DeviceError, Host, chosen_device
from ..checks import shortened
from ..data.device_loader import DeviceLoader
from ..data.loader import Loader
from ..errors import FileError
from ..models import Configuration, CSNet, csnet, load
from ..models.files import architecture_of
from ..models.shipped import own_file
from ..nn import NormAct
from ..optim.decay import decayed_norms
from ..prune import prunable
from ..prune.channels import THRESHOLD
from ..random import manual_seed
from ..threads import get_num_threads, set_num_threads
from .checkpoints import Checkpoint
from .classification import Classification
from .loop import train
from .pictures import Data, open_data
from .recipes import Recipe
from .runs import Run, read_pictures, startable
from .settings import (
    CLASSIFY,
    DECAYS,
    EMBEDDED,
    FINETUNE,
    LENGTHS,
    NETWORK,
    SALIENCY_ONLY,
    SETTINGS,
    SettingsError,
    SetupError,
    draws,
    overlaid,
    sizes,
)
from .tasks import PictureTask, Saliency, Task
from .trainer import Trainer

LOADER_THREADS = 2  # at most
PICTURES_SHARE = 0.4  # of a device's memory, that the pictures of a data set may take; a step needs the rest
NOTABLE = 1.1  # times the learning rate: what goes on with more is told
MOST_BUDGET = 1 << 40  # bytes, of a device that does not know what it has


def resolve(
    given: Mapping[str, Any], base: Mapping[str, Any] | None = None, finetune: bool = False,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """All settings of a training, as config.toml holds them, completed from the given ones.

    given: values by the names in `settings.SETTINGS`; None stands for a value that is not given. base: likewise, such
    as the contents of another run's config.toml: `given` takes precedence over it, and it takes precedence over the
    defaults; see `settings.overlaid`.
    finetune: use `settings.FINETUNE` as defaults, to recover from pruning; it needs `init`.
    before: the settings of the run that is to go on, if there is one: its `init` is not looked for again.
    Settings that a run does not have (`val`, `init`, ...) are left out of the result; it is said which ones of `base`
    are no use to a classifier. Paths become absolute; the name of a network that comes with octsod stays a name.
    Raises SettingsError, which names the setting, if a value is not of its kind or settings conflict; OctsodError if
    `device` is auto and OCTSOD_DEVICE names none that can be used.
    """
    given, base = checked(given, before), checked(base or {}, before)
    known = overlaid(given, base)
    classify = known.get("task") == "classify"
    _require_one_source(known)
    if classify and "data" not in known:
        raise SettingsError("`task` classify needs `data`, pictures in folders named after their classes.")
    if finetune and "init" not in known:
        raise SettingsError("`finetune` needs `init`, the network to go on with.")
    values = {name: setting.default for name, setting in SETTINGS.items()}
    values.update(EMBEDDED if draws(known) else CLASSIFY if classify else {}, **(FINETUNE if finetune else {}))
    values.update(known)
    if classify:
        for name in SALIENCY_ONLY:
            if given.get(name, SETTINGS[name].default) != SETTINGS[name].default:
                raise SettingsError(f"`{name}` is for saliency; leave it out with `task` classify.")
        _leave_out(values)
    if values["optimizer"] != "sgd":
        if "momentum" in given:
            raise SettingsError(f"`momentum` is of no use with `optimizer` {values['optimizer']}.")
        values["momentum"] = None
    values.update(_lengths(finetune, known))
    if "init" in known:
        for name in NETWORK:
            if name in known:
                raise SettingsError(f"`init` says what the network is; leave `{name}` out.")
            values[name] = None
    else:
        require_network(values)
    if values["decay"] == "none":
        if values["decay_strength"] is not None:
            raise SettingsError("`decay_strength` is of no use with `decay` none.")
    elif values["decay_strength"] is None:
        values["decay_strength"] = DECAYS[values["decay"]]
    if values["learn_channels"] is None:
        if "threshold" in given:
            raise SettingsError("`threshold` needs `learn_channels`.")
        values["threshold"] = None  # that of `base` is of no use
    elif values["threshold"] is None:
        if values["decay"] == "none":
            raise SettingsError("`learn_channels` needs `decay`, by which scales vanish, or a `threshold`.")
        values["threshold"] = THRESHOLD
    values["split"] = values["split"] and list(values["split"])  # as when read from a file
    values["device"] = _device(values["device"], "device" in base and "device" not in given)
    values["threads"] = values["threads"] or get_num_threads()
    return {name: values[name] for name in SETTINGS if values[name] is not None}


def _leave_out(values):
    """Remove from the settings of a classifier what is for saliency alone; warn of what was not just a default."""
    if lost := [name for name in SALIENCY_ONLY if values[name] != SETTINGS[name].default]:
        warnings.warn(f"settings that are for saliency only are left out: {', '.join(lost)}.", stacklevel=3)
    values.update(dict.fromkeys(SALIENCY_ONLY))


def _device(name, before):
    """The name of the device that a setting stands for. before: whether a run was on it already."""
    try:
        return chosen_device(name).name
    except DeviceError as error:
        if name == "auto":  # the environment is to blame
            raise
        hint = "; `device` cpu trains on the processor" if before else ""
        raise SettingsError(f"{str(error).rstrip('.')}{hint}.", "device") from error


def _require_one_source(known):
    """Raise SettingsError unless settings name pictures in one way, or not at all."""
    for name, other in (("images", "masks"), ("masks", "images")):
        if name in known and "data" in known:
            raise SettingsError(f"`{name}` stands in place of `data`; leave one of them out.")
        if name in known and other not in known:
            raise SettingsError(f"`{name}` needs `{other}`.")
    for name in ("val", "max_pixels"):
        if name in known and draws(known):
            raise SettingsError(f"`{name}` needs `data`, or `images` and `masks`.")


def require_network(values: Mapping[str, Any]) -> None:
    """Raise SettingsError unless there is a network of these settings, those of `settings.NETWORK`."""
    try:
        Configuration.standard(*(values[name] for name in NETWORK))
    except ValueError as error:
        setting = next((name for name in NETWORK if f"`{name}`" in str(error)), None)
        raise SettingsError(re.sub(r"^\w+: (`\w+` )?", "", str(error)), setting) from error


def _lengths(finetune, known):
    """`epochs` and `steps`."""
    defaults = {"epochs": SETTINGS["epochs"].default} if known.get("task") != "classify" else CLASSIFY
    for source in (known, FINETUNE if finetune else {}, EMBEDDED if draws(known) else defaults):
        if any(name in source for name in LENGTHS):
            return {name: source.get(name) for name in LENGTHS}


def checked(values: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings as config.toml holds them, without those that are None. before: see `resolve`. Raises SettingsError if a
    name is no setting's or a value not of its kind."""
    if odd := [name for name in values if name not in SETTINGS]:
        raise SettingsError(f"`{odd[0]}` is no setting; known are {', '.join(SETTINGS)}.")
    found = {name: value for name, value in values.items() if value is not None}
    kept = {"init"} if before and before.get("init") == found.get("init") else set()
    return {name: value if name in kept else _value(name, value) for name, value in found.items()}


def _value(name, value):
    try:
        return SETTINGS[name].parse(value)
    except (TypeError, ValueError, AttributeError, OverflowError):
        try:
            was = shortened(repr(value))
        except ValueError:  # Python prints no integer of more than 4300 digits
            was = f"a {type(value).__name__} that is too long to print"
        raise SettingsError(f"is {was}; expected {SETTINGS[name].expected}.", name) from None


def new_folder(settings: Mapping[str, Any], folder: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """A folder for a new run: `folder`, or else runs/<time>-<name of the data>, which does not exist yet.

    Raises SetupError unless a run may start in `folder`, see `runs.startable`.
    """
    if folder is not None:
        folder = pathlib.Path(folder)
        if not startable(folder):
            other = "name another run folder, or `resume` this one"
            raise SetupError(f"{folder}: exists already and is not empty; {other}.")
        return folder
    name = "drawn" if draws(settings) else pathlib.Path(settings.get("data") or settings["images"]).name
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    suffixes = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    folders = (pathlib.Path("runs", f"{stamp}-{name}{suffix}") for suffix in suffixes)
    return next(folder for folder in folders if not folder.exists())


class Session:
    """A training with all its parts: `with Session(settings, folder) as session: session.conduct()`.

    settings: see `resolve`. folder: of the run, either new or holding the `checkpoint` to continue from. data: by
    default, what `open_data` returns. data, task, loader, trainer, run: the parts of the training. finished: whether
    the checkpoint's run is complete; to conduct it then only makes anew what is gone of its folder.
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
        if data is None:
            data = open_data(settings, before=None if checkpoint is None else read_pictures(folder))
        self.data = data
        self.task = task_for(settings, self.data.classes)
        steps_per_epoch = len(self.data.training) // batch_size(settings, self.data.training)
        total = _total(settings, steps_per_epoch)
        model = _model(settings, self.data, checkpoint).to(settings["device"])
        _require_memory(settings, model, self.data, checkpoint)
        self.loader = _loader(settings, self.data.training, model, self.task, total)
        self.trainer = _trainer(settings, model, self.task, total, steps_per_epoch)
        pictures = (self.data.training.names, self.data.held_out.names)
        self.finished = checkpoint is not None and checkpoint.finished(total)
        if checkpoint is None:
            self.run = Run.create(folder, settings, pictures, self.data.skipped)
        else:
            Run(folder, settings, checkpoint).require_same(pictures, self.data.skipped)
            checkpoint.restore(self.trainer)
            self.run = Run.resume(folder, settings, pictures, checkpoint, self.data.skipped)
            if not self.finished:
                self._warn_of_going_back(checkpoint)

    def _warn_of_going_back(self, checkpoint):
        """Sizes and learning rates of a run go by shares of its length: if it is made longer, it may go back to smaller
        pictures and to higher rates."""
        steps, total = checkpoint.steps, self.trainer.total
        changes = []
        before = [side for first, side in _starts(self.settings["size"], checkpoint.total) if first <= steps][-1]
        if (now := self.loader.side(steps)) < before:
            changes.append(f"pictures of {now} pixels, not {before}")
        recipe = Recipe(lr=self.settings["lr"], schedule=self.settings["schedule"])
        last = recipe.rate(min(steps, checkpoint.total - 1), checkpoint.total)
        if (rate := recipe.rate(steps, total)) > NOTABLE * last:
            changes.append(f"a learning rate of {rate:.3g}, not {last:.3g}")
        if changes:
            why = f"sizes and schedule go by the length of a run, now {total} steps"
            warnings.warn(f"{self.run.folder}: goes on with {', and '.join(changes)}: {why}.", stacklevel=3)

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
            return train(
                self.trainer, self.loader, self.run, self.data.held_out, self.settings["save_every"], on_line, stop,
                self.settings["save_minutes"], self.settings.get("validate_minutes"),
            )  # fmt: skip
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


def task_for(settings: Mapping[str, Any], classes: tuple[str, ...] = ()) -> Task:
    """The task that the settings name. classes: the names of classes, for classification."""
    if settings["task"] == "classify":
        return Classification(classes)
    return Saliency(settings["loss"], settings["scale_crop"], settings["colour"])


def batch_size(settings: Mapping[str, Any], pictures: Any) -> int:
    """Pictures per batch: as many as the settings say, but at most all that there are to train on."""
    return min(settings["batch_size"], len(pictures))


def _total(settings, steps_per_epoch):
    """How many steps the run will have."""
    lengths = [settings["steps"]] if "steps" in settings else []
    lengths += [settings["epochs"] * steps_per_epoch] if "epochs" in settings else []
    return min(lengths)


def _loader(settings, pictures, model, task, total):
    multiple, starts = model.configuration.multiple, _starts(settings["size"], total)
    for side, _ in sizes(settings["size"]):
        if side % multiple:
            raise SettingsError(f"{side} is not a multiple of {multiple}, as this network needs.", "size")
    threads = min(LOADER_THREADS, settings["threads"])
    options = {
        "batch_size": batch_size(settings, pictures), "size": starts, "seed": settings["seed"], "threads": threads,
    }  # fmt: skip
    if isinstance(model.device, Host) or type(task).prepare is not PictureTask.prepare:
        return Loader(pictures, prepare=task.prepare, **options)
    budget = int(min(PICTURES_SHARE * model.device.memory(), MOST_BUDGET))
    return DeviceLoader(
        pictures, model.device, parts=task.parts, choices=task.choices, dtype=model.dtype, budget=budget, **options
    )


def _starts(size, total):
    """(first batch, side) of each size in a run of `total` steps; of sizes that begin with the same batch, the last."""
    return list({math.ceil(share * total): side for side, share in sizes(size)}.items())


def _model(settings, data, checkpoint) -> CSNet:
    """The network that the run trains."""
    if checkpoint is not None:
        model = checkpoint.model()
        if tuple(getattr(model, "labels", ())) != data.classes:
            raise FileError(f"{checkpoint.path}: was trained for other classes than the data has now.")
    else:
        manual_seed(settings["seed"])
        kinds = {"classes": len(data.classes), "sides": settings.get("side_outputs", False)}
        if "init" in settings:
            model = _initial(settings["init"], data.classes, kinds)
        else:
            model = csnet(
                settings["width"], settings["split"], settings["variant"], settings.get("fused"), **kinds
            )
        model.labels = data.classes
    for name in settings.get("freeze", ()):
        parts = model.parts()
        if name not in parts:
            listed = ", ".join(part for part in parts if "." not in part)
            known = f"known are {listed}, and names of modules"
            raise SettingsError(f"{name} is no part of the network; {known}.", "freeze")
        for part in parts[name]:
            part.freeze()
    untrained = checkpoint is None and "init" not in settings
    if untrained and any(isinstance(module, NormAct) and module.frozen for module in model.modules()):
        raise SettingsError("these parts have batch norm, and without `init` no statistics to use.", "freeze")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SettingsError("leaves nothing to train.", "freeze")
    return model


def _require_memory(settings, model, data, checkpoint):
    """Raise SetupError if a step cannot fit into the memory: a file may describe a network of any width, and the system
    would end this process, or others, without a word."""
    configuration, count = model.configuration, batch_size(settings, data.training)
    side = max(side for side, _ in sizes(settings["size"]))
    # What lies below a layer that learns is kept for backward; of parts that do not, one layer's input and output.
    maps = 2 * configuration.largest_map(side) if "freeze" in settings else configuration.all_maps(side)
    each, there = maps * model.dtype.itemsize, model.device.memory()
    if count * each > there:
        network = settings.get("init", "the network") if checkpoint is None else checkpoint.path
        fit = int(there // each)
        smaller = f"a `batch_size` of {fit}{', a smaller one,' * (fit > 1)} or" if fit else "only"
        raise SetupError(
            f"{network}: to train on {count} pictures of {side} pixels at once takes {count * each / 1e9:.1f} GB of "
            f"memory or more, and on {model.device.name} there are {there / 1e9:.1f}; {smaller} "
            "a smaller `size` may fit."
        )


def _initial(path, classes, kinds):
    """The network in a weight file, or that comes with octsod under this name; if it is for another task, or lacks side
    outputs, one with its layers where they are the same, and new ones for the rest."""
    model = load(own_file(path) or path)
    if not isinstance(model, CSNet):
        raise FileError(f"{path}: holds a network of the architecture {architecture_of(model)!r}; expected a CSNet.")
    configuration = dataclasses.replace(model.configuration, **kinds)
    if configuration == model.configuration and model.labels == classes:
        return model
    wanted = CSNet(configuration, model.dtype)
    fresh = {name: array.copy() for name, array in wanted.classifier.state_dict().items()}
    wanted.take_over(model)
    wanted.size = model.size
    if kinds["classes"] and model.labels != classes:  # as many classes, but others
        wanted.classifier.load_state_dict(fresh)
    return wanted


def _trainer(settings, model, task, total, steps_per_epoch) -> Trainer:
    """A trainer that follows the settings."""
    finetuning = settings.get("learn_channels", 0) * steps_per_epoch
    if finetuning:
        # Pruning comes between epochs; those that follow are at least as many as the settings say.
        start = (total - finetuning) // steps_per_epoch * steps_per_epoch
        if start <= 0:
            raise SettingsError(f"the run has {total} steps, and finetuning alone {finetuning}.", "learn_channels")
        finetuning = total - start
        if not (prunable(model) and any(norm.weight.requires_grad for norm in decayed_norms(model))):
            raise SettingsError("the network has no scales that may vanish, or cannot be pruned.", "learn_channels")
    recipe = Recipe(
        lr=settings["lr"], schedule=settings["schedule"], optimizer=settings["optimizer"],
        momentum=settings.get("momentum", SETTINGS["momentum"].default), clip=settings.get("clip"),
        weight_decay=settings["weight_decay"], decay=settings["decay"],
        decay_strength=settings.get("decay_strength"), finetuning=finetuning, average=settings.get("average"),
        **({"threshold": settings["threshold"]} if finetuning else {}),
    )  # fmt: skip
    return recipe.trainer(model, task, total, settings["seed"])
