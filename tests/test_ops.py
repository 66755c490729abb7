"""The public ops: gradients against finite differences, one op against another, and errors that help."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import octsod
from octsod import Tensor, ops
from octsod import functional as f
from octsod.backend.deferred import ActivationSums, Deferred
from octsod.testing.gradient_check import gradcheck

SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 13, 17])
CHANNELS = st.sampled_from([1, 2, 3, 5, 0])
BATCHES = st.sampled_from([1, 2, 3])


def examples(count):
    return settings(deadline=None, max_examples=count)


def normals(seed, *shapes):
    """Normal arrays of these shapes, None for None."""
    generator = np.random.default_rng(seed)
    return [None if shape is None else np.asarray(generator.normal(size=shape)) for shape in shapes]


def scales(generator, channels):
    """Scales or slopes: large, small, negative and zero ones."""
    return generator.permutation(np.resize([0.7, -0.6, 0.0, 1.9, -1.3, 0.25], max(channels, 6)))[:channels]


def norm_parameters(seed, channels):
    """gamma, beta, slope. beta is never 0, where a gamma of 0 would put a whole map on the kink of PReLU."""
    generator = np.random.default_rng(seed)
    beta = generator.uniform(0.2, 1, channels) * generator.choice([-1, 1], channels)
    return scales(generator, channels), beta, scales(generator, channels)


def check(fn, *inputs, tolerance=1e-6):
    """gradcheck, where a None input stays None."""
    return gradcheck(fn, *inputs, tolerance=tolerance)


# --- convolutions -----------------------------------------------------------------------------------------------------


@st.composite
def convolutions(draw, depthwise=False, kernel_sizes=((1, 1), (3, 3), (3, 2), (1, 4), (5, 5), (2, 1))):
    """(x shape, weight shape, bias?, settings, seed), valid by construction; a kernel may reach beyond the map."""
    height, width, channels = draw(SIDES), draw(SIDES), draw(CHANNELS)
    kernel_size, dilation = draw(st.sampled_from(kernel_sizes)), draw(st.sampled_from([1, 2, 3, 11]))
    least = max(-(-(dilation * (k - 1) + 1 - n) // 2) for k, n in zip(kernel_size, (height, width), strict=True))
    padding = max(least, 0) + draw(st.integers(0, 2))
    weight = (channels, 1, *kernel_size) if depthwise else (draw(CHANNELS), channels, *kernel_size)
    keywords = {"stride": draw(st.integers(1, 3)), "padding": padding, "dilation": dilation}
    return (draw(BATCHES), channels, height, width), weight, draw(st.booleans()), keywords, draw(SEEDS)


@examples(40)
@given(convolutions(), st.booleans())
@example(((0, 2, 3, 4), (3, 2, 3, 3), True, {"padding": 1}, 0), False)
@example(((1, 0, 3, 4), (3, 0, 3, 3), True, {"padding": 1}, 0), False)
@example(((2, 0, 3, 4), (3, 0, 1, 1), False, {}, 0), True)
@example(((1, 2, 3, 4), (0, 2, 3, 3), True, {"padding": 1}, 0), False)
@example(((1, 1, 2, 3), (1, 1, 3, 3), True, {"padding": 11, "dilation": 11}, 0), False)
def test_conv2d(case, moments):
    x, weight, bias, keywords, seed = case
    inputs = normals(seed, x, weight, weight[0] if bias else None)
    check(lambda *a: f.conv2d(*a, **keywords, moments=moments), *inputs)


@examples(30)
@given(convolutions(depthwise=True), st.booleans())
@example(((0, 2, 3, 4), (2, 1, 3, 3), False, {"padding": 1}, 0), False)
@example(((1, 0, 3, 4), (0, 1, 3, 3), False, {"padding": 1}, 0), True)
def test_depthwise_conv2d(case, moments):
    x, weight, _, keywords, seed = case
    check(lambda *a: f.depthwise_conv2d(*a, **keywords, moments=moments), *normals(seed, x, weight))


@st.composite
def dilated_convolutions(draw):
    x = draw(BATCHES), draw(CHANNELS), draw(SIDES), draw(SIDES)
    size = draw(st.sampled_from([1, 3, 5]))
    branches = draw(st.lists(st.tuples(CHANNELS, st.sampled_from([1, 2, 3, 4, 16])), min_size=1, max_size=4))
    weights = [(outs, x[1], size, size) for outs, _ in branches]
    return x, weights, [d for _, d in branches], draw(SEEDS)


@examples(25)
@given(dilated_convolutions(), st.booleans())
@example(((1, 2, 4, 3), [(2, 2, 3, 3), (0, 2, 3, 3), (1, 2, 3, 3)], [1, 2, 16], 0), True)
@example(((1, 2, 4, 3), [(0, 2, 3, 3)], [2], 0), False)
def test_dilated_conv2d(case, moments):
    x, weights, dilations, seed = case
    check(lambda x, *w: f.dilated_conv2d(x, w, dilations, moments=moments), *normals(seed, x, *weights))


@examples(20)
@given(dilated_convolutions())
def test_dilated_conv2d_is_a_row_of_convolutions(case):
    shape, weights, dilations, seed = case
    x, *weights = (Tensor(a) for a in normals(seed, shape, *weights))
    joined = f.dilated_conv2d(x, weights, dilations).numpy()
    reach = weights[0].shape[2] // 2
    parts = [f.conv2d(x, w, padding=d * reach, dilation=d).numpy() for w, d in zip(weights, dilations, strict=True)]
    assert np.allclose(joined, np.concatenate(parts, axis=1), rtol=1e-12, atol=1e-12)


def test_one_weight_may_serve_several_dilations():
    x, weight = normals(0, (1, 2, 5, 6), (3, 2, 3, 3))
    check(lambda x, w: f.dilated_conv2d(x, [w, w, w], [1, 2, 7]), x, weight)


@examples(20)
@given(convolutions(depthwise=True))
def test_depthwise_conv2d_is_a_convolution_per_channel(case):
    shape, weight, _, keywords, seed = case
    x, weight = normals(seed, shape, weight)
    got = f.depthwise_conv2d(x, weight, **keywords).numpy()
    for c in range(shape[1]):
        one = f.conv2d(x[:, c : c + 1], weight[c : c + 1], **keywords).numpy()
        assert np.allclose(got[:, c : c + 1], one, rtol=1e-12, atol=1e-12)


# --- octave convolutions ----------------------------------------------------------------------------------------------


@st.composite
def octaves(draw):
    """(channels in, channels out, size of the finest branch, kernel size, stride, batch, seed)"""
    counts = st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=3).filter(any)
    ins, outs = draw(counts), draw(counts)
    stride = draw(st.sampled_from([1, 2]))
    last = max(i for counts in (ins, outs) for i, n in enumerate(counts) if n)
    unit = stride << last
    size = unit * draw(st.integers(1, 3)), unit * draw(st.integers(1, 3))
    return ins, outs, size, draw(st.sampled_from([1, 3, 5])), stride, draw(st.sampled_from([1, 2])), draw(SEEDS)


def octave_inputs(case):
    ins, outs, (height, width), k, _, batch, seed = case
    shapes = [(batch, n, height >> i, width >> i) if n else None for i, n in enumerate(ins)]
    return normals(seed, (sum(outs), sum(ins), k, k), *shapes)


@examples(35)
@given(octaves(), st.booleans())
@example(([2, 1, 3], [1], (4, 8), 1, 1, 1, 0), False)
@example(([2, 1, 3], [2], (16, 8), 3, 2, 2, 0), True)
@example(([2], [1, 2, 1], (4, 8), 1, 1, 1, 0), True)
@example(([2], [1, 2, 1], (8, 16), 3, 2, 1, 0), False)
@example(([2, 0, 1], [0, 3, 2], (8, 4), 3, 1, 2, 0), False)
@example(([0, 0, 2], [3], (4, 4), 1, 1, 1, 0), False)
@example(([3], [0, 0, 2], (4, 4), 1, 1, 1, 0), False)
@example(([1, 2, 1, 2], [2, 1, 2, 1], (8, 16), 1, 1, 1, 0), True)
@example(([1, 1, 0, 1, 1], [1, 0, 1, 1, 1], (32, 64), 3, 2, 1, 0), False)
@example(([0, 2], [2, 0], (2, 2), 3, 1, 1, 0), False)
def test_octave_conv2d(case, moments):
    _, outs, _, _, stride, _, _ = case
    weight, *inputs = octave_inputs(case)
    check(lambda w, *x: f.octave_conv2d(x, w, outs, stride, moments=moments), weight, *inputs)


@examples(25)
@given(octaves())
def test_octave_conv2d_is_made_of_simpler_ops(case):
    """Its definition: what is finer is max-pooled before, what is coarser is upsampled after the convolution."""
    ins, outs, _, k, stride, _, _ = case
    weight, *inputs = octave_inputs(case)
    got = f.octave_conv2d(inputs, weight, outs, stride)
    assert len(got) == len(outs)
    row = 0
    for j, count in enumerate(outs):
        total, column = 0.0, 0
        for i, x in enumerate(inputs):
            if x is None or not count:
                continue
            own = weight[row : row + count, column : column + ins[i]]
            column += ins[i]
            x = f.avg_pool2d(x, 2) if stride == 2 else Tensor(x)
            x = f.max_pool2d(x, 1 << (j - i)) if i < j else x
            y = f.conv2d(x, own, padding=k // 2)
            total = total + (f.upsample_bilinear(y, scale_factor=1 << (i - j)) if i > j else y).numpy()
        row += count
        assert (got[j] is None) == (count == 0)
        if count:
            assert np.allclose(got[j].numpy(), total, rtol=1e-11, atol=1e-11)


def test_a_branch_without_channels_may_be_none_or_an_empty_map():
    weight, fine, coarse = normals(0, (3, 3, 3, 3), (2, 3, 4, 8), (2, 3, 2, 4))
    empty_fine, empty_coarse = np.zeros((2, 0, 4, 8)), np.zeros((2, 0, 2, 4))
    for missing, empty in (([fine, None], [fine, empty_coarse]), ([None, coarse], [empty_fine, coarse])):
        for outs in ((3,), (0, 3), (2, 1)):
            pairs = zip(f.octave_conv2d(missing, weight, outs), f.octave_conv2d(empty, weight, outs), strict=True)
            for a, b in pairs:
                assert (a is None and b is None) or np.array_equal(a.numpy(), b.numpy())
            check(lambda w, *x, outs=outs: f.octave_conv2d(x, w, outs), weight, *empty)


def test_unused_outputs_of_an_octave_convolution():
    weight, fine, coarse = normals(0, (6, 3, 1, 1), (1, 2, 4, 8), (1, 1, 2, 4))
    for keep in range(3):
        check(lambda w, *x, keep=keep: f.octave_conv2d(x, w, (1, 2, 3))[keep], weight, fine, coarse)


# --- batch norm and PReLU ---------------------------------------------------------------------------------------------

MAPS = st.tuples(BATCHES, CHANNELS, SIDES, SIDES)
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
    got = f.batch_norm(x, mean, variance, *parameters[:2], training=False, eps=eps).numpy()
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


@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (2, 3, 4, 5), (3, 1, 1, 7)])
@pytest.mark.parametrize("through_moments", [False, True])
def test_running_statistics(shape, through_moments):
    x, mean, variance = normals(1, shape, shape[1], shape[1])
    x, variance = x * 3 + 100, variance**2
    before = mean.copy(), variance.copy()
    weight = np.ones((shape[1], 1, 1, 1))
    y = f.depthwise_conv2d(x, weight, moments=True) if through_moments else Tensor(x)
    gamma = np.ones(shape[1])
    with octsod.no_grad():  # training without gradients gathers statistics, too
        f.batch_norm_prelu(y, mean, variance, gamma, gamma, None, momentum=0.3)
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


def chain(x, *parameters, statistics=None, **more):
    layers = [parameters[k : k + 4] for k in range(0, len(parameters), 4)]
    channels = x.shape[1]
    running = [(np.zeros(channels), np.ones(channels)) for _ in layers] if statistics is None else statistics
    return f.depthwise_chain(x, layers, running, **more)


@examples(15)
@given(
    st.tuples(BATCHES, CHANNELS, SIDES, SIDES).filter(lambda s: s[0] * s[2] * s[3] > 2), st.sampled_from([1, 2, 2, 3]),
    st.sampled_from([1, 3, 3, 5]), st.booleans(), SEEDS,
)  # fmt: skip
@example((1, 2, 1, 3), 2, 5, True, 0)
def test_depthwise_chain(shape, layers, size, training, seed):
    inputs = chain_inputs(seed, shape, layers, size)
    check(lambda *a: chain(*a, training=training, eps=0.1, weight_scale=2.5), *inputs, tolerance=1e-5)


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
        y = first if source == "map" else f.batch_norm_prelu(first, None, None, *start, activation_sums=holders[-1])
        statistics = [(np.full(4, 0.1 * k), np.full(4, 1.0 + k)) for k in range(layers)]
        z = y
        if together:
            z = chain(
                y, *parameters, statistics=statistics, training=training, momentum=0.2, eps=0.3, weight_scale=7.0,
                activation_sums=holders[:layers],
            )  # fmt: skip
        else:
            for k in range(layers):
                weight, *norm = parameters[4 * k : 4 * k + 4]
                z = f.depthwise_conv2d(z, weight * 7.0, padding=1, moments=True)
                z = f.batch_norm_prelu(z, *statistics[k], *norm, training, 0.2, 0.3, holders[k])
        out = f.conv2d(z, np.ones((2, 4, 1, 1)))
        out = (out * out).sum() + (f.sigmoid(y).sum() if source == "deferred, read twice" else 0.0)
        out.backward()
        sums = [h.values for h in holders[: layers + (source != "map")]]
        return [out.numpy(), first.grad, *(p.grad for p in parameters), *np.reshape(statistics, (-1, 4)), *sums]

    for k, (one, other) in enumerate(zip(run(True), run(False), strict=True)):
        assert np.allclose(one, other, rtol=1e-10, atol=1e-10 * np.abs(other).max()), k


# --- deferred maps and who reads them ---------------------------------------------------------------------------------

NONE = (None, None)

# name -> (shapes of weights for maps of two channels, reader of a map and those weights). Sizes are multiples of 4.
READERS = {
    "conv 3x3": ([(3, 2, 3, 3), (3,)], lambda y, w, b: f.conv2d(y, w, b, padding=1)),
    "conv 1x1": ([(3, 2, 1, 1)], lambda y, w: f.conv2d(y, w)),
    "conv with stride": ([(1, 2, 3, 3)], lambda y, w: f.conv2d(y, w, stride=2, padding=1, dilation=2)),
    "conv without outputs": ([(0, 2, 1, 1)], lambda y, w: f.conv2d(y, w)),
    "depthwise": ([(2, 1, 3, 3)], lambda y, w: f.depthwise_conv2d(y, w, padding=1)),
    "depthwise chain": ([(2, 1, 3, 3), (2,), (2,), (2,)], lambda y, *p: chain(y, *p, eps=0.1)),
    "depthwise with stride": ([(2, 1, 3, 3)], lambda y, w: f.depthwise_conv2d(y, w, stride=3, padding=2)),
    "dilated": ([(1, 2, 3, 3), (2, 2, 3, 3)], lambda y, *w: f.dilated_conv2d(y, w, (1, 9))),
    "octave 1->2": ([(3, 2, 1, 1)], lambda y, w: f.octave_conv2d([y, None], w, (1, 2))),
    "octave 1->3": ([(4, 2, 3, 3)], lambda y, w: f.octave_conv2d([y], w, (2, 0, 2))),
    "octave with stride": ([(3, 2, 1, 1)], lambda y, w: f.octave_conv2d([y], w, (2, 1), stride=2)),
    "octave up": ([(3, 2, 3, 3)], lambda y, w: f.octave_conv2d([None, y], w, (2, 1))),
    "octave 2->1": ([(2, 4, 1, 1)], lambda y, w: f.octave_conv2d([y, f.avg_pool2d(y, 2)], w, (2,))),
    "octave 3->1": (
        [(2, 6, 1, 1)], lambda y, w: f.octave_conv2d([y, f.max_pool2d(y, 2), f.avg_pool2d(y, 4)], w, (2,))
    ),
    "sigmoid": ([], f.sigmoid),
    "plus a constant": ([], lambda y: y + 1.5),
    "plus itself": ([], lambda y: y + y),
    "times itself": ([], lambda y: y * y),
    "minus a tensor": ([(2, 1, 1)], lambda y, c: y - c),
    "over a tensor": ([(2, 1, 1)], lambda y, c: y / (c * c + 1)),
    "cube": ([], lambda y: y**3),
    "sum": ([], lambda y: y.sum(axis=(0, 2))),
    "mean": ([], lambda y: y.mean()),
    "reshape": ([], lambda y: y.reshape(-1)),
    "materialize": ([], f.materialize),
    "max_pool2d": ([], lambda y: f.max_pool2d(y, 2)),
    "avg_pool2d": ([], lambda y: f.avg_pool2d(y, 3, 1, 1)),
    "upsample_bilinear": ([], lambda y: f.upsample_bilinear(y, scale_factor=2)),
    "prelu": ([(2,)], f.prelu),
    "batch_norm": ([(2,), (2,)], lambda y, *p: f.batch_norm(y, *NONE, *p)),
    "batch_norm_prelu": ([(2,), (2,), (2,)], lambda y, *p: f.batch_norm_prelu(y, *NONE, *p)),
    "loss": ([], lambda y: f.binary_cross_entropy_with_logits(y, Tensor(np.full(y.shape, 0.3, y.dtype)))),
    "conv, norm, conv": ([(3, 2, 1, 1), (3,), (3,), (3,), (1, 3, 3, 3)], lambda y, w, g, b, s, v: f.conv2d(
        f.batch_norm_prelu(f.conv2d(y, w, moments=True), *NONE, g, b, s), v, padding=1)),
    "two convs, then norm": ([(3, 2, 1, 1), (3, 2, 3, 3), (3,), (3,), (3,)], lambda y, w, v, *p: f.batch_norm_prelu(
        f.conv2d(y, w, moments=True) + f.conv2d(y, v, padding=1, moments=True), *NONE, *p)),
}  # fmt: skip

# name -> a map of two channels with normalisation deferred, of x (N, 2, H, W) and gamma, beta, slope
SOURCES = {
    "norm": lambda x, *p: f.batch_norm_prelu(x, *NONE, *p),
    "norm without slope": lambda x, g, b, s: f.batch_norm_prelu(x * s.reshape(2, 1, 1), *NONE, g, b, None),
    "conv and norm": lambda x, *p: f.batch_norm_prelu(f.conv2d(x, FIXED), *NONE, *p),
    "conv with moments and norm": lambda x, *p: f.batch_norm_prelu(f.conv2d(x, FIXED, moments=True), *NONE, *p),
    "norm outside of training": lambda x, *p: f.batch_norm_prelu(x, *RUNNING, *p, training=False),
    "depthwise chain": lambda x, *p: chain(x, BLUR, *p, BLUR, *p, eps=0.1),
    "prelu": lambda x, g, b, s: ops.PReLU.apply(x * g.reshape(2, 1, 1) + b.reshape(2, 1, 1), s),
    "prelu of a norm": lambda x, g, b, s: ops.PReLU.apply(f.batch_norm_prelu(x, *NONE, g, b, s), s * 0.5 + 0.1),
    "raw with moments": lambda x, g, b, s: f.conv2d(
        x * g.reshape(2, 1, 1) + b.reshape(2, 1, 1) * s.reshape(2, 1, 1), FIXED, moments=True
    ),
}
FIXED = np.array([[0.8, -0.5], [0.3, 1.1]]).reshape(2, 2, 1, 1)
BLUR = np.full((2, 1, 3, 3), 0.3) + np.eye(3)
RUNNING = np.array([0.3, -0.2]), np.array([0.6, 1.7])
SMALL = (2, 2, 4, 8)


def several(*results):
    """Flattens what readers return, a tensor or a list of them, for gradcheck."""
    return [y for result in results for y in (result if isinstance(result, list) else [result])]


def norm_of_two(seed):
    """gamma, beta, slope of two channels: of all signs and zero, over the seeds."""
    gamma, beta, slope = norm_parameters(seed, 6)
    return gamma[:2], beta[:2], slope[:2]


@pytest.mark.parametrize("source", [s for s in SOURCES if s not in ("conv and norm", "norm without slope", "prelu")])
@pytest.mark.parametrize("reader", READERS)
def test_a_reader_of_a_deferred_map(reader, source):
    weights, read = READERS[reader]
    seed = 100 * list(READERS).index(reader) + list(SOURCES).index(source)
    shape = SMALL if source == "norm" else (1, 2, 4, 4)
    inputs = *normals(seed, shape), *norm_of_two(seed), *normals(seed + 1, *weights)
    if source == "norm":
        check(lambda *a: several(read(SOURCES[source](*a[:4]), *a[4:])), *inputs)
    else:  # weights have been checked with the first source
        constants = [Tensor(a) for a in inputs[4:]]
        check(lambda *a: several(read(SOURCES[source](*a), *constants)), *inputs[:4])


def check_readers(source, readers, seed, shape=SMALL):
    weights = [[Tensor(a) for a in normals(seed + k, *READERS[name][0])] for k, name in enumerate(readers)]

    def fn(*inputs):
        y = SOURCES[source](*inputs)
        return several(*(READERS[name][1](y, *w) for name, w in zip(readers, weights, strict=True)))

    check(fn, *normals(seed, shape), *norm_of_two(seed))


@pytest.mark.parametrize(
    "readers",
    [
        ("conv 3x3", "conv 1x1"),
        ("conv 1x1", "conv 1x1"),
        ("conv 3x3", "sigmoid"),
        ("sigmoid", "conv 3x3"),
        ("conv 3x3", "plus a constant"),
        ("plus a constant", "conv 3x3"),
        ("plus itself", "plus itself"),
        ("octave 1->2", "octave 1->2"),
        ("octave with stride", "octave with stride"),
        ("octave up", "octave 1->2"),
        ("depthwise", "depthwise"),
        ("depthwise chain", "depthwise chain"),
        ("conv 1x1", "depthwise chain", "octave 1->2"),
        ("dilated", "depthwise", "octave 1->3"),
        ("batch_norm", "conv 3x3"),
        ("conv 3x3", "batch_norm"),
        ("batch_norm_prelu", "batch_norm_prelu"),
        ("prelu", "conv 1x1", "prelu"),
        ("materialize", "materialize", "conv 3x3"),
        ("reshape", "conv 3x3", "reshape"),
        ("sum", "conv 1x1"),
        ("conv 1x1", "conv without outputs"),
        ("conv without outputs", "conv 1x1"),
        ("conv without outputs", "sigmoid"),
        ("octave 2->1", "octave 3->1", "conv, norm, conv"),
    ],
    ids="|".join,
)
def test_two_readers_of_a_deferred_map(readers):
    check_readers("conv with moments and norm", readers, 0)
    for seed, source in enumerate(("norm", "norm outside of training", "prelu of a norm")):
        check_readers(source, readers, seed + 1, (1, 2, 4, 4))


@examples(40)
@given(
    st.sampled_from(list(SOURCES)), st.lists(st.sampled_from(list(READERS)), min_size=2, max_size=4), SEEDS,
    st.sampled_from([SMALL, (1, 2, 4, 4), (1, 2, 12, 4), (3, 2, 4, 4)]),
)  # fmt: skip
def test_any_readers_of_a_deferred_map(source, readers, seed, shape):
    check_readers(source, readers, seed, shape)


@examples(12)
@given(MAPS.filter(lambda s: s[1]), SEEDS, st.sampled_from([1, 3]), st.booleans())
@example((1, 1, 1, 1), 0, 3, True)
def test_conv_norm_conv(shape, seed, k, moments):
    """Odd channel counts and maps of one pixel, through two deferred layers."""
    c = shape[1]
    x, first, second, last = normals(seed, shape, (c + 1, c, k, k), (3, c + 1, 3, 3), (1, 3, 1, 1))
    parameters = *norm_parameters(seed, c + 1), *norm_parameters(seed + 1, 3)

    def fn(x, first, second, last, *p):
        y = f.batch_norm_prelu(f.conv2d(x, first, padding=k // 2, moments=moments), *NONE, *p[:3], eps=0.1)
        y = f.batch_norm_prelu(f.conv2d(y, second, padding=1, moments=moments), *NONE, *p[3:], eps=0.1)
        return f.conv2d(y, last)

    check(fn, x, first, second, last, *parameters)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_octave_norm_octave(k, stride):
    """Two multi-scale layers with a norm per branch; the second one has a single output, as at CSNet's end."""
    fine, coarse, first, second = normals(3, (2, 2, 8, 16), (2, 1, 4, 8), (6, 3, k, k), (2, 6, k, k))
    parameters = [p for i, n in enumerate((3, 2, 1)) for p in norm_parameters(i, n)]

    def fn(fine, coarse, first, second, *p):
        maps = f.octave_conv2d([fine, coarse], first, (3, 2, 1), stride, moments=True)
        maps = [f.batch_norm_prelu(y, *NONE, *p[3 * i : 3 * i + 3]) for i, y in enumerate(maps)]
        return several(f.octave_conv2d(maps, second, (2,)), maps[1])

    check(fn, fine, coarse, first, second, *parameters)


