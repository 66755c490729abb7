"""The simulator of CUDA kernels finds each kind of mistake, and where it is, and lets right programs pass.

The kernels are in cusim_kernels.cu, where comments mark the lines that messages have to name.
"""

import pathlib
import re
import threading

import numpy as np
import pytest

from octsod.testing import cusim

SOURCE = (pathlib.Path(__file__).parent / "cusim_kernels.cu").read_text(encoding="utf-8")

LINES = SOURCE.splitlines()
UNWRITTEN = object()  # stands for an array that nobody has written


@pytest.fixture
def check(cuda_module):
    return cuda_module(SOURCE)


def marked(kernel):
    """The lines of a kernel that bear a mark."""
    start = next(i for i, line in enumerate(LINES) if re.match(rf"KERNEL {kernel}\(.*\{{", line))
    end = LINES.index("}", start)
    return {i + 1 for i in range(start, end) if LINES[i].endswith("// !")}


def copies(arguments):
    return [cusim.empty(64) if a is UNWRITTEN else a.copy() if isinstance(a, np.ndarray) else a for a in arguments]


def zeros(count=64, dtype=np.float32):
    return np.zeros(count, dtype)


i32 = np.int32

# Kernel, kind of mistake, grid, block, arguments, words of the message.
WRONG = [
    ("missing_barrier", "race", 1, 64, [zeros()], "no __syncthreads lies between"),
    ("write_after_read", "race", 1, 64, [zeros()], "byte 4 of the shared `s`, which thread (0, 0, 0)"),
    ("write_after_reads_of_two_warps", "race", 1, 64, [zeros()], "writes 4 bytes of byte 0 of the shared `s`"),
    ("two_writers", "race", 1, 64, [zeros()], "within a warp, only __syncwarp orders memory"),
    ("dynamic_shared", "race", 1, 64, [zeros()], "of the dynamic shared memory"),
    ("double_buffer_without_barrier", "race", 1, 64, [zeros()], "the shared `s`"),
    ("bytes_overlap", "race", 1, 64, [zeros(64, np.uint8)], "byte 8 of the shared `s`"),
    ("race_in_global_memory", "race", 1, 64, [zeros()], "element 6 of argument 0 (`y`)"),
    ("warp_synchronous", "race", 1, 32, [zeros()], "within a warp, only __syncwarp orders memory"),
    ("wrong_mask", "race", 1, 32, [zeros()], "within a warp, only __syncwarp orders memory"),
    ("shuffle_is_no_barrier", "race", 1, 32, [zeros()], "within a warp, only __syncwarp orders memory"),
    ("blocks_write_the_same", "race", 3, 32, [zeros()], "blocks of a launch have no order"),
    ("blocks_overlap", "race", 2, 32, [zeros(96)], "element 32 of argument 0 (`y`)"),
    ("block_reads_what_another_writes", "race", 2, 32, [zeros(), i32(64)], "element 0 of argument 0 (`y`)"),
    ("no_atomic", "race", 2, 1, [zeros()], "blocks of a launch have no order"),
    ("atomic_and_plain", "race", 1, 32, [zeros()], "atomically changed"),
    ("last_block_without_fence", "race", 4, 32, [zeros(), zeros(), zeros(1, np.uint32)], "__threadfence"),
    ("reset_without_fence", "race", 4, 1, [zeros(1, np.uint32)], "__threadfence"),
    ("module_variable", "race", 2, 1, [zeros()], "the module's variables"),
    ("divergent_barrier", "divergent barrier", 1, 32, [zeros()], "waits at another barrier in line"),
    ("part_of_a_warp_has_ended", "divergent barrier", 1, 32, [zeros()], "(20, 0, 0) of block (0, 0, 0) has ended"),
    ("shuffle_in_a_branch", "divergent barrier", 1, 32, [zeros()], "waits for lanes of its warp"),
    ("lanes_wait_for_each_other", "stuck warp", 1, 32, [zeros()], "but thread (16, 0, 0) of block (0, 0, 0) waits for"),
    ("not_in_its_mask", "not in mask", 1, 32, [zeros()], "thread (16, 0, 0)"),
    ("reads_past_the_end", "out of bounds", 1, 32, [zeros(), zeros(), i32(33)], "byte 256 of argument 1 (`x`), which"),
    ("writes_before_the_start", "out of bounds", 1, 32, [zeros(), i32(2)], "8 bytes before argument 0 (`y`)"),
    ("past_a_shared_array", "out of bounds", 1, 32, [zeros()], "byte 128 of the shared `first`, which has 128"),
    ("past_a_shared_row", "out of bounds", 1, 8, [zeros()], "uses index 4 of `tile`, which is a float [4]"),
    ("past_an_own_array", "out of bounds", 1, 1, [zeros(), i32(4)], "uses index 4 of `sums`, which is a float [4]"),
    ("before_an_own_array", "out of bounds", 1, 1, [zeros(), i32(0)], "index -1 of `pair.of`, which is a double [2]"),
    ("past_rows_of_an_own_array", "out of bounds", 1, 1, [zeros(), i32(3)], "3 of `total`, which is a float [3][2]"),
    ("past_dynamic_shared", "out of bounds", 1, 33, [zeros()], "byte 128 of the dynamic shared memory, which has 128"),
    ("unwritten_shared", "unwritten", 1, 32, [zeros()], "byte 124 of the shared `s`"),
    ("shared_of_the_last_block", "unwritten", 2, 32, [zeros()], "block (1, 0, 0) reads 4 bytes of byte 0"),
    ("unwritten_array", "unwritten", 1, 32, [zeros(), UNWRITTEN], "element 0 of argument 1 (`z`), which nobody has"),
    ("writes_const", "write to const", 1, 32, [zeros(), zeros()], "element 0 of argument 1 (`x`), which is const"),
    ("misaligned", "misaligned", 1, 1, [zeros(), zeros(), i32(1)], "reads 16 bytes of element 1 of argument 1 (`x`)"),
    ("misaligned_pair", "misaligned", 1, 1, [zeros(), i32(3)], "writes 8 bytes of element 3 of argument 0 (`y`)"),
    ("null_pointer", "out of bounds", 1, 1, [zeros(), None], "reads 4 bytes outside of all arrays"),
    ("divides_by_zero", "division by zero", 1, 1, [zeros(64, np.int32), i32(0)], "divides an integer by zero"),
    ("waits_for_another_block", "endless", 2, 1, [zeros(1, np.int32)], "none can wait for another"),
    ("large_frame", "stack overflow", 1, 1, [zeros(1, np.int32), i32(1)], "needs more than 128 KB of stack"),
    ("traps", "trap", 1, 32, [zeros()], "thread (2, 0, 0) of block (0, 0, 0) calls __trap"),
]  # fmt: skip


