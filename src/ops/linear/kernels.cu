// The low-rank deltas of a mixed batch, each segment with its own rank: `shrink` computes h = scale * x A^T, `expand` finishes the
// outputs of linears: y += bias + h B^T, and then GELU. Each is one launch, whatever the mix of adapters; `launch_plan.rs` plans both.
//
// The order of each sum depends on the width and on the rank only. So a row's result does not depend, to the bit, on the rows beside
// it, nor on the height of the tiles.
#include "kernel.cuh"

namespace linear {

// Warps multiply tiles of 16 rows by tiles of 8 columns. A block's tile of rows consists of up to 4 of them.
constexpr int ROW_TILES = 4;

// Eight neighbouring elements, as pairs.
template <class T> struct alignas(16) Eight { Pair<T> pairs[4]; };

// Loads N neighbouring elements of which the first `valid` exist; the others become zero. `fast` promises that the address of eight
// (or four) elements is a multiple of their size, or of 16 bytes if that is less.
template <int N, class T> __device__ inline void load_some(const T* from, int valid, bool fast, T* to) {
  if (fast && valid >= N) {
    constexpr int BYTES = N * sizeof(T) < 16 ? N * sizeof(T) : 16;
#pragma unroll
    for (int i = 0; i < int(N * sizeof(T)); i += BYTES) copy<BYTES>(reinterpret_cast<char*>(to) + i, reinterpret_cast<const char*>(from) + i);
    return;
  }
#pragma unroll
  for (int i = 0; i < N; i++) to[i] = i < valid ? from[i] : from_float<T>(0.f);
}

// The last of `count` items whose `first` is at most `block`. Items are in ascending order of their first block.
template <class Item> __device__ inline const Item* find(const Item* items, uint32_t count, uint32_t block) {
  uint32_t low = 0, high = count;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (items[middle].first <= block) low = middle; else high = middle;
  }
  return items + low;
}

// ---- h = scale * x A^T

// The number of tiles of 8 columns that a block computes: with 3, two blocks run on a multiprocessor at a time.
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
  uint32_t count, height, width, stride;  // `height`: rows of a tile
  uint32_t fast, unused;                  // `fast`: every row of x and of the A's may be read in words of 16 bytes
  Strip small[STRIPS];
};

constexpr int SHRINK_WARPS = 8, SHRINK_THREADS = 32 * SHRINK_WARPS;
// The width of h in shared memory. Rows that are 24 words apart do not meet in a bank.
constexpr int COLUMNS = 8 * COLUMN_TILES;
// The number of elements of a row that a warp reads at a time: eight for each of four threads.
constexpr int CHUNK = 32;

// A block computes a tile of h. Each warp adds up every eighth chunk of the width; then all warps' sums are added, in order.
template <class T> __device__ void shrink_body(const ShrinkParams& p) {
  SHARED_MEMORY(memory);
  float* sums = reinterpret_cast<float*>(memory);  // [SHRINK_WARPS][height][COLUMNS]
  // Blocks of the same rows are neighbours, so that all but the first find x in the cache.
  const Strip* last = find(p.strips ? reinterpret_cast<const Strip*>(p.strips) : p.small, p.count, blockIdx.x);
  const uint32_t block = blockIdx.x - last->first, strips = last->strips;
  const Strip& strip = *(last - (strips - 1 - block % strips));
  const int skipped = block / strips * p.height;
  const int rows = min(int(p.height), int(strip.rows) - skipped);
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int width = p.width, height = p.height;

  const T* x = reinterpret_cast<const T*>(p.x) + (uint64_t(strip.row) + skipped + g) * p.stride;
  const T* a[COLUMN_TILES];
#pragma unroll
  for (int n = 0; n < COLUMN_TILES; n++)
    a[n] = strip.a[n] != 0 && g < int(strip.ranks[n]) ? reinterpret_cast<const T*>(strip.a[n]) + uint64_t(g) * width : nullptr;
  int tiles = 0;
#pragma unroll
  for (int n = 0; n < COLUMN_TILES; n++) tiles += strip.a[n] != 0;

  alignas(16) float d[ROW_TILES][COLUMN_TILES][4] = {};
  // The order of the elements inside a chunk is free, as long as x and A agree: thread t takes the eight elements from 8 t on.
  for (int k = warp * CHUNK + 8 * t; k - 8 * t < width; k += SHRINK_WARPS * CHUNK) {
    const int valid = width - k;
    Eight<T> columns[COLUMN_TILES], above[ROW_TILES], below[ROW_TILES];
#pragma unroll
    for (int n = 0; n < COLUMN_TILES; n++) load_some<8>(a[n] ? a[n] + k : nullptr, a[n] ? valid : 0, p.fast, &columns[n].pairs[0].x);
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++) {
      const T* row = x + uint64_t(16 * m) * p.stride + k;
      load_some<8>(row, 16 * m + g < rows ? valid : 0, p.fast, &above[m].pairs[0].x);
      load_some<8>(row + 8 * uint64_t(p.stride), 16 * m + g + 8 < rows ? valid : 0, p.fast, &below[m].pairs[0].x);
    }
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++) {
      if (16 * m >= rows) break;
#pragma unroll
      for (int n = 0; n < COLUMN_TILES; n++) {
        if (n >= tiles) break;
#pragma unroll
        for (int s = 0; s < 4; s += 2) {
          const Pair<T> left[4] = {above[m].pairs[s], below[m].pairs[s], above[m].pairs[s + 1], below[m].pairs[s + 1]};
          const Pair<T> right[2] = {columns[n].pairs[s], columns[n].pairs[s + 1]};
          mma(d[m][n], left, right);
        }
      }
    }
  }

