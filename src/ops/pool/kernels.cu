// The mean of each text's rows, and its gradient.
#include "../rows.cuh"

namespace {

struct PoolParams {
  uint64_t x;        // [rows, width], rows `stride` apart; in the backward pass the gradient of the means, [texts, width]
  uint64_t offsets;  // [texts + 1], u32: the first row of each text, then the end of the last
  uint64_t y;        // the means, [texts, width]; in the backward pass the gradient of the rows, [rows, width]
  uint64_t stride;
  uint32_t rows;
  uint32_t texts;
  uint32_t width;
  uint32_t fast;     // whether all rows may be read in units of eight elements
};

constexpr uint32_t POOL_WARPS = ROWS_THREADS / 32;
// The columns of a block: eight for each thread of a warp.
constexpr uint32_t POOL_COLUMNS = 256;

// A block has a text and some columns. Its warps share the rows, and then add their sums in a fixed order.
template <class T, bool FAST> __device__ void pool_text(const PoolParams& p) {
  SHARED_MEMORY(shared);
  float* sums = reinterpret_cast<float*>(shared);
  const uint32_t* offsets = reinterpret_cast<const uint32_t*>(p.offsets);
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, block = blockIdx.y * POOL_COLUMNS, column = block + lane * 8;
  const uint32_t start = offsets[blockIdx.x], end = offsets[blockIdx.x + 1];
  float sum[8] = {};
  if (column < p.width) {
#pragma unroll 4
    for (uint32_t row = start + warp; row < end; row += POOL_WARPS) {
      float x[8];
      load_some<FAST>(reinterpret_cast<const T*>(p.x) + row * p.stride + column, min(8u, p.width - column), x);
#pragma unroll
      for (uint32_t i = 0; i < 8; i++) sum[i] += x[i];
    }
  }
  store8(sums + warp * POOL_COLUMNS + lane * 8, sum);
  __syncthreads();
  const uint32_t mine = block + threadIdx.x;
  if (mine >= p.width) return;
  float total = 0.f;
  for (uint32_t i = 0; i < POOL_WARPS; i++) total += sums[i * POOL_COLUMNS + threadIdx.x];
  const float mean = end > start ? total / (end - start) : 0.f;
  reinterpret_cast<T*>(p.y)[uint64_t(blockIdx.x) * p.width + mine] = from_float<T>(mean);
}

template <class T> __device__ void pool_body(const PoolParams& p) { p.fast ? pool_text<T, true>(p) : pool_text<T, false>(p); }

// Each row gets its text's gradient over the text's length. Rows outside all texts get 0.
template <class T, bool FAST> __device__ void pool_backward_eight(const PoolParams& p, uint32_t row, uint32_t column) {
  const uint32_t* offsets = reinterpret_cast<const uint32_t*>(p.offsets);
  const uint32_t count = min(8u, p.width - column);
  // The first text that ends behind the row.
  uint32_t text = 0;
  for (uint32_t end = p.texts; text < end;) {
    const uint32_t middle = (text + end) / 2;
    if (offsets[middle + 1] > row) end = middle;
    else text = middle + 1;
  }
  float dx[8] = {};
  if (text < p.texts && offsets[text] <= row) {
    load_some<FAST>(reinterpret_cast<const T*>(p.x) + text * p.stride + column, count, dx);
    const float len = offsets[text + 1] - offsets[text];
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) dx[i] /= len;
  }
  store_some<FAST>(reinterpret_cast<T*>(p.y) + uint64_t(row) * p.width + column, count, dx);
}

template <class T> __device__ void pool_backward_body(const PoolParams& p) {
  const uint32_t eights = (p.width + 7) / 8, row = rows_unit() / eights, column = rows_unit() % eights * 8;
  if (row >= p.rows) return;
  p.fast ? pool_backward_eight<T, true>(p, row, column) : pool_backward_eight<T, false>(p, row, column);
}

}  // namespace

KERNELS(pool, ROWS_THREADS, PoolParams, pool_body)
KERNELS(pool_backward, ROWS_THREADS, PoolParams, pool_backward_body)
