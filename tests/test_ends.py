"""Nothing but divergence ends a training without a checkpoint, and showing progress ends nothing at all."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from commands import octsod_process, run
from test_data import Ramp, write_pairs
from test_training import HELD_OUT, assert_same_run, go_on, loader, log_of, small_trainer, start, straight  # noqa: F401

from octsod.cli import tell
from octsod.cli.interruption import Interruption
from octsod.cli.progress import Progress
from octsod.cli.streams import lasting
from octsod.data import Loader
from octsod.errors import FileError
from octsod.training import Hook, Saliency, Trainer, runs, train
from octsod.training.logs import as_line, read_log

SMALL = ("-b", 2, "--size", 32, "--width", 0.2)
posix = pytest.mark.skipif(os.name == "nt", reason="closes descriptors and sends signals")


@pytest.fixture
def data(tmp_path):
    return write_pairs(tmp_path / "set", stems="abcdefg")


# --- streams ----------------------------------------------------------------------------------------------------------


class Failing(io.RawIOBase):
    """A stream on a terminal that takes so many writes, then fails."""

    def __init__(self, good, error):
        self.left, self.error, self.tries = good, error, 0

    def isatty(self):
        return True

    def writable(self):
        return True

    def write(self, data):
        self.tries += 1
        if self.tries > self.left:
            raise self.error
        return len(data)


@pytest.mark.parametrize(
    "error", [BrokenPipeError(errno.EPIPE, "x"), OSError(errno.ENOSPC, "x"), OSError(errno.EIO, "x"), ValueError("x")]
)
@pytest.mark.parametrize("good", [0, 1, 4])
def test_a_bar_that_cannot_be_shown(monkeypatch, error, good):
    import click

    raw = Failing(good, error)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, "ascii", errors="strict", write_through=True))
    with lasting():
        with Progress(3, "step") as progress:
            for done in range(3):
                progress.update(done, "ü")
                progress.message("ü")
        click.echo("ü", err=True)
        sys.stderr.write("ü")
        sys.stderr.flush()
        assert raw.tries == good + 1, "after the first failure it is silent"


def test_a_stream_of_another_encoding(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, "ascii", errors="strict"))
    with lasting():
        print("für 1", file=sys.stderr)
        assert not sys.stderr.isatty()
    assert raw.getvalue().split() == [b"f\\xfcr", b"1"] and sys.stderr.buffer is raw


def test_a_stream_that_takes_a_part(monkeypatch):
    """One byte at a time, as a full pipe may; and one that is not to wait, and takes nothing."""
    found = bytearray()

    class Slow(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            found.extend(bytes(data[:1]))
            return 1 if len(found) < 9 else None

    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(Slow(), "utf-8", write_through=True))
    with lasting():
        sys.stderr.write("12345")
        sys.stderr.write("6789abc")
    assert found == b"123456789"


def test_no_stream_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with lasting():
        with Progress(1, "step") as progress:
            progress.update(1)
        print("lost", file=sys.stderr)
        with pytest.raises(OSError, match="fileno"):
            sys.stderr.fileno()
    assert sys.stderr is None


@posix
def test_closed_streams(tmp_path, data):
    """No file gets the numbers of standard streams, and with them what is meant for the screen."""
    close = lambda: [os.close(number) for number in range(3)]  # noqa: E731
    process = octsod_process("train", "--data", data, *SMALL, "--steps", 3, "-o", tmp_path / "run", preexec_fn=close)
    assert process.communicate(timeout=120) == ("", "") and process.returncode == 0
    assert [line["step"] for line in log_of(tmp_path / "run")] == [1, 2, 3, 3]
    assert runs.read_checkpoint(tmp_path / "run").finished()


def wait_for_a_step(folder, process):
    log, deadline = folder / "log.jsonl", time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


@posix
def test_ctrl_c_when_nobody_reads(tmp_path, data):
    """`octsod train 2>&1 | tee log`: the same Ctrl-C ends `tee`."""
    process = octsod_process("train", "--data", data, *SMALL, "--epochs", 100_000, "-o", tmp_path / "run")
    wait_for_a_step(tmp_path / "run", process)
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert runs.read_checkpoint(tmp_path / "run").steps == log_of(tmp_path / "run")[-1]["step"] > 0


@posix
def test_a_terminal_that_hangs_up(tmp_path, data):
    import pty

    master, slave = pty.openpty()
    process = octsod_process(
        "train", "--data", data, *SMALL, "--epochs", 100_000, "-o", tmp_path / "run",
        stdin=slave, start_new_session=True, redirect=slave,
    )  # fmt: skip
    os.close(slave)
    shown = bytearray()

    def read():
        try:
            while part := os.read(master, 4096):
                shown.extend(part)
        except OSError:
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    wait_for_a_step(tmp_path / "run", process)
    process.send_signal(signal.SIGHUP)
    code = process.wait(timeout=60)
    os.close(master)
    assert code == 75 and b"Go on with: octsod train --resume" in shown and b"step" in shown
    assert runs.read_checkpoint(tmp_path / "run").steps > 0


@posix
def test_signals():
    """The first of each kind is noted; an ignored hang-up, as under `nohup`, stays ignored; a note may be lost."""
    before = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)
    for first in (signal.SIGXCPU, signal.SIGHUP):
        with Interruption(quiet=True) as interruption:
            assert not interruption.requested()
            signal.raise_signal(first)
            assert interruption.requested() and interruption.code == 75
            signal.raise_signal(signal.SIGTERM)
    assert (signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)) == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption(quiet=True) as interruption:
            signal.raise_signal(signal.SIGHUP)
            assert not interruption.requested()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before[0])


@posix
def test_a_note_that_cannot_be_written(monkeypatch):
    def write(number, text):
        raise BrokenPipeError

    monkeypatch.setattr(os, "write", write)
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.code == 130


# --- errors -----------------------------------------------------------------------------------------------------------


class Breaking(Ramp):
    """Pictures of which one fails from some reading on."""

    def __init__(self, error, good):
        super().__init__()
        self.error, self.left = error, good

    def __getitem__(self, index):
        if index == 3:
            self.left -= 1
            if self.left < 0:
                raise self.error
        return super().__getitem__(index)


@pytest.mark.parametrize(
    "error", [FileError("b.jpg: gone."), MemoryError(), OSError(errno.EIO, "x"), KeyboardInterrupt(), SystemExit()]
)
def test_a_picture_that_fails(tmp_path, straight, error):  # noqa: F811
    """In the second epoch: what was done before is in the checkpoint, and the run goes on from there."""
    trainer, run = start(tmp_path)
    with run, pytest.raises(type(error)):
        train(trainer, Loader(Breaking(error, 1), 2, 32, seed=3), run, HELD_OUT)
    checkpoint = runs.read_checkpoint(tmp_path)
    assert 3 <= checkpoint.steps == log_of(tmp_path)[-1]["step"] < 7 and checkpoint.validated == 3
    trainer, run = go_on(tmp_path)
    with run:
        assert train(trainer, loader(), run, HELD_OUT)
    assert_same_run(tmp_path, straight)


@pytest.mark.parametrize("error", [FileError("b.jpg: gone."), MemoryError(), KeyboardInterrupt()])
def test_a_validation_that_fails(tmp_path, straight, error):  # noqa: F811
    trainer, run = start(tmp_path)
    with run, pytest.raises(type(error)):
        train(trainer, loader(), run, Breaking(error, 1))
    checkpoint = runs.read_checkpoint(tmp_path)
    assert (checkpoint.steps, checkpoint.validated) == (3, 0)
    trainer, run = go_on(tmp_path)
    with run:
        assert train(trainer, loader(), run, HELD_OUT)
    assert_same_run(tmp_path, straight)


class Spoiling(Hook):
    name = "spoiling"
    what = "after_backward"

    def fail(self, trainer):
        if trainer.steps >= 2:
            raise MemoryError

    def after_backward(self, trainer):
        if self.what == "after_backward":
            self.fail(trainer)

    def after_step(self, trainer):
        if self.what == "after_step":
            self.fail(trainer)

    def before_epoch(self, trainer, run):
        if self.what == "before_epoch":
            self.fail(trainer)


class Interrupting:
    """Called with each line of a log, or wherever else; raises Ctrl-C once."""

    def __init__(self, when):
        self.when = when

    def __call__(self, line):
        if self.when(line):
            self.when = lambda line: False
            raise KeyboardInterrupt


INTERRUPTS = {
    "a step is logged": lambda line: line["step"] == 2,
    "a validation is logged": lambda line: line["step"] == 3 and "best" in line,
    "the last validation is logged": lambda line: line["step"] == 7 and "best" in line,
}


@pytest.mark.parametrize("when", INTERRUPTS)
def test_ctrl_c_without_a_handler(tmp_path, straight, when):  # noqa: F811
    """As in a notebook, or when it is pressed once more: not even the steps since the last checkpoint are lost."""
    trainer, run = start(tmp_path)
    with run, pytest.raises(KeyboardInterrupt):
        train(trainer, loader(), run, HELD_OUT, on_line=Interrupting(INTERRUPTS[when]))
    checkpoint = runs.read_checkpoint(tmp_path)
    last = log_of(tmp_path)[-1]
    assert checkpoint.steps == last["step"] and (checkpoint.validated == last["step"]) == ("best" in last)
    trainer, run = go_on(tmp_path)
    with run:
        assert train(trainer, loader(), run, HELD_OUT)
    assert_same_run(tmp_path, straight)
    ours, theirs = ((folder / "plots" / "predictions.png").read_bytes() for folder in (tmp_path, straight))
    assert ours == theirs, "of the last validation, not of the one before"


@pytest.mark.parametrize("where", ["gather", "record_step", "restore_if_halted", "adam", "log", "draw", "checkpoint"])
@pytest.mark.parametrize("call", [1, 2, 5])
def test_ctrl_c_anywhere(tmp_path, straight, monkeypatch, where, call):  # noqa: F811
    """Whatever is half done then, a resumed run is the same as one that was never stopped."""
    trainer, run = start(tmp_path)
    place = run if hasattr(run, where) else trainer.model.device.kernels
    real, calls = getattr(place, where), []

    def interrupted(*arguments, **options):
        calls.append(where)
        if len(calls) == 2 * call:  # between its effect and whoever called it
            real(*arguments, **options)
        if len(calls) in (call, 2 * call):
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(place, where, interrupted)
    for _ in range(3):
        try:
            with run:
                train(trainer, loader(), run, HELD_OUT, save_every=9)
            break
        except KeyboardInterrupt:
            trainer, run = go_on(tmp_path)
            if not hasattr(trainer.model.device.kernels, where):
                monkeypatch.undo()
    assert calls
    assert_same_run(tmp_path, straight)


@pytest.mark.parametrize(("what", "steps"), [("after_backward", 2), ("after_step", 0), ("before_epoch", 0)])
def test_a_hook_that_fails(tmp_path, what, steps):
    """Before the optimiser moves, the step has not begun. After that, the state is one between two steps that a hook
    may have left half done: the checkpoint before it stays."""
    made = small_trainer()
    hook = Spoiling()
    hook.what = what
    trainer = Trainer(made.model, Saliency(), made.optimizer, made.schedule, 7, [hook])
    run = runs.Run.create(tmp_path, {}, ([], []))
    with run, pytest.raises(MemoryError):
        train(trainer, loader(), run)
    assert runs.read_checkpoint(tmp_path).steps == steps


@pytest.mark.filterwarnings("error")
def test_a_plot_that_fails(tmp_path, straight, monkeypatch):  # noqa: F811
    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs, "training_curves", fail)
    trainer, run = start(tmp_path)
    with run, pytest.warns(UserWarning, match=r"curves\.png: cannot be drawn: .*No space left"):
        assert train(trainer, loader(), run, HELD_OUT)
    assert_same_run(tmp_path, straight)


def test_an_error_says_how_to_go_on(tmp_path, data, monkeypatch):
    real = runs.Run.log

    def log(self, line):
        real(self, line)
        if line["step"] == 2:
            raise MemoryError

    monkeypatch.setattr(runs.Run, "log", log)
    result = run("train", "--data", data, *SMALL, "--steps", 4, "-o", tmp_path / "run")
    assert result.exit_code == 2
    *_, hint, error = result.stderr.splitlines()
    command = f"octsod train --resume {tmp_path / 'run'}"
    assert hint == f"The checkpoint of step 2 in {tmp_path / 'run'} is intact. Go on with: {command}"
    assert error.startswith("Error: out of memory")
    monkeypatch.undo()
    assert run(*command.split()[1:]).exit_code == 0


# --- the log ----------------------------------------------------------------------------------------------------------


def test_the_log_is_json(tmp_path):
    """Numbers that are not finite become null, wherever they are; what reads logs leaves them out."""
    line = as_line({"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": -float("inf"), "e": "x", "f": True}})
    assert json.loads(line, parse_constant=pytest.fail) == {
        "a": None, "b": [1.5, None], "c": {"d": None, "e": "x", "f": True},
    }  # fmt: skip
    (tmp_path / "log.jsonl").write_bytes(line + b"x\n" + line + b"{}")
    damaged = []
    assert len(read_log(tmp_path, damaged.append)) == 2
    assert [str(error) for error in damaged] == [f"{tmp_path / 'log.jsonl'}: line 2 is damaged, or none of octsod's."]
    with pytest.raises(FileError, match="line 2 is damaged"):
        read_log(tmp_path)


def test_scores_that_are_not_finite(tmp_path):
    """Worse than any; the log, the checkpoint and the curves have no number for them."""
    from octsod.training import Validated

    trainer, run = start(tmp_path)
    shown = []
    run.on_line = shown.append
    with run:
        for steps, max_f in enumerate((np.nan, 0.5, np.inf), 1):
            trainer.steps = steps
            run.record(trainer, 1, {"": Validated({"max_f": max_f, "mae": 0.25}, {})})
    assert [line["max_f"] for line in log_of(tmp_path)] == [None, 0.5, None] and np.isnan(shown[0]["max_f"])
    assert [line["best"] for line in log_of(tmp_path)] == [[""], [""], []]
    assert runs.read_checkpoint(tmp_path).best[""]["max_f"] == 0.5


def test_octsod_as_a_child_of_a_closed_shell():
    """Even a message about a wrong command does not fail."""
    code = "import os, sys; os.close(2); os.execv(sys.executable, [sys.executable, '-m', 'octsod', 'nonsense'])"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 2


@posix
def test_a_folder_whose_name_nobody_reads(tmp_path, data):
    """`octsod train ... 2>&1 | head -1`: the work is done, and the command has not failed."""
    process = octsod_process("train", "--data", data, *SMALL, "--steps", 1, "-o", tmp_path / "run")
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=120) == 0 and runs.read_checkpoint(tmp_path / "run").finished()


def test_output_that_nobody_reads(monkeypatch):
    """After the first line that is lost, others are silent; other errors are errors."""

    class Gone(io.StringIO):
        error = BrokenPipeError(errno.EPIPE, "x")

        def write(self, text):
            raise self.error

    monkeypatch.setattr(sys, "stdout", Gone())
    tell("one")
    tell("two")
    print("three", flush=True)
    monkeypatch.setattr(sys, "stdout", Gone())
    Gone.error = OSError(errno.ENOSPC, "x")
    with pytest.raises(OSError, match="x"):
        tell("one")
