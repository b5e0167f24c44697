// The exact GELU of one element, as all kernels compute it.
#pragma once

#include "kernel.cuh"

// The probability that a normal variable exceeds |x|, to about 1e-6: Abramowitz and Stegun, 7.1.28. The polynomial's coefficients contain
// the factor 1 / sqrt 2 of x, and the factor 1 / 2 of the result. It takes half as many instructions as erff.
// Every kernel gives the same bits, because no product and sum is left to be fused.
__device__ inline float normal_tail(float x) {
  const float z = fabsf(x);
  float p = 5.62129966e-06f;
  p = fmaf(p, z, 5.1055209e-05f);
  p = fmaf(p, z, 3.9686137e-05f);
  p = fmaf(p, z, 0.00342273924f);
  p = fmaf(p, z, 0.0220769985f);
  p = fmaf(p, z, 0.052075163f);
  p = fmaf(p, z, 1.04427378f);
  float r = reciprocal(p);
  r *= r;
  r *= r;
  r *= r;
  return r * r;
}

// x times the probability that a normal variable is below x. Infinity and NaN propagate as in the formula.
__device__ inline float gelu(float x) { return fmaf(fabsf(x), 0.5f - normal_tail(x), 0.5f * x); }

// The derivative: the normal distribution plus x times its density. The gradients of training are worth erff.
__device__ inline float gelu_slope(float x) {
  return 0.5f * (1.f + erff(x * 0.70710678f)) + x * 0.39894228f * __expf(-0.5f * x * x);
}
