"""Packs the state of the long run, or unpacks it to go on with: `python long-run/state.py pack|unpack RUN [DATA]`."""

import json
import lzma
import pathlib
import sys

import safetensors
import safetensors.numpy

from octsod.training.runs import _checksum

HERE = pathlib.Path(__file__).parent
FILES = ("data.json", "log.jsonl", "config.toml")


def packed(path, data):
    """A checkpoint's bytes with another path of the data in its settings, and that path as it was."""
    with safetensors.safe_open(path, framework="numpy") as file:
        facts = json.loads(file.metadata()["run"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    before, facts["settings"]["data"] = facts["settings"]["data"], data
    facts = json.dumps(facts)
    return safetensors.numpy.save(state, {"run": facts, "crc32": _checksum(state, facts)}), before


def main(action, run, data="DATA"):
    run = pathlib.Path(run)
    if action == "pack":
        checkpoint, before = packed(run / "state" / "checkpoint.safetensors", data)  # first: the log may only be longer
        (HERE / "checkpoint.safetensors").write_bytes(checkpoint)
        for name in FILES:
            text = (run / name).read_text().replace(before, data)
            (HERE / f"{name}.xz").write_bytes(lzma.compress(text.encode()))
        for name in ("best", "best-average"):
            (HERE / f"{name}.safetensors").write_bytes((run / "weights" / f"{name}.safetensors").read_bytes())
    else:
        data = str(pathlib.Path(data).resolve())
        for folder in ("state", "weights", "plots"):
            (run / folder).mkdir(parents=True, exist_ok=True)
        checkpoint, before = packed(HERE / "checkpoint.safetensors", data)
        (run / "state" / "checkpoint.safetensors").write_bytes(checkpoint)
        for name in FILES:
            text = lzma.decompress((HERE / f"{name}.xz").read_bytes()).decode()
            (run / name).write_text(text.replace(f'data = "{before}"', f'data = "{data}"'))
        (run / "env.json").write_text("{}\n")
        for name in ("best", "best-average"):
            (run / "weights" / f"{name}.safetensors").write_bytes((HERE / f"{name}.safetensors").read_bytes())


main(*sys.argv[1:])
