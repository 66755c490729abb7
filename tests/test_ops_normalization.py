"""Batch norm, PReLU and chains of them: gradients, and one op against another."""

import deferred_ops
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from op_checks import (
    BATCHES,
    CHANNELS,
    MAPS,
    SEEDS,
    SIDES,
    chain,
    check,
    examples,
    get,
    norm_parameters,
    normals,
    put,
    scales,
)

import octsod
from octsod import Tensor, ops
from octsod import functional as f
from octsod.backend.deferred import ActivationSums

EPS = st.sampled_from([1e-5, 1e-3, 0.5])


@examples(25)
@given(MAPS, EPS, SEEDS)
@example((1, 3, 1, 1), 1e-5, 0)
@example((1, 6, 2, 3), 1e-3, 1)
@example((2, 0, 2, 3), 1e-3, 1)
def test_batch_norm(shape, eps, seed):
    gamma, beta, _ = norm_parameters(seed, shape[1])
    check(lambda *a: f.batch_norm(a[0], None, None, *a[1:], eps=eps), *normals(seed, shape), gamma, beta)


@examples(15)
@given(MAPS, EPS, SEEDS, st.booleans())
def test_batch_norm_outside_of_training(shape, eps, seed, slope):
    parameters = norm_parameters(seed, shape[1])
    x, mean, variance = normals(seed, shape, shape[1], shape[1])
    variance = variance**2 + 0.1
    kept = mean.copy(), variance.copy()
    running = Tensor(mean), Tensor(variance)  # as tensors they are taken, too
    if slope:
        check(lambda *a: f.batch_norm_prelu(a[0], *running, *a[1:], training=False, eps=eps), x, *parameters)
    else:
        check(lambda *a: f.batch_norm(a[0], *running, *a[1:], training=False, eps=eps), x, *parameters[:2])
    assert np.array_equal(mean, kept[0]) and np.array_equal(variance, kept[1])
    gamma, beta, _ = (p[:, None, None] for p in parameters)
    got = f.batch_norm(x, put(mean), put(variance), *parameters[:2], training=False, eps=eps).numpy()
    expected = (x - mean[:, None, None]) / np.sqrt(variance[:, None, None] + eps) * gamma + beta
    assert np.allclose(got, expected, rtol=1e-11, atol=1e-11)


@examples(25)
@given(MAPS, EPS, SEEDS)
@example((1, 3, 1, 1), 1e-5, 0)
@example((1, 6, 2, 3), 1e-3, 1)
def test_batch_norm_prelu(shape, eps, seed):
    inputs = *normals(seed, shape), *norm_parameters(seed, shape[1])
    check(lambda *a: f.batch_norm_prelu(a[0], None, None, *a[1:], eps=eps), *inputs)
    x, gamma, beta, slope = (Tensor(a) for a in inputs)
    two = f.prelu(f.batch_norm(x, None, None, gamma, beta, eps=eps), slope).numpy()
    one = f.batch_norm_prelu(x, None, None, gamma, beta, slope, eps=eps).numpy()
    assert np.allclose(one, two, rtol=1e-11, atol=1e-11)


@examples(20)
@given(MAPS, SEEDS, st.booleans())
@example((2, 6, 3, 5), 0, True)
def test_prelu(shape, seed, rounded):
    (x,) = normals(seed, shape)
    x = np.where(np.arange(x.size).reshape(shape) % 4 == 1, 0, x) if rounded else x  # a quarter on the kink
    slope = scales(np.random.default_rng(seed), shape[1])
    check(f.prelu, x, slope)
    assert np.array_equal(f.prelu(x, slope).numpy(), np.where(x > 0, x, slope[:, None, None] * x))


