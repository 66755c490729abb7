"""The design gate: three whole blocks of CSNet in training mode, octsod against PyTorch eager at its best.

Forward and backward of one block at the size and batch of training, in float32. The blocks are chosen so that together
they hold every kind of work of a training step: the large maps of stage 1, the wider ones of stage 2, and the dilated
convolutions with the fusion across scales. Both sides get the same weights, inputs and upstream gradients, and their
results are compared before anything is timed. What counts is the ratio measured in one run, never the absolute times.

    python -m bench gate --rounds 7 --json gate.json
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from octsod.machine import processor

from .children import Block, interleaved, timed_steps
from .command import set_threads
from .rows import installed, quartiles

# ----------------------------------------------------------------------------------------------------------------------
# Cases: weights, inputs and upstream gradients as NumPy arrays, the same for every implementation
# ----------------------------------------------------------------------------------------------------------------------

IL_STAGE1, IL_STAGE2, DILATED_FUSE = "il-stage1", "il-stage2", "dilated-fuse"


@dataclass(frozen=True)
class BlockSpec:
    """One block of CSNet-x1 at 224x224.

    inputs:  ``(channels, size)`` of each input branch.
    outputs: the same of each output branch.
    dilated: channels per scale, per dilation (1, 2, 4, 8, 16); empty for an ILBlock.
    """

    title: str
    inputs: tuple[tuple[int, int], ...]
    outputs: tuple[tuple[int, int], ...]
    dilated: tuple[tuple[int, ...], ...] = ()

    @property
    def in_channels(self) -> list[int]:
        return [channels for channels, _ in self.inputs]

    @property
    def out_channels(self) -> list[int]:
        return [channels for channels, _ in self.outputs]


SPECS = {
    IL_STAGE1: BlockSpec("ILBlock of stage 1", ((10, 224), (10, 112)), ((10, 224), (10, 112))),
    IL_STAGE2: BlockSpec("ILBlock of stage 2", ((20, 112), (20, 56)), ((20, 112), (20, 56))),
    DILATED_FUSE: BlockSpec(
        "dilated block and second fusion convolution",
        ((13, 112), (26, 56), (26, 28)),
        ((65, 112),),
        ((2, 2, 2, 2, 5), (5, 5, 5, 5, 6), (5, 5, 5, 5, 6)),
    ),
}


@dataclass(frozen=True)
class Case:
    """A block with its data; arrays are C-contiguous NCHW (weights OIHW) and not to be written to.

    inputs:     ``(N, channels, size, size)`` per input branch.
    upstream:   gradient of the loss by each output, ``(N, channels, size, size)`` per output branch.
    parameters: by the names of the state dict, relative to the block: ``conv1x1.conv.weight``, ``conv1x1.bns.0.bias``,
                ``conv3x3_1.convs.0.weight``, ...; for the dilated block ``ms.convs.0.msconv.0.weight``,
                ``ms.convs.0.bn.weight``, ``fuse1x1.conv.weight``, ... Running statistics start at mean 0, variance 1.
    """

    name: str
    spec: BlockSpec
    inputs: list[np.ndarray]
    upstream: list[np.ndarray]
    parameters: dict[str, np.ndarray]


@dataclass(frozen=True)
class Results:
    """What a block computed, as NCHW NumPy arrays; parameter gradients by the names of `Case.parameters`."""

    outputs: list[np.ndarray]
    input_grads: list[np.ndarray]
    parameter_grads: dict[str, np.ndarray]


def _parameter_shapes(spec: BlockSpec) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def norm_act(bn: str, prelu: str, channels: int) -> None:
        shapes.update({f"{bn}.weight": (channels,), f"{bn}.bias": (channels,), f"{prelu}.weight": (channels,)})

    if spec.dilated:
        for i, (channels, per_dilation) in enumerate(zip(spec.in_channels, spec.dilated, strict=True)):
            for d, out in enumerate(per_dilation):
                shapes[f"ms.convs.{i}.msconv.{d}.weight"] = (out, channels, 3, 3)
            norm_act(f"ms.convs.{i}.bn", f"ms.convs.{i}.prelu", sum(per_dilation))
        octave, octave_in = "fuse1x1", sum(map(sum, spec.dilated))
    else:
        for layer in ("conv3x3_1", "conv3x3_2"):
            for i, channels in enumerate(spec.out_channels):
                shapes[f"{layer}.convs.{i}.weight"] = (channels, 1, 3, 3)
                norm_act(f"{layer}.bns.{i}", f"{layer}.prelus.{i}", channels)
        octave, octave_in = "conv1x1", sum(spec.in_channels)
    shapes[f"{octave}.conv.weight"] = (sum(spec.out_channels), octave_in, 1, 1)
    for i, channels in enumerate(spec.out_channels):
        norm_act(f"{octave}.bns.{i}", f"{octave}.prelus.{i}", channels)
    return shapes


def make_case(name: str, batch: int, dtype: np.dtype | type = np.float32, seed: int = 0) -> Case:
    """Draw a case. Values are float32 numbers in either `dtype`, so that both precisions solve the same problem."""
    rng = np.random.default_rng(seed)
    spec = SPECS[name]

    def array(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32).astype(dtype)

    parameters = {}
    for key, shape in _parameter_shapes(spec).items():
        if len(shape) == 4:
            bound = np.prod(shape[1:]) ** -0.5
            values = rng.uniform(-bound, bound, shape)
        elif key.endswith("bias"):
            values = rng.normal(0.0, 0.3, shape)
        elif "prelu" in key:
            values = rng.uniform(0.1, 0.4, shape)
        else:
            values = rng.uniform(0.5, 1.5, shape)
        parameters[key] = array(values)
    inputs = [array(rng.standard_normal((batch, c, size, size), np.float32)) for c, size in spec.inputs]
    # Of a mean loss's size: an upstream gradient is about 1 / (elements of the map), not about 1.
    upstream = [
        array(rng.standard_normal((batch, c, size, size), np.float32) / (batch * size * size))
        for c, size in spec.outputs
    ]
    return Case(name, spec, inputs, upstream, parameters)


# ----------------------------------------------------------------------------------------------------------------------
# PyTorch eager
# ----------------------------------------------------------------------------------------------------------------------


def torch_block(case: Case, memory_format: str) -> Block:
    """The peer in `memory_format`, ``"contiguous_format"`` or ``"channels_last"``."""
    import torch

    from bench.peers import torch_csnet as peer

    layout = getattr(torch, memory_format)

    class DilatedFuse(torch.nn.Module):
        """Second half of the cross-stage fusion: ``[(N, C_i, H / 2**i, W / 2**i)] -> [(N, 65, H, W)]``."""

        def __init__(self, spec: BlockSpec) -> None:
            super().__init__()
            self.ms = peer.DilatedBlock(spec.in_channels, spec.dilated)
            self.fuse1x1 = peer.ConvBNPReLU([sum(per_dilation) for per_dilation in spec.dilated], spec.out_channels)

        def forward(self, inputs: list) -> list:
            return self.fuse1x1(self.ms(inputs))

    spec = case.spec
    block = DilatedFuse(spec) if spec.dilated else peer.ILBlock(spec.in_channels, spec.out_channels)
    block.to(torch.from_numpy(case.inputs[0]).dtype)
    # Exactly the parameters, no more and no fewer, or both sides would not compute the same.
    parameters = dict(block.named_parameters())
    if parameters.keys() != case.parameters.keys():
        raise RuntimeError(f"parameter names differ: {sorted(parameters.keys() ^ case.parameters.keys())}")
    block.load_state_dict({k: torch.from_numpy(v) for k, v in case.parameters.items()}, strict=False)
    block.to(memory_format=layout).train()
    inputs = [torch.from_numpy(x).to(memory_format=layout, copy=True).requires_grad_() for x in case.inputs]
    upstream = [torch.from_numpy(g).to(memory_format=layout, copy=True) for g in case.upstream]
    leaves = [*inputs, *parameters.values()]
    state: dict[str, Sequence] = {}

    def step() -> None:
        state.clear()  # what the previous step left is free for reuse, as it is in training
        outputs = block(inputs)
        # `autograd.grad` hands the gradients over as they are; accumulating into `.grad` might copy them once more.
        state["grads"] = torch.autograd.grad(outputs, leaves, upstream)
        state["outputs"] = [y.detach() for y in outputs]

    def results() -> Results:
        arrays = [np.ascontiguousarray(g.numpy()) for g in state["grads"]]
        return Results(
            outputs=[np.ascontiguousarray(y.numpy()) for y in state["outputs"]],
            input_grads=arrays[: len(inputs)],
            parameter_grads=dict(zip(parameters, arrays[len(inputs) :], strict=True)),
        )

    return Block(step, results)


# ----------------------------------------------------------------------------------------------------------------------
# octsod
# ----------------------------------------------------------------------------------------------------------------------


def octsod_block(case: Case) -> Block:
    """The library's own block; the last layer's deferred activation is carried out within the step, as in the peer."""
    import octsod
    from octsod import functional, nn
    from octsod.interop.sod100k import authors_name

    spec, dtype = case.spec, case.inputs[0].dtype
    if spec.dilated:
        block = _DilatedFuse(nn, spec, dtype)
        prefix, theirs = "fusion", "oct_fuse"
    else:
        block = nn.ILBlock(spec.in_channels, spec.out_channels, dtype=dtype)
        prefix, theirs = "extractor.stages.1.0", "stage1.0"
    parameters = {
        authors_name(f"{prefix}.{name}").removeprefix(f"{theirs}."): p for name, p in block.named_parameters()
    }
    if parameters.keys() != case.parameters.keys():
        raise RuntimeError(f"parameter names differ: {sorted(parameters.keys() ^ case.parameters.keys())}")
    for name, parameter in parameters.items():
        parameter.data[...] = case.parameters[name]
    inputs = [octsod.Tensor(x, requires_grad=True) for x in case.inputs]
    state: dict[str, Sequence] = {}

    def step() -> None:
        state.clear()
        for leaf in (*inputs, *parameters.values()):
            leaf.grad = None
        outputs = [functional.materialize(y) for y in block(inputs)]
        # Several roots: as one scalar's gradient, sum_i <y_i, upstream_i>, would be.
        octsod.autograd.backward_all(outputs, case.upstream)
        state["outputs"] = [y.numpy() for y in outputs]

    def results() -> Results:
        return Results(
            outputs=state["outputs"],
            input_grads=[x.grad for x in inputs],
            parameter_grads={name: p.grad for name, p in parameters.items()},
        )

    return Block(step, results)


def _DilatedFuse(nn, spec: BlockSpec, dtype):  # noqa: N802 (makes a class, since octsod is imported late)
    class DilatedFuse(nn.Module):
        def __init__(self) -> None:
            self.dilated = nn.DilatedLayer(spec.in_channels, spec.dilated, dtype)
            self.merge = nn.OctaveLayer([sum(d) for d in spec.dilated], spec.out_channels, dtype=dtype)

        def forward(self, inputs: list) -> list:
            return self.merge(self.dilated(inputs))

    return DilatedFuse()


# ----------------------------------------------------------------------------------------------------------------------
# Verification
# ----------------------------------------------------------------------------------------------------------------------

TORCH_FORMATS = {"torch NCHW": "contiguous_format", "torch channels_last": "channels_last"}
OURS = "octsod"
REFERENCE = "torch NCHW"

VERIFY_BATCH = 2
VERIFY_SEEDS = 6
KINDS = ("outputs", "input gradients", "parameter gradients")
TOLERANCES = {"float64": dict.fromkeys(KINDS, 1e-9), "float32": dict(zip(KINDS, (1e-4, 1e-4, 1e-3), strict=True))}
"""Largest error of any entry, relative to the largest entry of its tensor; the reference is PyTorch in float64.