def test_a_map_and_its_raw_map_are_both_read():
    x, weight, last = normals(0, (2, 2, 4, 5), (3, 2, 3, 3), (1, 3, 1, 1))
    parameters = norm_parameters(1, 3)
    for moments in (False, True):

        def fn(x, weight, last, *p, moments=moments):
            raw = f.conv2d(x, weight, padding=1, moments=moments)
            normed = f.batch_norm_prelu(raw, *NONE, *p)
            return f.conv2d(raw, last), f.conv2d(normed, last), f.sigmoid(raw), normed + raw

        check(fn, x, weight, last, *parameters)


def test_one_map_is_normalised_twice():
    (x,) = normals(0, (2, 3, 4, 5))
    one, two = norm_parameters(1, 3), norm_parameters(2, 3)

    def fn(x, *p):
        return f.sigmoid(f.batch_norm_prelu(x, *NONE, *p[:3])) * f.batch_norm_prelu(x, *NONE, *p[3:])

    check(fn, x, *one, *two)


def test_the_result_of_a_norm_is_deferred_and_public_ops_compute():
    x, gamma = (Tensor(a) for a in normals(0, (1, 2, 3, 4), 2))
    assert isinstance(f.batch_norm_prelu(x, *NONE, gamma, gamma, gamma).data, Deferred)
    assert isinstance(f.batch_norm(x, *NONE, gamma, gamma).data, np.ndarray)
    assert isinstance(f.prelu(x, gamma).data, np.ndarray)
    assert isinstance(f.materialize(f.batch_norm_prelu(x, *NONE, gamma, gamma, gamma)).data, np.ndarray)


