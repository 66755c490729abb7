"""`gradcheck` of modules: a copy in float64, and the gradients of all parameters."""

import re

import numpy as np
import pytest
from gradcheck_ops import normal

import octsod
from octsod import functional as f
from octsod import nn
from octsod.testing import gradcheck


class Net(nn.Module):
    """A convolution, a norm and a linear layer. lost: whether gradients do not go back to the convolution's bias."""

    def __init__(self, lost=False):
        self.conv, self.norm = nn.Conv2d(2, 3, 3, padding=1), nn.NormAct(3)
        self.linear, self.lost = nn.Linear(3, 2), lost

    def forward(self, x):
        lost = octsod.Tensor(self.conv.bias.numpy()).sum() if self.lost else 0.0
        return self.linear(f.global_average_pool(f.sigmoid(self.norm(self.conv(x))))) + lost


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_input_and_parameter_is_checked(training, dtype):
    net = Net().train(training)
    before = {name: array.copy() for name, array in net.state_dict().items()}
    report = gradcheck(net, normal(2, 2, 3, 4).astype(dtype))
    assert report.verdict == "PASS" and report.single is None and report.unchecked == ()
    assert report.names == ("input 0", *(f"parameter `{name}`" for name, _ in net.named_parameters()))
    assert report.entries > sum(p.size for p in net.parameters()) and report.sharpness < 1e-5
    after = net.state_dict()  # the module is as it was: the copy had the running statistics, too
    assert all(np.array_equal(after[name], array) for name, array in before.items())
    assert {array.dtype for array in after.values()} == {np.dtype("float32")}
    assert all(p.grad is None for p in net.parameters())


def test_a_wrong_parameter_is_named():
    with pytest.raises(AssertionError, match=r"^gradcheck: parameter `conv.bias` at \(\d,\): ") as caught:
        gradcheck(Net(lost=True).eval(), normal(2, 2, 3, 4))
    assert re.search(r"fn (=|is) test_gradcheck_modules.Net\b", str(caught.value))


def test_frozen_parameters_are_not_checked():
    net = Net(lost=True).eval()
    net.conv.freeze()
    assert gradcheck(net, normal(2, 2, 3, 4)).verdict == "PASS"


def test_labels_are_passed_on():
    class Loss(nn.Module):
        def __init__(self):
            self.linear = nn.Linear(3, 4)

        def forward(self, x, labels):
            return f.cross_entropy(self.linear(x), labels)

    report = gradcheck(Loss(), octsod.Tensor(normal(2, 3).astype(np.float32)), np.array([1, 3]))
    assert report.verdict == "PASS" and report.entries == 16  # the tensor requires no gradient


def test_kinks_of_parameters_are_named():
    class Scale(nn.Module):
        def __init__(self):
            self.weight = nn.Parameter(np.zeros(1, np.float32))

        def forward(self, x):
            return f.relu(x * self.weight)

    assert "at kinks, such as parameter `weight` at (0,)" in str(gradcheck(Scale(), normal(3)))
