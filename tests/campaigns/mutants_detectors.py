"""Which tests have to catch a bug, by the file that it is in: those that cover the file, the quickest first."""

import fnmatch
import pathlib
from typing import NamedTuple


class Stage(NamedTuple):
    """Test files (or tests) for one run of pytest, which ends with the first that fails; and on what they run."""

    tests: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        settings = " ".join(f"{name}={value}" for name, value in self.environment)
        return f"{settings} {' '.join(self.tests)}".strip()


def _cpu(*tests, examples=None):
    environment = (("OCTSOD_TEST_EXAMPLES", str(examples)),) if examples else ()
    return Stage(tuple(f"test_{name}.py" for name in tests), environment)


def _simulated(*tests, examples=2):
    environment = ("OCTSOD_TEST_KERNELS", "cuda"), ("OCTSOD_TEST_EXAMPLES", str(examples))
    return Stage(tuple(f"test_{name}.py" for name in tests), environment)


def _device(*tests, mode="check"):
    """Ops and training steps on the device whose kernels the simulator runs."""
    environment = (
        ("OCTSOD_TEST_BACKEND", "simulated"), ("OCTSOD_TEST_EXAMPLES", "2"), ("OCTSOD_CUSIM_MODE", mode),
    )  # fmt: skip
    return Stage(tuple(f"test_{name}.py" for name in tests), environment)


def _stand_in(*tests):
    """On the stand-in for CuPy, which captures launches and replays them, and whose memory is not NumPy's."""
    environment = ("OCTSOD_TEST_BACKEND", "cuda"), ("OCTSOD_TEST_CUPY", "fake"), ("OCTSOD_TEST_EXAMPLES", "2")
    return Stage(tuple(f"test_{name}.py" for name in tests), environment)


def _kernels(*tests, further=()):
    """A kernel's contract on a few problems, then on all, then the ops that use it."""
    names = tuple(f"kernels_{name}" for name in tests)
    return [_cpu(*names, examples=8), _cpu(*names), *([_cpu(*further)] if further else [])]


def _cuda(*tests, further=(), more=()):
    """The same for kernels of CUDA."""
    names = tuple(f"kernels_{name}" for name in tests)
    return [
        _simulated(*names), *([_simulated(*more)] if more else []), _simulated(*names, examples=12),
        *([_device(*further)] if further else []),
    ]  # fmt: skip


CONVOLUTIONS = _kernels(
    "convolution", "numerics", further=("ops_convolution", "ops_deferred", "ops_normalization", "in_place", "steps")
)
INFERENCE = [
    _cpu("kernels_network", "inference", examples=8), _cpu("steps", "kernels_network", "inference", "prediction")
]  # fmt: skip
EVERYTHING = [
    _cpu("kernels_elementwise", "kernels_resampling", "kernels_convolution", "kernels_normalization", examples=8),
    _cpu("kernels_numerics", "subnormals", "steps", "threads", "kernels_network", "inference"),
    _cpu("kernels_convolution", "kernels_arrays", "kernels_optimization", "kernels_classification", "kernels_pictures"),
]
GRAPH = [_cpu("graph_functions", "graph_backward", "graph_deferred", "graph_no_grad", "graph_memory", "in_place"),
         _cpu("ops_errors", "arrays", "devices", "ops_deferred", "gradcheck", "gradcheck_kinks",
              "gradcheck_calls")]  # fmt: skip
KIT = Stage(("test_check_op.py::test_our_ops_pass",))  # what users check their ops with
TRAFFIC = Stage(("test_cuda_resources.py::test_the_table_has_the_traffic_that_is_counted",))
CONVOLUTION_OPS = [
    _cpu("cost", "ops_errors", "ops_convolution", examples=20), _cpu("ops_convolution", "ops_deferred"), KIT
]  # fmt: skip
NORMALIZATION_OPS = [_cpu("cost", "ops_normalization", "ops_deferred", "in_place", "ops_errors"), KIT]

