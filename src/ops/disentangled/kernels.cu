// DeBERTa's attention, forward: a block has some queries of one text and one head, 16 for each warp. It goes over the text's keys, 32 at
// a time, with softmax in one pass (Dao et al. 2022). A query's result does not depend on the number of warps.
//
// The queries of a block and 32 keys have neighbouring distances, and those with the next 32 keys have 32 more. So the rows of positions
// go around in a ring: each is loaded once for all the block's queries, while the warps compute with those before.
#include "fragments.cuh"
#include "tiles.cuh"

namespace disentangled {

// The keys that are loaded at a time.
constexpr int KEYS = 32;

// `ForwardParams` in cuda.rs.
struct ForwardParams {
  Inputs in;
  uint64_t y;    // [T, heads * size]
  uint64_t sums; // [heads, T]: log2 of the sum of 2^score over a query's keys, for the gradient; or 0
};

// A block's shared memory, and how it is filled. What a function begins to load is there after `wait_for_copies` and a barrier.
template <class T, int DP> struct Stage {
  static constexpr int ROW = DP + PAD, EACH = 16 / sizeof(T), CHUNKS = DP / EACH;
  const Inputs& in;
  const QueryTile tile;
  int head, len, queries;
  int span, ring;       // the block's queries, rounded up to a multiple of KEYS; rows of a ring
  int column, row, apart;  // a thread loads EACH elements from `column` on of the rows `row`, `row + apart` and so on
  T* q;                 // [queries, ROW]
  T* k;                 // keys and values [2, KEYS, ROW], twice: the next arrive while these are used
  T* position_keys;     // [ring, ROW]: row r % ring belongs to the distance `tile.start + queries - 1 - r`
  T* position_queries;

  __device__ Stage(const Inputs& in, unsigned char* shared)
      : in(in), tile(reinterpret_cast<const QueryTile*>(in.tiles)[blockIdx.x / in.heads]), head(blockIdx.x % in.heads), len(tile.len),
        queries(blockDim.x / 32 * 16), span((queries + KEYS - 1) / KEYS * KEYS), ring(span + 2 * KEYS),
        column(threadIdx.x % CHUNKS * EACH), row(threadIdx.x / CHUNKS), apart(blockDim.x / CHUNKS), q(reinterpret_cast<T*>(shared)),
        k(q + queries * ROW), position_keys(k + 4 * KEYS * ROW), position_queries(position_keys + ring * ROW) {}

  // Where the thread's elements begin in the matrix's row `first` of this head.
  __device__ const T* at(uint64_t address, uint64_t stride, uint32_t first) const {
    return reinterpret_cast<const T*>(address) + first * stride + head * in.size + column;
  }
  // Loads the thread's elements of a row; zeros behind the head's end, or if not `inside`.
  __device__ void load(T* to, const T* from, bool inside) const {
    to += column;
    if (in.aligned) {
      copy_async(to, from, inside && column < int(in.size));
    } else {
#pragma unroll 1
      for (int e = 0; e < EACH; e++) to[e] = inside && column + e < int(in.size) ? from[e] : from_float<T>(0.f);
    }
  }
  __device__ void load_queries() const {
    const T* const from = at(in.q, in.q_stride, tile.first + tile.start);
    const int rows = len - tile.start, end = min(queries, (rows + 15) & ~15);
#pragma unroll 2
    for (int r = row; r < end; r += apart) load(q + r * ROW, from + r * in.q_stride, r < rows);
  }
  // The keys and values from j0 on, as far as groups of 16 have any.
  __device__ void load_keys(int j0, int turn) const {
    T* const to = k + turn * 2 * KEYS * ROW;
    const T *const ks = at(in.k, in.k_stride, tile.first + j0), *const vs = at(in.v, in.v_stride, tile.first + j0);
    const int rows = len - j0, end = min(KEYS, (rows + 15) & ~15);
#pragma unroll 1
    for (int r = row; r < end; r += apart) {
      load(to + r * ROW, ks + r * in.k_stride, r < rows);
      load(to + (KEYS + r) * ROW, vs + r * in.v_stride, r < rows);
    }
  }
  // The rows `first..first + count` of the rings, which do not go beyond the ring's end. Those of distances that the text does not have
  // do not matter. On a side that the text does not use, rows are 0. AHEAD rows of a thread are looked up at the same time.
  template <int AHEAD> __device__ void load_positions(int first, int count) const {
    const uint32_t* const distances = reinterpret_cast<const uint32_t*>(in.distances) + in.middle;
    const T *const keys = at(in.positions, in.positions_stride, tile.keys), *const others = at(in.positions, in.positions_stride, tile.queries);
    const int largest = int(tile.start) + queries - 1 - first, slot = first % ring, end = min(count, largest + len);
#pragma unroll 1
    for (int r = max(0, largest - len + 1) + row; r < end; r += AHEAD * apart) {
      uint64_t from[AHEAD];
#pragma unroll
      for (int i = 0; i < AHEAD; i++) from[i] = r + i * apart < end ? distances[largest - r - i * apart] * in.positions_stride : 0;
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        if (r + i * apart >= end) break;
        const int to = (slot + r + i * apart) * ROW;
        load(position_keys + to, keys + from[i], tile.keys != NONE);
        load(position_queries + to, others + from[i], tile.queries != NONE);
      }
    }
  }
  // Where the rows begin that the warp shares with 16 keys: those of the `slot`-th 16 distances.
  __device__ const T* slot_of(const T* positions, int slot) const {
    return positions + (16 * slot >= ring ? 16 * slot - ring : 16 * slot) * ROW;
  }
};

