// Tiles of matrices in shared memory, as attention reads them: loads and stores, products, the online softmax, and the
// dropout mask.
//
// A tile has rows of D elements, the head size rounded up to a size for which there is a kernel. What lies beyond the head size, and
// rows beyond the text, are 0. Rows lie `STRIDE<D>` elements apart, so that the rows which a warp reads at once lie in different banks.
#pragma once

#include "operands.cuh"

namespace attention {

// Each warp of a block owns 16 rows of the block's tile. There are 4 warps, but also a forward kernel of 2 for short texts.
constexpr int WARPS = 4, THREADS = 32 * WARPS, ROWS = 16 * WARPS;

template <int D> constexpr int STRIDE = D + 8;

// The number of rows of a tile that the block walks over: 8 KB, but from 16 to ROWS.
constexpr int step(int bytes) { return bytes <= 8192 / ROWS ? ROWS : bytes >= 8192 / 16 ? 16 : 8192 / bytes; }
template <class T, int D> constexpr int STEP = step(D * int(sizeof(T)));

// One head of neighbouring rows of a matrix in global memory. `aligned` says that the elements of each row can be read 16 bytes at a
// time.
template <class T> struct Rows {
  T* first;
  uint32_t stride;  // elements from one row to the next
  int size;         // elements of a row
  bool aligned;

  __device__ T* row(uint32_t i) const { return first + uint64_t(i) * stride; }
};

// Begins to load rows `from..from + count` into a tile, at most N, by all threads of the block. Rows from `end` on become 0. The tile is
// there after a wait for copies and a barrier.
template <int N, int D, int OF_WARPS = WARPS, class T>
__device__ void load_tile(T* tile, const Rows<const T>& rows, int from, int end, int count = N) {
  constexpr int CHUNK = 16 / sizeof(T), CHUNKS = D / CHUNK, AT_ONCE = 32 * OF_WARPS / CHUNKS;
  if (rows.aligned) {
    static_assert(AT_ONCE > 0);
    const int column = threadIdx.x % CHUNKS * CHUNK, row = threadIdx.x / CHUNKS;
    const int inside = column < rows.size ? end - from - row : 0, all = count - row;
    const T* source = rows.row(from + row) + column;
    T* to = tile + row * STRIDE<D> + column;
#pragma unroll 8
    for (int i = 0; i < N; i += AT_ONCE) {
      if (i < all) copy_async(to + i * STRIDE<D>, source, i < inside);
      source += uint64_t(AT_ONCE) * rows.stride;
    }
  } else {
#pragma unroll 1
    for (int i = threadIdx.x; i < count * D; i += 32 * OF_WARPS) {
      const int row = i / D, column = i % D;
      const bool inside = from + row < end && column < rows.size;
      tile[row * STRIDE<D> + column] = inside ? rows.row(from + row)[column] : from_float<T>(0.f);
    }
  }
}

// Writes the warp's 16 rows of a product, `sums` times `factor` (of rows g and g + 8), to the rows `from..` of a matrix, as far as they
// lie before `end`. The 16 rows at `scratch` in shared memory are the warp's own.
template <int D, class T>
__device__ void store_rows(const Rows<T>& rows, int from, int end, const float (&sums)[D / 8][4], const float (&factor)[2], T* scratch) {
  constexpr int CHUNK = 16 / sizeof(T), CHUNKS = D / CHUNK;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  __syncwarp();
#pragma unroll
  for (int n = 0; n < D / 8; n++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const Pair<T> pair = make_pair<T>(sums[n][2 * half] * factor[half], sums[n][2 * half + 1] * factor[half]);
      copy<2 * sizeof(T)>(scratch + (g + 8 * half) * STRIDE<D> + 8 * n + 2 * t, &pair);
    }
  __syncwarp();
  if (rows.aligned) {
    constexpr int LANES = CHUNKS < 32 ? CHUNKS : 32;  // of a row
#pragma unroll
    for (int i = 0; i < 16 * CHUNKS / LANES; i += 32 / LANES) {
      const int row = (i + lane / LANES) % 16, column = (i / 16 * LANES + lane % LANES) * CHUNK;
      if (from + row < end && column < rows.size) copy<16>(rows.row(from + row) + column, scratch + row * STRIDE<D> + column);
    }
  } else {
#pragma unroll 1
    for (int i = lane; i < 16 * D; i += 32) {
      const int row = i / D, column = i % D;
      if (from + row < end && column < rows.size) rows.row(from + row)[column] = scratch[row * STRIDE<D> + column];
    }
  }
}

// The warp's rows of a tile as operands, for all D columns. They stay in registers if they have at most WIDEST columns of 16 bits, and
// are read again otherwise.
template <class T, int D, int WIDEST> struct Operand {
  static constexpr bool KEPT = sizeof(T) == 2 && D <= WIDEST;
  const T* tile;
  Pair<T> kept[KEPT ? D / 16 : 1][4];

  __device__ explicit Operand(const T* tile) : tile(tile) {
    if constexpr (KEPT)
#pragma unroll
      for (int k = 0; k < D / 16; k++) load_a(kept[k], tile + 16 * k, STRIDE<D>);
  }
  // sums [16, 8 N] += the rows times the transpose of 8 N rows of another tile.
  template <int N> __device__ void multiply(float (&sums)[N][4], const T* other) const {
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
      Pair<T> a[4];
      if constexpr (!KEPT) load_a(a, tile + 16 * k, STRIDE<D>);
#pragma unroll
      for (int n = 0; n < N / 2; n++) {
        Pair<T> b[2][2];
        load_b(b, other + 16 * n * STRIDE<D> + 16 * k, STRIDE<D>);
        if constexpr (KEPT) {
          mma(sums[2 * n], kept[k], b[0]);
          mma(sums[2 * n + 1], kept[k], b[1]);
        } else {
          mma(sums[2 * n], a, b[0]);
          mma(sums[2 * n + 1], a, b[1]);
        }
      }
    }
  }
};