# The first pattern that fits a file counts.
TABLE: list[tuple[str, list[Stage]]] = [
    # Ops.
    ("octsod/ops/arithmetic.py", [_cpu("ops_arithmetic", "cost", "ops_errors"), KIT]),
    ("octsod/ops/operators.py", [_cpu("cost", "ops_arithmetic", "ops_pointwise", "ops_errors"), KIT]),
    ("octsod/ops/classification.py", [_cpu("ops_classification", "cost", "ops_errors", "classification"), KIT]),
    ("octsod/ops/convolution.py", CONVOLUTION_OPS),
    ("octsod/ops/octave.py", CONVOLUTION_OPS),
    ("octsod/ops/cost.py", [_cpu("cost"), KIT]),
    ("octsod/ops/depthwise_chain.py", NORMALIZATION_OPS),
    ("octsod/ops/normalization.py", NORMALIZATION_OPS),
    ("octsod/ops/dropout.py", [_cpu("cost", "ops_classification", "ops_pointwise", "layers", "ops_errors"), KIT]),
    ("octsod/ops/loss.py", [_cpu("cost", "ops_arithmetic", "ops_errors", "tasks"), KIT]),
    ("octsod/ops/pointwise.py", [_cpu("cost", "ops_pointwise", "ops_errors"), KIT]),
    ("octsod/ops/products.py", [_cpu("cost", "ops_products", "ops_errors"), KIT]),
    ("octsod/ops/resampling.py", [_cpu("cost", "ops_resampling", "ops_errors"), KIT]),
    ("octsod/ops/shapes.py", [_cpu("cost", "ops_shapes", "ops_errors"), KIT]),
    # The graph, and what works on it.
    ("octsod/autograd/*.py", GRAPH),
    ("octsod/backend/deferred.py", [_cpu("graph_deferred", "ops_deferred", "ops_normalization", "in_place", "optim")]),
    ("octsod/optim/*.py", [
        _cpu("optim", "optimizers", "flat_buffers", "averaging"), _cpu("training", "device_steps"),
    ]),
    ("octsod/nn/*.py", [
        _cpu("nn", "layers", "freezing", "network_arrays"), _cpu("ops_deferred", "inference", "golden"),
    ]),
    # Kernels for processors.
    ("kernels/cpu/elementwise.py", _kernels(
        "elementwise", "arrays", "numerics", further=("ops_pointwise", "ops_arithmetic", "ops_shapes", "ops_products"),
    )),
    ("kernels/cpu/classification.py", _kernels("classification", "elementwise", further=("ops_classification",))),
    ("kernels/cpu/optimization.py", _kernels("optimization", further=("optim", "averaging", "device_steps"))),
    ("kernels/cpu/normalization.py", _kernels(
        "normalization", "numerics", further=("ops_normalization", "ops_deferred"),
    )),
    ("kernels/cpu/resampling.py", _kernels("resampling", "pictures", further=("ops_resampling", "images"))),
    ("kernels/cpu/matrices.py", _kernels("elementwise", "arrays", further=("ops_products",))),
    ("kernels/cpu/products.py", [_cpu("kernels_convolution", "steps", examples=8), *CONVOLUTIONS, *INFERENCE]),
    ("kernels/cpu/scales.py", [_cpu("steps", "kernels_convolution", examples=8), *CONVOLUTIONS, *INFERENCE]),
    ("kernels/cpu/inference_steps.py", [_cpu("steps", "kernels_network", examples=8), *INFERENCE]),
    ("kernels/cpu/network.py", INFERENCE),
    ("kernels/cpu/plan.py", INFERENCE),
    ("kernels/cpu/drafts.py", INFERENCE),
    ("kernels/cpu/interpreter.py", [*CONVOLUTIONS[:1], *INFERENCE]),
    ("kernels/cpu/regions.py", [*CONVOLUTIONS[:1], *INFERENCE]),
    ("kernels/cpu/tiles.py", [*CONVOLUTIONS[:2], *INFERENCE]),
    ("kernels/cpu/operations.py", [*CONVOLUTIONS[:2], *INFERENCE]),
    ("kernels/cpu/chain.py", CONVOLUTIONS),
    ("kernels/cpu/convolution.py", CONVOLUTIONS),
    ("kernels/cpu/dense.py", CONVOLUTIONS),
    ("kernels/cpu/depthwise.py", CONVOLUTIONS),
    ("kernels/cpu/octave.py", CONVOLUTIONS),
    ("kernels/cpu/programs.py", [*CONVOLUTIONS, *INFERENCE]),
    ("kernels/cpu/steps.py", CONVOLUTIONS),
    ("kernels/cpu/barrier.py", [*INFERENCE[:1], _cpu("interruptions"), *EVERYTHING]),
    ("kernels/cpu/parallel.py", [*EVERYTHING[:1], _cpu("interruptions"), *EVERYTHING[1:]]),
    ("kernels/cpu/timed.py", [_cpu("profile_predictions")]),
    ("kernels/cpu/clock.py", [_cpu("profile_predictions")]),
    ("kernels/cpu/*.py", EVERYTHING),
    # The reference, which all others are compared with.
    ("kernels/reference/arrays.py", _kernels("arrays", further=("ops_shapes",))),
    ("kernels/reference/classification.py", _kernels("classification", further=("ops_classification",))),
    ("kernels/reference/convolution.py", CONVOLUTIONS[:2]),
    ("kernels/reference/elementwise.py", _kernels("elementwise", "arrays", "classification")),
    ("kernels/reference/network.py", [_cpu("kernels_network", examples=8), _cpu("kernels_network", "inference")]),
    ("kernels/reference/normalization.py", _kernels("normalization", "convolution", "numerics")),
    ("kernels/reference/optimization.py", _kernels("optimization", further=("optimizers", "averaging"))),
    ("kernels/reference/pictures.py", _kernels("pictures")),
    ("kernels/reference/products.py", _kernels("elementwise", "arrays", further=("ops_products",))),
    ("kernels/reference/*.py", _kernels("resampling", "convolution", "pictures", further=("ops_resampling",))),
    # Kernels for GPUs, on the simulator.
    ("kernels/cuda/arrays.*", _cuda("arrays", further=("ops_shapes",), more=("cuda_launches", "cuda_grids"))),
    ("kernels/cuda/elementwise.*", _cuda(
        "elementwise", "numerics", further=("ops_pointwise", "ops_arithmetic"), more=("cuda_grids",),
    )),
    ("kernels/cuda/products.*", _cuda("elementwise", "arrays", further=("ops_products",))),
    ("kernels/cuda/reductions.*", _cuda("elementwise", "classification", "arrays", further=("ops_pointwise",))),
    ("kernels/cuda/many.cu", _cuda("optimization", "arrays")),
    ("kernels/cuda/optimization.*", _cuda("optimization", more=("cuda_grids",))),
    ("kernels/cuda/pictures.*", _cuda("pictures", more=("device_loader",))),
    ("kernels/cuda/resampling.*", _cuda("resampling", further=("ops_resampling",), more=("cuda_grids",))),
    ("kernels/cuda/normalization.*", _cuda("normalization", "numerics")),
    ("kernels/cuda/network.py", [*_cuda("network"), _stand_in("kernels_network"), _simulated("cuda")]),
    ("kernels/cuda/depthwise*", _cuda("convolution", more=("cuda_launches", "cuda_depthwise", "kernels_network"))),
    ("kernels/cuda/common.cu", _cuda("elementwise", "classification", "normalization", "optimization", "convolution")),
    ("kernels/cuda/launch.py", [
        *_cuda("elementwise", "arrays", "optimization", more=("cuda_launches", "cuda_grids", "gpu")),
        _stand_in("device_steps"),
    ]),
    ("kernels/cuda/*", [
        *_cuda("convolution", "normalization", "network", "numerics", more=("cuda_depthwise",)), TRAFFIC,
    ]),
]  # fmt: skip

