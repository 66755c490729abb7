"""The simulator's modules: arguments and launches that CUDA refuses, options, errors of the compiler, the cache."""

import pathlib
import re
import stat

import numpy as np
import pytest

from octsod.testing import cusim
from octsod.testing.cusim import compiler, nvrtc

SOURCE = """
extern "C" __global__ void __launch_bounds__(64) axpy(float* y, const float* __restrict__ x, float a, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += a * x[i];
}
extern "C" __global__ void wide(double* y, const float4* v, unsigned char* bytes, bool on, size_t n) { y[0] = on * n; }
extern "C" __global__ void shared(float* y, int n) {
  extern __shared__ float s[];
  for (int i = threadIdx.x; i < n; i += blockDim.x) s[i] = i;
  __syncthreads();
  if (threadIdx.x == 0) y[0] = s[n - 1];
}
__global__ void hidden(float* y) { y[0] = 1; }
"""
f32, i32 = np.float32, np.int32


@pytest.fixture
def module(cuda_module):
    return cuda_module(SOURCE)


def zeros(count=8, dtype=np.float32):
    return np.zeros(count, dtype)


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("place, value, was, expected", [
    (3, 3, "(`n`) is a Python int, which CuPy would pass as int64", "a NumPy int32"),
    (2, 1.0, "(`a`) is a Python float, which CuPy would pass as float64", "a NumPy float32"),
    (2, np.float64(1), "(`a`) is of type float64", "a NumPy float32"),
    (3, np.uint32(3), "(`n`) is of type uint32", "a NumPy int32"),
    (1, zeros(8, np.float64), "(`x`) is an array of float64", "an array of float32"),
    (1, zeros(8, ">f4"), "(`x`) is an array of >f4", "an array of float32"),
    (1, zeros((8, 8))[:, 1], "(`x`) is an array that is not contiguous, of which a kernel gets nothing but the address",
     "an array of float32"),
    (0, read_only(zeros()), "(`y`) is an array that is read-only", "an array of float32"),
    (0, f32(1), "(`y`) is of type float32", "an array of float32"),
    (0, [0.0], "(`y`) is a Python list", "an array of float32"),
    (2, zeros(1), "(`a`) is an array of float32", "a NumPy float32"),
    (2, None, "(`a`) is None", "a NumPy float32"),
])  # fmt: skip
def test_arguments_have_exactly_the_types_of_parameters(module, place, value, was, expected):
    arguments = [zeros(), zeros(), f32(1), i32(3)]
    arguments[place] = value
    with pytest.raises(TypeError) as caught:
        module.get_function("axpy")((1,), (32,), arguments)
    assert str(caught.value) == f"axpy: argument {place} {was}; expected {expected}."


def test_the_number_of_arguments(module):
    with pytest.raises(TypeError, match=r"axpy: 3 arguments; the kernel has 4 parameters\."):
        module.get_function("axpy")((1,), (32,), (zeros(), zeros(), f32(1)))


def test_arguments_of_all_kinds(module):
    y = np.zeros(1)
    v, data = read_only(zeros(4)), zeros(3, np.uint8)
    module.get_function("wide")((1,), (1,), (y, v, data, np.bool_(True), np.uint64(7)))
    assert y[0] == 7
    module.get_function("wide")((1,), (1,), (y, None, zeros(0, np.bool_), np.bool_(False), np.uint64(7)))
    assert y[0] == 0


def test_arrays_that_overlap(module):
    memory = np.arange(8, dtype=f32)
    axpy = module.get_function("axpy")
    axpy((1,), (4,), (memory[4:], memory[:4], f32(10), i32(4)))
    np.testing.assert_array_equal(memory, [0, 1, 2, 3, 4, 15, 26, 37])
    axpy((1,), (4,), (memory[:4], memory[:4], f32(1), i32(4)))
    np.testing.assert_array_equal(memory[:4], [0, 2, 4, 6])
    with pytest.raises(cusim.KernelError, match=r"element 1 of argument 0 \(`y`\)|element 0 of argument 1 \(`x`\)"):
        axpy((1,), (4,), (memory[:6], memory[1:7], f32(1), i32(4)))
    with pytest.raises(cusim.KernelError, match="byte 16 of argument"):  # what is beside a view is not the view's
        axpy((1,), (5,), (memory[4:], memory[:4], f32(1), i32(5)))


