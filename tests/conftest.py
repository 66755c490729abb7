"""Profiles of Hypothesis: the same examples every time in CI (CI=true), fresh ones elsewhere. Common fixtures."""

import contextlib
import os
import re

import pytest
from hypothesis import settings

pytest_plugins = ["octsod.testing.cusim.plugin"]

# Their assertions, too, tell what was compared.
pytest.register_assert_rewrite("kernel_contract", "op_checks", "graph_checks")

EXAMPLES = int(os.environ.get("OCTSOD_TEST_EXAMPLES", "100"))  # few where a backend is slow
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=EXAMPLES)
settings.register_profile("local", deadline=None, max_examples=EXAMPLES)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")


os.environ.setdefault("OCTSOD_DEVICE", "cpu")  # what commands use by default, wherever tests run

BACKEND = os.environ.get("OCTSOD_TEST_BACKEND", "cpu")

# What runs on any device. OCTSOD_TEST_BACKEND=cuda runs all of it on a GPU; other devices run parts of it beside the
# tests of the CPU, see test_devices.py and test_cuda.py.
ON_ANY_DEVICE = re.compile(r"test_(kernels_(?!cache|fingerprints)|ops_(?!errors)|layers|device_steps|golden).*\.py")


def pytest_configure(config):
    """OCTSOD_TEST_CUPY=fake rehearses what OCTSOD_TEST_BACKEND=cuda runs without a GPU, on the stand-in for CuPy. Where
    there is neither, it is said once, not by each test."""
    chosen = os.environ.get("OCTSOD_TEST_CUPY")
    if chosen is not None:
        if (chosen, BACKEND) != ("fake", "cuda"):
            raise pytest.UsageError("OCTSOD_TEST_CUPY must be fake, and OCTSOD_TEST_BACKEND then cuda.")
        import fake_cupy

        stack = contextlib.ExitStack()
        stack.enter_context(fake_cupy.installed(memory=1 << 33))
        config.add_cleanup(stack.close)
    elif BACKEND == "cuda":
        from octsod.backend import gpu

        try:
            gpu.require(0)
        except gpu.DeviceError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_ignore_collect(collection_path):
    """On a GPU, tests of other things than devices are left out."""
    if BACKEND == "cuda" and collection_path.suffix == ".py" and not ON_ANY_DEVICE.fullmatch(collection_path.name):
        return True
    return None


@pytest.fixture(autouse=True)
def backend():
    """Tests run on the backend that OCTSOD_TEST_BACKEND names."""
    import opaque  # noqa: F401 (makes its devices known)

    import octsod

    name = BACKEND
    if name == "simulated":
        import simulated  # noqa: F401 (makes its device known)
    with octsod.use_backend(name):
        yield


@pytest.fixture(autouse=True)
def restored_threads():
    """The number of threads is the whole process's; commands set it, too."""
    import octsod

    before = octsod.get_num_threads()
    yield
    octsod.set_num_threads(before)


@pytest.fixture(scope="module")
def poisoned_scratch():
    """All memory that the library takes for itself is full of NaN, so that reading before writing shows."""
    from octsod.backend import memory

    take = memory.pool.take

    def poisoned(size):
        block = take(size)
        block.fill(0xFF)  # a NaN in float32 and in float64
        return block

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "SMALLEST", memory.ALIGNMENT)
        patch.setattr(memory.pool, "take", poisoned)
        yield


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A weight file of a small network that has seen a few batches of 32x32 pixels."""
    from test_data import Ramp

    import octsod

    octsod.manual_seed(0)
    trainer = octsod.training.Recipe().trainer(octsod.csnet(0.2))
    for epoch in range(20):
        for batch in octsod.data.Loader(Ramp(), 3, 32).epoch(epoch):
            trainer.step(*batch)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    trainer.model.size = 32
    octsod.save(trainer.model, path)
    return path


@pytest.fixture(params=["legacy", "zip"])
def writer(request):
    """A writer of checkpoints, in each of PyTorch's formats."""
    from pickle_writer import Writer

    return Writer(zipped=request.param == "zip")


@pytest.fixture
def load(tmp_path):
    """Reads the bytes of a checkpoint, from a file."""
    from octsod.interop.pickles import read_checkpoint

    def load(data):
        path = tmp_path / "some.pth.tar"
        path.write_bytes(data)
        return read_checkpoint(path)

    return load


@pytest.fixture
def restored():
    """Commands set the number of threads, for this process and for those that it starts."""
    import octsod

    environment, threads = dict(os.environ), octsod.get_num_threads()
    yield
    os.environ.clear()
    os.environ.update(environment)
    octsod.set_num_threads(threads)
