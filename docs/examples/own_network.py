"""A network, loss, data set and optimiser of your own in octsod's loop: where is the disc? Run it again to go on."""

import sys

import numpy as np

from octsod import functional as f
from octsod import manual_seed, nn
from octsod.data import Loader
from octsod.optim import CosineLR, Optimizer
from octsod.training import Task, Trainer, fit


class Locate(Task):  # a sample is the centre (2,) of a disc; any list of samples is a data set
    def prepare(self, sample, size, generator=None):
        y, x = np.mgrid[:size, :size] / size
        disc = (y - sample[0]) ** 2 + (x - sample[1]) ** 2 < 0.02
        noise = (generator or np.random.default_rng(0)).normal(0, 0.3, (3, size, size))
        return np.float32(disc + noise), np.float32(sample)

    def loss(self, model, x, centres):
        squares = ((model(x) - centres) ** 2).sum(axis=1)
        return squares.mean(), {"distance": f.sqrt(squares).mean()}


class Net(nn.Module):
    def __init__(self, channels=8):
        self.first, self.norm = nn.Conv2d(3, channels, 3, stride=2, padding=1), nn.NormAct(channels)
        self.second, self.last = nn.Conv2d(channels, 4, 3, stride=2, padding=1), nn.Linear(4 * 8 * 8, 2)

    def forward(self, x):
        x = f.relu(self.second(self.norm(self.first(x))))
        return self.last(x.reshape(x.shape[0], -1))


class SignedMomentum(Optimizer):  # m = 0.9*m + 0.1*g, p -= lr * sign(m)
    slots = ("momentum",)

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    def update(self, number, buffer, ranges):
        momentum = self.slot("momentum", number)
        for start, stop, group in ranges.tolist():
            momentum[start:stop] += 0.1 * (buffer.grad[start:stop] - momentum[start:stop])
            buffer.data[start:stop] -= self.groups[group]["lr"] * np.sign(momentum[start:stop])


def main(folder="runs/discs", steps=300):
    manual_seed(0)
    centres = np.random.default_rng(0).uniform(0.2, 0.8, (544, 2))
    model, task = Net(), Locate()
    optimizer = SignedMomentum(model.parameters(), lr=2e-3)
    trainer = Trainer(model, task, optimizer, CosineLR(optimizer, steps), total=steps)
    loader = Loader(centres[64:], batch_size=16, size=32, prepare=task.prepare)
    fit(trainer, loader, folder, centres[:64], on_line=lambda line: "best" in line and print(line))


if __name__ == "__main__":
    main(*sys.argv[1:2])
