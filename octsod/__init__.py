"""octsod: train and run CSNet, salient object detection with 100K parameters, without a deep-learning framework."""

import os as _os

from .lazy import loading as _loading

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
