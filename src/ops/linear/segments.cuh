// What the shrink and the expand share: loads and stores of some elements.
#pragma once

#include "kernel.cuh"

namespace linear {

// Eight neighbouring elements, as pairs.
template <class T> struct alignas(16) Eight { Pair<T> pairs[4]; };

// Loads N neighbouring elements. FAST: all exist, and their address is a multiple of their size, or of 16 bytes if that is less. Else
// the first `valid` exist, and the others become zero.
template <int N, bool FAST, class T> __device__ inline void load_some(const T* from, int valid, T* to) {
  if constexpr (FAST) {
    constexpr int BYTES = N * sizeof(T) < 16 ? N * sizeof(T) : 16;
#pragma unroll
    for (int i = 0; i < int(N * sizeof(T)); i += BYTES) copy<BYTES>(reinterpret_cast<char*>(to) + i, reinterpret_cast<const char*>(from) + i);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = i < valid ? from[i] : from_float<T>(0.f);
  }
}

// Stores eight neighbouring elements, of which the first `valid` exist unless FAST.
template <bool FAST, class T> __device__ inline void store_some(T* to, int valid, const float (&from)[8]) {
  if constexpr (FAST) {
    store8(to, from);
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (i < valid) to[i] = from_float<T>(from[i]);
  }
}

template <class T> __device__ inline Eight<T> zeros() {
  const Pair<T> zero = make_pair<T>(0.f, 0.f);
  return {{zero, zero, zero, zero}};
}

}  // namespace linear
