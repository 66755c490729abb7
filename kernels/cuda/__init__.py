"""The kernels in CUDA C: what runs them is CuPy on a GPU, or the simulator of `octsod.testing.cusim` on a processor.

Each module launches the kernels of the .cu file of its name. common.cu, reading.cu, maps.cu, dense.cu, tiles.cu and
many.cu hold what these share.
"""

from .arrays import concatenate, copy, fill, gather, strided_slice, strided_slice_backward, transpose
from .convolution import conv2d, conv2d_backward, dilated_conv2d, dilated_conv2d_backward
from .depthwise import depthwise_chain, depthwise_chain_backward, depthwise_conv2d, depthwise_conv2d_backward
from .elementwise import (
    add,
    divide,
    dropout,
    exp,
    log,
    multiply,
    power,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    sqrt,
    subtract,
)
from .network import csnet
from .normalization import (
    activate,
    batch_norm,
    batch_norm_backward,
    channel_moments,
    differentiate,
    gradient_sums,
    prelu_backward,
    prelu_coefficients,
)
from .octave import octave_conv2d, octave_conv2d_backward
from .optimization import adam, average, clip_gradients, count_step, decay_scales, record_step, restore_if_halted, sgd
from .pictures import prepare_pictures
from .products import matmul
from .reductions import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_backward,
    cross_entropy,
    cross_entropy_backward,
    log_softmax,
    log_softmax_backward,
    max_middle,
    max_middle_backward,
    overlap_loss,
    overlap_loss_backward,
    sum_middle,
)
from .resampling import (
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
    upsample_bilinear,
    upsample_bilinear_backward,
)

__all__ = [
    "activate", "adam", "add", "average", "avg_pool2d", "avg_pool2d_backward", "batch_norm", "batch_norm_backward",
    "binary_cross_entropy_with_logits", "binary_cross_entropy_with_logits_backward", "channel_moments",
    "clip_gradients", "concatenate", "conv2d", "conv2d_backward", "copy", "count_step", "cross_entropy",
    "cross_entropy_backward", "csnet", "decay_scales", "depthwise_chain", "depthwise_chain_backward",
    "depthwise_conv2d", "depthwise_conv2d_backward", "differentiate", "dilated_conv2d", "dilated_conv2d_backward",
    "divide", "dropout", "exp", "fill", "gather", "gradient_sums", "log", "log_softmax", "log_softmax_backward",
    "matmul", "max_middle", "max_middle_backward", "max_pool2d", "max_pool2d_backward", "multiply", "octave_conv2d",
    "octave_conv2d_backward", "overlap_loss", "overlap_loss_backward", "power", "prelu_backward", "prelu_coefficients",
    "prepare_pictures", "record_step", "relu", "relu_backward", "restore_if_halted", "sgd", "sigmoid",
    "sigmoid_backward", "sqrt", "strided_slice", "strided_slice_backward", "subtract", "sum_middle", "transpose",
    "upsample_bilinear", "upsample_bilinear_backward",
]  # fmt: skip

CACHED: frozenset[str] = frozenset()  # see octsod/backend/contract.py: maps go through global memory between kernels
IN_PLACE = False  # other blocks may still have to read what one writes over
