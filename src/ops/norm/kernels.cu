// Residual sum and LayerNorm, with the gradients of the rows and of the norm's parameters. Sums are those of one row in a fixed order,
// so a row's result does not depend on the other rows.
#include "../rows.cuh"

namespace {

struct NormParams {
  uint64_t h;       // [rows, width], rows `h_stride` apart
  uint64_t r;       // the residual, rows `r_stride` apart, or 0 if there is none
  uint64_t weight;  // [width], f32
  uint64_t bias;    // [width], f32
  uint64_t dy;      // the gradient of the result, rows `dy_stride` apart, in backward passes
  uint64_t y;       // [rows, width]: the norm, or the gradient of h and r; for the parameters' gradient [chunks, 2, width], f32
  uint64_t stats;   // [rows, 2]: mean and 1 / sqrt(var + eps), f32; the backward pass writes it unless it is 0
  uint64_t h_stride;
  uint64_t r_stride;
  uint64_t dy_stride;
  uint32_t rows;
  uint32_t width;
  float eps;
  uint32_t fast;    // whether all rows may be read in units of eight elements
};

constexpr uint32_t NORM_WARPS = ROWS_THREADS / 32;
// Rows in a chunk of the parameters' gradient, `CHUNK` in cuda.rs.
constexpr uint32_t NORM_CHUNK = 64;

// The part of a row that a thread of its group reads: of every `SPAN` elements eight. A group of WARPS warps handles a row. If STEPS > 0,
// the thread keeps its part in registers, and rows are at most STEPS * SPAN wide; else it reads the row again whenever it needs it.
template <class T, uint32_t WARPS, uint32_t STEPS, bool FAST> struct NormPart {
  static constexpr uint32_t SPAN = 32 * WARPS * 8;
  const NormParams& p;
  uint32_t row, first;
  float held[STEPS > 0 ? STEPS : 1][8];

  __device__ explicit NormPart(const NormParams& p)
      : p(p), row(blockIdx.x * (NORM_WARPS / WARPS) + threadIdx.x / (32 * WARPS)), first(threadIdx.x % (32 * WARPS) * 8) {}

  __device__ uint32_t column(uint32_t step) const { return first + step * SPAN; }
  __device__ uint32_t count(uint32_t step) const { return min(8u, p.width - column(step)); }
  __device__ uint32_t steps() const { return STEPS > 0 ? STEPS : (p.width + SPAN - 1) / SPAN; }

  __device__ void read(uint32_t step, float (&x)[8]) const {
    load_some<FAST>(reinterpret_cast<const T*>(p.h) + row * p.h_stride + column(step), count(step), x);
  }

  __device__ void add_residual(uint32_t step, float (&x)[8]) const {
    float r[8];
    load_some<FAST>(reinterpret_cast<const T*>(p.r) + row * p.r_stride + column(step), count(step), r);
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) x[i] += r[i];
  }

  __device__ void read_dy(uint32_t step, float (&dy)[8]) const {
    load_some<FAST>(reinterpret_cast<const T*>(p.dy) + row * p.dy_stride + column(step), count(step), dy);
  }

  // Calls `run(step, x)` for each step whose columns lie inside the row, where x holds eight elements of h + r.
  template <class Run> __device__ void each(Run run) {
#pragma unroll
    for (uint32_t step = 0; step < steps(); step++) {
      if (column(step) < p.width) {
        if constexpr (STEPS > 0) {
          run(step, held[step]);
        } else {
          float x[8];
          read(step, x);
          if (p.r != 0) add_residual(step, x);
          run(step, x);
        }
      }
    }
  }

  // Reads the row, if it is kept. The loads do not wait for each other.
  __device__ void load() {
    if constexpr (STEPS > 0) {
#pragma unroll
      for (uint32_t step = 0; step < STEPS; step++)
        if (column(step) < p.width) read(step, held[step]);
      if (p.r == 0) return;
#pragma unroll
      for (uint32_t step = 0; step < STEPS; step++)
        if (column(step) < p.width) add_residual(step, held[step]);
    }
  }
};

// The sum over the threads of a row. Each call of a kernel has a scratch of its own.
template <uint32_t WARPS> __device__ inline float norm_sum(float x, float* scratch, uint32_t call) {
  if constexpr (WARPS == 1) return warp_sum(x);
  else return block_sum(x, scratch + call * NORM_WARPS);
}

struct NormMoments { float mean, scale; };

template <class Part, uint32_t WARPS> __device__ inline NormMoments norm_moments(const NormParams& p, Part& part, float* scratch) {
  float sum = 0.f;
  part.each([&](uint32_t, const float (&x)[8]) {
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) sum += x[i];
  });
  const float mean = norm_sum<WARPS>(sum, scratch, 0) / p.width;
  float squares = 0.f;
  part.each([&](uint32_t step, const float (&x)[8]) {
    const uint32_t count = part.count(step);
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
      const float from_mean = i < count ? x[i] - mean : 0.f;
      squares += from_mean * from_mean;
    }
  });
  return {mean, 1.f / sqrtf(norm_sum<WARPS>(squares, scratch, 1) / p.width + p.eps)};
}

template <class T, uint32_t WARPS, uint32_t STEPS, bool FAST> __device__ void norm_row(const NormParams& p) {
  SHARED_MEMORY(shared);
  NormPart<T, WARPS, STEPS, FAST> part(p);
  if (part.row >= p.rows) return;
  part.load();
  const NormMoments m = norm_moments<decltype(part), WARPS>(p, part, reinterpret_cast<float*>(shared));
  T* y = reinterpret_cast<T*>(p.y) + uint64_t(part.row) * p.width;
  part.each([&](uint32_t step, const float (&x)[8]) {
    const uint32_t column = part.column(step), count = part.count(step);
    float weight[8], bias[8], out[8];
    load_some<FAST>(reinterpret_cast<const float*>(p.weight) + column, count, weight);
    load_some<FAST>(reinterpret_cast<const float*>(p.bias) + column, count, bias);
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) out[i] = (x[i] - m.mean) * m.scale * weight[i] + bias[i];
    store_some<FAST>(y + column, count, out);
  });
}

