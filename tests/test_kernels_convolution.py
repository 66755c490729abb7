"""Kernels of convolutions, and of chains of them, against the reference."""

import numpy as np
import pytest
from hypothesis import example, given
from kernel_contract import assert_close, both_dtypes, reading, reference, verify
from op_checks import get

import octsod
from octsod import functional as f
from octsod.backend.deferred import ActivationGradient, Deferred, DeferredGradient, GradientTarget
from octsod.testing import strategies
from octsod.testing.strategies import OctaveCase

pytestmark = pytest.mark.usefixtures("poisoned_scratch")


@both_dtypes
@given(case=strategies.convolutions())
def test_conv2d(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, reading(case, case.out_shape))
        weight = arena.normal(case.outs, case.shape[1], *case.kernel_size)
        bias = arena.normal(case.outs) if case.bias else None
        out = arena.output("out", case.out_shape)
        moments = arena.moments("moments", case.out_shape) if case.moments else None
        kernels.conv2d(x, weight, bias, out, *case.settings, moments)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.convolutions())
def test_conv2d_backward(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.x.deferred, False))
        weight = arena.normal(case.outs, case.shape[1], *case.kernel_size)
        grad = arena.gradient(case.out_shape, case.grad_deferred)
        grad_x = arena.slot("grad_x", case.shape, case.grad_x)
        grad_weight = arena.output("grad_weight", weight.shape) if case.grad_weight else None
        grad_bias = arena.output("grad_bias", (case.outs,)) if case.grad_bias else None
        kernels.conv2d_backward(grad, x, weight, *case.settings, grad_x, grad_weight, grad_bias)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.convolutions(depthwise=True))
def test_depthwise_conv2d(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, reading(case, case.out_shape))
        weight = arena.normal(case.outs, 1, *case.kernel_size)
        out = arena.output("out", case.out_shape)
        moments = arena.moments("moments", case.out_shape) if case.moments else None
        kernels.depthwise_conv2d(x, weight, out, *case.settings, moments)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.convolutions(depthwise=True))
def test_depthwise_conv2d_backward(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.x.deferred, False))
        weight = arena.normal(case.outs, 1, *case.kernel_size)
        grad = arena.gradient(case.out_shape, case.grad_deferred)
        grad_x = arena.slot("grad_x", case.shape, case.grad_x)
        grad_weight = arena.output("grad_weight", weight.shape) if case.grad_weight else None
        kernels.depthwise_conv2d_backward(grad, x, weight, *case.settings, grad_x, grad_weight)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.depthwise_chains())
def test_depthwise_chain(dtype, case):
    layers = case.layers

    def launch(kernels, arena):
        chains = []
        for m, (images, channels, *size) in enumerate(case.shapes):
            x = arena.deferred(f"x{m}", (images, channels, *size), strategies.Reading(case.deferred, False))
            taps = (channels, 1, case.kernel_size, case.kernel_size)
            parameters = [(arena.normal(*taps), *(arena.normal(channels) for _ in range(3))) for _ in range(layers)]
            running = [
                tuple(
                    arena.output(f"{name} {m} {k}", None, values=arena.rng.random(channels))
                    for name in ("mean", "variance")
                )
                for k in range(layers)
            ]
            raw = arena.output(f"raw {m}", (layers, *x.shape))
            coefficients = arena.output(f"coefficients {m}", (layers, 4, channels))
            statistics = arena.output(f"statistics {m}", (layers, 2, channels), np.float64)
            wanted = arena.rng.integers(2, size=layers)
            sums = [
                arena.output(f"sums {m} {k}", (images, channels), np.float64) if w else None
                for k, w in enumerate(wanted)
            ]
            chains.append((x, parameters, running, raw, coefficients, statistics, sums))
        # A large eps, since a normalised layer multiplies what differs in the last place by 1/sqrt(eps).
        kernels.depthwise_chain(*zip(*chains, strict=True), case.training, 0.1, 0.5, 1.5)

    verify(dtype, case.seed, launch, tolerance=1e-3 if dtype == "float32" else 1e-11)


