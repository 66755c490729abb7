// Threads as fibers: one block at a time, and in it one thread at a time, until it waits at a barrier or ends. What a
// thread may do between two barriers is thereby done in one go; check.h finds out whether the order mattered.
#pragma once
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <pthread.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "kernels.h"

namespace cusim {
constexpr int MOST_THREADS = 1024, WARP = 32;
constexpr size_t STACK = 128 << 10;
constexpr size_t STRIDE = STACK + 320;  // not a power of two, or all stacks would share the same few cache sets
constexpr uint64_t MOST_SPINS = 10000000;
constexpr uint64_t CANARY = 0x5ca1ab1e0ddba11ull;

struct Index { uint32_t x, y, z; };
enum State : int { READY, AT_BARRIER, AT_WARP, DONE };
// What a thread waits for in its warp; the same numbers as in language.h, from VOTE and SHUFFLE on.
enum WarpKind : int { SYNC = 0, VOTE = 10, SHUFFLE = 20 };

struct Thread {
  Index index;
  int number, lane, warp;  // in the block; in its warp; of its warp
  State state;
  int line, kind;  // where it waits, and for what
  int value;       // a barrier's predicate and result
  uint32_t mask;   // of a warp's operation
  int source;      // the lane that a shuffle reads
  uint64_t in, out;
  char* stack;
  void* sp;
};

// What is wrong; errors.py makes sentences of it. Places are return addresses in the module, or lines.
enum Fault : int {
  RACE = 1, BOUNDS, CONSTANT, MISALIGNED, UNWRITTEN, DIVERGED, STUCK, NOT_IN_MASK, TRAP, DIVISION, SEGMENTATION,
  STACK_END, ENDLESS
};
struct Place { Index block, thread; int64_t site; int32_t line; int32_t what; };
constexpr int32_t SUBSCRIPT = -2;
struct Report {
  int32_t fault, region;  // a region's index; -1 for none; SUBSCRIPT for a wrong index of an array
  Place here, there;
  int64_t offset;  // bytes from the region's start, or the index
  uint64_t size;   // bytes accessed, or where g++ describes the subscript
};

struct Launch {  // what Python asks for
  const Kernel* kernel;
  void** arguments;
  uint32_t grid[3], block[3];
  uint64_t dynamic;  // bytes of dynamic shared memory
  int32_t order;     // FORWARD, REVERSE, RANDOM
  uint32_t seed;
};
enum Order : int { FORWARD, REVERSE, RANDOM };

static Report report;
static Report postponed;  // a fault that is reported if there is no race by the end of the block: check.h
static Launch launch;
static Thread threads[MOST_THREADS];
static Thread* current = nullptr;
static int thread_count, alive;
static uint32_t alive_lanes[WARP], waiting_lanes[WARP];  // of each warp
static void* scheduler_sp;
static char* stacks = nullptr;
static int free_stacks[MOST_THREADS], free_count;
static const void* spun_at;  // the last atomics of this block were all on this place,
static uint64_t spins;       // and so many
static bool failed;
static uint64_t random_state;
static pthread_t launcher;

// What the modes add, see check.h and count.h.
static void begin_launch();
static void begin_block(uint32_t number);
static void end_block();
static void begin_pass(int warp);  // all lanes of a warp that can run are about to, up to where they wait
static void end_pass();
static void passed_barrier();
static void synchronised(int warp, uint32_t lanes);  // these lanes passed a __syncwarp together
static void fenced();

extern "C" {
__attribute__((visibility("hidden"))) Index cusim_thread_index, cusim_block_index, cusim_block_size, cusim_grid_size;
__attribute__((visibility("hidden"))) extern const char __ehdr_start[];

// Keeps what a called function must keep, and goes on where the other stack stands.
void cusim_switch(void** save, void* load);
asm(".text\n.local cusim_switch\n.type cusim_switch,@function\ncusim_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
    ".size cusim_switch,.-cusim_switch\n");
}

static void yield() { cusim_switch(&current->sp, scheduler_sp); }

static int64_t site_of(const void* caller) { return (const char*)caller - __ehdr_start; }

static Place place_of(const Thread& t, int64_t site, int line, int what = 0) {
  return {cusim_block_index, t.index, site, line, what};
}

static void found(const Report& fault) {
  if (!failed) report = postponed.fault && fault.fault != RACE ? postponed : fault;
  failed = true;
}

// Ends the launch: this thread never runs again.
[[noreturn]] static void fail(Fault fault, Place here, Place there = {}, int region = -1, int64_t offset = 0,
                              uint64_t size = 0) {
  found({fault, region, here, there, offset, size});
  for (;;) yield();
}

static void thread_main() {
  launch.kernel->call(launch.kernel->function, launch.arguments);
  current->state = DONE;
  yield();
  abort();  // nobody resumes it
}

static void start(Thread& t) {
  t.stack = stacks + STRIDE * free_stacks[--free_count];
  *(uint64_t*)t.stack = CANARY;
  void** sp = (void**)(t.stack + STACK) - 2;
  *sp = (void*)thread_main;
  for (int i = 0; i < 6; ++i) *--sp = nullptr;
  t.sp = sp;
}

static void release_warp(int warp);

static void resume(Thread& t) {
  if (!t.stack) start(t);
  cusim_thread_index = t.index;
  current = &t;
  cusim_switch(&scheduler_sp, t.sp);
  current = nullptr;
  if (*(uint64_t*)t.stack != CANARY) found({STACK_END, -1, place_of(t, 0, 0), {}, 0, STACK});
  if (t.state == DONE && !failed) {
    free_stacks[free_count++] = (t.stack - stacks) / STRIDE;  // still warm: the next thread gets it
    --alive;
    alive_lanes[t.warp] &= ~(1u << t.lane);
    if (waiting_lanes[t.warp]) release_warp(t.warp);  // the others need not wait for it any longer
  }
}

// Called before each atomic. A thread that waits for another one does them in a loop: now and then it is the others'
// turn. Blocks run one by one, so that waiting for another block has no end.
static void spin(const void* place, int64_t site) {
  spins = place == spun_at ? spins + 1 : 1;
  spun_at = place;
  if (spins % 1024 == 0) yield();
  if (spins > MOST_SPINS) fail(ENDLESS, place_of(*current, site, 0));
}

// Lets lanes go on whose whole mask has arrived: all lanes in it that are still alive wait for the same.
static void release_warp(int warp) {
  Thread* lanes = threads + warp * WARP;
  const int count = thread_count - warp * WARP < WARP ? thread_count - warp * WARP : WARP;
  for (int i = 0; i < count; ++i) {
    if (lanes[i].state != AT_WARP) continue;
    const uint32_t mask = lanes[i].mask, wanted = mask & alive_lanes[warp];
    const int kind = lanes[i].kind;
    uint32_t arrived = 0, votes = 0;
    for (int j = 0; j < count; ++j)
      if (wanted >> j & 1 && lanes[j].state == AT_WARP && lanes[j].mask == mask && lanes[j].kind == kind) {
        arrived |= 1u << j;
        votes |= uint32_t(lanes[j].in != 0) << j;
      }
    if (arrived != wanted) continue;
    for (int j = 0; j < count; ++j) {
      if (!(wanted >> j & 1)) continue;
      if (kind >= SHUFFLE)  // a lane that takes no part has no value: what comes from there is no number
        lanes[j].out = wanted >> lanes[j].source & 1 ? lanes[lanes[j].source].in : ~0ull;
      else
        lanes[j].out = votes;
    }
    for (int j = 0; j < count; ++j)
      if (wanted >> j & 1) lanes[j].state = READY;
    waiting_lanes[warp] &= ~wanted;
    if (kind == SYNC) synchronised(warp, wanted);
  }
}

static uint64_t wait_in_warp(int kind, uint32_t mask, uint64_t in, int source, int line) {
  Thread& t = *current;
  if (!(mask >> t.lane & 1)) fail(NOT_IN_MASK, place_of(t, 0, line), {}, -1, mask);
  t.state = AT_WARP, t.kind = kind, t.mask = mask, t.in = in, t.source = source, t.line = line;
  waiting_lanes[t.warp] |= 1u << t.lane;
  if (!(mask & alive_lanes[t.warp] & ~waiting_lanes[t.warp])) release_warp(t.warp);
  yield();  // also the last to arrive: lanes go on together, see `pass`
  return t.out;
}

// --- Barriers of the block. ------------------------------------------------------------------------------------------
// All threads that are left have to wait at the same barrier. Whole warps may have ended, but no part of a warp: a
// barrier is for all threads of a warp, or what happens is undefined.
static void release_block() {
  const Thread* waiting = nullptr;
  const Thread* other = nullptr;
  for (int i = 0; i < thread_count && !waiting; ++i)
    if (threads[i].state == AT_BARRIER) waiting = threads + i;
  for (int i = 0; i < thread_count && waiting && !other; ++i) {
    const Thread& t = threads[i];
    const bool same = t.state == AT_BARRIER && t.line == waiting->line && t.kind == waiting->kind;
    if (!same && (t.state != DONE || alive_lanes[t.warp])) other = &t;
  }
  if (!waiting || other) {  // for what does a lane of a warp wait in vain?
    if (!waiting) {
      for (int i = 0; i < thread_count && !waiting; ++i)
        if (threads[i].state == AT_WARP) waiting = threads + i;
      for (int i = 0; i < WARP && !other; ++i) {
        const Thread& t = threads[waiting->warp * WARP + i];
        const bool same = t.state == AT_WARP && t.mask == waiting->mask && t.kind == waiting->kind;
        if (waiting->mask >> i & 1 && t.state != DONE && !same) other = &t;
      }
    }
    found({waiting->state == AT_BARRIER ? DIVERGED : STUCK, -1, place_of(*waiting, 0, waiting->line),
           other ? place_of(*other, 0, other->line, 1 + other->state) : Place{}, 0, 0});
    return;
  }
  int sum = 0;
  for (int i = 0; i < thread_count; ++i) sum += threads[i].state == AT_BARRIER && threads[i].value;
  for (int i = 0; i < thread_count; ++i)
    if (threads[i].state == AT_BARRIER) {
      Thread& t = threads[i];
      t.value = t.kind == 1 ? sum : t.kind == 2 ? sum == alive : sum > 0;
      t.state = READY;
    }
  passed_barrier();
}

extern "C" {
__attribute__((visibility("hidden"))) int cusim_barrier(int kind, int predicate, int line) {
  Thread& t = *current;
  t.state = AT_BARRIER, t.kind = kind, t.value = predicate, t.line = line;
  yield();
  return t.value;
}
__attribute__((visibility("hidden"))) void cusim_syncwarp(uint32_t mask, int line) {
  wait_in_warp(SYNC, mask, 0, 0, line);
}
__attribute__((visibility("hidden"))) uint32_t cusim_vote(int kind, uint32_t mask, int predicate, int line) {
  return (uint32_t)wait_in_warp(VOTE + kind, mask, predicate, 0, line);
}
// Which lanes run together is the hardware's choice; here, all that are left.
__attribute__((visibility("hidden"))) uint32_t cusim_active() { return alive_lanes[current->warp]; }
__attribute__((visibility("hidden"))) uint64_t cusim_shuffle(int kind, uint32_t mask, uint64_t bits, int by, int width,
                                                             int line) {
  const int lane = current->lane, first = lane & ~(width - 1), last = lane | (width - 1);
  int source = kind == 0 ? first | (by & (width - 1)) : kind == 1 ? lane - by : kind == 2 ? lane + by : lane ^ by;
  if (kind == 1 ? source < first : source > last) source = lane;  // beyond its part of the warp: its own value
  return wait_in_warp(SHUFFLE + kind, mask, bits, source, line);
}
__attribute__((visibility("hidden"))) void cusim_fence() { fenced(); }
__attribute__((visibility("hidden"))) void cusim_trap() {
  fail(TRAP, place_of(*current, site_of(__builtin_return_address(0)), 0));
}
}

// --- A launch. -------------------------------------------------------------------------------------------------------
static uint64_t random_number() {
  random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
  return random_state;
}

static void shuffle(int* numbers, int count) {
  for (int i = count - 1; i > 0; --i) {
    const int j = random_number() % (i + 1), kept = numbers[i];
    numbers[i] = numbers[j], numbers[j] = kept;
  }
}

// Runs all threads from `first` on that can run, once. Whether there were any. What a thread lets go on meanwhile has to
// wait for the next pass, or some lanes of a warp would run ahead of others, and mode `count` would count them apart.
static bool pass(int first, int count) {
  int order[MOST_THREADS], ready = 0;
  for (int i = 0; i < count; ++i) {
    const int number = first + (launch.order == REVERSE ? count - 1 - i : i);
    if (threads[number].state == READY) order[ready++] = number;
  }
  if (launch.order == RANDOM) shuffle(order, ready);
  for (int i = 0; i < ready && !failed; ++i) resume(threads[order[i]]);
  return ready > 0 && !failed;
}

static void run_block(Index index, uint32_t number) {
  cusim_block_index = index;
  memset(alive_lanes, 0, sizeof alive_lanes);
  memset(waiting_lanes, 0, sizeof waiting_lanes);
  free_count = 0;
  for (int i = thread_count; i-- > 0;) free_stacks[free_count++] = i;
  for (int i = 0; i < thread_count; ++i) {
    Thread& t = threads[i];
    t = Thread();
    t.index = {i % launch.block[0], i / launch.block[0] % launch.block[1], i / launch.block[0] / launch.block[1]};
    t.number = i, t.lane = i % WARP, t.warp = i / WARP;
    alive_lanes[t.warp] |= 1u << t.lane;
  }
  alive = thread_count;
  spins = 0;
  begin_block(number);
  const int warps = (thread_count + WARP - 1) / WARP;
  while (alive && !failed) {
    // Warp by warp, which keeps few stacks in the cache; at random, warps mix.
    if (launch.order == RANDOM) {
      while (pass(0, thread_count)) {}
    } else {
      for (int i = 0; i < warps && !failed; ++i) {
        const int warp = launch.order == REVERSE ? warps - 1 - i : i, first = warp * WARP;
        for (bool ran = true; ran;) {
          begin_pass(warp);
          ran = pass(first, thread_count - first < WARP ? thread_count - first : WARP);
          end_pass();
        }
      }
    }
    if (alive && !failed) release_block();
  }
  if (!failed) end_block();
  if (!failed && postponed.fault) found(postponed);
}

static void crash(int signal, siginfo_t*, void* context) {
  if (!current || !pthread_equal(pthread_self(), launcher)) {  // not a kernel's fault
    std::signal(signal, SIG_DFL);
    raise(signal);
    return;
  }
  const auto at = (const char*)((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP];
  fail(signal == SIGFPE ? DIVISION : SEGMENTATION, place_of(*current, site_of(at) + 1, 0));
}

static void run_grid() {
  failed = false;
  report = postponed = {};
  begin_launch();
  constexpr int SIGNALS[] = {SIGFPE, SIGSEGV, SIGBUS};
  struct sigaction handler = {}, before[3];
  handler.sa_sigaction = crash;
  handler.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;  // never returns; the thread's own stack may be the fault
  static char spare[64 << 10];
  stack_t other = {}, other_before;
  other.ss_sp = spare, other.ss_size = sizeof spare;
  sigaltstack(&other, &other_before);
  for (int i = 0; i < 3; ++i) sigaction(SIGNALS[i], &handler, before + i);
  thread_count = launch.block[0] * launch.block[1] * launch.block[2];
  const uint32_t* grid = launch.grid;
  cusim_block_size = {launch.block[0], launch.block[1], launch.block[2]};
  cusim_grid_size = {grid[0], grid[1], grid[2]};
  launcher = pthread_self();
  random_state = launch.seed * 2654435761ull + 88172645463325252ull;
  const uint32_t count = grid[0] * grid[1] * grid[2];
  int* order = launch.order == RANDOM ? (int*)malloc(count * sizeof(int)) : nullptr;
  for (uint32_t i = 0; order && i < count; ++i) order[i] = i;
  if (order) shuffle(order, count);
  for (uint32_t i = 0; i < count && !failed; ++i) {
    const uint32_t number = order ? order[i] : launch.order == REVERSE ? count - 1 - i : i;
    run_block({number % grid[0], number / grid[0] % grid[1], number / grid[0] / grid[1]}, number);
  }
  free(order);
  current = nullptr;
  for (int i = 0; i < 3; ++i) sigaction(SIGNALS[i], before + i, nullptr);
  sigaltstack(&other_before, nullptr);
}
}  // namespace cusim
