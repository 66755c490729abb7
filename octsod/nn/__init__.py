"""Modules: layers with parameters, running statistics and names."""

from .layers import WEIGHT_SCALE, Conv2d, NormAct, uniform_weight
from .module import Module, Parameter
from .octave import DepthwiseLayer, DilatedLayer, ILBlock, OctaveLayer, depthwise_chain

__all__ = [
    "WEIGHT_SCALE",
    "Conv2d",
    "DepthwiseLayer",
    "DilatedLayer",
    "ILBlock",
    "Module",
    "NormAct",
    "OctaveLayer",
    "Parameter",
    "depthwise_chain",
    "uniform_weight",
]
