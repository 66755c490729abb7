"""Every op as the reader of a map whose normalisation is deferred: gradients, sums, single precision."""

import deferred_ops
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from op_checks import MAPS, NONE, SEEDS, chain, check, examples, get, norm_parameters, normals, put

from octsod import Tensor, ops
from octsod import functional as f
from octsod.backend.deferred import ActivationSums, Deferred

# --- deferred maps and who reads them ---------------------------------------------------------------------------------

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
        f.batch_norm_prelu(deferred_ops.conv2d(y, w, moments=True), *NONE, g, b, s), v, padding=1)),
    "two convs, then norm": ([(3, 2, 1, 1), (3, 2, 3, 3), (3,), (3,), (3,)], lambda y, w, v, *p: f.batch_norm_prelu(
        deferred_ops.conv2d(y, w, moments=True) + deferred_ops.conv2d(y, v, padding=1, moments=True), *NONE, *p)),
}  # fmt: skip

# name -> a map of two channels with normalisation deferred, of x (N, 2, H, W) and gamma, beta, slope
SOURCES = {
    "norm": lambda x, *p: f.batch_norm_prelu(x, *NONE, *p),
    "norm without slope": lambda x, g, b, s: f.batch_norm_prelu(x * s.reshape(2, 1, 1), *NONE, g, b, None),
    "conv and norm": lambda x, *p: f.batch_norm_prelu(f.conv2d(x, FIXED), *NONE, *p),
    "conv with moments and norm": lambda x, *p: f.batch_norm_prelu(
        deferred_ops.conv2d(x, FIXED, moments=True), *NONE, *p
    ),
    "norm outside of training": lambda x, *p: f.batch_norm_prelu(x, *map(put, RUNNING), *p, training=False),
    "depthwise chain": lambda x, *p: chain(x, BLUR, *p, BLUR, *p, eps=0.1),
    "prelu": lambda x, g, b, s: ops.PReLU.apply(x * g.reshape(2, 1, 1) + b.reshape(2, 1, 1), s),
    "prelu of a norm": lambda x, g, b, s: ops.PReLU.apply(f.batch_norm_prelu(x, *NONE, g, b, s), s * 0.5 + 0.1),
    "raw with moments": lambda x, g, b, s: deferred_ops.conv2d(
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
        y = f.batch_norm_prelu(deferred_ops.conv2d(x, first, padding=k // 2, moments=moments), *NONE, *p[:3], eps=0.1)
        y = f.batch_norm_prelu(deferred_ops.conv2d(y, second, padding=1, moments=moments), *NONE, *p[3:], eps=0.1)
        return f.conv2d(y, last)

    check(fn, x, first, second, last, *parameters)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_octave_norm_octave(k, stride):
    """Two multi-scale layers with a norm per branch; the second one has a single output, as at CSNet's end."""
    fine, coarse, first, second = normals(3, (2, 2, 8, 16), (2, 1, 4, 8), (6, 3, k, k), (2, 6, k, k))
    parameters = [p for i, n in enumerate((3, 2, 1)) for p in norm_parameters(i, n)]

    def fn(fine, coarse, first, second, *p):
        maps = deferred_ops.octave_conv2d([fine, coarse], first, (3, 2, 1), stride, moments=True)
        maps = [f.batch_norm_prelu(y, *NONE, *p[3 * i : 3 * i + 3]) for i, y in enumerate(maps)]
        return several(f.octave_conv2d(maps, second, (2,)), maps[1])

    check(fn, fine, coarse, first, second, *parameters)


def test_a_map_and_its_raw_map_are_both_read():
    x, weight, last = normals(0, (2, 2, 4, 5), (3, 2, 3, 3), (1, 3, 1, 1))
    parameters = norm_parameters(1, 3)
    for moments in (False, True):

        def fn(x, weight, last, *p, moments=moments):
            raw = deferred_ops.conv2d(x, weight, padding=1, moments=moments)
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
    assert not isinstance(f.batch_norm(x, *NONE, gamma, gamma).data, Deferred)
    assert not isinstance(f.prelu(x, gamma).data, Deferred)
    assert not isinstance(f.materialize(f.batch_norm_prelu(x, *NONE, gamma, gamma, gamma)).data, Deferred)


@pytest.mark.parametrize("source", ["norm", "norm without slope", "conv with moments and norm"])
@pytest.mark.parametrize("reader", [r for r in READERS if "outputs" not in r])
def test_the_first_reader_sums_the_activation(reader, source, monkeypatch):
    sums = ActivationSums(SMALL[2] * SMALL[3])
    monkeypatch.setattr(f, "batch_norm_prelu", lambda *a: deferred_ops.batch_norm_prelu(*a, activation_sums=sums))
    x, gamma, beta, slope = (Tensor(a) for a in (*normals(5, SMALL), *norm_of_two(5)))
    y = SOURCES[source](x, gamma, beta, slope)
    monkeypatch.undo()
    assert sums.values is None
    weights, read = READERS[reader]
    read(y, *(Tensor(a) for a in normals(6, *weights)))
    expected = y.numpy().sum(axis=(2, 3))
    assert np.allclose(get(sums.values), expected, rtol=1e-10, atol=1e-10)
    read(y, *(Tensor(a) for a in normals(6, *weights)))
    assert np.allclose(get(sums.values), expected, rtol=1e-10, atol=1e-10)  # and nobody else


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
        got = [y.numpy() for y in outputs] + [get(t.grad) for t in tensors]
        assert all(a is None or a.dtype == dtype for a in got)
        results.append(got)
    for single, double in zip(*results, strict=True):
        assert (single is None) == (double is None)
        if single is not None and single.size:
            assert np.abs(single - double).max() <= 2e-5 * max(1, np.abs(double).max())