@pytest.mark.parametrize("name, kind, grid, block, arguments, words", WRONG, ids=[case[0] for case in WRONG])
def test_mistakes_are_found(check, name, kind, grid, block, arguments, words):
    given = copies(arguments)
    with pytest.raises(cusim.KernelError) as caught:
        check.get_function(name)((grid,), (block,), given, shared_mem=128 if name == "past_dynamic_shared" else 256)
    error = caught.value
    assert (error.kind, error.kernel) == (kind, name), error
    if kind != "stack overflow":  # found at the thread's end
        assert {error.line, error.other[0] if error.other and error.other[0] else error.line} == marked(name), error
        assert f"{name}, line {error.line}: {kind}: " in str(error)
    assert words in str(error)
    assert len(error.block) == len(error.thread) == 3
    for array, before in zip(given, copies(arguments), strict=True):  # what failed has changed nothing
        assert not isinstance(array, np.ndarray) or array.tobytes() == before.tobytes()


def test_an_index_in_a_template(check):
    """Its line is not the kernel's, and g++ gives another column."""
    line = 1 + next(i for i, text in enumerate(LINES) if "total[i][x[i] > 0]" in text)
    with pytest.raises(cusim.KernelError, match=rf"line {line}: out of bounds: .* 3 of `total`, which is a float \[3"):
        check.get_function("past_rows_in_a_template")((1,), (1,), (zeros(), i32(3)))
    check.get_function("past_rows_in_a_template")((1,), (1,), (zeros(), i32(2)))


@pytest.mark.parametrize("schedule", cusim.SCHEDULES)
@pytest.mark.parametrize("case", [case for case in WRONG if case[1] == "race"], ids=lambda case: case[0])
def test_races_are_found_in_every_order(cuda_module, case, schedule):
    """A race is one because two accesses are unordered, not because the order that was taken shows it."""
    name, kind, grid, block, arguments, _ = case
    module = cuda_module(SOURCE, schedules=(schedule,))
    with pytest.raises(cusim.KernelError) as caught:
        module.get_function(name)((grid,), (block,), copies(arguments), shared_mem=256)
    assert caught.value.kind == kind and {caught.value.line, caught.value.other[0]} == marked(name)


def test_results_that_depend_on_the_order(cuda_module, check):
    y, sums = zeros(), zeros(2)
    with pytest.raises(cusim.KernelError, match=r"element 0 of argument 1 \(`sums`\) depends on the order") as caught:
        check.get_function("depends_on_order")((1,), (32,), (y, sums))
    assert caught.value.kind == "order" and "schedule forward), " in str(caught.value)
    assert not y.any() and not sums.any()
    cuda_module(SOURCE, schedules=("forward",)).get_function("depends_on_order")((1,), (32,), (y, sums))
    assert y[:32].all() and sums[0]


