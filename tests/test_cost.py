"""Costs against numbers worked out by hand."""

import inspect

import pytest

from octsod import ops, optim
from octsod.autograd import Function
from octsod.ops import Cost


def test_every_op_has_a_cost():
    for name in ops.__all__:
        op = getattr(ops, name)
        if inspect.isclass(op) and issubclass(op, Function):
            parameters = inspect.signature(op.cost).parameters
            assert parameters["itemsize"].default == 4 and parameters["backward"].default is False, name


def test_convolutions():
    # 2 pictures, 4 outputs of 5x3 pixels (stride 2), 27 multiply-adds each; x, weight, bias and output once.
    assert ops.Conv2d.cost((2, 3, 9, 5), (4, 3, 3, 3), (4,), stride=2, padding=1) == Cost(
        2 * 2 * 4 * 15 * 27 + 2 * 4 * 15, 4 * (2 * 3 * 45 + 4 * 27 + 4 + 2 * 4 * 15)
    )
    forward = ops.DepthwiseConv2d.cost((1, 3, 8, 8), (3, 1, 3, 3), padding=1)
    assert forward == Cost(2 * 3 * 64 * 9, 4 * (192 + 27 + 192))
    backward = ops.DepthwiseConv2d.cost((1, 3, 8, 8), (3, 1, 3, 3), padding=1, backward=True)
    assert backward.flops == 2 * forward.flops and backward.bytes == 4 * (4 * 192 + 2 * 27)
    assert ops.DilatedConv2d.cost((1, 3, 8, 8), (2, 3, 3, 3), (1, 3, 3, 3)).flops == 2 * 3 * 64 * 27


def test_depthwise_chain():
    # Two layers: their arithmetic, but x and the two raw maps are all of the maps that cross to memory.
    layer = ops.DepthwiseConv2d.cost((1, 3, 8, 8), (3, 1, 3, 3), padding=1)
    norm = ops.BatchNormPReLU.cost((1, 3, 8, 8))
    chain = ops.DepthwiseChain.cost((1, 3, 8, 8), (3, 1, 3, 3), 2)
    assert chain == Cost(2 * (layer.flops + norm.flops), 4 * (3 * 192 + 2 * 27) + 2 * norm.bytes)
    assert ops.DepthwiseChain.cost((1, 3, 8, 8), (3, 1, 3, 3), 2, backward=True).bytes < 2 * 4 * 5 * 192


@pytest.mark.parametrize("backward", [False, True])
def test_a_chain_that_keeps_nothing_in_a_cache_costs_what_its_layers_cost(backward):
    x, weight = (2, 3, 8, 6), (3, 1, 5, 5)
    layer = ops.DepthwiseConv2d.cost(x, weight, padding=2, itemsize=8, backward=backward)
    layer += ops.BatchNormPReLU.cost(x, itemsize=8, backward=backward)
    chain = ops.DepthwiseChain.cost(x, weight, 3, 8, backward, cached=False)
    assert chain == layer + layer + layer
    assert ops.DepthwiseChain.cost(x, weight, 3, 8, backward).bytes < chain.bytes
    if not backward:
        assert ops.DepthwiseChain.cost(x, weight, 1, 8) == ops.DepthwiseChain.cost(x, weight, 1, 8, cached=False)


def test_octave_convolution():
    # 3 + 2 channels at 8x8 and 4x4 to 1 + 4: products at both sizes, 3 channels max-pooled, 1 upsampled.
    cost = ops.OctaveConv2d.cost((5, 5, 1, 1), (1, 3, 8, 8), (1, 2, 4, 4), out_channels=(1, 4))
    products = 2 * (64 * 3 * 1 + 16 * (3 * 4 + 2 * 1 + 2 * 4))
    assert cost == Cost(products + 3 * 64 + 8 * 64 * 1, 4 * (64 + 4 * 16 + 3 * 64 + 2 * 16 + 25))
    assert ops.OctaveConv2d.cost((2, 3, 1, 1), (1, 3, 8, 8), out_channels=(2, 0), stride=2).flops == 192 + 2 * 16 * 6
    # Backward of an image's convolution: only the weight's gradient, for which the image is read, is computed.
    arguments = {"out_channels": (2,), "backward": True}
    whole = ops.OctaveConv2d.cost((2, 3, 1, 1), (1, 3, 8, 8), **arguments)
    assert whole == Cost(2 * 2 * 64 * 6, 4 * (2 * 128 + 2 * 192 + 2 * 6))
    assert ops.OctaveConv2d.cost((2, 3, 1, 1), (1, 3, 8, 8), **arguments, grad_inputs=False) == Cost(
        2 * 64 * 6, 4 * (2 * 128 + 192 + 2 * 6)
    )


