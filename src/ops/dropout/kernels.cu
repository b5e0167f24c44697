// Dropout. The gradient is the same operation on the gradient of the result.
#include "../rows.cuh"

namespace {

struct DropoutParams {
  uint64_t x;      // [count]
  uint64_t y;      // [count]
  uint64_t count;
  uint64_t seed;
  uint32_t bound;  // an element is dropped if the upper half of its hash is below this
  float kept;      // the factor of the others
};

template <class T, bool FAST> __device__ void dropout_eight(const DropoutParams& p, uint64_t first) {
  const uint32_t count = min(uint64_t(8), p.count - first);
  float x[8];
  load_some<FAST>(reinterpret_cast<const T*>(p.x) + first, count, x);
#pragma unroll
  for (uint32_t i = 0; i < 8; i++) x[i] *= uint32_t(splitmix(p.seed + first + i) >> 32) >= p.bound ? p.kept : 0.f;
  store_some<FAST>(reinterpret_cast<T*>(p.y) + first, count, x);
}

template <class T> __device__ void dropout_body(const DropoutParams& p) {
  const uint64_t first = uint64_t(rows_unit()) * 8;
  if (first >= p.count) return;
  const bool fast = first + 8 <= p.count && (p.x | p.y) % 16 == 0;
  fast ? dropout_eight<T, true>(p, first) : dropout_eight<T, false>(p, first);
}

}  // namespace

KERNELS(dropout, ROWS_THREADS, DropoutParams, dropout_body)
