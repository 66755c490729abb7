"""Single kernels on a GPU, with nothing of theirs in its second-level cache: each distinct launch of a training step,
and ops beside PyTorch's. A child (see children.py) returns samples of seconds, by title.

Ops are captured as CUDA graphs on both sides, so the host's time for launching them does not count.
"""

import importlib
from dataclasses import dataclass

import numpy as np

from ..children import Block
from .clocks import CupyClock, Noise, TorchClock

COPIED = 1 << 30  # bytes
SAMPLES = 7


DEPTHWISE, POINTWISE, DENSE, NORM = "depthwise 3x3", "conv 1x1", "conv 3x3", "batch norm, PReLU"


@dataclass(frozen=True)
class Op:
    """An op that PyTorch has, too. kind: one of the above. shape: of its input; weight: the shape of its weight."""

    kind: str
    shape: tuple[int, int, int, int]
    weight: tuple[int, ...]

    @property
    def title(self):
        _, channels, height, _ = self.shape
        more = f" -> {self.weight[0]}" if self.kind in (POINTWISE, DENSE) else ""
        return f"{self.kind} {channels}{more}@{height}"


def ops(batch=24):
    """Layers of CSNet-x1 at 224x224."""
    kinds = (
        (DEPTHWISE, 3, lambda c: (c, 1), ((10, 224), (20, 56), (40, 28))),
        (POINTWISE, 1, lambda c: (c, c), ((10, 224), (40, 56), (80, 28))),
        (DENSE, 3, lambda c: (2 * c, c), ((20, 112), (40, 56))),
    )
    found = [
        Op(kind, (batch, c, side, side), (*channels(c), size, size))
        for kind, size, channels, maps in kinds
        for c, side in maps
    ]
    found += [Op(NORM, (batch, c, side, side), (c,)) for c, side in ((10, 224), (40, 56))]
    return found


def _numbers(op):
    """Input, weight, and the output's gradient, as large as a mean loss's."""
    rng = np.random.default_rng(0)
    out = (op.shape[0], op.weight[0], *op.shape[2:])
    x, weight, grad = (rng.standard_normal(shape, np.float32) for shape in (op.shape, op.weight, out))
    return x, weight, grad / np.float32(out[0] * out[2] * out[3])


def title_of(op, backward):
    return f"op/{op.title}/{'forward, backward' if backward else 'forward'}"


def sampled(clock, work):
    """A `Block` whose step takes samples of every function in `work`, by title."""
    state = {}

    def step():
        for title, function in work.items():
            state[title] = np.array(clock.seconds(function, SAMPLES))

    return Block(step, lambda: dict(state))


# Ours ---------------------------------------------------------------------------------------------------------------


def octsod_kernels(batch, size):
    """A child that samples the copying of COPIED bytes, the launches of a training step, and all `ops`."""
    import cupy

    from octsod.backend import get_device
    from octsod.models import Configuration

    from .recorded import training_step

    device = get_device("cuda")
    shared = cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]
    recording = training_step(Configuration.standard(), batch, size, shared)
    noise = Noise(cupy, max(launch.bytes for launch in recording.launches))
    source, target = (cupy.zeros(COPIED, np.uint8) for _ in range(2))
    work = {"copy": lambda: target.data.copy_from_device_async(source.data, COPIED)}
    for index, launch in enumerate(recording.launches):
        work[f"launch/{launch.kernel}/{launch.count}/{index}"] = launched(launch, noise.arguments(launch))
    for op in ops(batch):
        for backward in (False, True):
            run = octsod_op(device, op, backward)
            run()  # so that everything is compiled and loaded
            work[title_of(op, backward)] = device.capture(run)
    return sampled(CupyClock(cupy), work)


def launched(launch, arguments):
    """A function that repeats a recorded launch."""
    driver = importlib.import_module("octsod.kernels.cuda.driver").driver()
    function = driver.module(launch.code, launch.options).get_function(launch.kernel)
    return lambda: function(launch.grid, launch.block, arguments, shared_mem=launch.shared)


def octsod_op(device, op, backward):
    """A function that computes an op, and its gradients if `backward`."""
    from octsod import Tensor, functional, no_grad
    from octsod.autograd import backward_all

    x, weight, grad = (device.put(values) for values in _numbers(op))
    leaves = x, weight = [Tensor(array, requires_grad=backward) for array in (x, weight)]
    if op.kind == NORM:
        affine = [Tensor(device.full(op.weight, 1, "float32"), requires_grad=backward) for _ in range(2)]
        running = [device.full(op.weight, 1, "float64") for _ in range(2)]
        leaves += affine

    def forward():
        if op.kind == NORM:
            return functional.materialize(functional.batch_norm_prelu(x, *running, *affine, weight))
        convolve = functional.depthwise_conv2d if op.kind == DEPTHWISE else functional.conv2d
        return convolve(x, weight, padding=op.weight[2] // 2)

    def run():
        if not backward:
            with no_grad():
                forward()
            return
        backward_all([forward()], [grad])
        for leaf in leaves:
            leaf.grad = None

    return run


# PyTorch's ----------------------------------------------------------------------------------------------------------


def torch_kernels(batch, memory_format):
    """A child that samples all `ops`."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    work = {}
    for op in ops(batch):
        for backward in (False, True):
            run = torch_op(torch, op, backward, memory_format, "cuda")
            work[title_of(op, backward)] = _captured(torch, run)
    return sampled(TorchClock(torch), work)


def _captured(torch, run):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def torch_op(torch, op, backward, memory_format, device):
    """A function that computes an op, and returns the output and the gradients of input and weight if `backward`."""
    f = torch.nn.functional
    layout = {"memory_format": getattr(torch, memory_format)}
    x, weight, grad = (torch.from_numpy(values).to(device) for values in _numbers(op))
    x, grad = x.to(**layout).requires_grad_(backward), grad.to(**layout)
    leaves = [x, weight.to(**layout) if weight.ndim == 4 else weight]
    weight = leaves[1].requires_grad_(backward)
    if op.kind == NORM:
        affine = [torch.ones(op.weight, device=device, requires_grad=backward) for _ in range(2)]
        running = [torch.ones(op.weight, device=device) for _ in range(2)]
        leaves += affine

    def forward():
        if op.kind == NORM:
            return f.prelu(f.batch_norm(x, *running, *affine, training=True), weight)
        groups = op.shape[1] if op.kind == DEPTHWISE else 1
        return f.conv2d(x, weight, padding=op.weight[2] // 2, groups=groups)

    def run():
        if not backward:
            with torch.no_grad():
                return [forward()]
        out = forward()
        return [out, *torch.autograd.grad(out, leaves, grad)]

    return run
