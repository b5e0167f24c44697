// What the element-wise operations share: a thread handles up to eight neighbouring elements of a row.
#pragma once

#include "kernel.cuh"

// The number of threads in a block, `THREADS` in rows.rs.
constexpr int ROWS_THREADS = 256;

// The eights of all rows, numbered from 0.
__device__ inline uint32_t rows_unit() { return blockIdx.x * ROWS_THREADS + threadIdx.x; }

// Up to eight elements from `from`, of which `count` exist; the others become 0. FAST: all eight exist, and load8 may read them.
template <bool FAST, class T> __device__ inline void load_some(const T* from, uint32_t count, float (&to)[8]) {
  if constexpr (FAST) {
    load8(from, to);
  } else {
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) to[i] = i < count ? to_float(from[i]) : 0.f;
  }
}

// The opposite of load_some.
template <bool FAST, class T> __device__ inline void store_some(T* to, uint32_t count, const float (&from)[8]) {
  if constexpr (FAST) {
    store8(to, from);
  } else {
#pragma unroll
    for (uint32_t i = 0; i < 8; i++)
      if (i < count) to[i] = from_float<T>(from[i]);
  }
}
