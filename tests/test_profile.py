"""What `octsod.profile` finds of ops, layers, kernels, threads and memory, and that it loses nothing."""

import concurrent.futures
import itertools
import math
import sys
import threading

import numpy as np
import pytest
import swish
from numba.core import event as numba_events

import octsod
from octsod import functional, nn, ops, optim
from octsod.autograd import Function
from octsod.backend import Namespace, launch_with, watching
from octsod.profiling import recording
from octsod.profiling.holdings import Holdings
from octsod.profiling.results import Profile
from octsod.training import Recipe


class Cube(Function):
    """x**3 in plain NumPy, with a cost."""

    @staticmethod
    def forward(ctx, x, scale=1.0):
        ctx.x, ctx.scale = x, scale
        return scale * x**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * ctx.scale * grad * ctx.x**2

    @staticmethod
    def cost(x, scale=1.0, itemsize=4, backward=False):
        return ops.Cost((4 if backward else 3) * math.prod(x), itemsize * math.prod(x) * (3 if backward else 2))


class Net(nn.Module):
    def __init__(self):
        self.stages = [[nn.Conv2d(3, 4), nn.Conv2d(4, 4)], [nn.Conv2d(4, 2)]]
        self.head = {"last": nn.Conv2d(2, 1)}

    def forward(self, x):
        for stage in self.stages:
            for conv in stage:
                x = swish.Swish.apply(conv(x))
        return self.head["last"](x)


@pytest.fixture
def clock(monkeypatch):
    """Time passes by leaps, whenever somebody looks."""
    leaps = np.random.default_rng(0).integers(1, 10**6, 10**6).tolist()
    monkeypatch.setattr(recording, "clock", itertools.accumulate(leaps).__next__)


def images(count=2, channels=3, size=8):
    return octsod.Tensor(np.random.default_rng(0).standard_normal((count, channels, size, size)).astype(np.float32))


def profiled(**settings):
    return octsod.profile(roofs=False, **settings)


def rows_by(result, **facts):
    return [row for row in result.rows if all(getattr(row, name) == value for name, value in facts.items())]


def the_row(result, **facts):
    (row,) = rows_by(result, **facts)
    return row


def assert_complete(result):
    assert result.rounds
    for number, wall in enumerate(result.rounds):
        assert sum(row.seconds[number] for row in result.rows if not row.beside) == pytest.approx(wall, rel=1e-12)


# --- the parts add up -------------------------------------------------------------------------------------------------


def test_parts_add_up_to_the_whole(clock):
    net, optimizer = Net(), None
    with profiled() as p:
        for _ in range(3):
            optimizer = optimizer or optim.Adam(net.parameters(), 1e-3)
            loss = functional.mean(net(images()) ** 2)
            loss.backward()
            optimizer.step()
            with numba_events.trigger_event("numba:compiler_lock"):  # compiling in the midst of it
                functional.add(loss, loss)
            p.step()
    result = p.result
    assert isinstance(result, Profile) and len(result.rounds) == 3 and result.compiled > 0
    assert_complete(result)
    first, last = (min(e.start for e in result.events if e.kind == "step"), max(e.end for e in result.events))
    own = sum(e.end - e.start for e in result.events if e.kind == "step")
    assert own == last - first == pytest.approx(1e9 * (sum(result.rounds) + result.compiled))
    assert all(row.calls > 0 and all(s >= 0 for s in row.seconds) for row in result.rows)


