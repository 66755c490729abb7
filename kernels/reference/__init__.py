"""The kernels in plain NumPy: what they compute, written for reading and not for speed.

octsod/backend/contract.py says in words what each kernel does; here is the same in code. Any kernel, and the whole
model, can be swapped for its oracle (`octsod.use_backend("reference")`). All arithmetic is in float64; results are
rounded once, when they are written.
"""

from .arrays import copy, fill, gather
from .convolution import (
    conv2d,
    conv2d_backward,
    depthwise_chain,
    depthwise_chain_backward,
    depthwise_conv2d,
    depthwise_conv2d_backward,
    dilated_conv2d,
    dilated_conv2d_backward,
    octave_conv2d,
    octave_conv2d_backward,
)
from .elementwise import (
    add,
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_backward,
    divide,
    multiply,
    power,
    sigmoid,
    sigmoid_backward,
    subtract,
    sum_middle,
)
from .network import csnet
from .normalization import (
    activate,
    batch_norm_backward,
    batch_norm_coefficients,
    batch_statistics,
    channel_moments,
    differentiate,
    gradient_sums,
    prelu_backward,
    prelu_coefficients,
)
from .optimization import adam, count_step, decay_scales, record_step, restore_if_halted
from .resampling import (
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
    resize_picture,
    upsample_bilinear,
    upsample_bilinear_backward,
)

__all__ = [
    "activate",
    "adam",
    "add",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm_backward",
    "batch_norm_coefficients",
    "batch_statistics",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_backward",
    "channel_moments",
    "conv2d",
    "conv2d_backward",
    "copy",
    "count_step",
    "csnet",
    "decay_scales",
    "depthwise_chain",
    "depthwise_chain_backward",
    "depthwise_conv2d",
    "depthwise_conv2d_backward",
    "differentiate",
    "dilated_conv2d",
    "dilated_conv2d_backward",
    "divide",
    "fill",
    "gather",
    "gradient_sums",
    "max_pool2d",
    "max_pool2d_backward",
    "multiply",
    "octave_conv2d",
    "octave_conv2d_backward",
    "power",
    "prelu_backward",
    "prelu_coefficients",
    "record_step",
    "resize_picture",
    "restore_if_halted",
    "sigmoid",
    "sigmoid_backward",
    "subtract",
    "sum_middle",
    "upsample_bilinear",
    "upsample_bilinear_backward",
]

CACHED: frozenset[str] = frozenset()  # see octsod/backend/contract.py
