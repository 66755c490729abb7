"""What shows that the campaign would see a fault: a kind of input whose inputs are faults."""

import os
import subprocess

from octsod.errors import FileError

from .kinds import Kind, called, sane


class Harness(Kind):
    """Inputs that do what inputs must not do, to show that it is seen; never part of a campaign."""

    name = "harness"
    special = False

    def samples(self):
        yield "deed", {"deed": b"fine"}

    def mutations(self, file, valid):
        return [lambda data, rng: rng.choice(list(DEEDS)).encode()]

    def check(self, folder, thorough):
        deed = (folder / "deed").read_bytes().decode()
        if deed != "fine":
            DEEDS[deed](folder)


def _refuse(folder):
    raise FileError(f"{folder}: is refused.")


def _write(folder):
    (folder.parent / "outside").write_bytes(b"")


def _spin(folder):
    while True:
        pass


DEEDS = {
    "nothing": _refuse, "crash": lambda folder: os.abort(), "hang": _spin, "memory": lambda folder: bytearray(3 << 30),
    "file outside": _write, "traceback": lambda folder: 1 / 0,
    "code": lambda folder: subprocess.run(["true"]), "wrong result": lambda folder: sane(False, "nonsense"),
    "message": lambda folder: called("none"),
}  # fmt: skip
