"""Several threads within an `octsod.profile`, and others who watch what is launched."""

import itertools
import threading

import numpy as np
import pytest
from numba.core import event as numba_events
from recorded import Net, assert_complete, images, in_thread, leaping_clock, profiled, rows_by, the_row  # noqa: F401

import octsod
from octsod import functional
from octsod.backend import Namespace, launch_with, watching
from octsod.profiling import recording

# --- threads ----------------------------------------------------------------------------------------------------------


def test_other_threads_are_beside(clock):
    x, net = np.ones(4, np.float32), Net()
    with profiled() as p:
        functional.relu(x)
        in_thread(lambda: [functional.relu(x), functional.sum(net(images())).backward()])
        in_thread(lambda: functional.relu(x), "MainThread")  # which is called like the other one
    mine, theirs, namesake = rows_by(p.result, kernel="relu")
    assert namesake.thread == "MainThread (2)"
    assert (mine.thread, mine.beside, theirs.thread, theirs.beside) == ("MainThread", False, "helper", True)
    assert namesake.thread != "MainThread" and namesake.beside
    assert {row.layer for row in rows_by(p.result, thread="helper", kernel="conv2d_backward")} > {"stages.0.0"}
    assert_complete(p.result)


def test_threads_of_the_same_name_are_apart_while_they_live():
    x, together = np.ones(4, np.float32), threading.Barrier(3)

    def work():
        together.wait(60)
        functional.relu(x)
        together.wait(60)

    def all_at_once():
        threads = [threading.Thread(target=work, name="worker") for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with profiled() as p:
        for _ in range(2):
            all_at_once()
    calls = {row.thread: row.calls for row in rows_by(p.result, kernel="relu")}
    assert calls == {"worker": 2, "worker (2)": 2, "worker (3)": 2}


def test_what_another_thread_has_not_ended_counts_as_far_as_it_has_come(monkeypatch):
    kernels, now = Namespace("waits", replace=True), itertools.count(0, 10)
    monkeypatch.setattr(recording, "clock", lambda: next(now) if threading.current_thread().name == "main" else 15)
    begun, ended = threading.Barrier(2), threading.Barrier(2)

    @kernels.kernel("cpu", "wait")
    def wait(x):
        begun.wait(60)
        ended.wait(60)

    thread = threading.Thread(target=lambda: kernels.wait(np.ones(4, np.float32)), name="helper")
    monkeypatch.setattr(threading.current_thread(), "name", "main")
    with profiled() as p:
        thread.start()
        begun.wait(60)
        p.step()
        p.step()
    ended.wait(60)
    thread.join()
    assert p.result.rounds == (1e-8, 1e-8)
    row = the_row(p.result, kernel="waits.wait")
    assert row.seconds == (5e-9, 1e-8) and row.calls == 0.5 and row.beside


def test_a_profile_in_a_thread(clock):
    x, found = np.ones(4, np.float32), []

    def work():
        with profiled() as p:
            functional.relu(x)
        found.append(p.result)

    in_thread(work)
    row = the_row(found[0], kernel="relu")
    assert (row.thread, row.beside) == ("helper", False)
    assert_complete(found[0])


def test_a_profile_in_a_generator(clock):
    def watched():
        with profiled() as p:
            yield p
            functional.relu(np.ones(4, np.float32))

    generator = watched()
    p = next(generator)
    functional.exp(np.ones(4, np.float32))  # while the block is under way
    assert list(generator) == []
    assert {row.kernel for row in p.result.rows} == {"", "relu", "exp"}
    generator = watched()
    p = next(generator)
    generator.close()
    assert watching.profiler is None and len(p.result.rounds) == 1


# --- others who watch -------------------------------------------------------------------------------------------------


def test_launchers_around_and_within(clock):
    seen, x = [], np.ones(4, np.float32)

    def watch(tag):
        def launcher(name, function, *arguments):
            seen.append((tag, name))
            return function(*arguments)

        return launch_with(launcher)

    with watch("around"), profiled() as p:
        functional.relu(x)
        with watch("within"):
            functional.exp(x)
    functional.log(x)
    assert seen == [("around", "relu"), ("within", "exp"), ("around", "exp")]
    assert {row.kernel for row in p.result.rows} == {"", "relu", "exp"}


def test_a_kernel_that_somebody_has_kept():
    x, out = np.ones(4, np.float32), np.zeros(4, np.float32)
    with profiled() as p:
        relu = octsod.backend.kernels.relu
    relu(x, out)
    assert out.max() == 1 and rows_by(p.result, kernel="relu") == []


def test_a_result_that_was_interrupted_can_be_asked_for_again(monkeypatch):
    def interrupted(*_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(recording, "under_roofs", interrupted)
    with pytest.raises(KeyboardInterrupt), octsod.profile() as p:
        functional.relu(np.ones(4, np.float32))
    monkeypatch.setattr(recording, "under_roofs", lambda profile, _: profile)
    assert [event.name for event in p.result.events] == ["relu", "ReLU", "round 1"] and p.result.lost == 0


def test_nothing_is_left_behind():
    with profiled():
        pass
    y = functional.relu(octsod.Tensor(np.ones(3, np.float32), requires_grad=True))
    assert y.node.note is None and watching.profiler is None
    assert not any(numba_events._registered["numba:compiler_lock"])


def test_it_is_a_function_of_the_library():
    import octsod.profiling

    assert octsod.profile is recording.profile and "profile" in dir(octsod)
