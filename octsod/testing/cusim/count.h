// Mode `count`: what a GPU's memory would have to do. Lanes of a warp that reach a call site for the k-th time since
// they last ran together form one access of the warp. Lanes run one after another here, so an access is kept until all
// have come by, and then counted.
#pragma once
#include <algorithm>
#include <vector>

#include "memory.h"

namespace cusim {
enum Access : int { READ = 1, WRITE = 2, ATOMIC = 3 };
constexpr int SECTOR = 32, BANKS = 32;
constexpr uint32_t MOST_KEPT = 8192;  // accesses of a lane, before it lets the others catch up

struct SiteCount {  // counts.py reads it
  int64_t site;
  int32_t access, kind;  // of the region
  int32_t index, padding;
  uint64_t warps;        // accesses by a warp
  uint64_t lanes;        // accesses by a thread
  uint64_t partial;      // accesses by a warp of which not all lanes took part that are left
  uint64_t bytes;        // asked for by threads
  uint64_t moved, least;  // sectors of global, wavefronts of shared memory; and how few would do
};
struct RegionCount { int32_t kind, index; uint64_t size, read, written; int32_t touched, padding; };

struct WarpAccess {
  uint32_t site, lanes, size;
  int32_t next;  // of the same site
  uint64_t address[WARP];
};
struct Chain {  // the accesses of a site in this pass
  uint32_t pass = 0, lane = 0;
  int32_t first = -1, at = -1, count = 0;
};

static std::vector<SiteCount> sites;
static std::vector<Chain> chains;  // for each of the sites
static std::vector<WarpAccess> kept;
static uint32_t* number_of_site = nullptr;  // 1 and up
static uint32_t pass_number = 1, kept_by_lane[WARP];
static uint32_t present;  // lanes of the warp that are left
static std::vector<RegionCount> region_counts;
static std::vector<uint8_t> marks;

static void mark(uint8_t* bits, uint64_t offset, uint64_t size) {
  if (size == 4 && offset % 4 == 0) bits[offset / 8] |= 15 << offset % 8;
  else if (size % 8 == 0 && offset % 8 == 0) memset(bits + offset / 8, 255, size / 8);
  else for (uint64_t i = offset; i < offset + size; ++i) bits[i / 8] |= 1 << i % 8;
}

static void watch(Region& r, uint64_t offset, uint64_t size, int access, int64_t site) {
  if (access != READ && !r.writable)
    fail(CONSTANT, place_of(*current, site, 0, access), {}, &r - regions, offset, size);
  r.touched = 1;
  if (r.global()) {
    if (access != WRITE) mark(r.bytes[0], offset, size);
    if (access != READ) mark(r.bytes[1], offset, size);
  }
  const int lane = current->lane;
  uint32_t& number = number_of_site[site];
  if (!number) {
    sites.push_back({});
    SiteCount& s = sites.back();
    s.site = site, s.access = access, s.kind = r.kind, s.index = r.index;
    chains.push_back({});
    number = sites.size();
  }
  Chain& chain = chains[number - 1];
  if (chain.pass != pass_number) chain = {pass_number, ~0u, -1, -1, 0};
  int32_t at = chain.lane != (uint32_t)lane ? chain.first : chain.at < 0 ? -1 : kept[chain.at].next;
  if (at < 0) {
    at = kept.size();
    kept.emplace_back();
    kept[at].site = number - 1, kept[at].lanes = 0, kept[at].size = size, kept[at].next = -1;
    if (chain.lane != (uint32_t)lane) chain.first = at;
    else kept[chain.at].next = at;
  }
  chain.lane = lane, chain.at = at;
  WarpAccess& a = kept[at];
  a.lanes |= 1u << lane;
  a.address[lane] = (uint64_t)r.start + offset;
  if (++kept_by_lane[lane] == MOST_KEPT) yield();
}

// Sorted addresses of the lanes first to last; how many.
static int sorted(const WarpAccess& a, int first, int last, uint64_t* out) {
  int n = 0;
  for (int lane = first; lane < last; ++lane) {
    if (!(a.lanes >> lane & 1)) continue;
    const uint64_t address = a.address[lane];
    int i = n++;
    for (; i > 0 && out[i - 1] > address; --i) out[i] = out[i - 1];
    out[i] = address;
  }
  return n;
}

static void count_sectors(const WarpAccess& a, SiteCount& s) {
  uint64_t address[WARP], next_sector = 0, end = 0, bytes = 0, sectors = 0;
  const int n = sorted(a, 0, WARP, address);
  for (int i = 0; i < n; ++i) {
    const uint64_t stop = address[i] + a.size;
    const uint64_t from = std::max(address[i] / SECTOR, next_sector), next = (stop - 1) / SECTOR + 1;
    if (next > from) sectors += next - from, next_sector = next;
    bytes += stop > end ? stop - (address[i] > end ? address[i] : end) : 0;
    end = stop > end ? stop : end;
  }
  s.moved += sectors;
  s.least += (bytes + SECTOR - 1) / SECTOR;
}

// A bank serves one word at a time, to all lanes that ask for it. Lanes that ask for 8 or 16 bytes come in halves or
// quarters of a warp.
static void count_wavefronts(const WarpAccess& a, SiteCount& s) {
  const int words = a.size <= 4 ? 1 : (a.size + 3) / 4, group = words >= 4 ? 8 : words >= 2 ? 16 : 32;
  for (int first = 0; first < WARP; first += group) {
    uint64_t address[WARP];
    const int n = sorted(a, first, first + group, address);
    if (!n) continue;
    uint64_t next = 0;
    int per_bank[BANKS] = {}, most = 0, distinct = 0;
    for (int i = 0; i < n; ++i)
      for (uint64_t word = std::max(address[i] / 4, next); word <= (address[i] + a.size - 1) / 4; ++word) {
        most = std::max(most, ++per_bank[word % BANKS]);
        ++distinct;
        next = word + 1;
      }
    s.moved += most;
    s.least += (distinct + BANKS - 1) / BANKS;
  }
}

static void begin_pass(int warp) { present = alive_lanes[warp]; }
static void end_pass() {
  for (const WarpAccess& a : kept) {
    SiteCount& s = sites[a.site];
    const int lanes = __builtin_popcount(a.lanes);
    ++s.warps;
    s.lanes += lanes;
    s.partial += (a.lanes & present) != present;
    s.bytes += uint64_t(lanes) * a.size;
    s.kind == STATIC_SHARED || s.kind == DYNAMIC_SHARED ? count_wavefronts(a, s) : count_sectors(a, s);
  }
  kept.clear();
  memset(kept_by_lane, 0, sizeof kept_by_lane);
  ++pass_number;
}

static uint64_t* block_times = nullptr;  // by address of its start: how often each basic block was run

static void begin_launch() {
  lay_out_regions();
  if (!block_times) block_times = (uint64_t*)reserve(sizeof(uint64_t) * MOST_CODE);
  else memset(block_times, 0, sizeof(uint64_t) * (_end - __ehdr_start));
  sites.clear(), chains.clear(), kept.clear();
  if (!number_of_site) number_of_site = (uint32_t*)reserve(sizeof(uint32_t) * MOST_CODE);
  else memset(number_of_site, 0, sizeof(uint32_t) * (_end - __ehdr_start));
  uint64_t wanted = 0;
  for (int i = 0; i < region_count; ++i) wanted += regions[i].global() ? (regions[i].size / 8 + 8) * 2 : 0;
  marks.assign(wanted, 0);
  uint8_t* next = marks.data();
  for (int i = 0; i < region_count; ++i)
    if (regions[i].global())
      for (auto& bytes : regions[i].bytes) bytes = next, next += regions[i].size / 8 + 8;
}
static void begin_block(uint32_t) {}
static void end_block() {}
static void passed_barrier() {}
static void synchronised(int, uint32_t) {}
static void fenced() {}
static void passed_atomic(const void*, int64_t) {}

static void end_counts() {
  region_counts.clear();
  for (int i = 0; i < region_count; ++i) {
    const Region& r = regions[i];
    if (r.kind == UNWATCHED) continue;
    RegionCount c = {r.kind, r.index, r.size, 0, 0, r.touched, 0};
    for (int k = 0; k < 2 && r.bytes[k]; ++k)
      for (uint64_t j = 0; j < r.size / 8 + 1; ++j) (k ? c.written : c.read) += __builtin_popcount(r.bytes[k][j]);
    region_counts.push_back(c);
  }
}

extern "C" {
// g++ -fsanitize-coverage=trace-pc calls it at the start of each basic block.
__attribute__((visibility("hidden"))) void __sanitizer_cov_trace_pc() {
  if (current) ++block_times[site_of(__builtin_return_address(0))];
}
#define CUSIM_VISIBLE __attribute__((visibility("default")))
CUSIM_VISIBLE const uint64_t* cusim_block_times() { return block_times; }
CUSIM_VISIBLE const SiteCount* cusim_sites(int64_t* count) { return *count = sites.size(), sites.data(); }
CUSIM_VISIBLE const RegionCount* cusim_region_counts(int64_t* count) {
  end_counts();
  return *count = region_counts.size(), region_counts.data();
}
}
}  // namespace cusim
