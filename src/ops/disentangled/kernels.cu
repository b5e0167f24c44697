// DeBERTa's attention, forward: a block has 64 queries of one text and one head. It goes over the text's keys, 64 at a time, with
// softmax in one pass (Dao et al. 2022).
#include "tiles.cuh"

namespace disentangled {

// `ForwardParams` in cuda.rs.
struct ForwardParams {
  Inputs in;
  uint64_t y;    // [T, heads * size]
  uint64_t sums; // [heads, T]: log2 of the sum of 2^score over a query's keys, for the gradient; or 0
};

// Turns the scores of the warp's queries with one tile of keys into weights, not yet divided by their sums, and updates the largest
// score and the sum of each of the thread's two rows. Returns the factors of what was summed before.
__device__ inline void soften(float (&s)[TILE / 8][4], float scale, int keys, float (&largest)[2], float (&sum)[2], float (&factor)[2]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float most = largest[half];
#pragma unroll
    for (int n = 0; n < TILE / 8; n++)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; e++) {
        s[n][e] = 8 * n + column() + e % 2 < keys ? s[n][e] * scale : -INFINITY;
        most = fmaxf(most, s[n][e]);
      }
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
    factor[half] = exp2f(largest[half] - most);
    largest[half] = most;
    sum[half] *= factor[half];
#pragma unroll
    for (int n = 0; n < TILE / 8; n++)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; e++) {
        s[n][e] = exp2f(s[n][e] - most);
        sum[half] += s[n][e];
      }
  }
}

template <class T, int DP> __device__ void forward(const ForwardParams& p) {
  constexpr int ROW = DP + PAD, VALUES_ROW = TILE + PAD;
  SHARED_MEMORY(shared);
  T* const q = reinterpret_cast<T*>(shared);
  T* const k = q + TILE * ROW;
  T* const positions = k + TILE * ROW;
  T* const values = positions + SPAN * ROW;  // [DP, VALUES_ROW]
  float* const bias = reinterpret_cast<float*>(values + DP * VALUES_ROW);

  const Inputs& in = p.in;
  const QueryTile tile = reinterpret_cast<const QueryTile*>(in.tiles)[blockIdx.x];
  const int head = blockIdx.y, left = head * in.size, size = in.size, len = tile.len;
  const Rows<T> qs(in.q, in.q_stride, tile, left), ks(in.k, in.k_stride, tile, left), vs(in.v, in.v_stride, tile, left);
  const Scores<T, DP> scores{q, k, positions, bias, in, tile, Positions<T>(in, tile, head)};
  const Mask mask(in, tile, head);
  const int rows = min(BAND, len - int(tile.start) - BAND * warp());
  load<T, DP, TILE>(q, size, in.aligned, [&](int r) { return qs.row(tile.start + r); });

  float out[DP / 8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  for (int j0 = 0; j0 < len; j0 += TILE) {
    __syncthreads();
    load<T, DP, TILE>(k, size, in.aligned, [&](int r) { return ks.row(j0 + r); });
    load_transposed<T, DP, TILE>(values, size, in.aligned, [&](int r) { return vs.row(j0 + r); });
    scores.load_queries(j0);
    __syncthreads();
    float s[TILE / 8][4];
    scores.compute(s, j0);
    if (rows <= 0) continue;
    float factor[2];
    soften(s, in.scale * LOG2_E, min(TILE, len - j0), largest, sum, factor);
    if (mask.kept != 0.f) {
#pragma unroll
      for (int n = 0; n < TILE / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
          s[n][e] *= mask.of(tile.start + BAND * warp() + group() + e / 2 * 8, j0 + 8 * n + column() + e % 2);
    }
#pragma unroll
    for (int n = 0; n < DP / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) out[n][e] *= factor[e / 2];
#pragma unroll
    for (int step = 0; step < TILE / 16; step++) {
      if (j0 + 16 * step >= len) break;
      const float(&a)[4] = s[2 * step], (&b)[4] = s[2 * step + 1];
      const Pair<T> weights[4] = {make_pair<T>(a[0], a[1]), make_pair<T>(a[2], a[3]), make_pair<T>(b[0], b[1]), make_pair<T>(b[2], b[3])};
      const T* from = values + group() * VALUES_ROW + 16 * step + column();
#pragma unroll
      for (int n = 0; n < DP / 8; n++) {
        if (8 * n < size) {
          const Pair<T> value[2] = {load_pair(from + 8 * n * VALUES_ROW), load_pair(from + 8 * n * VALUES_ROW + 8)};
          mma(out[n], weights, value);
        }
      }
    }
  }
  if (rows <= 0) return;
  const uint64_t first = tile.first + tile.start + BAND * warp(), stride = uint64_t(in.heads) * size;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
    sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
    const int r = group() + 8 * half;
    if (p.sums && column() == 0 && r < rows)
      reinterpret_cast<float*>(p.sums)[uint64_t(head) * in.tokens + first + r] = largest[half] + log2f(sum[half]);
  }
#pragma unroll
  for (int n = 0; n < DP / 8; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) out[n][e] /= sum[e / 2];
  store_rows(reinterpret_cast<T*>(p.y) + first * stride + left, stride, rows, size, out);
}

template <class T> __device__ void forward_64(const ForwardParams& p) { forward<T, 64>(p); }
template <class T> __device__ void forward_128(const ForwardParams& p) { forward<T, 128>(p); }

}  // namespace disentangled

KERNELS(disentangled_64, disentangled::THREADS, disentangled::ForwardParams, disentangled::forward_64)
KERNELS(disentangled_128, disentangled::THREADS, disentangled::ForwardParams, disentangled::forward_128)
