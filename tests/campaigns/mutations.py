"""How inputs are damaged: bytes, tokens of text, and trees such as JSON makes.

A mutation takes what it changes and a `random.Random`, its only source of chance, and returns the changed copy.
"""

import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

NUMBERS = [0, 1, -1, 2, 3, 7, 16, 127, 128, 255, 256, 4096, 8192, 32767, 65535, 65536, 10**6, 2**31 - 1, 2**31,
           2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63), 10**20]  # fmt: skip
TOKENS = re.compile(rb'"(?:[^"\\\n]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\w+|\s+|.', re.S)
WORDS = [
    *(str(n).encode() for n in NUMBERS), b"null", b"true", b"false", b"NaN", b"nan", b"Infinity", b"-inf",
    b"1e999", b"0.5", b"-0.0", b"1e-320", b'""', b"''", b"[]", b"{}", b"[[]]", b'{"": {}}', b"[" * 3000,
    b'{"a":' * 3000, b"9" * 5000,
    b'"\\ud800"', b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b'"' + b"a" * 70000 + b'"', b"1979-05-27T07:32:00Z", b"0x10",
    b"1_000", b'"""', b"\n", b",", b":", b"=", b"[x]\n", b"a.b", b"#", b'"../../x"', b'"/dev/zero"', b'"\\u0000"',
]  # fmt: skip


def _place(data, rng):
    return rng.randrange(len(data) + 1)


def _span(data, rng):
    """A start and an end, mostly close to each other."""
    start = _place(data, rng)
    return start, min(len(data), start + rng.choice([1, 2, 4, 8, 16, 64, 256, len(data)]))


def flip(data: bytes, rng: random.Random) -> bytes:
    """One to eight bits."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 8) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end is lost, as by a full disk."""
    return data[: rng.choice([_place(data, rng), max(0, len(data) - rng.randint(1, 16)), rng.randint(0, 16)])]


def remove(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def insert(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.randbytes(rng.choice([1, 2, 4, 16, 256])) + data[at:]


def repeat(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * rng.choice([1, 2, 50] if end - start < 999 else [1]) + data[end:]


def swap(data: bytes, rng: random.Random) -> bytes:
    a, b, c = sorted(_place(data, rng) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def blank(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.choice([b"\x00", b"\xff", b" "]) * (end - start) + data[end:]


def number(data: bytes, rng: random.Random) -> bytes:
    """A binary number, of any width and order, becomes one at the edge of something."""
    kind = rng.choice(["<H", ">H", "<I", ">I", "<Q", ">Q", "B"])
    size = struct.calcsize(kind)
    value = (rng.choice(NUMBERS) + rng.randint(-1, 1)) % (1 << 8 * size)
    at = rng.choice([_place(data, rng), rng.randint(0, 64)])
    return data[:at] + struct.pack(kind, value) + data[at + size :]


def digits(data: bytes, rng: random.Random) -> bytes:
    """The same of a number in text."""
    found = list(re.finditer(rb"\d+", data[:65536]))
    if not found:
        return number(data, rng)
    match = rng.choice(found)
    return data[: match.start()] + str(rng.choice(NUMBERS)).encode() + data[match.end() :]


def floats(data: bytes, rng: random.Random) -> bytes:
    """Some aligned float32 become special ones."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 4, len(data) // 4])):
        at = rng.randrange(len(data) // 4) * 4 if len(data) >= 4 else 0
        data[at : at + 4] = struct.pack("<f", rng.choice(SPECIAL))
    return bytes(data)


SPECIAL = [float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e-45, 3e38, -3e38, 1e20, -1.0]
BYTES: list[Mutation] = [flip, cut, remove, insert, repeat, swap, blank, number, digits]


def splice(others: list[bytes]) -> Mutation:
    """The beginning of one valid file, the end of another."""

    def spliced(data: bytes, rng: random.Random) -> bytes:
        other = rng.choice(others)
        return data[: _place(data, rng)] + other[_place(other, rng) :]

    return spliced


def tokens(data: bytes, rng: random.Random) -> bytes:
    """A token of text is replaced, doubled, lost or exchanged."""
    parts = TOKENS.findall(data[:65536])
    for _ in range(rng.choice([1, 1, 2])):
        at, other = (rng.randrange(len(parts)) if parts else 0 for _ in range(2))
        match rng.randrange(5):
            case 0 | 1:
                parts[at : at + 1] = [rng.choice(WORDS)]
            case 2:
                parts[at:at] = parts[other : other + rng.choice([1, 3, 9])]
            case 3:
                del parts[at : at + rng.choice([1, 1, 5])]
            case _:
                parts[at : at + 1] = parts[other : other + 1]
    return b"".join(parts) + data[65536:]


def lines(data: bytes, rng: random.Random) -> bytes:
    """Whole lines are lost, doubled, exchanged, cut or joined."""
    parts = data.splitlines(keepends=True) or [b""]
    at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
    match rng.randrange(5):
        case 0:
            del parts[at]
        case 1:
            parts.insert(at, parts[other])
        case 2:
            parts[at], parts[other] = parts[other], parts[at]
        case 3:
            parts[at] = parts[at][: _place(parts[at], rng)]
        case _:
            parts[at] = tokens(parts[at], rng)
    return b"".join(parts)


TEXT: list[Mutation] = [tokens, tokens, lines, digits]


def scalar(rng: random.Random) -> Any:
    """A value that JSON can express, seldom what is expected."""
    return rng.choice([
        rng.choice(NUMBERS), float(rng.choice(NUMBERS)), rng.choice(SPECIAL), rng.random(), None, True, False, "",
        "0", "1", "é", "a" * 300_000, "F64", "[]", "{}", [], {}, [[]], {"": None}, [0], [-1], [2**40], [1] * 5000,
        "../x", "\x00", "None", nested(rng.choice([30, 500, 3000])),
    ])  # fmt: skip


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def tree(value: Any, rng: random.Random) -> Any:
    """A tree of dicts and lists with a change in one place; text that is JSON itself is a part of the tree."""
    if isinstance(value, str) and value[:1] in ("{", "[") and rng.random() < 0.9:
        try:
            return json.dumps(tree(json.loads(value), rng))
        except (ValueError, RecursionError):
            return scalar(rng)
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.1:
        if type(value) is int and rng.random() < 0.5:
            return value + rng.choice([-2, -1, 1, 2, 16, value])
        return scalar(rng)
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    at = rng.randrange(len(pairs))
    key, item = pairs[at]
    match rng.randrange(8):
        case 0:
            del pairs[at]
        case 1:
            pairs.append((key if isinstance(value, list) else rng.choice([f"{key}2", "", "a" * 999]), item))
        case 2:
            pairs[at] = key, pairs[rng.randrange(len(pairs))][1]
        case _:
            pairs[at] = key, tree(item, rng)
    return dict(pairs) if isinstance(value, dict) else [item for _, item in pairs]
