// The gradient of DeBERTa's attention, second part: the products of the scores' gradients ("slopes"), or of the weights, with rows of
// the text or of the positions. All sums are taken in an order that depends on nothing but the batch.
#include "tiles.cuh"

namespace disentangled {

// `ProductParams` in gradient.rs.
struct ProductParams {
  Inputs in;
  uint64_t dy, dy_stride;     // [T, hidden]
  uint64_t weights, slopes;   // as in BackwardParams
  uint64_t dqkv;              // [T, 3 hidden]
};

// `DistanceParams` in gradient.rs.
struct DistanceParams {
  Inputs in;
  uint64_t slopes;     // as in BackwardParams
  uint64_t parts;      // Part for each block in x
  uint64_t texts;      // SetText
  uint64_t by_distance;// [parts, 128 * tiles, hidden] in f32: the gradient of the row of each distance from -64 * tiles
  uint32_t tiles;      // the number of tiles of the longest text
  uint32_t unused;
};

// Some of the texts that use one set of positions.
struct Part {
  uint32_t queries;     // whether it is a set of position queries
  uint32_t start;       // the set's first row of positions
  uint32_t first, end;  // the part's first text, and the one after its last
};

struct SetText {
  uint32_t first, len, pairs;  // as in QueryTile
};

// Calls to(r, c, x) for each element of a tile [64, 64] in memory.
template <class T, class To> __device__ void each(const T* tile, To to) {
  constexpr int EACH = 16 / sizeof(T), CHUNKS = TILE / EACH;
#pragma unroll 4
  for (int at = threadIdx.x; at < TILE * CHUNKS; at += THREADS) {
    alignas(16) T chunk[EACH];
    copy<16>(chunk, tile + at * EACH);
#pragma unroll
    for (int e = 0; e < EACH; e++) to(at / CHUNKS, at % CHUNKS * EACH + e, chunk[e]);
  }
}

// The gradients of 64 queries (z = 0), keys (1) or values (2).
template <class T, int DP> __device__ void products(const ProductParams& p) {
  constexpr int ROW = TILE + PAD, BAND_ROW = BAND_SPAN + PAD, SPAN_ROW = SPAN + PAD;
  SHARED_MEMORY(shared);
  T* const factors = reinterpret_cast<T*>(shared);     // [TILE, ROW]: row r belongs to row r of the result
  T* const by_distance = factors + TILE * ROW;         // [TILE, BAND_ROW]: the same, by the distances of the row's band
  T* const others = by_distance + TILE * BAND_ROW;     // [DP, ROW]
  T* const positions = others + DP * ROW;              // [DP, SPAN_ROW]

  const Inputs& in = p.in;
  const QueryTile tile = reinterpret_cast<const QueryTile*>(in.tiles)[blockIdx.x];
  const int head = blockIdx.y, left = head * in.size, size = in.size, len = tile.len, tiles = tiles_of(len);
  const bool for_queries = blockIdx.z == 0, for_values = blockIdx.z == 2;
  const uint32_t set = for_values ? NONE : for_queries ? tile.keys : tile.queries;
  const Rows<T> rows = for_queries  ? Rows<T>(in.k, in.k_stride, tile, left)
                       : for_values ? Rows<T>(p.dy, p.dy_stride, tile, left)
                                    : Rows<T>(in.q, in.q_stride, tile, left);
  const Positions<T> position_rows(in, tile, head);
  const T* const all = reinterpret_cast<const T*>(for_values ? p.weights : p.slopes) +
                       (uint64_t(tile.pairs) * in.heads + uint64_t(head) * tiles * tiles) * (TILE * TILE);
  for (int at = threadIdx.x; at < TILE * BAND_ROW; at += THREADS) by_distance[at] = from_float<T>(0.f);

  const int own = tile.start / TILE, rows_here = len - int(tile.start) - BAND * warp();
  float sums[DP / 8][4] = {};
  for (int other = 0; other < tiles; other++) {
    const int i0 = TILE * (for_queries ? own : other), j0 = TILE * (for_queries ? other : own);
    __syncthreads();
    each(all + (i0 / TILE * tiles + j0 / TILE) * (TILE * TILE), [&](int i, int j, T x) {
      const int r = for_queries ? i : j, c = for_queries ? j : i;
      factors[r * ROW + c] = x;
      // Of the distances i - j + 63, those of a query's band begin at the band's first row, those of a key's at 48 less that row.
      const int distance = for_queries ? r % BAND + TILE - 1 - c : c - r % BAND + BAND - 1;
      if (set != NONE) by_distance[r * BAND_ROW + distance] = x;
    });
    load_transposed<T, DP, TILE>(others, size, in.aligned, [&](int r) { return rows.row(TILE * other + r); });
    if (set != NONE)
      load_transposed<T, DP, SPAN>(positions, size, in.aligned, [&](int m) { return position_rows.row(set, i0, j0, m); });
    __syncthreads();
    if (rows_here <= 0) continue;
    multiply(sums, factors + BAND * warp() * ROW, ROW, others, ROW, (min(TILE, len - TILE * other) + 15) / 16, size);
    if (set != NONE) {
      const int first = for_queries ? BAND * warp() : TILE - BAND - BAND * warp();
      multiply(sums, by_distance + BAND * warp() * BAND_ROW, BAND_ROW, positions + first, SPAN_ROW, BAND_SPAN / 16, size);
    }
  }
  const float scale = for_values ? 1.f : in.scale;
#pragma unroll
  for (int n = 0; n < DP / 8; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) sums[n][e] *= scale;
  const uint64_t hidden = uint64_t(in.heads) * size, first = tile.first + tile.start + BAND * warp();
  T* const to = reinterpret_cast<T*>(p.dqkv) + first * 3 * hidden + blockIdx.z * hidden + left;
  store_rows(to, 3 * hidden, rows_here, size, sums);
}

// The gradients of 64 distances, summed over the texts of a part.
template <class T, int DP> __device__ void distances(const DistanceParams& p) {
  constexpr int ROW = TILE + PAD;
  SHARED_MEMORY(shared);
  T* const factors = reinterpret_cast<T*>(shared);  // [TILE, ROW]: row r belongs to the r-th of the block's distances
  T* const others = factors + TILE * ROW;           // [DP, ROW]

  const Inputs& in = p.in;
  const Part part = reinterpret_cast<const Part*>(p.parts)[blockIdx.x];
  const int head = blockIdx.y, left = head * in.size, size = in.size;
  // The block's distances begin at 64 `apart`: they are those of tiles that lie `apart` and `apart + 1` tiles apart.
  const int apart = int(blockIdx.z) - int(p.tiles);
  float sums[DP / 8][4] = {};
  for (uint32_t t = part.first; t < part.end; t++) {
    const SetText text = reinterpret_cast<const SetText*>(p.texts)[t];
    const QueryTile tile{text.first, text.len, 0, 0, 0, 0, text.pairs};
    const int tiles = tiles_of(text.len);
    const Rows<T> rows = part.queries ? Rows<T>(in.k, in.k_stride, tile, left) : Rows<T>(in.q, in.q_stride, tile, left);
    const T* const all =
        reinterpret_cast<const T*>(p.slopes) + (uint64_t(text.pairs) * in.heads + uint64_t(head) * tiles * tiles) * (TILE * TILE);
    // Tile `own` of the keys with two tiles of queries, or the opposite.
    for (int own = 0; own < tiles; own++) {
      const int nearer = part.queries ? own + apart : own - apart, farther = part.queries ? nearer + 1 : nearer - 1;
      const auto slopes = [&](int other) {
        return other < 0 || other >= tiles ? nullptr : all + (part.queries ? other * tiles + own : own * tiles + other) * (TILE * TILE);
      };
      const T *near = slopes(nearer), *far = slopes(farther);
      if (!near && !far) continue;
      __syncthreads();
      constexpr int EACH = 16 / sizeof(T), CHUNKS = TILE / EACH;
#pragma unroll 2
      for (int at = threadIdx.x; at < TILE * CHUNKS; at += THREADS) {
        alignas(16) T chunks[2][EACH];
        const T zero = from_float<T>(0.f);
#pragma unroll
        for (int e = 0; e < EACH; e++) chunks[0][e] = chunks[1][e] = zero;
        if (near) copy<16>(chunks[0], near + at * EACH);
        if (far) copy<16>(chunks[1], far + at * EACH);
        const int i = at / CHUNKS;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
          const int j = at % CHUNKS * EACH + e, distance = i - j;
          factors[(distance & (TILE - 1)) * ROW + (part.queries ? j : i)] = distance >= 0 ? chunks[0][e] : chunks[1][e];
        }
      }
      load_transposed<T, DP, TILE>(others, size, in.aligned, [&](int r) { return rows.row(TILE * own + r); });
      __syncthreads();
      multiply(sums, factors + BAND * warp() * ROW, ROW, others, ROW, (min(TILE, rows.len - TILE * own) + 15) / 16, size);
    }
  }
#pragma unroll
  for (int n = 0; n < DP / 8; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) sums[n][e] *= in.scale;
  const uint64_t hidden = uint64_t(in.heads) * size, first = (uint64_t(blockIdx.x) * gridDim.z + blockIdx.z) * TILE + BAND * warp();
  store_rows(reinterpret_cast<float*>(p.by_distance) + first * hidden + left, hidden, BAND, size, sums);
}

