// Linears of many heads in one launch. A block has up to eight rows of one head and some of its outputs; a warp has four outputs, whose
// weights it reads once for all of the rows. Each dot product is summed in the same order whatever the other rows and heads are.
#include "kernel.cuh"

namespace {

struct HeadsParams {
  uint64_t x;      // [n, width], f32, rows `stride` apart
  uint64_t tasks;  // HeadsTask of each block in x
  uint64_t rows;   // u32: the rows of x that tasks read
  uint64_t y;      // f32
  uint64_t stride;
  uint32_t width;
  uint32_t fast;   // whether all rows may be read in units of four elements
};

// Up to eight rows of one head. Addresses are halved into words of 32 bits, the lower half first.
struct HeadsTask {
  uint32_t weight[2];  // [out, width], f32, contiguous
  uint32_t bias[2];    // [out], f32
  uint32_t out;
  uint32_t first;      // the task's first place in `rows`
  uint32_t count;      // the number of its rows
  uint32_t y;          // the place in y of its first row's first output
};

constexpr uint32_t HEADS_THREADS = 128;
constexpr uint32_t HEADS_ROWS = 8;
// The outputs of a warp.
constexpr uint32_t HEADS_OUT = 4;

__device__ inline const float* heads_address(const uint32_t (&halves)[2]) {
  return reinterpret_cast<const float*>(uint64_t(halves[1]) << 32 | halves[0]);
}

// Four elements, of which `count` exist; the others become 0.
template <bool FAST> __device__ inline void heads_load(const float* from, uint32_t count, float (&to)[4]) {
  if constexpr (FAST) {
    copy<16>(to, from);
  } else {
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) to[i] = i < count ? from[i] : 0.f;
  }
}

template <bool FAST> __device__ void heads_task(const HeadsParams& p, const HeadsTask& task) {
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t out = (blockIdx.y * (HEADS_THREADS / 32) + warp) * HEADS_OUT;
  if (out >= task.out) return;
  const uint32_t* rows = reinterpret_cast<const uint32_t*>(p.rows) + task.first;
  const float *weight = heads_address(task.weight), *x[HEADS_ROWS], *w[HEADS_OUT];
  // Rows and outputs that do not exist repeat the last one, and are not written.
#pragma unroll
  for (uint32_t r = 0; r < HEADS_ROWS; r++)
    x[r] = reinterpret_cast<const float*>(p.x) + rows[min(r, task.count - 1)] * p.stride;
#pragma unroll
  for (uint32_t o = 0; o < HEADS_OUT; o++) w[o] = weight + uint64_t(min(out + o, task.out - 1)) * p.width;
  float sums[HEADS_ROWS][HEADS_OUT] = {};
  for (uint32_t k = lane * 4; k < p.width; k += 128) {
    const uint32_t count = min(4u, p.width - k);
    float b[HEADS_OUT][4];
#pragma unroll
    for (uint32_t o = 0; o < HEADS_OUT; o++) heads_load<FAST>(w[o] + k, count, b[o]);
#pragma unroll
    for (uint32_t r = 0; r < HEADS_ROWS; r++) {
      if (r >= task.count) break;
      float a[4];
      heads_load<FAST>(x[r] + k, count, a);
#pragma unroll
      for (uint32_t o = 0; o < HEADS_OUT; o++)
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) sums[r][o] += a[i] * b[o][i];
    }
  }
  float* y = reinterpret_cast<float*>(p.y) + task.y;
  const float* bias = heads_address(task.bias);
#pragma unroll
  for (uint32_t r = 0; r < HEADS_ROWS; r++) {
#pragma unroll
    for (uint32_t o = 0; o < HEADS_OUT; o++) {
      const float sum = warp_sum(sums[r][o]);
      if (lane == 0 && r < task.count && out + o < task.out) y[r * task.out + out + o] = sum + bias[out + o];
    }
  }
}

template <class T> __device__ void heads_body(const HeadsParams& p) {
  const HeadsTask task = reinterpret_cast<const HeadsTask*>(p.tasks)[blockIdx.x];
  p.fast ? heads_task<true>(p, task) : heads_task<false>(p, task);
}

}  // namespace

KERNEL(heads_f32, HEADS_THREADS, HeadsParams, heads_body<float>)