// With n = (x - mean) * scale and g = dy * weight: dx = scale * (g - mean(g) - n * mean(g * n)).
template <class T, uint32_t WARPS, uint32_t STEPS, bool FAST> __device__ void norm_row_backward(const NormParams& p) {
  SHARED_MEMORY(shared);
  float* scratch = reinterpret_cast<float*>(shared);
  NormPart<T, WARPS, STEPS, FAST> part(p);
  if (part.row >= p.rows) return;
  part.load();
  const NormMoments m = norm_moments<decltype(part), WARPS>(p, part, scratch);
  const auto weighted = [&](uint32_t step, float (&g)[8]) {
    float weight[8];
    part.read_dy(step, g);
    load_some<FAST>(reinterpret_cast<const float*>(p.weight) + part.column(step), part.count(step), weight);
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) g[i] *= weight[i];
  };
  float sum = 0.f, product = 0.f;
  part.each([&](uint32_t step, const float (&x)[8]) {
    float g[8];
    weighted(step, g);
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
      sum += g[i];
      product += g[i] * ((x[i] - m.mean) * m.scale);
    }
  });
  const float mean_g = norm_sum<WARPS>(sum, scratch, 2) / p.width;
  const float mean_gn = norm_sum<WARPS>(product, scratch, 3) / p.width;
  T* dx = reinterpret_cast<T*>(p.y) + uint64_t(part.row) * p.width;
  part.each([&](uint32_t step, const float (&x)[8]) {
    float g[8];
    weighted(step, g);
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) g[i] = m.scale * (g[i] - mean_g - (x[i] - m.mean) * m.scale * mean_gn);
    store_some<FAST>(dx + part.column(step), part.count(step), g);
  });
  if (p.stats != 0 && part.first == 0) {
    float* stats = reinterpret_cast<float*>(p.stats) + 2 * uint64_t(part.row);
    stats[0] = m.mean, stats[1] = m.scale;
  }
}

// Rows up to 1024 wide: a warp for each.
template <class T> __device__ void norm_body(const NormParams& p) {
  p.fast ? norm_row<T, 1, 4, true>(p) : norm_row<T, 1, 4, false>(p);
}
template <class T> __device__ void norm_backward_body(const NormParams& p) {
  p.fast ? norm_row_backward<T, 1, 4, true>(p) : norm_row_backward<T, 1, 4, false>(p);
}
// Rows up to 4096 wide: a block for each.
template <class T> __device__ void norm_wide_body(const NormParams& p) {
  p.fast ? norm_row<T, NORM_WARPS, 2, true>(p) : norm_row<T, NORM_WARPS, 2, false>(p);
}
template <class T> __device__ void norm_wide_backward_body(const NormParams& p) {
  p.fast ? norm_row_backward<T, NORM_WARPS, 2, true>(p) : norm_row_backward<T, NORM_WARPS, 2, false>(p);
}
// Wider rows, which the block reads again for each sum.
template <class T> __device__ void norm_widest_body(const NormParams& p) {
  p.fast ? norm_row<T, NORM_WARPS, 0, true>(p) : norm_row<T, NORM_WARPS, 0, false>(p);
}
template <class T> __device__ void norm_widest_backward_body(const NormParams& p) {
  p.fast ? norm_row_backward<T, NORM_WARPS, 0, true>(p) : norm_row_backward<T, NORM_WARPS, 0, false>(p);
}

// For each chunk of rows, the sums of dy * n and of dy: the gradients of weight and bias. A thread has a column.
template <class T> __device__ void norm_parameters_body(const NormParams& p) {
  const uint32_t column = blockIdx.y * ROWS_THREADS + threadIdx.x;
  if (column >= p.width) return;
  const float* stats = reinterpret_cast<const float*>(p.stats);
  const uint32_t end = min(p.rows, (blockIdx.x + 1) * NORM_CHUNK);
  float weight = 0.f, bias = 0.f;
  for (uint32_t row = blockIdx.x * NORM_CHUNK; row < end; row++) {
    float x = to_float(reinterpret_cast<const T*>(p.h)[row * p.h_stride + column]);
    if (p.r != 0) x += to_float(reinterpret_cast<const T*>(p.r)[row * p.r_stride + column]);
    const float dy = to_float(reinterpret_cast<const T*>(p.dy)[row * p.dy_stride + column]);
    weight += dy * (x - stats[2 * uint64_t(row)]) * stats[2 * uint64_t(row) + 1];
    bias += dy;
  }
  float* sums = reinterpret_cast<float*>(p.y) + uint64_t(blockIdx.x) * 2 * p.width;
  sums[column] = weight;
  sums[p.width + column] = bias;
}

}  // namespace

KERNELS(norm, ROWS_THREADS, NormParams, norm_body)
KERNELS(norm_wide, ROWS_THREADS, NormParams, norm_wide_body)
KERNELS(norm_widest, ROWS_THREADS, NormParams, norm_widest_body)
KERNELS(norm_backward, ROWS_THREADS, NormParams, norm_backward_body)
KERNELS(norm_wide_backward, ROWS_THREADS, NormParams, norm_wide_backward_body)
KERNELS(norm_widest_backward, ROWS_THREADS, NormParams, norm_widest_backward_body)
KERNELS(norm_parameters, ROWS_THREADS, NormParams, norm_parameters_body)
