// The exact GELU and the gated GELU, with their gradients.
#include "../rows.cuh"
#include "gelu.cuh"

namespace {

struct GeluParams {
  uint64_t x;   // [count]
  uint64_t dy;  // [count], for the gradient
  uint64_t y;   // [count]; the gradient of x in the backward pass
  uint64_t count;
};

struct GatedGeluParams {
  uint64_t x;   // [rows, 2 * width], rows `x_stride` apart
  uint64_t dy;  // [rows, width], rows `dy_stride` apart, for the gradient
  uint64_t y;   // [rows, width]; the gradient of x, [rows, 2 * width], in the backward pass
  uint64_t x_stride;
  uint64_t dy_stride;
  uint32_t rows;
  uint32_t width;
  uint32_t fast;  // whether all rows may be read in units of eight elements
  uint32_t unused;
};

template <class T, bool FAST> __device__ void gelu_eight(const GeluParams& p, uint64_t first) {
  const uint32_t count = min(uint64_t(8), p.count - first);
  float v[8];
  load_some<FAST>(reinterpret_cast<const T*>(p.x) + first, count, v);
#pragma unroll
  for (uint32_t i = 0; i < 8; i++) v[i] = gelu(v[i]);
  store_some<FAST>(reinterpret_cast<T*>(p.y) + first, count, v);
}

// The tensors are contiguous and begin at multiples of 16 bytes or of one element.
__device__ inline bool gelu_fast(const GeluParams& p, uint64_t first) {
  return first + 8 <= p.count && (p.x | p.dy | p.y) % 16 == 0;
}

template <class T> __device__ void gelu_body(const GeluParams& p) {
  const uint64_t first = uint64_t(rows_unit()) * 8;
  if (first >= p.count) return;
  gelu_fast(p, first) ? gelu_eight<T, true>(p, first) : gelu_eight<T, false>(p, first);
}

template <class T, bool FAST> __device__ void gelu_backward_eight(const GeluParams& p, uint64_t first) {
  const uint32_t count = min(uint64_t(8), p.count - first);
  float x[8], dy[8];
  load_some<FAST>(reinterpret_cast<const T*>(p.x) + first, count, x);
  load_some<FAST>(reinterpret_cast<const T*>(p.dy) + first, count, dy);
#pragma unroll
  for (uint32_t i = 0; i < 8; i++) dy[i] *= gelu_slope(x[i]);
  store_some<FAST>(reinterpret_cast<T*>(p.y) + first, count, dy);
}

template <class T> __device__ void gelu_backward_body(const GeluParams& p) {
  const uint64_t first = uint64_t(rows_unit()) * 8;
  if (first >= p.count) return;
  gelu_fast(p, first) ? gelu_backward_eight<T, true>(p, first) : gelu_backward_eight<T, false>(p, first);
}

template <class T, bool FAST> __device__ void gated_gelu_eight(const GatedGeluParams& p, uint32_t row, uint32_t column) {
  const uint32_t count = min(8u, p.width - column);
  const T* from = reinterpret_cast<const T*>(p.x) + row * p.x_stride + column;
  float a[8], b[8];
  load_some<FAST>(from, count, a);
  load_some<FAST>(from + p.width, count, b);
#pragma unroll
  for (uint32_t i = 0; i < 8; i++) a[i] = gelu(a[i]) * b[i];
  store_some<FAST>(reinterpret_cast<T*>(p.y) + uint64_t(row) * p.width + column, count, a);
}

template <class T> __device__ void gated_gelu_body(const GatedGeluParams& p) {
  const uint32_t eights = (p.width + 7) / 8, row = rows_unit() / eights, column = rows_unit() % eights * 8;
  if (row >= p.rows) return;
  p.fast ? gated_gelu_eight<T, true>(p, row, column) : gated_gelu_eight<T, false>(p, row, column);
}

// da = dy b gelu'(a), db = dy gelu(a).
template <class T, bool FAST>
__device__ void gated_gelu_backward_eight(const GatedGeluParams& p, uint32_t row, uint32_t column) {
  const uint32_t count = min(8u, p.width - column);
  const T* from = reinterpret_cast<const T*>(p.x) + row * p.x_stride + column;
  T* to = reinterpret_cast<T*>(p.y) + uint64_t(row) * 2 * p.width + column;
  float a[8], b[8], dy[8];
  load_some<FAST>(from, count, a);
  load_some<FAST>(from + p.width, count, b);
  load_some<FAST>(reinterpret_cast<const T*>(p.dy) + row * p.dy_stride + column, count, dy);
#pragma unroll
  for (uint32_t i = 0; i < 8; i++) {
    const float da = dy[i] * b[i] * gelu_slope(a[i]);
    b[i] = dy[i] * gelu(a[i]);
    a[i] = da;
  }
  store_some<FAST>(to, count, a);
  store_some<FAST>(to + p.width, count, b);
}

template <class T> __device__ void gated_gelu_backward_body(const GatedGeluParams& p) {
  const uint32_t eights = (p.width + 7) / 8, row = rows_unit() / eights, column = rows_unit() % eights * 8;
  if (row >= p.rows) return;
  p.fast ? gated_gelu_backward_eight<T, true>(p, row, column) : gated_gelu_backward_eight<T, false>(p, row, column);
}

}  // namespace

KERNELS(gelu, ROWS_THREADS, GeluParams, gelu_body)
KERNELS(gelu_backward, ROWS_THREADS, GeluParams, gelu_backward_body)
KERNELS(gated_gelu, ROWS_THREADS, GatedGeluParams, gated_gelu_body)
KERNELS(gated_gelu_backward, ROWS_THREADS, GatedGeluParams, gated_gelu_backward_body)
