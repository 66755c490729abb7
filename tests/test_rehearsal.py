"""What tests/on_gpu.sh does on a machine with a GPU, rehearsed without one, on the stand-in for CuPy. The benchmark is
rehearsed by test_bench_gpu_networks.py."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import fake_cupy
import pytest
from commands import run as run_command
from conftest import ON_ANY_DEVICE

from octsod.testing import cusim

TESTS = pathlib.Path(__file__).parent
REHEARSED = {"OCTSOD_TEST_BACKEND": "cuda", "OCTSOD_TEST_CUPY": "fake", "OCTSOD_TEST_EXAMPLES": "1", "CI": "true"}
# Everything is collected; these are run.
QUICK = (
    "test_kernels or test_device_steps or test_ops_shapes or test_ops_products or test_ops_resampling"
    " or test_layers and not learns or test_ops_normalization and not chain"
)

pytestmark = pytest.mark.skipif("OCTSOD_TEST_BACKEND" in os.environ, reason="runs other tests on a stand-in")
needs_compiler = pytest.mark.skipif(bool(cusim.unavailable()), reason=cusim.unavailable() or "-")


@needs_compiler
def test_the_tests_of_devices_on_the_stand_in():
    """All of them can be collected, and many pass: octsod asks nothing of CuPy that it does not have, as far as the
    stand-in tells, and gives kernels the device's arrays alone."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "-v", "-k", QUICK, "tests"],
        env={**os.environ, **REHEARSED}, cwd=TESTS.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    files = {path.name for path in TESTS.glob("test_*.py") if ON_ANY_DEVICE.fullmatch(path.name)}
    run = {line.split()[0].removeprefix("tests/") for line in done.stdout.splitlines() if line.startswith("tests/")}
    assert run < files and run > {name for name in files if "kernels" in name} | {"test_device_steps.py"}


@needs_compiler
def test_doctor_of_a_gpu(monkeypatch):
    monkeypatch.setattr("octsod.cli.doctor._is_warm", lambda: False)
    with fake_cupy.installed(memory=1 << 33):
        done = run_command("doctor", "--device", "cuda")
    assert done.exit_code == 0, done.stderr
    assert "works: Pretend GPU" in done.stdout and "on the GPU" in done.stdout


def test_a_rehearsal_is_one_of_a_gpu():
    environment = {**os.environ, "OCTSOD_TEST_CUPY": "fake"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "tests/test_rehearsal.py"], env=environment,
        cwd=TESTS.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "OCTSOD_TEST_CUPY must be fake, and OCTSOD_TEST_BACKEND then cuda." in done.stderr


def test_without_cupy_it_is_said_once():
    code = "import sys; sys.modules['cupy'] = None; import pytest; sys.exit(pytest.main(['tests/test_layers.py']))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "OCTSOD_TEST_BACKEND": "cuda"}, cwd=TESTS.parent,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout[-1000:]
    assert done.stderr.startswith("ERROR: cuda: CuPy is not installed; ") and done.stderr.count("\n") < 4


def _has_gnu_timeout():
    if not (shutil.which("bash") and shutil.which("timeout")):
        return False
    return "GNU" in subprocess.run(["timeout", "--version"], capture_output=True, text=True).stdout


# A plugin that leaves two tests: one fails, and during the other its time is up, as the alarm of `timeout` says.
ENDLESS = """
import os, pytest, signal, time

def pytest_collection_modifyitems(items):
    assert len(items) > 500
    del items[2:]

calls = []

@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    calls.append(pyfuncitem)
    assert len(calls) > 1, "as it should"
    os.kill(os.getppid(), signal.SIGALRM)
    time.sleep(60)
"""


@pytest.mark.skipif(not _has_gnu_timeout(), reason="there is no bash, or no GNU timeout, which waits for an alarm")
def test_tests_whose_time_is_up_tell_what_has_failed(tmp_path):
    """tests/on_gpu.sh interrupts them, even where interruptions are ignored, as in scripts' background."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    environment = {
        **os.environ, **REHEARSED, "PATH": f"{python.parent}:{os.environ['PATH']}", "PYTEST_ADDOPTS": "-p endless",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(TESTS / "on_gpu.sh"), str(tmp_path / "out"), "suite"], env=environment, capture_output=True,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    text = (tmp_path / "out" / "suite.txt").read_text()
    assert "KeyboardInterrupt" in text and "1 failed" in text and "AssertionError: as it should" in text, done
    assert "1 failed" in done.stdout and (tmp_path / "out" / "doctor.txt").read_text()
