"""From source to a library that can be called: by g++, once for each source, options, mode and compiler."""

import atexit
import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile

from ...files import read_file, write_atomically
from ...places import make_cache_root, mistrust_of, trusted_folder
from .assembly import lay_out
from .errors import KernelError
from .source import Kernel, find_kernels, translation_unit

HERE = pathlib.Path(__file__).parent
MODES = {"plain": 0, "check": 1, "count": 2}
_WATCHED = {
    "plain": [],
    # g++ would read an invariant before a loop, even where the loop may not: then nobody may have written it.
    # The memory of a thread's own arrays is not watched, but the indices of all arrays of known size are.
    "check": ["-fsanitize=thread", "-fsanitize=bounds", "-fno-tree-loop-im"],
    "count": ["-fsanitize=thread", "-fsanitize-coverage=trace-pc"],  # the second for arithmetic, see arithmetic.py
}
MOST_CODE = 1 << 22  # bytes of a module: call sites are numbered by their addresses; as in memory.h
MOST_SHARED = 3500  # shared arrays of a module; memory.h has room for 4000 regions
SUFFIX = ".cusim"
_MOST = 1 << 28  # bytes of an entry of the cache
_KEPT = 300  # entries of the cache

_COMMON = ("-O2", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-w")
# Accesses that g++ merges, or copies into two branches, would not be those that a GPU makes. -g1 has the lines.
_KERNELS = (
    "-g1", "-gdwarf-4", "-fno-exceptions", "-fno-rtti", "-fno-strict-aliasing", "-ffp-contract=off", "-fno-math-errno",
    "-fno-tree-vectorize", "-fno-store-merging", "-fno-thread-jumps", "-fno-split-paths", "-fno-crossjumping",
    "-fno-tree-tail-merge", "-fno-ipa-icf", "-fno-zero-initialized-in-bss", "-fno-dwarf2-cfi-asm",
    "-ftls-model=global-dynamic",
)  # fmt: skip


def unavailable() -> str:
    """Why kernels cannot be simulated here, as one sentence, or ""."""
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
        return f"The CUDA simulator runs on Linux on x86-64 alone; this is {platform.system()} on {platform.machine()}."
    command = os.environ.get("CXX") or "g++"
    path = shutil.which(command)
    if path is None:
        return f"The CUDA simulator needs g++; there is no `{command}` on PATH (the variable CXX can name one)."
    if not _version(path):
        return f"The CUDA simulator needs g++ 10 or later for Linux on x86-64, which `{path}` is not."
    return ""


@functools.cache
def _version(path):
    """What the compiler says of itself, or "" if it is of no use."""
    asked = ("--version", "-dumpmachine", "-dumpversion")
    said = [_run([path, option]).stdout.decode(errors="replace") for option in asked]
    gnu = "Free Software Foundation" in said[0] and re.fullmatch(r"x86_64-.*linux.*", said[1].strip())
    return "\n".join(said) if gnu and int(re.match(r"\d*", said[2])[0] or 0) >= 10 else ""


def _run(command, given=b""):
    # In English, whatever the user's language: messages are searched for lines.
    environment = {**os.environ, "LC_ALL": "C", "LANGUAGE": "C"}
    return subprocess.run([*map(str, command)], input=given, capture_output=True, env=environment, check=False)


def options_for_compiler(options: tuple[str, ...]) -> list[str]:
    """Those of CuPy's options that matter here: macros, folders of headers, and C++20. All others steer NVRTC."""
    kept: list[str] = []
    waiting = ""
    for option in options:
        if waiting:
            kept.append(waiting + option)
            waiting = ""
        elif option in ("-D", "-U", "-I"):
            waiting = option
        elif option.startswith(("-D", "-U", "-I")):
            kept.append(option)
        elif match := re.fullmatch(r"--(define-macro|undefine-macro|include-path)=(.*)", option):
            kept.append({"d": "-D", "u": "-U", "i": "-I"}[match[1][0]] + match[2])
        elif option in ("-std=c++20", "--std=c++20"):
            kept.append("-std=c++20")
    return kept


class Library:
    """A compiled module: its kernels, and its functions (runtime.cpp) through ctypes."""

    def __init__(self, code: str, options: tuple[str, ...], expressions: tuple[str, ...], mode: str):
        if reason := unavailable():
            raise KernelError(reason)
        compiler = shutil.which(os.environ.get("CXX") or "g++")
        version, chosen = _version(compiler), options_for_compiler(options)
        standard = [] if "-std=c++20" in chosen else ["-std=c++17"]
        machine = ["-mfma"] if _has_fma() else []
        arguments = [*standard, *chosen]
        source = _preprocessed(compiler, code, arguments)
        self.kernels: dict[str, Kernel] = find_kernels(source)
        self.unit = unit = translation_unit(source, self.kernels, expressions, str(HERE))
        for_kernels = [*standard, *_COMMON, *machine, *_KERNELS, *_WATCHED[mode]]
        for_runtime = [*_COMMON, f"-DCUSIM_MODE={MODES[mode]}"]
        headers = "".join(
            read_file(path, _MOST).decode() for path in sorted(HERE.iterdir()) if path.suffix in (".h", ".cpp")
        )
        runtime = hashlib.sha256(repr((for_runtime, version, headers)).encode()).hexdigest()
        module = hashlib.sha256(repr((runtime, for_kernels, unit)).encode()).hexdigest()
        self._lines: dict[int, tuple[str, int]] = {}
        self.path = _stored(module)
        if self.path is None:
            linked = _stored(runtime) or _store(runtime, _compile_runtime(compiler, for_runtime))
            self.path = _store(module, _compile(compiler, unit, for_kernels, linked))
        self.calls = ctypes.CDLL(str(self.path))
        self.calls.cusim_code_size.restype = ctypes.c_uint64
        arrays = ctypes.c_int64()
        self.calls.cusim_shared_arrays(ctypes.byref(arrays))
        size = self.calls.cusim_code_size()
        if size > MOST_CODE or arrays.value > MOST_SHARED:
            raise KernelError(
                f"The module has {size:,} bytes of code and {arrays.value:,} shared arrays; {MOST_CODE:,} and "
                f"{MOST_SHARED:,} are possible. Split its source."
            )

    def lines(self, sites: list[int]) -> list[tuple[str, int]]:
        """(file, line) in the source of each call site, an address in the library; ("", 0) if it is not known."""
        new = [site for site in dict.fromkeys(sites) if site not in self._lines]
        if new:
            addresses = [hex(site - 1) for site in new]  # a return address is the one of the next instruction
            found = self.inspect("addr2line", "-a", "-i", *addresses, "-e")
            entries = re.split(r"^0x[0-9a-f]+\n", found, flags=re.M)[1:]
            self._lines.update(dict.fromkeys(new, ("", 0)))
            self._lines.update(zip(new, map(_place_in_source, entries), strict=False))
        return [self._lines[site] for site in sites]

    def inspect(self, *command: str) -> str:
        """What one of the compiler's companions says of the library, whose path is the last argument."""
        return _run([*command, self.path]).stdout.decode(errors="replace")


def _place_in_source(entry):
    """(file, line) of the innermost inlined function that is not in one of our headers."""
    for line in entry.splitlines():
        name, _, number = line.split(" (")[0].rpartition(":")
        if number.isdecimal() and not name.startswith((str(HERE), "?")):
            return os.path.basename(name), int(number)
    return "", 0


@functools.cache
def _has_fma():
    """Whether the processor has fused multiply-add; without, g++ computes it by a slow function with the same bits."""
    try:
        return re.search(rb"^flags\s*:.*\bfma\b", read_file("/proc/cpuinfo", _MOST), re.M) is not None
    except ValueError:
        return False


def _preprocessed(compiler, code, arguments):
    """The source with its macros replaced, and marks that say which line is which."""
    # As NVRTC, g++ must find no headers but those in folders that the options name.
    macros = ["-D__CUDACC__", "-D__CUDACC_RTC__", "-D__CUDA_ARCH__=700", "-DCUSIM=1"]
    command = [compiler, "-E", "-x", "c++", *arguments, *macros, "-nostdinc", "-nostdinc++", "-w", "-"]
    result = _run(command, b'#line 1 "kernel.cu"\n' + code.encode())
    if result.returncode:
        raise KernelError(_first_errors(result.stderr.decode(errors="replace")))
    return result.stdout.decode()


def _compile(compiler, unit, command, runtime):
    """The bytes of the module's library."""
    result = _run([compiler, *command, "-S", "-x", "c++", "-", "-o", "-"], unit.encode())
    if result.returncode:
        raise KernelError(_first_errors(result.stderr.decode(errors="replace")))
    with tempfile.TemporaryDirectory() as folder:
        out, objects = pathlib.Path(folder, "module.so"), pathlib.Path(folder, "runtime.o")
        # The linker takes no object with something after its end, as the cache has it.
        write_atomically(objects, read_file(runtime, _MOST)[: -_CHECKSUM])
        link = [compiler, "-shared", "-x", "assembler", "-", "-x", "none", objects, "-o", out, "-lstdc++", "-lm"]
        result = _run(link, lay_out(result.stdout.decode()).encode())
        if result.returncode:
            raise KernelError(_first_errors(result.stderr.decode(errors="replace")))
        return read_file(out, _MOST)


def _compile_runtime(compiler, command):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "runtime.o")
        result = _run([compiler, "-std=c++17", *command, "-c", HERE / "runtime.cpp", "-o", out])
        if result.returncode:
            raise KernelError(_first_errors(result.stderr.decode(errors="replace")))
        return read_file(out, _MOST)