// A product [16, 16], held as `mma` returns its two halves, as the operand a of the next product.
template <class T> __device__ inline void to_operand(Pair<T> (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = make_pair<T>(left[0], left[1]);
  a[1] = make_pair<T>(left[2], left[3]);
  a[2] = make_pair<T>(right[0], right[1]);
  a[3] = make_pair<T>(right[2], right[3]);
}

// sums [16, D] += a [16, 16] times 16 rows of a tile.
template <int D, class T> __device__ inline void multiply_rows(float (&sums)[D / 8][4], const Pair<T> (&a)[4], const T* tile) {
#pragma unroll
  for (int n = 0; n < D / 16; n++) {
    Pair<T> b[2][2];
    load_b_rows(b, tile + 16 * n, STRIDE<D>);
    mma(sums[2 * n], a, b[0]);
    mma(sums[2 * n + 1], a, b[1]);
  }
}

// The sum and the largest of x over the 4 threads that share a row.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// The softmax of the warp's rows g and g + 8, over keys that come step by step.
struct OnlineSoftmax {
  float most[2] = {-INFINITY, -INFINITY};  // the largest score, in units of log 2
  float sum[2] = {0.f, 0.f};               // of this thread's keys; of all threads of the row together after `finish`

  // Replaces scores by `2^(scale score - most)`, and sets `factor` to that by which earlier results must be multiplied. The scale must
  // be positive. A step of scores that are all minus infinity changes nothing, to the bit.
  template <int N> __device__ void update(float (&scores)[N][4], float scale, float (&factor)[2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float largest = -INFINITY;
#pragma unroll
      for (int n = 0; n < N; n++) largest = fmaxf(largest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      largest = fmaxf(most[half], row_max(largest) * scale);
      // A row that has seen no key yet has no largest score.
      const float shift = largest == -INFINITY ? 0.f : largest;
      factor[half] = power_of_two(most[half] - shift);
      most[half] = largest;
      sum[half] *= factor[half];
#pragma unroll
      for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          scores[n][i] = power_of_two(fmaf(scores[n][i], scale, -shift));
          sum[half] += scores[n][i];
        }
    }
  }

  __device__ void finish() {
    sum[0] = row_sum(sum[0]);
    sum[1] = row_sum(sum[1]);
  }
  // The logarithm to base 2 of the sum of `2^score` over all keys of a row.
  __device__ float log_sum(int half) const { return most[half] + log2f(sum[half]); }
};

// The dropout mask of the weights of one head of one text, as `attention::mask` computes it.
struct Mask {
  uint64_t seed;
  uint32_t bound;
  float kept;

  __device__ Mask(uint64_t seed, uint32_t bound, float kept, uint32_t text, uint32_t head)
      : seed(splitmix(seed ^ splitmix(uint64_t(text) << 32 | head))), bound(bound), kept(kept) {}
  // The factor of the element `at`, 0 or `kept`.
  __device__ float factor(uint64_t at) const { return uint32_t(splitmix(seed + at) >> 32) >= bound ? kept : 0.f; }
};

}  // namespace attention
