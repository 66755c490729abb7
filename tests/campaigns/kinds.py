"""The kinds of inputs that are fuzzed: valid samples, how they are damaged, and what the library must make of them.

A sample is a folder of a few files. `check` hands it to the library as users do. It raises OctsodError if the library
refuses it, `WrongError` if the library accepts it and what it makes of it is no result; any other exception is a fault.
"""

import json
import pathlib
import pickle
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from commands import run as command

import octsod
from octsod.errors import OctsodError
from octsod.interop import sod100k
from octsod.interop.pickles import read_checkpoint

from . import formats, mutations, samples
from .samples import HEIGHT, WIDTH, encoded, networks, saved

Files = dict[str, bytes]
PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
SIDE = 32


class WrongError(Exception):
    """The library took an input and made nonsense of it."""


def sane(condition: Any, what: str) -> None:
    if not condition:
        raise WrongError(what)


def called(*arguments: Any) -> str:
    """The standard output of a command; OctsodError with its message if it refuses."""
    result = command(*arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        last = (result.stderr.strip().splitlines() or [""])[-1]
        sane(last.startswith("Error: "), f"exit code {result.exit_code}, but the last line is {last[:200]!r}")
        raise OctsodError(last)
    return result.stdout


def use(model: Any) -> None:
    """A network that was read must answer, or say why not."""
    if isinstance(model, octsod.CSNet) and not model.configuration.classes:
        found = octsod.predict(PICTURE, model)
        sane(found.dtype == np.uint8 and found.shape == PICTURE.shape[:2], f"predicts {found.dtype} {found.shape}")
    else:
        with octsod.no_grad():
            model.eval()(octsod.Tensor(octsod.images.prepare(PICTURE, model.size)[None].astype(model.dtype)))


class Kind:
    """home: a folder that stays where it is, for what samples refer to. every: only one input in so many gets the slow
    part of `check`, which `thorough` asks for."""

    name: ClassVar[str]
    every: ClassVar[int] = 10
    allowed: ClassVar[frozenset[str]] = frozenset()  # audit events that are part of its work
    special: ClassVar[bool] = True  # whether a file may be missing, a pipe and the like
    own_cache: ClassVar[bool] = False  # whether the cache of kernels is what is damaged: `cache`, beside the input

    def __init__(self, home: pathlib.Path):
        self.home = home

    def samples(self) -> Iterator[tuple[str, Files]]:
        """Valid inputs: names and files."""
        raise NotImplementedError

    def mutations(self, file: str, valid: dict[str, Files]) -> list[mutations.Mutation]:
        """How a file of this name is damaged."""
        raise NotImplementedError

    def prepare(self, valid: dict[str, Files]) -> None:
        """Called once per process, before `check`."""

    def check(self, folder: pathlib.Path, thorough: bool) -> None:
        raise NotImplementedError


class Weights(Kind):
    name = "weights"

    def samples(self):
        for name, model in networks().items():
            yield name, {"w.safetensors": saved(model)}

    def mutations(self, file, valid):
        return [*formats.SAFETENSORS, mutations.splice([files[file] for files in valid.values()])]

    def check(self, folder, thorough):
        use(octsod.load(folder / "w.safetensors"))


class Pickles(Kind):
    """Checkpoints of PyTorch's, with layer files, for `octsod convert`."""

    name = "pickles"

    def samples(self):
        from pickle_writer import Writer, small
        from test_weights import layers

        for zipped in (False, True):
            writer, name = Writer(zipped), "zip" if zipped else "legacy"
            yield f"{name}-small", {"c.pth.tar": writer.bytes(small(writer))}
            for kind, model in list(networks().items())[:2]:
                writer = Writer(zipped)
                state = {name: writer.of(array) for name, array in sod100k.arrays(model).items()}
                rows = layers(model.configuration)
                arrays = [[np.array(side, float) if isinstance(side, list) else side for side in row] for row in rows]
                yield f"{name}-{kind}", {
                    "c.pth.tar": writer.bytes({"state_dict": state}),
                    "l.bin": pickle.dumps(arrays if zipped else rows, 3), "rows.json": json.dumps(rows).encode(),
                }  # fmt: skip

    def mutations(self, file, valid):
        if file == "rows.json":  # what l.bin is made of; it is not read
            return []
        if file == "l.bin":
            rows = [json.loads(files["rows.json"]) for files in valid.values() if "rows.json" in files]
            return [*map(formats.relisted, rows), *[formats.opcodes] * 4, *mutations.BYTES]
        return [*formats.PICKLES, mutations.splice([files[file] for files in valid.values()])]

    def check(self, folder, thorough):
        if (folder / "l.bin").is_symlink() or (folder / "l.bin").exists():
            use(sod100k.read_model(folder / "c.pth.tar", folder / "l.bin"))
        else:
            for name, array in read_checkpoint(folder / "c.pth.tar").items():
                sane(type(name) is str and isinstance(array, np.ndarray) and array.dtype.kind in "fiub", "no array")
                array.sum()


class Configs(Kind):
    name = "configs"

    def samples(self):
        for name, arguments in {
            "defaults": (), "classes": ("--task", "classify", "--data", "."),
            "finetune": ("--init", "w.safetensors", "--finetune"),
            "learned": ("--data", ".", "--learn-channels", "2", "--average", "--size", "32:0,64:0.5", "--split", "3,1"),
            "sgd": ("--optimizer", "sgd", "--momentum", "0.5", "--clip", "1", "--fused", "3,4", "--freeze", "stage0"),
        }.items():  # fmt: skip
            yield name, {"c.toml": called("train", "--print-config", *arguments).encode()}

    def mutations(self, file, valid):
        return [*mutations.TEXT * 4, *mutations.BYTES, mutations.splice([files[file] for files in valid.values()])]

    def check(self, folder, thorough):
        text = called("train", "--print-config", "-c", folder / "c.toml")
        if thorough:
            (folder / "again.toml").write_text(text)
            again = called("train", "--print-config", "-c", folder / "again.toml")
            sane(again == text, "settings that were printed are read otherwise")


class Images(Kind):
    name = "images"

    def samples(self):
        for name, data in samples.pictures():
            yield name, {name: data}

    def mutations(self, file, valid):
        others = [data for files in valid.values() for data in files.values()]
        return [*formats.PICTURES, mutations.splice(others)]

    def check(self, folder, thorough):
        for path in folder.iterdir():
            image = octsod.images.read_image(path)
            sane(image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size, "no picture")
            if image.size < 1_000_000:
                sane(np.isfinite(octsod.images.prepare(image, SIDE)).all(), "prepares numbers that are not finite")


class Masks(Kind):
    """Masks in a data set, each beside a picture that is whole."""

    name = "masks"

    def samples(self):
        picture = encoded(samples.colours(), "PNG")
        for name, data in samples.masks():
            yield name, {"images/a.png": picture, f"masks/a.{name.split('.')[1]}": data}

    def mutations(self, file, valid):
        if file.startswith("images"):
            return []
        others = [data for files in valid.values() for name, data in files.items() if name.startswith("masks")]
        return [*formats.PICTURES, mutations.splice(others)]

    def check(self, folder, thorough):
        mask = octsod.data.FolderDataset(folder)[0].mask
        sane(mask.dtype == np.uint8 and mask.shape == (HEIGHT, WIDTH), "no mask")
        # An object whose pixels all count as background is not the mask that somebody drew.
        sane(not mask.any() or mask.max() > 128, f"a mask whose values up to {mask.max()} all count as background")