#pragma unroll
  for (int m = 0; m < ROW_TILES; m++) {
    if (16 * m >= height) break;
#pragma unroll
    for (int n = 0; n < COLUMN_TILES; n++) {
      float* to = sums + warp * height * COLUMNS;
      copy<8>(to + (16 * m + g) * COLUMNS + 8 * n + 2 * t, d[m][n]);
      copy<8>(to + (16 * m + g + 8) * COLUMNS + 8 * n + 2 * t, d[m][n] + 2);
    }
  }
  __syncthreads();

  for (int i = threadIdx.x; i < rows * COLUMN_TILES; i += SHRINK_THREADS) {
    const int row = i / COLUMN_TILES, n = i % COLUMN_TILES;
    if (n >= tiles) continue;
    alignas(16) float sum[8] = {};
    for (int w = 0; w < SHRINK_WARPS; w++) {
      alignas(16) float part[8];
      load8(sums + w * height * COLUMNS + row * COLUMNS + 8 * n, part);
#pragma unroll
      for (int j = 0; j < 8; j++) sum[j] += part[j];
    }
#pragma unroll
    for (int j = 0; j < 8; j++) sum[j] *= strip.scale[n];
    store8(reinterpret_cast<T*>(p.h) + strip.h + uint64_t(skipped + row) * strip.stride + 8 * n, sum);
  }
}

// ---- y += bias + h B^T, and then GELU

// A linear's output.
struct Target {
  uint64_t from;      // what is added to, [T, out]
  uint64_t to;        // [T, out]; it may be `from`
  uint64_t bias;      // f32 [out], or 0
  uint32_t from_stride, to_stride, out;
  uint32_t gelu;
  uint32_t fast;      // every row of `from`, `to` and the B's, and the bias, may be accessed in words of 16 bytes
  uint32_t unused;
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
  uint32_t unused;
};

constexpr int TARGETS = 4, SPANS = 96;

struct ExpandParams {
  uint64_t h;
  uint64_t spans;     // the spans, or 0 if they are in `small`
  uint32_t count, height;
  Target targets[TARGETS];
  Span small[SPANS];
};

// A block computes a tile of rows and 256 columns, of which each warp takes 64.
constexpr int EXPAND_WARPS = 4, EXPAND_THREADS = 32 * EXPAND_WARPS;
constexpr int WARP_COLUMNS = 64, BLOCK_COLUMNS = EXPAND_WARPS * WARP_COLUMNS;

__device__ inline float gelu(float x) { return 0.5f * x * (1.f + erff(x * 0.70710678f)); }

// The number of tiles of 8 columns that a warp computes at a time.
constexpr int WIDE = 4;

