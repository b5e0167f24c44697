// Softmax attention over packed texts, after FlashAttention-2 (Dao 2023): a block computes one head of a tile of queries, and walks over
// the keys that they see with an online softmax, so that no matrix of weights is ever stored.
#include "params.cuh"

namespace attention {

template <class T, int D> __device__ void forward(const AttentionParams& p) {
  constexpr int KEYS = STEP<T, D>;
  SHARED_MEMORY(memory);
  T* q_tile = reinterpret_cast<T*>(memory);  // [ROWS, D]
  T* tiles = q_tile + ROWS * STRIDE<D>;      // keys and values [2, KEYS, D], twice: the next arrive while these are used

  const Work<T> work(p);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int row = work.first + 16 * warp;  // the warp's first query
  T* mine = q_tile + 16 * warp * STRIDE<D>;
  const int end = work.seen_end();
  const auto load = [&](int key, int turn) {
    T* k_tile = tiles + turn * 2 * KEYS * STRIDE<D>;
    load_tile<KEYS, D>(k_tile, work.k(), key, end);
    load_tile<KEYS, D>(k_tile + KEYS * STRIDE<D>, work.v(), key, end);
  };
  load_tile<ROWS, D>(q_tile, work.q(), work.first, work.len);
  load(work.seen_start(), 0);
  wait_for_copies();
  __syncthreads();
  const Operand<T, D, 128> queries(mine);

  OnlineSoftmax softmax;
  float sums[D / 8][4] = {};
  const Mask mask = work.mask();
  for (int key = work.seen_start(), turn = 0; key < end; key += KEYS, turn ^= 1) {
    wait_for_copies();
    __syncthreads();  // These keys are there, and all warps have read those before.
    if (key + KEYS < end) load(key + KEYS, turn ^ 1);
    const T *k_tile = tiles + turn * 2 * KEYS * STRIDE<D>, *v_tile = k_tile + KEYS * STRIDE<D>;
    // A warp beyond the text only helps to load.
    if (row >= work.len) continue;

    const int groups = min(KEYS / 16, (end - key + 15) / 16);
    float scores[KEYS / 8][4];
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++)
      if (n < groups) {
#pragma unroll
        for (int i = 0; i < 4; i++) scores[2 * n][i] = scores[2 * n + 1][i] = 0.f;
        queries.multiply(scores[2 * n], scores[2 * n + 1], k_tile + 16 * n * STRIDE<D>);
      }
    if (work.is_plain(row, key, KEYS)) {
      const float scale = p.scale * LOG2_E;
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) scores[n][i] *= scale;
    } else {
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++)
        if (n / 2 < groups)
#pragma unroll
          for (int i = 0; i < 4; i++)
            scores[n][i] = work.score(scores[n][i], row + g + i / 2 * 8, key + 8 * n + 2 * t + i % 2);
    }

    float factor[2];
    softmax.update(scores, groups, factor);
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) sums[n][i] *= factor[i / 2];
    if (p.bound) {
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++)
        if (n / 2 < groups)
#pragma unroll
          for (int i = 0; i < 4; i++)
            scores[n][i] *= mask.factor(work.index(row + g + i / 2 * 8, key + 8 * n + 2 * t + i % 2));
    }
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++)
      if (n < groups) {
        Pair<T> weights[4];
        to_operand(weights, scores[2 * n], scores[2 * n + 1]);
        multiply_rows<D>(sums, weights, v_tile + 16 * n * STRIDE<D>);
      }
  }

  if (row >= work.len) return;
  softmax.finish();
  const float factor[2] = {1.f / softmax.sum[0], 1.f / softmax.sum[1]};
  store_rows<D>(work.template dense<T>(p.y), row, work.len, sums, factor, mine);
  if (p.log_sums && t == 0)
#pragma unroll
    for (int half = 0; half < 2; half++)
      if (row + g + 8 * half < work.len) work.of_row(p.log_sums, row + g + 8 * half) = softmax.log_sum(half);
}

}  // namespace attention

ATTENTION_KERNELS(attention, forward)
