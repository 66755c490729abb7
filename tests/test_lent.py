"""Training on a machine that is lent: what is trained is kept, however it ends."""

import pathlib
import shlex
import signal
import subprocess
import tarfile
import threading
import zipfile

import pytest
from click.testing import CliRunner
from test_data import write_pairs

from bench import lent
from octsod.cli.train import _resumption


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_training_and_its_run_is_kept(number, tmp_path, monkeypatch, handlers):
    sent = []

    class Training:
        def __init__(self, command, **_):
            self.run = pathlib.Path(command[command.index("-o") + 1])
            self.stdout = self.says()

        def says(self):
            yield f"run folder {self.run}\n"
            signal.raise_signal(number)
            (self.run / "state").mkdir(parents=True)
            yield f"Interrupted. Go on with: {_resumption(self.run)}\n"

        def wait(self):
            return lent.RESUMABLE

        send_signal = staticmethod(sent.append)

    monkeypatch.setattr(subprocess, "Popen", Training)
    with zipfile.ZipFile(tmp_path / "a pack.zip", "w"):
        pass
    names = [str(tmp_path / name) for name in ("a pack.zip", "run.tar")]
    result = CliRunner().invoke(lent.lent, ["train", *names, "--recipe", "paper", "--minutes", "5"])
    assert result.exit_code == 0, result.output
    assert sent == [signal.SIGTERM]
    again = f"python -m bench.lent train {shlex.join(names)} --minutes 5"
    said = ["run folder run", f"Interrupted. Go on with: {again}", f"{names[1]}: holds the run so far"]
    assert result.stderr.splitlines() == said
    with tarfile.open(tmp_path / "run.tar") as archive:
        assert "run/state" in archive.getnames()


def test_the_training_is_stopped_when_time_is_up(tmp_path, monkeypatch, handlers):
    stopped = threading.Event()

    class Training:
        def __init__(self, command, **_):
            self.stdout = (f"{stopped.wait(60)}\n" for _ in range(1))

        def wait(self):
            return lent.RESUMABLE

        def send_signal(self, number):
            assert number == signal.SIGTERM
            stopped.set()

    monkeypatch.setattr(subprocess, "Popen", Training)
    with zipfile.ZipFile(tmp_path / "pack.zip", "w"):
        pass
    names = [str(tmp_path / name) for name in ("pack.zip", "run.tar")]
    result = CliRunner().invoke(lent.lent, ["train", *names, "--minutes", "1e-9"])
    assert result.exit_code == 0 and result.stderr.splitlines()[0] == "True"


def test_a_damaged_archive_is_named_and_kept(tmp_path):
    with zipfile.ZipFile(tmp_path / "pack.zip", "w"):
        pass
    (tmp_path / "run.tar").write_bytes(b"not an archive" * 100)
    for names in (("run.tar", "x.tar"), ("pack.zip", "run.tar")):
        result = CliRunner().invoke(lent.lent, ["train", *(str(tmp_path / name) for name in names)])
        assert result.exit_code == 1 and f"{tmp_path / 'run.tar'}: cannot be unpacked" in result.output
    result = CliRunner().invoke(
        lent.lent, ["train", str(tmp_path / "pack.zip"), str(tmp_path / "run.tar"), "--size", "64"]
    )
    assert result.exit_code == 2 and "leave --size out" in result.output
    assert (tmp_path / "run.tar").read_bytes().startswith(b"not an archive")


def test_a_broken_picture_is_named_and_no_half_pack_is_left(tmp_path):
    data = write_pairs(tmp_path / "set", stems="ab")
    next((data / "images").iterdir()).write_bytes(b"")
    (tmp_path / "pack.zip").write_bytes(b"old")
    result = CliRunner().invoke(lent.lent, ["pack", str(data), str(tmp_path / "pack.zip"), "--overwrite"])
    assert result.exit_code == 1 and f"Error: {data / 'images'}" in result.output
    assert (tmp_path / "pack.zip").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pack.zip", "set"]
