"""Convolutions: gradients, and one op against another."""

import deferred_ops
import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from op_checks import BATCHES, CHANNELS, SEEDS, SIDES, check, examples, normals

from octsod import Tensor
from octsod import functional as f

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
    check(lambda *a: deferred_ops.conv2d(*a, **keywords, moments=moments), *inputs)


@examples(30)
@given(convolutions(depthwise=True), st.booleans())
@example(((0, 2, 3, 4), (2, 1, 3, 3), False, {"padding": 1}, 0), False)
@example(((1, 0, 3, 4), (0, 1, 3, 3), False, {"padding": 1}, 0), True)
def test_depthwise_conv2d(case, moments):
    x, weight, _, keywords, seed = case
    check(lambda *a: deferred_ops.depthwise_conv2d(*a, **keywords, moments=moments), *normals(seed, x, weight))


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
    check(lambda x, *w: deferred_ops.dilated_conv2d(x, w, dilations, moments=moments), *normals(seed, x, *weights))


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
    check(lambda w, *x: deferred_ops.octave_conv2d(x, w, outs, stride, moments=moments), weight, *inputs)


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
