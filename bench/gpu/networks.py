"""CSNet on a GPU: a training step and a prediction, ours and PyTorch's, each in a process of its own (see children.py).

All compute in float32, without TF32. A training step is zero_grad, forward, mean binary cross-entropy, backward, Adam;
pictures and masks lie on the GPU. `Block.step` makes a single step at first, whose results are compared; from then on
it makes `repeats` steps, and waits for the GPU at the end only.
"""

import functools

import numpy as np

from ..children import Block
from ..implementations import LEARNING_RATE, OURS, Implementation, torch_network
from ..rows import installed

OURS_PACKAGES = ("numpy", *filter(installed, ("cupy-cuda12x", "cupy-cuda13x")))
TORCH = ("torch",)


def rounds(step, wait, results, repeats):
    """A `Block` of `repeats` steps, of one the first time. wait: returns when all are done."""
    made = []

    def run():
        for _ in range(repeats if made else 1):
            step()
        wait()
        made.append(1)

    return Block(run, results)


def octsod_training(problem, repeats, device="cuda"):
    from octsod import optim, training
    from octsod.backend import get_device
    from octsod.interop.sod100k import arrays

    device = get_device(device)
    model = problem.model().to(device)
    optimizer = optim.Adam(model.parameters(), LEARNING_RATE)
    trainer = training.Trainer(model, training.Saliency(), optimizer)
    x, y = device.put(problem.images()), device.put(problem.masks())

    def results():
        loss = trainer.collect()[-1].loss
        return {"loss": np.array([loss]), **arrays(model, "grad")}

    return rounds(lambda: trainer.step(x, y), trainer.sync, results, repeats)


def octsod_inference(problem, repeats, device="cuda"):
    from octsod import inference
    from octsod.backend import get_device

    device = get_device(device)
    frozen = inference.freeze(problem.model().to(device))
    x, out = device.put(problem.images()), device.empty((problem.batch, 1, problem.size, problem.size), "float32")
    number = out.reshape(-1)[:1]
    # Reading a number is what waits: by then all that was launched before has run.
    return rounds(
        lambda: device.kernels.csnet(frozen, x, out), lambda: device.get(number), lambda: {"logits": device.get(out)},
        repeats,
    )  # fmt: skip


def _torch(problem, memory_format, device):
    torch, model, layout = torch_network(problem, memory_format)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    x = torch.from_numpy(problem.images()).to(device).to(memory_format=layout)
    return torch, model.to(device), x, wait


def _compiled(torch, model, mode):
    """The model, compiled if there is a mode, and what is to be called before each step."""
    if mode is None:
        return model, lambda: None
    return torch.compile(model, mode=mode), torch.compiler.cudagraph_mark_step_begin


def torch_training(problem, repeats, memory_format, mode=None, device="cuda"):
    """mode: of torch.compile, None for eager."""
    torch, model, x, wait = _torch(problem, memory_format, device)
    forward, begin = _compiled(torch, model, mode)
    y = torch.from_numpy(problem.masks()).to(device)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=device == "cuda")
    state = {}

    def step():
        begin()
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(forward(x), y)
        loss.backward()
        if not state:  # of the first step; later ones may be written over
            state.update((name, p.grad.clone()) for name, p in model.named_parameters())
            state["loss"] = loss.detach().reshape(1).clone()
        optimizer.step()

    return rounds(step, wait, lambda: _arrays(state), repeats)


def torch_inference(problem, repeats, memory_format, mode=None, device="cuda"):
    torch, model, x, wait = _torch(problem, memory_format, device)
    forward, begin = _compiled(torch, model.eval(), mode)
    state = {}

    def step():
        with torch.inference_mode():
            begin()
            logits = forward(x)
            if not state:
                state["logits"] = logits.clone()

    return rounds(step, wait, lambda: _arrays(state), repeats)


def _arrays(state):
    return {name: np.ascontiguousarray(tensor.cpu().numpy()) for name, tensor in state.items()}


FORMATS = {"torch": "contiguous_format", "torch-channels-last": "channels_last"}
_MODES = {"torch-compile": "default", "torch-compile-graphs": "reduce-overhead"}  # both with channels_last


def implementations(ours, build, compiled):
    """Ours and PyTorch's, by name; those of torch.compile only if `compiled`: each takes a minute or two to compile."""
    found = {OURS: Implementation(ours, OURS_PACKAGES)}
    for name, layout in FORMATS.items():
        found[name] = Implementation(functools.partial(build, memory_format=layout), TORCH)
    for name, mode in _MODES.items() if compiled else ():
        found[name] = Implementation(functools.partial(build, memory_format="channels_last", mode=mode), TORCH)
    return found