def test_running_statistics_that_change_before_backward():
    """The gradients are of the normalisation that was done, not of the statistics as they are by then."""
    x, mean, variance, gamma, beta = normals(3, (2, 3, 4, 5), 3, 3, 3, 3)

    def gradients(change):
        tensors = [Tensor(a, requires_grad=True) for a in (x, gamma, beta)]
        running = put(mean.copy()), put(variance**2 + 0.5)
        y = f.batch_norm(tensors[0], *running, *tensors[1:], training=False)
        if change:
            f.batch_norm(x + 3.0, *running, gamma, beta, momentum=0.9)
        (y * y).sum().backward()
        return [get(t.grad) for t in tensors]

    for kept, changed in zip(gradients(False), gradients(True), strict=True):
        assert np.array_equal(kept, changed)


@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (2, 3, 4, 5), (3, 1, 1, 7)])
@pytest.mark.parametrize("through_moments", [False, True])
def test_running_statistics(shape, through_moments):
    x, mean, variance = normals(1, shape, shape[1], shape[1])
    x, variance = x * 3 + 100, variance**2
    before = mean.copy(), variance.copy()
    weight = np.ones((shape[1], 1, 1, 1))
    y = deferred_ops.depthwise_conv2d(x, weight, moments=True) if through_moments else Tensor(x)
    gamma = np.ones(shape[1])
    mean, variance = put(mean), put(variance)
    with octsod.no_grad():  # training without gradients gathers statistics, too
        f.batch_norm_prelu(y, mean, variance, gamma, gamma, None, momentum=0.3)
    mean, variance = get(mean), get(variance)
    count = x.size // shape[1]
    unbiased = x.var(axis=(0, 2, 3)) * count / max(count - 1, 1)
    assert np.allclose(mean, 0.7 * before[0] + 0.3 * x.mean(axis=(0, 2, 3)), rtol=1e-12)
    assert np.allclose(variance, 0.7 * before[1] + 0.3 * unbiased, rtol=1e-9)


def chain_inputs(seed, shape, layers, size=3):
    """x and, per layer, weight, gamma, beta, slope."""
    inputs = list(normals(seed, shape))
    for layer in range(layers):
        inputs += normals(seed + 1 + layer, (shape[1], 1, size, size)) + list(norm_parameters(seed + layer, shape[1]))
    return inputs


@examples(15)
@given(
    st.tuples(BATCHES, CHANNELS, SIDES, SIDES).filter(lambda s: s[0] * s[2] * s[3] > 2), st.sampled_from([1, 2, 2, 3]),
    st.sampled_from([1, 3, 3, 5]), st.booleans(), SEEDS,
)  # fmt: skip
@example((1, 2, 1, 3), 2, 5, True, 0)
def test_depthwise_chain(shape, layers, size, training, seed):
    inputs = chain_inputs(seed, shape, layers, size)
    check(lambda *a: chain(*a, training=training, eps=0.1, weight_scale=2.5), *inputs)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("source", ["map", "deferred", "deferred, read twice"])
def test_depthwise_chain_is_its_layers_in_turn(training, source):
    shape, layers = (3, 4, 6, 9), 3
    arrays = chain_inputs(5, shape, layers)
    start = normals(9, shape[1], shape[1], shape[1])

    def run(together):
        x, *parameters = (Tensor(a, requires_grad=True) for a in arrays)
        holders = [ActivationSums(54) for _ in range(layers + 1)]
        first = Tensor(x.data, requires_grad=True)
        y = first
        if source != "map":
            y = deferred_ops.batch_norm_prelu(first, None, None, *start, activation_sums=holders[-1])
        statistics = [(put(np.full(4, 0.1 * k)), put(np.full(4, 1.0 + k))) for k in range(layers)]
        z = y
        if together:
            z = chain(
                y, *parameters, statistics=statistics, training=training, momentum=0.2, eps=0.3, weight_scale=7.0,
                activation_sums=holders[:layers],
            )  # fmt: skip
        else:
            for k in range(layers):
                weight, *norm = parameters[4 * k : 4 * k + 4]
                z = deferred_ops.depthwise_conv2d(z, weight * 7.0, padding=1, moments=True)
                z = deferred_ops.batch_norm_prelu(
                    z, *statistics[k], *norm, training, momentum=0.2, eps=0.3, activation_sums=holders[k]
                )
        out = f.conv2d(z, np.ones((2, 4, 1, 1)))
        out = (out * out).sum() + (f.sigmoid(y).sum() if source == "deferred, read twice" else 0.0)
        out.backward()
        sums = [h.values for h in holders[: layers + (source != "map")]]
        arrays_out = [first.grad, *(p.grad for p in parameters), *(a for pair in statistics for a in pair), *sums]
        return [out.numpy(), *map(get, arrays_out)]

    for k, (one, other) in enumerate(zip(run(True), run(False), strict=True)):
        assert np.allclose(one, other, rtol=1e-10, atol=1e-10 * np.abs(other).max()), k


