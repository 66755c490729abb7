"""What `octsod.profile` finds of ops, layers, kernels and rounds, and that it loses nothing."""

import numpy as np
import pytest
import swish
from numba.core import event as numba_events
from recorded import Cube, Net, assert_complete, images, in_thread, leaping_clock, profiled, rows_by, the_row  # noqa: F401

import octsod
from octsod import functional, nn, ops, optim
from octsod.autograd import Function
from octsod.backend import watching
from octsod.profiling.results import Profile
from octsod.training import Recipe

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
    assert p.result.warm == 2
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
        in_thread(elsewhere)
    assert len(caught) == 1 and "the thread that has entered" in caught[0] and len(p.result.rounds) == 1
