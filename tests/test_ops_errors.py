"""Calls that ops refuse: errors that name op and argument, and say what was expected."""

import math

import numpy as np
import pytest
from op_checks import NONE, chain

import octsod
from octsod import Tensor
from octsod import functional as f

X, W, D = np.ones((1, 2, 5, 4)), np.ones((3, 2, 3, 3)), np.ones((2, 1, 3, 3))
SINGLE = np.ones((1, 2, 5, 4), np.float32)
C = np.ones(2)
LABELS = np.zeros(5, np.int64)
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
    (lambda: f.conv2d(X.astype(np.float16), W), "Tensor", "array", "float16", "numbers: float32, float64"),
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
    (lambda: chain(X), "depthwise_chain", "parameters", "0", "4 per layer"),
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
    (lambda: f.sigmoid(X.astype(np.float16)), "Tensor", "array", "float16", "numbers: float32, float64"),
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
    (lambda: f.iou_loss(X, C), "iou_loss", "target", "(2,)", "(1, 2, 5, 4), the shape of `logits`"),
    (lambda: f.iou_loss(X.astype(int), X), "iou_loss", "logits", "int64", "float32 or float64"),
    (lambda: f.dice_loss(X, SINGLE), "dice_loss", "target", "float32", "float64, the dtype of `logits`"),
    (lambda: f.dice_loss(X[:0], X[:0]), "dice_loss", "logits", "(0, 2, 5, 4)", "at least one picture"),
    (lambda: f.dice_loss(1.0, 1.0), "dice_loss", "logits", "()", "at least one picture"),
    (lambda: f.max(X, axis=4), "max", "axis", "4", "less than 4"),
    (lambda: f.max(X, axis=(0, -5)), "max", "axis", "-5", "at least -4"),
    (lambda: f.max(X, axis="0"), "max", "axis", "'0'", "an integer"),
    (lambda: f.max(X[:0]), "max", "x", "(0, 2, 5, 4)", "at least one element"),
    (lambda: f.max(X[:0], axis=0), "max", "x", "(0, 2, 5, 4)", "at least one element along axis 0"),
    (lambda: f.max(X.astype(int)), "max", "x", "int64", "float32 or float64"),
    (lambda: f.log_softmax(X, axis=4), "log_softmax", "axis", "4", "less than 4"),
    (lambda: f.log_softmax(X, axis=None), "log_softmax", "axis", "None", "an integer"),
    (lambda: f.log_softmax(1.0), "log_softmax", "x", "()", "at least one dimension"),
    (lambda: f.log_softmax(X.astype(int)), "log_softmax", "x", "int64", "float32 or float64"),
    (lambda: f.cross_entropy(X, LABELS), "cross_entropy", "logits", "(1, 2, 5, 4)", "two dimensions (N, K)"),
    (lambda: f.cross_entropy(X[0, 0, :0], LABELS[:0]), "cross_entropy", "logits", "(0, 4)", "at least 1"),
    (lambda: f.cross_entropy(X[0, 0], LABELS[:2]), "cross_entropy", "labels", "(2,)", "int64 (5,)"),
    (lambda: f.cross_entropy(X[0, 0], LABELS.astype(np.int32)), "cross_entropy", "labels", "int32", "int64 (5,)"),
    (lambda: f.cross_entropy(X[0, 0], LABELS * 1.0), "cross_entropy", "labels", "float64", "int64 (5,)"),
    (lambda: f.cross_entropy(X[0, 0], LABELS, 1.5), "cross_entropy", "label_smoothing", "1.5", "from 0 to 1"),
    (lambda: f.matmul(X, W), "matmul", "b", "(3, 2, 3, 3)", "4 rows, as many as `a`, of shape (1, 2, 5, 4), has"),
    (lambda: f.matmul(X, np.ones((3, 4, 2))), "matmul", "b", "(3, 4, 2)", "with those of `a`, of shape (1, 2, 5, 4)"),
    (lambda: f.matmul(X, 2.0), "matmul", "b", "()", "at least one dimension"),
    (lambda: f.matmul(X, np.ones(4, np.float32)), "matmul", "b", "float32", "float64, the dtype of `a`"),
    (lambda: f.matmul(X.astype(int), X), "matmul", "a", "int64", "float32 or float64"),
    (lambda: f.linear(X, C), "linear", "x", "(1, 2, 5, 4)", "two dimensions (N, I)"),
    (lambda: f.linear(X[0, 0], np.ones((2, 3))), "linear", "weight", "(2, 3)", "(O, 4)"),
    (lambda: f.linear(X[0, 0], None), "linear", "weight", "None", ""),
    (lambda: f.linear(X[0, 0], SINGLE[0, 0]), "linear", "weight", "float32", "float64, the dtype of `x`"),
    (lambda: f.linear(X[0, 0], X[0, 0], C), "linear", "bias", "(2,)", "(5,)"),
    (lambda: f.dropout(X, 1), "dropout", "p", "1", "at least 0 and less than 1"),
    (lambda: f.dropout(X, -0.1, training=False), "dropout", "p", "-0.1", "at least 0"),
    (lambda: f.dropout(X, "0.5"), "dropout", "p", "'0.5'", "a number"),
    (lambda: f.dropout(X.astype(int)), "dropout", "x", "int64", "float32 or float64"),
    (lambda: f.global_average_pool(X[0]), "global_average_pool", "x", "(2, 5, 4)", "four dimensions"),
    (lambda: f.global_average_pool(X[..., :0]), "global_average_pool", "x", "(1, 2, 5, 0)", "at least one pixel"),
    (lambda: f.transpose(X, (0, 1, 2)), "transpose", "axes", "(0, 1, 2)", "each of 4 axes once"),
    (lambda: f.transpose(X, (0, 1, 2, -2)), "transpose", "axes", "(0, 1, 2, -2)", "each of 4 axes once"),
    (lambda: f.transpose(X, (0, 1, 2, 0.5)), "transpose", "axes", "0.5", "an integer"),
    (lambda: f.concatenate([]), "concatenate", "tensors", "empty", "at least one tensor"),
    (lambda: f.concatenate([1.0]), "concatenate", "tensors", "()", "at least one dimension"),
    (lambda: f.concatenate([X, SINGLE]), "concatenate", "tensors", "float32", "float64, the dtype of `tensors[0]`"),
    (lambda: f.concatenate([X, W]), "concatenate", "tensors", "(3, 2, 3, 3)", "(1, 2, 5, 4) but for axis 0"),
    (lambda: f.concatenate([X, C]), "concatenate", "tensors", "(2,)", "(1, 2, 5, 4) but for axis 0"),
    (lambda: f.concatenate([X], axis=4), "concatenate", "axis", "4", "less than 4"),
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
for _name in ("exp", "log", "sqrt", "relu"):
    BAD_CALLS.append((lambda op=_name: getattr(f, op)(X.astype(int)), _name, "x", "int64", "float32 or float64"))
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