def test_a_real_step_adds_up():
    """With the real clock; the sum is exact, whatever the time."""
    octsod.manual_seed(0)
    trainer = Recipe().trainer(octsod.csnet(0.2))
    x, y = images(size=32).numpy(), np.ones((2, 1, 32, 32), np.float32)
    with profiled(warm=1) as p:
        for _ in range(3):
            trainer.step(x, y)
            p.step()
    assert len(p.result.rounds) == 2
    assert_complete(p.result)
    kernels = {row.kernel for row in p.result.rows}
    assert kernels > {"", "octave_conv2d_backward", "depthwise_chain", "adam", "record_step", "decay_scales"}
    assert {row.kernel for row in rows_by(p.result, phase="step")} > {"adam", "gather", "record_step", "decay_scales"}
    assert the_row(p.result, kernel="adam").op == "Adam" and the_row(p.result, kernel="record_step").op == "Trainer"
    assert the_row(p.result, kernel="decay_scales").op == "ScaleDecay"
    ours = [row for row in p.result.rows if row.kernel]
    assert all(row.flops is not None and row.bytes is not None for row in ours)
    chain = rows_by(p.result, kernel="depthwise_chain", layer="extractor.stages.1.0")
    assert [(row.op, row.phase, row.calls) for row in chain] == [("DepthwiseChain", "forward", 1)]
    back = rows_by(p.result, kernel="depthwise_chain_backward", layer="extractor.stages.1.0")
    assert [(row.op, row.phase, row.calls) for row in back] == [("DepthwiseChain", "backward", 1)]
    assert {row.layer for row in rows_by(p.result, op="OctaveConv2d")} >= {"fusion.fuse", "extractor.stages.4.1.mix"}


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_of_an_own_op_and_an_own_network(clock):
    net = Net()
    with profiled() as p:
        functional.mean(net(images())).backward()
    result = p.result
    layers = {row.layer for row in rows_by(result, op="Conv2d")}
    assert layers == {"stages.0.0", "stages.0.1", "stages.1.0", "head.last"}
    for phase, kernel, flops in (("forward", "swish.forward", 5), ("backward", "swish.backward", 10)):
        own = rows_by(result, kernel=kernel)
        assert {(row.op, row.layer, row.phase) for row in own} == {("Swish", "Net", phase)}
        assert sum(row.flops for row in own) == flops * 2 * 64 * (4 + 4 + 2) and sum(row.calls for row in own) == 3
        python = the_row(result, op="Swish", phase=phase, kernel="")
        assert python.calls == 3 and python.flops is None  # its kernels have the cost
    conv = the_row(result, kernel="conv2d", layer="stages.1.0")
    assert conv.title == "4@8 -> 2@8, 1x1" and conv.device == "cpu" and conv.thread == "MainThread"
    cost = ops.Conv2d.cost((2, 4, 8, 8), (2, 4, 1, 1), (2,))
    assert (conv.flops, conv.bytes) == (cost.flops, cost.bytes)
    root = the_row(result, layer="Net", op="", kernel="")
    assert root.phase == "forward" and root.calls == 1
    outside = the_row(result, layer="", op="", kernel="")
    assert outside.phase == "" and outside.seconds[0] > 0


def test_an_op_without_kernels_has_its_cost(clock):
    x = octsod.Tensor(np.ones((3, 5), np.float32), requires_grad=True)
    with profiled() as p:
        for _ in range(2):
            functional.sum(Cube.apply(x, scale=2.0)).backward()
            p.step()
    forward, backward = (the_row(p.result, op="Cube", phase=phase, kernel="") for phase in ("forward", "backward"))
    assert {row.kernel for row in rows_by(p.result, op="Cube")} > {"add"}  # the second gradient, to the first
    assert (forward.kernel, forward.calls, forward.flops, forward.bytes) == ("", 1, 45, 120)
    assert (backward.flops, backward.bytes) == (60, 180)


def test_a_cost_that_fails_is_said_and_unknown(clock):
    class Wrong(Cube):
        @staticmethod
        def cost(x, scale=1.0, itemsize=4, backward=False):
            return 7

    class Broken(Cube):
        @staticmethod
        def cost(x):
            raise AssertionError

    for op, said in ((Wrong, "returned a int; expected an octsod.ops.Cost"), (Broken, "unexpected keyword")):
        text = rf"profile: `{op.__name__}\.cost` is not used: .*{said}"
        with pytest.warns(RuntimeWarning, match=text), profiled() as p:
            op.apply(np.ones(3, np.float32))
        assert the_row(p.result, op=op.__name__).flops is None