// d += h B^T for the rows of the tile and 32 columns from `column` on. Column c of column tile j is column 4 c + j of the 32: so a
// thread finds what it needs of a row of B, and what it computes of a row of y, side by side.
template <class T>
__device__ inline void add_delta(const Span& span, const T* h, int rows, int column, int out, bool fast,
                                 float (&d)[ROW_TILES][WIDE][4]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, rank = span.rank;
  const T* b = reinterpret_cast<const T*>(span.b);
  const int columns = out - (column + 4 * g);
  // Ranks from 4 t on. Rows of h are zero from the rank up to the next multiple of eight, and end there.
  for (int k = 4 * t; k - 4 * t < rank; k += 16) {
    alignas(16) T right[4][4];  // [rank][column]
#pragma unroll
    for (int i = 0; i < 4; i++)
      load_some<4>(b + uint64_t(k + i) * out + column + 4 * g, k + i < rank ? columns : 0, fast, right[i]);
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++) {
      if (16 * m >= rows) break;
      struct alignas(8) { Pair<T> pairs[2]; } above, below;
      const T* row = h + uint64_t(16 * m + g) * span.stride + k;
      load_some<4>(row, k < rank && 16 * m + g < rows ? 4 : 0, true, &above.pairs[0].x);
      load_some<4>(row + 8 * uint64_t(span.stride), k < rank && 16 * m + g + 8 < rows ? 4 : 0, true, &below.pairs[0].x);
      const Pair<T> left[4] = {above.pairs[0], below.pairs[0], above.pairs[1], below.pairs[1]};
#pragma unroll
      for (int j = 0; j < WIDE; j++) {
        const Pair<T> pairs[2] = {{right[0][j], right[1][j]}, {right[2][j], right[3][j]}};
        mma(d[m][j], left, pairs);
      }
    }
  }
}

template <class T> __device__ void expand_body(const ExpandParams& p) {
  const Span& span = *find(p.spans ? reinterpret_cast<const Span*>(p.spans) : p.small, p.count, blockIdx.x);
  const Target& target = p.targets[span.target];
  const int out = target.out, across = (out + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
  const uint32_t tile = (blockIdx.x - span.first) / across;
  const int skipped = tile * p.height, rows = min(int(p.height), int(span.rows) - skipped);
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const uint64_t row = uint64_t(span.row) + skipped;
  const T* h = reinterpret_cast<const T*>(p.h) + 8 * uint64_t(span.h) + uint64_t(skipped) * span.stride;
  const T* from = reinterpret_cast<const T*>(target.from) + (row + g) * target.from_stride;
  T* to = reinterpret_cast<T*>(target.to) + (row + g) * target.to_stride;
  const int start = (blockIdx.x - span.first) % across * BLOCK_COLUMNS + warp * WARP_COLUMNS;

  for (int column = start; column < start + WARP_COLUMNS && column < out; column += 32) {
    // The thread's eight columns of y. All of it is under way before the first is needed.
    const int mine = column + 8 * t, valid = out - mine;
    Eight<T> y[ROW_TILES][2];
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int r = 16 * m + 8 * half;
        load_some<8>(from + uint64_t(r) * target.from_stride + mine, r + g < rows ? valid : 0, target.fast, &y[m][half].pairs[0].x);
      }
    alignas(16) float bias[8] = {};
    if (target.bias) load_some<8>(reinterpret_cast<const float*>(target.bias) + mine, valid, target.fast, bias);

    float d[ROW_TILES][WIDE][4] = {};
    add_delta(span, h, rows, column, out, target.fast, d);

#pragma unroll
    for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int r = 16 * m + 8 * half;
        if (r + g >= rows || valid <= 0) continue;
        alignas(16) float sum[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
          const Pair<T> pair = y[m][half].pairs[i / 2];
          sum[i] = to_float(i % 2 ? pair.y : pair.x) + bias[i] + d[m][i % 4][2 * half + i / 4];
          if (target.gelu) sum[i] = gelu(sum[i]);
        }
        T* place = to + uint64_t(r) * target.to_stride + mine;
        if (target.fast && valid >= 8) {
          store8(place, sum);
        } else {
#pragma unroll
          for (int i = 0; i < 8; i++)
            if (i < valid) place[i] = from_float<T>(sum[i]);
        }
      }
  }
}

}  // namespace linear

KERNELS(linear_shrink, linear::SHRINK_THREADS, linear::ShrinkParams, linear::shrink_body)
KERNELS(linear_expand, linear::EXPAND_THREADS, linear::ExpandParams, linear::expand_body)