In float32, gradients of a correct implementation jump where a number lies within rounding of a PReLU's kink or of its
rival in a max-pooling, and with some millions of numbers one of them often does. A mistake shows on every draw of the
data, a jump does not: in float32 it suffices that one draw out of VERIFY_SEEDS is within the tolerances. The outputs,
which do not jump, must be so on every draw that was looked at, and in float64 the first draw counts.
"""


def build(implementation: str, case: Case) -> Block:
    if implementation == OURS:
        return octsod_block(case)
    return torch_block(case, TORCH_FORMATS[implementation])


def compare(actual: Results, expected: Results) -> dict[str, float]:
    """Worst error by kind, see TOLERANCES."""

    def worst(kind: str, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
        largest = 0.0
        for a, e in pairs:
            if a.shape != e.shape:
                raise click.ClickException(f"{kind}: shape {a.shape} instead of {e.shape}")
            error = float(np.abs(a.astype(np.float64) - e).max() / np.abs(e).max())
            largest = max(largest, error if np.isfinite(error) else np.inf)
        return largest

    if actual.parameter_grads.keys() != expected.parameter_grads.keys():
        names = sorted(actual.parameter_grads.keys() ^ expected.parameter_grads.keys())
        raise click.ClickException(f"parameter gradients missing or unexpected: {names}")
    parameter_pairs = ((actual.parameter_grads[key], e) for key, e in expected.parameter_grads.items())
    return {
        "outputs": worst("outputs", zip(actual.outputs, expected.outputs, strict=True)),
        "input gradients": worst("input gradients", zip(actual.input_grads, expected.input_grads, strict=True)),
        "parameter gradients": worst("parameter gradients", parameter_pairs),
    }


def _run_twice(implementation: str, case: Case) -> Results:
    """Results of a second step: buffers wrongly reused and gradients wrongly accumulated show only then."""
    block = build(implementation, case)
    block.step()
    block.step()
    return block.results()


def verify(name: str, implementations: Sequence[str]) -> tuple[list[dict], bool]:
    """Compare every implementation in both precisions with PyTorch's float64 results; print a line for each."""
    references: dict[int, Results] = {}

    def errors_of(implementation: str, dtype: type, seed: int) -> dict[str, float]:
        if seed not in references:
            references[seed] = _run_twice(REFERENCE, make_case(name, VERIFY_BATCH, np.float64, seed))
        return compare(_run_twice(implementation, make_case(name, VERIFY_BATCH, dtype, seed)), references[seed])

    rows, all_passed = [], True
    for dtype in (np.float64, np.float32):
        tolerances = TOLERANCES[dtype.__name__]
        for implementation in implementations:
            if implementation == REFERENCE and dtype is np.float64:
                continue
            for seed in range(VERIFY_SEEDS if dtype is np.float32 else 1):
                errors = errors_of(implementation, dtype, seed)
                passed = all(errors[kind] <= tolerances[kind] for kind in KINDS)
                if passed or errors["outputs"] > tolerances["outputs"]:
                    break
            all_passed &= passed
            rows.append(
                {
                    "implementation": implementation,
                    "dtype": dtype.__name__,
                    "passed": passed,
                    "draws": seed + 1,
                    "errors": errors,
                }
            )
            cells = ", ".join(f"{kind} {error:.1e}" for kind, error in errors.items())
            draws = f" (draw {seed + 1})" if seed else ""
            click.echo(f"  {implementation:20} {dtype.__name__:8} {'ok  ' if passed else 'FAIL'} {cells}{draws}")
    return rows, all_passed


