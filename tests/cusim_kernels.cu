// Small kernels, wrong and right ones. In the wrong ones, `!` marks the lines that are to be named: one, or two if two
// threads take part in different lines. All are compiled as one module, which takes a few seconds.
#define KERNEL extern "C" __global__ void

// --- Races in a block. -----------------------------------------------------------------------------------------------
KERNEL missing_barrier(float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = threadIdx.x;  // !
  y[threadIdx.x] = s[63 - threadIdx.x];  // !
}

KERNEL write_after_read(float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = threadIdx.x;
  __syncthreads();
  float v = s[(threadIdx.x + 1) % 64];  // !
  s[threadIdx.x] = v;  // !
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}

KERNEL write_after_reads_of_two_warps(float* y) {
  __shared__ float s[1];
  if (threadIdx.x == 0) s[0] = 1;
  __syncthreads();
  y[threadIdx.x] = s[0];  // !
  if (threadIdx.x == 40) s[0] = 2;  // !
}

KERNEL two_writers(float* y) {
  __shared__ float s[1];
  s[0] = 1;  // !
  __syncthreads();
  y[threadIdx.x] = s[0];
}

KERNEL dynamic_shared(float* y) {
  extern __shared__ float s[];
  s[threadIdx.x] = 1;  // !
  y[threadIdx.x] = s[threadIdx.x ^ 1];  // !
}

KERNEL double_buffer_without_barrier(float* y) {
  __shared__ float s[2][64];
  s[0][threadIdx.x] = threadIdx.x;
  __syncthreads();
  for (int i = 0; i < 4; ++i) {
    float v = s[i & 1][63 - threadIdx.x];  // !
    s[~i & 1][threadIdx.x] = v;  // !
  }
  y[threadIdx.x] = s[0][threadIdx.x];
}

KERNEL bytes_overlap(unsigned char* y) {
  __shared__ unsigned char s[66];
  s[threadIdx.x] = 1;  // !
  if (threadIdx.x == 7) s[8] = 2;  // !
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}

KERNEL race_in_global_memory(float* y) {
  y[threadIdx.x] = 1;  // !
  if (threadIdx.x == 5) y[6] += 1;  // !
}

// --- Races in a warp. ------------------------------------------------------------------------------------------------
KERNEL warp_synchronous(float* y) {
  __shared__ volatile float s[32];
  s[threadIdx.x] = threadIdx.x;  // !
  y[threadIdx.x] = s[threadIdx.x ^ 1];  // !
}

KERNEL wrong_mask(float* y) {
  __shared__ float s[32];
  s[threadIdx.x] = threadIdx.x;  // !
  __syncwarp(threadIdx.x < 16 ? 0x0000ffff : 0xffff0000);
  y[threadIdx.x] = s[31 - threadIdx.x];  // !
}

KERNEL shuffle_is_no_barrier(float* y) {
  __shared__ float s[32];
  s[threadIdx.x] = threadIdx.x;  // !
  float v = __shfl_xor_sync(0xffffffff, 1.f, 1);
  y[threadIdx.x] = v + s[threadIdx.x ^ 1];  // !
}

// --- Races between blocks. -------------------------------------------------------------------------------------------
KERNEL blocks_write_the_same(float* y) {
  if (threadIdx.x == 0) y[0] = blockIdx.x;  // !
}

KERNEL blocks_overlap(float* y) {
  y[blockIdx.x * 32 + threadIdx.x] = 1;  // !
  if (threadIdx.x == 0) y[blockIdx.x * 32 + 32] = 2;  // !
}

KERNEL block_reads_what_another_writes(float* y, int n) {
  float v = y[(blockIdx.x * 32 + threadIdx.x + 32) % n];  // !
  y[blockIdx.x * 32 + threadIdx.x] = v;  // !
}

KERNEL no_atomic(float* y) {
  y[0] += 1;  // !
}

KERNEL atomic_and_plain(float* y) {
  atomicAdd(y, 1.f);  // !
  if (threadIdx.x == 3) y[0] = 0;  // !
}

KERNEL reset_without_fence(unsigned* count) {
  if (atomicAdd(count, 1u) == gridDim.x - 1)  // !
    *count = 0;  // !
}

KERNEL last_block_without_fence(float* y, const float* x, unsigned* count) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    y[1 + blockIdx.x] = x[blockIdx.x];  // !
    last = atomicInc(count, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    float sum = 0;
    for (int i = 0; i < gridDim.x; ++i) sum += y[1 + i];  // !
    y[0] = sum;
  }
}

KERNEL module_variable(float* y);
__device__ int counter;
KERNEL module_variable(float* y) {
  counter = blockIdx.x;  // !
  y[0] = 1;
}

// --- Barriers. -------------------------------------------------------------------------------------------------------
KERNEL divergent_barrier(float* y) {
  if (threadIdx.x < 16) {
    __syncthreads();  // !
    y[threadIdx.x] = 1;
  } else {
    y[threadIdx.x] = 2;
    __syncthreads();  // !
  }
}