@pytest.mark.parametrize("unused", [None, 0, 2])
def test_branches_together_are_as_each_alone(unused):
    """Norms in training and frozen ones, with and without slopes and gradients, and an output that nobody uses."""
    shapes, training = [(2, 3, 4, 6), (2, 2, 2, 3), (2, 1, 1, 1)], [True, False, True]
    momentum, eps = [0.1, 0.2, 0.9], [1e-5, 0.3, 0.5]
    arrays = [(*normals(k, shape), *norm_parameters(k, shape[1])) for k, shape in enumerate(shapes)]

    def run(together):
        branches = [[Tensor(a, requires_grad=True) for a in own] for own in arrays]
        branches[0][1] = Tensor(arrays[0][1])
        branches[1][3] = None
        running = [tuple(put(np.full(shape[1], value)) for value in (0.1, 0.8)) for shape in shapes]
        holders = [ActivationSums(1) for _ in shapes]
        settings = [dict(zip(("running", "training", "momentum", "eps", "activation_sums"), row, strict=True))
                    for row in zip(running, training, momentum, eps, holders, strict=True)]  # fmt: skip
        if together:
            listed = {name: [s[name] for s in settings] for name in settings[0]}
            outputs = ops.BatchNormPReLU.apply(*(t for own in branches for t in own), **listed)
        else:
            single = [{name: [value] for name, value in s.items()} for s in settings]
            outputs = [ops.BatchNormPReLU.apply(*own, **s)[0] for own, s in zip(branches, single, strict=True)]
        used = [f.conv2d(y, np.ones((1, y.shape[1], 1, 1))) for k, y in enumerate(outputs) if k != unused]
        first, *rest = [(y * y).sum() for y in used]
        for loss in rest:
            first = first + loss
        first.backward()
        gradients = [None if t is None or t.grad is None else get(t.grad) for own in branches for t in own]
        return gradients + [get(a) for pair in running for a in pair] + [get(h.values) for h in holders]

    for one, other in zip(run(True), run(False), strict=True):
        assert (one is None) == (other is None) and (one is None or np.array_equal(one, other))


@pytest.mark.parametrize("unused", [None, 1])
def test_chains_together_are_as_each_alone(unused):
    shapes = [(2, 3, 8, 6), (2, 2, 4, 3), (2, 1, 2, 1)]
    arrays = [chain_inputs(10 * k, shape, 2) for k, shape in enumerate(shapes)]

    def run(together):
        branches = [[Tensor(a, requires_grad=True) for a in own] for own in arrays]
        running = [[tuple(put(np.full(shape[1], v)) for v in (0.1, 0.8)) for _ in range(2)] for shape in shapes]
        groups = [[0, 1, 2]] if together else [[0], [1], [2]]
        outputs = [
            y for group in groups
            for y in ops.DepthwiseChain.apply(
                *(t for k in group for t in branches[k]), running=[running[k] for k in group], eps=0.1, weight_scale=2.0
            )
        ]  # fmt: skip
        first, *rest = [(y * y).sum() for k, y in enumerate(outputs) if k != unused]
        for loss in rest:
            first = first + loss
        first.backward()
        gradients = [None if t.grad is None else get(t.grad) for own in branches for t in own]
        return gradients + [get(a) for own in running for pair in own for a in pair]

    for one, other in zip(run(True), run(False), strict=True):
        assert (one is None) == (other is None) and (one is None or np.array_equal(one, other))