@both_dtypes
@given(case=strategies.depthwise_chains())
def test_depthwise_chain_backward(dtype, case):
    layers = case.layers

    def launch(kernels, arena):
        given, scratch = [], []
        for m, shape in enumerate(case.shapes):
            channels = shape[1]
            x = arena.deferred(f"x{m}", shape, strategies.Reading(case.deferred, False))
            taps = (channels, 1, case.kernel_size, case.kernel_size)
            weights = [arena.normal(*taps) for _ in range(layers)]
            norm = [[arena.array(arena.steps(channels)) for _ in range(3)] for _ in range(layers)]
            parameters = [(weight, *rest) for weight, rest in zip(weights, norm, strict=True)]
            raw = arena.array(arena.steps(layers, *shape))
            # Coefficients that rounding cannot move: a variance and eps that make the deviation exactly one.
            used = np.stack([arena.steps(layers, channels), np.full((layers, channels), 0.75)], 1)
            statistics = arena.array(used, np.float64)
            statistics[:, 1] = 0.75  # even if the problem is tiny
            arena.inputs[-1] = statistics, statistics.copy()
            scale, shift, slope = np.array(norm).transpose(1, 0, 2)
            mean = statistics[:, 0]
            coefficients = arena.array(np.stack([scale, shift - mean * scale, slope, mean], 1))
            g = arena.rng.standard_normal(shape)
            if case.spent:
                between = array = arena.output(f"between {m}", shape, values=g)
            else:
                array, between = arena.array(g), arena.output(f"between {m}", shape, values=np.zeros(shape))
            last = Deferred(raw[-1], coefficients[-1])
            sums = np.zeros((shape[0], 3, channels))
            reference.gradient_sums(array, last, sums)
            grad = ActivationGradient(array, arena.array(sums, np.float64) if case.sums_given else None, case.spent)
            grad_x = arena.slot(f"grad_x {m}", shape, case.grad_x)
            grads = [
                [arena.output(f"grad {m} {k} {i}", a.shape) for i, a in enumerate(p)] for k, p in enumerate(parameters)
            ]
            given.append((grad, x, parameters, raw, coefficients, statistics))
            scratch.append((between, grad_x, grads))
        settings = case.training, 0.25, 1.5
        kernels.depthwise_chain_backward(*zip(*given, strict=True), *settings, *zip(*scratch, strict=True))

    verify(dtype, case.seed, launch, tolerance=1e-3 if dtype == "float32" else None)


@both_dtypes
@given(case=strategies.dilated_convolutions())
def test_dilated_conv2d(dtype, case):
    out_shape = (case.shape[0], case.outs, *case.shape[2:])

    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, reading(case, out_shape))
        weights = [arena.normal(*shape) for shape in case.weight_shapes]
        out = arena.output("out", out_shape)
        moments = arena.moments("moments", out_shape) if case.moments else None
        kernels.dilated_conv2d(x, weights, case.dilations, out, moments, 1.5)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.dilated_convolutions())
def test_dilated_conv2d_backward(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.x.deferred, False))
        weights = [arena.normal(*shape) for shape in case.weight_shapes]
        grad = arena.gradient((case.shape[0], case.outs, *case.shape[2:]), case.grad_deferred)
        grad_x = arena.slot("grad_x", case.shape, case.grad_x)
        grad_weights = [
            arena.output(f"grad_weight {i}", w.shape) if wanted else None
            for i, (w, wanted) in enumerate(zip(weights, case.grad_weights, strict=True))
        ]
        kernels.dilated_conv2d_backward(grad, x, weights, case.dilations, grad_x, grad_weights, 1.5)

    verify(dtype, case.seed, launch)


# Maps of more pixels, averaged 2x2, than a CUDA kernel's block has; with two scales, four times as many.
LARGE = [
    OctaveCase(
        batch=2, ins=counts, outs=counts, height=height, width=width, kernel_size=1, stride=2, moments=True,
        xs=(strategies.Reading(True, True),) * len(counts), grads_deferred=(True,) * len(counts),
        grad_xs=(strategies.Target(False, True),) * len(counts), grad_weight=True, seed=0,
    )
    for counts, height, width in (((2,), 34, 32), ((1, 2), 76, 60))
]  # fmt: skip


