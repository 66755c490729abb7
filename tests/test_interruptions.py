"""A kernel that threads share ends for all when it fails in one, for whatever reason, and the next one works."""

import _thread
import contextlib
import importlib
import signal
import threading
import time

import numba
import numpy as np
import pytest
from numba.core import event
from numba.core.compiler_lock import global_compiler_lock
from octsod.kernels.cpu import barrier, parallel
from test_subnormals import flushing

import octsod
from octsod import inference
from octsod.inference.prediction import infer
from octsod.threads import uninterrupted

network = importlib.import_module("octsod.kernels.cpu.network")
THREADS = 3


@pytest.fixture(autouse=True)
def threads():
    octsod.set_num_threads(THREADS)
    yield
    assert not flushing()


@pytest.fixture(autouse=True)
def interruptible():
    """What a shell runs in the background ignores interrupts, and so does what that runs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def rescued():
    """Makes counters of barriers. Whoever waits at one for two minutes is let go, so that a test fails, not hangs."""
    timers = []

    def counter():
        made = np.zeros(1, np.int64)
        timers.append(threading.Timer(120, barrier.give_up, (made,)))
        timers[-1].start()
        return made

    yield counter
    assert all(timer.is_alive() for timer in timers)
    for timer in timers:
        timer.cancel()


@numba.njit(nogil=True)
def meet(counter, total):
    return barrier.wait(counter, total)


class Meeting:
    """Called like a kernel: each of the threads waits for all others. `before` is called with each one's slot."""

    def __init__(self, counter, before=lambda slot: None, total=THREADS):
        self.counter, self.before, self.total, self.met = counter, before, total, []

    def __call__(self, slot, start, stop):
        self.before(slot)
        self.met.append(meet(self.counter, self.total))

    def run(self):
        parallel.run(self, self.total, barrier=self.counter)


def works(counter):
    """Whether the workers of this process can meet, and each of them is free."""
    meeting = Meeting(counter)
    meeting.run()
    return meeting.met == [True] * THREADS


def raising(error, where):
    def before(slot):
        if slot == where:
            raise error

    return before


@pytest.mark.parametrize("error", [MemoryError("too little"), KeyboardInterrupt("now"), SystemExit("enough")], ids=repr)
@pytest.mark.parametrize("where", range(THREADS))
def test_one_that_does_not_come(rescued, error, where):
    meeting = Meeting(rescued(), raising(error, where))
    with pytest.raises(type(error), match=str(error)):
        meeting.run()
    assert True not in meeting.met
    assert works(rescued())


def test_the_first_error_is_raised(rescued):
    counter, failed = rescued(), threading.Event()

    def before(slot):
        if slot == 2:
            raise ArithmeticError("the first")
        while counter[0] < barrier.GIVEN_UP:
            time.sleep(0.001)
        failed.set()
        raise ArithmeticError("another")

    with pytest.raises(ArithmeticError, match="the first"):
        Meeting(counter, before).run()
    assert failed.is_set() and works(rescued())


def test_several_failures_are_as_one(rescued):
    """Each gives the barrier up; whoever comes to it afterwards still goes on at once."""
    counter = rescued()
    for _ in range(3):
        barrier.give_up(counter)
        assert counter[0] >= barrier.GIVEN_UP and not meet(counter, np.int64(THREADS))


def test_no_share_is_begun_after_a_failure():
    begun = []

    def kernel(slot, start, stop):
        begun.append(start)
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        parallel.run(kernel, 1000)
    assert len(begun) <= THREADS


@pytest.mark.parametrize("times", [1, 3])
def test_an_interrupt_waits_for_the_workers(times):
    """They write to arrays that the caller may then free."""
    begun, wrote = threading.Event(), []

    def kernel(slot, start, stop):
        if slot == 0:
            begun.wait(60)
            return
        begun.set()
        for _ in range(times):
            time.sleep(0.1)  # the caller is waiting by then
            _thread.interrupt_main()
        time.sleep(0.1)
        wrote.append(slot)

    with pytest.raises(KeyboardInterrupt):
        parallel.run(kernel, THREADS, slots=2)
    assert wrote


class Unreachable:
    """An inbox whose `put` is interrupted."""

    def put(self, task):
        raise KeyboardInterrupt


def test_an_interrupt_before_all_have_their_tasks(rescued, monkeypatch):
    assert works(rescued())
    inboxes = parallel._inboxes[: THREADS - 1]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(parallel, "_start_workers", lambda count: [inboxes[0], Unreachable()])
        Meeting(rescued()).run()
    assert works(rescued())


def test_a_worker_that_cannot_be_started(rescued, monkeypatch):
    class Limited(threading.Thread):
        def start(self):
            if parallel._inboxes:
                raise RuntimeError("can't start new thread")
            super().start()

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="can't start"):
        patch.setattr(parallel, "_inboxes", [])
        patch.setattr(parallel.threading, "Thread", Limited)
        Meeting(rescued()).run()
    assert works(rescued())


def test_callers_do_not_wait_for_each_other(rescued, monkeypatch):
    """Two callers give workers their tasks at the same time: all workers take them in the same order."""
    start = parallel._start_workers

    class Slow:
        def __init__(self, inbox):
            self.inbox = inbox

        def put(self, task):
            time.sleep(0.05)
            self.inbox.put(task)

    monkeypatch.setattr(parallel, "_start_workers", lambda count: [Slow(inbox) for inbox in start(count)])
    meetings = [Meeting(rescued()) for _ in range(4)]
    callers = [threading.Thread(target=meeting.run) for meeting in meetings]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(meeting.met == [True] * THREADS for meeting in meetings)