def test_products_of_matrices():
    # 5 pairs, each 2x3 by 3x4, which the leading axis of b is too short for.
    assert ops.Matmul.cost((5, 2, 3), (1, 3, 4)) == Cost(2 * 5 * 2 * 3 * 4, 4 * (30 + 12 + 40))
    backward = ops.Matmul.cost((5, 2, 3), (1, 3, 4), 8, backward=True)
    assert backward == Cost(2 * 2 * 5 * 2 * 3 * 4, 8 * (2 * 30 + 2 * 12 + 40))
    assert ops.Matmul.cost((3,), (3, 4)) == Cost(2 * 3 * 4, 4 * (3 + 12 + 4))
    assert ops.Linear.cost((6, 3), (4, 3), (4,)) == Cost(2 * 6 * 3 * 4 + 24, 4 * (18 + 12 + 4 + 24))
    assert ops.Linear.cost((6, 3), (4, 3)) == Cost(2 * 6 * 3 * 4, 4 * (18 + 12 + 24))
    assert ops.Linear.cost((6, 3), (4, 3), (4,), backward=True) == Cost(4 * 6 * 3 * 4 + 24, 4 * (36 + 24 + 4 + 24))


@pytest.mark.parametrize("backward", [False, True])
def test_what_passes_over_memory_once(backward):
    for op in (ops.Exp, ops.Log, ops.Sqrt, ops.ReLU):
        assert op.cost((2, 3), 8, backward) == Cost(6 * (1 + backward), 8 * 6 * (2 + backward))
    for op in (ops.Add, ops.Subtract, ops.Multiply, ops.Divide):
        assert op.cost((2, 3), (3,), 8, backward) == Cost(6 * (1 + backward), 8 * (6 + 3 + 6))
    assert ops.Power.cost((2, 3), 8, backward) == Cost(18 if backward else 6, 8 * 6 * (2 + backward))
    assert ops.Sum.cost((2, 3), 8, backward) == Cost(0 if backward else 6, 8 * 6)
    assert ops.Reshape.cost((2, 3), 8, backward) == Cost(0, 0)
    assert ops.To.cost((2, 3), 8, backward) == Cost(0, 8 * 12)
    for op, flops in ((ops.Sigmoid, 4), (ops.BinaryCrossEntropyWithLogits, 7), (ops.OverlapLoss, 8)):
        assert op.cost((2, 3), 8, backward) == Cost(6 * flops, 8 * 6 * (2 + backward))
    assert ops.Dropout.cost((2, 3), 8, backward) == Cost(6, 8 * 12)
    assert ops.Transpose.cost((2, 3), 8, backward) == Cost(0, 8 * 12)
    assert ops.Slice.cost((2, 3), (2,), 8, backward) == Cost(0, 8 * (2 + 6 if backward else 2 + 2))
    assert ops.Concatenate.cost([(2, 3), (1, 3)], 8, backward) == Cost(0, 8 * 2 * 9)
    assert ops.Max.cost((2, 3), (2,), 8, backward) == Cost(6, 8 * (6 + 2 + 6 * backward))
    assert ops.LogSoftmax.cost((2, 3), 8, backward) == Cost(6 * (5 - backward), 8 * 6 * (2 + backward))
    assert ops.CrossEntropy.cost((2, 3), 4, backward) == Cost(6 * (4 + 2 * backward), 4 * 6 * (1 + backward) + 16)
    assert ops.GlobalAveragePool.cost((2, 3, 4, 5), 8, backward) == Cost(6 if backward else 126, 8 * 126)


@pytest.mark.parametrize("backward", [False, True])
def test_resampling(backward):
    # 2x2 pixels make one of 2 * 3 * 2 * 3; then bilinear, one makes 2x2.
    assert ops.MaxPool2d.cost((2, 3, 4, 6), (2, 3, 2, 3), 2, 8, backward) == Cost(
        36 * 4, 8 * (144 * (1 + backward) + 36)
    )
    assert ops.AvgPool2d.cost((2, 3, 4, 6), (2, 3, 2, 3), 2, 8, backward) == Cost(36 * 4, 8 * (144 + 36))
    assert ops.UpsampleBilinear.cost((2, 3, 2, 3), (2, 3, 4, 6), 8, backward) == Cost(8 * 144, 8 * (36 + 144))


@pytest.mark.parametrize("backward", [False, True])
def test_work_per_channel(backward):
    norm = ops.BatchNormPReLU.cost((2, 3, 4, 4), (2, 5, 2, 2), itemsize=8, backward=backward)
    assert norm == Cost(8 * (20 if backward else 5), 8 * 16 * (6 if backward else 3))
    assert ops.PReLU.cost((2, 3, 4, 4), 8, backward) == Cost(3, 8 * 4 * 3)
    assert ops.Materialize.cost((2, 3, 4, 4), 8, backward) == (Cost(0, 0) if backward else Cost(4 * 96, 8 * 2 * 96))


def test_adam():
    assert optim.Adam.cost((5, 3)) == Cost(16 * 15, 4 * 7 * 15)


def test_costs_add_up():
    assert ops.Add.cost((2, 3), (3,)) + ops.Materialize.cost((1, 3, 4, 4)) == Cost(6 + 192, 4 * (6 + 3 + 6) + 384)
