"""octsod: train and run CSNet, salient object detection with 100K parameters, without a deep-learning framework."""

import os as _os

_here = _os.path.dirname(__file__)
if not _os.path.isdir(_os.path.join(_here, "kernels")):  # a bare checkout, where kernels/ lies beside octsod/
    __path__.append(_os.path.dirname(_here))

__version__ = "0.1.0"

# Names are loaded on first use: `octsod --help` shall not wait for Numba.
_NAMES = {
    "Tensor": "tensor",
    "no_grad": "autograd",
    "is_grad_enabled": "autograd",
    "manual_seed": "random",
    "use_backend": "backend",
    "csnet": "models",
    "CSNet": "models",
    "Configuration": "models",
    "load": "weights",
    "save": "weights",
    "complexity": "complexity",
    "Complexity": "complexity",
    "gradcheck": "gradient_check",
    "predict": "prediction",
    "evaluate": "evaluation",
    "export_onnx": "interop.onnx_export",
    "get_num_threads": "kernels.cpu.parallel",
    "set_num_threads": "kernels.cpu.parallel",
}
_MODULES = (
    "autograd",
    "data",
    "distributions",
    "errors",
    "evaluation",
    "figures",
    "functional",
    "history",
    "images",
    "interop",
    "memory",
    "metrics",
    "models",
    "nn",
    "ops",
    "optim",
    "pictures",
    "prediction",
    "prune",
    "random",
    "runs",
    "sheets",
    "synthetic",
    "tensor",
    "training",
)

__all__ = [*_NAMES, *_MODULES, "__version__"]


def __getattr__(name):
    import importlib

    if name in _NAMES:
        value = getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
        globals()[name] = value  # also where a module bears the name of its function
        return value
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
