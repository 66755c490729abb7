// The memory that a kernel may touch, as regions: each argument's array, each shared array, the module's variables.
// Python lays the arrays out with gaps between them, assembly.py does so with the shared arrays; so what touches no
// region is out of bounds.
#pragma once
#include <link.h>
#include <new>

#include "scheduler.h"

namespace cusim {
constexpr uint64_t MOST_DYNAMIC = 227 << 10, GAP = 4096;
constexpr int MOST_REGIONS = 4000;
constexpr int64_t MOST_CODE = 1 << 22;

enum Kind : int { UNWATCHED, ARGUMENT, STATIC_SHARED, DYNAMIC_SHARED, VARIABLES };
struct Cell;
struct Region {
  char* start;
  uint64_t size;
  uint8_t* written;  // of an argument that is watched for reads before writes: a byte for each byte
  int32_t kind, index;  // which argument, or which shared array
  int32_t writable, touched;
  Cell* cells;  // check.h's
  int32_t grain;
  uint8_t* bytes[2];  // count.h's: a bit for each byte that was read, written
  bool shared() const { return kind == STATIC_SHARED || kind == DYNAMIC_SHARED; }
  bool global() const { return kind == ARGUMENT || kind == VARIABLES; }
};
struct Argument { uint64_t start, size, written; int32_t index, writable; };  // what Python tells of an array
struct SharedArray { uint64_t offset, size; char name[48]; };                 // what assembly.py tells

static Region regions[MOST_REGIONS + 1];
static int region_count, argument_count;
static Argument arguments[MOST_REGIONS];
static uint16_t* region_of_site = nullptr;  // which one it met last
static __thread char anchor[16];  // makes sure that this thread has the module's block of shared arrays

extern "C" {
__attribute__((visibility("hidden"))) extern const char _end[];
// The linker's names for what assembly.py has put together; null if there is nothing.
#define CUSIM_EDGE __attribute__((visibility("hidden"), weak)) extern
CUSIM_EDGE const SharedArray __start_cusim_shared, __stop_cusim_shared;
CUSIM_EDGE char __start_cusim_variables, __stop_cusim_variables;
__attribute__((visibility("hidden"), aligned(1024))) char cusim_dynamic[MOST_DYNAMIC + GAP];
}

// Volatile, or g++ would take two variables for different ones, whatever the linker says.
static const SharedArray* volatile first_shared = &__start_cusim_shared;
static const SharedArray* volatile end_shared = &__stop_cusim_shared;
static char* volatile first_variable = &__start_cusim_variables;
static char* volatile end_variable = &__stop_cusim_variables;

static char* shared_block() {
  *(volatile char*)anchor = 1;
  char* found = nullptr;
  dl_iterate_phdr([](dl_phdr_info* info, size_t, void* out) {
    if ((const char*)info->dlpi_addr == __ehdr_start) *(char**)out = (char*)info->dlpi_tls_data;
    return 0;
  }, &found);
  return found;
}

static void add_region(Kind kind, int index, char* start, uint64_t size, bool writable, uint8_t* written = nullptr) {
  Region& r = regions[region_count++];
  r = Region();
  r.start = start, r.size = size, r.written = written, r.kind = kind, r.index = index, r.writable = writable;
}

static void lay_out_regions() {
  while (region_count > 0) regions[--region_count] = Region();  // region_of_site may lead to what is no region any more
  add_region(UNWATCHED, 0, stacks, STRIDE * MOST_THREADS, true);
  for (int i = 0; i < argument_count; ++i) {
    const Argument& a = arguments[i];
    add_region(ARGUMENT, a.index, (char*)a.start, a.size, a.writable, (uint8_t*)a.written);
  }
  char* block = shared_block();
  // An array without a name is none of the kernel's: g++ notes there that it has made an array of vectors.
  for (const SharedArray *first = first_shared, *array = first; array != end_shared; ++array)
    add_region(array->name[0] ? STATIC_SHARED : UNWATCHED, array - first, block + array->offset, array->size, true);
  if (launch.dynamic) add_region(DYNAMIC_SHARED, 0, cusim_dynamic, launch.dynamic, true);
  if (first_variable != end_variable) add_region(VARIABLES, 0, first_variable, end_variable - first_variable, true);
  qsort(regions, region_count, sizeof(Region), [](const void* a, const void* b) {
    return ((const Region*)a)->start < ((const Region*)b)->start ? -1 : 1;
  });
}

// What is reported of an access that belongs to no region: the nearest one.
static int nearest(const char* p) {
  int best = -1;
  uint64_t least = ~0ull;
  for (int i = 0; i < region_count; ++i) {
    const Region& r = regions[i];
    const uint64_t gap = p < r.start ? r.start - p : p - (r.start + r.size);
    if (r.kind != UNWATCHED && r.kind != VARIABLES && gap < least) best = i, least = gap;
  }
  return least <= 1 << 20 ? best : -1;
}

// The region that holds p. A call site mostly stays with one region. Null for the module's constants.
static inline Region* find_region(const char* p, uint64_t size, int access, int64_t site) {
  Region* r = regions + region_of_site[site];
  if (uint64_t(p - r->start) >= r->size) {
    int low = 0, high = region_count;  // the last region that starts at p or before
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (regions[middle].start <= p ? low : high) = middle;
    }
    r = regions + low;
    if (uint64_t(p - r->start) >= r->size) {
      if (access == 1 && p >= __ehdr_start && p < _end) return nullptr;
      const int near = nearest(p);
      fail(BOUNDS, place_of(*current, site, 0, access), {}, near, near < 0 ? 0 : p - regions[near].start, size);
    }
    region_of_site[site] = low;
  }
  if (uint64_t(p - r->start) + size > r->size)
    fail(BOUNDS, place_of(*current, site, 0, access), {}, r - regions, p - r->start, size);
  return r;
}

// Zeroed memory of which only those parts cost anything that are touched. Not for threads: it may throw.
static char* reserve(size_t size) {
  void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  return (char*)p;
}
}  // namespace cusim
