"""What the pickles that `pickles` runs may do, and how much of it: found by a look at every opcode before."""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator
from typing import Any

_MAX_OPCODES = 300_000  # CSNet-x1 with the state of its optimiser: 32 thousand
_MAX_TUPLE = 256  # entries of a tuple and of the tuples in it; that of a tensor with four axes: 45
_MAX_OTHER_KEYS = 10_000  # entries of all keys that are no strings: each parameter's number, and its id

_GETS = {"BINGET", "LONG_BINGET"}
_PUTS = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_TUPLES = {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_STRINGS = {"BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"}
# Left out on purpose: the text opcodes of protocols 0 and 1 (numbers of any length), EXT1/2/4 (objects from a table
# of the process, past find_class), sets (they hash), DUP and POP (no such file needs them).
_OPCODES = {*_GETS, *_PUTS, *_TUPLES, *_STRINGS, "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"}
_OPCODES |= {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST"}
_OPCODES |= {"APPEND", "APPENDS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "NEWOBJ", "BINPERSID"}


class FaultError(Exception):
    """What is wrong with a file, without the file's name, which `pickles` puts in front."""


def shown(text: object) -> str:
    """Text from the file, made fit for a message: one line, no control characters, not long."""
    escaped = ascii(str(text))[1:-1]
    return escaped if len(escaped) <= 120 else escaped[:117] + "..."


def screened(stream: io.BytesIO, find_class: Callable[[str, str], Any]) -> bytes:
    """The bytes of the next pickle, without its frames, after a look at every opcode.

    The stack is simulated with weights instead of values, which bound the time that hashing takes: 0 for a string, else
    1, and for a tuple, how many entries it and the tuples in it have. What an opcode makes of values other than tuples
    has the weight of the heaviest: a little too strict, never too lax.
    """
    start = stream.tell()
    cuts = [start]
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    other_keys = 0
    opcodes: Iterator[tuple[Any, Any, Any]] = pickletools.genops(stream)  # their arguments have the types they name
    for done, (opcode, arg, position) in enumerate(opcodes):
        name = opcode.name
        if name in ("GLOBAL", "INST"):  # before the check of the opcode: this name tells more
            find_class(*arg.split(" ", 1))
        if name not in _OPCODES:
            raise FaultError(f"uses the pickle opcode {name} at byte {position}, which no such file needs")
        if done >= _MAX_OPCODES:
            raise FaultError(f"holds a pickle of more than {_MAX_OPCODES} opcodes")
        if name == "FRAME":  # 9 bytes: a hint to read ahead, and the one opcode that unpicklers follow differently
            cuts += [position, position + 9]
        elif name == "MARK":
            marks.append(len(stack))
        elif name in _PUTS:
            index = len(memo) if arg is None else arg
            if index > done:  # picklers number their objects one by one
                raise FaultError(f"uses memo index {index} at byte {position}, beyond all that it can have stored")
            memo[index] = stack[-1]
        elif name in _GETS:
            stack.append(memo[arg])
        else:
            before = opcode.stack_before
            marked = pickletools.markobject in before
            base = marks.pop() - before.index(pickletools.markobject) if marked else len(stack) - len(before)
            if base < 0:
                raise FaultError(f"holds a malformed pickle: nothing for {name} to work on at byte {position}")
            if name in _TUPLES:
                weight = 1 + sum(stack[base:]) + len(stack) - base
            else:
                weight = 0 if name in _STRINGS else max(stack[base:], default=1)
            if weight > _MAX_TUPLE:
                raise FaultError(f"nests tuples with more than {_MAX_TUPLE} entries in all")
            if name in ("SETITEM", "SETITEMS"):
                other_keys += sum(stack[base + 1 :: 2])
                if other_keys > _MAX_OTHER_KEYS:
                    raise FaultError(f"has more than {_MAX_OTHER_KEYS} keys that are no strings")
            stack[base:] = [weight] * len(opcode.stack_after)
    cuts.append(stream.tell())
    data = stream.getbuffer()
    return b"".join(data[low:high] for low, high in zip(cuts[::2], cuts[1::2], strict=True))