# ----------------------------------------------------------------------------------------------------------------------
# Timing and report
# ----------------------------------------------------------------------------------------------------------------------


def time_rounds(blocks: Mapping[str, Block], rounds: int) -> dict[str, list[float]]:
    """Seconds of every step, ``rounds`` per block, interleaved so that a disturbance hits all of them alike."""
    for block in blocks.values():
        block.step()
    samples: dict[str, list[float]] = {name: [] for name in blocks}
    for name in interleaved(list(blocks), rounds):
        samples[name] += timed_steps(blocks[name].step, 1)
    return samples


def _summary(samples: Sequence[float]) -> dict:
    q1, median, q3 = quartiles(samples)
    return {"median_s": median, "q1_s": q1, "q3_s": q3, "samples_s": list(samples)}


def _report(spec: BlockSpec, timings: Mapping[str, dict]) -> dict:
    """Print a case's table; return its JSON record."""
    best = min(TORCH_FORMATS, key=lambda name: timings[name]["median_s"])
    click.echo(f"  {'':20} {'median':>10} {'IQR':>22} {'best torch / this':>18}")
    for name, t in timings.items():
        iqr = f"{1e3 * t['q1_s']:.1f} .. {1e3 * t['q3_s']:.1f} ms"
        ratio = timings[best]["median_s"] / t["median_s"]
        click.echo(f"  {name:20} {1e3 * t['median_s']:7.1f} ms {iqr:>22} {ratio:17.2f}x")
    record = {"title": spec.title, "best_torch": best, "timings": dict(timings)}
    if OURS in timings:
        record["speedup"] = timings[best]["median_s"] / timings[OURS]["median_s"]
    return record


