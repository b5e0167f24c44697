// h = scale * x A^T for the low-rank deltas of a mixed batch, each segment with its own rank, in one launch. `launch_plan.rs` plans it.
//
// The order of each sum depends on the width only. So a row's result does not depend, to the bit, on the rows beside it, nor on the
// height of the tiles.
#include "segments.cuh"

namespace linear {

// The number of tiles of 8 columns that a block computes.
constexpr int COLUMN_TILES = 3;

// Up to 3 * 8 columns of h for a range of rows. The eight columns of a tile are neighbouring rows of one A.
struct Strip {
  uint64_t a[COLUMN_TILES];     // the first row of A of each tile, or 0 from the first tile that the strip does not have
  float scale[COLUMN_TILES];
  uint32_t ranks[COLUMN_TILES]; // the number of rows of A in each tile; the other columns of h are zero
  uint64_t h;                   // the strip's first element in h
  uint32_t stride;              // from a row of h to the next, in elements
  uint32_t row, rows;           // the rows of x
  uint32_t first;               // the first block of all strips of these rows, which lie one after the other
  uint32_t strips;              // the number of those strips
  uint32_t unused;
};

constexpr int STRIPS = 50;

struct ShrinkParams {
  uint64_t x;       // [T, width], rows `stride` elements apart
  uint64_t h;       // scratch of T elements of x's type
  uint64_t strips;  // the strips, or 0 if they are in `small`
  uint32_t count, width, stride, unused;
  Strip small[STRIPS];
};

constexpr int SHRINK_WARPS = 8, SHRINK_THREADS = 32 * SHRINK_WARPS;
// The width of h in shared memory. Rows that are 24 words apart do not meet in a bank.
constexpr int COLUMNS = 8 * COLUMN_TILES;
// The number of elements of a row that a warp reads at a time: eight for each of four threads.
constexpr int CHUNK = 32;

// The warp's part of the sums for ROW_TILES * 16 rows and the first TILES column tiles of a strip: every eighth chunk of the width, of
// which it loads AHEAD before it uses the first. Rows of x and of A that do not exist are read as the last that does, and lead to
// elements that nobody reads.
template <class T, bool FAST, int ROW_TILES, int TILES>
__device__ inline void shrink_part(const ShrinkParams& p, const Strip& strip, int tiles, int skipped, int rows, float* sums) {
  constexpr int AHEAD = FAST ? 2 : 1;
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, width = p.width;
  const T* x[2 * ROW_TILES];
#pragma unroll
  for (int m = 0; m < 2 * ROW_TILES; m++)
    x[m] = reinterpret_cast<const T*>(p.x) + (uint64_t(strip.row) + skipped + min(8 * m + g, rows - 1)) * p.stride;
  const T* a[TILES];
#pragma unroll
  for (int n = 0; n < TILES; n++) {
    const int tile = n < tiles ? n : 0;
    a[n] = reinterpret_cast<const T*>(strip.a[tile]) + uint64_t(min(g, int(strip.ranks[tile]) - 1)) * width;
  }

  alignas(16) float d[ROW_TILES][TILES][4] = {};
  for (int first = warp * CHUNK; first < width; first += SHRINK_WARPS * CHUNK * AHEAD) {
    Eight<T> left[AHEAD][2 * ROW_TILES], right[AHEAD][TILES];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      // The order of the elements inside a chunk is free, as long as x and A agree: thread t takes the eight elements from 8 t on.
      const int k = first + SHRINK_WARPS * CHUNK * i + 8 * t;
#pragma unroll
      for (int n = 0; n < TILES; n++) right[i][n] = zeros<T>();
#pragma unroll
      for (int m = 0; m < 2 * ROW_TILES; m++) left[i][m] = zeros<T>();
      if (k >= width) continue;
#pragma unroll
      for (int n = 0; n < TILES; n++) load_some<8, FAST>(a[n] + k, width - k, &right[i][n].pairs[0].x);
#pragma unroll
      for (int m = 0; m < 2 * ROW_TILES; m++) load_some<8, FAST>(x[m] + k, width - k, &left[i][m].pairs[0].x);
    }
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
#pragma unroll
      for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
        for (int n = 0; n < TILES; n++)
#pragma unroll
          for (int s = 0; s < 4; s += 2) {
            const Eight<T>&above = left[i][2 * m], &below = left[i][2 * m + 1], &columns = right[i][n];
            const Pair<T> rows_of_x[4] = {above.pairs[s], below.pairs[s], above.pairs[s + 1], below.pairs[s + 1]};
            const Pair<T> rows_of_a[2] = {columns.pairs[s], columns.pairs[s + 1]};
            mma(d[m][n], rows_of_x, rows_of_a);
          }
  }
  float* to = sums + (warp * 16 * ROW_TILES + g) * COLUMNS + 2 * t;
#pragma unroll
  for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      copy<8>(to + 16 * m * COLUMNS + 8 * n, d[m][n]);
      copy<8>(to + (16 * m + 8) * COLUMNS + 8 * n, d[m][n] + 2);
    }
}

