"""`octsod doctor` says what works, and also what does not."""

import importlib
import json
import math
import os
import subprocess
import sys

import fake_cupy
import numpy as np
import pytest
from commands import ROOT, refused, run
from PIL import Image

import octsod
from octsod.cli import doctor
from octsod.profiling import roofs as machine
from octsod.testing import cusim

network = importlib.import_module("octsod.kernels.cpu.network")
reference = importlib.import_module("octsod.kernels.reference")

@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Each measurement is made once."""
    monkeypatch.setattr(machine, "PATIENCE", 0)


def test_report(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(doctor, "_is_warm", lambda: True)
    threads = octsod.get_num_threads()
    octsod.set_num_threads(2)
    try:
        done = run("doctor", "--json")
        assert done.exit_code == 0 and done.stderr == "" and octsod.get_num_threads() == 2
    finally:
        octsod.set_num_threads(threads)
    report = json.loads(done.stdout)
    assert report["versions"]["octsod"] == octsod.__version__ and report["versions"]["numpy"] == np.__version__
    assert report["backends"]["cpu"]["works"] and not report["backends"]["cuda"]["works"]
    assert report["backends"]["cuda"]["detail"].startswith("cuda: ")
    assert report["cache"]["writable"] and report["cache"]["files"] > 0 and report["cache"]["bytes"] > 0
    assert report["machine"]["threads"] == 2 and report["machine"]["vector_bits"] in (128, 256, 512)
    for rate in ("copy_gb_s", "fma_gflop_s"):
        assert list(report["speed"][rate]) == ["1", "2"] and all(v > 0 for v in report["speed"][rate].values())
    assert report["speed"]["csnet_x1_ms"] > 0


def test_text(monkeypatch):
    monkeypatch.setattr(doctor, "_is_warm", lambda: False)
    monkeypatch.setattr(doctor, "PACKAGES", {("numpy",): "arrays", ("no-such-package",): "nothing"})
    lines = run("doctor").stdout.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == [
        "Installed", "Backends", "Kernel cache", "Machine", "Speed",
    ]  # fmt: skip
    rows = {line.split()[0]: line.split() for line in lines if line.startswith(" ")}
    assert rows["numpy"] == ["numpy", np.__version__, "arrays"]
    assert rows["no-such-package"][1:3] == ["not", "installed"]
    assert "GFLOP/s" in rows["arithmetic"] and "GB/s" in rows["copying"] and "compiled" in rows["CSNet"]


def wrong(x, out):
    out[...] = 0


def broken(x, out):
    raise RuntimeError("no such instruction")


@pytest.mark.parametrize(("fault", "word"), [(wrong, "other numbers"), (broken, "no such instruction")])
def test_a_backend_that_does_not_work(monkeypatch, fault, word):
    monkeypatch.setattr(reference, "upsample_bilinear", fault)
    done = run("doctor", "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 1 and not report["backends"]["cpu"]["works"]
    assert word in report["backends"]["cpu"]["detail"] and report["speed"] is None
    done = run("doctor")
    assert done.exit_code == 1 and word in done.stdout and "Machine" in done.stdout


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(doctor, "_is_warm", lambda: False)
    with fake_cupy.installed(driver=0):
        done = run("doctor", "--json")
        assert done.exit_code == 0
        assert json.loads(done.stdout)["backends"]["cuda"] == {
            "works": False, "detail": "cuda: there is no NVIDIA driver on this machine", "device": None,
        }  # fmt: skip
        assert run("doctor", "--device", "cuda").exit_code == 1
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert doctor._cuda("cuda")["detail"].startswith("cuda: CuPy is not installed; ")


def row_of_default(done):
    (row,) = (line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("  default "))
    return row


def test_the_default_device(monkeypatch, weights, tmp_path):
    """It is named; where there is none, in the words of the commands that would use it."""
    monkeypatch.setattr(doctor, "_is_warm", lambda: False)
    picture = tmp_path / "a.png"
    Image.new("RGB", (32, 32)).save(picture)
    with fake_cupy.installed(driver=0):
        done = run("doctor")
        assert done.exit_code == 0 and row_of_default(done) == "cpu (as OCTSOD_DEVICE says)"
        for odd in ("cuda:1", "gpu"):
            monkeypatch.setenv("OCTSOD_DEVICE", odd)
            done = run("doctor")
            said = refused("predict", "--model", weights, picture, "-q")
            assert done.exit_code == 1 and said == f"Error: {row_of_default(done)}"
            assert run("doctor", "--device", "cpu").exit_code == 0
        assert "OCTSOD_DEVICE (='gpu') must be" in said
        monkeypatch.delenv("OCTSOD_DEVICE")
        done = run("doctor", "--json")
        assert json.loads(done.stdout)["default"] == {"device": "cpu", "detail": "OCTSOD_DEVICE changes it"}


@pytest.mark.skipif(bool(cusim.unavailable()), reason=cusim.unavailable() or "-")
def test_the_default_device_must_work(monkeypatch):
    monkeypatch.setattr(doctor, "_speed", lambda gpu: None)
    with fake_cupy.installed():
        monkeypatch.setenv("OCTSOD_DEVICE", "cuda:1")
        done = run("doctor", "--json")
        report = json.loads(done.stdout)
        assert done.exit_code == 0 and report["default"]["device"] == report["backends"]["cuda"]["device"] == "cuda:1"
        monkeypatch.setattr(doctor, "_cuda", lambda name: {"works": False, "detail": name, "device": None})
        assert run("doctor").exit_code == 1
        assert run("doctor", "--device", "cpu").exit_code == 0


@pytest.mark.skipif(bool(cusim.unavailable()), reason=cusim.unavailable() or "-")
def test_with_a_gpu(monkeypatch):
    with fake_cupy.installed():
        found = doctor._cuda("cuda:1")
        assert found["works"] and found["device"] == "cuda:1" and found["detail"].startswith("Pretend GPU, 1.1 GB free")
        assert doctor._cuda("cuda:2") == {
            "works": False, "detail": "cuda:2: there are 2 GPUs, cuda:0 to cuda:1", "device": None,
        }  # fmt: skip
        monkeypatch.setattr(reference, "upsample_bilinear", wrong)
        found = doctor._cuda("cuda")
        assert not found["works"] and "other numbers" in found["detail"] and found["device"] is None


def test_without_a_writable_cache(tmp_path):
    (tmp_path / "file").touch()
    chosen = str(tmp_path / "file" / "cache")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OCTSOD_CACHE_DIR": chosen, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "octsod", "doctor", "--json"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == ""
    cache = json.loads(done.stdout)["cache"]
    assert cache["problem"].startswith(f"{chosen}: is not writable; {tmp_path}")
    assert cache["writable"] and cache["folder"].startswith(str(tmp_path / "octsod-cache-")) and cache["files"] > 0


def test_processors(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("octsod.threads.available_cpus", lambda: 3)
    monkeypatch.setattr("octsod.threads.cpu_quota", lambda: 2.5)
    facts = doctor._machine(False)
    assert (facts["cores"], facts["available_cores"], facts["cpu_quota"]) == (64, 3, 2.5)
    assert doctor._cores(facts) == "64, of which this process may use 3 (its control group grants the time of 2.5)"
    monkeypatch.setattr("octsod.threads.cpu_quota", lambda: math.inf)
    facts = doctor._machine(False)
    assert facts["cpu_quota"] is None and doctor._cores(facts) == "64, of which this process may use 3"
    assert doctor._cores({**facts, "available_cores": 64}) == 64


def test_the_cache_and_what_lies_beside_it(tmp_path, monkeypatch):
    cache_folder = importlib.import_module("octsod.kernels.cpu.cache_folder")
    ours = tmp_path / "kernels-ours"
    for folder, size in ((ours, 10), (tmp_path / "kernels-0123456789abcdef", 200), (tmp_path / "kernels-other", 3000)):
        folder.mkdir()
        (folder / "a.kernel").write_bytes(bytes(size))
    monkeypatch.setenv("OCTSOD_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache_folder, "cache_folder", lambda: (ours, ""))
    monkeypatch.setattr("octsod.kernels.cpu.cache._problem", "something is wrong")
    facts = doctor._cache()
    assert facts == {
        "folder": str(ours), "problem": "something is wrong", "writable": True, "files": 1, "bytes": 10,
        "other_folders": 2, "other_bytes": 3200,
    }  # fmt: skip
    report = {"versions": {}, "backends": {}, "default": {"device": "cpu", "detail": ""}, "cache": facts, "speed": None,
              "machine": {"platform": "a", "processor": "b", "cores": 1, "available_cores": 1,
                          "cpu_quota": None}}  # fmt: skip
    rows = dict(dict(doctor._sections(report))["Kernel cache"])
    assert rows["problem"] == "something is wrong" and rows["folder"] == str(ours)
    assert "2 folders of other versions or processors" in rows["beside it"] and "may be deleted" in rows["beside it"]


def test_whether_the_network_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr("octsod.kernels.cpu.cache.cache_folder", lambda: (tmp_path, ""))
    assert not doctor._is_warm()
    entry = network._pictures._cache._entry(())[0]
    entry.touch()
    assert doctor._is_warm()
    entry.rename(entry.with_name(entry.name.replace("-", "-0", 2)))  # another version
    assert not doctor._is_warm()
