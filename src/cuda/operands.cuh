// Operands of `mma` from rows in shared memory. Rows lie `stride` elements apart, and begin at multiples of 16 bytes.
#pragma once

#include "kernel.cuh"

// The operand a [16, 16], whose rows are rows in memory.
template <class T> __device__ inline void load_a(Pair<T> (&a)[4], const T* rows, int stride) {
  const int lane = threadIdx.x % 32;
  if constexpr (sizeof(T) == 2) {
    load_matrices<false>(a[0], a[1], a[2], a[3], rows + lane % 16 * stride + lane / 16 * 8);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = load_pair(rows + (lane / 4 + i % 2 * 8) * stride + i / 2 * 8 + lane % 4 * 2);
  }
}

// Two operands b [16, 8], whose 16 columns are rows in memory: for products with these rows' transpose.
template <class T> __device__ inline void load_b(Pair<T> (&b)[2][2], const T* rows, int stride) {
  const int lane = threadIdx.x % 32;
  if constexpr (sizeof(T) == 2) {
    load_matrices<false>(b[0][0], b[0][1], b[1][0], b[1][1], rows + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) b[i / 2][i % 2] = load_pair(rows + (lane / 4 + i / 2 * 8) * stride + i % 2 * 8 + lane % 4 * 2);
  }
}

// Two operands b [16, 8], whose 16 rows are rows in memory: for products with these rows themselves.
template <class T> __device__ inline void load_b_rows(Pair<T> (&b)[2][2], const T* rows, int stride) {
  const int lane = threadIdx.x % 32;
  if constexpr (sizeof(T) == 2) {
    load_matrices<true>(b[0][0], b[0][1], b[1][0], b[1][1], rows + lane % 16 * stride + lane / 16 * 8);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const T* at = rows + (i % 2 * 8 + lane % 4 * 2) * stride + i / 2 * 8 + lane / 4;
      b[i / 2][i % 2] = {at[0], at[stride]};
    }
  }
}
