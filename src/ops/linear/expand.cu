// Finishes the outputs of linears, in one launch for all linears that read the same x: y += bias + h B^T, and then GELU, where each
// segment of rows has a B of its own rank, or none. `launch_plan.rs` plans it, and `shrink.cu` computes h.
//
// The order of each sum depends on the rank only. So a row's result does not depend, to the bit, on the rows beside it, nor on the
// height of the tiles.
#include "../gelu/gelu.cuh"
#include "segments.cuh"

namespace linear {

// A linear's output.
struct Target {
  uint64_t from;      // what is added to, [T, out]
  uint64_t to;        // [T, out]; it may be `from`
  uint64_t bias;      // f32 [out], or 0
  uint32_t from_stride, to_stride, out;
  uint32_t gelu;
};

// Rows of one linear's output, which have one delta or none.
struct Span {
  uint64_t b;         // B, stored rank by rank: [rank, out]
  uint32_t h;         // the span's first element in h, in units of eight elements
  uint32_t stride;    // from a row of h to the next, in elements
  uint32_t row, rows;
  uint32_t rank;      // 0 where there is no delta
  uint32_t target;    // the linear
  uint32_t first;     // the span's first block
  uint32_t height;    // the rows of a tile
};

constexpr int TARGETS = 4, SPANS = 96;

struct ExpandParams {
  uint64_t h;
  uint64_t spans;     // the spans, or 0 if they are in `small`
  uint32_t count, unused;
  Target targets[TARGETS];
  Span small[SPANS];
};

// A block computes a tile of rows and 256 columns.
constexpr int EXPAND_WARPS = 4, EXPAND_THREADS = 32 * EXPAND_WARPS, BLOCK_COLUMNS = 256;

// A block's rows of an output.
template <class T> struct Tile {
  const T* from;
  T* to;
  const T* h;
  int rows;
};

// Eight neighbouring elements of a row: what is added to, plus the bias and the delta, and then GELU.
template <bool FAST, class T>
__device__ inline void finish(const Target& target, const Eight<T>& y, const float (&bias)[8], const float (&delta)[8], T* to, int valid) {
  alignas(16) float sum[8];
#pragma unroll
  for (int i = 0; i < 8; i++) sum[i] = to_float(i % 2 ? y.pairs[i / 2].y : y.pairs[i / 2].x) + (bias[i] + delta[i]);
  if (target.gelu) {
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] = gelu(sum[i]);
  }
  store_some<FAST>(to, valid, sum);
}

// Rows without a delta. A warp takes every fourth row, of which it loads several before it uses the first, and each thread eight
// columns.
template <class T, bool FAST> __device__ inline void finish_bare(const Target& target, const Tile<T>& tile, int start) {
  constexpr int AHEAD = FAST ? 4 : 1;
  const int column = start + threadIdx.x % 32 * 8, valid = int(target.out) - column;
  if (valid <= 0) return;
  alignas(16) float bias[8] = {};
  if (target.bias) load_some<8, FAST>(reinterpret_cast<const float*>(target.bias) + column, valid, bias);
  for (int first = threadIdx.x / 32; first < tile.rows; first += EXPAND_WARPS * AHEAD) {
    Eight<T> y[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      const int row = min(first + EXPAND_WARPS * i, tile.rows - 1);
      load_some<8, FAST>(tile.from + uint64_t(row) * target.from_stride + column, valid, &y[i].pairs[0].x);
    }
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      const int row = first + EXPAND_WARPS * i;
      if (row >= tile.rows) break;
      finish<FAST>(target, y[i], bias, {}, tile.to + uint64_t(row) * target.to_stride + column, valid);
    }
  }
}

// The transpose of 16 rows of B from rank k on, as the left factor of products: for each m, the thread's columns 2 m and 2 m + 1 of eight
// from `column` on, and the ranks k + 4 t .. k + 4 t + 3. So it loads words of eight columns.
template <class T, bool FAST>
__device__ inline void load_b(const Span& span, int k, int column, int out, Pair<T> (&left)[4][4]) {
  const int first = k + 4 * (threadIdx.x % 4), valid = out - column;
  Eight<T> ranks[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    ranks[i] = zeros<T>();
    if (first + i < int(span.rank) && valid > 0)
      load_some<8, FAST>(reinterpret_cast<const T*>(span.b) + uint64_t(first + i) * out + column, valid, &ranks[i].pairs[0].x);
  }
#pragma unroll
  for (int m = 0; m < 4; m++) {
    left[m][0] = {ranks[0].pairs[m].x, ranks[1].pairs[m].x};
    left[m][1] = {ranks[0].pairs[m].y, ranks[1].pairs[m].y};
    left[m][2] = {ranks[2].pairs[m].x, ranks[3].pairs[m].x};
    left[m][3] = {ranks[2].pairs[m].y, ranks[3].pairs[m].y};
  }
}