@pytest.mark.parametrize("source", ["norm", "norm without slope", "conv with moments and norm"])
@pytest.mark.parametrize("reader", [r for r in READERS if "outputs" not in r])
def test_the_first_reader_sums_the_activation(reader, source, monkeypatch):
    sums = ActivationSums(SMALL[2] * SMALL[3])
    monkeypatch.setattr(f, "batch_norm_prelu", lambda *a, _norm=f.batch_norm_prelu: _norm(*a, activation_sums=sums))
    x, gamma, beta, slope = (Tensor(a) for a in (*normals(5, SMALL), *norm_of_two(5)))
    y = SOURCES[source](x, gamma, beta, slope)
    monkeypatch.undo()
    assert sums.values is None
    weights, read = READERS[reader]
    read(y, *(Tensor(a) for a in normals(6, *weights)))
    expected = y.numpy().sum(axis=(2, 3))
    assert np.allclose(sums.values, expected, rtol=1e-10, atol=1e-10)
    read(y, *(Tensor(a) for a in normals(6, *weights)))
    assert np.allclose(sums.values, expected, rtol=1e-10, atol=1e-10)  # and nobody else


# --- resampling -------------------------------------------------------------------------------------------------------


@st.composite
def poolings(draw):
    k, channels = draw(st.integers(1, 4)), draw(CHANNELS)
    padding = draw(st.integers(0, k // 2))
    sides = SIDES.filter(lambda n: n + 2 * padding >= k)
    shape = draw(BATCHES), channels, draw(sides), draw(sides)
    return shape, (k, draw(st.none() | st.integers(1, 3)), padding), draw(SEEDS)


@examples(25)
@given(poolings(), st.booleans())
@example(((1, 1, 4, 6), (2, None, 0), 0), True)
def test_max_pool2d(case, ties):
    shape, arguments, seed = case
    (x,) = normals(seed, shape)
    if ties:  # a few, far apart
        x.reshape(-1)[:: max(x.size // 3, 1)] = 2.5
        x.reshape(-1)[1 :: max(x.size // 3, 2)] = 2.5
    if ties and x.size < 20:
        return  # not enough is left to check
    check(lambda x: f.max_pool2d(x, *arguments), x)


@examples(20)
@given(poolings())
def test_avg_pool2d(case):
    shape, arguments, seed = case
    check(lambda x: f.avg_pool2d(x, *arguments), *normals(seed, shape))


@examples(30)
@given(poolings())
def test_pooling_is_what_it_says(case):
    shape, (k, stride, padding), seed = case
    (x,) = normals(seed, shape)
    for op, fill, reduce in ((f.max_pool2d, -np.inf, np.max), (f.avg_pool2d, 0, np.mean)):
        padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)), constant_values=fill)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))
        expected = reduce(windows[:, :, :: stride or k, :: stride or k], axis=(4, 5))
        got = op(x, k, stride, padding).numpy()
        assert got.shape == expected.shape and np.allclose(got, expected, rtol=1e-12, atol=1e-12)


@examples(20)
@given(MAPS, st.tuples(SIDES, SIDES) | SIDES, SEEDS)
@example((1, 2, 1, 1), (5, 3), 0)
@example((1, 2, 9, 7), (1, 1), 0)
@example((2, 2, 3, 4), 5, 0)
def test_upsample_bilinear(shape, size, seed):
    (x,) = normals(seed, shape)
    check(lambda x: f.upsample_bilinear(x, size), x)
    check(lambda x: f.upsample_bilinear(x, shape[2:]), x)


def test_upsample_bilinear_by_a_factor():
    (x,) = normals(0, (1, 2, 3, 4))
    for factor in (1, 2, 3):
        size = 3 * factor, 4 * factor
        check(lambda x, factor=factor: f.upsample_bilinear(x, scale_factor=factor), x)
        assert np.array_equal(f.upsample_bilinear(x, scale_factor=factor).numpy(), f.upsample_bilinear(x, size).numpy())
    assert np.array_equal(f.upsample_bilinear(x, scale_factor=1).numpy(), x)
    assert np.array_equal(f.upsample_bilinear(x, np.int64(5)).numpy(), f.upsample_bilinear(x, 5).numpy())


# --- arithmetic, sigmoid, loss ----------------------------------------------------------------------------------------


@st.composite
def broadcasts(draw):
    """Two shapes that broadcast."""
    full = draw(st.lists(st.sampled_from([1, 2, 3, 5, 0]), max_size=4))
    shapes = []
    for _ in range(2):
        shape = [draw(st.sampled_from([n, n, 1])) for n in full]
        shapes.append(tuple(shape[draw(st.integers(0, len(shape))) :]))
    return shapes


ARITHMETIC = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide}


