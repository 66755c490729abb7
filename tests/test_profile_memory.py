"""What `octsod.profile` finds of compiling, events and memory."""

import concurrent.futures
import sys

import numpy as np
import pytest
from recorded import assert_complete, images, leaping_clock, profiled, the_row  # noqa: F401

import octsod
from octsod import functional, nn
from octsod.autograd import Function
from octsod.profiling.holdings import Holdings
from octsod.training import Recipe

# --- compiling --------------------------------------------------------------------------------------------------------


def test_compiling_is_in_no_round(clock):
    import numba

    space = octsod.backend.Namespace("profiled", replace=True)

    @space.kernel("cpu")
    @numba.njit
    def double(x, out):
        for i in range(x.size):
            out[i] = 2 * x[i]

    class Double(Function):
        @staticmethod
        def forward(ctx, x):
            out = octsod.backend.empty(x.shape, x.dtype)
            space.double(x, out)
            return out

    with profiled() as p:
        for _ in range(2):
            Double.apply(np.ones(4, np.float32))
            p.step()
    assert p.result.compiled > 0 and any(event.kind == "compile" for event in p.result.events)
    assert the_row(p.result, kernel="profiled.double").calls == 1
    assert_complete(p.result)
    with profiled() as p:
        Double.apply(np.ones(4, np.float32))
    assert p.result.compiled == 0


# --- events -----------------------------------------------------------------------------------------------------------


def test_events(clock):
    with profiled() as p:
        functional.sum(nn.Conv2d(3, 1)(octsod.Tensor(images().numpy(), requires_grad=True))).backward()
    events = p.result.events
    assert p.result.lost == 0 and all(event.start < event.end for event in events)
    assert {event.kind for event in events} == {"kernel", "op", "layer", "step"}
    (layer,) = (event for event in events if event.kind == "layer")
    conv, kernel = (next(e for e in events if (e.kind, e.name) == w) for w in (("op", "Conv2d"), ("kernel", "conv2d")))
    assert layer.start < conv.start < kernel.start < kernel.end < conv.end < layer.end
    assert events[-1].kind == "step" and events[-1].name == "round 1"


@pytest.mark.parametrize("size", [0, 1, 7])
def test_the_latest_events_are_kept(clock, size):
    x = np.ones(4, np.float32)
    with profiled(events=size) as p:
        for _ in range(10):
            functional.relu(x)
    assert len(p.result.events) == size and p.result.lost == 21 - size  # ten kernels, ten ops, one round
    assert the_row(p.result, kernel="relu").calls == 10
    ends = [event.end for event in p.result.events]
    assert ends == sorted(ends)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_memory_by_layer():
    first, second = nn.Conv2d(3, 8), nn.Conv2d(8, 8)
    x = images(2, 3, 64)
    with profiled() as p:
        y = first(x)
        del y
        kept = [second(functional.materialize(octsod.Tensor(np.ones((2, 8, 64, 64), np.float32))))]
        kept.append(second(kept[0]))
        del kept
    memory = {entry.layer: entry for entry in p.result.memory}
    size = 2 * 8 * 64 * 64 * 4
    assert memory["Conv2d"].bytes >= size and memory["Conv2d"].at_peak == 0
    assert memory["Conv2d 2"].bytes >= memory["Conv2d 2"].at_peak >= 2 * size
    assert p.result.peak_bytes == sum(entry.at_peak for entry in p.result.memory)


def test_holdings():
    held = Holdings(100)
    held.taken(1, 10, "a")
    held.taken(2, 20, "b")
    held.returned(1, 10)
    held.taken(3, 5, "a")
    held.returned(99, 40)  # from before
    assert [(entry.layer, entry.bytes, entry.at_peak) for entry in held.by_layer()] == [
        ("", 100, 100), ("a", 10, 10), ("b", 20, 20)
    ]  # fmt: skip
    assert held.peak == 130
    held.restart()
    held.taken(4, 50, "c")
    assert held.peak == 135 == sum(entry.at_peak for entry in held.by_layer())


def test_holdings_of_several_threads_and_of_garbage_collection():
    held = Holdings(kept=10)

    class Live(dict):
        def get(self, key, default=None):  # garbage collection runs here, and returns a block of the same layer
            if 1 in blocks:
                blocks.remove(1)
                held.returned(1, 100)
            return super().get(key, default)

    blocks = set()
    held.live = Live(held.live)
    held.taken(1, 100, "a")
    blocks.add(1)
    held.taken(2, 10, "a")
    assert held.live == {"": 0, "a": 10} and held.total == 10 and held.peak == 110
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for _ in pool.map(lambda t: [(held.taken((t, i), 7, "b"), held.returned((t, i), 7)) for i in range(2000)],
                              range(4)):  # fmt: skip
                pass
    finally:
        sys.setswitchinterval(before)
    assert held.live == {"": 0, "a": 10, "b": 0} and held.total == 10


def test_what_was_there_before_is_counted_as_far_as_it_is_known():
    """Of a GPU's memory, it is not; nothing becomes negative when it is given back."""
    held = Holdings(kept=3)
    held.returned(1, 40)
    held.taken(2, 10, "a")
    held.taken(3, 5, "")
    held.returned(2, 10)
    assert [size for _, size in held.changes] == [10, 15, 5] and held.peak == 15
    assert [(entry.layer, entry.at_peak) for entry in held.by_layer()] == [("", 5), ("a", 10)]
    held.restart()
    assert not held.changes


def test_memory_of_a_training_step_is_held_by_its_layers():
    octsod.manual_seed(0)
    trainer = Recipe().trainer(octsod.csnet(0.2))
    x, y = images(size=64).numpy(), np.ones((2, 1, 64, 64), np.float32)
    with profiled(warm=1) as p:
        for _ in range(2):
            trainer.step(x, y)
            p.step()
    memory = {entry.layer: entry for entry in p.result.memory}
    assert memory["extractor.stages.0.0"].bytes > 0 and memory["fusion.fuse"].at_peak > 0
    assert p.result.peak_bytes == sum(entry.at_peak for entry in p.result.memory)
    assert all(entry.bytes >= entry.at_peak >= 0 for entry in p.result.memory)
