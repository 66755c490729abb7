"""The ops: for each, its forward, its backward and its cost side by side. Kernels do the work (octsod.backend)."""

from .arithmetic import Add, Divide, Multiply, Power, Reshape, Subtract, Sum
from .convolution import Conv2d, DepthwiseConv2d, DilatedConv2d
from .cost import Cost
from .depthwise_chain import DepthwiseChain
from .loss import BinaryCrossEntropyWithLogits, Sigmoid
from .normalization import BatchNormPReLU, Materialize, PReLU
from .octave import OctaveConv2d
from .operators import To
from .resampling import AvgPool2d, MaxPool2d, UpsampleBilinear

__all__ = [
    "Add",
    "AvgPool2d",
    "BatchNormPReLU",
    "BinaryCrossEntropyWithLogits",
    "Conv2d",
    "Cost",
    "DepthwiseChain",
    "DepthwiseConv2d",
    "DilatedConv2d",
    "Divide",
    "Materialize",
    "MaxPool2d",
    "Multiply",
    "OctaveConv2d",
    "PReLU",
    "Power",
    "Reshape",
    "Sigmoid",
    "Subtract",
    "Sum",
    "To",
    "UpsampleBilinear",
]
