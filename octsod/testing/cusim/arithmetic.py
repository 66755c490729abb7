"""Floating point operations of a launch: how many each basic block has, from the library's machine code, times how
often it was run, which the runtime has counted."""

import ctypes
import re

from .compiler import Library

_HOOK = "__sanitizer_cov_trace_pc"
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(\S+)\s*(.*)$")
# Scalar and packed arithmetic; a fused multiply-add is two. g++ was told not to vectorise, so packed ones are scalar,
# or two for what happens to lie side by side.
_OPERATION = re.compile(r"v?(fn?m(?:add|sub)\d*|add|sub|mul|div|sqrt|min|max)(s|p)[sd]$")


class Blocks:
    """The basic blocks of a library that do arithmetic: (address of the start, operations of each run)."""

    def __init__(self, library: Library):
        self._calls = library.calls
        self._calls.cusim_block_times.restype = ctypes.POINTER(ctypes.c_uint64)
        found: dict[int, int] = {}
        start = called = None
        for line in library.inspect("objdump", "-d", "--no-show-raw-insn").splitlines():
            instruction = _INSTRUCTION.match(line)
            if instruction is None:
                start = None  # another function begins
                continue
            address, name, operands = int(instruction[1], 16), instruction[2], instruction[3]
            if called:
                start, called = address, False
            if name.startswith("call") and _HOOK in operands:
                called = True
            elif start is not None and (operation := _OPERATION.match(name)):
                found[start] = found.get(start, 0) + (2 if operation[1].startswith("f") else 1)
        self._operations = list(found.items())

    def operations(self) -> int:
        """Of the launch that has just ended."""
        times = self._calls.cusim_block_times()
        return sum(times[start] * each for start, each in self._operations)
