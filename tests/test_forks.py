"""A forked child works whatever the threads of its parent were in the midst of: they are not there to end it."""

import os
import textwrap

import pytest
from test_package import python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

# What children do, in a process with other threads. One that hangs for a minute is ended.
COMMON = textwrap.dedent("""
    import faulthandler
    import os
    import threading
    import time

    import numpy as np

    import octsod
    from octsod.data import Loader, Sample

    octsod.set_num_threads(2)
    octsod.manual_seed(0)
    model = octsod.csnet(0.2)
    for parameter in model.parameters():  # the output of an untrained network may overflow; this one's is zero
        parameter.data.fill(0)
    picture = np.zeros((40, 50, 3), np.uint8)

    def predict():
        assert octsod.predict(picture, model, 32).shape == (40, 50)

    def child(work):
        '''The exit code of a forked child that does some work.'''
        number = os.fork()
        if number == 0:
            faulthandler.dump_traceback_later(60, exit=True)
            code = 1
            try:
                work()
                code = 0
            finally:
                if code:
                    faulthandler.dump_traceback()
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])

    def for_ever(work):
        def loop():
            while True:
                work()
        threading.Thread(target=loop, daemon=True).start()
""")


def parent(code):
    out, errors = python(COMMON + textwrap.dedent(code), PYTHONWARNINGS="ignore")
    assert out.splitlines()[-1] == "done", errors


def test_while_another_thread_predicts():
    parent("""
        predict()
        for_ever(predict)
        for _ in range(20):
            time.sleep(0.003)
            assert child(predict) == 0
        print("done", flush=True)
        os._exit(0)
    """)


def test_while_other_threads_train_and_load():
    parent("""
        samples = [Sample("", picture, np.zeros((40, 50), np.uint8))] * 4
        trainer = octsod.training.Recipe().trainer(octsod.csnet(0.2))
        batch = next(Loader(samples, 4, 32).epoch(0))

        def train():
            try:
                trainer.step(*batch)
            except octsod.training.DivergenceError:
                pass

        predict()
        for_ever(train)
        for_ever(lambda: octsod.csnet(0.1))
        for_ever(lambda: list(Loader(samples, 2, 32).epoch(0)))
        def work():
            predict()
            octsod.csnet(0.2)
            assert len(list(Loader(samples, 2, 32).epoch(0))) == 2
        for _ in range(6):
            time.sleep(0.003)
            assert child(work) == 0
        print("done", flush=True)
        os._exit(0)
    """)


def test_multiprocessing():
    parent("""
        import multiprocessing
        for_ever(predict)
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=predict) for _ in range(4)]
        for process in children:
            process.start()
        for process in children:
            process.join(60)
        assert [process.exitcode for process in children] == [0] * 4
        print("done", flush=True)
        os._exit(0)
    """)


def test_a_fork_waits_for_the_compiler():
    """A compiler that another thread has left in the midst of its work is no use."""
    parent("""
        from numba.core.compiler_lock import global_compiler_lock
        held, released = threading.Event(), []
        predict()

        def compile():
            with global_compiler_lock:
                held.set()
                time.sleep(0.3)
                released.append(True)

        thread = threading.Thread(target=compile)
        thread.start()
        held.wait()

        def work():
            assert released and not global_compiler_lock.is_locked()
            predict()
            free = []
            def elsewhere():
                with global_compiler_lock:
                    free.append(True)
            other = threading.Thread(target=elsewhere, daemon=True)
            other.start()
            other.join(30)
            assert free

        assert child(work) == 0 and not global_compiler_lock.is_locked()
        thread.join()
        print("done")
    """)


def test_a_fork_waits_for_imports(tmp_path):
    """In the child, nobody would end them. To end, they may need the compiler, as decorators of kernels do."""
    (tmp_path / "safetensors.py").write_text(textwrap.dedent("""
        import time
        from numba.core.compiler_lock import global_compiler_lock
        started.set()
        time.sleep(0.3)
        with global_compiler_lock:
            whole = True
    """))
    parent(f"""
        import builtins
        import sys
        predict()
        for name in [name for name in sys.modules if name.partition(".")[0] == "safetensors"]:
            del sys.modules[name]
        sys.path.insert(0, {str(tmp_path)!r})
        builtins.started = threading.Event()
        threading.Thread(target=__import__, args=("safetensors",)).start()
        started.wait()

        def work():
            import safetensors
            assert safetensors.whole

        assert child(work) == 0
        print("done")
    """)


def test_while_another_thread_takes_memory():
    """Between two of its instructions, the pool's counts are wrong."""
    parent("""
        from octsod import memory
        predict()
        memory.pool.free += 1 << 40

        def work():
            predict()
            assert 0 < memory.pool.free < 1 << 40

        assert child(work) == 0
        print("done")
    """)


def test_an_epoch_that_was_in_progress():
    """Its threads are not there: who waits for them is told so, and who gives up may."""
    parent("""
        held, go = threading.Event(), threading.Event()

        class Slow:
            def __len__(self):
                return 8

            def __getitem__(self, index):
                if index > 1:
                    held.set()
                    go.wait()
                return Sample("", picture, np.zeros((40, 50), np.uint8))

        loader = Loader(Slow(), 2, 32, augmented=False)
        epoch = loader.epoch(0)
        threading.Thread(target=lambda: (held.wait(), time.sleep(0.1), go.set()), daemon=True).start()
        iterator = iter(loader)
        first = next(iterator)
        unused = loader.epoch(1)

        def goes_on():
            try:
                next(iterator)
            except RuntimeError as error:
                assert "fork" in str(error), error
            else:
                raise AssertionError
            try:
                next(unused)
            except RuntimeError as error:
                assert "fork" in str(error), error
            go.set()
            assert len(list(loader.epoch(0))) == 4

        def gives_up():
            iterator.close()
            go.set()
            assert len(list(loader.epoch(0))) == 4

        assert child(goes_on) == 0
        assert child(gives_up) == 0
        go.set()
        assert len(list(iterator)) == 3
        print("done")
    """)


def test_whoever_held_a_lock():
    """Among the locks is that of the generator which initial weights come from: it is NumPy's."""
    parent("""
        from octsod import random, threads
        predict()
        locks = [threads.new_lock(), threads.new_lock(), random.generator.bit_generator.lock]
        held = threading.Event()

        def hold():
            for lock in locks:
                lock.acquire()
            held.set()
            time.sleep(3600)

        threading.Thread(target=hold, daemon=True).start()
        held.wait()

        def work():
            for lock in locks:
                assert lock.acquire(timeout=30)
                lock.release()
            octsod.csnet(0.2)
            octsod.manual_seed(1)

        assert child(work) == 0
        print("done", flush=True)
        os._exit(0)
    """)