@both_dtypes
@given(case=strategies.octaves())
@example(case=LARGE[0])
@example(case=LARGE[1])
def test_octave_conv2d(dtype, case):
    def launch(kernels, arena):
        inputs = [
            shape and arena.deferred(f"x{i}", shape, strategies.Reading(r.deferred, r.sums and case.batch > 0))
            for i, (shape, r) in enumerate(zip(case.in_shapes, case.xs, strict=True))
        ]
        weight = arena.normal(*case.weight_shape)
        outputs = [shape and arena.output(f"out{j}", shape) for j, shape in enumerate(case.out_shapes)]
        moments = None
        if case.moments:
            moments = [shape and arena.moments(f"moments{j}", shape) for j, shape in enumerate(case.out_shapes)]
        kernels.octave_conv2d(inputs, weight, outputs, case.stride, moments)

    verify(dtype, case.seed, launch)


@both_dtypes
def test_more_outputs_than_warps_compute_at_a_time(dtype):
    def launch(kernels, arena):
        shapes = (1, 3, 4, 6), (1, 2, 2, 3)
        inputs = [arena.deferred(f"x{i}", shape, strategies.Reading(True, True)) for i, shape in enumerate(shapes)]
        outputs = [arena.output(f"out{j}", (1, count, *shapes[j][2:])) for j, count in enumerate((171, 12))]
        moments = [arena.moments(f"moments{j}", out.shape) for j, out in enumerate(outputs)]
        kernels.octave_conv2d(inputs, arena.normal(183, 5, 1, 1), outputs, 1, moments)

    verify(dtype, 0, launch)


@both_dtypes
@given(case=strategies.octaves())
@example(case=LARGE[0])
@example(case=LARGE[1])
def test_octave_conv2d_backward(dtype, case):
    def launch(kernels, arena):
        inputs = [
            shape and arena.deferred(f"x{i}", shape, strategies.Reading(r.deferred, False))
            for i, (shape, r) in enumerate(zip(case.in_shapes, case.xs, strict=True))
        ]
        weight = arena.normal(*case.weight_shape)
        grads = [
            shape and arena.gradient(shape, deferred)
            for shape, deferred in zip(case.out_shapes, case.grads_deferred, strict=True)
        ]
        slots = [
            shape and arena.slot(f"grad_x{i}", shape, target)
            for i, (shape, target) in enumerate(zip(case.in_shapes, case.grad_xs, strict=True))
        ]
        grad_weight = arena.output("grad_weight", weight.shape) if case.grad_weight else None
        kernels.octave_conv2d_backward(grads, inputs, weight, case.stride, slots, grad_weight)

    verify(dtype, case.seed, launch)


@both_dtypes
@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_three_scales_in_turn(dtype, count, sums):
    """A kernel may put a scale's weights and sums where those of the scale before were, and a map's further channels
    where its first ones were: no thread may still need them."""
    shapes = (1, 11, 8, 12), (1, 11, 4, 6), (1, 11, 2, 3)

    def launch(kernels, arena):
        given = shapes[:count]
        inputs = [arena.deferred(f"x{i}", shape, strategies.Reading(True, sums)) for i, shape in enumerate(given)]
        weight = arena.normal(33, 11 * count, 1, 1)
        outputs = [arena.output(f"out{i}", shape) for i, shape in enumerate(shapes)]
        moments = [arena.moments(f"moments{i}", shape) for i, shape in enumerate(shapes)] if sums else None
        kernels.octave_conv2d(inputs, weight, outputs, 1, moments)
        grads = [arena.gradient(shape, True) for shape in shapes]
        slots = [arena.slot(f"grad_x{i}", shape, strategies.Target(False, sums)) for i, shape in enumerate(given)]
        kernels.octave_conv2d_backward(grads, inputs, weight, 1, slots, arena.output("grad_weight", weight.shape))

    verify(dtype, 0, launch)


