// The gradients of low-rank deltas in training, for all linears that read the same x. `linear_dots` computes H = scale * x A^T and
// dH = scale * dY B of every delta in one launch; `linear_outer` adds dH^T x to the gradients of A, H^T dY to those of B's transpose, and
// dH A to that of x. Sums have the same order in every run.
#include "../rows.cuh"

namespace trained {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int TASKS = 8;
// The number of ranks in a tile: the columns of H that a block computes or reads.
constexpr int RANKS = 8;

// ---- h = scale * x m^T

// The number of rows of x that a block reads.
constexpr int DOT_ROWS = 4;

struct DotTask {
  uint64_t x;        // [rows, width], rows `x_stride` apart
  uint64_t m;        // [rank, width]
  uint64_t h;        // [rows, rank], rows `h_stride` apart, with zeros up to a multiple of eight columns
  uint64_t copy;     // where x is copied to, rows `copy_stride` apart; 0 if it is not
  uint32_t x_stride, width, rank, h_stride, copy_stride;
  uint32_t first;    // the task's first block
  uint32_t fast;     // whether all rows of x, m and the copy may be read in units of eight elements
  float scale;
};

struct DotParams {
  DotTask tasks[TASKS];
  uint32_t count, rows;
};

// The part of the sums of the columns that this thread reads. A rank or a row that does not exist has the sum 0.
template <class T, bool FAST>
__device__ inline void dot_columns(const DotTask& task, uint32_t row, uint32_t rows, uint32_t tile, float (&sums)[DOT_ROWS][RANKS]) {
  const T* m = reinterpret_cast<const T*>(task.m) + uint64_t(tile) * RANKS * task.width;
  const uint32_t ranks = min(uint32_t(RANKS), task.rank - tile * RANKS);
  for (uint32_t column = threadIdx.x * 8; column < task.width; column += THREADS * 8) {
    const uint32_t count = min(8u, task.width - column);
    float x[DOT_ROWS][8];
#pragma unroll
    for (int i = 0; i < DOT_ROWS; i++) {
      const T* from = reinterpret_cast<const T*>(task.x) + uint64_t(row + i) * task.x_stride + column;
      load_some<false>(from, 0, x[i]);
      if (i < int(rows)) load_some<FAST>(from, count, x[i]);
    }
    if (task.copy && tile == 0) {
#pragma unroll
      for (int i = 0; i < DOT_ROWS; i++)
        if (i < int(rows)) store_some<FAST>(reinterpret_cast<T*>(task.copy) + uint64_t(row + i) * task.copy_stride + column, count, x[i]);
    }
#pragma unroll
    for (int r = 0; r < RANKS; r++) {
      if (r >= int(ranks)) continue;
      float of_m[8];
      load_some<FAST>(m + uint64_t(r) * task.width + column, count, of_m);
#pragma unroll
      for (int i = 0; i < DOT_ROWS; i++) {
#pragma unroll
        for (int k = 0; k < 8; k++) sums[i][r] += x[i][k] * of_m[k];
      }
    }
  }
}

// A block has a tile of ranks for a few rows. Its threads share the columns.
template <class T> __device__ void dots_body(const DotParams& p) {
  SHARED_MEMORY(memory);
  float* scratch = reinterpret_cast<float*>(memory);  // [WARPS][DOT_ROWS][RANKS]
  const DotTask& task = *find(p.tasks, p.count, blockIdx.x);
  const uint32_t tiles = max(1u, (task.rank + RANKS - 1) / RANKS), block = blockIdx.x - task.first;
  const uint32_t tile = block % tiles, row = block / tiles * DOT_ROWS, rows = min(uint32_t(DOT_ROWS), p.rows - row);
  float sums[DOT_ROWS][RANKS] = {};
  if (task.fast) dot_columns<T, true>(task, row, rows, tile, sums);
  else dot_columns<T, false>(task, row, rows, tile, sums);
  if (task.rank == 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < DOT_ROWS; i++) {
#pragma unroll
    for (int r = 0; r < RANKS; r++) {
      const float sum = warp_sum(sums[i][r]);
      if (lane == 0) scratch[(warp * DOT_ROWS + i) * RANKS + r] = sum;
    }
  }
  __syncthreads();
  const uint32_t i = threadIdx.x / RANKS, r = threadIdx.x % RANKS;
  if (i >= rows) return;
  float sum = 0.f;
#pragma unroll
  for (int w = 0; w < WARPS; w++) sum += scratch[(w * DOT_ROWS + i) * RANKS + r];
  reinterpret_cast<T*>(task.h)[uint64_t(row + i) * task.h_stride + tile * RANKS + r] = from_float<T>(task.scale * sum);
}

// ---- sums += h^T m

// A block computes this many columns: each lane has eight, so that a warp reads eight rows at a time.
constexpr int OUTER_COLUMNS = 32;
constexpr int LANES = OUTER_COLUMNS / 8;
constexpr int STEP = THREADS / LANES;

struct OuterTask {
  uint64_t h;     // [rows, rank], rows `h_stride` apart, with zeros up to a multiple of eight columns
  uint64_t m;     // [rows, width], rows `m_stride` apart
  uint64_t sums;  // [rank, width], f32
  uint32_t h_stride, m_stride, width, rank;
  uint32_t first; // the task's first block
  uint32_t fast;  // whether all rows of h and m may be read in units of eight elements
};

// A delta whose dH A is added to the gradient of x.
struct Piece {
  uint64_t a;             // [rank, width]
  uint32_t column, rank;  // the columns of dH
};

struct OuterParams {
  OuterTask tasks[TASKS];
  Piece pieces[TASKS / 2];
  uint64_t dx;         // [rows, width]
  uint64_t dh;         // rows `dh_stride` apart
  uint32_t dh_stride, width, piece_count;
  uint32_t fast;       // whether all rows of dx and of the pieces may be read in units of eight elements
  uint32_t first;      // the first block that adds to dx
  uint32_t unused;
  uint32_t count, rows;
};

template <class T, bool FAST>
__device__ inline void outer_rows(const OuterTask& task, uint32_t rows, uint32_t tile, uint32_t column, float (&sums)[RANKS][8]) {
  if (column >= task.width) return;
  const uint32_t count = min(8u, task.width - column);
  const T* h = reinterpret_cast<const T*>(task.h) + tile * RANKS;
  const T* m = reinterpret_cast<const T*>(task.m) + column;
#pragma unroll 2
  for (uint32_t row = threadIdx.x / LANES; row < rows; row += STEP) {
    float of_h[RANKS], of_m[8];
    load_some<FAST>(h + uint64_t(row) * task.h_stride, RANKS, of_h);
    load_some<FAST>(m + uint64_t(row) * task.m_stride, count, of_m);
#pragma unroll
    for (int r = 0; r < RANKS; r++) {
#pragma unroll
      for (int k = 0; k < 8; k++) sums[r][k] += of_h[r] * of_m[k];
    }
  }
}

// A thread adds to eight columns of this many rows of dx.
constexpr int WIDE_ROWS = 4;

template <class T, bool FAST> __device__ inline void widen(const OuterParams& p, uint32_t row, uint32_t column) {
  const uint32_t count = min(8u, p.width - column), rows = min(uint32_t(WIDE_ROWS), p.rows - row);
  T* dx = reinterpret_cast<T*>(p.dx) + uint64_t(row) * p.width + column;
  const T* dh = reinterpret_cast<const T*>(p.dh) + uint64_t(row) * p.dh_stride;
  float y[WIDE_ROWS][8] = {};
#pragma unroll
  for (int i = 0; i < WIDE_ROWS; i++)
    if (i < int(rows)) load_some<FAST>(dx + uint64_t(i) * p.width, count, y[i]);
  for (uint32_t j = 0; j < p.piece_count; j++) {
    const Piece& piece = p.pieces[j];
    const T* from = reinterpret_cast<const T*>(piece.a) + column;
#pragma unroll 4
    for (uint32_t r = 0; r < piece.rank; r++) {
      float a[8];
      load_some<FAST>(from + uint64_t(r) * p.width, count, a);
#pragma unroll
      for (int i = 0; i < WIDE_ROWS; i++) {
        const float h = i < int(rows) ? to_float(dh[uint64_t(i) * p.dh_stride + piece.column + r]) : 0.f;
#pragma unroll
        for (int k = 0; k < 8; k++) y[i][k] += h * a[k];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < WIDE_ROWS; i++)
    if (i < int(rows)) store_some<FAST>(dx + uint64_t(i) * p.width, count, y[i]);
}

// A block has a tile of ranks for a few columns, and its threads share the rows; or it adds to dx.
template <class T> __device__ void outer_body(const OuterParams& p) {
  SHARED_MEMORY(memory);
  if (blockIdx.x >= p.first) {
    const uint32_t unit = (blockIdx.x - p.first) * THREADS + threadIdx.x, eights = (p.width + 7) / 8;
    const uint32_t row = unit / eights * WIDE_ROWS, column = unit % eights * 8;
    if (row >= p.rows) return;
    p.fast ? widen<T, true>(p, row, column) : widen<T, false>(p, row, column);
    return;
  }
  float* scratch = reinterpret_cast<float*>(memory);  // [WARPS][RANKS][OUTER_COLUMNS]
  const OuterTask& task = *find(p.tasks, p.count, blockIdx.x);
  const uint32_t tiles = (task.rank + RANKS - 1) / RANKS, block = blockIdx.x - task.first;
  const uint32_t tile = block % tiles, first = block / tiles * OUTER_COLUMNS;
  const uint32_t own = threadIdx.x % LANES * 8;
  float sums[RANKS][8] = {};
  if (task.fast) outer_rows<T, true>(task, p.rows, tile, first + own, sums);
  else outer_rows<T, false>(task, p.rows, tile, first + own, sums);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < RANKS; r++) {
#pragma unroll
    for (int k = 0; k < 8; k++) {
      float sum = sums[r][k];
#pragma unroll
      for (int mask = LANES; mask < 32; mask *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
      if (lane < LANES) scratch[(warp * RANKS + r) * OUTER_COLUMNS + own + k] = sum;
    }
  }
  __syncthreads();
  const uint32_t r = threadIdx.x / OUTER_COLUMNS, column = threadIdx.x % OUTER_COLUMNS;
  if (tile * RANKS + r >= task.rank || first + column >= task.width) return;
  float sum = 0.f;
#pragma unroll
  for (int w = 0; w < WARPS; w++) sum += scratch[(w * RANKS + r) * OUTER_COLUMNS + column];
  reinterpret_cast<float*>(task.sums)[uint64_t(tile * RANKS + r) * task.width + first + column] += sum;
}

}  // namespace trained

KERNELS(linear_dots, trained::THREADS, trained::DotParams, trained::dots_body)
KERNELS(linear_outer, trained::THREADS, trained::OuterParams, trained::outer_body)
