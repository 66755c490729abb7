"""Training on a machine that is lent: what is trained is kept, however it ends."""

import pathlib
import signal
import subprocess
import tarfile
import zipfile

import pytest
from click.testing import CliRunner

from bench import lent


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
        def __init__(self, command):
            self.run = pathlib.Path(command[command.index("-o") + 1])

        def wait(self, seconds=None):
            signal.raise_signal(number)
            (self.run / "state").mkdir(parents=True)
            return lent.RESUMABLE

        send_signal = staticmethod(sent.append)

    monkeypatch.setattr(subprocess, "Popen", Training)
    with zipfile.ZipFile(tmp_path / "pack.zip", "w"):
        pass
    result = CliRunner().invoke(lent.lent, ["train", str(tmp_path / "pack.zip"), str(tmp_path / "run.tar")])
    assert result.exit_code == 0, result.output
    assert sent == [signal.SIGTERM]
    with tarfile.open(tmp_path / "run.tar") as archive:
        assert "run/state" in archive.getnames()
