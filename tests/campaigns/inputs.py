"""An input: a valid sample and what was done to it. Kind, seed and number determine it."""

import json
import os
import pathlib
import random
import shutil
from typing import NamedTuple

from .cache_kind import Cache
from .harness import Harness
from .kinds import Configs, Files, Images, Kind, Masks, Pickles, Weights
from .mutations import flip
from .run_kinds import Checkpoints, Logs, Runs
from .samples import files_in

KINDS = {kind.name: kind for kind in (Weights, Pickles, Configs, Images, Masks, Logs, Checkpoints, Runs, Cache)}

# What may stand where a file should: one operation in so many puts it there.
SPECIAL, SPECIAL_EVERY = ("missing", "folder", "pipe", "endless", "dangling", "loop"), 300


class Input(NamedTuple):
    """sample: its name. operations: (file, number of the mutation or name of what replaces it, seed of its chance)."""

    kind: str
    number: int
    sample: str
    operations: list[tuple[str, int | str, int]]


class Source:
    """The inputs of a kind. Its samples are made once and kept in `home`, so that they stay what they are."""

    def __init__(self, kind: str, home: pathlib.Path):
        self.kind: Kind = {**KINDS, Harness.name: Harness}[kind](home)
        folder = home / kind
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            home.mkdir(parents=True, exist_ok=True)
            for name, files in self.kind.samples():
                write(folder / "samples" / name, dict(files))
            (folder / "complete").touch()
        self.samples: dict[str, Files] = {
            sample.name: files_in(sample) for sample in sorted((folder / "samples").iterdir())
        }
        self._mutations = {
            (name, file): self.kind.mutations(file, {n: f for n, f in self.samples.items() if file in f})
            for name, files in self.samples.items() for file in files
        }  # fmt: skip

    def input(self, seed: int, number: int) -> Input:
        rng = random.Random(f"{seed} {self.kind.name} {number}")
        name = rng.choice(list(self.samples))
        files = sorted(file for file in self.samples[name] if self._mutations[name, file])
        operations: list[tuple[str, int | str, int]] = []
        for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 5])):
            file = rng.choice(files)
            what: int | str = rng.randrange(len(self._mutations[name, file]))
            if self.kind.special and rng.random() < 1 / SPECIAL_EVERY:
                what = rng.choice(SPECIAL)
            operations.append((file, what, rng.getrandbits(32)))
        return Input(self.kind.name, number, name, operations)

    def files(self, given: Input) -> dict[str, bytes | str]:
        """Contents by path; text stands for one of `SPECIAL`."""
        files: dict[str, bytes | str] = dict(self.samples[given.sample])
        for file, what, seed in given.operations:
            data = files[file]
            if isinstance(what, str):
                files[file] = what
            elif isinstance(data, bytes):
                try:
                    changed = self._mutations[given.sample, file][what](data, random.Random(seed))
                except Exception:  # what damage made of the format is beyond the mutation
                    changed = flip(data, random.Random(seed))
                files[file] = changed[: 1 << 24]
        return files


def write(folder: pathlib.Path, files: dict[str, bytes | str]) -> None:
    """Make a folder of these files, in the place of what is there."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, bytes):
            path.write_bytes(data)
        elif data == "folder":
            path.mkdir()
        elif data == "pipe":
            os.mkfifo(path)
        elif data in ("endless", "dangling", "loop"):
            path.symlink_to({"endless": "/dev/zero", "dangling": "nowhere", "loop": path.name}[data])


def keep(folder: pathlib.Path, files: dict[str, bytes | str], facts: dict) -> None:
    """Save an input that showed a fault, with what is known about it."""
    special = {name: data for name, data in files.items() if isinstance(data, str)}
    write(folder, {name: data for name, data in files.items() if isinstance(data, bytes)})
    (folder / "fault.json").write_text(json.dumps({**facts, "special": special}, indent=1))


def kept(folder: pathlib.Path) -> tuple[dict[str, bytes | str], dict]:
    """What `keep` saved."""
    facts = json.loads((folder / "fault.json").read_text())
    files = {name: data for name, data in files_in(folder).items() if name != "fault.json"}
    return {**files, **facts.pop("special")}, facts
