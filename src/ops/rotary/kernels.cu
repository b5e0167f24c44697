// Rotary position embeddings, and their gradient: the opposite rotation.
#include "../rows.cuh"

namespace {

struct RotaryParams {
  uint64_t x;          // [rows, heads * 2 * half], rows `stride` apart
  uint64_t positions;  // [rows], u32: the position of each row in its text
  uint64_t angles;     // [positions, 2, half], f32: cosines, then sines
  uint64_t y;          // [rows, heads * 2 * half]
  uint64_t stride;
  uint32_t rows;
  uint32_t heads;
  uint32_t half;
  uint32_t fast;       // whether all rows, and half a head, may be read in units of eight elements
  float sign;          // 1 forward, -1 backward
  uint32_t unused;
};

template <class T, bool FAST> __device__ void rotary_eight(const RotaryParams& p, uint32_t row, uint32_t head, uint32_t at) {
  const uint32_t count = min(8u, p.half - at), column = head * 2 * p.half + at;
  const T* from = reinterpret_cast<const T*>(p.x) + row * p.stride + column;
  T* to = reinterpret_cast<T*>(p.y) + uint64_t(row) * p.heads * 2 * p.half + column;
  const uint32_t position = reinterpret_cast<const uint32_t*>(p.positions)[row];
  const float* angles = reinterpret_cast<const float*>(p.angles) + uint64_t(position) * 2 * p.half + at;
  float a[8], b[8], cosine[8], sine[8];
  load_some<FAST>(from, count, a);
  load_some<FAST>(from + p.half, count, b);
  load_some<FAST>(angles, count, cosine);
  load_some<FAST>(angles + p.half, count, sine);
#pragma unroll
  for (uint32_t i = 0; i < 8; i++) {
    const float first = a[i] * cosine[i] - b[i] * sine[i] * p.sign;
    b[i] = b[i] * cosine[i] + a[i] * sine[i] * p.sign;
    a[i] = first;
  }
  store_some<FAST>(to, count, a);
  store_some<FAST>(to + p.half, count, b);
}

template <class T> __device__ void rotary_body(const RotaryParams& p) {
  const uint32_t eights = (p.half + 7) / 8, unit = rows_unit();
  const uint32_t at = unit % eights * 8, head = unit / eights % p.heads, row = unit / eights / p.heads;
  if (row >= p.rows) return;
  p.fast ? rotary_eight<T, true>(p, row, head, at) : rotary_eight<T, false>(p, row, head, at);
}

}  // namespace

KERNELS(rotary, ROWS_THREADS, RotaryParams, rotary_body)
