// Mode `check`: whether accesses are ordered. Each word has a cell that remembers who wrote it last and who has read it
// since. An access races with an earlier one if one of the two writes, not both are atomic, and the earlier one does
// not *happen before* the later one:
// - in one thread, by the order of its instructions;
// - in a block, if a __syncthreads lies between them;
// - in a warp, through __syncwarp, from each lane that took part to each: directly or through a chain of lanes.
//   Shuffles and votes exchange values, but CUDA does not let them order memory;
// - between blocks, through an atomic on one place: the one thread does __threadfence, then the atomic; the other does
//   an atomic that comes later, then __threadfence. What happens before the first fence, and the first atomic itself,
//   happen before what follows the second fence. All else in different blocks of a launch is unordered.
// Time is told by numbers that never go back, so that nothing has to be cleared: `epoch` counts blocks and barriers,
// `clocks[warp]` the events that order lanes. `known[thread][lane]` is when this thread last heard of a lane of its
// warp: what that lane did before happens before what the thread does now.
#pragma once
#include <algorithm>
#include <unordered_map>
#include <vector>

#include "memory.h"

namespace cusim {
enum Access : int { READ = 1, WRITE = 2, ATOMIC = 3 };
struct Stamp {
  uint32_t epoch, who, time;  // who: site * 1024 + thread
  int thread() const { return who & (MOST_THREADS - 1); }
  int warp() const { return thread() / WARP; }
};
// Whoever has read a word since it was last written: not all of them, but if a write races with any, then with one of
// these. A reader that happens before another one need not be kept.
struct Readers {
  Stamp last;
  uint32_t lanes;               // of the last reader's warp, itself included
  uint32_t times;               // 0 if they have read at the last one's time, else where their times are
  uint32_t other_epoch, other;  // one of another warp of the block
  Stamp outer;                  // one of an earlier block
};
struct Cell {
  Stamp write;
  Readers readers;
  uint32_t atomic_epoch;  // of the last atomic since; its partners are in `atomics`
};

static uint32_t epoch, launch_floor, block_floor;  // the first epochs of this launch and this block
static uint32_t clocks[WARP], known[MOST_THREADS][WARP], known_of_all[MOST_THREADS];
static Cell* cells = nullptr;
static uint64_t cell_count;
static std::unordered_map<Cell*, Readers> atomics;
struct Times { uint32_t of[WARP]; };
static std::vector<Times> lane_times;  // of readers that were not all there at the same time: rare
struct Started { uint32_t epoch; Index block; };
static std::vector<Started> blocks;  // of this launch

static bool acquired(const Stamp& a);

// Whether the access happens before what the current thread is about to do.
static inline bool before(const Stamp& a, uint32_t floor) {
  if (a.epoch < floor) return true;
  if (a.epoch == epoch) {
    const int thread = a.thread();
    if (thread == current->number) return true;
    return thread / WARP == current->warp && known[current->number][thread % WARP] > a.time;
  }
  return a.epoch >= block_floor || acquired(a);
}

[[noreturn]] static void race(const Region& r, const Cell* cell, uint64_t size, int access, int64_t site, Stamp other,
                              int what) {
  const uint32_t thread = other.thread();
  Place there = {cusim_block_index, {}, other.who / MOST_THREADS, 0, what};
  there.thread = {thread % launch.block[0], thread / launch.block[0] % launch.block[1],
                  thread / launch.block[0] / launch.block[1]};
  if (other.epoch < block_floor)
    there.block = (std::upper_bound(blocks.begin(), blocks.end(), other.epoch,
                                    [](uint32_t e, const Started& s) { return e < s.epoch; }) - 1)->block;
  fail(RACE, place_of(*current, site, 0, access), there, &r - regions, uint64_t(cell - r.cells) << r.grain, size);
}

static uint32_t time_of(const Readers& r, int lane) { return r.times ? lane_times[r.times - 1].of[lane] : r.last.time; }

// Those of the readers in the current thread's warp of which it has not heard since.
static uint32_t unheard(const Readers& r) {
  uint32_t found = 0;
  if (known_of_all[current->number] <= r.last.time)
    for (uint32_t left = r.lanes & ~(1u << current->lane); left; left &= left - 1) {
      const int lane = __builtin_ctz(left);
      if (known[current->number][lane] <= time_of(r, lane)) found |= 1u << lane;
    }
  return found;
}

// Who of the readers is unordered with what the current thread does; an epoch of 0 if nobody is.
static Stamp unordered(const Readers& r, uint32_t floor) {
  if (r.last.epoch < floor) return {};
  if (r.last.epoch == epoch && r.last.warp() == current->warp) {
    const uint32_t lanes = unheard(r);
    if (lanes)
      return {epoch, (r.last.who & ~(MOST_THREADS - 1u)) | (current->warp * WARP + __builtin_ctz(lanes)), r.last.time};
  } else if (!before(r.last, floor)) {
    return r.last;
  }
  if (r.other_epoch == epoch && Stamp{0, r.other, 0}.warp() != current->warp) return {r.other_epoch, r.other, 0};
  if (!before(r.outer, floor)) return r.outer;
  return {};
}

static inline void add_reader(Readers& r, const Stamp& me, uint32_t floor) {
  const uint32_t bit = 1u << current->lane;
  if (r.last.epoch != epoch) {
    if (r.last.epoch >= floor && r.last.epoch < block_floor) r.outer = r.last;
    r.lanes = bit, r.times = 0, r.other_epoch = 0;
  } else if (r.last.warp() != current->warp) {
    r.other_epoch = epoch, r.other = r.last.who;
    r.lanes = bit, r.times = 0;
  } else if (r.lanes != bit) {
    const uint32_t kept = r.times || r.last.time != me.time ? unheard(r) : r.lanes & ~bit;
    if (kept && (r.times || r.last.time != me.time)) {
      Times times;
      for (int i = 0; i < WARP; ++i) times.of[i] = time_of(r, i);
      times.of[current->lane] = me.time;
      lane_times.push_back(times);  // not in place: cells that were refined share them
      r.times = lane_times.size();
    } else {
      r.times = 0;
    }
    r.lanes = kept | bit;
  }
  r.last = me;
}

// Cells of four bytes are enough until somebody accesses less: then this region gets a cell for each byte.
static void refine(Region& r) {
  for (uint64_t i = (r.size + 3) / 4; i-- > 0;) {
    const Cell cell = r.cells[i];
    const auto found = atomics.find(r.cells + i);
    const Readers partners = found == atomics.end() ? Readers() : found->second;
    for (int k = 0; k < 4; ++k) {
      r.cells[4 * i + k] = cell;
      if (cell.atomic_epoch >= launch_floor) atomics[r.cells + 4 * i + k] = partners;
    }
  }
  r.grain = 0;
}

// Perhaps the writer is only late, and it is a race.
static void unwritten(const Region& r, uint64_t offset, uint64_t size, int access, int64_t site) {
  if (!postponed.fault)
    postponed = {UNWRITTEN, int(&r - regions), place_of(*current, site, 0, access), {}, int64_t(offset), size};
}

static Stamp stamp(int64_t site) {  // of what the current thread does there now
  return {epoch, uint32_t(site) * MOST_THREADS + current->number, clocks[current->warp]};
}

static void watch(Region& r, uint64_t offset, uint64_t size, int access, int64_t site) {
  if ((offset | size) & ((1 << r.grain) - 1)) refine(r);
  if (access != READ && !r.writable)
    fail(CONSTANT, place_of(*current, site, 0, access), {}, &r - regions, offset, size);
  if (r.written) {
    if (access != WRITE)
      for (uint64_t i = offset; i < offset + size; ++i)
        if (!r.written[i]) unwritten(r, i, size, access, site);
    if (access != READ) memset(r.written + offset, 1, size);
  }
  r.touched = 1;
  const Stamp me = stamp(site);
  const uint32_t floor = r.shared() ? block_floor : launch_floor;
  const Cell* end = r.cells + ((offset + size - 1) >> r.grain);
  for (Cell* cell = r.cells + (offset >> r.grain); cell <= end; ++cell) {
    if (access != WRITE && cell->write.epoch < block_floor && r.shared())
      unwritten(r, uint64_t(cell - r.cells) << r.grain, size, access, site);
    if (!before(cell->write, floor)) race(r, cell, size, access, site, cell->write, WRITE);
    if (access != READ) {
      const Stamp reader = unordered(cell->readers, floor);
      if (reader.epoch) race(r, cell, size, access, site, reader, READ);
    }
    if (access != ATOMIC && cell->atomic_epoch >= floor) {
      const Stamp other = unordered(atomics[cell], floor);
      if (other.epoch) race(r, cell, size, access, site, other, ATOMIC);
    }
    if (access == READ) {
      add_reader(cell->readers, me, floor);
    } else if (access == WRITE) {  // all that was before is ordered before whatever is ordered after this
      cell->write = me;
      cell->readers.last.epoch = cell->readers.outer.epoch = cell->readers.other_epoch = cell->atomic_epoch = 0;
    } else {
      Readers& partners = atomics[cell];
      if (cell->atomic_epoch < floor) partners = Readers();
      add_reader(partners, me, floor);
      cell->atomic_epoch = epoch;
    }
  }
}

// --- Order between blocks. -------------------------------------------------------------------------------------------
struct Acquisition { const void* place; size_t count; uint32_t epoch, thread, time; };
struct Publication {
  uint32_t epoch, thread, time;
  uint32_t known[WARP];
  std::vector<Acquisition> acquired;  // handed on
  Stamp atomic;                       // by which it was published
  bool covers(const Stamp& a) const {
    if (a.epoch == atomic.epoch && a.who == atomic.who && a.time == atomic.time) return true;
    if (a.epoch != epoch) return a.epoch < epoch;
    if ((uint32_t)a.thread() == thread) return a.time < time;
    return (uint32_t)a.warp() == thread / WARP && known[a.thread() % WARP] > a.time;
  }
};
static std::unordered_map<const void*, std::vector<Publication>> published;
static std::vector<Acquisition> acquisitions;                          // of this block
static std::unordered_map<int, Publication> fences;                    // of this block: each thread's last
static std::unordered_map<int, const void*> last_atomics;              // the same

static bool is_visible(const Acquisition& a) {
  return (int)a.thread == current->number || epoch > a.epoch ||
         ((int)a.thread / WARP == current->warp && known[current->number][a.thread % WARP] > a.time);
}

static bool covers(const Acquisition& q, const Stamp& a, uint32_t block_end, int depth) {
  const std::vector<Publication>& list = published[q.place];
  auto p = std::lower_bound(list.begin(), list.end(), a.epoch,
                            [](const Publication& p, uint32_t e) { return p.atomic.epoch < e; });
  for (; p != list.begin() + q.count && p < list.end(); ++p) {
    if (p->epoch < block_end && p->covers(a)) return true;
    for (const Acquisition& further : p->acquired)
      if (depth && covers(further, a, block_end, depth - 1)) return true;
  }
  return false;
}

static bool acquired(const Stamp& a) {
  if (acquisitions.empty()) return false;
  const auto next = std::upper_bound(blocks.begin(), blocks.end(), a.epoch,
                                     [](uint32_t e, const Started& s) { return e < s.epoch; });
  for (const Acquisition& q : acquisitions)
    if (is_visible(q) && covers(q, a, next->epoch, 4)) return true;
  return false;
}

static void fenced() {
  Publication p;
  p.epoch = epoch, p.thread = current->number, p.time = ++clocks[current->warp];
  memcpy(p.known, known[current->number], sizeof p.known);
  const auto last = last_atomics.find(current->number);
  if (last != last_atomics.end())
    acquisitions.push_back({last->second, published[last->second].size(), epoch, p.thread, p.time});
  for (const Acquisition& q : acquisitions)
    if (is_visible(q)) p.acquired.push_back(q);
  fences[current->number] = p;
}

static void passed_atomic(const void* place, int64_t site) {
  last_atomics[current->number] = place;
  if (fences.empty()) return;
  const auto fence = fences.find(current->number);
  if (fence == fences.end()) return;
  published[place].push_back(fence->second);
  published[place].back().atomic = stamp(site);
}

// --- Events. ---------------------------------------------------------------------------------------------------------
static void begin_launch() {
  lay_out_regions();
  if (epoch > 3u << 30) {  // stamps of old launches must stay old
    memset((void*)cells, 0, cell_count * sizeof(Cell));
    epoch = 0;
  }
  uint64_t wanted = 0;
  for (int i = 0; i < region_count; ++i) wanted += regions[i].kind == UNWATCHED ? 0 : regions[i].size + 8;
  if (wanted > cell_count) {
    if (cells) munmap(cells, cell_count * sizeof(Cell));
    cells = nullptr, cell_count = 0;
    cells = (Cell*)reserve((wanted + wanted / 4) * sizeof(Cell));
    cell_count = wanted + wanted / 4;
  }
  Cell* next = cells;
  for (int i = 0; i < region_count; ++i) {
    if (regions[i].kind == UNWATCHED) continue;
    regions[i].cells = next;
    regions[i].grain = 2;
    next += regions[i].size + 8;
  }
  launch_floor = block_floor = ++epoch;
  atomics.clear(), lane_times.clear(), published.clear(), blocks.clear();
}
static void begin_block(uint32_t) {
  block_floor = ++epoch;
  blocks.push_back({epoch, cusim_block_index});
  for (int i = 0; i < region_count; ++i)  // what is read although nobody has written it is no number
    if (regions[i].shared() && (regions[i].touched || blocks.size() == 1)) {
      memset(regions[i].start, 0xff, regions[i].size);
      regions[i].touched = 0;
    }
  acquisitions.clear(), fences.clear(), last_atomics.clear();
}
static void end_block() {}
static void begin_pass(int) {}
static void end_pass() {}
static void passed_barrier() { ++epoch; }
static void synchronised(int warp, uint32_t lanes) {
  uint32_t joined[WARP] = {}, least = ~0u;
  for (uint32_t left = lanes; left; left &= left - 1) {
    const uint32_t* theirs = known[warp * WARP + __builtin_ctz(left)];
    for (int i = 0; i < WARP; ++i) joined[i] = std::max(joined[i], theirs[i]);
  }
  ++clocks[warp];
  for (int i = 0; i < WARP; ++i) {
    if (lanes >> i & 1) joined[i] = clocks[warp];
    const bool there = warp * WARP + i < thread_count;
    if (there) least = std::min(least, joined[i]);
  }
  for (uint32_t left = lanes; left; left &= left - 1) {
    const int thread = warp * WARP + __builtin_ctz(left);
    memcpy(known[thread], joined, sizeof joined);
    known_of_all[thread] = least;
  }
}
}  // namespace cusim