def test_an_op_of_several_kernels_has_no_cost_by_kernel(clock):
    class Twice(swish.Swish):
        @staticmethod
        def forward(ctx, x, beta=1.0):
            swish.Swish.forward(ctx, x, beta)
            return swish.Swish.forward(ctx, x, beta)

    with profiled() as p:
        Twice.apply(np.ones(3, np.float32))
        swish.Swish.apply(np.ones(3, np.float32))
    twice, once = (the_row(p.result, kernel="swish.forward", op=op) for op in ("Twice", "Swish"))
    assert (twice.calls, twice.flops, twice.bytes) == (2, None, None) and (once.flops, once.bytes) == (15, 24)


def test_ops_within_ops_are_apart(clock):
    class Outer(Function):
        @staticmethod
        def forward(ctx, x):
            return functional.multiply(x, x).numpy()

    with profiled() as p:
        Outer.apply(np.ones((2, 3), np.float32))
    assert the_row(p.result, kernel="multiply").op == "Multiply"
    assert the_row(p.result, op="Outer").kernel == ""
    assert_complete(p.result)


def test_equal_titles_are_numbered_and_settings_that_are_none_are_not_told_apart(clock):
    with profiled() as p:
        for count in (2, 3):
            functional.relu(np.ones((count, 4), np.float32))
        for _ in range(3):
            functional.dropout(np.ones((2, 4), np.float32), 0.5)  # each with a seed of its own
    assert [row.title for row in rows_by(p.result, kernel="relu")] == ["4", "4 (2)"]
    assert the_row(p.result, kernel="dropout").calls == 3


def test_a_kernel_of_many_shapes_is_bounded(clock, monkeypatch):
    monkeypatch.setattr("octsod.profiling.recorder.KINDS", 3)
    with profiled() as p:
        for count in range(1, 8):
            functional.relu(np.ones(count, np.float32))
    assert [(row.title, row.calls, row.flops) for row in rows_by(p.result, kernel="relu")] == [
        ("1", 1, 1), ("2", 1, 2), ("3", 1, 3), ("other shapes", 4, None)
    ]  # fmt: skip


def test_layers_of_several_networks(clock):
    net, other, alone = Net(), Net(), nn.Conv2d(3, 2)
    with profiled() as p:
        for module in (net, other, alone, nn.Conv2d(3, 2), net.head["last"], alone):
            module(images(channels=2 if module is net.head["last"] else 3))
    calls = {row.layer: row.calls for row in rows_by(p.result, kernel="conv2d")}
    assert calls["head.last"] == 2 and calls["Net 2.stages.0.1"] == calls["stages.0.1"] == calls["Conv2d 2"] == 1
    assert calls["Conv2d"] == 2


def test_a_module_that_its_network_does_not_know(clock):
    class Maker(nn.Module):
        def forward(self, x):
            self.late = nn.Conv2d(3, 1)
            return nn.Conv2d(1, 1)(self.late(x))

    with profiled() as p:
        Maker()(images())
    assert {row.layer for row in rows_by(p.result, kernel="conv2d")} == {"late", "Maker.Conv2d"}


def test_backward_knows_its_layers_from_forward(clock):
    """Of a graph that was made within the profile; of one from before, nobody has noted them."""
    before = functional.sum(nn.Conv2d(3, 1)(images()))
    with profiled() as p:
        before.backward()
    assert the_row(p.result, kernel="conv2d_backward").layer == ""
    with profiled() as p:
        after = functional.sum(nn.Conv2d(3, 1)(images()))
    after.backward()  # nobody watches any more
    assert rows_by(p.result, phase="backward") == []


# --- rounds -----------------------------------------------------------------------------------------------------------


def test_rounds(clock):
    x = np.ones(4, np.float32)
    with profiled(warm=2) as p:
        for number in range(5):
            for _ in range(number):
                functional.relu(x)
            p.step()
    relu = the_row(p.result, kernel="relu")
    assert len(p.result.rounds) == len(relu.seconds) == 3 and relu.calls == 3 and relu.flops == 12
    assert_complete(p.result)


