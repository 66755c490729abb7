"""The ops: for each, its forward, its backward and its cost side by side. Kernels do the work (octsod.backend)."""

from .arithmetic import Add, Divide, Multiply, Power, Reshape, Subtract, Sum
from .classification import CrossEntropy, LogSoftmax, Max
from .convolution import Conv2d, DepthwiseConv2d, DilatedConv2d
from .cost import Cost
from .depthwise_chain import DepthwiseChain
from .dropout import Dropout
from .loss import BinaryCrossEntropyWithLogits, OverlapLoss, Sigmoid
from .normalization import BatchNormPReLU, Materialize, PReLU
from .octave import OctaveConv2d
from .operators import To
from .pointwise import Exp, Log, ReLU, Sqrt
from .products import Linear, Matmul
from .resampling import AvgPool2d, GlobalAveragePool, MaxPool2d, UpsampleBilinear
from .shapes import Concatenate, Slice, Transpose

__all__ = [
    "Add",
    "AvgPool2d",
    "BatchNormPReLU",
    "BinaryCrossEntropyWithLogits",
    "Concatenate",
    "Conv2d",
    "Cost",
    "CrossEntropy",
    "DepthwiseChain",
    "DepthwiseConv2d",
    "DilatedConv2d",
    "Divide",
    "Dropout",
    "Exp",
    "GlobalAveragePool",
    "Linear",
    "Log",
    "LogSoftmax",
    "Materialize",
    "Matmul",
    "Max",
    "MaxPool2d",
    "Multiply",
    "OctaveConv2d",
    "OverlapLoss",
    "PReLU",
    "Power",
    "ReLU",
    "Reshape",
    "Sigmoid",
    "Slice",
    "Sqrt",
    "Subtract",
    "Sum",
    "To",
    "Transpose",
    "UpsampleBilinear",
]
