"""The ops as functions of tensors. Maps are NCHW, weights OIHW, dtypes float32 or float64.

Where a tensor is expected, anything that `Tensor` takes will do. Functions raise ValueError if shapes, dtypes or
devices do not fit, TypeError if an argument is of the wrong kind.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from numpy.typing import ArrayLike

from . import ops, random
from .autograd import Tensor
from .backend import device_of, is_array
from .backend.arrays import FLOATS
from .checks import described, require, require_integer, require_share

TensorLike = Tensor | ArrayLike


def conv2d(
    x: TensorLike, weight: TensorLike, bias: TensorLike | None = None, stride: int = 1, padding: int = 0,
    dilation: int = 1,
) -> Tensor:  # fmt: skip
    """Dense 2-D convolution (cross-correlation) with zero padding.

    x (N, C, H, W), weight (O, C, kh, kw), bias (O,) -> (N, O, H', W') with
    H' = (H + 2*padding - dilation*(kh - 1) - 1)//stride + 1, and W' likewise.
    """
    return ops.Conv2d.apply(x, weight, bias, stride=stride, padding=padding, dilation=dilation)


def depthwise_conv2d(
    x: TensorLike, weight: TensorLike, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """Each channel with its own kernel: x (N, C, H, W), weight (C, 1, kh, kw) -> (N, C, H', W').

    Sizes are as in `conv2d`.
    """
    return ops.DepthwiseConv2d.apply(x, weight, stride=stride, padding=padding, dilation=dilation)


def depthwise_chain(
    x: TensorLike, layers: Iterable[Sequence[TensorLike]], running: Iterable[tuple[TensorLike, TensorLike]],
    training: bool = True, momentum: float = 0.1, eps: float = 1e-5, weight_scale: float = 1.0,
) -> Tensor:  # fmt: skip
    """Depthwise convolution, batch norm and PReLU, once per layer, deferred: x (N, C, H, W) -> the same shape.

    layers: (weight (C, 1, k, k), norm weight, norm bias, slope (C,)) of each; running: (mean, variance) arrays (C,) of
    each, updated in training. weight_scale: a factor on all convolution weights. The result is that of the single ops
    in turn; on a CPU, a channel's planes stay in the cache from the first layer to the last.
    """
    (y,) = ops.DepthwiseChain.apply(
        x, *(parameter for layer in layers for parameter in layer),
        running=[[_statistics("depthwise_chain", x, *pair, training) for pair in running]], training=training,
        momentum=momentum, eps=eps, weight_scale=weight_scale,
    )  # fmt: skip
    return y


def dilated_conv2d(x: TensorLike, weights: Sequence[TensorLike], dilations: Iterable[int]) -> Tensor:
    """Parallel dilated convolutions, concatenated: x (N, C, H, W), weights[i] (O_i, C, k, k) -> (N, sum O_i, H, W).

    Each is padded to keep the size; k is odd; a weight may have no output channels.
    """
    return ops.DilatedConv2d.apply(x, *weights, dilations=tuple(dilations))


def octave_conv2d(
    inputs: Iterable[TensorLike | None], weight: TensorLike, out_channels: Iterable[int], stride: int = 1
) -> list[Tensor | None]:
    """gOctConv (paper, section 3.1): branches (N, C_i, H/2**i, W/2**i), None for one without channels -> branches.

    weight (sum(out_channels), sum C_i, k, k) with an odd k, padded to keep the size; stride 1, or 2 to average every
    input 2x2 first. Output j has out_channels[j] channels and half the size of output j - 1, and is None for zero.
    Finer inputs are max-pooled before, coarser ones bilinearly upsampled after their convolution.
    """
    out_channels = tuple(out_channels)
    return list(ops.OctaveConv2d.apply(weight, *inputs, out_channels=out_channels, stride=stride))


def batch_norm(
    x: TensorLike, running_mean: Any, running_var: Any, weight: TensorLike, bias: TensorLike, training: bool = True,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Batch norm per channel, computed: x (N, C, H, W), weight and bias (C,) -> the same shape.

    running_mean, running_var: arrays or tensors (C,) of float32 or float64. In training they are updated in place, by
    the share `momentum` of the batch's mean and unbiased variance, so arrays must be contiguous and writable; they may
    be None there. Otherwise x is normalised by them.
    """
    normed = batch_norm_prelu(x, running_mean, running_var, weight, bias, None, training, momentum, eps)
    return materialize(normed)


def prelu(x: TensorLike, slope: TensorLike) -> Tensor:
    """`x if x > 0 else slope*x` per channel, computed: x (N, C, H, W), slope (C,)."""
    return materialize(ops.PReLU.apply(x, slope))