// `PositionParams` in gradient.rs.
struct PositionParams {
  uint64_t by_distance;       // as in DistanceParams
  uint64_t parts;             // Part
  uint64_t firsts, inverse;   // the distances of row r of a set, by their index in by_distance: inverse[firsts[r] .. firsts[r + 1]]
  uint64_t dpositions;        // [P, hidden]
  uint32_t hidden, count;     // the number of parts
  uint32_t rows, each;        // of a set; distances in by_distance
};

// One row of the positions' gradient.
template <class T> __device__ void positions(const PositionParams& p) {
  const uint32_t row = blockIdx.x, c = blockIdx.y * THREADS + threadIdx.x;
  if (c >= p.hidden) return;
  const Part* parts = reinterpret_cast<const Part*>(p.parts);
  const uint32_t *firsts = reinterpret_cast<const uint32_t*>(p.firsts), *inverse = reinterpret_cast<const uint32_t*>(p.inverse);
  const float* by_distance = reinterpret_cast<const float*>(p.by_distance) + c;
  float sum = 0.f;
  for (uint32_t part = 0; part < p.count; part++) {
    const uint32_t start = parts[part].start;
    if (row < start || row >= start + p.rows) continue;
    for (uint32_t at = firsts[row - start]; at < firsts[row - start + 1]; at++)
      sum += by_distance[(uint64_t(part) * p.each + inverse[at]) * p.hidden];
  }
  reinterpret_cast<T*>(p.dpositions)[uint64_t(row) * p.hidden + c] = from_float<T>(sum);
}

template <class T> __device__ void products_64(const ProductParams& p) { products<T, 64>(p); }
template <class T> __device__ void products_128(const ProductParams& p) { products<T, 128>(p); }
template <class T> __device__ void distances_64(const DistanceParams& p) { distances<T, 64>(p); }
template <class T> __device__ void distances_128(const DistanceParams& p) { distances<T, 128>(p); }

}  // namespace disentangled

KERNELS(disentangled_products_64, disentangled::THREADS, disentangled::ProductParams, disentangled::products_64)
KERNELS(disentangled_products_128, disentangled::THREADS, disentangled::ProductParams, disentangled::products_128)
KERNELS(disentangled_distances_64, disentangled::THREADS, disentangled::DistanceParams, disentangled::distances_64)
KERNELS(disentangled_distances_128, disentangled::THREADS, disentangled::DistanceParams, disentangled::distances_128)
KERNELS(disentangled_positions, disentangled::THREADS, disentangled::PositionParams, disentangled::positions)
