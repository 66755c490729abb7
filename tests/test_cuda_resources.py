"""What the CUDA kernels need of a GPU, by NVIDIA's compiler, and their traffic, by the simulator: limits, and the table
in bench/gpu/kernels.json. `python -m bench gpu --table` writes it anew.

OCTSOD_TEST_NVRTC=required makes a failure of what is skipped without the compiler.
"""

import importlib
import os
import pathlib
import re

import pytest

from octsod.testing import cusim
from octsod.testing.cusim import nvrtc

pytest.importorskip("bench", reason="bench/ is not here: run from a checkout")

from bench.gpu import resources

MOST_SHARED = 48 << 10  # bytes of shared memory that a block may have on any GPU
HOW = "`python -m bench gpu --table` writes it anew"
KEYS = ("file", "kernel", "dtype")


def key_of(kernel):
    return tuple(kernel[name] for name in KEYS)


def skip(reason):
    """Skip a test for lack of the right compiler, unless it must be here."""
    (pytest.fail if os.environ.get("OCTSOD_TEST_NVRTC") == "required" else pytest.skip)(reason)


@pytest.fixture(scope="module")
def compiled():
    if reason := nvrtc.unavailable():
        skip(reason)
    return resources.compiled()


@pytest.fixture(scope="module")
def table():
    return resources.committed()


def test_every_file_of_kernels_is_compiled():
    (folder,) = importlib.import_module("octsod.kernels.cuda").__path__
    files = re.findall(r'^#line 1 "(.*)"$', "\n".join(s.code for s in resources.sources().values()), re.MULTILINE)
    assert set(files) == {path.name for path in pathlib.Path(folder).glob("*.cu")}


def test_kernels_fit_into_registers_and_shared_memory(compiled):
    assert compiled
    wrong = {
        (*key, architecture): need
        for key, needs in compiled.items()
        for architecture, need in needs.items()
        if need.spills or need.stack or need.shared > MOST_SHARED
    }
    assert wrong == {}


def test_the_table_has_what_the_compiler_says(compiled, table):
    if resources.nvrtc_version() != table["nvrtc"]:
        skip(f"The table was made by NVRTC {table['nvrtc']}; this is {resources.nvrtc_version()}.")
    ours = {key: resources.of_compiler(needs) for key, needs in compiled.items()}
    theirs = {key_of(kernel): {name: kernel[name] for name in resources.NEEDS} for kernel in table["kernels"]}
    assert ours == theirs, HOW


@pytest.mark.skipif(bool(cusim.unavailable()), reason=cusim.unavailable() or "-")
def test_the_table_has_the_traffic_that_is_counted(table):
    if resources.gxx_version() != table["g++"]:
        pytest.skip(f"The table was made with g++ {table['g++']}; this is {resources.gxx_version()}.")
    lines = {key_of(kernel): kernel for kernel in table["kernels"]}
    ours = {key: resources.of_launches(lines[key], launches) for key, launches in resources.counted().items()}
    assert ours == {key: line["launches"] for key, line in lines.items() if "launches" in line}, HOW
    assert len(ours) > 30


def test_the_table_is_as_it_is_written(table):
    assert resources.text_of(table) == resources.TABLE.read_text()
    assert len({key_of(kernel) for kernel in table["kernels"]}) == len(table["kernels"]) > 100
