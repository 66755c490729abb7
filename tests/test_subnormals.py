"""The floating-point mode: subnormal numbers are flushed in each thread of a kernel, and nowhere else. That no kernel
makes any is tested for the whole table by kernel_contract.py."""

import concurrent.futures
import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from commands import ROOT
from octsod.kernels import cpu
from octsod.kernels.cpu import parallel

import octsod
from octsod import inference

THREADS = 3


@pytest.fixture(autouse=True)
def threads():
    octsod.set_num_threads(THREADS)


def flushing():
    """Whether the calling thread flushes subnormal numbers."""
    return bool(np.float32(1e-20) * np.float32(1e-20) == 0)


class Kernel:
    """Called like a kernel; each of the threads takes one task, notes its mode, and fails if it is the one to fail."""

    def __init__(self, failing=None):
        self.failing, self.seen, self.all_here = failing, {}, threading.Barrier(THREADS)

    def __call__(self, slot, start, stop):
        self.all_here.wait(60)
        self.seen[slot] = flushing()
        if slot == self.failing:
            raise ArithmeticError("on purpose")


@pytest.mark.parametrize("failing", range(THREADS))
def test_the_mode_is_restored_when_a_kernel_raises(failing):
    kernel = Kernel(failing)
    with pytest.raises(ArithmeticError, match="on purpose"):
        parallel.run(kernel, THREADS)
    assert kernel.seen == dict.fromkeys(range(THREADS), True) and not flushing()
    again = Kernel()  # on the same threads
    parallel.run(again, THREADS)
    assert again.seen == dict.fromkeys(range(THREADS), True) and not flushing()


def resized():
    """A kernel that data threads call, on subnormal numbers."""
    out = np.full((1, 5, 7), np.nan, np.float32)
    one = np.ones(1, np.float32)
    cpu.resize_picture(np.full((3, 4, 1), 1e-40, np.float32), one, 0 * one, out)
    return out


def test_in_a_data_thread():
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert not pool.submit(resized).result().any()
        assert not pool.submit(flushing).result()
    assert not flushing()


def test_a_caller_that_flushes_goes_on_flushing():
    word = parallel._mode()
    parallel._flush()
    try:
        out, after = resized(), flushing()
    finally:
        parallel._restore(word)
    assert not out.any() and after and not flushing()


@pytest.mark.parametrize("batch", [1, THREADS])
def test_in_the_whole_network(batch):
    """Be a picture shared out over threads, or pictures: activations and weights of 1e-20 make no logit of 1e-40."""
    model = octsod.csnet(0.2).eval()
    for parameter in model.parameters():
        parameter.data.fill(0)
    model.fusion.merge.norms[0].bias.data.fill(1e-20)
    model.classifier.weight.data.fill(1e-20)
    x = np.zeros((batch, 3, 32, 32), np.float32)
    assert not inference.logits(inference.freeze(model), x).any()
    with octsod.no_grad():
        assert not model(octsod.Tensor(x)).numpy().any()
    assert not flushing()


# Prints the assembly that switches the mode on another machine: as far as a compiler can tell, it is right.
SWITCH = """
    import platform
    import sys

    from llvmlite import binding, ir

    machine = sys.argv[1]
    platform.machine = lambda: machine
    try:
        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
        target = binding.Target.from_triple(f"{machine}-unknown-linux-gnu")
    except (AttributeError, RuntimeError):
        sys.exit(f"no target {machine}")
    from octsod.kernels.cpu import simd

    module = ir.Module()
    module.triple = target.triple
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), []), "switch")
    builder = ir.IRBuilder(function.append_basic_block())
    simd.write_control_word(builder, builder.or_(simd.read_control_word(builder), ir.IntType(64)(simd.FLUSH)))
    builder.ret_void()
    compiled = binding.parse_assembly(str(module))
    compiled.verify()
    machine = target.create_target_machine(opt=2)
    assert machine.emit_object(compiled)
    print(machine.emit_assembly(compiled))
"""


@pytest.mark.parametrize(
    ("machine", "read", "bits", "write"),
    [("aarch64", "mrs", "#0x1000000", "msr"), ("x86_64", "stmxcsr", "$32832", "ldmxcsr")],
)
def test_each_machine_has_a_switch(machine, read, bits, write):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SWITCH), machine], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if done.stderr.startswith("no target"):
        pytest.skip(f"this LLVM cannot compile for {machine}")
    assert done.returncode == 0, done.stderr
    instructions = done.stdout.lower().replace("\t", " ")
    assert machine == "x86_64" or "fpcr" in instructions
    places = [instructions.find(part) for part in (f" {read} ", bits, f" {write} ")]
    assert -1 < places[0] < places[1] < places[2], instructions
