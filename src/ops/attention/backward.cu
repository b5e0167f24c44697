// The gradients of softmax attention. With P the weights, M the dropout mask and Y = (P M) V: dV = (P M)^T dY, dP = (dY V^T) M,
// dS = P (dP - sum(dP P)), dQ = scale dS K, dK = scale dS^T Q. Where sum(dP P) = sum(Y dY), row by row. P is computed again from the
// softmax's sums, 16 x 16 weights at a time.
//
// One kernel walks over the keys for a tile of queries, and one over the queries for a tile of keys. So no two blocks add to the same
// element, and the sums do not depend on the order in which blocks run. The bias's gradient is the exception.
#include "params.cuh"

namespace attention {

// The weights and the gradients of the scores of 16 rows and 16 columns, which may be queries and keys or the opposite.
struct Block16 {
  float weights[2][4] = {};
  float dscores[2][4] = {};
};

// dQ, the sums of y dy, and the bias's gradient. Must run before `backward_keys`, which reads those sums.
template <class T, int D> __device__ void backward_queries(const AttentionParams& p) {
  constexpr int KEYS = STEP<T, D>;
  SHARED_MEMORY(memory);
  T* q_tile = reinterpret_cast<T*>(memory);  // [ROWS, D]
  T* dy_tile = q_tile + ROWS * STRIDE<D>;    // [ROWS, D]
  T* tiles = dy_tile + ROWS * STRIDE<D>;     // keys and values [2, KEYS, D], twice: the next arrive while these are used

  const Work<T> work(p);
  if (work.len == 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int row = work.first + 16 * warp;  // the warp's first query
  T* mine = q_tile + 16 * warp * STRIDE<D>;
  const T* dy_mine = dy_tile + 16 * warp * STRIDE<D>;
  const int end = work.seen_end(ROWS);
  const auto load = [&](int key, int turn) {
    T* k_tile = tiles + turn * 2 * KEYS * STRIDE<D>;
    load_tile<KEYS, D>(k_tile, work.k(), key, end);
    load_tile<KEYS, D>(k_tile + KEYS * STRIDE<D>, work.v(), key, end);
  };
  load_tile<ROWS, D>(q_tile, work.q(), work.first, work.len);
  load_tile<ROWS, D>(dy_tile, work.template dense<const T>(p.dy), work.first, work.len);
  load(work.seen_start(), 0);
  wait_for_copies();
  __syncthreads();
  const Operand<T, D, 64> queries(mine), dys(dy_mine);

  // Of the rows g and g + 8.
  float delta[2] = {}, log_sum[2] = {};
  const Rows<const T> y = work.template dense<const T>(p.y);
#pragma unroll 4
  for (int i = 0; i < 16; i++) {
    float sum = 0.f;
    if (row + i < work.len)
      for (int column = lane; column < y.size; column += 32)
        sum += to_float(y.row(row + i)[column]) * to_float(dy_mine[i * STRIDE<D> + column]);
    sum = warp_sum(sum);
    if (i == g) delta[0] = sum;
    if (i == g + 8) delta[1] = sum;
    if (lane == 0 && row + i < work.len) work.of_row(p.deltas, row + i) = sum;
  }
#pragma unroll
  for (int half = 0; half < 2; half++)
    if (row + g + 8 * half < work.len) log_sum[half] = work.of_row(p.log_sums, row + g + 8 * half);

  float sums[D / 8][4] = {};
  const Mask mask = work.mask();
  for (int key = work.seen_start(), turn = 0; key < end; key += KEYS, turn ^= 1) {
    wait_for_copies();
    __syncthreads();  // These keys are there, and all warps have read those before.
    if (key + KEYS < end) load(key + KEYS, turn ^ 1);
    const T *k_tile = tiles + turn * 2 * KEYS * STRIDE<D>, *v_tile = k_tile + KEYS * STRIDE<D>;
    if (row >= work.len) continue;

#pragma unroll 1
    for (int n = 0; n < KEYS && key + n < end; n += 16) {
      Block16 block;
      queries.multiply(block.weights, k_tile + n * STRIDE<D>);
      dys.multiply(block.dscores, v_tile + n * STRIDE<D>);
      const bool plain = work.is_plain(row, key + n, 16);
#pragma unroll
      for (int e = 0; e < 8; e++) {
        const int half = e % 4 / 2, i = row + g + 8 * half, j = key + n + e / 4 * 8 + 2 * t + e % 2;
        const float weight = power_of_two(work.score(plain, block.weights[e / 4][e % 4], i, j) - log_sum[half]);
        float dweight = block.dscores[e / 4][e % 4];
        if (p.bound) dweight *= mask.factor(work.index(i, j));
        const float dscore = weight * (dweight - delta[half]);
        block.dscores[e / 4][e % 4] = dscore;
        if (p.dbias && i < work.len && j < work.len && work.is_seen(i, j))
          atomicAdd(reinterpret_cast<float*>(p.dbias) + work.bias_at(i, j), dscore);
      }
      Pair<T> dscores[4];
      to_operand(dscores, block.dscores[0], block.dscores[1]);
      multiply_rows<D>(sums, dscores, k_tile + n * STRIDE<D>);
    }
  }
  if (row >= work.len) return;
  const float factor[2] = {p.scale, p.scale};
  store_rows<D>(work.template dense<T>(p.dq), row, work.len, sums, factor, mine);
}

// dK and dV.
template <class T, int D> __device__ void backward_keys(const AttentionParams& p) {
  constexpr int QUERIES = STEP<T, D>;
  SHARED_MEMORY(memory);
  T* k_tile = reinterpret_cast<T*>(memory);    // [ROWS, D]
  T* v_tile = k_tile + ROWS * STRIDE<D>;       // [ROWS, D]
  T* tiles = v_tile + ROWS * STRIDE<D>;        // queries and dY [2, QUERIES, D], twice: the next arrive while these are used
  float* numbers = reinterpret_cast<float*>(tiles + 4 * QUERIES * STRIDE<D>);  // their sums [2, QUERIES], twice

  const Work<T> work(p);
  if (work.len == 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int row = work.first + 16 * warp;  // the warp's first key
  T *k_mine = k_tile + 16 * warp * STRIDE<D>, *v_mine = v_tile + 16 * warp * STRIDE<D>;
  const int end = work.seen_end(ROWS);
  const auto load = [&](int query, int turn) {
    T* q_tile = tiles + turn * 2 * QUERIES * STRIDE<D>;
    float* log_sums = numbers + turn * 2 * QUERIES;
    load_tile<QUERIES, D>(q_tile, work.q(), query, end);
    load_tile<QUERIES, D>(q_tile + QUERIES * STRIDE<D>, work.template dense<const T>(p.dy), query, end);
    for (int i = threadIdx.x; i < QUERIES; i += THREADS) {
      log_sums[i] = query + i < end ? work.of_row(p.log_sums, query + i) : 0.f;
      log_sums[QUERIES + i] = query + i < end ? work.of_row(p.deltas, query + i) : 0.f;
    }
  };
  load_tile<ROWS, D>(k_tile, work.k(), work.first, work.len);
  load_tile<ROWS, D>(v_tile, work.v(), work.first, work.len);
  load(work.seen_start(), 0);
  wait_for_copies();
  __syncthreads();
  const Operand<T, D, 64> keys(k_mine), values(v_mine);

  float dk[D / 8][4] = {}, dv[D / 8][4] = {};
  const Mask mask = work.mask();
  for (int query = work.seen_start(), turn = 0; query < end; query += QUERIES, turn ^= 1) {
    wait_for_copies();
    __syncthreads();  // These queries are there, and all warps have read those before.
    if (query + QUERIES < end) load(query + QUERIES, turn ^ 1);
    const T *q_tile = tiles + turn * 2 * QUERIES * STRIDE<D>, *dy_tile = q_tile + QUERIES * STRIDE<D>;
    const float *log_sums = numbers + turn * 2 * QUERIES, *deltas = log_sums + QUERIES;
    if (row >= work.len) continue;

#pragma unroll 1
    for (int n = 0; n < QUERIES && query + n < end; n += 16) {
      Block16 block;
      keys.multiply(block.weights, q_tile + n * STRIDE<D>);
      values.multiply(block.dscores, dy_tile + n * STRIDE<D>);
      const bool plain = work.is_plain(row, query + n, 16);
#pragma unroll
      for (int e = 0; e < 8; e++) {
        const int at = n + e / 4 * 8 + 2 * t + e % 2, i = query + at, j = row + g + e % 4 / 2 * 8;
        float& product = block.weights[e / 4][e % 4];
        float& dweight = block.dscores[e / 4][e % 4];
        const float weight = power_of_two(work.score(plain, product, i, j) - log_sums[at]);
        const float kept = p.bound ? mask.factor(work.index(i, j)) : 1.f;
        product = weight * kept;
        dweight = weight * (dweight * kept - deltas[at]);
      }
      Pair<T> weights[4], dscores[4];
      to_operand(weights, block.weights[0], block.weights[1]);
      to_operand(dscores, block.dscores[0], block.dscores[1]);
      multiply_rows<D>(dv, weights, dy_tile + n * STRIDE<D>);
      multiply_rows<D>(dk, dscores, q_tile + n * STRIDE<D>);
    }
  }
  if (row >= work.len) return;
  const float factor[2] = {p.scale, p.scale}, one[2] = {1.f, 1.f};
  store_rows<D>(work.template dense<T>(p.dk), row, work.len, dk, factor, k_mine);
  store_rows<D>(work.template dense<T>(p.dv), row, work.len, dv, one, v_mine);
}

}  // namespace attention

ATTENTION_KERNELS(attention_backward_queries, WARPS, backward_queries)
ATTENTION_KERNELS(attention_backward_keys, WARPS, backward_keys)