// The operand of the warp's queries, which stays in registers if it fits.
template <class T, int DP> struct Queries {
  static constexpr bool KEPT = sizeof(T) == 2;
  const T* rows;
  Pair<T> kept[KEPT ? DP / 16 : 1][4];

  __device__ void load(const T* from) {
    rows = from;
    if constexpr (KEPT)
#pragma unroll
      for (int k = 0; k < DP / 16; k++) load_a(kept[k], rows + 16 * k, DP + PAD);
  }
  __device__ void get(Pair<T> (&a)[4], int k) const {
    if constexpr (KEPT) {
#pragma unroll
      for (int i = 0; i < 4; i++) a[i] = kept[k][i];
    } else {
      load_a(a, rows + 16 * k, DP + PAD);
    }
  }
  // to [16, 16] += the queries times the transpose of 16 rows.
  __device__ void multiply(Square& to, const T* others) const {
#pragma unroll
    for (int k = 0; k < DP / 16; k++) {
      Pair<T> a[4], b[2][2];
      get(a, k);
      load_b(b, others + 16 * k, DP + PAD);
      multiply16(to, a, b);
    }
  }
};

// The scores, not yet scaled, of the warp's queries with 16 keys. Their distances are those of two neighbouring slots. `last` has the
// queries' products with the position keys of the nearer one, and gets those of the farther one, which is the next keys' nearer one.
template <class T, int DP>
__device__ void scores16(Square& s, Square& last, const Queries<T, DP>& q, const T* keys, const T* position_keys, const T* near, const T* far) {
  constexpr int ROW = DP + PAD;
  Square next = {}, upper = {}, lower = {};
#pragma unroll
  for (int k = 0; k < DP / 16; k++) {
    Pair<T> a[4], key[2][2], b[2][2];
    load_b(key, keys + 16 * k, ROW);
    load_a(a, near + 16 * k, ROW);
    multiply16(upper, a, key);
    load_a(a, far + 16 * k, ROW);
    multiply16(lower, a, key);
    q.get(a, k);
    multiply16(s, a, key);
    load_b(b, position_keys + 16 * k, ROW);
    multiply16(next, a, b);
  }
  add_from_rows(s, upper, lower);
  add_from_columns(s, last, next);
#pragma unroll
  for (int n = 0; n < 2; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) last[n][e] = next[n][e];
}

// The softmax of the warp's rows g and g + 8, over keys that come KEYS at a time.
struct Softmax {
  float most[2] = {-INFINITY, -INFINITY};
  float sum[2] = {};  // of the thread's keys

  // Turns scores in units of log 2 into weights, not yet divided by their sums. Returns the factors of what was summed before.
  __device__ void update(float (&s)[KEYS / 8][4], float (&factor)[2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float largest = most[half];
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) largest = fmaxf(largest, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      factor[half] = power_of_two(most[half] - largest);
      most[half] = largest;
      sum[half] *= factor[half];
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; e++) {
          s[n][e] = power_of_two(s[n][e] - largest);
          sum[half] += s[n][e];
        }
    }
  }
  // The sum of a row's keys, in all threads that share the row.
  __device__ float total(int half) const {
    const float pair = sum[half] + __shfl_xor_sync(0xffffffffu, sum[half], 1);
    return pair + __shfl_xor_sync(0xffffffffu, pair, 2);
  }
};

// Writes the warp's first `count` rows from shared memory to rows `stride` apart.
template <class T, int DP> __device__ void store(T* y, uint64_t stride, const T* from, int count, int size, bool aligned) {
  const int lane = threadIdx.x % 32;
  if (aligned) {
    constexpr int EACH = 16 / sizeof(T), CHUNKS = DP / EACH;
#pragma unroll 4
    for (int at = lane; at < count * CHUNKS; at += 32) {
      const int r = at / CHUNKS, c = at % CHUNKS * EACH;
      if (c < size) copy<16>(y + r * stride + c, from + r * (DP + PAD) + c);
    }
  } else {
#pragma unroll 1
    for (int at = lane; at < count * DP; at += 32)
      if (at % DP < size) y[at / DP * stride + at % DP] = from[at / DP * (DP + PAD) + at % DP];
  }
}

