"""The ops as functions of tensors. Maps are NCHW, weights OIHW, dtypes float32 or float64."""

from . import ops
from .autograd import Tensor
from .checks import require_integer


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1):
    """Dense 2-D convolution (cross-correlation) with zero padding.

    x (N, C, H, W), weight (O, C, kh, kw), bias (O,) -> (N, O, H', W') with
    H' = (H + 2*padding - dilation*(kh - 1) - 1)//stride + 1. Raises ValueError if shapes or dtypes do not fit.
    """
    return ops.Conv2d.apply(x, weight, bias, stride=stride, padding=padding, dilation=dilation)


def depthwise_conv2d(x, weight, stride=1, padding=0, dilation=1):
    """Each channel with a kernel of its own: x (N, C, H, W), weight (C, 1, kh, kw) -> (N, C, H', W')."""
    return ops.DepthwiseConv2d.apply(x, weight, stride=stride, padding=padding, dilation=dilation)


def depthwise_chain(
    x, layers, running, training=True, momentum=0.1, eps=1e-5, weight_scale=1.0
):
    """Depthwise convolution, batch norm and PReLU, once per layer, deferred: x (N, C, H, W) -> the same shape.

    layers: (weight (C, 1, k, k), norm weight, norm bias, slope (C,)) of each; running: (mean, variance) arrays (C,) of
    each, updated in training. weight_scale: a factor on all convolution weights. Equal to the single ops in turn, but
    a channel's planes stay in the cache from the first layer to the last.
    """
    return ops.DepthwiseChain.apply(
        x, *(parameter for layer in layers for parameter in layer),
        running=[tuple(_array(value) for value in pair) for pair in running], training=training, momentum=momentum,
        eps=eps, weight_scale=weight_scale,
    )  # fmt: skip


def dilated_conv2d(x, weights, dilations):
    """Parallel dilated convolutions, concatenated: x (N, C, H, W), weights[i] (O_i, C, k, k) -> (N, sum O_i, H, W).

    Each is padded to keep the size; k is odd; a weight may have no output channels.
    """
    return ops.DilatedConv2d.apply(x, *weights, dilations=tuple(dilations))


def octave_conv2d(inputs, weight, out_channels, stride=1):
    """gOctConv (paper, section 3.1): branches (N, C_i, H/2**i, W/2**i), None for one without channels -> branches.

    weight (sum(out_channels), sum C_i, k, k) with an odd k, padded to keep the size; stride 1, or 2 to average every
    input 2x2 first. Output j has out_channels[j] channels and half the size of output j - 1, and is None for zero.
    Finer inputs are max-pooled before, coarser ones bilinearly upsampled after their convolution.
    """
    out_channels = tuple(out_channels)
    return list(ops.OctaveConv2d.apply(weight, *inputs, out_channels=out_channels, stride=stride))


def batch_norm(x, running_mean, running_var, weight, bias, training=True, momentum=0.1, eps=1e-5):
    """Batch norm per channel, computed. In training, running_mean and running_var (arrays (C,), or None) take in the
    share `momentum` of the batch's mean and unbiased variance, in place; otherwise they are what x is normalised by."""
    normed = batch_norm_prelu(x, running_mean, running_var, weight, bias, None, training, momentum, eps)
    return materialize(normed)


def prelu(x, slope):
    """`x if x > 0 else slope*x` per channel, computed: x (N, C, H, W), slope (C,)."""
    return materialize(ops.PReLU.apply(x, slope))


def batch_norm_prelu(
    x, running_mean, running_var, weight, bias, slope, training=True, momentum=0.1, eps=1e-5
):
    """Batch norm and PReLU (none where slope is None), deferred: the result is applied by whoever reads it."""
    return ops.BatchNormPReLU.apply(
        x, weight, bias, slope, running_mean=_array(running_mean), running_var=_array(running_var), training=training,
        momentum=momentum, eps=eps,
    )  # fmt: skip


def materialize(x):
    """The map computed, if it is deferred."""
    return ops.Materialize.apply(x)


def _array(value):
    return value.data if isinstance(value, Tensor) else value


def max_pool2d(x, kernel_size, stride=None, padding=0):
    """The largest of each window: (N, C, H, W) -> (N, C, H', W'); stride defaults to the kernel size."""
    return ops.MaxPool2d.apply(x, kernel_size=kernel_size, stride=stride, padding=padding)


def avg_pool2d(x, kernel_size, stride=None, padding=0):
    """The mean of each window, zero padding counted."""
    return ops.AvgPool2d.apply(x, kernel_size=kernel_size, stride=stride, padding=padding)


def upsample_bilinear(x, size=None, scale_factor=None):
    """Resized to `size` (height, width) or by an integer `scale_factor`; half-pixel centres, replicated border."""
    if (size is None) == (scale_factor is None):
        raise ValueError("upsample_bilinear: give either `size` or `scale_factor`.")
    if size is None:
        factor = require_integer(scale_factor, "upsample_bilinear", "scale_factor", 1)
        size = tuple(n * factor for n in x.shape[2:])
    return ops.UpsampleBilinear.apply(x, size=tuple(size) if isinstance(size, (tuple, list)) else (size, size))


def sigmoid(x):
    """`1 / (1 + exp(-x))`."""
    return ops.Sigmoid.apply(x)


def binary_cross_entropy_with_logits(logits, target):
    """The mean over all elements of the cross-entropy between sigmoid(logits) and target, of the same shape."""
    return ops.BinaryCrossEntropyWithLogits.apply(logits, target)


def add(a, b):
    """a + b, broadcast."""
    return _tensor(a) + b


def subtract(a, b):
    """a - b, broadcast."""
    return _tensor(a) - b


def multiply(a, b):
    """a * b, broadcast."""
    return _tensor(a) * b


def divide(a, b):
    """a / b, broadcast."""
    return _tensor(a) / b


def power(a, exponent):
    """a ** exponent, a number."""
    return _tensor(a) ** exponent


def sum(x, axis=None, keepdims=False):
    """Added up over `axis` (all by default)."""
    return _tensor(x).sum(axis, keepdims)


def mean(x, axis=None, keepdims=False):
    """The mean over `axis` (all by default)."""
    return _tensor(x).mean(axis, keepdims)


def reshape(x, shape):
    """The same elements in another shape."""
    return _tensor(x).reshape(shape)


def _tensor(value):
    return value if isinstance(value, Tensor) else Tensor(value)
