"""What g++ has made of a module, changed in the two ways that its options cannot: shared arrays get gaps between them
and a table that says where they are, and variables lie in one section, so that the runtime can find them."""

import re

GAP = 256  # bytes that belong to nobody after each shared array
NAME = 48  # bytes of a name in the table

_SECTION = re.compile(r"\t\.(?:section\t([^,\n]+)(?:,\"(\w*)\")?.*|(text|data|bss)(?:\t.*)?)$")


def lay_out(assembly: str) -> str:
    """The assembly with both changes."""
    lines: list[str] = []
    shared: list[tuple[str, int]] = []
    local: set[str] = set()
    thread_local, size = False, None
    for line in assembly.splitlines():
        if section := _SECTION.match(line):
            name, flags = section[1] or f".{section[3]}", section[2] or ""
            thread_local = name.startswith((".tbss", ".tdata")) or "T" in flags
            ours = name in (".data", ".bss", ".data.rel.local", ".data.rel")
            lines.append('\t.section\tcusim_variables,"aw"' if ours else line)
            continue
        words = line.split()
        if words[:1] == [".size"] and words[2].isdecimal():
            size = (words[1].rstrip(","), int(words[2]))
        elif words[:1] == [".local"]:
            local.add(words[1])
            continue
        elif words[:1] in ([".comm"], [".lcomm"]):  # a variable of zeros, outside all sections
            name, length, *alignment = words[1].split(",")
            lines += ['\t.pushsection\tcusim_variables,"aw"', f"\t.balign {alignment[0] if alignment else 16}",
                      f"{name}:", f"\t.zero {length}", "\t.popsection"]  # fmt: skip
            continue
        lines.append(line)
        if thread_local and size and words[:1] == [".zero"] and int(words[1]) == size[1]:
            lines.append(f"\t.zero\t{GAP}")
            shared.append(size)
            size = None
    lines += [f"\t.local\t{name}" for name in sorted(local)]
    for symbol, count in shared:
        # g++ guards the making of arrays of vectors; that is no shared memory, and gets no name.
        name = "" if symbol.startswith("_ZGV") else _readable(symbol)[: NAME - 1]
        lines += ['\t.section\tcusim_shared,"aw"', "\t.balign 8", f"\t.quad\t{symbol}@dtpoff", f"\t.quad\t{count}",
                  f'\t.ascii\t"{name}"', f"\t.zero\t{NAME - len(name)}"]  # fmt: skip
    return "\n".join(lines) + "\n"


def _readable(symbol):
    """The name of an array in the source: the last one in a mangled name."""
    names = []
    at = 0
    while number := re.compile(r"\d+").search(symbol, at):
        end = number.end() + int(number[0])
        if symbol.startswith("_Z") and end <= len(symbol) and not symbol[number.end() :][:1].isdigit():
            names.append(symbol[number.end() : end])
            at = end
        else:
            at = number.end()
    return names[-1] if names else re.sub(r"\W.*", "", symbol)
