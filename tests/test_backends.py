"""Backends as a whole: each has the kernels of the contract, and gives the same network."""

import importlib
import inspect
import subprocess
import sys

import numpy as np
import pytest
from kernel_contract import cpu, reference

import octsod
from octsod import functional as f
from octsod.backend import get_device, kernels, use_backend
from octsod.backend.contract import DEVICE_KERNELS, HOST_KERNELS, KERNELS, Contract

cuda = importlib.import_module("octsod.kernels.cuda")  # as a table: nothing of it runs here

pytestmark = pytest.mark.usefixtures("poisoned_scratch")


# --- the table --------------------------------------------------------------------------------------------------------


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("backend", [cpu, reference, cuda], ids=lambda backend: backend.__name__)
def test_a_backend_has_the_kernels_of_the_contract(backend):
    lacking = {cuda: HOST_KERNELS, cpu: DEVICE_KERNELS}
    promised = set(KERNELS) - lacking.get(backend, set())
    assert sorted(backend.__all__) == sorted(promised)
    for name in promised:
        assert parameters(getattr(backend, name)) == parameters(getattr(Contract, name))[1:], name
    assert backend.CACHED.issubset(KERNELS)


def test_a_device_says_what_its_kernels_keep_in_a_cache():
    assert "depthwise_chain" in get_device("cpu").kernels.CACHED
    assert "depthwise_chain" not in get_device("reference").kernels.CACHED


def test_every_kernel_of_the_contract_says_what_it_does():
    assert "conv2d" in KERNELS and len(KERNELS) == len(set(KERNELS))
    assert [name for name in KERNELS if not inspect.getdoc(getattr(Contract, name))] == []


def test_what_a_backend_lacks_is_not_implemented(monkeypatch):
    monkeypatch.delattr(reference, "max_pool2d")
    with use_backend("reference"), pytest.raises(NotImplementedError, match="`reference` has no kernel `max_pool2d`"):
        f.max_pool2d(np.zeros((1, 1, 2, 2)), 2)
    with pytest.raises(NotImplementedError, match="`cpu` has no kernel `fft2d`"):
        kernels.fft2d()


def test_the_reference_needs_no_compiler():
    code = "import sys, octsod.kernels.reference; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


# --- the whole network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [(0.5, 0.5), (0.0, 1.0)])
def test_csnet_is_the_same_on_all_backends(split):
    """Logits, all gradients, running statistics and sums of activations of one training step."""
    rng = np.random.default_rng(2)
    images, target = rng.standard_normal((2, 3, 32, 48)), rng.integers(0, 2, (2, 1, 32, 48)).astype(np.float64)

    def step(backend):
        octsod.manual_seed(3)
        with octsod.use_backend(backend):
            model = octsod.csnet(0.5, split=split, dtype="float64")
            # Away from the initial biases of zero, with which many gradients are zero: a PReLU's output is then
            # proportional to the scale before it, which the next batch norm takes out again.
            noise = np.random.default_rng(4)
            for _, parameter in model.named_parameters():
                parameter.data[...] += 0.1 * noise.standard_normal(parameter.shape)
            logits = model(octsod.Tensor(images))
            f.binary_cross_entropy_with_logits(logits, octsod.Tensor(target)).backward()
            results = {"logits": logits.numpy()}
        results.update({f"gradient of {name}": p.grad for name, p in model.named_parameters()})
        results.update({name: a for name, a in model.state_dict().items() if "running" in name})
        for name, module in model.named_modules():
            if getattr(module, "activation", None) is not None:
                results[f"sums of {name}"] = module.activation.values
        return results

    expected, got = step("reference"), step("cpu")
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        scale = np.abs(value).max()
        assert scale > 0, name
        assert np.abs(got[name] - value).max() <= 1e-9 * scale, name
