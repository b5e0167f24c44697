// The arguments of attention's kernels, and what follows from them: where a block's rows lie, and the score of a query and a key.
#pragma once

#include "tile.cuh"

namespace attention {

struct AttentionParams {
  uint64_t q, k, v;     // [T, hidden], whose rows lie a stride apart
  uint64_t y;           // [T, hidden]
  uint64_t dy;          // [T, hidden], for the gradients
  uint64_t dq, dk, dv;  // [T, hidden]
  uint64_t log_sums;    // f32 [T, heads], the logarithm to base 2 of each softmax's sum; 0 if no gradient follows
  uint64_t deltas;      // f32 [T, heads], the sums over each head of y dy
  uint64_t bias;        // f32 [heads, columns]; 0 for none
  uint64_t dbias;       // f32 [heads, columns], which is added to; 0 for none
  uint64_t tiles;       // TextTile [...]
  uint64_t seed;        // of the dropout
  uint32_t q_stride, k_stride, v_stride;
  uint32_t heads, size;
  uint32_t columns;     // of the bias
  int32_t window;       // the number of tokens that a token sees on either side
  uint32_t bound;       // a weight is dropped if its hash is less
  float kept;           // the factor of the other weights
  float scale;
  uint32_t aligned;     // whether all rows can be read 16 bytes at a time
  uint32_t tile_count;
};

// Neighbouring rows of one text, as many as a block owns.
struct alignas(16) TextTile {
  uint32_t start;  // the text's first row
  uint32_t len;    // the text's number of tokens
  uint32_t first;  // the tile's first row, counted from the text's first
  uint32_t text;
};

constexpr float LOG2_E = 1.44269504f;

// The number of warps that a multiprocessor holds at once, by the size of a head. More would leave too few registers to each.
template <int D> constexpr int FORWARD_WARPS = D <= 64 ? 16 : D <= 128 ? 12 : 8;
template <int D> constexpr int BACKWARD_WARPS = D <= 32 ? 16 : D <= 64 ? 12 : 8;

// What a block works on: one head of one tile. The grid has the heads in x, and the tiles in y and z. ALIGNED says that `aligned` is
// known to be true.
template <class T, bool ALIGNED = false> struct Work {
  const AttentionParams& p;
  TextTile tile;
  int head, first;
  int len;  // 0 if there are not so many tiles, and nothing to do

  __device__ explicit Work(const AttentionParams& p) : p(p), head(blockIdx.x) {
    const uint32_t at = blockIdx.z * gridDim.y + blockIdx.y;
    copy<16>(&tile, reinterpret_cast<const TextTile*>(p.tiles) + min(at, p.tile_count - 1));
    len = at < p.tile_count ? tile.len : 0, first = tile.first;
  }

  // The text's rows of a matrix.
  template <class E> __device__ Rows<E> rows(uint64_t address, uint32_t stride) const {
    return {reinterpret_cast<E*>(address) + uint64_t(tile.start) * stride + head * p.size, stride, int(p.size), ALIGNED || p.aligned != 0};
  }
  __device__ Rows<const T> q() const { return rows<const T>(p.q, p.q_stride); }
  __device__ Rows<const T> k() const { return rows<const T>(p.k, p.k_stride); }
  __device__ Rows<const T> v() const { return rows<const T>(p.v, p.v_stride); }
  template <class E> __device__ Rows<E> dense(uint64_t address) const { return rows<E>(address, p.heads * p.size); }
  // An element of a matrix [T, heads].
  __device__ float& of_row(uint64_t address, int i) const {
    return reinterpret_cast<float*>(address)[uint64_t(tile.start + i) * p.heads + head];
  }

  // The tile's rows, `count` of them, see rows from `start` to `end`, and are seen by them.
  __device__ int seen_start() const { return max(0, first - p.window); }
  __device__ int seen_end(int count) const { return min(len, first + count + p.window); }

  __device__ bool is_seen(int i, int j) const { return i - j <= p.window && j - i <= p.window; }
  // The element of the bias that belongs to query i and key j.
  __device__ uint64_t bias_at(int i, int j) const { return uint64_t(head) * p.columns + p.columns / 2 + j - i; }

  // Whether each of 16 rows from `row` on and `count` columns from `column` on see each other, and the columns lie in the text. Rows may
  // be queries and columns keys, or the opposite.
  __device__ bool is_all_seen(int row, int column, int count) const {
    return column + count <= len && row + 15 - column <= p.window && column + count - 1 - row <= p.window;
  }
  // Whether all their scores are only the scaled products.
  __device__ bool is_plain(int row, int column, int count) const { return !p.bias && is_all_seen(row, column, count); }
  // The score of query i and key j from the product of their rows, in units of log 2. If not both lie in the text, it is any number.
  __device__ float biased(float product, int i, int j) const {
    float score = product * p.scale;
    if (p.bias) score += reinterpret_cast<const float*>(p.bias)[bias_at(min(i, len - 1), min(j, len - 1))];
    return score * LOG2_E;
  }
  // The same, but minus infinity if i does not see j.
  __device__ float score(float product, int i, int j) const {
    return i >= len || j >= len || !is_seen(i, j) ? -INFINITY : biased(product, i, j);
  }
  __device__ float score(bool plain, float product, int i, int j) const {
    return plain ? product * (p.scale * LOG2_E) : score(product, i, j);
  }
  __device__ Mask mask() const { return {p.seed, p.bound, p.kept, tile.text, uint32_t(head)}; }
  // The index of a weight in the matrix [len, len] of its text and head.
  __device__ uint64_t index(int i, int j) const { return uint64_t(i) * len + j; }
};

}  // namespace attention

// Exports `body<T, D>` for each type, and each size D to which head sizes are rounded up, or only for the usual ones. A block has
// `warps` warps, and a multiprocessor holds `resident<D>`.
#define ATTENTION_KERNELS(name, warps, resident, body) \
  namespace attention {                                \
  ATTENTION_OF_SIZE(name, warps, resident, body, 16)   \
  ATTENTION_OF_SIZE(name, warps, resident, body, 256)  \
  }                                                    \
  ATTENTION_KERNELS_OF_USUAL_SIZES(name, warps, resident, body)
#define ATTENTION_KERNELS_OF_USUAL_SIZES(name, warps, resident, body) \
  namespace attention {                                               \
  ATTENTION_OF_SIZE(name, warps, resident, body, 32)                  \
  ATTENTION_OF_SIZE(name, warps, resident, body, 64)                  \
  ATTENTION_OF_SIZE(name, warps, resident, body, 128)                 \
  }
#define ATTENTION_OF_SIZE(name, warps, resident, body, D)                                                    \
  KERNEL_OF_MANY(name##_##D##_f32, 32 * warps, resident<D> / warps, AttentionParams, (body<float, D>))       \
  KERNEL_OF_MANY(name##_##D##_bf16, 32 * warps, resident<D> / warps, AttentionParams, (body<bf16, D>))       \
  KERNEL_OF_MANY(name##_##D##_f16, 32 * warps, resident<D> / warps, AttentionParams, (body<f16, D>))
