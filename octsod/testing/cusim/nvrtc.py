"""What NVIDIA's compiler makes of kernels: registers, shared memory and spills, for any GPU, without a driver. It is a
package of its own, `nvidia-cuda-nvrtc-cu12`."""

import ctypes
import dataclasses
import functools
import importlib.util
import pathlib
import re

from .errors import KernelError

# What CuPy adds to a module's own options.
CUPY_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")

_REPORT = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers([^\n]*)", re.S,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Resources:
    """What a kernel needs: registers per thread, bytes of static shared memory per block, and bytes per thread that
    live in memory for lack of registers (`spills`, stores and loads together) or because of their addresses
    (`stack`)."""

    registers: int
    shared: int
    spills: int
    stack: int


@functools.cache
def _library():
    """NVRTC, or None."""
    package = importlib.util.find_spec("nvidia")
    folders = [pathlib.Path(folder) for folder in package.submodule_search_locations or ()] if package else []
    for folder in folders:
        for found in sorted(folder.glob("*/lib/libnvrtc.so.*")):
            for helper in found.parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(helper))
            return ctypes.CDLL(str(found))
    return None


def unavailable() -> str:
    """Why kernels cannot be compiled for GPUs here, as one sentence, or ""."""
    return "" if _library() else "Compiling for GPUs needs NVRTC: `pip install nvidia-cuda-nvrtc-cu12`."


def version() -> tuple[int, int]:
    """NVRTC's major and minor number. Raises KernelError if it is not there."""
    library = _library()
    if library is None:
        raise KernelError(unavailable())
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def resources(code: str, architecture: str, options=(), name_expressions=()) -> dict[str, Resources]:
    """Compile for a GPU such as "sm_80", with CuPy's own options besides `options`; what each kernel needs, by its
    name or by its expression. Raises KernelError for what does not compile."""
    library = _library()
    if library is None:
        raise KernelError(unavailable())
    program, length = ctypes.c_void_p(), ctypes.c_size_t()
    library.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernel.cu", 0, None, None)
    try:
        for expression in name_expressions:
            library.nvrtcAddNameExpression(program, expression.encode())
        chosen = [f"--gpu-architecture={architecture}", *CUPY_OPTIONS, *options, "--ptxas-options=-v"]
        strings = (ctypes.c_char_p * len(chosen))(*(option.encode() for option in chosen))
        failed = library.nvrtcCompileProgram(program, len(chosen), strings)
        library.nvrtcGetProgramLogSize(program, ctypes.byref(length))
        log = ctypes.create_string_buffer(length.value)
        library.nvrtcGetProgramLog(program, log)
        said = log.value.decode(errors="replace")
        if failed:
            raise KernelError(f"The kernels do not compile for {architecture}: {said.strip()[:1000]}")
        names = {}
        for expression in name_expressions:
            lowered = ctypes.c_char_p()
            library.nvrtcGetLoweredName(program, expression.encode(), ctypes.byref(lowered))
            names[(lowered.value or b"").decode()] = expression
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    found = {}
    for name, stack, stores, loads, registers, rest in _REPORT.findall(said):
        shared = re.search(r"(\d+) bytes smem", rest)
        needs = Resources(int(registers), int(shared[1]) if shared else 0, int(stores) + int(loads), int(stack))
        found[names.get(name, name)] = needs
    return found
