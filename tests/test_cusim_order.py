"""The simulator's notion of order against its definition: random programs are raced by a kernel that carries them out,
and by a model that keeps for each thread all that happens before it."""

import itertools

import numpy as np
import pytest

from octsod.testing import cusim

READ, WRITE, ATOMIC, SYNCWARP, BARRIER, FENCE = range(6)

# A program is a row of instructions (what, where, bytes or mask) for each thread.
SOURCE = """
struct Instruction { int what, where, size; unsigned mask; };
__device__ int carry_out(Instruction i, unsigned char* memory) {
  void* p = memory + i.where;
  if (i.what == 0) return i.size == 1 ? *(char*)p : i.size == 2 ? *(short*)p : *(int*)p;
  if (i.what == 1 && i.size == 1) *(char*)p = 1;
  if (i.what == 1 && i.size == 2) *(short*)p = 1;
  if (i.what == 1 && i.size == 4) *(int*)p = 1;
  if (i.what == 2) atomicAdd((int*)p, 1);
  if (i.what == 3) __syncwarp(i.mask);
  if (i.what == 4) __syncthreads();
  if (i.what == 5) __threadfence();
  return 0;
}
extern "C" __global__ void in_global_memory(unsigned char* memory, const int* programs, int length, int* sink) {
  const int thread = blockIdx.x * blockDim.x + threadIdx.x;
  int sum = 0;
  for (int k = 0; k < length; ++k) sum += carry_out(((const Instruction*)programs)[thread * length + k], memory);
  sink[thread] = sum;
}
extern "C" __global__ void in_shared_memory(unsigned char* unused, const int* programs, int length, int* sink) {
  __shared__ __align__(16) unsigned char memory[16];
  if (threadIdx.x == 0) for (int i = 0; i < 16; ++i) memory[i] = 0;
  __syncthreads();
  const int thread = blockIdx.x * blockDim.x + threadIdx.x;
  int sum = 0;
  for (int k = 0; k < length; ++k) sum += carry_out(((const Instruction*)programs)[thread * length + k], memory);
  sink[thread] = sum;
}
"""