def test_the_whole_block_is_a_round_and_so_is_what_is_left(clock):
    x = np.ones(4, np.float32)
    with profiled() as p:
        functional.relu(x)
    assert len(p.result.rounds) == 1
    with profiled() as p:
        functional.relu(x)
        p.step()
        functional.relu(x)
    assert len(p.result.rounds) == 2
    with profiled() as p:
        p.step()
        p.step()  # after which there is nothing
    assert len(p.result.rounds) == 2
    assert_complete(p.result)
    with profiled() as p:
        pass
    assert len(p.result.rounds) == 1 and {row.kernel for row in p.result.rows} == {""}


def test_a_row_that_begins_later_has_zeros_before(clock):
    with profiled() as p:
        p.step()
        functional.relu(np.ones(4, np.float32))
    first, second = the_row(p.result, kernel="relu").seconds
    assert first == 0 < second
    assert the_row(p.result, kernel="relu").calls == 0.5


def test_exceptions(clock):
    x = np.ones(4, np.float32)
    with pytest.raises(ZeroDivisionError), profiled() as p:
        functional.relu(x)
        p.step()
        functional.relu(x)
        functional.exp(x)
        raise ZeroDivisionError
    assert len(p.result.rounds) == 1 and the_row(p.result, kernel="relu").calls == 1  # the round that ended
    assert rows_by(p.result, kernel="exp") == [] and watching.profiler is None
    assert_complete(p.result)
    with pytest.raises(ValueError, match=r"^conv2d: "), profiled() as p:
        nn.Conv2d(3, 1)(images(channels=2))
    assert len(p.result.rounds) == 1 and the_row(p.result, op="Conv2d").layer == "Conv2d"  # there is no other
    assert_complete(p.result)


def test_intervals_that_end_by_exceptions(clock):
    with profiled() as p:
        with pytest.raises(ValueError):
            nn.Conv2d(3, 1)(images(channels=2))
        functional.relu(np.ones(4, np.float32))
    assert the_row(p.result, kernel="relu").layer == ""
    assert_complete(p.result)


# --- misuse -----------------------------------------------------------------------------------------------------------


def test_misuse():
    p = profiled()
    for use in (lambda: p.result, p.step):
        with pytest.raises(RuntimeError, match=r"^profile: .*`with` block"):
            use()
    with p:
        with pytest.raises(RuntimeError, match="no result before the end"):
            _ = p.result
        with pytest.raises(RuntimeError, match="another one is under way"), profiled():
            pass
        functional.relu(np.ones(3, np.float32))
    assert the_row(p.result, kernel="relu").calls == 1
    with pytest.raises(RuntimeError, match="has been used"), p:
        pass
    with pytest.raises(RuntimeError, match="`step` is called within"):
        p.step()
    with pytest.raises(RuntimeError, match=r"no round was counted: 2 warm ones"), profiled(warm=2) as p:
        p.step()
    assert watching.profiler is None
    for settings in ({"warm": -1}, {"events": 0.5}, {"subject": 3}):
        with pytest.raises((ValueError, TypeError), match=rf"^profile: `{next(iter(settings))}`"):
            octsod.profile(**settings)


def test_step_belongs_to_the_thread_of_the_profile():
    caught = []

    def elsewhere():
        try:
            p.step()
        except RuntimeError as error:
            caught.append(str(error))

    with profiled() as p:
        _in_thread(elsewhere)
    assert len(caught) == 1 and "the thread that has entered" in caught[0] and len(p.result.rounds) == 1


# --- threads ----------------------------------------------------------------------------------------------------------


def _in_thread(work, name="helper"):
    thread = threading.Thread(target=work, name=name)
    thread.start()
    thread.join()


def test_other_threads_are_beside(clock):
    x, net = np.ones(4, np.float32), Net()
    with profiled() as p:
        functional.relu(x)
        _in_thread(lambda: [functional.relu(x), functional.sum(net(images())).backward()])
        _in_thread(lambda: functional.relu(x), "MainThread")  # which is called like the other one
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

    _in_thread(work)
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