@pytest.mark.parametrize("grid, block, shared, message", [
    ((1,), (1025,), 0, "a grid of (1, 1, 1) blocks of (1025, 1, 1) threads cannot be launched"),
    ((1,), (1, 1, 65), 0, "of (1, 1, 65) threads cannot"), ((0,), (1,), 0, "a grid of (0, 1, 1)"),
    ((1, 65536), (1,), 0, "a grid of (1, 65536, 1)"), ((1,), (65,), 0, "65 threads in a block; __launch_bounds__"),
    ((1,), (1,), 50_000, "50000 bytes of dynamic shared memory; max_dynamic_shared_size_bytes allows 49152"),
])  # fmt: skip
def test_launches_that_cannot_be(module, grid, block, shared, message):
    with pytest.raises(cusim.KernelError) as caught:
        module.get_function("axpy")(grid, block, (zeros(), zeros(), f32(1), i32(8)), shared_mem=shared)
    assert message in str(caught.value)


def test_more_shared_memory(module):
    kernel = module.get_function("shared")
    y = zeros(1)
    kernel.max_dynamic_shared_size_bytes = 100_000
    kernel((1,), (64,), (y, i32(25_000)), shared_mem=100_000)
    assert y[0] == 24_999


def test_settings_and_names():
    with pytest.raises(ValueError, match="`mode` is 'fast'; expected one of plain, check, count"):
        cusim.RawModule(code="", mode="fast")
    with pytest.raises(ValueError, match="`schedules` is"):
        cusim.RawModule(code="", schedules=("backward",))


def test_only_kernels_with_names(module):
    with pytest.raises(cusim.KernelError, match=r'no kernel `hidden`; extern "C" or .* are: axpy, wide, shared'):
        module.get_function("hidden")


def test_options(cuda_module):
    source = 'extern "C" __global__ void f(int* y) { y[0] = N + VALUE; }'
    options = ("-DN=3", "-D", "VALUE=4", "--use_fast_math", "-lineinfo", "-std=c++14")
    y = zeros(1, i32)
    cuda_module(source, options=options, mode="plain").get_function("f")((1,), (1,), (y,))
    assert y[0] == 7


@pytest.mark.parametrize("source, message", [
    ('\nextern "C" __global__ void f(int* y) {\n  y[0] = wrong;\n}', "line 3: 'wrong' was not declared in this scope"),
    ("#include <vector>\n", "line 1: no include path in which to search for vector"),
    ('#line 7 "norm.cu"\nint x = ;', "norm.cu line 7: expected primary-expression"),
    ('extern "C" __global__ void f(int* y) {', "a bracket is never closed"),
    ('#define TWICE(x) x x\n\nextern "C" __global__ void f() { TWICE(;); }}', "line 3: "),
])  # fmt: skip
def test_errors_of_the_compiler(cuda_module, source, message):
    with pytest.raises(cusim.KernelError) as caught:
        cuda_module(source).compile()
    assert message in str(caught.value) and "octsod/testing" not in str(caught.value)


def test_lines_of_named_files(cuda_module):
    source = '#line 40 "norm.cu"\nextern "C" __global__ void f(float* y, int n) {\n  y[n] = 1;\n}'
    with pytest.raises(cusim.KernelError, match=r"^f, norm\.cu line 41: out of bounds") as caught:
        cuda_module(source).get_function("f")((1,), (1,), (zeros(), i32(9)))
    assert (caught.value.file, caught.value.line) == ("norm.cu", 41)


def test_the_examples(cuda_module, capsys):
    """The blocks of the page, one after the other, print what it shows."""
    text = (pathlib.Path(__file__).parents[1] / "docs" / "cusim.md").read_text(encoding="utf-8")
    blocks, names = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", text, re.M | re.S), {}
    assert len(blocks) == 3
    for code, shown in blocks:
        if "nvrtc" in code and (reason := nvrtc.unavailable()):
            pytest.skip(reason)
        exec(compile(code, "cusim.md", "exec"), names)
        assert capsys.readouterr().out == shown