def random_events(random, warps, bytes_):
    """Events of a block in an order in which they may happen: ((thread, ...), what, where, size or mask)."""
    lanes = random.integers(2, 5)
    events = []
    for _ in range(random.integers(1, 4)):
        for _ in range(random.integers(1, 12)):
            warp, lane = random.integers(warps), random.integers(lanes)
            if random.random() < 0.4:
                mask = int(random.integers(1, 1 << lanes))
                members = [warp * 32 + i for i in range(lanes) if mask >> i & 1]
                events.append((members, SYNCWARP, 0, mask))
            else:
                what = random.choice([READ, READ, WRITE, ATOMIC])
                size = 4 if what == ATOMIC else int(random.choice([1, 2, 4]))
                events.append(([warp * 32 + lane], what, int(random.integers(bytes_ // size)) * size, size))
        events.append(([*range(32 * warps)], BARRIER, 0, 0))
    return events


def has_race(events, threads):
    """Whether any two accesses race. Each thread's clock says how many accesses of each thread happen before it."""
    clocks = np.zeros((threads, threads), int)
    accesses = []  # (thread, its number, what, first byte, end)
    for members, what, where, size in events:
        if what in (SYNCWARP, BARRIER):
            clocks[members] = clocks[members].max(0)
            continue
        (thread,) = members
        for other, number, other_what, start, end in accesses:
            overlap = start < where + size and where < end
            conflict = WRITE in (what, other_what) or {what, other_what} == {READ, ATOMIC}
            if overlap and conflict and clocks[thread, other] < number:
                return True
        clocks[thread, thread] += 1
        accesses.append((thread, clocks[thread, thread], what, where, where + size))
    return False


def launch(module, name, programs, blocks):
    length = max(map(len, programs))
    table = np.full((len(programs), max(length, 1), 4), -1, np.int32)
    for row, program in zip(table, programs, strict=True):
        for entry, (what, where, size) in zip(row, program, strict=False):
            entry[:] = what, where, size, size
    arguments = np.zeros(16, np.uint8), table, np.int32(length), np.zeros(len(programs), np.int32)
    try:
        module.get_function(name)((blocks,), (len(programs) // blocks,), arguments)
    except cusim.KernelError as error:
        assert error.kind == "race", error
        return True
    return False


@pytest.mark.parametrize("schedule", cusim.SCHEDULES)
@pytest.mark.parametrize("name", ["in_global_memory", "in_shared_memory"])
def test_in_a_block(cuda_module, name, schedule):
    module = cuda_module(SOURCE, schedules=(schedule,))
    random = np.random.default_rng(7)
    races = 0
    for _ in range(200):
        warps, bytes_ = int(random.integers(1, 3)), int(random.choice([4, 8, 16]))
        events = random_events(random, warps, bytes_)
        programs = [[e[1:] for e in events if thread in e[0]] for thread in range(32 * warps)]
        expected = has_race(events, 32 * warps)
        assert launch(module, name, programs, 1) == expected, events
        races += expected
    assert 50 < races < 150


@pytest.mark.parametrize("kind", [READ, ATOMIC])
def test_many_readers_and_a_writer(cuda_module, kind):
    """Of three lanes that synchronise in all ways, each as far as the writer has heard of it."""
    module = cuda_module(SOURCE, schedules=("forward",))
    random = np.random.default_rng(9)
    races = 0
    for _ in range(400):
        events = []
        for _ in range(random.integers(2, 7)):
            mask = int(random.choice([3, 5, 6, 7]))
            members = [lane for lane in range(3) if mask >> lane & 1]
            wait = (members, SYNCWARP, 0, mask)
            events.append(wait if random.random() < 0.5 else ([int(random.integers(3))], kind, 0, 4))
        events.append(([int(random.integers(3))], WRITE, 0, 4))
        programs = [[e[1:] for e in events if lane in e[0]] for lane in range(3)]
        expected = has_race(events, 3)
        assert launch(module, "in_global_memory", programs, 1) == expected, events
        races += expected
    assert 100 < races < 300


def races_between_blocks(programs):
    """The same for blocks of one thread that run one after another."""
    heard = [set() for _ in programs]  # accesses that happen before
    published, accesses = {}, []
    for block, program in enumerate(programs):
        own, released, place = set(), None, None
        for what, where, size in program:
            if what == FENCE:
                if place is not None:
                    heard[block] |= place
                released = own | heard[block]
                continue
            for other, other_what, start, end in accesses:
                overlap = start < where + size and where < end
                conflict = WRITE in (what, other_what) or {what, other_what} == {READ, ATOMIC}
                if overlap and conflict and other[0] != block and other not in heard[block]:
                    return True
            access = block, len(accesses)
            own.add(access)
            accesses.append((access, what, where, where + size))
            if what == ATOMIC:
                place = set(published.get(where, ()))
                if released is not None:
                    published.setdefault(where, set()).update(released | {access})
    return False


def test_between_blocks(cuda_module):
    module = cuda_module(SOURCE, schedules=("forward",))
    random = np.random.default_rng(8)
    races = 0
    for _ in range(300):
        programs = []
        for block in range(int(random.integers(2, 4))):
            program = []
            for _ in range(random.integers(1, 3)):
                # Of atomics' own places, the one at 8 is accessed otherwise, too.
                part = [(int(random.choice([READ, WRITE])), int(random.choice([0, 4, 8], p=[0.4, 0.4, 0.2])), 4)]
                flag = [(FENCE, 0, 0), (ATOMIC, 8 + 4 * int(random.random() < 0.2), 4), (FENCE, 0, 0)]
                flag = [step for step in flag if random.random() < 0.9]
                program += part + flag if random.random() < (0.5, 0.8)[block == 0] else flag + part
            programs.append(program)
        expected = races_between_blocks(programs)
        assert launch(module, "in_global_memory", programs, len(programs)) == expected, programs
        races += expected
    assert 90 < races < 270


def test_all_pairs_of_accesses(cuda_module):
    """Two threads, one access each: of one warp, of two warps, of two blocks."""
    module = cuda_module(SOURCE)
    for first, second in itertools.product([READ, WRITE, ATOMIC], repeat=2):
        expected = not (first == second and first in (READ, ATOMIC))
        for other, blocks in ((1, 1), (32, 1), (1, 2)):
            programs = [[] for _ in range(33 if other == 32 else 2)]
            programs[0], programs[other] = [(first, 4, 4)], [(second, 4, 4)]
            assert launch(module, "in_global_memory", programs, blocks) == expected, (first, second, other, blocks)
