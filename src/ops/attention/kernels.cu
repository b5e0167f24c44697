// Softmax attention over packed texts, after FlashAttention-2 (Dao 2023): a block computes one head of a tile of queries, and walks over
// the keys that they see with an online softmax, so that no matrix of weights is ever stored.
//
// A step takes keys from a multiple of KEYS on, however many queries a block has. So the sums of a query are the same to the bit in
// blocks of any size.
#include "params.cuh"

namespace attention {

// The number of keys of a step.
template <class T, int D> constexpr int KEYS = STEP<T, D> < 32 ? STEP<T, D> : 32;

// A warp's 16 queries, and what they have gathered from the keys so far. PLAIN says that scores are only scaled products, by a positive
// scale, and that there is no dropout.
template <class T, int D, bool PLAIN> struct Queries {
  using Work = attention::Work<T, PLAIN>;
  const Work& work;
  const int row;  // the first query
  const Operand<T, D, 128> queries;
  const Mask mask;
  OnlineSoftmax softmax;
  float sums[D / 8][4] = {};

  __device__ Queries(const Work& work, int row, const T* tile) : work(work), row(row), queries(tile), mask(work.mask()) {}

  // Replaces the products with the keys from `key` on by scores, but for a factor that it returns. They are minus infinity if a query
  // does not see a key.
  __device__ float score(float (&products)[KEYS<T, D> / 8][4], int key) const {
    constexpr int N = KEYS<T, D> / 8;
    const AttentionParams& p = work.p;
    const int i0 = row + threadIdx.x % 32 / 4, j0 = key + 2 * (threadIdx.x % 4);  // the query and the key of the first product
    const bool biased = !PLAIN && (p.bias || p.scale <= 0.f);
    if (biased) {
#pragma unroll
      for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) products[n][i] = work.biased(products[n][i], i0 + i / 2 * 8, j0 + 8 * n + i % 2);
    }
    if (!work.is_all_seen(row, key, KEYS<T, D>)) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int i = i0 + 8 * half, first = i - p.window;
        const uint32_t seen = min(work.len, i + p.window + 1) - first, at = j0 - first;
#pragma unroll
        for (int n = 0; n < N; n++) {
          if (at + 8 * n >= seen) products[n][2 * half] = -INFINITY;
          if (at + 8 * n + 1 >= seen) products[n][2 * half + 1] = -INFINITY;
        }
      }
    }
    return biased ? 1.f : p.scale * LOG2_E;
  }

  // Takes a step: the keys and values from `key` on.
  __device__ void see(const T* k_tile, const T* v_tile, int key) {
    constexpr int N = KEYS<T, D> / 8;
    float weights[N][4] = {}, factor[2];
    queries.multiply(weights, k_tile);
    const float scale = score(weights, key);
    softmax.update(weights, scale, factor);
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) sums[n][i] *= factor[i / 2];
    if (!PLAIN && work.p.bound) {
      const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
      for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
          weights[n][i] *= mask.factor(work.index(row + g + i / 2 * 8, key + 8 * n + 2 * t + i % 2));
    }
#pragma unroll
    for (int n = 0; n < N / 2; n++) {
      Pair<T> operand[4];
      to_operand(operand, weights[2 * n], weights[2 * n + 1]);
      multiply_rows<D>(sums, operand, v_tile + 16 * n * STRIDE<D>);
    }
  }

  // Writes the results. The rows at `scratch` in shared memory are the warp's own.
  __device__ void store(T* scratch) {
    softmax.finish();
    const float factor[2] = {__fdividef(1.f, softmax.sum[0]), __fdividef(1.f, softmax.sum[1])};
    store_rows<D>(work.template dense<T>(work.p.y), row, work.len, sums, factor, scratch);
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    if (work.p.log_sums && t == 0)
#pragma unroll
      for (int half = 0; half < 2; half++)
        if (row + g + 8 * half < work.len) work.of_row(work.p.log_sums, row + g + 8 * half) = softmax.log_sum(half);
  }
};

// STEPS is the number of keys that arrive together, for one or more steps.
template <class T, int D, int OF_WARPS, int STEPS, bool PLAIN> __device__ void forward(const AttentionParams& p) {
  constexpr int OF_ROWS = 16 * OF_WARPS;
  SHARED_MEMORY(memory);
  T* q_tile = reinterpret_cast<T*>(memory);  // [OF_ROWS, D]
  T* tiles = q_tile + OF_ROWS * STRIDE<D>;   // keys and values [2, STEPS, D], twice: the next arrive while these are used

  const Work<T, PLAIN> work(p);
  if (work.len == 0) return;
  const int row = work.first + threadIdx.x / 32 * 16;  // the warp's first query
  T* mine = q_tile + threadIdx.x / 32 * 16 * STRIDE<D>;
  const int start = work.seen_start() / KEYS<T, D> * KEYS<T, D>, end = work.seen_end(OF_ROWS);
  const auto load = [&](int key, int turn) {
    T* k_tile = tiles + turn * 2 * STEPS * STRIDE<D>;
    const int count = min(STEPS, (end - key + KEYS<T, D> - 1) / KEYS<T, D> * KEYS<T, D>);
    load_tile<STEPS, D, OF_WARPS>(k_tile, work.k(), key, end, count);
    load_tile<STEPS, D, OF_WARPS>(k_tile + STEPS * STRIDE<D>, work.v(), key, end, count);
  };
  load_tile<OF_ROWS, D, OF_WARPS>(q_tile, work.q(), work.first, work.len);
  load(start, 0);
  end_group_of_copies();
  if (start + STEPS < end) load(start + STEPS, 1);
  end_group_of_copies();
  wait_for_all_groups_but<1>();
  __syncthreads();

  Queries<T, D, PLAIN> queries(work, row, mine);
#pragma unroll 1
  for (int key = start, turn = 0;; turn ^= 1) {
    const T *k_tile = tiles + turn * 2 * STEPS * STRIDE<D>, *v_tile = k_tile + STEPS * STRIDE<D>;
    // A warp beyond the text only helps to load.
    const int until = row < work.len ? min(key + STEPS, end) : key;
#pragma unroll 1
    for (int from = key; from < until; from += KEYS<T, D>) {
      queries.see(k_tile, v_tile, from);
      k_tile += KEYS<T, D> * STRIDE<D>, v_tile += KEYS<T, D> * STRIDE<D>;
    }
    key += STEPS;
    if (key >= end) break;
    if (key + STEPS < end) {
      __syncthreads();  // All warps have read these keys.
      load(key + STEPS, turn);
    }
    end_group_of_copies();
    wait_for_all_groups_but<1>();
    __syncthreads();
  }
  if (row < work.len) queries.store(mine);
}

template <class T, int D> __device__ void general(const AttentionParams& p) { forward<T, D, 4, STEP<T, D>, false>(p); }
template <class T, int D> __device__ void plain(const AttentionParams& p) { forward<T, D, 4, STEP<T, D>, true>(p); }
template <class T, int D> __device__ void plain_short(const AttentionParams& p) { forward<T, D, 2, KEYS<T, D>, true>(p); }

}  // namespace attention

ATTENTION_KERNELS(attention, 4, general)
ATTENTION_KERNELS_OF_USUAL_SIZES(attention_plain, 4, plain)
ATTENTION_KERNELS_OF_USUAL_SIZES(attention_plain_short, 2, plain_short)