@examples(40)
@given(st.sampled_from(list(ARITHMETIC)), broadcasts(), SEEDS)
@example("divide", [(2, 3), ()], 0)
@example("subtract", [(1, 3), (2, 1)], 0)
@example("multiply", [(), ()], 0)
@example("add", [(70, 2, 300), (2, 1)], 0)
def test_arithmetic(name, shapes, seed):
    a, b = normals(seed, *shapes)
    b = np.copysign(np.abs(b) + 0.5, b) if name == "divide" else b
    op = getattr(f, name)
    check(op, a, b)
    got, expected = op(a, b).numpy(), ARITHMETIC[name](a, b)
    assert got.shape == expected.shape and np.allclose(got, expected, rtol=1e-14)


def test_arithmetic_with_numbers_and_arrays():
    a, b = normals(0, (2, 3), (2, 3))
    b = np.abs(b) + 0.5
    check(lambda a: 2 - a * 3 + 1 / (a * a + 1) - a / 4, a)
    check(lambda a: b * a, a)
    check(lambda a: b / (a * a + 1) + (b - a), a)
    check(lambda a: -a, a)
    check(lambda a: a * a / a, b)
    single = Tensor(np.ones(2, np.float32)) * 2 + 1
    assert single.dtype == np.float32  # a number takes on the tensor's dtype


