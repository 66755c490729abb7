"""`octsod warmup`: what it compiles, what it says, where it fails."""

import errno
import importlib
import os
import subprocess
import sys
import textwrap

from commands import ROOT, octsod_process, refused, run

# After a warm-up, real sizes and other networks; prints the kernels that these have compiled or loaded in addition.
AFTERWARDS = """
    import gc

    import numpy as np
    from numba.core.dispatcher import Dispatcher

    import octsod
    from octsod.cli import main
    from octsod.data import Loader, Sample
    from octsod.training import Recipe

    def signatures():
        return {
            f"{kernel.py_func.__module__}.{kernel.py_func.__name__}{signature}"
            for kernel in gc.get_objects() if isinstance(kernel, Dispatcher)
            for signature in kernel.overloads if kernel.py_func.__module__.startswith("octsod.")
        }

    main(["warmup"], standalone_mode=False)
    warm = signatures()
    rng = np.random.default_rng(0)
    samples = [
        Sample("", rng.integers(0, 256, (70, 90 + i, 3), np.uint8), rng.integers(0, 256, (70, 90 + i), np.uint8))
        for i in range(3)
    ]
    for width, split, size in ((1, (1, 1), 96), (0.5, (1, 0), 32), (0.5, (0, 1), 48), (0.5, (1, 1, 1), 32)):
        trainer = Recipe().trainer(octsod.csnet(width, split))
        for batch in Loader(samples, 3, size).epoch(0):
            trainer.step(*batch)
        for parameter in trainer.model.parameters():
            parameter.data.fill(0)
        octsod.evaluate(trainer.model, samples, size)
        octsod.predict(samples[0].image, trainer.model, 224)
    print(len(warm) > 10, sorted(signatures() - warm))
"""


def test_everything_is_compiled_and_the_second_time_nothing():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = [sys.executable, "-c", textwrap.dedent(AFTERWARDS)]
    done = subprocess.run(code, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True []\n"
    process = octsod_process("warmup")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and out == ""
    assert len(err.splitlines()) == 1 and err.endswith(": all kernels are compiled already\n")


def test_kernels_that_cannot_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OCTSOD_CACHE_DIR", str(tmp_path / "file" / "cache"))
    process = octsod_process("warmup")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 2 and out == ""
    assert err.startswith(f"Error: {tmp_path / 'file' / 'cache'}: is not writable") and len(err.splitlines()) == 1


def test_a_filled_cache_need_not_be_writable(monkeypatch):
    """Only what it lacks would have to be kept."""
    from octsod.cli import warmup

    kernel = importlib.import_module("octsod.kernels.cpu.compile").kernel
    assert run("warmup").exit_code == 0
    monkeypatch.setattr("octsod.kernels.cpu.cache.is_writable", lambda folder: False)
    assert run("warmup").exit_code == 0

    def fail(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("octsod.kernels.cpu.cache._write", fail)
    monkeypatch.setattr("octsod.kernels.cpu.cache._loss", None)
    monkeypatch.setattr(warmup, "_use_all_kernels", lambda: kernel(lambda x: x + 1)(1))
    assert "is not writable (No space left on device)" in refused("warmup")


def test_a_cache_that_is_not_trusted(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    monkeypatch.setenv("OCTSOD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = octsod_process("warmup")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 2 and out == "" and len(err.splitlines()) == 1
    assert err.startswith(f"Error: {tmp_path / 'cache'}: is not used for compiled kernels, since everyone may write")


def test_quiet():
    process = octsod_process("warmup", "--quiet")
    assert process.communicate(timeout=600) == ("", "")