// A block computes a tile of h. Each warp adds up a part of the width; then all warps' sums are added, in order.
template <class T, bool FAST, int ROW_TILES> __device__ inline void shrink(const ShrinkParams& p) {
  SHARED_MEMORY(memory);
  constexpr int HEIGHT = 16 * ROW_TILES;
  float* sums = reinterpret_cast<float*>(memory);  // [SHRINK_WARPS][HEIGHT][COLUMNS]
  // Blocks of the same rows are neighbours, so that all but the first find x in the cache.
  const Strip* last = find(p.strips ? reinterpret_cast<const Strip*>(p.strips) : p.small, p.count, blockIdx.x);
  const uint32_t block = blockIdx.x - last->first, strips = last->strips;
  const Strip& strip = *(last - (strips - 1 - block % strips));
  const int skipped = block / strips * HEIGHT, rows = min(HEIGHT, int(strip.rows) - skipped);
  const int tiles = strip.a[2] ? 3 : strip.a[1] ? 2 : 1;

  if (tiles == 1)
    shrink_part<T, FAST, ROW_TILES, 1>(p, strip, tiles, skipped, rows, sums);
  else
    shrink_part<T, FAST, ROW_TILES, COLUMN_TILES>(p, strip, tiles, skipped, rows, sums);
  __syncthreads();

  // A thread adds up two neighbouring columns.
  for (int i = threadIdx.x; i < rows * 4 * tiles; i += SHRINK_THREADS) {
    const int row = i / (4 * tiles), column = i % (4 * tiles) * 2;
    float sum[2] = {};
#pragma unroll
    for (int warp = 0; warp < SHRINK_WARPS; warp++) {
      alignas(8) float part[2];
      copy<8>(part, sums + (warp * HEIGHT + row) * COLUMNS + column);
      sum[0] += part[0];
      sum[1] += part[1];
    }
    const int n = column / 8, rank = column % 8, ranks = strip.ranks[n];
    const float scale = strip.scale[n];
    alignas(8) const Pair<T> pair = make_pair<T>(rank < ranks ? scale * sum[0] : 0.f, rank + 1 < ranks ? scale * sum[1] : 0.f);
    copy<2 * sizeof(T)>(reinterpret_cast<T*>(p.h) + strip.h + uint64_t(skipped + row) * strip.stride + column, &pair);
  }
}

// Tiles of 16 or 32 rows. The last two are for rows of x or of an A that may not be read in words of 16 bytes.
template <class T> __device__ void shrink_16(const ShrinkParams& p) { shrink<T, true, 1>(p); }
template <class T> __device__ void shrink_32(const ShrinkParams& p) { shrink<T, true, 2>(p); }
template <class T> __device__ void shrink_unaligned_16(const ShrinkParams& p) { shrink<T, false, 1>(p); }
template <class T> __device__ void shrink_unaligned_32(const ShrinkParams& p) { shrink<T, false, 2>(p); }

}  // namespace linear

KERNELS(linear_shrink_16, linear::SHRINK_THREADS, linear::ShrinkParams, linear::shrink_16)
KERNELS(linear_shrink_32, linear::SHRINK_THREADS, linear::ShrinkParams, linear::shrink_32)
KERNELS(linear_shrink_unaligned_16, linear::SHRINK_THREADS, linear::ShrinkParams, linear::shrink_unaligned_16)
KERNELS(linear_shrink_unaligned_32, linear::SHRINK_THREADS, linear::ShrinkParams, linear::shrink_unaligned_32)