# --- The cache. ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(cuda_module, tmp_path, monkeypatch):
    """An empty cache; and how often the compiler, not the preprocessor, was run."""
    monkeypatch.setattr(compiler, "_folder", lambda: tmp_path / "cusim")
    runs = []
    run = compiler._run
    monkeypatch.setattr(compiler, "_run", lambda command, *given: runs.append(command) or run(command, *given))
    return tmp_path / "cusim", lambda: sum("-S" in command or "-c" in command for command in runs)


def launched(source='extern "C" __global__ void f(int* y) { y[0] = 5; }', **settings):
    y = zeros(1, i32)
    cusim.RawModule(code=source, mode="plain", **settings).get_function("f")((1,), (1,), (y,))
    return y[0]


def test_modules_are_compiled_once(cache):
    folder, compiled = cache
    assert launched() == 5 and compiled() == 2  # the runtime, and the module
    assert launched() == 5 and compiled() == 2
    assert launched('extern "C" __global__ void f(int* y) { y[0] = 6; }') == 6 and compiled() == 3
    assert launched('extern "C" __global__ void f(int* y) { y[0] = N; }', options=("-DN=8",)) == 8 and compiled() == 4
    assert launched('extern "C" __global__ void f(int* y) { y[0] = N; }', options=("-DN=9",)) == 9 and compiled() == 5
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o755 for path in folder.iterdir())


@pytest.mark.parametrize("damage", ["cut", "changed", "writable", "link", "folder"])
def test_damaged_entries_are_not_used(cache, damage):
    folder, compiled = cache
    launched()
    for path in [*folder.iterdir()]:
        data = path.read_bytes()
        if damage in ("cut", "changed"):
            path.unlink()  # not in place, since it has been loaded
            path.write_bytes(data[:-40] if damage == "cut" else data[:100] + b"?" + data[101:])
        elif damage == "writable":
            path.chmod(0o777)
        else:
            path.rename(folder / "elsewhere")
            path.symlink_to(folder / "elsewhere") if damage == "link" else path.mkdir()
    if damage == "folder":
        with pytest.raises(cusim.KernelError, match="cannot keep compiled kernels"):
            launched()
    else:
        assert launched() == 5 and compiled() == 4


def test_another_process_may_remove_old_entries_meanwhile(cache, monkeypatch):
    folder, _ = cache
    monkeypatch.setattr(compiler, "_KEPT", 2)
    written = compiler._written

    def removing(entry):
        (folder / f"old{compiler.SUFFIX}").unlink(missing_ok=True)
        return written(entry)

    folder.mkdir()
    (folder / f"old{compiler.SUFFIX}").write_bytes(b"")
    monkeypatch.setattr(compiler, "_written", removing)
    assert launched() == 5 and len(list(folder.glob(f"*{compiler.SUFFIX}"))) == 2


# --- Where it does not run. ------------------------------------------------------------------------------------------


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler.sys, "platform", "linux")
    monkeypatch.setattr(compiler.platform, "machine", lambda: "x86_64")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    sentence = "The CUDA simulator needs g++; there is no `g++` on PATH (the variable CXX can name one)."
    assert cusim.unavailable() == sentence
    with pytest.raises(cusim.KernelError) as caught:
        launched()
    assert str(caught.value) == sentence
    other = tmp_path / "cc"
    other.write_text("#!/bin/sh\necho some other compiler, version 17\n")
    other.chmod(0o755)
    monkeypatch.setenv("CXX", str(other))
    assert cusim.unavailable().endswith(f"needs g++ 10 or later for Linux on x86-64, which `{other}` is not.")


@pytest.mark.parametrize("system, machine", [("darwin", "arm64"), ("linux", "aarch64"), ("win32", "AMD64")])
def test_other_platforms(monkeypatch, system, machine):
    monkeypatch.setattr(compiler.sys, "platform", system)
    monkeypatch.setattr(compiler.platform, "machine", lambda: machine)
    monkeypatch.setattr(compiler.platform, "system", lambda: system)
    assert cusim.unavailable() == (
        f"The CUDA simulator runs on Linux on x86-64 alone; this is {system} on {machine}."
    )  # fmt: skip