template <class T, int DP> __device__ void forward(const ForwardParams& p) {
  constexpr int ROW = DP + PAD;
  SHARED_MEMORY(shared);
  const Stage<T, DP> stage(p.in, shared);
  const Inputs& in = p.in;
  const QueryTile& tile = stage.tile;
  const int len = stage.len, row = tile.start + 16 * warp(), rows = min(16, len - row);
  T* const mine = stage.q + 16 * warp() * ROW;
  stage.load_queries();
  stage.load_keys(0, 0);
  stage.template load_positions<4>(0, stage.span + KEYS);

  Queries<T, DP> q;
  Softmax softmax;
  Square last = {};
  float out[DP / 8][4] = {};
  int slot = stage.queries / 16 - 1 - warp();
  for (int j0 = 0, turn = 0; j0 < len; j0 += KEYS, turn ^= 1) {
    wait_for_copies();
    __syncthreads();  // These keys are there, and all warps have used those before.
    if (j0 + KEYS < len) {
      stage.load_keys(j0 + KEYS, turn ^ 1);
      stage.template load_positions<1>(stage.span + KEYS + j0, KEYS);
    }
    // A warp behind the text's end only helps to load.
    if (rows <= 0) continue;
    if (j0 == 0) {
      q.load(mine);
      q.multiply(last, stage.slot_of(stage.position_keys, slot));
    }
    const T *keys = stage.k + turn * 2 * KEYS * ROW, *values = keys + KEYS * ROW;
    float s[KEYS / 8][4];
#pragma unroll
    for (int b = 0; b < KEYS / 16; b++) {
      if (j0 + 16 * b >= len) continue;
      Square square = {};
      scores16<T, DP>(square, last, q, keys + 16 * b * ROW, stage.slot_of(stage.position_keys, slot + 1),
                      stage.slot_of(stage.position_queries, slot), stage.slot_of(stage.position_queries, slot + 1));
      slot = 16 * (slot + 1) >= stage.ring ? 0 : slot + 1;
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[2 * b + n][e] = square[n][e] * (in.scale * LOG2_E);
    }
    if (j0 + KEYS > len) {
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
          if (j0 + 8 * n + column() + e % 2 >= len) s[n][e] = -INFINITY;
    }
    float factor[2];
    softmax.update(s, factor);
    if (in.kept != 0.f) {
      const Mask mask(in, tile, stage.head);
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[n][e] *= mask.of(row + group() + e / 2 * 8, j0 + 8 * n + column() + e % 2);
    }
#pragma unroll
    for (int n = 0; n < DP / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) out[n][e] *= factor[e / 2];
#pragma unroll
    for (int b = 0; b < KEYS / 16; b++) {
      if (j0 + 16 * b >= len) continue;
      const float(&x)[4] = s[2 * b], (&y)[4] = s[2 * b + 1];
      const Pair<T> weights[4] = {make_pair<T>(x[0], x[1]), make_pair<T>(x[2], x[3]), make_pair<T>(y[0], y[1]), make_pair<T>(y[2], y[3])};
#pragma unroll
      for (int n = 0; n < DP / 16; n++) {
        Pair<T> value[2][2];
        load_b_rows(value, values + 16 * b * ROW + 16 * n, ROW);
        mma(out[2 * n], weights, value[0]);
        mma(out[2 * n + 1], weights, value[1]);
      }
    }
  }
  if (rows <= 0) return;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float total = softmax.total(half);
    const int r = group() + 8 * half;
    if (p.sums && column() == 0 && r < rows)
      reinterpret_cast<float*>(p.sums)[uint64_t(stage.head) * in.tokens + tile.first + row + r] = softmax.most[half] + log2f(total);
#pragma unroll
    for (int n = 0; n < DP / 8; n++) {
      const Pair<T> pair = make_pair<T>(out[n][2 * half] / total, out[n][2 * half + 1] / total);
      copy<2 * sizeof(T)>(mine + r * ROW + 8 * n + column(), &pair);
    }
  }
  __syncwarp();
  const uint64_t stride = uint64_t(in.heads) * in.size;
  store<T, DP>(reinterpret_cast<T*>(p.y) + uint64_t(tile.first + row) * stride + stage.head * in.size, stride, mine, rows, in.size, in.aligned);
}

}  // namespace disentangled

// With at most 128 registers, two blocks of 256 threads fit on a multiprocessor. Wider elements and heads need more.
KERNEL(disentangled_64_f32, 256, disentangled::ForwardParams, disentangled::forward<float, 64>)
KERNEL(disentangled_64_bf16, 512, disentangled::ForwardParams, disentangled::forward<bf16, 64>)
KERNEL(disentangled_64_f16, 512, disentangled::ForwardParams, disentangled::forward<f16, 64>)
KERNEL(disentangled_128_f32, 128, disentangled::ForwardParams, disentangled::forward<float, 128>)
KERNEL(disentangled_128_bf16, 256, disentangled::ForwardParams, disentangled::forward<bf16, 128>)
KERNEL(disentangled_128_f16, 256, disentangled::ForwardParams, disentangled::forward<f16, 128>)
