// What all kernels share: element types, loads of several elements, reductions, hashes, products of tiles, and how a kernel is exported.
//
// A kernel is a function `template <class T> __device__ void body(const Params& p)`, where T is the type of the activations. KERNELS
// exports it once for each type, with the suffixes that `cuda::Kernel` adds. The same source is compiled by nvcc for a GPU and, behind
// `on_host.h`, by the host's compiler for tests.
#pragma once

#include <cstdint>

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>

using bf16 = __nv_bfloat16;
using f16 = __half;

// The block's shared memory, whose size is chosen at launch. The only shared memory that kernels use.
#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]

// Exports `body(p)` under `name`. `threads` is the number of threads of each block.
#define KERNEL(name, threads, Params, ...) \
  extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Params p) { __VA_ARGS__(p); }

// The same, for kernels that bound their registers: so many blocks fit on a multiprocessor at once.
#define KERNEL_OF_MANY(name, threads, blocks, Params, ...) \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Params p) { __VA_ARGS__(p); }

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
__device__ inline float to_float(f16 x) { return __half2float(x); }
template <class T> __device__ T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline bf16 from_float<bf16>(float x) { return __float2bfloat16(x); }
template <> __device__ inline f16 from_float<f16>(float x) { return __float2half(x); }

// 1 / x to the last bit or two, for x of ordinary size.
__device__ inline float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Copies 4, 8 or 16 bytes. Both addresses must be multiples of that size.
template <int BYTES> struct Word;
template <> struct Word<4> { using Type = uint32_t; };
template <> struct Word<8> { using Type = uint2; };
template <> struct Word<16> { using Type = uint4; };
template <int BYTES> __device__ inline void copy(void* to, const void* from) {
  *reinterpret_cast<typename Word<BYTES>::Type*>(to) = *reinterpret_cast<const typename Word<BYTES>::Type*>(from);
}

#else

#include "on_host.h"

#endif

// Exports `body<T>` for each type of activations.
#define KERNELS(name, threads, Params, body)          \
  KERNEL(name##_f32, threads, Params, body<float>)    \
  KERNEL(name##_bf16, threads, Params, body<bf16>)    \
  KERNEL(name##_f16, threads, Params, body<f16>)

// Eight neighbouring elements as f32. The address must be a multiple of the size of eight elements, or of 16 bytes if that is less.
__device__ inline void load8(const float* from, float (&to)[8]) {
  copy<16>(to, from);
  copy<16>(to + 4, from + 4);
}
template <class T> __device__ inline void load8(const T* from, float (&to)[8]) {
  alignas(16) T elements[8];
  copy<16>(elements, from);
#pragma unroll
  for (int i = 0; i < 8; i++) to[i] = to_float(elements[i]);
}

// The opposite of load8.
__device__ inline void store8(float* to, const float (&from)[8]) {
  copy<16>(to, from);
  copy<16>(to + 4, from + 4);
}
template <class T> __device__ inline void store8(T* to, const float (&from)[8]) {
  alignas(16) T elements[8];
#pragma unroll
  for (int i = 0; i < 8; i++) elements[i] = from_float<T>(from[i]);
  copy<16>(to, elements);
}

// The sum and the largest of x over the warp's 32 threads, in every thread. All 32 threads must call it.
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, mask));
  return x;
}

// The sum over the block's threads, in every thread. `scratch` is shared memory for a float of each warp. All threads must call it.
// It may be called again with the same scratch after another barrier.
__device__ inline float block_sum(float x, float* scratch) {
  x = warp_sum(x);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = (blockDim.x + 31) / 32;
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return warp_sum(lane < warps ? scratch[lane] : 0.f);
}

// The last of `count` items whose `first` is at most `block`. Items are in ascending order of their first block.
template <class Item> __device__ inline const Item* find(const Item* items, uint32_t count, uint32_t block) {
  uint32_t low = 0, high = count;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (items[middle].first <= block) low = middle; else high = middle;
  }
  return items + low;
}

// SplitMix64, as `ops::splitmix` computes it.
__device__ inline uint64_t splitmix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// Two neighbouring elements, the unit in which threads hold tiles.
template <class T> struct Pair { T x, y; };
template <class T> __device__ inline Pair<T> load_pair(const T* from) {
  Pair<T> pair;
  copy<2 * sizeof(T)>(&pair, from);
  return pair;
}
template <class T> __device__ inline Pair<T> make_pair(float x, float y) { return {from_float<T>(x), from_float<T>(y)}; }

