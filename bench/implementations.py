"""The implementations of CSNet that are measured: each makes a `Block` of a `Problem`, in a process of its own.

All compute in float32, on `threads` threads, with subnormal numbers flushed to zero, each configured as its users would
for the highest speed. A training step is zero_grad, forward, mean binary cross-entropy, backward, Adam. The results to
compare are the loss and the gradients of the first training step, all outputs and gradients of a block, or the logits.
"""

import functools
import pathlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .children import Block

LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Implementation:
    """build: `(problem, threads) -> Block`, picklable. packages: the names of the distributions that it is made of."""

    build: Callable
    packages: tuple[str, ...]


def octsod_training(problem, threads):
    import octsod
    from octsod import functional, optim
    from octsod.interop.sod100k import arrays

    octsod.set_num_threads(threads)
    model = problem.model()
    optimizer = optim.Adam(model.parameters(), LEARNING_RATE)
    x, y = octsod.Tensor(problem.images()), octsod.Tensor(problem.masks())
    state = {}

    def step():
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(model(x), y)
        loss.backward()
        optimizer.step()
        state["loss"] = loss.item()

    return Block(step, lambda: {"loss": np.array([state["loss"]]), **arrays(model, "grad")})


def octsod_inference(problem, threads):
    import octsod
    from octsod import inference

    octsod.set_num_threads(threads)
    frozen = inference.freeze(problem.model())
    x, state = problem.images(), {}

    def step():
        state["logits"] = inference.logits(frozen, x)

    return Block(step, lambda: dict(state))


def octsod_gradients(problem, threads):
    """Forward and backward in training mode, without the optimiser: the weights do not change."""
    import octsod
    from octsod import functional
    from octsod.interop.sod100k import arrays

    octsod.set_num_threads(threads)
    model = problem.model()
    x, y = octsod.Tensor(problem.images()), octsod.Tensor(problem.masks())

    def step():
        model.zero_grad()
        functional.binary_cross_entropy_with_logits(model(x), y).backward()

    return Block(step, lambda: arrays(model, "grad"))


def octsod_block(problem, threads):
    """Forward and backward of one block, whose outputs are materialised, as the peers' are."""
    import octsod
    from octsod import functional
    from octsod.interop.sod100k import arrays

    octsod.set_num_threads(threads)
    model = problem.model()
    block = dict(model.named_modules())[problem.ours]
    maps = [octsod.Tensor(x, requires_grad=True) for x in problem.maps()]
    upstream, state = problem.upstream(), {}

    def step():
        state.clear()  # so that memory of the previous step can be reused, as it is in training
        model.zero_grad()
        for x in maps:
            x.grad = None
        state["outputs"] = [functional.materialize(y) for y in _listed(block(maps))]
        octsod.autograd.backward_all(state["outputs"], upstream)

    def results():
        outputs, inputs = [y.numpy() for y in state["outputs"]], [x.grad for x in maps]
        return _of_block(outputs, inputs, arrays(model, "grad"))

    return Block(step, results)


def _listed(maps):
    """The fusion gives a single map, the other blocks lists of them."""
    return list(maps) if isinstance(maps, (list, tuple)) else [maps]


def _of_block(outputs, inputs, parameters):
    """A block's results. inputs: gradients of its inputs. parameters: gradients, by the authors' names."""
    return {
        **{f"output {i}": array for i, array in enumerate(outputs)},
        **{f"gradient of input {i}": array for i, array in enumerate(inputs)},
        **parameters,
    }


