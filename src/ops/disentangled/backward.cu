// The gradient of DeBERTa's attention, first part: the weights and the gradients of the scores, which `products.cu` then multiplies by
// the queries, keys, values' gradients and positions. Nothing is summed atomically, so that results do not vary.
#include "tiles.cuh"

namespace disentangled {

// `BackwardParams` in gradient.rs.
struct BackwardParams {
  Inputs in;
  uint64_t y, dy;                // [T, hidden]
  uint64_t y_stride, dy_stride;
  uint64_t sums;                 // as in ForwardParams
  uint64_t weights;              // a tile [64, 64] for each pair of tiles of each head, after dropout; zeros behind the text's end
  uint64_t slopes;               // the same for the gradients of the scores before scaling
};

template <class T, int DP> __device__ void scores_backward(const BackwardParams& p) {
  constexpr int ROW = DP + PAD;
  SHARED_MEMORY(shared);
  T* const q = reinterpret_cast<T*>(shared);
  T* const k = q + TILE * ROW;
  T* const v = k + TILE * ROW;
  T* const dy = v + TILE * ROW;
  T* const positions = dy + TILE * ROW;
  float* const bias = reinterpret_cast<float*>(positions + SPAN * ROW);

  const Inputs& in = p.in;
  const QueryTile tile = reinterpret_cast<const QueryTile*>(in.tiles)[blockIdx.x];
  const int head = blockIdx.y, left = head * in.size, size = in.size, len = tile.len, steps = (size + 15) / 16;
  const Rows<T> qs(in.q, in.q_stride, tile, left), ks(in.k, in.k_stride, tile, left), vs(in.v, in.v_stride, tile, left);
  const Rows<T> ys(p.y, p.y_stride, tile, left), dys(p.dy, p.dy_stride, tile, left);
  const Scores<T, DP> scores{q, k, positions, bias, in, tile, Positions<T>(in, tile, head)};
  const Mask mask(in, tile, head);
  load<T, DP, TILE>(q, size, in.aligned, [&](int r) { return qs.row(tile.start + r); });
  load<T, DP, TILE>(dy, size, in.aligned, [&](int r) { return dys.row(tile.start + r); });
  __syncthreads();

  // For the thread's two queries: what the forward pass kept, and y dy, the mean of the weights' gradients.
  float sum[2], mean[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int r = BAND * warp() + group() + 8 * half, i = tile.start + r;
    const T* y = ys.row(i);
    sum[half] = y ? reinterpret_cast<const float*>(p.sums)[uint64_t(head) * in.tokens + tile.first + i] : 0.f;
    mean[half] = 0.f;
    for (int c = threadIdx.x % 4; c < size; c += 4) mean[half] += y ? to_float(y[c]) * to_float(dy[r * ROW + c]) : 0.f;
    mean[half] += __shfl_xor_sync(0xffffffffu, mean[half], 1);
    mean[half] += __shfl_xor_sync(0xffffffffu, mean[half], 2);
  }

  const int tiles = tiles_of(len);
  const uint64_t first = (uint64_t(tile.pairs) * in.heads + (uint64_t(head) * tiles + tile.start / TILE) * tiles) * (TILE * TILE);
  for (int j0 = 0; j0 < len; j0 += TILE) {
    __syncthreads();
    load<T, DP, TILE>(k, size, in.aligned, [&](int r) { return ks.row(j0 + r); });
    load<T, DP, TILE>(v, size, in.aligned, [&](int r) { return vs.row(j0 + r); });
    scores.load_queries(j0);
    __syncthreads();
    float s[TILE / 8][4], dw[TILE / 8][4] = {};
    scores.compute(s, j0);
    multiply(dw, dy + BAND * warp() * ROW, ROW, v, ROW, steps, len - j0);
    const uint64_t row = first + uint64_t(j0 / TILE) * (TILE * TILE) + (BAND * warp() + group()) * TILE + column();
    T *weights = reinterpret_cast<T*>(p.weights) + row, *slopes = reinterpret_cast<T*>(p.slopes) + row;
#pragma unroll
    for (int n = 0; n < TILE / 8; n++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float w[2], ds[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int i = tile.start + BAND * warp() + group() + 8 * half, j = j0 + 8 * n + column() + e;
          const bool inside = i < len && j < len;
          const float weight = inside ? exp2f(s[n][2 * half + e] * (in.scale * LOG2_E) - sum[half]) : 0.f;
          const float kept = mask.of(i, j);
          w[e] = weight * kept;
          ds[e] = inside ? weight * (kept * dw[n][2 * half + e] - mean[half]) : 0.f;
        }
        const Pair<T> weight = make_pair<T>(w[0], w[1]), slope = make_pair<T>(ds[0], ds[1]);
        copy<2 * sizeof(T)>(weights + 8 * half * TILE + 8 * n, &weight);
        copy<2 * sizeof(T)>(slopes + 8 * half * TILE + 8 * n, &slope);
      }
  }
}

template <class T> __device__ void scores_backward_64(const BackwardParams& p) { scores_backward<T, 64>(p); }
template <class T> __device__ void scores_backward_128(const BackwardParams& p) { scores_backward<T, 128>(p); }

}  // namespace disentangled

KERNELS(disentangled_scores_backward_64, disentangled::THREADS, disentangled::BackwardParams, disentangled::scores_backward_64)
KERNELS(disentangled_scores_backward_128, disentangled::THREADS, disentangled::BackwardParams, disentangled::scores_backward_128)
