"""The pictures of a training: found, looked through, and divided into those to train on and those held out."""

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..data.classes import ClassDataset, find_parts
from ..data.datasets import FolderDataset, Subset, hold_out
from ..data.decoding import MOST_PIXELS
from ..data.inspection import inspect
from ..data.listing import describe_not_searched, describe_not_taken
from ..data.synthetic import SyntheticDataset
from ..errors import FileError
from .settings import SetupError, draws

EMBEDDED_PICTURES = 1200  # that a run without data draws
EMBEDDED_SIZE = 112  # of a drawn picture, in pixels; augmentation cuts off its border
SHOWN = 3  # how many left-out files a note names
NAMED = 20  # how many broken pictures are named
SOURCES = ("data", "val")  # what pictures are for; those of `data` may be named by `images` and `masks`

Watch = Callable[[int, int], None]


class Data(NamedTuple):
    """training, held_out: the samples to train on and to validate on. notes: lines to print about them. classes: the
    names of the pictures' classes, for classification. skipped: names of broken pictures that are left out, of `data`
    and of those to validate on (`val`)."""

    training: Subset
    held_out: Subset
    notes: list[str]
    classes: tuple[str, ...] = ()
    skipped: Mapping[str, list[str]] = {}


def open_data(
    settings: Mapping[str, Any], verbose: bool = False, skip_broken: bool = False,
    before: Mapping[str, Any] | None = None, on_progress: Watch = lambda done, total: None,
) -> Data:  # fmt: skip
    """The pictures for a training: those of `data`, or of `images` and `masks`, and of `val`; or drawn ones. For
    classification, `data` may have both, in folders `train` and `val`. Every picture is read once, unless that was done
    before: see `data.inspection`.

    verbose: have the notes name all files that are left out. skip_broken: leave out pictures that cannot be used,
    folders that cannot be read and, of a run that is resumed, pictures that are gone. before: of such a run, what
    `runs.read_pictures` returns; it says how pictures are divided. on_progress: called with how many pictures have been
    read, and how many are to be.
    Warns if pictures are both to train on and in `val`. Raises FileError if a folder is not a data set, SetupError if
    it has too few pictures, or broken ones.
    """
    if draws(settings):
        drawn = SyntheticDataset(EMBEDDED_PICTURES, EMBEDDED_SIZE, settings["seed"])
        training, held_out = hold_out(drawn, settings["seed"])
        return Data(training, held_out, [f"{len(training)} drawn pictures to train on, {len(held_out)} held out"])
    try:
        sets, notes, classes = (_classes if settings["task"] == "classify" else _folders)(settings, verbose)
    except FileError as error:
        if before is None:
            raise
        named = "`images` and `masks`" if "images" in settings else "`data`"
        hint = f"if the pictures are elsewhere now, say where by {named}"
        raise SetupError(f"{str(error).rstrip('.')}; {hint}.") from error
    failures = [str(fault) for part in sets for fault in getattr(part, "failures", ())]
    if failures and before is None and not skip_broken:  # what is gone of a run that is resumed is known by name
        raise _broken(failures, f"{len(failures)} folders or links cannot be read")
    _warn(failures)
    skipped = {source: list(names) for source, names in (before or {}).get("skipped", {}).items()}
    parts = _without(dict(zip(SOURCES, sets, strict=False)), skipped)
    _require_all(parts, before, skipped, skip_broken)
    found = inspect(list(parts.values()), settings["threads"], on_progress)
    broken = dict(zip(parts, found, strict=True))
    if any(found):
        if not skip_broken:
            faults = [fault for each in found for fault in each.values()]
            count = sum(map(len, parts.values()))
            raise _broken(faults, f"{len(faults)} of {count} pictures cannot be used", len(faults) == count)
        for source, faults in broken.items():
            _warn(faults.values())
            skipped.setdefault(source, []).extend(parts[source].names[k] for k in faults)
        parts = _without(parts, skipped)
    notes += [
        f"{sets[n].root}: broken pictures that are left out: {len(skipped[source])}"
        for n, source in enumerate(parts) if skipped.get(source)
    ]  # fmt: skip
    training, held_out, note = _divided(parts, sets, settings, before)
    if len(sets) == 2:
        _warn_of_shared(training, held_out)
    return Data(training, held_out, [*notes, note], classes, skipped)


def _folders(settings, verbose):
    """(data sets, notes, no classes) for salient objects."""
    limit = settings.get("max_pixels", MOST_PIXELS)
    named = {name: settings.get(name) for name in ("images", "masks")}
    sets, notes = [FolderDataset(settings.get("data"), **named, limit=limit)], []
    if "val" in settings:
        sets.append(FolderDataset(settings["val"], limit=limit))
    for part in sets:
        notes += _not_taken(part, verbose)
        if part.not_searched:
            notes.append(describe_not_searched(part.not_searched, None if verbose else SHOWN))
        if part.unpaired:
            shown = part.unpaired[: None if verbose else SHOWN]
            more = f" and {len(part.unpaired) - len(shown)} more" if len(shown) < len(part.unpaired) else ""
            names = ", ".join(path.name for path in shown)
            notes.append(f"{part.root}: left out for want of a partner: {names}{more}")
    return sets, notes, ()


