"""A kernel's source, made fit for g++: which kernels there are, and what C++ has no word for."""

import dataclasses
import re
import string

from .errors import KernelError

_ATTRIBUTES = {"__launch_bounds__", "__attribute__", "__maxnreg__", "__cluster_dims__"}
_WORD = re.compile(r"\s*(\w+)")
_DYNAMIC = re.compile(
    r"\bextern\s+((?:__shared__\s+|__align__\s*\(\s*\w+\s*\)\s*|alignas\s*\(\s*\w+\s*\)\s*)+)"
    r"([\w:\s]+?(?:<[^;\[\]]*>)?)\s*\b(\w+)\s*\[\s*\]\s*;"
)


@dataclasses.dataclass
class Kernel:
    """A `__global__` function. `parameters` are their names, "" for one without; `bound` is the expression in
    `__launch_bounds__` that says how many threads a block has at most, or "0"."""

    name: str
    plain: bool  # declared extern "C", so that CuPy finds it by its name
    parameters: list[str]
    bound: str


def find_kernels(source: str) -> dict[str, Kernel]:
    """The kernels of preprocessed source, templates as well, by their names."""
    if sum(step for _, step in _brackets(source, 0)) > 0:  # g++ would find fault with what follows the source
        raise KernelError("The kernels do not compile: a bracket is never closed.")
    blocks = [(match.end(), _closing(source, match.end() - 1)) for match in re.finditer(r'extern\s+"C"\s*\{', source)]
    kernels: dict[str, Kernel] = {}
    for match in re.finditer(r"\b__global__\b", source):
        bound, at = "0", match.end()
        name = ""
        while word := _WORD.match(source, at):
            name, at = word[1], word.end()
            bracket = re.compile(r"\s*\(").match(source, at)
            if bracket is None:
                continue
            end = _closing(source, bracket.end() - 1)
            inside = source[bracket.end() : end]
            if name not in _ATTRIBUTES:
                break
            if name == "__launch_bounds__":
                bound = _split(inside)[0]
            at = end + 1
        else:
            continue
        before = re.split(r"[;}]", source[: match.start()])[-1]
        if "__launch_bounds__" in before:  # it may also stand before `__global__`
            bound = _split(before.partition("__launch_bounds__")[2].partition("(")[2].rpartition(")")[0])[0]
        template = re.search(r"\btemplate\s*<", before) is not None
        plain = not template and (
            re.search(r'extern\s+"C"', before) is not None
            or any(start <= match.start() < end for start, end in blocks)
        )
        parameters = [text.partition("=")[0] for text in _split(inside) if text.strip() not in ("", "void")]
        names = [found[-1] if len(found := re.findall(r"\w+", text)) > 1 else "" for text in parameters]
        kernels[name] = Kernel(name, plain, names, "0" if template else bound.strip() or "0")
    return kernels


_OF_NAMES = string.ascii_letters + string.digits + "_."
_BRACKET = re.compile(r"[()\[\]{}]|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)+'")


def _brackets(source, start):
    """(place, 1 if it opens, else -1) of each bracket from `start` on, but for those in strings."""
    for match in _BRACKET.finditer(source, start):
        if match[0][0] not in "\"'":
            yield match.start(), 1 if match[0] in "([{" else -1


def _closing(source, opening):
    """Where the bracket closes that opens at `opening`."""
    depth = 0
    for place, step in _brackets(source, opening):
        depth += step
        if depth == 0:
            return place
    return len(source)


def _opening(text):
    """Where the bracket opens that closes at the end of a text."""
    depth = 0
    for place, step in reversed([*_brackets(text, 0)]):
        depth += step
        if depth == 0:
            return place
    return 0


def _split(text):
    """The parts of a list with commas, which brackets may protect."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def name_before(unit: str, file: str, line: int, column: int) -> str:
    """The name of the array whose subscript ends in this column of a line, or in a template begins there; "" if there
    is none. unit: a translation unit, which says by markers of which file its lines are."""
    here, number = "", 0
    for text in unit.split("\n"):
        if marker := re.match(r'# (\d+) "(.*?)"', text):
            number, here = int(marker[1]), marker[2]
            continue
        if (here, number) == (file, line) and text[column - 1 : column] in ("[", "]"):
            before = text[:column].removesuffix("[")
            while before.endswith("]"):
                before = before[: _opening(before)].rstrip()
            return before[len(before.rstrip(_OF_NAMES)) :]
        number += 1
    return ""


def translation_unit(source: str, kernels: dict[str, Kernel], expressions: tuple[str, ...], headers: str) -> str:
    """What g++ compiles: preprocessed source between our headers and a table of its kernels: those that have plain
    names, then one for each of `expressions`, such as `"scale<float>"`."""
    # Dynamic shared memory is one array of the runtime's, whatever types a kernel sees in it.
    source = _DYNAMIC.sub(r"\2* const \3 = (\2*)cusim_dynamic;", source)
    plain = [kernel for kernel in kernels.values() if kernel.plain]
    entries = [f'  cusim::kernel("{kernel.name}", {kernel.name}, {kernel.bound}),' for kernel in plain]
    entries += [f'  cusim::kernel("{expression}", {expression}, 0),' for expression in expressions]
    return "\n".join([
        "#define CUSIM 1",
        *[f'#include "{headers}/{name}.h"' for name in ("language", "mathematics", "kernels")],
        source,
        '# 1 "cusim kernels"',
        f"extern const int cusim_kernel_count = {len(entries)};",
        "extern const cusim::Kernel cusim_kernels[] = {",
        *entries,
        "  {}};",
        'extern "C" __attribute__((visibility("default"), no_sanitize("thread")))',
        "const cusim::Kernel* cusim_kernel(int i) { return i < cusim_kernel_count ? cusim_kernels + i : nullptr; }",
        "",
    ])  # fmt: skip