NUMBERS = np.arange(256, dtype=np.float32)
RIGHT = [
    ("right_barrier", 1, 64, [zeros()], NUMBERS[63::-1]),
    ("right_syncwarp", 1, 32, [zeros(32)], [496] * 32),
    ("right_double_buffer", 1, 64, [zeros()], NUMBERS[:64]),
    ("right_halves_of_a_word", 2, 64, [zeros(128, np.uint16)], np.repeat(np.arange(64), 2)),
    ("right_reduction", 2, 96, [zeros(2), NUMBERS, i32(192)], [NUMBERS[:96].sum(), NUMBERS[96:192].sum()]),
    ("right_reduction", 1, 64, [zeros(1), NUMBERS, i32(250)], [NUMBERS[:250].sum()]),
    ("right_histogram", 3, 32, [zeros(16, np.int32), np.arange(256).astype(np.uint8), i32(256)], [16] * 16),
    ("right_warp_exit", 1, 64, [zeros(32)], NUMBERS[31::-1]),
    ("right_exit", 3, 32, [zeros(70), i32(70)], NUMBERS[:70]),
    ("right_last_block", 5, 64, [zeros(21), NUMBERS, zeros(1, np.uint32)], [190, *range(20)]),
    ("right_reset", 5, 32, [zeros(6), NUMBERS[:5], zeros(1, np.uint32)], [NUMBERS[:5].sum(), *NUMBERS[:5]]),
    ("right_unused", 1, 32, [zeros(64), NUMBERS, i32(64), i32(0)], NUMBERS[:64]),
    ("right_unused", 1, 32, [zeros(64), NUMBERS, i32(64), i32(1)], 2 * NUMBERS[:64]),
    ("right_vectors", 1, 32, [zeros(16), NUMBERS, i32(4)], [3, 1, 2, 3, 11, 5, 6, 7, 19, 9, 10, 11, 27, 13, 14, 15]),
    ("right_fill", 1, 64, [zeros(64), UNWRITTEN], NUMBERS[63::-1]),
    ("right_branches", 1, 32, [zeros(28)], NUMBERS[27::-1]),
    ("right_lock", 2, 96, [zeros(1, np.int32), zeros(1, np.int32)], [6]),
    ("right_in_place", 2, 32, [np.ones(64, np.float32), NUMBERS], np.tile(NUMBERS[:32], 2) + 1),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["plain", "check", "count"])
@pytest.mark.parametrize("name, grid, block, arguments, result", RIGHT, ids=[case[0] for case in RIGHT])
def test_right_programs_pass(cuda_module, name, grid, block, arguments, result, mode):
    module = cuda_module(SOURCE, mode=mode)
    given = copies(arguments)
    module.get_function(name)((grid,), (block,), given)
    np.testing.assert_array_equal(given[0], result)


def test_what_the_processor_refuses(cuda_module):
    """Nothing is watched, but the process survives."""
    module = cuda_module(SOURCE, mode="plain")
    with pytest.raises(cusim.KernelError, match=r"null_pointer, line .*: invalid address: thread"):
        module.get_function("null_pointer")((1,), (1,), (zeros(), None))
    with pytest.raises(cusim.KernelError, match="divides an integer by zero"):
        module.get_function("divides_by_zero")((1,), (1,), (zeros(1, np.int32), i32(0)))


def test_launches_from_another_thread(check):
    """Shared arrays belong to the thread of the operating system that launches."""
    results = []

    def launch():
        y = zeros()
        check.get_function("right_double_buffer")((1,), (64,), (y,))
        results.append(y)

    workers = [threading.Thread(target=launch) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 3 and all((y == NUMBERS[:64]).all() for y in results)


def test_masks_order_what_they_name(check):
    y = zeros(32)
    check.get_function("right_masks")((1,), (32,), (y,))
    assert y[15] == 0 and y[16] == 31 + 3


def test_arrays_are_unwritten_until_a_kernel_has_written_them(cuda_module, check):
    y, z = zeros(), cusim.empty((2, 64))
    assert np.isnan(z).all()
    copy = check.get_function("unwritten_array")
    check.get_function("right_fill")((1,), (64,), (y, z[0]))
    copy((1,), (64,), (y, z[0]))
    with pytest.raises(cusim.KernelError, match="nobody has written"):
        copy((1,), (64,), (y, z[1]))
    z[1] = 5
    cusim.mark_written(z[1])
    copy((1,), (64,), (y, z[1]))
    assert (y == 5).all()
    z = cusim.empty(64)
    cuda_module(SOURCE, mode="plain").get_function("right_fill")((1,), (64,), (y, z))
    copy((1,), (64,), (y, z))