def test_a_fraction_is_not_rounded_to_an_integer_tensor():
    whole = Tensor(np.array([1, 2]))
    for op, expected in ((f.multiply, [0.5, 1]), (f.add, [1.5, 2.5]), (f.divide, [2, 4])):
        try:
            got = op(whole, 0.5).numpy()
        except (TypeError, ValueError):
            continue  # to refuse it is as good
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 5, -1, -2, 0.5, 1.5, -0.5])
def test_power(exponent):
    (a,) = normals(0, (3, 7))
    a = np.sign(a) * (np.abs(a) + 0.3)
    a = a if exponent == int(exponent) else np.abs(a)
    check(lambda a: f.power(a, exponent), a)
    assert np.allclose(f.power(a, exponent).numpy(), a**exponent, rtol=1e-12)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3])
def test_power_at_zero(exponent):
    check(lambda a: a**exponent, np.array([0.0, 1.0, -2.0]))


@examples(40)
@given(
    st.lists(st.sampled_from([1, 2, 3, 5, 0]), max_size=4), st.data(), st.booleans(), st.sampled_from(["sum", "mean"]),
    SEEDS,
)  # fmt: skip
def test_sum_and_mean(shape, data, keepdims, name, seed):
    axes = st.integers(-len(shape), len(shape) - 1) if shape else st.nothing()
    options = st.none() | axes | st.lists(axes, unique_by=lambda i: i % len(shape)).map(tuple) if shape else st.none()
    axis = data.draw(options)
    (x,) = normals(seed, tuple(shape))
    if name == "mean" and not x.size:
        return
    op = getattr(f, name)
    check(lambda x: op(x, axis, keepdims), x)
    got, expected = op(x, axis, keepdims), getattr(np, name)(x, axis=axis, keepdims=keepdims)
    assert got.shape == expected.shape and np.allclose(got.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "to"),
    [((2, 6), (3, 4)), ((2, 6), (-1,)), ((2, 6), 12), ((12,), (2, -1, 3)), ((1,), ()), ((), (1, 1)), ((0, 3), (3, 0))],
)
def test_reshape(shape, to):
    (x,) = normals(0, shape)
    check(lambda x: f.reshape(x * 2, to) * 3, x)
    assert np.array_equal(f.reshape(x, to).numpy(), x.reshape(to))
    check(lambda x: f.conv2d(x.reshape(1, 1, 1, -1), np.ones((2, 1, 1, 1))), x.reshape(-1)) if x.size else None


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4, 5), (0, 3), (3, 20_001)])
def test_sigmoid(shape):
    (x,) = normals(0, shape)
    check(lambda x: f.sigmoid(x * 2), x)
    assert np.allclose(f.sigmoid(x).numpy(), 1 / (1 + np.exp(-x)), rtol=1e-13)


def test_sigmoid_does_not_overflow():
    x = Tensor(np.array([-1e4, -800.0, 0.0, 800.0, 1e4]), requires_grad=True)
    y = f.sigmoid(x)
    y.sum().backward()
    assert np.allclose(y.numpy(), [0, 0, 0.5, 1, 1], atol=1e-300)
    assert np.allclose(x.grad, [0, 0, 0.25, 0, 0], atol=1e-300)


