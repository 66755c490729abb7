"""The input of all implementations of a case: a network with its weights, and pictures."""

import pathlib
from dataclasses import dataclass

import click
import numpy as np

SIZE = 224
LEARNED = ("L-x1", "L-x2")  # the released models' channel counts, in bench/configurations


@dataclass(frozen=True)
class Problem:
    """A network and its input, small enough to be sent to a child, which draws the pictures itself.

    configuration: a CSNet's, as JSON. state: the authors' names -> arrays of float32. batch, size: of the pictures
    (batch, 3, size, size).
    """

    case: str
    configuration: str
    state: dict
    batch: int
    size: int = SIZE

    def network(self):
        """Its `Configuration`."""
        from octsod.models import Configuration

        return Configuration.from_json(self.configuration)

    def model(self):
        """The network in octsod."""
        from octsod.interop.sod100k import load_arrays
        from octsod.models import CSNet

        model = CSNet(self.network())
        load_arrays(model, self.state)
        return model

    def images(self):
        """(batch, 3, size, size) float32."""
        return pictures(self.batch, self.size)

    def masks(self):
        """(batch, 1, size, size) float32, zeros and ones."""
        return masks(self.batch, self.size)


def pictures(batch, size):
    """(batch, 3, size, size) float32."""
    return np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)


def masks(batch, size):
    """(batch, 1, size, size) float32, zeros and ones."""
    return np.random.default_rng(1).integers(0, 2, (batch, 1, size, size)).astype(np.float32)


def configuration(name):
    """The `Configuration` of x1, or of a learned network."""
    from octsod.models import Configuration

    if name == "x1":
        return Configuration.standard()
    return Configuration.from_json((pathlib.Path(__file__).parent / "configurations" / f"{name}.json").read_text())


@dataclass(frozen=True)
class Part:
    """A block of the network: its name in octsod and in the authors' model."""

    ours: str
    theirs: str


PARTS = {
    "il-stage1": Part("extractor.stages.1.0", "stage1.0"),
    "il-stage2": Part("extractor.stages.2.1", "stage2.1"),
    "fusion": Part("fusion", "oct_fuse"),
}


@dataclass(frozen=True, kw_only=True)
class BlockProblem(Problem):
    """A block of the problem's network, its input maps and the gradients of its outputs.

    ours, theirs: see `Part`. inputs, outputs: shapes (batch, channels, height, width).
    """

    ours: str
    theirs: str
    inputs: list
    outputs: list

    def maps(self):
        """The input maps, with the shapes of `inputs`, float32."""
        rng = np.random.default_rng(0)
        return [rng.standard_normal(shape, np.float32) for shape in self.inputs]

    def upstream(self):
        """Float32 gradients of the shapes in `outputs`, as large as a mean loss's: about 1 / (numbers per channel)."""
        rng = np.random.default_rng(1)
        return [rng.standard_normal(s, np.float32) / np.float32(s[0] * s[2] * s[3]) for s in self.outputs]


def block(case, config, part, batch, size=SIZE):
    """The `BlockProblem` of a part, whose finest input is as large as its finest output."""
    first, *_, last = (layer for layer in config.layers() if layer.name.startswith(f"{part.ours}."))

    def shapes(channels):
        sides = (size >> last.scale >> i for i in range(len(channels)))
        return [(batch, count, side, side) for count, side in zip(channels, sides, strict=True)]

    whole = problem(case, config, batch, size, straight=True)
    inputs, outputs = shapes(first.inputs), shapes(last.outputs)
    return BlockProblem(**vars(whole), ours=part.ours, theirs=part.theirs, inputs=inputs, outputs=outputs)


def problem(case, config, batch, size=SIZE, straight=False, tiny=False):
    """A problem with the weights of `drawn`."""
    from octsod.interop.sod100k import arrays

    state = {name: array.copy() for name, array in arrays(drawn(config, straight, tiny)).items()}
    return Problem(case, config.to_json(), state, batch, size)


def trained(case, name, batch, size=SIZE):
    """A problem with the weights of a network that comes with octsod."""
    import octsod
    from octsod.interop.sod100k import arrays

    model = octsod.load(name)
    return Problem(case, model.configuration.to_json(), arrays(model), batch, size)


def drawn(config, straight=False, tiny=False):
    """A CSNet with random weights, always the same. straight: see `straighten`; tiny: see `diminish`.

    Running statistics roughly match the activations: with those of a new network, the activations of a random one
    overflow in eval mode.
    """
    import octsod

    octsod.manual_seed(0)
    model = octsod.CSNet(config)
    rng = np.random.default_rng(2)
    for parameter in model.parameters():  # initial ones and zeros would hide mistakes
        if parameter.ndim == 1:
            parameter.data += rng.uniform(-0.3, 0.3, parameter.shape).astype(np.float32)
    if straight:
        straighten(model)
    if tiny:
        diminish(model, rng)
    x = octsod.Tensor(rng.standard_normal((4, 3, *[2 * config.multiple] * 2), np.float32))
    with octsod.no_grad():
        for _ in range(50):  # 0.9**50 = 0.5 % of the first statistics is left
            model(x)
    return model


def straighten(model):
    """Bring the slopes of PReLU close to one. Where a number is within rounding of a kink, its gradient jumps, and a
    random network amplifies that: with ordinary slopes, gradients of two correct implementations in float32 differ by
    several per cent, or by half where sums are not added up with care. This does not affect the time of anything."""
    for name, parameter in model.named_parameters():
        if name.endswith(".slope"):
            parameter.data[...] = 1 + (parameter.data - 0.25) / 5


def diminish(model, rng):
    """Make every other scale and shift of the ILBlocks' norms as small as dynamic weight decay makes them: 1e-20 and
    below, down into the subnormal numbers."""
    from octsod.optim import decayed_norms

    for norm in decayed_norms(model):
        for parameter in (norm.weight, norm.bias):
            values = parameter.data[::2]
            values[...] = rng.choice([-1, 1], values.shape) * 10 ** rng.uniform(-44, -20, values.shape)


def macs(problem):
    """Multiply-accumulates per picture, by the count of CSNet's authors."""
    from octsod.prune import complexity

    return complexity(problem.model(), (problem.size, problem.size)).macs


def released(case, path, batch=1, size=SIZE):
    """A problem with the weights in the file `path`. Raises ClickException, which names the file."""
    import octsod
    from octsod.interop.sod100k import arrays

    try:
        model = octsod.load(path)
    except octsod.errors.FileError as error:
        raise click.ClickException(str(error)) from error
    return Problem(case, model.configuration.to_json(), arrays(model), batch, size)
