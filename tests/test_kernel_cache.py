"""Entries of the cache of compiled kernels: they never cost a result, and are not believed for nothing."""

import errno
import importlib
import json
import os
import pathlib
import pickle
import resource
import stat
import subprocess
import sys
import textwrap
import time
import warnings

import numpy as np
import pytest
from commands import ROOT, octsod_process

cache = importlib.import_module("octsod.kernels.cpu.cache")
kernel = importlib.import_module("octsod.kernels.cpu.compile").kernel


def _tiny(x):
    return x + 1


def tiny():
    """A kernel as a new process would have it: with nothing loaded."""
    return kernel(_tiny)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, in a process that has not warned yet."""
    folder = tmp_path / "cache" / "kernels-0"
    monkeypatch.setattr(cache, "cache_folder", lambda: (folder, ""))
    monkeypatch.setattr(cache, "_problem", None)
    monkeypatch.setattr(cache, "_loss", None)
    return folder


def use(function):
    """Call a `tiny` kernel; returns whether it came from the cache, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert function(41) == 42
    return bool(function.stats.cache_hits), [str(w.message) for w in caught]


def filled(folder):
    """The one entry of the cache, which `tiny` is stored in."""
    assert use(tiny()) == (False, [])
    (entry,) = folder.iterdir()
    assert use(tiny()) == (True, [])
    return entry


# --- damage -------------------------------------------------------------------------------------------------------


def assert_mended(entry, word):
    """What is at the place of the entry is not used, and then replaced; there is one warning, which names it."""
    good, messages = use(tiny())
    assert not good and len(messages) == 1 and str(entry) in messages[0] and word in messages[0]
    assert entry.is_file() and not entry.is_symlink() and [*entry.parent.iterdir()] == [entry]
    assert use(tiny()) == (True, [])


@pytest.mark.parametrize("length", [0, 1, 16, 47, 48, 100, 0.5, -1])
def test_an_entry_that_was_cut(folder, length):
    entry = filled(folder)
    data = entry.read_bytes()
    entry.write_bytes(data[: int(length * len(data)) if isinstance(length, float) else length])
    assert_mended(entry, "damaged")


def test_an_entry_with_flipped_bits(folder):
    entry = filled(folder)
    data, rng = entry.read_bytes(), np.random.default_rng(0)
    path, key = tiny()._cache._entry(((tiny_type()),))
    assert path == entry and cache._read(path, key) == data[48:]
    for position in rng.integers(0, 8 * len(data), 200):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        entry.write_bytes(damaged)
        with pytest.raises(cache._DamageError):
            cache._read(path, key)
    assert_mended(entry, "damaged")


def tiny_type():
    return tiny().typeof_pyval(41)


@pytest.mark.parametrize("data", [b"garbage" * 1000, b"\0" * 4096, cache.MAGIC + b"\0" * 4096])
def test_garbage_for_an_entry(folder, data):
    entry = filled(folder)
    entry.write_bytes(data)
    assert_mended(entry, "damaged")


def test_an_entry_of_another_kernel(folder):
    entry = filled(folder)
    good = entry.read_bytes()
    other = kernel(lambda x: x + 2)
    assert other(41) == 43
    (stranger,) = set(folder.iterdir()) - {entry}
    stranger.replace(entry)
    assert entry.read_bytes() != good
    assert_mended(entry, "damaged")


class Trap:
    """Pickled, this makes a folder wherever it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled_before_the_checksum_is_right(folder, tmp_path):
    entry = filled(folder)
    entry.write_bytes(entry.read_bytes()[:48] + pickle.dumps(Trap(tmp_path / "executed")))
    assert_mended(entry, "damaged")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("payload", [pickle.dumps(("nonsense",)), pickle.dumps((None,) * 9), b"no pickle", b""])
def test_a_payload_that_numba_cannot_use(folder, payload):
    filled(folder)
    entry, key = tiny()._cache._entry((tiny_type(),))
    cache._write(entry, cache.MAGIC + cache._checksum(key, payload) + payload)
    assert_mended(entry, "cannot be used")


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "loop", "writable"])
def test_what_is_no_entry(folder, tmp_path, kind):
    entry = filled(folder)
    if kind == "writable":
        entry.chmod(0o666)
    elif kind == "link":
        os.rename(entry, tmp_path / "elsewhere")
        entry.symlink_to(tmp_path / "elsewhere")
    else:
        entry.unlink()
        {"folder": os.mkdir, "pipe": os.mkfifo, "loop": lambda path: os.symlink(path, path)}[kind](entry)
    assert_mended(entry, "")


def test_a_folder_with_contents_in_the_place_of_an_entry(folder):
    entry = filled(folder)
    entry.unlink()
    (entry / "more").mkdir(parents=True)
    hit, messages = use(tiny())
    assert not hit and len(messages) == 1
    assert [*folder.iterdir()] == [entry]


# --- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("place", ["open", "replace"])
def test_what_cannot_be_written(folder, monkeypatch, number, place):
    """A read-only cache is read all the same, and there is no warning unless something had to be compiled."""
    entry = filled(folder)
    there = getattr(os, place)

    def fail(path, flags=os.O_WRONLY, *more):
        if place == "open" and not flags & os.O_WRONLY:
            return there(path, flags, *more)
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(cache.os, place, fail)
    assert use(tiny()) == (True, [])
    entry.unlink()
    hit, messages = use(tiny())
    assert not hit and len(messages) == 1 and f"{folder}: is not writable ({os.strerror(number)})" in messages[0]
    assert use(tiny()) == (False, [])
    assert [*folder.iterdir()] == []


def test_a_folder_that_vanishes(folder):
    filled(folder).unlink()
    folder.rmdir()
    assert use(tiny()) == (False, [])
    assert use(tiny()) == (True, [])


def test_an_interrupted_write_leaves_the_old_entry(folder, monkeypatch):
    entry = filled(folder)
    before = entry.read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache.os, "replace", interrupt)
        cache._write(entry, b"new")
    assert [*folder.iterdir()] == [entry] and entry.read_bytes() == before


def test_old_versions_and_abandoned_parts_are_deleted(folder):
    entry = filled(folder)
    start, now = entry.name.rpartition("-")[0], time.time()
    for age in range(1, 10):
        old = folder / f"{start}-{age}{cache.SUFFIX}"
        old.touch()
        os.utime(old, (now - age, now - age))
    for name, age in (("killed", 7200), ("busy", 60)):
        part = folder / f".{name}{cache.PART}"
        part.touch()
        os.utime(part, (now - age, now - age))
    (folder / f"another-kernel{cache.SUFFIX}").touch()
    cache._tidy(folder, start)
    left = {entry.name, *(f"{start}-{age}.kernel" for age in (1, 2, 3)), "another-kernel.kernel", ".busy.part"}
    assert {path.name for path in folder.iterdir()} == left


WRITE_OFTEN = """
    import pathlib
    import sys
    from octsod.kernels.cpu import cache
    payload = sys.argv[2].encode() * 100_000
    for _ in range(200):
        cache._write(pathlib.Path(sys.argv[1]), cache.MAGIC + cache._checksum(b"key", payload) + payload)