@both_dtypes
@pytest.mark.parametrize("accumulate", [False, True])
def test_no_output_no_gradient(dtype, accumulate):
    """A convolution without output channels adds nothing to a gradient, whose sums are still those of the total."""
    target = strategies.Target(accumulate, sums=True)

    def launch(kernels, arena):
        x = arena.deferred("x", (2, 3, 4, 5), strategies.Reading(True, False))
        grad_weight = arena.output("grad_weight", (0, 3, 1, 1))
        grad_x = arena.slot("grad_x", x.shape, target)
        kernels.conv2d_backward(arena.gradient((2, 0, 4, 5), False), x, grad_weight, 1, 0, 1, grad_x, grad_weight)

    verify(dtype, 0, launch)


# Of ops whose outputs have their inputs' shapes: those shapes, and those of the weights.
OVER = {
    "conv2d": ([(2, 5, 40, 72)], [(5, 5, 3, 3)]),
    "depthwise_conv2d": ([(2, 5, 40, 72)], [(5, 1, 3, 3)]),
    "dilated_conv2d": ([(2, 5, 40, 72)], [(2, 5, 3, 3), (3, 5, 3, 3)]),
    "octave_conv2d": ([(2, 5, 40, 72), (2, 3, 20, 36)], [(8, 8, 1, 1)]),
}


@both_dtypes
@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("op", OVER)
def test_an_input_s_gradient_may_be_written_over_the_one_that_is_read(dtype, op, deferred):
    """As `target` of a function's context may arrange it. Other pixels are needed of what is read than are written, and
    other threads may read them."""
    shapes, weight_shapes = OVER[op]

    def gradients(kernels, arena, over):
        rng = np.random.default_rng(0)
        grads, slots = [], []
        for i, shape in enumerate(shapes):
            g, raw, coefficients = rng.standard_normal(shape), rng.standard_normal(shape), rng.random((6, shape[1]))
            out = arena.output(f"grad_x{i} {over}", shape, values=g if over else None)
            g = out if over else arena.array(g)
            raw, coefficients = arena.array(raw), arena.array(coefficients)
            grads.append(DeferredGradient(g, raw, coefficients) if deferred else DeferredGradient.of(g))
            slots.append(GradientTarget(out))
        inputs = [Deferred(arena.array(rng.standard_normal(shape))) for shape in shapes]
        weights = [arena.array(rng.standard_normal(shape)) for shape in weight_shapes]
        outs = [arena.output(f"grad_weight{i} {over}", shape) for i, shape in enumerate(weight_shapes)]
        if op == "octave_conv2d":
            kernels.octave_conv2d_backward(grads, inputs, *weights, 1, slots, *outs)
        elif op == "dilated_conv2d":
            kernels.dilated_conv2d_backward(*grads, *inputs, weights, (1, 2), *slots, outs)
        else:
            getattr(kernels, f"{op}_backward")(*grads, *inputs, *weights, 1, 1, 1, *slots, *outs)
        return [slot.array for slot in slots] + outs

    def launch(kernels, arena):
        apart, over = (gradients(kernels, arena, over) for over in (False, True))
        for one, other in zip(apart, over, strict=True):
            assert_close("gradient", other, one, 1e-5 if dtype == "float32" else 1e-12)

    verify(dtype, 0, launch)


def test_gradient_of_an_octave_convolution_with_an_unused_output():
    """Whether a branch of the output is multiplied by zero or not used at all, the other's gradients are the same."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((1, 2, 4, 6)), rng.standard_normal((5, 2, 1, 1))

    def gradients(loss):
        tensors = [octsod.Tensor(a, requires_grad=True) for a in (x, weight)]
        loss(*f.octave_conv2d(tensors[:1], tensors[1], (2, 3))).backward()
        return [get(t.grad) for t in tensors]

    unused = gradients(lambda fine, coarse: coarse.sum())
    zero = gradients(lambda fine, coarse: coarse.sum() + (fine * 0.0).sum())
    for name, got, expected in zip(("x", "weight"), unused, zero, strict=True):
        assert_close(name, got, expected, 1e-12)