KERNEL part_of_a_warp_has_ended(float* y) {
  if (threadIdx.x >= 20) return;
  __syncthreads();  // !
  y[threadIdx.x] = 1;
}

KERNEL shuffle_in_a_branch(float* y) {
  float v = threadIdx.x;
  if (threadIdx.x < 16) v = __shfl_xor_sync(0xffffffff, v, 1);  // !
  __syncthreads();  // !
  y[threadIdx.x] = v;
}

KERNEL lanes_wait_for_each_other(float* y) {
  if (threadIdx.x < 16) __syncwarp(0xffffffff);  // !
  else y[threadIdx.x] = __shfl_xor_sync(0xffffffff, 1.f, 1);  // !
}

KERNEL not_in_its_mask(float* y) {
  y[threadIdx.x] = __shfl_sync(0x0000ffff, 1.f, 0);  // !
}

// --- Bounds and contents. --------------------------------------------------------------------------------------------
KERNEL reads_past_the_end(float* y, const float* x, int n) {
  y[threadIdx.x] = x[threadIdx.x + n];  // !
}

KERNEL writes_before_the_start(float* y, int n) {
  y[(int)threadIdx.x - n] = 1;  // !
}

KERNEL past_a_shared_array(float* y) {
  __shared__ float first[32], second[32];
  float* next = first + 1;
  next[threadIdx.x] = 1;  // !
  second[threadIdx.x] = 2;
  __syncthreads();
  y[threadIdx.x] = first[threadIdx.x] + second[threadIdx.x];
}

KERNEL past_a_shared_row(float* y) {
  __shared__ float tile[9][4];
  tile[threadIdx.x][threadIdx.x] = 1;  // !
  y[threadIdx.x] = tile[threadIdx.x][threadIdx.x];
}

KERNEL past_an_own_array(float* y, int n) {
  float sums[4] = {};
#pragma unroll
  for (int i = 0; i <= 4; ++i) {
    if (i > n) break;
    sums[i] += y[i];  // !
  }
  y[0] = sums[n & 3];
}

struct Pair { double of[2]; };
KERNEL before_an_own_array(float* y, int n) {
  Pair pair = {{y[0], y[1]}};
  y[0] = pair.of[n ? 0 : n - 1];  // !
}

KERNEL past_rows_of_an_own_array(float* y, int n) {
  float total[3][2] = {};
  for (int i = 0; i <= n; ++i) total[i][y[i] > 0] += y[i];  // !
  y[0] = total[0][0] + total[2][1];
}

template <int ROWS>
__device__ inline void add_rows(float (&total)[ROWS][2], const float* x, int n) {
  for (int i = 0; i <= n; ++i) total[i][x[i] > 0] += x[i];
}

KERNEL past_rows_in_a_template(float* y, int n) {
  float total[3][2] = {};
  add_rows(total, y, n);
  y[0] = total[0][0] + total[2][1];
}

KERNEL past_dynamic_shared(float* y) {
  extern __shared__ float s[];
  s[threadIdx.x] = 1;  // !
  y[threadIdx.x] = s[threadIdx.x];
}

KERNEL unwritten_shared(float* y) {
  __shared__ float s[32];
  if (threadIdx.x < 31) s[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];  // !
}

KERNEL shared_of_the_last_block(float* y) {
  __shared__ float s[32];
  if (blockIdx.x == 0) s[threadIdx.x] = 1;
  y[blockIdx.x * 32 + threadIdx.x] = s[threadIdx.x];  // !
}

KERNEL unwritten_array(float* y, float* z) {
  y[threadIdx.x] = z[threadIdx.x];  // !
}

KERNEL writes_const(float* y, const float* x) {
  ((float*)x)[threadIdx.x] = y[threadIdx.x];  // !
}

KERNEL misaligned(float* y, const float* x, int n) {
  float4 v = *(const float4*)(x + n);  // !
  y[0] = v.x + v.w;
}

KERNEL misaligned_pair(float* y, int n) {
  *(float2*)(y + n) = make_float2(1, 2);  // !
}

KERNEL null_pointer(float* y, const float* x) {
  y[threadIdx.x] = x[threadIdx.x];  // !
}

KERNEL divides_by_zero(int* y, int n) {
  y[threadIdx.x] = 7 / n;  // !
}

KERNEL waits_for_another_block(int* y) {
  atomicAdd(y, 1);
  while (atomicAdd(y, 0) < gridDim.x) {}  // !
}

KERNEL large_frame(int* y, int n) {
  volatile int frame[33000];
  for (int i = 0; i < 33000; ++i) frame[i] = i;
  y[0] = frame[n];
}

KERNEL traps(float* y) {
  if (threadIdx.x == 2) __trap();  // !
  y[threadIdx.x] = 1;
}

KERNEL depends_on_order(float* y, float* sums) {
  atomicAdd(sums, threadIdx.x == 0 ? 1e8f : 1.f);
  y[threadIdx.x] = 1;
}

