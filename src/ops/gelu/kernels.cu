// The exact GELU and the gated GELU, with their gradients.
#include "kernel.cuh"

namespace {

struct GeluParams {
  uint64_t x;     // [count]
  uint64_t dy;    // [count], for the gradient
  uint64_t y;     // [count]
  uint64_t count;
};

constexpr int THREADS = 256;

__device__ inline float gelu(float x) { return 0.5f * x * (1.f + erff(x * 0.70710678f)); }

// The derivative: the normal distribution plus x times its density.
__device__ inline float gelu_slope(float x) {
  return 0.5f * (1.f + erff(x * 0.70710678f)) + x * 0.39894228f * __expf(-0.5f * x * x);
}

template <class T> __device__ void gelu_body(const GeluParams& p) {
  const T* x = reinterpret_cast<const T*>(p.x);
  T* y = reinterpret_cast<T*>(p.y);
  const uint64_t first = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * 8;
  if (first + 8 <= p.count) {
    float v[8];
    load8(x + first, v);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = gelu(v[i]);
    store8(y + first, v);
  } else {
    for (uint64_t i = first; i < p.count; i++) y[i] = from_float<T>(gelu(to_float(x[i])));
  }
}

template <class T> __device__ void gelu_backward_body(const GeluParams& p) {
  const T *x = reinterpret_cast<const T*>(p.x), *dy = reinterpret_cast<const T*>(p.dy);
  T* dx = reinterpret_cast<T*>(p.y);
  const uint64_t first = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * 8;
  for (uint64_t i = first; i < p.count && i < first + 8; i++)
    dx[i] = from_float<T>(to_float(dy[i]) * gelu_slope(to_float(x[i])));
}

}  // namespace

KERNELS(gelu, THREADS, GeluParams, gelu_body)
KERNELS(gelu_backward, THREADS, GeluParams, gelu_backward_body)