def batch_norm_prelu(
    x: TensorLike, running_mean: Any, running_var: Any, weight: TensorLike, bias: TensorLike,
    slope: TensorLike | None, training: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """`batch_norm`, then `prelu` unless slope is None, deferred: whoever reads the result applies them."""
    running_mean, running_var = _statistics("batch_norm", x, running_mean, running_var, training)
    (y,) = ops.BatchNormPReLU.apply(
        x, weight, bias, slope, running=[(running_mean, running_var)], training=[training], momentum=[momentum],
        eps=[eps], activation_sums=[None],
    )  # fmt: skip
    return y


def materialize(x: TensorLike) -> Tensor:
    """x with its values computed, if they are deferred."""
    return ops.Materialize.apply(x)


def _statistics(op, x, mean, variance, training):
    """Running statistics as arrays of floats on the device of x. In training they are written in place, so no copies
    of them will do."""
    device, found = _tensor(x).device, []
    for name, value in (("running_mean", mean), ("running_var", variance)):
        value = value.data if isinstance(value, Tensor) else value
        if value is not None:
            require(is_array(value) and value.dtype in FLOATS, op, name, described(value), "an array of floats (C,)")
            require(device_of(value) is device, op, name, f"is on {device_of(value).name}", f"{device.name}, like `x`")
            given, value = value, device.adopt(value, f"{op}: `{name}`")
            fits = value is given or not training
            require(fits, op, name, "would be updated in a copy", "a contiguous and writable array")
        found.append(value)
    return tuple(found)


def max_pool2d(x: TensorLike, kernel_size: int, stride: int | None = None, padding: int = 0) -> Tensor:
    """The largest of each square window: (N, C, H, W) -> (N, C, H', W').

    H' = (H + 2*padding - kernel_size)//stride + 1, and W' likewise; stride defaults to kernel_size.
    """
    return ops.MaxPool2d.apply(x, kernel_size=kernel_size, stride=stride, padding=padding)


def avg_pool2d(x: TensorLike, kernel_size: int, stride: int | None = None, padding: int = 0) -> Tensor:
    """The mean of each square window; zero padding counts. Sizes as in `max_pool2d`."""
    return ops.AvgPool2d.apply(x, kernel_size=kernel_size, stride=stride, padding=padding)


def global_average_pool(x: TensorLike) -> Tensor:
    """The mean of each plane: (N, C, H, W) -> (N, C)."""
    return ops.GlobalAveragePool.apply(x)


def upsample_bilinear(
    x: TensorLike, size: int | Sequence[int] | None = None, scale_factor: int | None = None
) -> Tensor:
    """x (N, C, H, W) resized to `size`, (height, width) or one number for both, or by an integer `scale_factor`.

    Half-pixel centres, replicated border, no anti-aliasing.
    """
    if (size is None) == (scale_factor is None):
        raise ValueError("upsample_bilinear: give either `size` or `scale_factor`.")
    if size is None:
        factor, x = require_integer(scale_factor, "upsample_bilinear", "scale_factor", 1), _tensor(x)
        size = tuple(n * factor for n in x.shape[2:])
    return ops.UpsampleBilinear.apply(x, size=tuple(size) if isinstance(size, (tuple, list)) else (size, size))


def sigmoid(x: TensorLike) -> Tensor:
    """`1 / (1 + exp(-x))`, any shape."""
    return ops.Sigmoid.apply(x)


def binary_cross_entropy_with_logits(logits: TensorLike, target: TensorLike) -> Tensor:
    """The mean over all elements of the cross-entropy, in nats, between sigmoid(logits) and target, of one shape.

    target: probabilities in [0, 1], without a gradient. Returns a tensor of shape ().
    """
    return ops.BinaryCrossEntropyWithLogits.apply(logits, target)


def iou_loss(logits: TensorLike, target: TensorLike) -> Tensor:
    """The soft Jaccard loss (Rahman and Wang 2016), averaged over pictures.

    logits and target (N, ...), of one shape; target: probabilities in [0, 1], without a gradient. With
    p = sigmoid(logits), t the target and sums over all axes but the first, the loss of a picture is
    `1 - (sum(p*t) + 1) / (sum(p) + sum(t) - sum(p*t) + 1)`. Returns a tensor of shape ().
    """
    return ops.OverlapLoss.apply(logits, target, region="iou")


def dice_loss(logits: TensorLike, target: TensorLike) -> Tensor:
    """The soft Dice loss (Milletari et al. 2016, here with sums in place of sums of squares), averaged over pictures.

    As `iou_loss`, with `1 - (2*sum(p*t) + 1) / (sum(p) + sum(t) + 1)` for a picture.
    """
    return ops.OverlapLoss.apply(logits, target, region="dice")


def log_softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """`x - log(sum(exp(x)))` with the sum along `axis`: logarithms of probabilities, without overflow."""
    return ops.LogSoftmax.apply(x, axis=axis)


def cross_entropy(logits: TensorLike, labels: TensorLike, label_smoothing: float = 0.0) -> Tensor:
    """The mean over rows of the cross-entropy, in nats, between softmax(logits) (N, K) and labels (N,) int64.

    label_smoothing: the share, from 0 to 1, of the target that is spread evenly over all K classes (Szegedy et al.
    2016). Raises ValueError for labels outside of [0, K) on a host; elsewhere that would mean waiting for the device,
    and they make the loss NaN. Returns a tensor of shape ().
    """
    return ops.CrossEntropy.apply(logits, labels, label_smoothing=label_smoothing)


def exp(x: TensorLike) -> Tensor:
    """e ** x, any shape."""
    return _tensor(x).exp()


def log(x: TensorLike) -> Tensor:
    """The natural logarithm of x, any shape."""
    return _tensor(x).log()


def sqrt(x: TensorLike) -> Tensor:
    """The square root of x, any shape."""
    return _tensor(x).sqrt()


def relu(x: TensorLike) -> Tensor:
    """x where it is positive, else 0, any shape. The gradient at 0 is 0."""
    return ops.ReLU.apply(x)


def dropout(x: TensorLike, p: float = 0.5, training: bool = True) -> Tensor:
    """In training, x with each element set to 0 with probability p, in [0, 1), and the others divided by 1 - p; else x.

    Each call draws a seed from `octsod.random` (see `random.stream`). Which elements are dropped is a function of the
    seed alone, the same on every backend (Srivastava et al. 2014).
    """
    p = require_share(p, "dropout", "p")
    return ops.Dropout.apply(x, p=p, seed=random.draw_seed()) if training and p > 0 else _tensor(x)


def linear(x: TensorLike, weight: TensorLike, bias: TensorLike | None = None) -> Tensor:
    """x @ weight.T + bias: x (N, I), weight (O, I), bias (O,) -> (N, O)."""
    return ops.Linear.apply(x, weight, bias)


def matmul(a: TensorLike, b: TensorLike) -> Tensor:
    """a @ b, as NumPy has it: matrices in the last two axes, leading axes broadcast; vectors are rows of a and columns
    of b, and the result lacks their axis."""
    return _tensor(a) @ b


def add(a: TensorLike, b: TensorLike) -> Tensor:
    """a + b, broadcast."""
    return _tensor(a) + b


def subtract(a: TensorLike, b: TensorLike) -> Tensor:
    """a - b, broadcast."""
    return _tensor(a) - b


def multiply(a: TensorLike, b: TensorLike) -> Tensor:
    """a * b, broadcast."""
    return _tensor(a) * b


def divide(a: TensorLike, b: TensorLike) -> Tensor:
    """a / b, broadcast."""
    return _tensor(a) / b


def power(a: TensorLike, exponent: float) -> Tensor:
    """a ** exponent, a number."""
    return _tensor(a) ** exponent


def sum(x: TensorLike, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """x added up over `axis`, by default over all. With keepdims, those axes stay, with length 1."""
    return _tensor(x).sum(axis, keepdims)


def max(x: TensorLike, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """The largest elements of x over `axis`, by default over all; a NaN wins. With keepdims, those axes stay, with
    length 1. Of equal ones, the first in C order gets the gradient."""
    return _tensor(x).max(axis, keepdims)


def mean(x: TensorLike, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """The mean of x over `axis`, by default over all. With keepdims, those axes stay, with length 1."""
    return _tensor(x).mean(axis, keepdims)


def reshape(x: TensorLike, shape: int | Sequence[int]) -> Tensor:
    """The same elements in another shape; one length may be -1."""
    return _tensor(x).reshape(shape)


def transpose(x: TensorLike, axes: Sequence[int] | None = None) -> Tensor:
    """x with its axes in another order: axis i of the result is axis axes[i] of x. Reversed if `axes` is None."""
    return ops.Transpose.apply(x, axes=axes)


def concatenate(tensors: Iterable[TensorLike], axis: int = 0) -> Tensor:
    """Tensors side by side along `axis`; all their other lengths agree."""
    return ops.Concatenate.apply(*tensors, axis=axis)


def _tensor(value: TensorLike) -> Tensor:
    return value if isinstance(value, Tensor) else Tensor(value)