def torch_network(problem, memory_format):
    """torch, the network and the memory format."""
    import torch

    from .peers import torch_csnet

    c = problem.network()
    model = torch_csnet.CSNet(layers=torch_csnet.Layers(c.stages, c.fuse, c.dilated, c.merge))
    state = {name: torch.from_numpy(array.copy()) for name, array in problem.state.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise RuntimeError(f"the networks differ in {', '.join([*missing, *unexpected][:3])}")
    layout = getattr(torch, memory_format)
    return torch, model.to(memory_format=layout), layout


def _torch(problem, threads, memory_format):
    """What `torch_network` returns, on a processor."""
    import torch

    torch.set_flush_denormal(True)  # before any worker thread exists: they inherit the mode of their creator
    torch.set_num_threads(threads)
    return torch_network(problem, memory_format)


def torch_training(problem, threads, memory_format, compiled=False):
    torch, model, layout = _torch(problem, threads, memory_format)
    x = torch.from_numpy(problem.images()).to(memory_format=layout)
    parameters = dict(model.named_parameters())
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    y = torch.from_numpy(problem.masks())
    state = {}

    def step():
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(forward(x), y)
        loss.backward()
        optimizer.step()
        state["loss"] = loss.item()

    def results():
        gradients = {name: np.ascontiguousarray(p.grad.numpy()) for name, p in parameters.items()}
        return {"loss": np.array([state["loss"]]), **gradients}

    return Block(step, results)


def torch_block(problem, threads, memory_format, compiled=False):
    torch, model, layout = _torch(problem, threads, memory_format)
    block = model.get_submodule(problem.theirs)
    parameters = {f"{problem.theirs}.{name}": p for name, p in block.named_parameters()}
    forward = torch.compile(block) if compiled else block
    maps = [torch.from_numpy(x).to(memory_format=layout).requires_grad_() for x in problem.maps()]
    upstream = [torch.from_numpy(g).to(memory_format=layout) for g in problem.upstream()]
    leaves, state = [*maps, *parameters.values()], {}

    def step():
        state.clear()
        outputs = _listed(forward(maps))
        # This returns the gradients as they are; accumulating into `.grad` might copy them once more.
        state["gradients"] = torch.autograd.grad(outputs, leaves, upstream)
        state["outputs"] = [y.detach() for y in outputs]

    def results():
        gradients = [np.ascontiguousarray(g.numpy()) for g in state["gradients"]]
        of_parameters = dict(zip(parameters, gradients[len(maps) :], strict=True))
        outputs = [np.ascontiguousarray(y.numpy()) for y in state["outputs"]]
        return _of_block(outputs, gradients[: len(maps)], of_parameters)

    return Block(step, results)


def torch_inference(problem, threads, memory_format, compiled=False):
    torch, model, layout = _torch(problem, threads, memory_format)
    x = torch.from_numpy(problem.images()).to(memory_format=layout)
    model.eval()
    if compiled:
        import torch._inductor.config

        torch._inductor.config.freezing = True  # weights are constants, folded and packed ahead of time
        model = torch.compile(model)
    state = {}

    def step():
        with torch.inference_mode():
            state["logits"] = model(x)

    return Block(step, lambda: {"logits": np.ascontiguousarray(state["logits"].numpy())})


def onnxruntime_inference(problem, threads):
    import onnxruntime

    from .peers.onnx_forms import prelu_as_maximum

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    network = prelu_as_maximum(_exported(problem)).SerializeToString()
    session = onnxruntime.InferenceSession(network, options, ["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: problem.images()}
    state = {}

    def step():
        (state["logits"],) = session.run(None, inputs)

    return Block(step, lambda: dict(state))


def openvino_inference(problem, threads):
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # by default it uses bfloat16 where the processor can
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "CPU_DENORMALS_OPTIMIZATION": True,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "network.onnx")
        path.write_bytes(_exported(problem).SerializeToString())
        request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(problem.images()))
    return Block(request.infer, lambda: {"logits": request.get_output_tensor().data.copy()})


def _exported(problem):
    """The network as an `onnx.ModelProto`, for pictures of exactly this shape, with the logits as its only output."""
    from octsod.interop.onnx_export import to_onnx

    proto = to_onnx(problem.model(), (problem.size, problem.size))
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = problem.batch
    del proto.graph.output[1:]
    return proto


OURS = "octsod"

_OWN, _TORCH = ("numpy", "numba"), ("torch",)
_CONTIGUOUS = {"memory_format": "contiguous_format"}
_CHANNELS_LAST = {"memory_format": "channels_last"}
_COMPILED = {"memory_format": "channels_last", "compiled": True}

TRAINING = {
    OURS: Implementation(octsod_training, _OWN),
    "torch": Implementation(functools.partial(torch_training, **_CONTIGUOUS), _TORCH),
    "torch-channels-last": Implementation(functools.partial(torch_training, **_CHANNELS_LAST), _TORCH),
    "torch-compile": Implementation(functools.partial(torch_training, **_COMPILED), _TORCH),
}

BLOCKS = {
    OURS: Implementation(octsod_block, _OWN),
    "torch": Implementation(functools.partial(torch_block, **_CONTIGUOUS), _TORCH),
    "torch-channels-last": Implementation(functools.partial(torch_block, **_CHANNELS_LAST), _TORCH),
    "torch-compile": Implementation(functools.partial(torch_block, **_COMPILED), _TORCH),
}

INFERENCE = {
    OURS: Implementation(octsod_inference, _OWN),
    "torch": Implementation(functools.partial(torch_inference, **_CONTIGUOUS), _TORCH),
    "torch-channels-last": Implementation(functools.partial(torch_inference, **_CHANNELS_LAST), _TORCH),
    "torch-compile": Implementation(functools.partial(torch_inference, **_COMPILED), _TORCH),
    "onnxruntime": Implementation(onnxruntime_inference, ("onnxruntime", "onnx")),
    "openvino": Implementation(openvino_inference, ("openvino", "onnx")),
}