"""


def test_whoever_reads_while_others_write_sees_whole_entries(tmp_path):
    path = tmp_path / "entry"
    code = [sys.executable, "-c", textwrap.dedent(WRITE_OFTEN), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen([*code, letter], env=environment) for letter in "ab"]
    while any(writer.poll() is None for writer in writers):
        assert cache._read(path, b"key") in (None, b"a" * 100_000, b"b" * 100_000)
    assert [writer.returncode for writer in writers] == [0, 0]


def test_folders_are_made_for_all_to_read_and_one_to_write(folder):
    mask = os.umask(0)
    try:
        entry = filled(folder)
    finally:
        os.umask(mask)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (folder.parent, folder, entry)] == [0o755, 0o755, 0o644]


# --- a whole process ----------------------------------------------------------------------------------------------

ADD = """
    import json
    import sys
    import warnings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import numpy as np
        import octsod
        from octsod.kernels.cpu import cache_folder, elementwise
        total = float((octsod.Tensor(np.ones(1000)) + 1).numpy().sum())
        hits = sum(elementwise._add.stats.cache_hits.values())
        folder = str(cache_folder.cache_folder()[0])
        json.dump([total, hits, folder, [str(w.message) for w in caught]], sys.stdout)
"""


def add(directory, **environment):
    """Add two arrays in a new process: (hits, folder, warnings)."""
    base = {name: value for name, value in os.environ.items() if not name.startswith(("OCTSOD_", "XDG_", "NUMBA_"))}
    limit = environment.pop("limit", None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ADD)], cwd=directory, capture_output=True, text=True,
        env={**base, "PYTHONPATH": str(ROOT), **environment},
        preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    total, *facts = json.loads(done.stdout)
    assert total == 2000
    return facts


def test_a_cache_filled_for_another_processor(tmp_path):
    """Code for other features, or with vectors of another width, would crash or corrupt memory."""
    place = {"OCTSOD_CACHE_DIR": str(tmp_path / "cache")}
    hits, generic, messages = add(tmp_path, NUMBA_CPU_NAME="generic", **place)
    assert hits == 0 and messages == []
    hits, native, messages = add(tmp_path, **place)
    assert hits == 0 and messages == [] and native != generic
    for more, folder in (({"NUMBA_CPU_NAME": "generic"}, generic), ({}, native)):
        assert add(tmp_path, **place, **more) == [1, folder, []]


def test_a_quota(tmp_path):
    hits, folder, messages = add(tmp_path, OCTSOD_CACHE_DIR=str(tmp_path / "cache"), limit=1000)
    assert hits == 0 and len(messages) == 1 and f"{folder}: is not writable (File too large)" in messages[0]
    assert [*pathlib.Path(folder).iterdir()] == []


@pytest.mark.parametrize(("name", "value"), [("NUMBA_OPT", "1"), ("NUMBA_ENABLE_AVX", "0"), ("NUMBA_BOUNDSCHECK", "1")])
def test_settings_of_numba_that_change_code(name, value):
    code = "from octsod.kernels.cpu.cache_folder import host; print(host())"
    names = [n for n in os.environ if n.startswith("NUMBA_")]
    base = {**{n: v for n, v in os.environ.items() if n not in names}, "PYTHONPATH": str(ROOT)}
    hosts = [
        subprocess.run([sys.executable, "-c", code], env={**base, **more}, capture_output=True, text=True).stdout
        for more in ({}, {"NUMBA_NUM_THREADS": "1", "NUMBA_CACHE_DIR": "x"}, {name: value})
    ]
    assert len(hosts[0]) == 17 and hosts[0] == hosts[1] != hosts[2]


@pytest.mark.parametrize("command", [["warmup"], ["doctor"]])
def test_numba_without_its_compiler(monkeypatch, command):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    process = octsod_process(*command)
    out, err = process.communicate(timeout=600)
    if command == ["doctor"]:
        assert process.returncode == 1 and err == "" and "NUMBA_DISABLE_JIT is set" in out
    else:
        assert process.returncode == 2 and out == "" and len(err.splitlines()) == 1
        assert err.startswith("Error: NUMBA_DISABLE_JIT is set")
