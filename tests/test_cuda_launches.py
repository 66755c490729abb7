"""How many CUDA kernels a training step launches. Nothing is run: what is launched depends on shapes alone."""

import collections
import dataclasses
import importlib

import numpy as np
import pytest

import octsod
from octsod.backend import Device, Host, register
from octsod.backend.deferred import Deferred, DeferredGradient, GradientTarget
from octsod.backend.device import launch_with
from octsod.training import Recipe, Saliency
from octsod.training.recipe_files import read_recipe, recipe_names

driver = importlib.import_module("octsod.kernels.cuda.driver")
MOST = 350  # launches of a step of CSNet-x1


class Idle(Host):
    """A device whose kernels are CUDA's and whose arrays are NumPy's, zero from the start; filling one is a launch."""

    full = Device.full

    def __init__(self):
        super().__init__("idle", "cuda")

    def empty(self, shape, dtype):
        return np.zeros(shape, dtype)


class Counter:
    """A driver that runs nothing and counts launches by kernel of the contract, and the calls of those. functions: the
    functions of CUDA that were launched, in their order."""

    def __init__(self):
        self.launches, self.calls, self.kernel = collections.Counter(), collections.Counter(), None
        self.functions = []

    def module(self, code, options):
        return self

    def prepare(self, modules):
        pass

    def get_function(self, name):
        def launch(*arguments, **settings):
            self.launches.update([self.kernel])
            self.functions.append(name)

        return launch

    def empty(self, shape, dtype):
        return np.zeros(shape, dtype)

    def shared_memory(self):
        return 227 << 10

    def call(self, name, function, *arguments):
        before, self.kernel = self.kernel, name
        self.calls[name] += 1
        function(*arguments)
        self.kernel = before


idle = Idle()
register(idle, Idle)  # no array is of this type: NumPy's belong to whichever host computes


@pytest.fixture
def counter():
    before, counter = driver.driver(), Counter()
    driver.use_driver(counter)
    try:
        with octsod.use_backend(idle), launch_with(counter.call):
            yield counter
    finally:
        driver.use_driver(before)


def step(counter, model, size=64, loss="bce", **recipe):
    """Count the launches of a step; not those of the first one, which makes buffers."""
    trainer = Recipe(**recipe).trainer(model, Saliency(loss), total=9)
    batch = np.zeros((2, 3, size, size), np.float32), np.zeros((2, 1, size, size), np.float32)
    for _ in range(2):
        counter.launches.clear()
        counter.calls.clear()
        trainer.step(*batch)
    return counter.launches.total()


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("name", recipe_names())
def test_launches_of_a_training_step(counter, name, size):
    settings = read_recipe(name)
    own = {field.name for field in dataclasses.fields(Recipe)} & settings.keys()
    made = step(counter, octsod.csnet(), size, settings["loss"], **{key: settings[key] for key in own})
    assert made <= MOST, counter.launches.most_common()


def test_launches_of_another_optimizer_and_a_limit(counter):
    made = step(counter, octsod.csnet(), optimizer="adamw", clip=1.0, decay="none", loss="bce+dice", average=0.99)
    assert made <= MOST, counter.launches.most_common()


def test_a_layer_is_normalised_at_once(counter):
    model = octsod.csnet()
    kinds = [layer.kind for layer, _ in model.layers()]
    step(counter, model)
    alone = kinds.count("octave") + kinds.count("dilated")
    for made in (counter.calls, counter.launches):
        assert made["batch_norm"] == made["batch_norm_backward"] == alone
    blocks = kinds.count("depthwise") // 2
    assert counter.calls["depthwise_chain"] == counter.calls["depthwise_chain_backward"] == blocks
    assert counter.launches["depthwise_chain"] == 3 * blocks  # two layers, and the last one's statistics


def launched(counter, name, *arguments):
    """What a kernel of the contract launches."""
    counter.functions = []
    getattr(idle.kernels, name)(*arguments)
    return counter.functions


@pytest.mark.parametrize(("kernel_size", "settings", "fast"), [
    ((3, 3), (1, 1, 1), True), ((3, 3), (2, 1, 1), False), ((3, 3), (1, 2, 2), False), ((5, 5), (1, 2, 1), False),
    ((3, 5), (1, 1, 1), False),
])  # fmt: skip
def test_the_usual_depthwise_convolution_has_kernels_of_its_own(counter, kernel_size, settings, fast):
    x, weight = np.zeros((2, 3, 8, 8), np.float32), np.zeros((3, 1, *kernel_size), np.float32)
    stride, padding, dilation = settings
    size = [(8 + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for k in kernel_size]
    out, grad_x, grad_weight = np.zeros((2, 3, *size), np.float32), np.zeros_like(x), np.zeros_like(weight)
    functions = launched(counter, "depthwise_conv2d", Deferred(x), weight, out, *settings)
    functions += launched(
        counter, "depthwise_conv2d_backward", DeferredGradient.of(out), Deferred(x), weight, *settings,
        GradientTarget(grad_x), grad_weight,
    )  # fmt: skip
    assert {name.startswith("depthwise3") for name in functions} == {fast}


@pytest.mark.parametrize(("shape", "function"), [
    ((3, 5), "turn"), ((1 << 30, 2), "take"), ((2, 1 << 30), "take"),
])  # fmt: skip
def test_matrices_are_turned_by_tiles_as_far_as_an_int_can_count(counter, shape, function):
    """The large ones have but one element of memory."""
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), shape, (0, 0))
    assert launched(counter, "transpose", x, (1, 0), x.T) == [function]