def _environment(threads: int, batch: int) -> dict:
    versions = {name: installed(name) for name in ("numpy", "torch")}
    versions["python"] = platform.python_version()
    return {"cpu": processor(), "cpus": os.cpu_count(), "threads": threads, "batch": batch, "versions": versions}


def _set_threads(threads: int) -> None:
    """Threads and subnormal handling, before any worker thread exists: workers inherit the mode of their creator."""
    set_threads(threads)
    import torch

    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)


@click.command(name="gate", help=__doc__.splitlines()[0])
@click.option("--case", "names", multiple=True, type=click.Choice(list(SPECS)), help="Only this case (repeatable).")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(min=1), help="Timed steps of each.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("-b", "--batch-size", default=24, show_default=True, type=click.IntRange(min=1), help="While timing.")
@click.option("--peers-only", is_flag=True, help="Leave octsod out.")
@click.option("--verify-only", is_flag=True, help="Compare results, time nothing.")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write the numbers here."
)
def gate(
    names: Sequence[str],
    rounds: int,
    threads: int,
    batch_size: int,
    peers_only: bool,
    verify_only: bool,
    json_file: Path | None,
) -> None:
    _set_threads(threads)
    implementations = [*TORCH_FORMATS] if peers_only else [*TORCH_FORMATS, OURS]
    report = {"environment": _environment(threads, batch_size), "cases": {}}
    click.echo(
        f"Errors relative to the largest entry of float64 PyTorch's results at batch {VERIFY_BATCH}; allowed are"
    )
    for dtype, tolerances in TOLERANCES.items():
        click.echo(f"  {dtype}: " + ", ".join(f"{kind} {tolerance:g}" for kind, tolerance in tolerances.items()))
    click.echo(f"Times of forward + backward at batch {batch_size}, float32, {threads} threads.")
    for name in names or SPECS:
        spec = SPECS[name]
        click.echo(f"\n{name}: {spec.title}")
        verification, passed = verify(name, implementations)
        if not passed:
            raise click.ClickException(f"{name}: results differ; nothing is timed.")
        record = {}
        if not verify_only:
            case = make_case(name, batch_size)
            blocks = {implementation: build(implementation, case) for implementation in implementations}
            samples = time_rounds(blocks, rounds)
            record = _report(spec, {implementation: _summary(s) for implementation, s in samples.items()})
            del blocks  # before the next case allocates its own
        report["cases"][name] = {**record, "verification": verification}
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    gate.main(args=list(sys.argv[1:] if argv is None else argv), prog_name="python -m bench gate")


if __name__ == "__main__":
    main()
