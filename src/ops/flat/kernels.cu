// Joins many tensors into one f32 vector, and splits a vector into tensors. A block works on one tensor, which its y selects.
#include "kernel.cuh"

namespace flat {

struct FlatParams {
  uint64_t parts;   // for each tensor, PART words
  uint64_t vector;  // [sum of the tensors' elements], f32
};

constexpr int THREADS = 256;
// Address (low, high), first element in the vector (low, high), rows, width, distance between rows, distance between columns.
constexpr int PART = 8;

struct Part {
  uint64_t address, start;
  uint32_t width, count;
  uint64_t stride, step;

  __device__ Part(const FlatParams& p) {
    const uint32_t* words = reinterpret_cast<const uint32_t*>(p.parts) + uint64_t(PART) * blockIdx.y;
    address = words[0] | uint64_t(words[1]) << 32;
    start = words[2] | uint64_t(words[3]) << 32;
    width = words[5], count = words[4] * words[5];
    stride = words[6], step = words[7];
  }

  __device__ uint64_t place(uint32_t i) const { return i / width * stride + i % width * step; }
};

template <class T> __device__ void join_body(const FlatParams& p) {
  const Part part(p);
  const T* from = reinterpret_cast<const T*>(part.address);
  float* to = reinterpret_cast<float*>(p.vector) + part.start;
  for (uint32_t i = blockIdx.x * THREADS + threadIdx.x; i < part.count; i += gridDim.x * THREADS)
    to[i] = to_float(from[part.place(i)]);
}

template <class T> __device__ void split_body(const FlatParams& p) {
  const Part part(p);
  const float* from = reinterpret_cast<const float*>(p.vector) + part.start;
  T* to = reinterpret_cast<T*>(part.address);
  for (uint32_t i = blockIdx.x * THREADS + threadIdx.x; i < part.count; i += gridDim.x * THREADS)
    to[part.place(i)] = from_float<T>(from[i]);
}

}  // namespace flat

KERNELS(join, flat::THREADS, flat::FlatParams, flat::join_body)
KERNELS(split, flat::THREADS, flat::FlatParams, flat::split_body)