// Rows with a delta. A warp takes 64 columns of all rows. Its products are those of the transposes: B^T h^T has a row for each column of
// the output. Threads with the same g hold the same eight neighbouring columns of different rows, and the warp's 128 bytes of a row
// are read and written at once. B stays in registers for all rows, unless the rank is above 16.
template <class T, bool FAST>
__device__ inline void finish_delta(const Span& span, const Target& target, const Tile<T>& tile, int start) {
  constexpr int OCTETS = FAST ? 2 : 1;  // eights of rows at a time
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, out = target.out, rank = span.rank;
  const int column = start + threadIdx.x / 32 * 64 + 8 * g, valid = out - column;
  if (column - 8 * g >= out) return;
  // Columns and rows that do not exist are read as the last that does, and not written.
  const int place = FAST ? min(column, out - 8) : column;
  alignas(16) float bias[8] = {};
  if (target.bias) load_some<8, FAST>(reinterpret_cast<const float*>(target.bias) + place, valid, bias);
  Pair<T> left[4][4];
  load_b<T, FAST>(span, 0, column, out, left);
  for (int first = 0; first < tile.rows; first += 8 * OCTETS) {
    Eight<T> y[OCTETS][2];
#pragma unroll
    for (int o = 0; o < OCTETS; o++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int row = min(first + 8 * o + 2 * t + i, tile.rows - 1);
        load_some<8, FAST>(tile.from + uint64_t(row) * target.from_stride + place, valid, &y[o][i].pairs[0].x);
      }
    float d[OCTETS][4][4] = {};
#pragma unroll 1
    for (int k = 0; k < rank; k += 16) {
      if (rank > 16) load_b<T, FAST>(span, k, column, out, left);
#pragma unroll
      for (int o = 0; o < OCTETS; o++) {
        struct alignas(8) { Pair<T> pairs[2]; } right;
        right.pairs[0] = right.pairs[1] = make_pair<T>(0.f, 0.f);
        // Rows of h are zero from the rank up to the next multiple of eight, and end there.
        const T* h = tile.h + uint64_t(min(first + 8 * o + g, tile.rows - 1)) * span.stride + k + 4 * t;
        if (k + 4 * t < rank) load_some<4, true>(h, 4, &right.pairs[0].x);
#pragma unroll
        for (int m = 0; m < 4; m++) mma(d[o][m], left[m], right.pairs);
      }
    }
#pragma unroll
    for (int o = 0; o < OCTETS; o++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int row = first + 8 * o + 2 * t + i;
        if (row >= tile.rows || valid <= 0) continue;
        float delta[8];
#pragma unroll
        for (int e = 0; e < 8; e++) delta[e] = d[o][e / 2][2 * (e % 2) + i];
        finish<FAST>(target, y[o][i], bias, delta, tile.to + uint64_t(row) * target.to_stride + column, valid);
      }
  }
}

template <class T, bool FAST> __device__ inline void expand(const ExpandParams& p) {
  const Span& span = *find(p.spans ? reinterpret_cast<const Span*>(p.spans) : p.small, p.count, blockIdx.x);
  const Target& target = p.targets[span.target];
  const uint32_t block = blockIdx.x - span.first, across = (target.out + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
  const uint32_t skipped = block / across * span.height;
  const uint64_t row = uint64_t(span.row) + skipped;
  const Tile<T> tile = {
    reinterpret_cast<const T*>(target.from) + row * target.from_stride,
    reinterpret_cast<T*>(target.to) + row * target.to_stride,
    reinterpret_cast<const T*>(p.h) + 8 * uint64_t(span.h) + uint64_t(skipped) * span.stride,
    min(int(span.height), int(span.rows - skipped)),
  };
  const int start = block % across * BLOCK_COLUMNS;
  if (span.rank == 0)
    finish_bare<T, FAST>(target, tile, start);
  else
    finish_delta<T, FAST>(span, target, tile, start);
}

// The second is for outputs, biases or B's whose rows may not be accessed in words of 16 bytes.
template <class T> __device__ void expand_aligned(const ExpandParams& p) { expand<T, true>(p); }
template <class T> __device__ void expand_unaligned(const ExpandParams& p) { expand<T, false>(p); }

}  // namespace linear

KERNELS(linear_expand, linear::EXPAND_THREADS, linear::ExpandParams, linear::expand_aligned)
KERNELS(linear_expand_unaligned, linear::EXPAND_THREADS, linear::ExpandParams, linear::expand_unaligned)
