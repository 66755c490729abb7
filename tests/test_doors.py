"""One door for reading files, one for JSON, one for locks: no module goes round them, as its source shows.

`octsod.files` opens regular files only, so that a named pipe in a folder of pictures keeps nobody waiting, and reads no
more than a caller can use. `octsod.threads` makes locks that are free after a fork.
"""

import ast
import functools
import pathlib

import octsod.kernels
import pytest

import octsod

ROOTS = {"octsod": pathlib.Path(octsod.__file__).parent, "kernels": pathlib.Path(octsod.kernels.__file__).parent}

# Calls that open or read a file by its name, or parse what only `files` may parse, however their module is called.
READERS = {
    "open", "open_code", "fdopen", "read_text", "read_bytes", "write_text", "write_bytes", "safe_open", "load_file",
    "save_file", "fromfile", "memmap", "genfromtxt", "loadtxt", "savetxt", "imread", "mmap", "ZipFile", "TarFile",
    "copyfile", "copy2",
}  # fmt: skip
# The same, of these modules only: other things may be called so, too.
READERS_OF = {
    "np": {"load", "save"}, "numpy": {"load", "save"}, "json": {"load", "loads"}, "tomllib": {"load"},
    "tomli": {"load"}, "pickle": {"load", "loads", "Unpickler"}, "marshal": {"load", "loads"}, "runpy": {"run_path"},
}  # fmt: skip
LOCKS = {"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Event", "Barrier"}

# Module -> {name of what it calls: why it may}.
EXCEPTIONS = {
    "octsod/files.py": {
        "open": "the door: opens for reading with care, and creates files that nobody else knows yet",
        "fdopen": "the door",
        "json.loads": "the door",
    },
    "octsod/threads.py": {"RLock": "the door"},
    "octsod/backend/arrays.py": {"memmap": "the type of arrays that are copied"},
    "octsod/tensor_files.py": {"json.loads": "parses a header that the library has just made"},
    "octsod/interop/pickles.py": {
        "ZipFile": "of bytes in memory, which `files` has read",
        "pickle.Unpickler": "of a pickle that has been screened; it may name nothing but stand-ins",
    },
    "octsod/cli/prune.py": {"json.loads": "of text that a configuration has just made"},
    "octsod/profiling/machine.py": {"read_text": "of /proc/cpuinfo and /sys"},
    "kernels/cpu/plan.py": {"read_text": "of /sys; kernels import nothing of the library but what describes them"},
    "kernels/cpu/clock.py": {"read_text": "of /sys, likewise"},
    "kernels/cpu/cache.py": {
        "open": "the door of compiled kernels, which have rules of their own",
        "fdopen": "the same door",
        "pickle.loads": "of what this user or root wrote, and nobody changed since",
    },
    "kernels/cpu/fingerprints.py": {"read_bytes": "of the kernels' own sources"},
    "kernels/cuda/launch.py": {"read_text": "of the kernels' own sources"},
    "octsod/cli/streams.py": {"open": "the null device, in the place of a closed stream"},
}


@functools.cache
def modules():
    """(name, syntax tree) of each module, named by its path from the checkout's root."""
    return [
        (f"{root}/{path.relative_to(folder).as_posix()}", ast.parse(path.read_text(encoding="utf-8")))
        for root, folder in ROOTS.items()
        for path in sorted(folder.rglob("*.py"))
        if not (root == "octsod" and path.is_relative_to(folder / "kernels"))  # there, in an installed copy
    ]


def used(tree):
    """(name, line) of all that goes through a door or round it: names and attributes, called or handed on."""
    imported = {}  # what a module calls it -> what it is
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            imported.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        elif isinstance(node, ast.Import):
            imported.update({alias.asname: alias.name for alias in node.names if alias.asname})
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if node.id != "open" and node.id not in imported:
                continue  # a name of the library's own, such as `read_text` of `files`
            owner, _, name = imported.get(node.id, node.id).rpartition(".")
        elif isinstance(node, ast.Attribute):
            owner, name = ast.unparse(node.value), node.attr
            owner = imported.get(owner, owner)
        else:
            continue
        if name in READERS_OF.get(owner, ()):
            yield f"{owner}.{name}", node.lineno
        elif name in READERS or (name in LOCKS and owner in ("threading", "multiprocessing")):
            yield name, node.lineno


def test_no_module_goes_round_the_doors():
    found = {name: {what for what, _ in used(tree)} for name, tree in modules()}
    wrong = [
        f"{name}:{line}: `{what}`: files are read by octsod.files, locks made by octsod.threads"
        for name, tree in modules()
        for what, line in used(tree)
        if what not in EXCEPTIONS.get(name, {})
    ]
    assert not wrong, "\n".join(wrong)
    idle = {name: reasons.keys() - found.get(name, set()) for name, reasons in EXCEPTIONS.items()}
    assert not any(idle.values()), f"exceptions that nobody needs any more: {idle}"


@pytest.mark.parametrize("source, name", [
    ("open('a')", "open"), ("import io\nio.open(x)", "open"), ("p.open('rb')", "open"), ("map(open, x)", "open"),
    ("import os\nos.open(p, 0)", "open"), ("from PIL import Image\nImage.open(p)", "open"),
    ("p.read_bytes()", "read_bytes"),
    ("import numpy as np\nnp.load(p)", "numpy.load"), ("from json import loads\nloads(t)", "json.loads"),
    ("from json import loads as f\nf(t)", "json.loads"), ("import pickle as p\np.loads(t)", "pickle.loads"),
    ("from safetensors import safe_open", None), ("from safetensors import safe_open as s\ns(p)", "safe_open"),
    ("import threading\nthreading.Lock()", "Lock"), ("from threading import RLock\nRLock()", "RLock"),
    ("import threading as t\nt.Condition()", "Condition"), ("octsod.load(p)", None),
    ("from ..files import read_text\nread_text(p)", None), ("self.event.Event()", None),
])  # fmt: skip
def test_the_doors_are_watched(source, name):
    assert [what for what, _ in used(ast.parse(source))] == ([name] if name else [])