def _first_errors(said):
    """One message of the compiler's first errors, with lines of the source."""
    found = re.findall(r"^(.*?):(\d+):(?:\d+:)? (?:fatal )?error: (.*)$", said, re.M)
    lines = [f"{'' if name == 'kernel.cu' else name + ' '}line {line}: {text}" for name, line, text in found[:3]]
    more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
    text = "; ".join(lines) + more if lines else said.strip()[:500] or "g++ failed"
    return f"The kernels do not compile: {text}."


# --- The cache: a file for each library, with a checksum after its end, which loaders ignore. -------------------------
_CHECKSUM = hashlib.sha256().digest_size


@functools.cache
def _folder():
    """Where libraries are kept: among octsod's compiled kernels, or for this process alone."""
    folder, _ = trusted_folder("cusim", SUFFIX)
    if folder is not None:
        return folder
    private = tempfile.mkdtemp(prefix="cusim-")
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return pathlib.Path(private)


def _checksum(name, data):
    return hashlib.sha256(name.encode() + data).digest()


def _stored(name):
    """The path of an entry, or None if there is none that is whole and that only this user or root has written."""
    path = _folder() / f"{name[:40]}{SUFFIX}"
    try:
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode) or mistrust_of(facts):
            return None
        data = read_file(path, _MOST)
    except (OSError, ValueError):
        return None
    return path if data[-_CHECKSUM:] == _checksum(name, data[:-_CHECKSUM]) else None


def _written(entry):
    """When an entry was written; long ago if another process has removed it meanwhile."""
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _store(name, data):
    """Keep an entry; its path."""
    folder = _folder()
    try:
        make_cache_root(folder.parent)
        folder.mkdir(mode=0o755, exist_ok=True)
        path = folder / f"{name[:40]}{SUFFIX}"
        write_atomically(path, data + _checksum(name, data))
        path.chmod(0o755)
        entries = sorted(folder.glob(f"*{SUFFIX}"), key=_written)
        for entry in entries[:-_KEPT]:
            entry.unlink(missing_ok=True)
    except OSError as error:
        raise KernelError(f"{folder}: cannot keep compiled kernels ({error.strerror or error}).") from error
    return path