// --- Right programs of the same shapes. ------------------------------------------------------------------------------
KERNEL right_barrier(float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = s[63 - threadIdx.x];
}

KERNEL right_syncwarp(float* y) {
  __shared__ float s[32];
  const int i = threadIdx.x;
  s[i] = i;
  __syncwarp();
  for (int d = 16; d; d >>= 1) {
    const float v = i < d ? s[i + d] : 0;
    __syncwarp();
    if (i < d) s[i] += v;
    __syncwarp();
  }
  y[i] = s[0];
}

// Half a warp each, and from one to the other through the one lane that belongs to both groups.
KERNEL right_masks(float* y) {
  __shared__ float s[32];
  const int i = threadIdx.x;
  s[i] = i;
  __syncwarp(i < 16 ? 0x0000ffff : 0xffff0000);
  float v = s[i ^ 15];
  if (i >= 15 && i < 17) __syncwarp(0x00018000);
  if (i == 16) v += s[3];
  y[i] = v;
}

KERNEL right_double_buffer(float* y) {
  __shared__ float s[2][64];
  s[0][threadIdx.x] = threadIdx.x;
  __syncthreads();
  for (int i = 0; i < 4; ++i) {
    s[~i & 1][threadIdx.x] = s[i & 1][63 - threadIdx.x];
    __syncthreads();
  }
  y[threadIdx.x] = s[0][threadIdx.x];
}

KERNEL right_halves_of_a_word(unsigned short* y) {
  __shared__ unsigned short s[64];
  s[threadIdx.x] = threadIdx.x;
  y[blockIdx.x + 2 * threadIdx.x] = s[threadIdx.x];
}

KERNEL right_reduction(float* y, const float* x, int n) {
  __shared__ float part[32];
  float v = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
#pragma unroll
  for (int d = 16; d; d >>= 1) v += __shfl_down_sync(0xffffffff, v, d);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x < 32) {
    v = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0;
    for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(0xffffffff, v, d);
    if (threadIdx.x == 0) y[blockIdx.x] = v;
  }
}

KERNEL right_histogram(int* y, const unsigned char* x, int n) {
  __shared__ int s[16];
  if (threadIdx.x < 16) s[threadIdx.x] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(s + x[i] % 16, 1);
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(y + threadIdx.x, s[threadIdx.x]);
}

KERNEL right_warp_exit(float* y) {
  __shared__ float s[32];
  if (threadIdx.x >= 32) return;  // the second warp ends
  s[threadIdx.x] = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = s[31 - threadIdx.x];
}

KERNEL right_exit(float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  y[i] = i;
}

KERNEL right_last_block(float* y, const float* x, unsigned* count) {
  __shared__ bool last;
  if (threadIdx.x < 4) y[1 + blockIdx.x * 4 + threadIdx.x] = x[blockIdx.x * 4 + threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicInc(count, gridDim.x - 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (last && threadIdx.x == 32) {
    float sum = 0;
    for (int i = 0; i < 4 * gridDim.x; ++i) sum += y[1 + i];
    y[0] = sum;
  }
}

KERNEL right_reset(float* y, const float* x, unsigned* count) {  // the last block leaves the counter as it was
  __shared__ bool last;
  if (threadIdx.x == 0) {
    y[1 + blockIdx.x] = x[blockIdx.x];
    __threadfence();
    last = atomicAdd(count, 1u) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    float sum = 0;
    for (int i = 0; i < gridDim.x; ++i) sum += y[1 + i];
    y[0] = sum;
    *count = 0;
  }
}

KERNEL right_unused(float* y, const float* x, int n, int scaled) {
  __shared__ float scale;
  if (scaled && threadIdx.x == 0) scale = x[2];
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = scaled ? scale * x[i] : x[i];
}

KERNEL right_vectors(float4* y, const float4* x, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    float4 v = x[i];
    v.x += v.w;
    y[i] = v;
  }
}

KERNEL right_fill(float* y, float* z) {
  z[threadIdx.x] = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = z[63 - threadIdx.x];
}

// Two branches may meet at two places, and lanes that have ended are not waited for.
KERNEL right_branches(float* y) {
  if (threadIdx.x >= 28) return;
  y[threadIdx.x] = threadIdx.x;
  if (threadIdx.x < 16) __syncwarp();
  else __syncwarp();
  const float other = y[27 - threadIdx.x];
  __syncwarp();
  y[threadIdx.x] = other;
}

// Warps that wait for each other: a lock in global memory.
KERNEL right_lock(int* y, int* lock) {
  if (threadIdx.x % 32 == 0) {
    while (atomicCAS(lock, 0, 1) != 0) {}
    atomicAdd(y, 1);
    atomicExch(lock, 0);
  }
}

// Two blocks read what neither writes; a thread reads and writes what is its own.
KERNEL right_in_place(float* y, const float* x) {
  const int i = blockIdx.x * 32 + threadIdx.x;
  y[i] = y[i] + x[threadIdx.x];
}