def _classes(settings, verbose):
    """(data sets, notes, names of classes) for classification."""
    limit = settings.get("max_pixels", MOST_PIXELS)
    data, val = find_parts(settings["data"])
    sets = [ClassDataset(data, limit=limit)]
    classes = sets[0].classes
    if (val := settings.get("val", val)) is not None:
        sets.append(ClassDataset(find_parts(val)[1] or val, classes, limit))
    return sets, [*(note for part in sets for note in _not_taken(part, verbose)), f"{len(classes)} classes"], classes


def _not_taken(part, verbose):
    """A note about pictures of a data set that are left out because of their formats, if there are any."""
    return [describe_not_taken(part.not_taken, None if verbose else SHOWN)] if part.not_taken else []


def _without(parts, skipped):
    """The data sets, or parts of them, without the pictures of the names in `skipped`: a `Subset` of each data set."""
    found = {}
    for source, part in parts.items():
        left = set(skipped.get(source, ()))
        whole, indices = (part.dataset, part.indices) if isinstance(part, Subset) else (part, range(len(part)))
        found[source] = Subset(whole, (i for i, name in zip(indices, part.names, strict=True) if name not in left))
    return found


def _require_all(parts, before, skipped, skip_broken):
    """Raise SetupError if pictures of a run are gone, and no others have come instead; if they may be, note them in
    `skipped`."""
    if before is None:
        return
    names = [before["training"], before["validation"]]
    names = names if len(parts) == 2 else [names[0] + names[1]]
    for (source, part), expected in zip(parts.items(), names, strict=True):
        there, known = set(part.names), set(expected)
        if there - known:
            continue  # these are other pictures, which the run refuses
        if gone := [name for name in expected if name not in there]:
            if not skip_broken:
                raise SetupError(
                    f"{part.dataset.root}: lacks {len(gone)} of the pictures that the run was started with, such as "
                    f"{gone[0]}; with `skip_broken`, it goes on without them."
                )
            skipped.setdefault(source, []).extend(gone)


def _broken(faults, what, everything=False):
    """The error that tells of some faults, after warnings that name them. what: they are, in words. everything: whether
    nothing else would be left."""
    faults = [fault.rstrip(".") for fault in faults]
    if len(faults) == 1 and not everything:
        return SetupError(f"{faults[0]}; mend or remove it, or leave it out with `skip_broken`.")
    _warn(faults)
    hint = "" if everything else "; mend or remove them, or leave them out with `skip_broken`"
    return SetupError(f"{what}, the first because: {faults[0]}{hint}.")


def _warn(faults):
    faults = list(faults)
    for fault in faults[:NAMED]:
        warnings.warn(fault, stacklevel=3)
    if len(faults) > NAMED:
        warnings.warn(f"{len(faults) - NAMED} more pictures cannot be used.", stacklevel=3)


def _divided(parts, sets, settings, before):
    """(samples to train on, those to validate on, a line about them) of one data set or two."""
    if empty := [part.dataset.root for part in parts.values() if not len(part)]:
        raise SetupError(f"{empty[0]}: none of its pictures can be used.")
    if len(parts) == 2:
        training, held_out = (_ordered(part, before and before[name]) for part, name in
                              zip(parts.values(), ("training", "validation"), strict=True))  # fmt: skip
        note = f"{len(training)} pictures to train on, {len(held_out)} of {sets[1].root} to validate on"
        return training, held_out, note
    (part,) = parts.values()
    if before is not None:
        known = set(before["validation"])
        held_out = _ordered(_select(part, lambda name: name in known), before["validation"])
        training = _ordered(_select(part, lambda name: name not in known), before["training"])
    elif len(part) < 2:
        what = "picture" if settings["task"] == "classify" else "picture with a mask"
        raise SetupError(f"{part.dataset.root}: holds one {what}; without `val`, two are needed.")
    else:
        labels = getattr(part.dataset, "labels", None)
        labels = labels and [labels[i] for i in part.indices]
        chosen = hold_out(part, settings["seed"], labels)
        training, held_out = (Subset(part.dataset, (part.indices[k] for k in half.indices)) for half in chosen)
    if not len(training) or not len(held_out):
        raise SetupError(f"{part.dataset.root}: too few of the run's pictures are left.")
    note = f"{len(training)} pictures to train on, {len(held_out)} held out to validate on (data.json)"
    return training, held_out, note


def _warn_of_shared(training, held_out):
    """Warn if there are pictures both to train on and to validate on: links are followed, contents not compared."""
    known = set(_files(training))
    if shared := [path for path in _files(held_out) if path in known]:
        warnings.warn(
            f"{held_out.dataset.root}: {len(shared)} of the {len(held_out)} pictures to validate on are also trained "
            f"on, such as {shared[0]}; their scores say little about other pictures.",
            stacklevel=3,
        )


def _files(part):
    """The files of a part's pictures."""
    dataset = part.dataset
    paths = dataset.paths if isinstance(dataset, ClassDataset) else [picture for picture, _ in dataset.pairs]
    return [os.path.realpath(paths[index]) for index in part.indices]


def _select(part, wanted):
    return Subset(part.dataset, (i for i, name in zip(part.indices, part.names, strict=True) if wanted(name)))


def _ordered(part, names):
    """The part with its pictures in the order of some names; others come last. As it is, if there are no names."""
    places = {name: place for place, name in enumerate(names or ())}
    order = sorted(range(len(part)), key=lambda k: places.get(part.names[k], len(places)))
    return Subset(part.dataset, (part.indices[k] for k in order))