// d [16, 8] += a [16, 16] b [16, 8], by the warp's 32 threads together, with sums in f32. With `g = lane / 4` and `t = lane % 4`, a
// thread holds these elements, in PTX's order for `mma.m16n8k16`:
//   a[0] = a[g][2t, 2t+1]   a[1] = a[g+8][2t, 2t+1]   a[2] = a[g][2t+8, 2t+9]   a[3] = a[g+8][2t+8, 2t+9]
//   b[0] = b[2t, 2t+1][g]   b[1] = b[2t+8, 2t+9][g]
//   d[0], d[1] = d[g][2t, 2t+1]   d[2], d[3] = d[g+8][2t, 2t+1]
// So a row of a, and a column of b, may be loaded in pairs from rows in memory. In f32 the products are exact to about 2^-21: each
// factor is split into two parts that the tensor cores can hold.
#ifdef __CUDACC__
__device__ inline uint32_t bits(const Pair<bf16>& pair) { return *reinterpret_cast<const uint32_t*>(&pair); }
__device__ inline uint32_t bits(const Pair<f16>& pair) { return *reinterpret_cast<const uint32_t*>(&pair); }
__device__ inline void mma(float (&d)[4], const Pair<bf16> (&a)[4], const Pair<bf16> (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(bits(a[0])), "r"(bits(a[1])), "r"(bits(a[2])), "r"(bits(a[3])), "r"(bits(b[0])), "r"(bits(b[1])));
}
__device__ inline void mma(float (&d)[4], const Pair<f16> (&a)[4], const Pair<f16> (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(bits(a[0])), "r"(bits(a[1])), "r"(bits(a[2])), "r"(bits(a[3])), "r"(bits(b[0])), "r"(bits(b[1])));
}
// The tensor cores' f32 has 10 bits of mantissa.
struct Split { uint32_t high, low; };
__device__ inline Split split(float x) {
  Split s;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(s.high) : "f"(x));
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(s.low) : "f"(x - __uint_as_float(s.high)));
  return s;
}
__device__ inline void mma_tf32(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ inline void mma(float (&d)[4], const Pair<float> (&a)[4], const Pair<float> (&b)[2]) {
  // Two steps of 8. Which k each slot holds does not matter, as long as a and b agree.
#pragma unroll
  for (int step = 0; step < 2; step++) {
    const Split a0 = split(a[2 * step].x), a1 = split(a[2 * step + 1].x), a2 = split(a[2 * step].y), a3 = split(a[2 * step + 1].y);
    const Split b0 = split(b[step].x), b1 = split(b[step].y);
    mma_tf32(d, a0.low, a1.low, a2.low, a3.low, b0.high, b1.high);
    mma_tf32(d, a0.high, a1.high, a2.high, a3.high, b0.low, b1.low);
    mma_tf32(d, a0.high, a1.high, a2.high, a3.high, b0.high, b1.high);
  }
}

// Four 8 x 8 matrices of 16-bit elements in shared memory: lane l gives the address of row l % 8 of matrix l / 8, and receives the
// elements [g][2t, 2t+1] of each; if TRANSPOSED, [2t, 2t+1][g]. Rows must begin at multiples of 16 bytes. All 32 threads must call it.
template <bool TRANSPOSED, class T>
__device__ inline void load_matrices(Pair<T>& a, Pair<T>& b, Pair<T>& c, Pair<T>& d, const T* row) {
  uint32_t words[4];
  const uint32_t address = __cvta_generic_to_shared(row);
  if constexpr (TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(address) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(address) : "memory");
  a = *reinterpret_cast<Pair<T>*>(&words[0]);
  b = *reinterpret_cast<Pair<T>*>(&words[1]);
  c = *reinterpret_cast<Pair<T>*>(&words[2]);
  d = *reinterpret_cast<Pair<T>*>(&words[3]);
}

// Begins to copy 16 bytes from global to shared memory; or to write zeros, if not `inside`. Both addresses must be multiples of 16.
// The bytes are there for this thread after `wait_for_copies`, and for others after a barrier behind it. `from` is not read if not
// `inside`, and may then be any address.
__device__ inline void copy_async(void* to, const void* from, bool inside) {
  const uint32_t address = __cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" : : "r"(address), "l"(from), "r"(inside ? 16 : 0) : "memory");
}
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" : : : "memory"); }
// Ends a group of copies: all that this thread has begun since the last group, which may be none.
__device__ inline void end_group_of_copies() { asm volatile("cp.async.commit_group;" : : : "memory"); }
// Waits for this thread's copies in all groups but the newest N.
template <int N> __device__ inline void wait_for_all_groups_but() { asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory"); }

// 2^x, within 2^-22 of it. What is less than the least normal number becomes 0.
__device__ inline float power_of_two(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
#endif
