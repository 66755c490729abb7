"""octsod: train and run CSNet, salient object detection with 100K parameters, without a deep-learning framework."""

import os as _os
from typing import TYPE_CHECKING as _CHECKING

from .lazy import loading as _loading

if _CHECKING:  # what `_NAMES` and `_MODULES` load on first use, for editors, type checkers and the reference
    from . import autograd as autograd
    from . import backend as backend
    from . import data as data
    from . import errors as errors
    from . import evaluation as evaluation
    from . import functional as functional
    from . import inference as inference
    from . import interop as interop
    from . import models as models
    from . import nn as nn
    from . import ops as ops
    from . import optim as optim
    from . import pictures as pictures
    from . import profiling as profiling
    from . import prune as prune
    from . import random as random
    from . import studies as studies
    from . import testing as testing
    from . import training as training
    from .autograd import Tensor as Tensor
    from .autograd import is_grad_enabled as is_grad_enabled
    from .autograd import no_grad as no_grad
    from .autograd import tensor as tensor
    from .backend import memory as memory
    from .backend import use_backend as use_backend
    from .data import images as images
    from .data import synthetic as synthetic
    from .evaluation import evaluate as evaluate
    from .evaluation import metrics as metrics
    from .inference import prediction as prediction
    from .inference.prediction import predict as predict
    from .interop.onnx_export import export_onnx as export_onnx
    from .models import Configuration as Configuration
    from .models import CSNet as CSNet
    from .models import csnet as csnet
    from .models import load as load
    from .models import save as save
    from .pictures import contact_sheets as sheets  # noqa: F401
    from .profiling.recording import profile as profile
    from .prune import Complexity as Complexity
    from .prune import complexity as complexity
    from .prune import scales as distributions  # noqa: F401
    from .random import manual_seed as manual_seed
    from .studies import figures as figures
    from .studies import history as history
    from .testing import gradcheck as gradcheck
    from .threads import get_num_threads as get_num_threads
    from .threads import set_num_threads as set_num_threads
    from .training import runs as runs

_here = _os.path.dirname(__file__)
if not _os.path.isdir(_os.path.join(_here, "kernels")):  # a bare checkout, where kernels/ lies beside octsod/
    __path__.append(_os.path.dirname(_here))

__version__ = "0.1.0"

# Names are loaded on first use: `octsod --help` should not wait for Numba.
_NAMES = {
    "Tensor": "functional",  # importing this also loads every op on tensors
    "no_grad": "autograd",
    "is_grad_enabled": "autograd",
    "manual_seed": "random",
    "use_backend": "backend",
    "csnet": "models",
    "CSNet": "models",
    "Configuration": "models",
    "load": "models",
    "save": "models",
    "complexity": "prune",
    "Complexity": "prune",
    "gradcheck": "testing",
    "predict": "inference.prediction",
    "evaluate": "evaluation",
    "export_onnx": "interop.onnx_export",
    "profile": "profiling.recording",
    "get_num_threads": "threads",
    "set_num_threads": "threads",
}
_ROOMS = (
    "autograd",
    "backend",
    "data",
    "errors",
    "evaluation",
    "functional",
    "inference",
    "interop",
    "models",
    "nn",
    "ops",
    "optim",
    "pictures",
    "profiling",
    "prune",
    "random",
    "studies",
    "testing",
    "training",
)
# Modules used so often that they also have a short name.
_MODULES = {
    "distributions": "prune.scales",
    "figures": "studies.figures",
    "history": "studies.history",
    "images": "data.images",
    "memory": "backend.memory",
    "metrics": "evaluation.metrics",
    "prediction": "inference.prediction",
    "runs": "training.runs",
    "sheets": "pictures.contact_sheets",
    "synthetic": "data.synthetic",
    "tensor": "autograd.tensor",
    **{name: name for name in _ROOMS},
}

__all__ = [*_NAMES, *_MODULES, "__version__"]


__getattr__ = _loading(__name__, _NAMES, _MODULES)


def __dir__():
    return sorted({*globals(), *__all__})
