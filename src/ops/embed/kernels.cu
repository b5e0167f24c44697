// The sum of rows looked up in tables, and the gradient of a table.
#include "../rows.cuh"

namespace {

// The largest number of tables, `TABLES` in cuda.rs.
constexpr uint32_t EMBED_TABLES = 4;

struct EmbedParams {
  uint64_t tables[EMBED_TABLES];   // each [n, width], rows `strides` apart
  uint64_t strides[EMBED_TABLES];
  uint64_t ids;                    // [number, tokens], u32
  uint64_t y;                      // [tokens, width]
  uint32_t tokens;
  uint32_t width;
  uint32_t number;                 // of tables
  uint32_t wide;                   // bit k: the elements of table k are f32, whatever the type of the result
  uint32_t fast;                   // whether all rows may be read in units of eight elements
  uint32_t unused;
};

struct EmbedBackwardParams {
  uint64_t dy;      // [tokens, width], rows `stride` apart
  uint64_t starts;  // [rows + 1], u32: the first of each row's places in `tokens`
  uint64_t tokens;  // u32: the tokens that looked up row 0, then those that looked up row 1, ...
  uint64_t y;       // the gradient of the table, [rows, width], f32
  uint64_t stride;
  uint32_t rows;
  uint32_t width;
  uint32_t fast;
  uint32_t unused;
};

template <class T, bool FAST> __device__ void embed_eight(const EmbedParams& p, uint32_t token, uint32_t column) {
  const uint32_t count = min(8u, p.width - column);
  const uint32_t* ids = reinterpret_cast<const uint32_t*>(p.ids) + token;
  float sum[8] = {};
#pragma unroll
  for (uint32_t k = 0; k < EMBED_TABLES; k++) {
    if (k >= p.number) break;
    const uint64_t at = ids[uint64_t(k) * p.tokens] * p.strides[k] + column;
    float row[8];
    if (p.wide >> k & 1) load_some<FAST>(reinterpret_cast<const float*>(p.tables[k]) + at, count, row);
    else load_some<FAST>(reinterpret_cast<const T*>(p.tables[k]) + at, count, row);
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) sum[i] += row[i];
  }
  store_some<FAST>(reinterpret_cast<T*>(p.y) + uint64_t(token) * p.width + column, count, sum);
}

template <class T> __device__ void embed_body(const EmbedParams& p) {
  const uint32_t eights = (p.width + 7) / 8, token = rows_unit() / eights, column = rows_unit() % eights * 8;
  if (token >= p.tokens) return;
  p.fast ? embed_eight<T, true>(p, token, column) : embed_eight<T, false>(p, token, column);
}

// A row's gradient is the sum of its tokens' gradients in the order of the tokens, so it does not vary from run to run.
template <class T, bool FAST> __device__ void embed_backward_eight(const EmbedBackwardParams& p, uint32_t row, uint32_t column) {
  const uint32_t count = min(8u, p.width - column);
  const uint32_t *starts = reinterpret_cast<const uint32_t*>(p.starts), *tokens = reinterpret_cast<const uint32_t*>(p.tokens);
  const uint32_t end = starts[row + 1];
  float sum[8] = {};
#pragma unroll 4
  for (uint32_t at = starts[row]; at < end; at++) {
    float dy[8];
    load_some<FAST>(reinterpret_cast<const T*>(p.dy) + tokens[at] * p.stride + column, count, dy);
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) sum[i] += dy[i];
  }
  store_some<FAST>(reinterpret_cast<float*>(p.y) + uint64_t(row) * p.width + column, count, sum);
}

template <class T> __device__ void embed_backward_body(const EmbedBackwardParams& p) {
  const uint32_t eights = (p.width + 7) / 8, row = rows_unit() / eights, column = rows_unit() % eights * 8;
  if (row >= p.rows) return;
  p.fast ? embed_backward_eight<T, true>(p, row, column) : embed_backward_eight<T, false>(p, row, column);
}

}  // namespace

KERNELS(embed, ROWS_THREADS, EmbedParams, embed_body)
KERNELS(embed_backward, ROWS_THREADS, EmbedBackwardParams, embed_backward_body)
