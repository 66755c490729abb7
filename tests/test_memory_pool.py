"""The pool of buffers: reuse, alignment, bounds, threads."""

import gc
import itertools
import threading

import numpy as np
import pytest

from octsod.backend import memory

BIG = memory.SMALLEST * 4


def test_buffers_are_reused():
    pool = memory.pool
    pool.clear()
    a = memory.empty(BIG, np.uint8)
    address = a.ctypes.data
    live = pool.live
    del a
    assert pool.live < live and pool.free >= BIG
    b = memory.empty((BIG // 4,), np.float32)  # of another dtype, but as many bytes
    assert b.ctypes.data == address
    assert pool.live == live
    c = memory.empty(BIG, np.uint8)
    assert c.ctypes.data != address


def test_a_view_keeps_its_buffer():
    a = memory.empty((4, BIG), np.uint8)
    a[...] = 1
    view = a[1:3].reshape(-1)[5:].view(np.int8)
    live = memory.pool.live
    del a
    assert memory.pool.live == live
    other = memory.empty((4, BIG), np.uint8)
    other[...] = 2
    assert (view == 1).all()
    live = memory.pool.live
    del view
    assert memory.pool.live < live


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64])
@pytest.mark.parametrize("shape", [BIG, (3, BIG), (5, 7, 11, 1009), (2, 3, 224, 225)])
def test_buffers_are_aligned_and_contiguous(shape, dtype):
    arrays = [memory.empty(shape, dtype) for _ in range(3)] + [memory.zeros(shape, dtype)]
    for a in arrays:
        assert a.ctypes.data % memory.ALIGNMENT == 0 == a.ctypes.data % 64
        assert a.shape == ((shape,) if isinstance(shape, int) else shape) and a.dtype == dtype
        assert a.flags.c_contiguous and a.flags.writeable
    assert not arrays[-1].any()
    for i, a in enumerate(arrays):
        a[...] = i
    assert all((a == i).all() for i, a in enumerate(arrays))


@pytest.mark.parametrize("shape", [(), 0, 1, (0, 5), (3, 0), (2, 3), memory.SMALLEST - 1, memory.SMALLEST])
def test_small_and_empty_buffers(shape):
    for make in (memory.empty, memory.zeros):
        a = make(shape, np.uint8)
        assert a.shape == ((shape,) if isinstance(shape, int) else shape)
        a[...] = 3
        assert (a == 3).all()


def test_the_pool_stays_within_its_slack_over_peak_use():
    pool = memory.Pool()
    generator = np.random.default_rng(0)
    held, peak = [], 0
    for _ in range(3000):
        if held and generator.random() < 0.5:
            pool.give_back(held.pop(int(generator.integers(len(held)))))
        else:
            held.append(pool.take(64 * int(generator.integers(1, 40))))
        live = sum(b.size for b in held)
        peak = max(peak, live)
        waiting = sum(b.size for blocks in pool._free.values() for b in blocks)
        assert (pool.live, pool.free, pool.peak) == (live, waiting, peak)
        assert live + waiting <= memory.SLACK * peak
    spans = sorted((b.ctypes.data, b.ctypes.data + b.size) for b in held)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    pool.clear()
    assert pool.free == 0 and pool.live == sum(b.size for b in held)


def test_threads_may_share_the_pool():
    gc.collect()
    live = memory.pool.live
    errors = []
    start = threading.Barrier(4)
    handed_over = [[] for _ in range(4)]

    def work(number):
        generator = np.random.default_rng(number)
        mine = []
        start.wait(10)
        try:
            for turn in range(400):
                a = memory.empty(int(generator.integers(1, 6)) * BIG, np.uint8)
                a[:: 1 << 10] = number
                mine.append(a)
                if len(mine) > 4:
                    old = mine.pop(int(generator.integers(len(mine))))
                    if (old[:: 1 << 10] != number).any():
                        errors.append("a buffer was handed out twice")
                    if turn % 3 == 0:
                        handed_over[(number + 1) % 4].append(old)  # dies in another thread
                handed_over[number].clear()
                del a
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    del threads
    for bucket in handed_over:
        bucket.clear()
    assert not errors
    assert memory.pool.live == live
    assert memory.pool.live + memory.pool.free <= memory.SLACK * memory.pool.peak


def test_arrays_may_outlive_the_names_of_the_module(monkeypatch):
    """As at the end of a process, when modules lose their names."""
    array, live = memory.empty(BIG, np.uint8), memory.pool.live
    for name in ("watching", "pool", "np", "collections"):
        monkeypatch.setattr(memory, name, None)
    del array  # an error would be a PytestUnraisableExceptionWarning
    monkeypatch.undo()
    assert memory.pool.live == live - BIG
