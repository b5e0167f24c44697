// The middle of a feed-forward block, in one launch: z = gelu(y + bias + h B^T), where each segment of rows has a B of its own rank, or
// none; and the first half of the next linear's deltas, scale * z A^T, while z is in registers. A launch of its own would read z again,
// which is the widest tensor of a layer. `launch_plan.rs` plans it.
//
// The order of each sum depends on the width and the rank only. So a row's result does not depend, to the bit, on the rows beside it, nor
// on the height of the tiles. The sums of z A^T are added in the order of `shrink.cu`.
#include "../gelu/gelu.cuh"
#include "segments.cuh"

namespace linear {

// Rows that have one delta of the inner linear or none, and one of the outer linear or none.
struct Band {
  uint64_t b;          // the inner B, stored rank by rank: [rank, width]
  uint64_t a;          // the outer A: [ranks, width]
  uint32_t h, stride;  // the inner delta's first element in h, in units of eight elements, and the distance between rows
  uint32_t rank;       // 0 where there is no inner delta
  uint32_t to;         // the outer delta's first element in `to`, in units of eight elements; its rows lie side by side
  uint32_t ranks;      // at most 24; 0 where there is no outer delta, or where it is left to `shrink.cu`
  float scale;
  uint32_t row, rows;
  uint32_t first;      // the band's first block
  uint32_t unused;
};

constexpr int BANDS = 70;

struct FeedForwardParams {
  uint64_t y;          // [T, width], contiguous: the inner product, and then z
  uint64_t bias;       // f32 [width], or 0
  uint64_t h;          // scale * x A^T of the inner deltas
  uint64_t to;         // scale * z A^T of the outer deltas
  uint64_t bands;      // the bands, or 0 if they are in `small`
  uint32_t count, width;
  Band small[BANDS];
};

// A warp takes every eighth chunk of 32 columns.
constexpr int BAND_WARPS = 8, BAND_THREADS = 32 * BAND_WARPS, BAND_CHUNK = 32;
// The widest outer delta, and the width of its sums in shared memory.
constexpr int BAND_COLUMNS = 24;

// The elements 4 t .. 4 t + 3 from rank k on of a row of h. Rows of h are zero from the rank up to the next multiple of eight, and end
// there.
template <class T> struct alignas(8) Ranks { Pair<T> pairs[2]; };
template <class T> __device__ inline Ranks<T> load_ranks(const T* from, bool inside) {
  Ranks<T> ranks;
  ranks.pairs[0] = ranks.pairs[1] = make_pair<T>(0.f, 0.f);
  if (inside) load_some<4, true>(from, 4, &ranks.pairs[0].x);
  return ranks;
}

// d += h B^T for a warp's 32 columns. Thread t holds the columns 8 t .. 8 t + 7 of its rows: d[m][j] are the columns 2 j and 2 j + 1 of
// those eight.
template <class T, int ROW_TILES>
__device__ inline void add_delta(const FeedForwardParams& p, const Band& band, const T* h, int rows, int start, float (&d)[ROW_TILES][4][4]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const T* b = reinterpret_cast<const T*>(band.b) + start + 8 * (g / 2);
#pragma unroll 1
  for (int k = 4 * t; k - 4 * t < int(band.rank); k += 16) {
    Eight<T> ranks[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      ranks[i] = zeros<T>();
      if (k + i < int(band.rank)) load_some<8, true>(b + uint64_t(k + i) * p.width, 8, &ranks[i].pairs[0].x);
    }
    Ranks<T> left[2 * ROW_TILES];
#pragma unroll
    for (int m = 0; m < 2 * ROW_TILES; m++)
      left[m] = load_ranks(h + 8 * m * band.stride + k, 8 * m + g < rows && k < int(band.rank));
#pragma unroll
    for (int j = 0; j < 4; j++) {
      T column[4];
#pragma unroll
      for (int i = 0; i < 4; i++) column[i] = g % 2 ? ranks[i].pairs[j].y : ranks[i].pairs[j].x;
      const Pair<T> right[2] = {{column[0], column[1]}, {column[2], column[3]}};
#pragma unroll
      for (int m = 0; m < ROW_TILES; m++) {
        const Ranks<T>&above = left[2 * m], &below = left[2 * m + 1];
        const Pair<T> rows[4] = {above.pairs[0], below.pairs[0], above.pairs[1], below.pairs[1]};
        mma(d[m][j], rows, right);
      }
    }
  }
}

// The warp's part of z for ROW_TILES * 16 rows, and of the sums for TILES * 8 columns of z A^T. Rows and ranks that do
// not exist are zero, and such rows are not written.
template <class T, int ROW_TILES, int TILES>
__device__ inline void band_part(const FeedForwardParams& p, const Band& band, int skipped, int rows, float* sums) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, width = p.width;
  const uint64_t row = skipped + g;
  T* y = reinterpret_cast<T*>(p.y) + (band.row + row) * width;
  const T* h = reinterpret_cast<const T*>(p.h) + 8 * uint64_t(band.h) + row * band.stride;
  const T* a = reinterpret_cast<const T*>(band.a) + g * width;