# What seeds no bugs of ops and kernels: how kernels are compiled, kept and found.
NO_KERNELS = {"__init__.py", "cache.py", "cache_folder.py", "compile.py", "driver.py", "fingerprints.py", "hooks.py",
              "peak.py"}  # fmt: skip
SOURCES = ("octsod/ops/*.py", "octsod/autograd/graph.py", "octsod/autograd/tensor.py", "octsod/backend/deferred.py",
           "octsod/optim/*.py", "octsod/nn/layers.py", "octsod/nn/octave.py", "kernels/cpu/*.py",
           "kernels/reference/*.py", "kernels/cuda/*.py", "kernels/cuda/*.cu")  # fmt: skip
# Tests of other things, which take long: they are not asked.
UNRELATED = ("test_bench", "test_campaigns", "test_charts", "test_cli", "test_cusim", "test_doctor", "test_doors",
             "test_forks", "test_hostile", "test_interruptions", "test_kernel_cache", "test_kernel_fingerprints",
             "test_package", "test_pickles", "test_plot", "test_readme", "test_warmup")  # fmt: skip
CHUNK = 6  # files of further tests in one run


def sources(root: pathlib.Path) -> list[str]:
    """The files that bugs are seeded in."""
    found = {path for pattern in SOURCES for path in root.glob(pattern) if path.name not in NO_KERNELS}
    return sorted(path.relative_to(root).as_posix() for path in found)


def is_related(name: str) -> bool:
    """Whether a file of tests may have to do with ops and kernels."""
    return not name.startswith(UNRELATED)


def detectors(file: str) -> list[Stage]:
    """The runs that should catch a bug in a file, in their order."""
    return next(stages for pattern, stages in TABLE if fnmatch.fnmatch(file, pattern))


def further(root: pathlib.Path, file: str) -> list[Stage]:
    """All other tests that may catch it, in chunks."""
    asked = {test for stage in detectors(file) for test in stage.tests if not stage.environment}
    names = sorted(path.name for path in (root / "tests").glob("test_*.py"))
    names = [name for name in names if name not in asked and is_related(name)]
    first = []
    if file.startswith("kernels/cuda"):
        names = [name for name in names if "cuda" in name or name in ("test_gpu.py", "test_rehearsal.py")]
        first = [_device("ops_deferred", "device_steps")]
    return first + [Stage(tuple(names[k : k + CHUNK])) for k in range(0, len(names), CHUNK)]