@pytest.mark.parametrize("shape", [(1,), (2, 1, 5, 4), (), (3, 20_001)])
def test_binary_cross_entropy_with_logits(shape):
    x, target = normals(0, shape, shape)
    target = 1 / (1 + np.exp(-target))
    check(lambda x: f.binary_cross_entropy_with_logits(x * 3, Tensor(target)), x)
    p = 1 / (1 + np.exp(-x))
    expected = -(target * np.log(p) + (1 - target) * np.log1p(-p)).mean()
    assert f.binary_cross_entropy_with_logits(x, target).item() == pytest.approx(expected, rel=1e-12)


def test_the_loss_does_not_overflow():
    x = Tensor(np.array([-1e4, 1e4, -1e4, 1e4]), requires_grad=True)
    loss = f.binary_cross_entropy_with_logits(x, np.array([0.0, 1.0, 1.0, 0.0]))
    loss.backward()
    assert loss.item() == pytest.approx(5e3)
    assert np.allclose(x.grad, [0, 0, -0.25, 0.25])


# --- single precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["norm", "conv with moments and norm", "norm outside of training"])
@pytest.mark.parametrize("reader", READERS)
def test_float32_is_close_to_float64(reader, source, monkeypatch):
    weights, read = READERS[reader]
    arrays = [a.astype(np.float32) for a in (*normals(1, SMALL), *norm_of_two(4), *normals(2, *weights))]
    results = []
    for dtype in (np.float32, np.float64):
        monkeypatch.setitem(globals(), "FIXED", FIXED.astype(dtype))
        tensors = [Tensor(a.astype(dtype), requires_grad=True) for a in arrays]
        outputs = several(read(SOURCES[source](*tensors[:4]), *tensors[4:]))
        outputs = [y for y in outputs if y is not None]
        total = sum((f.power(y - 0.25, 2).sum() for y in outputs), Tensor(np.zeros((), dtype)))
        total.backward()
        got = [y.numpy() for y in outputs] + [t.grad for t in tensors]
        assert all(a is None or a.dtype == dtype for a in got)
        results.append(got)
    for single, double in zip(*results, strict=True):
        assert (single is None) == (double is None)
        if single is not None and single.size:
            assert np.abs(single - double).max() <= 2e-5 * max(1, np.abs(double).max())


# --- errors -----------------------------------------------------------------------------------------------------------

X, W, D = np.ones((1, 2, 5, 4)), np.ones((3, 2, 3, 3)), np.ones((2, 1, 3, 3))
SINGLE = np.ones((1, 2, 5, 4), np.float32)
C = np.ones(2)
HALF = np.ones((1, 2, 2, 2))
EVEN = np.ones((1, 2, 4, 4))
OCT = np.ones((3, 4, 1, 1))


def octave(inputs=(EVEN, HALF), weight=OCT, out_channels=(2, 1), **keywords):
    return f.octave_conv2d(inputs, weight, out_channels, **keywords)