  alignas(16) float outer[ROW_TILES][TILES > 0 ? TILES : 1][4] = {};
  for (int start = warp * BAND_CHUNK; start < width; start += BAND_WARPS * BAND_CHUNK) {
    const int column = start + 8 * t;
    Eight<T> z[2 * ROW_TILES], right[TILES > 0 ? TILES : 1];
    alignas(16) float bias[8] = {};
#pragma unroll
    for (int m = 0; m < 2 * ROW_TILES; m++) {
      z[m] = zeros<T>();
      if (8 * m + g < rows) load_some<8, true>(y + 8 * m * width + column, 8, &z[m].pairs[0].x);
    }
    if (p.bias) load_some<8, true>(reinterpret_cast<const float*>(p.bias) + column, 8, bias);
    float d[ROW_TILES][4][4] = {};
    if (band.rank) add_delta<T, ROW_TILES>(p, band, h, rows, start, d);
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      right[n] = zeros<T>();
      if (8 * n + g < int(band.ranks)) load_some<8, true>(a + 8 * n * width + column, 8, &right[n].pairs[0].x);
    }
#pragma unroll
    for (int m = 0; m < 2 * ROW_TILES; m++) {
      alignas(16) float sum[8];
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const Pair<T>& pair = z[m].pairs[i / 2];
        sum[i] = gelu(to_float(i % 2 ? pair.y : pair.x) + (bias[i] + d[m / 2][i / 2][2 * (m % 2) + i % 2]));
      }
#pragma unroll
      for (int i = 0; i < 4; i++) z[m].pairs[i] = make_pair<T>(sum[2 * i], sum[2 * i + 1]);
      if (8 * m + g < rows) store8(y + 8 * m * width + column, sum);
    }
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
      for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int s = 0; s < 4; s += 2) {
          const Eight<T>&above = z[2 * m], &below = z[2 * m + 1];
          const Pair<T> rows_of_z[4] = {above.pairs[s], below.pairs[s], above.pairs[s + 1], below.pairs[s + 1]};
          const Pair<T> rows_of_a[2] = {right[n].pairs[s], right[n].pairs[s + 1]};
          mma(outer[m][n], rows_of_z, rows_of_a);
        }
  }
  float* to = sums + (warp * 16 * ROW_TILES + g) * BAND_COLUMNS + 2 * t;
#pragma unroll
  for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      copy<8>(to + 16 * m * BAND_COLUMNS + 8 * n, outer[m][n]);
      copy<8>(to + (16 * m + 8) * BAND_COLUMNS + 8 * n, outer[m][n] + 2);
    }
}

// A block computes all columns of a tile of rows. Each warp adds up a part of the width; then all warps' sums are added, in order.
template <class T, int ROW_TILES> __device__ inline void feed_forward(const FeedForwardParams& p) {
  SHARED_MEMORY(memory);
  constexpr int HEIGHT = 16 * ROW_TILES;
  float* sums = reinterpret_cast<float*>(memory);  // [BAND_WARPS][HEIGHT][BAND_COLUMNS]
  const Band& band = *find(p.bands ? reinterpret_cast<const Band*>(p.bands) : p.small, p.count, blockIdx.x);
  const int skipped = (blockIdx.x - band.first) * HEIGHT, rows = min(HEIGHT, int(band.rows) - skipped);
  const int tiles = (band.ranks + 7) / 8;
  if (tiles == 0)
    band_part<T, ROW_TILES, 0>(p, band, skipped, rows, sums);
  else if (tiles == 1)
    band_part<T, ROW_TILES, 1>(p, band, skipped, rows, sums);
  else if (tiles == 2)
    band_part<T, ROW_TILES, 2>(p, band, skipped, rows, sums);
  else
    band_part<T, ROW_TILES, 3>(p, band, skipped, rows, sums);
  __syncthreads();

  // A thread adds up two neighbouring columns.
  for (int i = threadIdx.x; i < rows * 4 * tiles; i += BAND_THREADS) {
    const int row = i / (4 * tiles), column = i % (4 * tiles) * 2;
    float sum[2] = {};
#pragma unroll
    for (int warp = 0; warp < BAND_WARPS; warp++) {
      alignas(8) float part[2];
      copy<8>(part, sums + (warp * HEIGHT + row) * BAND_COLUMNS + column);
      sum[0] += part[0];
      sum[1] += part[1];
    }
    const int ranks = band.ranks;
    alignas(8) const Pair<T> pair =
      make_pair<T>(column < ranks ? band.scale * sum[0] : 0.f, column + 1 < ranks ? band.scale * sum[1] : 0.f);
    copy<2 * sizeof(T)>(reinterpret_cast<T*>(p.to) + 8 * uint64_t(band.to) + uint64_t(skipped + row) * (8 * tiles) + column, &pair);
  }
}

// Tiles of 16 or 32 rows.
template <class T> __device__ void feed_forward_16(const FeedForwardParams& p) { feed_forward<T, 1>(p); }
template <class T> __device__ void feed_forward_32(const FeedForwardParams& p) { feed_forward<T, 2>(p); }

}  // namespace linear

#define BAND_KERNEL(name, type, body) \
  KERNEL_OF_MANY(name, linear::BAND_THREADS, 2, linear::FeedForwardParams, linear::body<type>)

BAND_KERNEL(linear_feed_forward_16_f32, float, feed_forward_16)
BAND_KERNEL(linear_feed_forward_16_bf16, bf16, feed_forward_16)
BAND_KERNEL(linear_feed_forward_16_f16, f16, feed_forward_16)
BAND_KERNEL(linear_feed_forward_32_f32, float, feed_forward_32)
BAND_KERNEL(linear_feed_forward_32_bf16, bf16, feed_forward_32)
BAND_KERNEL(linear_feed_forward_32_f16, f16, feed_forward_32)
