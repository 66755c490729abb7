"""A barrier for threads inside kernels: microseconds cheaper than going back to Python between layers."""

import os

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .compile import kernel
from .simd import ARM, X86, Flat

PATIENCE = 1000  # looks, of some 50 ns each, before a waiting thread offers its core to others
GIVEN_UP = 1 << 62  # more than all threads ever count, and far enough from the end for all to arrive afterwards


@intrinsic
def _arrive(typingctx, counter):
    """Atomically add one to counter[0] (int64); whoever waits for it sees everything that was written before."""

    def generate(context, builder, signature, arguments):
        flat = Flat(context, builder, signature.args[0], arguments[0])
        builder.atomic_rmw("add", flat.data, ir.Constant(ir.IntType(64), 1), "seq_cst")
        return context.get_dummy_value()

    return types.void(counter), generate


@intrinsic
def _look(typingctx, counter):
    """counter[0], read anew, after a short pause."""

    def generate(context, builder, signature, arguments):
        if X86:
            hint = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, hint, "llvm.x86.sse2.pause"), [])
        elif ARM:
            hint = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            function = cgutils.get_or_insert_function(builder.module, hint, "llvm.aarch64.hint")
            builder.call(function, [ir.Constant(ir.IntType(32), 1)])  # yield
        flat = Flat(context, builder, signature.args[0], arguments[0])
        return builder.load_atomic(flat.data, "seq_cst", 8)

    return types.int64(counter), generate


@intrinsic
def _yield(typingctx):
    """Let another thread have this core, where the system has a function for that."""

    def generate(context, builder, signature, arguments):
        if hasattr(os, "sched_yield"):
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


@kernel
def wait(counter, total):
    """Count this thread in and wait until `total` have arrived, over all barriers so far, or one has given up.

    counter: (1,) int64. Returns whether nobody has given up.
    """
    _arrive(counter)
    looks = 0
    arrived = _look(counter)
    while arrived < total:
        looks += 1
        if looks > PATIENCE:  # there may be more threads than cores
            _yield()
        arrived = _look(counter)
    return arrived < GIVEN_UP


def give_up(counter):
    """Let all who wait, or ever will, go on at once: a thread is not coming."""
    counter[0] = GIVEN_UP