# (call, op, argument, what it was, what was expected)
BAD_CALLS = [
    (lambda: f.conv2d(X[0], W), "conv2d", "x", "(2, 5, 4)", "four dimensions (N, C, H, W)"),
    (lambda: f.conv2d(C, W), "conv2d", "x", "(2,)", "four dimensions"),
    (lambda: f.conv2d(np.ones(()), W), "conv2d", "x", "()", "four dimensions"),
    (lambda: f.conv2d(X.astype(int), W.astype(int)), "conv2d", "x", "int64", "float32 or float64"),
    (lambda: f.conv2d(X.astype(np.float16), W), "conv2d", "x", "float16", "float32 or float64"),
    (lambda: f.conv2d(X, W[0]), "conv2d", "weight", "(2, 3, 3)", "four dimensions (O, C, kh, kw)"),
    (lambda: f.conv2d(X, W.astype(np.float32)), "conv2d", "weight", "float32", "float64, the dtype of `x`"),
    (lambda: f.conv2d(X, W[:, :1]), "conv2d", "weight", "1 input channels", "2, the channels of `x`"),
    (lambda: f.conv2d(X, W[..., :0]), "conv2d", "weight", "(3, 2, 3, 0)", "at least 1x1"),
    (lambda: f.conv2d(X, W, C), "conv2d", "bias", "(2,)", "(3,), one entry per channel"),
    (lambda: f.conv2d(X, W, np.ones((3, 1))), "conv2d", "bias", "(3, 1)", "(3,)"),
    (lambda: f.conv2d(X, W, np.ones(3, np.float32)), "conv2d", "bias", "float32", "float64"),
    (lambda: f.conv2d(X, W, stride=0), "conv2d", "stride", "0", "at least 1"),
    (lambda: f.conv2d(X, W, stride=1.5), "conv2d", "stride", "1.5", "an integer"),
    (lambda: f.conv2d(X, W, stride=(1, 1)), "conv2d", "stride", "(1, 1)", "an integer"),
    (lambda: f.conv2d(X, W, stride=True), "conv2d", "stride", "True", "an integer"),
    (lambda: f.conv2d(X, W, padding=-1), "conv2d", "padding", "-1", "at least 0"),
    (lambda: f.conv2d(X, W, padding="same"), "conv2d", "padding", "'same'", "an integer"),
    (lambda: f.conv2d(X, W, dilation=0), "conv2d", "dilation", "0", "at least 1"),
    (lambda: f.conv2d(X, W, dilation=2), "conv2d", "x", "5x4 (padding 0)", "at least 5 pixels"),
    (lambda: f.conv2d(X[:, :, :0], W, padding=3), "conv2d", "x", "0x4", "pixels"),
    (lambda: f.conv2d(X, None), "conv2d", "weight", "None", ""),
    (lambda: f.depthwise_conv2d(X[0], W), "depthwise_conv2d", "x", "(2, 5, 4)", "four dimensions"),
    (lambda: f.depthwise_conv2d(C, W), "depthwise_conv2d", "x", "(2,)", "four dimensions"),
    (lambda: f.depthwise_conv2d(X, W), "depthwise_conv2d", "weight", "(3, 2, 3, 3)", "(2, 1, kh, kw)"),
    (lambda: f.depthwise_conv2d(X, W[0]), "depthwise_conv2d", "weight", "(2, 3, 3)", "(2, 1, kh, kw)"),
    (lambda: f.depthwise_conv2d(X, np.ones((2, 1, 0, 3))), "depthwise_conv2d", "weight", "(2, 1, 0, 3)", "kernel"),
    (lambda: f.depthwise_conv2d(X, D.astype(np.float32)), "depthwise_conv2d", "weight", "float32", "float64"),
    (lambda: f.depthwise_conv2d(X, D, stride=-1), "depthwise_conv2d", "stride", "-1", "at least 1"),
    (lambda: chain(X, D, C, C), "depthwise_chain", "parameters", "3", "4 per layer"),
    (lambda: chain(X, W, C, C, C), "depthwise_chain", "weight", "(3, 2, 3, 3)", "(2, 1, k, k)"),
    (lambda: chain(X, np.ones((2, 1, 2, 2)), C, C, C), "depthwise_chain", "weight", "(2, 1, 2, 2)", "odd"),
    (lambda: chain(X, D, C, np.ones(3), C), "depthwise_chain", "norm bias", "(3,)", "(2,)"),
    (lambda: chain(X, D, C, C, C, statistics=[]), "depthwise_chain", "running", "0", "1"),
    (lambda: chain(X, D, C, C, C, statistics=[(C, np.ones(5))]), "depthwise_chain", "running variance", "(5,)", "(2,)"),
    (lambda: chain(np.ones((0, 2, 4, 4)), D, C, C, C), "depthwise_chain", "x", "(0, 2, 4, 4)", "one value"),
    (lambda: f.depthwise_conv2d(X, np.ones((2, 1, 6, 1))), "depthwise_conv2d", "x", "5x4", "at least 6 pixels"),
    (lambda: f.dilated_conv2d(X, [W, W], [1]), "dilated_conv2d", "dilations", "1 entries", "2, one per weight"),
    (lambda: f.dilated_conv2d(X, [], []), "dilated_conv2d", "dilations", "0 entries", "one per weight"),
    (lambda: f.dilated_conv2d(X, [W[..., :2, :2]], [1]), "dilated_conv2d", "weight", "(3, 2, 2, 2)", "odd k"),
    (lambda: f.dilated_conv2d(X, [W[..., :1]], [1]), "dilated_conv2d", "weight", "(3, 2, 3, 1)", "(O, 2, k, k)"),
    (lambda: f.dilated_conv2d(X, [W, W[..., :1, :1]], [1, 2]), "dilated_conv2d", "weight", "(3, 2, 1, 1)", "one odd k"),
    (lambda: f.dilated_conv2d(X, [W[:, :1]], [1]), "dilated_conv2d", "weight", "(3, 1, 3, 3)", "(O, 2, k, k)"),
    (lambda: f.dilated_conv2d(X, [W.astype(np.float32)], [1]), "dilated_conv2d", "weight", "float32", "float64"),
    (lambda: f.dilated_conv2d(X, [W], [0]), "dilated_conv2d", "dilations", "0", "at least 1"),
    (lambda: f.dilated_conv2d(X[0], [W], [1]), "dilated_conv2d", "x", "(2, 5, 4)", "four dimensions"),
    (lambda: octave(inputs=[]), "octave_conv2d", "inputs", "no branch with channels", "at least one"),
    (lambda: octave(inputs=[None, EVEN[:, :0]]), "octave_conv2d", "inputs", "no branch with channels", "at least one"),
    (lambda: octave(out_channels=(0, 0)), "octave_conv2d", "out_channels", "(0, 0)", "at least one channel"),
    (lambda: octave(out_channels=()), "octave_conv2d", "out_channels", "()", "at least one channel"),
    (lambda: octave(out_channels=(4, -1)), "octave_conv2d", "out_channels", "-1", "at least 0"),
    (lambda: octave(out_channels=(2.0, 1)), "octave_conv2d", "out_channels", "2.0", "an integer"),
    (lambda: octave(stride=3), "octave_conv2d", "stride", "3", "1 or 2"),
    (lambda: octave(stride=None), "octave_conv2d", "stride", "None", "1 or 2"),
    (lambda: octave(weight=np.ones((3, 4, 2, 2))), "octave_conv2d", "weight", "(3, 4, 2, 2)", "odd k"),
    (lambda: octave(weight=np.ones((3, 4, 3, 1))), "octave_conv2d", "weight", "(3, 4, 3, 1)", "k, k"),
    (lambda: octave(weight=OCT[0]), "octave_conv2d", "weight", "(4, 1, 1)", "(sum O, sum C, k, k)"),
    (lambda: octave(weight=OCT[:2]), "octave_conv2d", "weight", "(2, 4, 1, 1)", "3 output channels"),
    (lambda: octave(weight=OCT[:, :3]), "octave_conv2d", "weight", "(3, 3, 1, 1)", "4 input channels"),
    (lambda: octave(weight=OCT.astype(np.float32)), "octave_conv2d", "inputs[0]", "float64", "float32"),
    (lambda: octave(inputs=[EVEN, EVEN]), "octave_conv2d", "inputs[1]", "(1, 2, 4, 4)", "(1, 2, 2, 2), half the size"),
    (lambda: octave(inputs=[EVEN, HALF[:0]]), "octave_conv2d", "inputs[1]", "(0, 2, 2, 2)", "(1, 2, 2, 2)"),
    (lambda: octave(inputs=[EVEN[0], HALF]), "octave_conv2d", "inputs[0]", "(2, 4, 4)", "four dimensions"),
    (lambda: octave(inputs=[EVEN, HALF[0]]), "octave_conv2d", "inputs[1]", "(2, 2, 2)", "four dimensions"),
    (lambda: octave(inputs=[EVEN, C]), "octave_conv2d", "inputs[1]", "(2,)", "four dimensions"),
    (lambda: octave(inputs=[C, HALF]), "octave_conv2d", "inputs[0]", "(2,)", "four dimensions"),
    (lambda: octave(inputs=[X], weight=OCT[:, :2]), "octave_conv2d", "inputs", "5x4", "a positive multiple of 2"),
    (lambda: octave(inputs=[EVEN[:, :, :0]], weight=OCT[:, :2]), "octave_conv2d", "inputs", "0x4", "positive multiple"),
    (lambda: octave(inputs=[X[:, :, :4], None], weight=OCT[:, :2], out_channels=(1, 1, 1), stride=2), "octave_conv2d",
        "inputs", "4x4", "a positive multiple of 8"),
    (lambda: f.batch_norm(X[0], *NONE, C, C), "batch_norm", "x", "(2, 5, 4)", "four dimensions"),
    (lambda: f.batch_norm(C, *NONE, C, C), "batch_norm", "x", "(2,)", "four dimensions"),
    (lambda: f.batch_norm(X.astype(int), *NONE, C, C), "batch_norm", "x", "int64", "float32 or float64"),
    (lambda: f.batch_norm(X, *NONE, np.ones(3), C), "batch_norm", "weight", "(3,)", "(2,), one entry per channel"),
    (lambda: f.batch_norm(X, *NONE, C, np.ones((2, 1))), "batch_norm", "bias", "(2, 1)", "(2,)"),
    (lambda: f.batch_norm(X, *NONE, C, C.astype(np.float32)), "batch_norm", "bias", "float32", "float64"),
    (lambda: f.batch_norm(SINGLE, *NONE, C, C), "batch_norm", "weight", "float64", "float32"),
    (lambda: f.batch_norm(X, *NONE, None, C), "batch_norm", "weight", "None", ""),
    (lambda: f.batch_norm(X, *NONE, C, None), "batch_norm", "bias", "None", ""),
    (lambda: f.batch_norm_prelu(X, *NONE, C, C, np.ones(1)), "batch_norm", "slope", "(1,)", "(2,)"),
    (lambda: f.batch_norm(X, np.ones(3), C, C, C), "batch_norm", "running_mean", "(3,)", "(2,)"),
    (lambda: f.batch_norm(X, C, np.ones(3), C, C, training=False), "batch_norm", "running_var", "(3,)", "(2,)"),
    (lambda: f.batch_norm(X, None, C, C, C, False), "batch_norm", "running_mean", "None", "running statistics"),
    (lambda: f.batch_norm(X, C, None, C, C, False), "batch_norm", "running_var", "None", "running statistics"),
    (lambda: f.batch_norm(X[:0], *NONE, C, C), "batch_norm", "x", "(0, 2, 5, 4)", "at least one value per channel"),
    (lambda: f.prelu(X[0], C), "prelu", "x", "(2, 5, 4)", "four dimensions"),
    (lambda: f.prelu(C, C), "prelu", "x", "(2,)", "four dimensions"),
    (lambda: f.prelu(X, np.ones(1)), "prelu", "slope", "(1,)", "(2,), one entry per channel"),
    (lambda: f.prelu(X, C.astype(np.float32)), "prelu", "slope", "float32", "float64"),
    (lambda: f.prelu(X, None), "prelu", "slope", "None", ""),
    (lambda: f.upsample_bilinear(X[0], 3), "upsample_bilinear", "x", "(2, 5, 4)", "four dimensions"),
    (lambda: f.upsample_bilinear(X, (3,)), "upsample_bilinear", "size", "(3,)", "(height, width)"),
    (lambda: f.upsample_bilinear(X, (3, 0)), "upsample_bilinear", "size", "0", "at least 1"),
    (lambda: f.upsample_bilinear(X, (3, 2.5)), "upsample_bilinear", "size", "2.5", "an integer"),
    (lambda: f.upsample_bilinear(X, 2.5), "upsample_bilinear", "size", "2.5", "an integer"),
    (lambda: f.upsample_bilinear(X, scale_factor=1.5), "upsample_bilinear", "scale_factor", "1.5", "an integer"),
    (lambda: f.upsample_bilinear(X, scale_factor=0), "upsample_bilinear", "scale_factor", "0", "at least 1"),
    (lambda: f.upsample_bilinear(X[:, :, :0], 3), "upsample_bilinear", "x", "(1, 2, 0, 4)", "at least one pixel"),
    (lambda: f.sigmoid(X.astype(int)), "sigmoid", "x", "int64", "float32 or float64"),
    (lambda: f.sigmoid(X.astype(np.float16)), "sigmoid", "x", "float16", "float32 or float64"),
    (lambda: f.binary_cross_entropy_with_logits(X, C), "binary_cross_entropy_with_logits", "target", "(2,)",
        "(1, 2, 5, 4), the shape of `logits`"),
    (lambda: f.binary_cross_entropy_with_logits(X, SINGLE), "binary_cross_entropy_with_logits", "target", "float32",
        "float64, the dtype of `logits`"),
    (lambda: f.binary_cross_entropy_with_logits(X.astype(int), X), "binary_cross_entropy_with_logits", "logits",
        "int64", "float32 or float64"),
    (lambda: f.binary_cross_entropy_with_logits(X[:0], X[:0]), "binary_cross_entropy_with_logits", "logits",
        "(0, 2, 5, 4)", "at least one element"),
    (lambda: f.binary_cross_entropy_with_logits(X, Tensor(X, requires_grad=True)), "binary_cross_entropy_with_logits",
        "target", "requires a gradient", "constants"),
    (lambda: f.sum(X, axis=4), "sum", "axis", "4", ""),
    (lambda: f.sum(X, axis=(0, -5)), "sum", "axis", "-5", "at least -4"),
    (lambda: f.sum(X, axis=0.5), "sum", "axis", "0.5", "an integer"),
    (lambda: f.mean(X[:0]), "mean", "x", "(0, 2, 5, 4)", "at least one element"),
    (lambda: f.power(X, Tensor(np.ones(()))), "power", "exponent", "Tensor", "a number"),
    (lambda: f.power(X, C), "power", "exponent", "[1. 1.]", "a number"),
    (lambda: f.reshape(X, (3, -1)), "reshape", "shape", "(3, -1)", "40 elements"),
    (lambda: f.reshape(X, (41,)), "reshape", "shape", "(41,)", "40 elements, like (1, 2, 5, 4)"),
    (lambda: f.reshape(X, (-1, -1)), "reshape", "shape", "(-1, -1)", "40 elements"),
    (lambda: f.reshape(X, (-2, -20)), "reshape", "shape", "(-2, -20)", "40 elements"),
    (lambda: f.reshape(X[:0], (-1, 0)), "reshape", "shape", "(-1, 0)", "0 elements"),
]  # fmt: skip
for _name in ("add", "subtract", "multiply", "divide"):
    BAD_CALLS += [
        (lambda op=_name: getattr(f, op)(X, SINGLE), _name, "b", "float32", "float64, the dtype of `a`"),
        (lambda op=_name: getattr(f, op)(X, np.ones((5, 3))), _name, "b", "(5, 3)", "broadcasts with (1, 2, 5, 4)"),
    ]