def test_as_many_meet_as_the_kernel_counts_on(rescued):
    """Another thread may change the number of threads at any time."""
    octsod.set_num_threads(1)
    meeting = Meeting(rescued())
    meeting.run()
    assert meeting.met == [True] * THREADS


# --- compiling --------------------------------------------------------------------------------------------------------


class OnStart(event.Listener):
    """Calls a function when a kernel begins to be compiled."""

    def __init__(self, function):
        self.function = function

    def on_start(self, event):
        self.function()

    def on_end(self, event):
        pass


def fresh():
    """A kernel that has not been compiled."""

    @numba.njit(nogil=True)
    def kernel(slot, start, stop, out):
        for k in range(start, stop):
            out[k] += 1

    return kernel


def free(lock):
    """Whether another thread can take a lock."""
    found = []

    def probe():
        lock.acquire()
        lock.release()
        found.append(True)

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(60)
    return found == [True]


def test_an_interrupt_while_a_kernel_is_compiled():
    kernel, out, begun = fresh(), np.zeros(1000, np.float32), []
    seen = []

    def interrupt():
        begun.append(threading.current_thread())
        _thread.interrupt_main()
        seen.append(True)  # not interrupted here, but once the kernel is compiled

    with event.install_listener("numba:compile", OnStart(interrupt)), pytest.raises(KeyboardInterrupt):
        parallel.run(kernel, out.size, out)
    assert begun == [threading.main_thread()] and seen == [True]
    assert len(kernel.overloads) == 1 and not out.any() and free(global_compiler_lock)
    with event.install_listener("numba:compile", OnStart(interrupt)):
        parallel.run(kernel, out.size, out)
    assert out.all() and len(begun) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
def test_an_error_while_a_kernel_is_compiled(error, monkeypatch):
    kernel, out = fresh(), np.zeros(1000, np.float32)

    def fail(self, *arguments):
        raise error

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(type(kernel._compiler), "compile", fail)
        parallel.run(kernel, out.size, out)
    assert not out.any() and free(global_compiler_lock)
    parallel.run(kernel, out.size, out)
    assert out.all()


def test_kernels_are_compiled_before_any_thread_is_at_work(monkeypatch):
    kernel, out, order = fresh(), np.zeros(1000, np.float32), []
    start = parallel._start_workers
    monkeypatch.setattr(parallel, "_start_workers", lambda count: order.append("shared out") or start(count))
    with event.install_listener("numba:compile", OnStart(lambda: order.append("compiled"))):
        parallel.run(kernel, out.size, out)
        parallel.run(kernel, out.size, out)
        parallel.run(kernel, out.size, out.astype(np.float64))
    assert order == ["compiled", "shared out", "shared out", "compiled", "shared out"]


def test_no_kernel_for_such_arguments():
    kernel = fresh()
    with pytest.raises(numba.TypingError):
        parallel.run(kernel, 1000, "no array")
    out = np.zeros(1000, np.float32)
    parallel.run(kernel, out.size, out)
    assert out.all()


@pytest.mark.parametrize("place", ["_work", "_hand_out"])
@pytest.mark.parametrize("where", ["before", "after"])
def test_what_interrupts_a_prediction_may_predict(place, where, monkeypatch):
    """A signal's handler, say. The workers of the prediction that it interrupts may be waiting for it."""
    monkeypatch.setattr(network, "available_cpus", lambda: THREADS)
    model, x = octsod.csnet(0.2).eval(), np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    expected, y = infer(model, x), np.ones((3, 3, 64, 64), np.float32)
    another = infer(model, y)
    real, found = getattr(parallel._Launch, place), []

    def handler():
        if not found:
            found.append(None)
            found[0] = [infer(model, z) for z in (x, y)]

    def interrupted(self, *arguments):
        main = threading.current_thread() is threading.main_thread()
        if main and where == "before":
            handler()
        result = real(self, *arguments)
        if main and where == "after":
            handler()
        return result

    monkeypatch.setattr(parallel._Launch, place, interrupted)
    np.testing.assert_array_equal(infer(model, x), expected)
    for got, wanted in zip(found[0], (expected, another), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert parallel.most_threads() == octsod.get_num_threads(), "afterwards, threads share the work again"


@pytest.mark.parametrize("where", range(THREADS))
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_the_whole_network(error, where, monkeypatch):
    monkeypatch.setattr(network, "available_cpus", lambda: THREADS)
    model, x = octsod.csnet(0.2).eval(), np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    frozen = inference.freeze(model)
    expected = inference.logits(frozen, x)
    pictures = network._pictures

    def failing(slot, *arguments):
        if slot == where:
            raise error
        pictures(slot, *arguments)

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(network, "_pictures", failing)
        inference.logits(frozen, x)
    assert inference.logits(frozen, x).tobytes() == expected.tobytes()


# --- uninterrupted ----------------------------------------------------------------------------------------------------


def test_interrupts_wait():
    done = []
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        with uninterrupted():
            with uninterrupted():
                _thread.interrupt_main()
                done.append(1)
            done.append(2)
        done.append(3)
    assert done == [1, 2] and signal.getsignal(signal.SIGINT) is handler


def test_each_interrupt_is_passed_on():
    """Training takes note of the first Ctrl-C and stops at the second."""
    noted = []
    before = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        with uninterrupted():
            for _ in range(2):
                _thread.interrupt_main()
                time.sleep(0)
            assert noted == []
        assert noted == [signal.SIGINT] * 2
        with contextlib.suppress(ArithmeticError), uninterrupted():
            _thread.interrupt_main()
            raise ArithmeticError
        assert len(noted) == 3
    finally:
        signal.signal(signal.SIGINT, before)


def test_where_there_is_nothing_to_wait_for():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    seen = []

    def elsewhere():
        with uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]
