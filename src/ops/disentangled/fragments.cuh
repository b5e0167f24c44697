// Sums along diagonals of products.
//
// With relative positions, a tile of scores has 16 queries (rows r) and 16 keys (columns x). A query or a key is multiplied with 32
// neighbouring distances, and the score at (r, x) takes the product with the distance `x + 15 - r`. Threads exchange these products
// directly, so that they never leave the registers.
#pragma once

#include "operands.cuh"

namespace disentangled {

// Two results [16, 8] of `mma`, side by side.
using Square = float[2][4];

// d [16, 16] += a b.
template <class T> __device__ inline void multiply16(Square& d, const Pair<T> (&a)[4], const Pair<T> (&b)[2][2]) {
  mma(d[0], a, b[0]);
  mma(d[1], a, b[1]);
}

// Adds to row r and column x of `s` column `x + 15 - r` of row r of two squares side by side.
__device__ inline void add_from_columns(Square& s, const Square& left, const Square& right) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  // The elements of a row lie in the four threads of its group. Those in even and in odd columns come from these threads.
  const bool odd = g % 2;
  const int even_from = 4 * g + (2 * t + 8 - g - odd) % 8 / 2, odd_from = 4 * g + (2 * t + 7 - g) % 8 / 2;
#pragma unroll
  for (int n = 0; n < 2; n++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      // Eight columns of s take from these 16: row g + 8 takes 8 columns further to the left than row g.
      const float(&near)[4] = n + 1 - half == 0 ? left[0] : n + 1 - half == 1 ? left[1] : right[0];
      const float(&far)[4] = n + 1 - half == 0 ? left[1] : n + 1 - half == 1 ? right[0] : right[1];
      const int at = 2 * half;
      const float even = __shfl_sync(0xffffffffu, 2 * t >= 7 - g ? near[at] : far[at], even_from);
      const float uneven = __shfl_sync(0xffffffffu, 2 * t + 1 >= 7 - g ? near[at + 1] : far[at + 1], odd_from);
      s[n][at] += odd ? even : uneven;
      s[n][at + 1] += odd ? uneven : even;
    }
}

// Adds to row r and column x of `s` row `x + 15 - r` of column x of two squares, one below the other.
__device__ inline void add_from_rows(Square& s, const Square& upper, const Square& lower) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < 2; n++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      // Rows g, g + 8, g + 16 and g + 24 of the column. Row g of s takes from eight rows further down than row g + 8.
      const float rows[4] = {upper[n][e], upper[n][2 + e], lower[n][e], lower[n][2 + e]};
      const bool near = g >= 2 * t + e;
      const int from = 4 * ((2 * t + e + 7 - g) & 7) + t;
      s[n][e] += __shfl_sync(0xffffffffu, near ? rows[n + 1] : rows[n + 2], from);
      s[n][2 + e] += __shfl_sync(0xffffffffu, near ? rows[n] : rows[n + 1], from);
    }
}

}  // namespace disentangled