for _name in ("max_pool2d", "avg_pool2d"):
    BAD_CALLS += [
        (lambda op=_name: getattr(f, op)(X[0], 2), _name, "x", "(2, 5, 4)", "four dimensions"),
        (lambda op=_name: getattr(f, op)(X.astype(int), 2), _name, "x", "int64", "float32 or float64"),
        (lambda op=_name: getattr(f, op)(X, 0), _name, "kernel_size", "0", "at least 1"),
        (lambda op=_name: getattr(f, op)(X, (2, 2)), _name, "kernel_size", "(2, 2)", "an integer"),
        (lambda op=_name: getattr(f, op)(X, 2, 0), _name, "stride", "0", "at least 1"),
        (lambda op=_name: getattr(f, op)(X, 2, 2, -1), _name, "padding", "-1", "at least 0"),
        (lambda op=_name: getattr(f, op)(X, 3, 1, 2), _name, "padding", "2", "at most half of `kernel_size` (=3)"),
        (lambda op=_name: getattr(f, op)(X, 5), _name, "x", "5x4", "at least 5 pixels"),
        (lambda op=_name: getattr(f, op)(X[:, :, :0], 2, 1, 1), _name, "x", "0x4", "pixel"),
    ]


def _label(number):
    _, op, argument, was, _ = BAD_CALLS[number]
    return f"{op}-{argument}-{was}"


@pytest.mark.parametrize("number", range(len(BAD_CALLS)), ids=_label)
def test_errors_name_op_and_argument_and_what_was_expected(number):
    call, op, argument, was, expected = BAD_CALLS[number]
    with pytest.raises((ValueError, TypeError)) as failure:
        call()
    message = str(failure.value)
    head, _, tail = message.partition("; expected ")
    assert head.startswith(f"{op}: `{argument}` ")
    assert was in head[len(f"{op}: `{argument}` ") :]
    assert expected in tail and tail.endswith(".")


def test_upsample_bilinear_needs_one_of_size_and_scale_factor():
    for keywords in ({}, {"size": 3, "scale_factor": 2}):
        with pytest.raises(ValueError, match="upsample_bilinear: give either `size` or `scale_factor`"):
            f.upsample_bilinear(X, **keywords)


@pytest.mark.parametrize("value", ["text", [None], [object()], [1j]])
def test_what_is_not_numbers_is_no_tensor(value):
    with pytest.raises(TypeError, match=r"Tensor: `array` has dtype .*; expected numbers"):
        f.sigmoid(np.array(value))


def test_a_target_may_require_a_gradient_where_none_is_recorded():
    with octsod.no_grad():
        loss = f.binary_cross_entropy_with_logits(X, Tensor(X, requires_grad=True))
    assert math.isfinite(loss.item())
