// What the forward pass and its gradient share, and the gradient's tiles: how they are loaded, and the scores of a tile of queries with
// a tile of keys.
//
// A block of the gradient has four warps, and 64 queries and 64 keys of one text and one head; each warp has 16 rows. The distances
// i - j of such a pair of tiles are 127 neighbouring values, so the block loads the rows of positions of these, one after the other, and
// multiplies them by the queries (or keys) as a matrix. Of the products of row i with all distances, the score (i, j) takes the one at `i - j + 63`.
#pragma once

#include "kernel.cuh"

namespace disentangled {

constexpr int TILE = 64;
constexpr int THREADS = 128;
constexpr int BAND = 16;           // the rows of a tile that a warp has
constexpr int SPAN = 2 * TILE;     // the distances of a pair of tiles, and one that is not used
constexpr int BAND_SPAN = 80;      // the distances of a warp's rows and the 64 of the other tile, and one that is not used
constexpr int PAD = 8;             // elements after each row in shared memory, so that a warp's loads lie in different banks
constexpr int BIAS_ROW = TILE + 4; // floats in a row of the bias, for the same reason
constexpr uint32_t NONE = 0xffffffffu;

// What the forward pass reads. `Inputs` in inputs.rs.
struct Inputs {
  uint64_t q, k, v;                       // [T, hidden]
  uint64_t q_stride, k_stride, v_stride;  // elements from row to row
  uint64_t positions, positions_stride;   // [P, hidden]
  uint64_t tiles;                         // QueryTile for each block
  uint64_t distances;                     // the row of each distance, counted from a set's first
  uint64_t seed;                          // of the dropout
  uint32_t tokens, heads, size;
  uint32_t middle;                        // the index of distance 0
  uint32_t aligned;                       // whether all rows of a head can be read 16 bytes at a time
  uint32_t bound;                         // hashes below it drop a weight
  float kept;                             // the factor of the weights that are kept; 0 without dropout
  float scale;
};

// 64 rows of one text, for all of which it is the same.
struct QueryTile {
  uint32_t first;   // the text's first row
  uint32_t len;     // its number of rows
  uint32_t start;   // the tile's first row in the text
  uint32_t text;    // the text's number
  uint32_t keys;    // the first row of its set of position keys, or NONE
  uint32_t queries; // the same for position queries
  uint32_t pairs;   // the number of pairs of tiles of all texts before it
};

__device__ inline int tiles_of(uint32_t len) { return (int(len) + TILE - 1) / TILE; }

__device__ inline int warp() { return threadIdx.x / 32; }
// The position of a thread in the fragments of `mma`.
__device__ inline int group() { return threadIdx.x % 32 / 4; }
__device__ inline int column() { return threadIdx.x % 4 * 2; }

// Copies `size` elements at row(r) to row r of `to [ROWS, DP + PAD]`, for all r. The rest of the row, and rows where row(r) is null,
// become 0.
template <class T, int DP, int ROWS, class Row> __device__ void load(T* to, int size, bool aligned, Row row) {
  constexpr int EACH = 16 / sizeof(T), CHUNKS = DP / EACH, BATCH = 4;
  for (int begin = threadIdx.x; begin < ROWS * CHUNKS; begin += BATCH * THREADS) {
    // All loads of a batch are under way at the same time.
    alignas(16) T chunks[BATCH][EACH];
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
      const int at = begin + b * THREADS, r = at / CHUNKS, c = at % CHUNKS * EACH;
      const T* from = row(r);
      if (aligned && from && c < size) {
        copy<16>(chunks[b], from + c);
      } else {
#pragma unroll
        for (int e = 0; e < EACH; e++) chunks[b][e] = !aligned && from && c + e < size ? from[c + e] : from_float<T>(0.f);
      }
    }
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
      const int at = begin + b * THREADS;
      copy<16>(to + at / CHUNKS * (DP + PAD) + at % CHUNKS * EACH, chunks[b]);
    }
  }
}

