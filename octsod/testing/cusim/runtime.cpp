// What every module is linked with: compiled once per mode, and not watched itself. CUSIM_MODE says what the hooks do
// that g++ -fsanitize=thread has put before each access: its own library is not linked, these take its place.
#define CUSIM_PLAIN 0
#define CUSIM_CHECK 1
#define CUSIM_COUNT 2
#if CUSIM_MODE == CUSIM_CHECK
#include "check.h"
#elif CUSIM_MODE == CUSIM_COUNT
#include "count.h"
#else
#include "memory.h"
namespace cusim {
static void begin_launch() { lay_out_regions(); }
static void begin_block(uint32_t) {  // whoever reads shared memory that nobody has written gets no numbers
  for (int i = 0; i < region_count; ++i)
    if (regions[i].shared()) memset(regions[i].start, 0xff, regions[i].size);
}
static void end_block() {}
static void begin_pass(int) {}
static void end_pass() {}
static void passed_barrier() {}
static void synchronised(int, uint32_t) {}
static void fenced() {}
}  // namespace cusim
#endif

using namespace cusim;
#define VISIBLE __attribute__((visibility("default")))
#define HIDDEN __attribute__((visibility("hidden")))

#if CUSIM_MODE == CUSIM_PLAIN
extern "C" HIDDEN void cusim_atomic(void* p, uint64_t, void* caller) { spin(p, site_of(caller)); }
#else
static inline void access(const char* p, uint64_t size, bool sized, int access, const void* caller) {
  if (!current || !size) return;
  const int64_t site = site_of(caller);
  Region* r = find_region(p, size, access, site);
  if (!r || r->kind == UNWATCHED) return;
  const uint64_t offset = p - r->start;
  if (sized && (uint64_t)p & (size - 1))
    fail(MISALIGNED, place_of(*current, site, 0, access), {}, r - regions, offset, size);
  watch(*r, offset, size, access, site);
}

extern "C" {
HIDDEN void cusim_atomic(void* p, uint64_t size, void* caller) {
  spin(p, site_of(caller));
  access((const char*)p, size, true, ATOMIC, caller);
  passed_atomic(p, site_of(caller));
}
#define CALLER __builtin_return_address(0)
#define HOOKS(N)                                                                                       \
  HIDDEN void __tsan_read##N(void* p) { access((const char*)p, N, true, READ, CALLER); }               \
  HIDDEN void __tsan_write##N(void* p) { access((const char*)p, N, true, WRITE, CALLER); }             \
  HIDDEN void __tsan_unaligned_read##N(void* p) { access((const char*)p, N, true, READ, CALLER); }     \
  HIDDEN void __tsan_unaligned_write##N(void* p) { access((const char*)p, N, true, WRITE, CALLER); }
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
HIDDEN void __tsan_read_range(void* p, uint64_t n) { access((const char*)p, n, false, READ, CALLER); }
HIDDEN void __tsan_write_range(void* p, uint64_t n) { access((const char*)p, n, false, WRITE, CALLER); }
HIDDEN void __tsan_func_entry(void*) {}
HIDDEN void __tsan_func_exit() {}
HIDDEN void __tsan_init() {}
}
#endif

#if CUSIM_MODE == CUSIM_CHECK
// g++ -fsanitize=bounds calls it before an array whose size is known is used with another index.
extern "C" HIDDEN void __ubsan_handle_out_of_bounds(void* subscript, void* index) {
  if (current) fail(BOUNDS, place_of(*current, site_of(CALLER), 0), {}, SUBSCRIPT, (int64_t)index, (uint64_t)subscript);
}
#endif

// --- What Python calls. ----------------------------------------------------------------------------------------------
extern "C" {
// Runs the kernel: 1 if all went well, 0 if there is a report, -1 if memory does not suffice.
VISIBLE int cusim_launch(const Launch* wanted, const Argument* given, int count) try {
  launch = *wanted;
  argument_count = count;
  memcpy(arguments, given, sizeof(Argument) * count);
  if (!stacks) stacks = reserve(STRIDE * (MOST_THREADS + 1)) + STRIDE;  // room below the first: it may overflow, too
  if (!region_of_site) region_of_site = (uint16_t*)reserve(sizeof(uint16_t) * MOST_CODE);
  run_grid();
  return !failed;
} catch (const std::bad_alloc&) {
  return -1;
}
VISIBLE const Report* cusim_report() { return &report; }
VISIBLE const Region* cusim_region(int index) { return regions + index; }
VISIBLE const SharedArray* cusim_shared_arrays(int64_t* count) {
  return *count = end_shared - first_shared, first_shared;
}
VISIBLE char* cusim_variables(uint64_t* size) {
  return *size = end_variable - first_variable, first_variable;
}
VISIBLE uint64_t cusim_code_size() { return _end - __ehdr_start; }
}
