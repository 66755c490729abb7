"""Kernels for CPUs, compiled by Numba.

octsod/backend/contract.py says what each kernel does. The files, in the order of a layer: convolution.py launches the
convolutions. dense.py and octave.py build them as programs (programs.py) of small steps (steps.py, scales.py,
products.py), which interpreter.py executes one after the other; operations.py encodes a step, and regions.py describes
maps to steps. depthwise.py runs plane by plane; chain.py takes one channel through several depthwise layers. network.py
runs the whole network on pictures, for inference, with the same interpreter (drafts.py, plan.py,
inference_steps.py, barrier.py).
normalization.py, resampling.py, elementwise.py, sums.py, matrices.py, classification.py and optimization.py hold the
rest. What is as fast in plain NumPy comes from the reference. bodies.py holds what loops share. tiles.py, simd.py,
vector.py and exponential.py give access to the machine's registers, compile.py to the compiler, parallel.py to the
cores. cache.py keeps what was compiled: cache_folder.py says where, fingerprints.py under which name. hooks.py,
clock.py and timed.py are for the profiler, which alone imports the last two.
"""

from ..reference.arrays import (
    concatenate,
    copy,
    fill,
    gather,
    strided_slice,
    strided_slice_backward,
    transpose,
)
from .chain import depthwise_chain, depthwise_chain_backward
from .classification import (
    cross_entropy,
    cross_entropy_backward,
    log_softmax,
    log_softmax_backward,
    max_middle,
    max_middle_backward,
)
from .convolution import (
    conv2d,
    conv2d_backward,
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
    dropout,
    exp,
    log,
    multiply,
    overlap_loss,
    overlap_loss_backward,
    power,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    sqrt,
    subtract,
)
from .matrices import matmul
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
from .optimization import (
    adam,
    average,
    clip_gradients,
    count_step,
    decay_scales,
    record_step,
    restore_if_halted,
    sgd,
)
from .resampling import (
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
    resize_picture,
    upsample_bilinear,
    upsample_bilinear_backward,
)
from .sums import sum_middle

__all__ = [
    "activate",
    "adam",
    "add",
    "average",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_backward",
    "channel_moments",
    "clip_gradients",
    "concatenate",
    "conv2d",
    "conv2d_backward",
    "copy",
    "count_step",
    "cross_entropy",
    "cross_entropy_backward",
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
    "dropout",
    "exp",
    "fill",
    "gather",
    "gradient_sums",
    "log",
    "log_softmax",
    "log_softmax_backward",
    "matmul",
    "max_middle",
    "max_middle_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "multiply",
    "octave_conv2d",
    "octave_conv2d_backward",
    "overlap_loss",
    "overlap_loss_backward",
    "power",
    "prelu_backward",
    "prelu_coefficients",
    "record_step",
    "relu",
    "relu_backward",
    "resize_picture",
    "restore_if_halted",
    "sgd",
    "sigmoid",
    "sigmoid_backward",
    "sqrt",
    "strided_slice",
    "strided_slice_backward",
    "subtract",
    "sum_middle",
    "transpose",
    "upsample_bilinear",
    "upsample_bilinear_backward",
]

# Kernels that keep the maps between layers in the cache: see octsod/backend/contract.py.
CACHED = frozenset({"depthwise_chain", "depthwise_chain_backward"})
IN_PLACE = True