// The same, transposed: element c of row(r) goes to row c of `to [DP, ROWS + PAD]`.
template <class T, int DP, int ROWS, class Row> __device__ void load_transposed(T* to, int size, bool aligned, Row row) {
  constexpr int EACH = 16 / sizeof(T), CHUNKS = DP / EACH, PAIRS = ROWS / 2;
#pragma unroll 2
  for (int at = threadIdx.x; at < PAIRS * CHUNKS; at += THREADS) {
    // Neighbouring threads have neighbouring rows, so that they write neighbouring words.
    const int r = at % PAIRS * 2, c = at / PAIRS * EACH;
    alignas(16) T chunks[2][EACH];
#pragma unroll
    for (int b = 0; b < 2; b++) {
      const T* from = row(r + b);
      if (aligned && from && c < size) {
        copy<16>(chunks[b], from + c);
      } else {
#pragma unroll
        for (int e = 0; e < EACH; e++) chunks[b][e] = !aligned && from && c + e < size ? from[c + e] : from_float<T>(0.f);
      }
    }
#pragma unroll
    for (int e = 0; e < EACH; e++) {
      const Pair<T> pair{chunks[0][e], chunks[1][e]};
      copy<2 * sizeof(T)>(to + (c + e) * (ROWS + PAD) + r, &pair);
    }
  }
}

// sums [16, 8 N] += a b^T, for rows of 16 `steps` elements in shared memory: `a` has 16, `b` has 8 N. Only columns from `first` to before
// `end` matter.
template <class T, int N>
__device__ void multiply(float (&sums)[N][4], const T* a, int a_stride, const T* b, int b_stride, int steps, int end, int first = 0) {
  a += group() * a_stride + column();
  b += group() * b_stride + column();
  for (int step = 0; step < steps; step++) {
    const Pair<T> rows[4] = {load_pair(a), load_pair(a + 8 * a_stride), load_pair(a + 8), load_pair(a + 8 * a_stride + 8)};
#pragma unroll
    for (int n = 0; n < N; n++) {
      if (8 * n < end && 8 * n + 8 > first) {
        const Pair<T> other[2] = {load_pair(b + 8 * n * b_stride), load_pair(b + 8 * n * b_stride + 8)};
        mma(sums[n], rows, other);
      }
    }
    a += 16;
    b += 16;
  }
}

// The dropout of the weights of one head of one text. `mask` in attention/mod.rs.
struct Mask {
  uint64_t seed;
  uint32_t bound, len;
  float kept;

  __device__ Mask(const Inputs& in, const QueryTile& tile, int head)
      : seed(splitmix(in.seed ^ splitmix(uint64_t(tile.text) << 32 | uint64_t(head)))), bound(in.bound), len(tile.len), kept(in.kept) {}
  __device__ float of(int i, int j) const {
    if (kept == 0.f) return 1.f;
    return uint32_t(splitmix(seed + uint64_t(i) * len + uint64_t(j)) >> 32) >= bound ? kept : 0.f;
  }
};

// The rows of one head of a text, in memory.
template <class T> struct Rows {
  const T* at;
  uint64_t stride;
  int len;

  __device__ Rows(uint64_t address, uint64_t stride, const QueryTile& tile, int column)
      : at(reinterpret_cast<const T*>(address) + tile.first * stride + column), stride(stride), len(tile.len) {}
  // Row r, or null behind the text's end.
  __device__ const T* row(int r) const { return r < len ? at + r * stride : nullptr; }
};

// What a block reads of the positions.
template <class T> struct Positions {
  const T* at;
  uint64_t stride;
  const uint32_t* distances;
  int middle, len;

  __device__ Positions(const Inputs& in, const QueryTile& tile, int head)
      : at(reinterpret_cast<const T*>(in.positions) + head * in.size), stride(in.positions_stride),
        distances(reinterpret_cast<const uint32_t*>(in.distances)), middle(in.middle), len(tile.len) {}
  // The row of `set` for the m-th distance of the queries from `i` and the keys from `j` on, or null if no pair in the text has it.
  __device__ const T* row(uint32_t set, int i, int j, int m) const {
    const int distance = i - j + m - (TILE - 1);
    if (distance <= -len || distance >= len) return nullptr;
    return at + (uint64_t(set) + distances[middle + distance]) * stride;
  }
};

