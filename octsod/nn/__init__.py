"""Modules: layers with parameters, running statistics and names."""

from .layers import (
    WEIGHT_SCALE,
    Conv2d,
    Dropout,
    GlobalAveragePool,
    Linear,
    NormAct,
    ReLU,
    ScaledLayer,
    uniform_weight,
)
from .module import Module, Parameter
from .octave import DepthwiseLayer, DilatedLayer, ILBlock, OctaveLayer, VanillaBlock, depthwise_chain

__all__ = [
    "WEIGHT_SCALE",
    "Conv2d",
    "DepthwiseLayer",
    "DilatedLayer",
    "Dropout",
    "GlobalAveragePool",
    "ILBlock",
    "Linear",
    "Module",
    "NormAct",
    "OctaveLayer",
    "Parameter",
    "ReLU",
    "ScaledLayer",
    "VanillaBlock",
    "depthwise_chain",
    "uniform_weight",
]
