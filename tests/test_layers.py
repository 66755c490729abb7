"""Layers of classifiers: what they compute, how they begin, and that a small classifier learns with them."""

import numpy as np
import pytest
from op_checks import get, normals

import octsod
from octsod import Tensor, nn, optim, random
from octsod import functional as f


def test_linear():
    octsod.manual_seed(0)
    layer = nn.Linear(400, 30, "float64")
    (x,) = normals(0, (5, 400))
    assert np.array_equal(layer(Tensor(x)).numpy(), f.linear(x, layer.weight, layer.bias).numpy())
    assert layer.weight.shape == (30, 400) and layer.bias.shape == (30,) and layer.weight.dtype == np.float64
    for values in (get(layer.weight.data), get(layer.bias.data)):
        assert np.abs(values).max() <= 1 / 20 and values.std() == pytest.approx(1 / 20 / np.sqrt(3), rel=0.3)
    assert list(layer.state_dict()) == ["weight", "bias"] and nn.Linear(3, 2).weight.dtype == np.float32
    octsod.manual_seed(0)
    assert np.array_equal(get(nn.Linear(400, 30, "float64").bias.data), get(layer.bias.data))


@pytest.mark.parametrize("settings", [
    {"padding": 1}, {"stride": 2, "padding": 1}, {"padding": 3, "dilation": 2}, {"stride": 3},
])  # fmt: skip
def test_conv2d(settings):
    octsod.manual_seed(0)
    layer = nn.Conv2d(4, 30, 3, **settings, dtype="float64")
    (x,) = normals(0, (2, 4, 9, 8))
    assert np.array_equal(layer(Tensor(x)).numpy(), f.conv2d(x, layer.weight, layer.bias, **settings).numpy())
    assert layer.weight.shape == (30, 4, 3, 3) and layer.bias.shape == (30,) and layer.weight.dtype == np.float64
    for values in (get(layer.weight.data), get(layer.bias.data)):
        assert np.abs(values).max() <= 1 / 6 and values.std() == pytest.approx(1 / 6 / np.sqrt(3), rel=0.3)
    pointwise = nn.Conv2d(4, 2)
    assert pointwise.weight.shape == (2, 4, 1, 1) and pointwise.weight.dtype == np.float32
    assert pointwise(Tensor(x.astype(np.float32))).shape == (2, 2, 9, 8)


def test_dropout_is_active_in_training_only():
    layer, x = nn.Dropout(0.25), Tensor(np.ones(1000))
    with random.stream(1):
        dropped = layer(x).numpy()
    with random.stream(1):
        assert np.array_equal(dropped, f.dropout(x, 0.25).numpy())
    assert 0 < np.count_nonzero(dropped == 0) < 1000
    assert layer.eval()(x) is x
    with pytest.raises(ValueError, match="Dropout: `p` is 1; expected at least 0 and less than 1"):
        nn.Dropout(1)


def test_relu_and_global_average_pool():
    (x,) = normals(0, (2, 3, 4, 5))
    assert np.array_equal(nn.ReLU()(Tensor(x)).numpy(), np.maximum(x, 0))
    assert np.allclose(nn.GlobalAveragePool()(Tensor(x)).numpy(), x.mean(axis=(2, 3)), rtol=1e-13)


class Classifier(nn.Module):
    def __init__(self):
        self.conv, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.NormAct(8)
        self.pool, self.drop, self.relu = nn.GlobalAveragePool(), nn.Dropout(0.1), nn.ReLU()
        self.hidden, self.head = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.drop(self.relu(self.hidden(self.pool(self.norm(self.conv(x)))))))


def test_a_classifier_learns():
    """Stripes along rows or columns, told apart after a few steps; the pooled map is a deferred one."""
    octsod.manual_seed(0)
    generator, model = np.random.default_rng(0), Classifier()
    optimizer = optim.Adam(model.parameters(), lr=0.02)

    def batch(count=32):
        labels = generator.integers(0, 2, count)
        lines = generator.choice([-1.0, 1.0], (count, 1, 8, 1)) * np.ones((1, 1, 1, 8))
        pictures = np.where(labels[:, None, None, None] == 1, lines, lines.swapaxes(2, 3))
        return (pictures + 0.1 * generator.standard_normal(pictures.shape)).astype(np.float32), labels

    for step in range(60):
        pictures, labels = batch()
        with random.stream(0, step):
            loss = f.cross_entropy(model(Tensor(pictures)), labels, 0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pictures, labels = batch(100)
    with octsod.no_grad():
        found = model.eval()(Tensor(pictures)).numpy().argmax(axis=1)
    assert (found == labels).mean() > 0.95