// A block's shared memory for scores.
template <class T, int DP> struct Scores {
  static constexpr int ROW = DP + PAD;
  T *q, *k;      // [TILE, ROW]
  T* positions;  // [SPAN, ROW]
  float* bias;   // [TILE, BIAS_ROW]
  const Inputs& in;
  const QueryTile& tile;
  Positions<T> rows;

  // Loads the position queries of these tiles, if the text has any. The next barrier must come before `compute`.
  __device__ void load_queries(int j0) const {
    if (tile.queries == NONE) return;
    load<T, DP, SPAN>(positions, in.size, in.aligned, [&](int m) { return rows.row(tile.queries, tile.start, j0, m); });
  }

  // The scores, not yet scaled, of the warp's queries with the keys from `j0` on, whose rows are in `k`. All threads must call it. Warps
  // without queries get no scores, and scores behind the text's end mean nothing.
  __device__ void compute(float (&s)[TILE / 8][4], int j0) const {
    const int queries = min(TILE, int(tile.len - tile.start)), keys = min(TILE, int(tile.len) - j0), steps = (in.size + 15) / 16;
    const bool works = BAND * warp() < queries;
    if (tile.queries != NONE) {
      if (BAND * warp() < keys) by_key(steps, queries);
      __syncthreads();
    }
    if (tile.keys != NONE) {
      load<T, DP, SPAN>(positions, in.size, in.aligned, [&](int m) { return rows.row(tile.keys, tile.start, j0, m); });
      __syncthreads();
      if (works) by_query(steps, keys);
      __syncwarp();
    }
    if (!works) return;
    const bool biased = tile.keys != NONE || tile.queries != NONE;
    const float* from = bias + (BAND * warp() + group()) * BIAS_ROW + column();
#pragma unroll
    for (int n = 0; n < TILE / 8; n++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const Pair<float> pair = biased ? load_pair(from + 8 * half * BIAS_ROW + 8 * n) : Pair<float>{0.f, 0.f};
        s[n][2 * half] = pair.x;
        s[n][2 * half + 1] = pair.y;
      }
    multiply(s, q + BAND * warp() * ROW, ROW, k, ROW, steps, keys);
  }

  // Writes k_j PQ[d(i - j)] to the bias, for the warp's keys j and the text's queries i.
  __device__ void by_key(int steps, int queries) const {
    float products[BAND_SPAN / 8][4] = {};
    multiply(products, k + BAND * warp() * ROW, ROW, positions + (TILE - BAND - BAND * warp()) * ROW, ROW, steps,
             min(BAND_SPAN, queries + BAND - 1));
#pragma unroll
    for (int n = 0; n < BAND_SPAN / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int r = group() + e / 2 * 8, i = 8 * n + column() + e % 2 + r - (BAND - 1);
        if (i >= 0 && i < TILE) bias[i * BIAS_ROW + BAND * warp() + r] = products[n][e];
      }
  }

  // Adds q_i PK[d(i - j)] to the bias, for the warp's queries i and the text's keys j.
  __device__ void by_query(int steps, int keys) const {
    float products[BAND_SPAN / 8][4] = {};
    multiply(products, q + BAND * warp() * ROW, ROW, positions + BAND * warp() * ROW, ROW, steps, BAND_SPAN, TILE - keys);
#pragma unroll
    for (int n = 0; n < BAND_SPAN / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int r = group() + e / 2 * 8, j = r + TILE - 1 - (8 * n + column() + e % 2);
        if (j >= 0 && j < TILE) {
          float* to = bias + (BAND * warp() + r) * BIAS_ROW + j;
          *to = tile.queries == NONE ? products[n][e] : *to + products[n][e];
        }
      }
  }
};

// Writes the warp's first `rows` sums to rows of `size` elements, `stride` apart.
template <class T, int N>
__device__ void store_rows(T* y, uint64_t stride, int rows, int size, const float (&sums)[N][4]) {
  const bool pairs = size % 2 == 0;
#pragma unroll
  for (int n = 0; n < N; n++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int r = group() + 8 * half, c = 8 * n + column();
      if (r >= rows || c >= size) continue;
      T* to = y + r * stride + c;
      const Pair<T> pair = make_pair<T>(sums[n][2 * half], sums[n][2 * half + 1]);
      if (pairs) {
        copy<2 * sizeof(T)>(to, &pair);
      } else {
        to[0] = pair.x;
        if (c + 1 < size) to[1] = pair.y;
      }
    }
}

constexpr float LOG2_E = 1.44269504f;

}  // namespace disentangled
