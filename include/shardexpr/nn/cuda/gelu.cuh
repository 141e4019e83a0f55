// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/macros.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/nn/cuda/launch.cuh>
#include <shardexpr/nn/cuda/packs.cuh>
#include <shardexpr/nn/cuda/product.cuh>
#include <shardexpr/nn/layer.hpp>

#include <cmath>

#include <cuda_runtime.h>

namespace shardexpr::nn {

namespace detail {
// GELU's tanh form is x logistic(2 u), 2 u = 2 sqrt(2 / pi) (x + 0.044715 x^3), because
// (1 + tanh u) / 2 is logistic(2 u).
inline constexpr float gelu_twice_root = 1.5957691216057307f, gelu_cubic = 0.044715f;

SHARDEXPR_HOST_DEVICE inline float gelu_logistic(float x) {
  const float twice_u = gelu_twice_root * x * (gelu_cubic * x * x + 1);
#if defined(__CUDA_ARCH__)
  // The GPU's own exponential is off by |2 u| roundings, of a value that is e^-|2 u|. Where it
  // overflows, x is below -10, and the quotient is 0.
  return __fdividef(1.0f, 1.0f + __expf(-twice_u));
#else
  return 1.0f / (1.0f + std::exp(-twice_u));
#endif
}
struct Gelu {
  SHARDEXPR_HOST_DEVICE float operator()(float x) const { return x * gelu_logistic(x); }
};
/// d times the slope of gelu at x.
struct TimesGeluSlope {
  SHARDEXPR_HOST_DEVICE float operator()(float d, float x) const {
    // Beyond 10 the slope is 0 or 1 in fp32, and the factors of its small part would overflow.
    const float at = x > 10 ? 10.0f : x < -10 ? -10.0f : x;
    const float s = gelu_logistic(at);
    const float argument_slope = gelu_twice_root * (3 * gelu_cubic * at * at + 1);
    return d * (s + at * argument_slope * s * (1 - s));
  }
};
struct Times {
  SHARDEXPR_HOST_DEVICE float operator()(float y, float by) const { return y * by; }
};
}  // namespace detail

/// Computes y = gelu(x) in the tanh form that GPT-2 uses ("gelu_new").
///
/// Shapes:  x, y equally many.
/// Source:  Hendrycks & Gimpel, Gaussian Error Linear Units, 2016.
template <KernelDevice D, detail::KernelDtype T>
void gelu_forward(const LayerContext<D>& on, In<T> x, Tensor<T> y) {
  const auto map = detail::map_packs<detail::Gelu>(x.data, y.data, x.count());
  on.for_each(map.packs(map.count), reads(x), writes(y), map);
}

/// Computes y = gelu(x) again, and leaves x as it was: `linear_gelu_backward_input` of a GPU takes
/// the slope from there, in the epilogue of its product. (On a CPU x becomes the slope.)
///
/// Shapes:  x, y equally many.
template <KernelDevice D, detail::KernelDtype T>
void gelu_rebuild(const LayerContext<D>& on, Tensor<T> x, Tensor<T> y) {
  gelu_forward(on, x, y);
}

/// Multiplies element by element: y *= by.
template <KernelDevice D, detail::KernelDtype T>
void multiply_in_place(const LayerContext<D>& on, In<T> by, Tensor<T> y) {
  const T* const y_at = y.data;
  const auto map = detail::map_packs<detail::Times>(y_at, by.data, y.data, y.count());
  on.for_each(map.packs(map.count), reads(by, y), writes(y), map);
}

/// Computes y = gelu(x w + b), and keeps what gelu was given.
///
/// Shapes:  x (..., in), w (in, out), b (out,); before, y (..., out).
/// Order:   one product whose epilogue does the rest, and takes gelu of the sum before it is
///          rounded; where cuBLASLt does not have that (out no multiple of 8, GPUs before Hopper,
///          some dtypes), a product into `before`, and a pass over it.
template <KernelDevice D, detail::KernelDtype T>
void linear_gelu_forward(const LayerContext<D>& on, In<T> x, In<T> w, In<T> b, Tensor<T> before,
                         Tensor<T> y) {
  const auto& workspace = on.scratch.workspace;
  on.enqueue(reads(x, w, b), writes(before, y, workspace), [&](cudaStream_t stream) {
    auto p = detail::product_of<T, T>(detail::cuda_matrix(x), detail::cuda_matrix(w),
                                      detail::cuda_matrix(y), workspace);
    p.bias = b.data;
    if (detail::takes_gelu(p.key.columns)) {
      p.key.epilogue = detail::Epilogue::gelu;
      p.aux = before.data;
      if (detail::enqueue_if_possible(stream, p)) return;
    }
    p.key.epilogue = detail::Epilogue::bias;
    p.aux = nullptr;
    p.out = before.data;
    detail::enqueue_product(stream, p);
    const T* const before_at = before.data;
    detail::enqueue_map(stream, "start gelu",
                        detail::map_packs<detail::Gelu>(before_at, y.data, y.count()));
  });
}

/// Writes the gradient of what gelu was given: dx = (dy w^T) gelu'(x).
///
/// Shapes:  dy (..., out), w (in, out); x, what gelu was given, and dx (..., in). dx is not x.
/// Order:   as `linear_gelu_forward`; where it is two, dx is rounded once more.
template <KernelDevice D, detail::KernelDtype T>
void linear_gelu_backward_input(const LayerContext<D>& on, In<T> dy, In<T> w, In<T> x,
                                Tensor<T> dx) {
  const auto& workspace = on.scratch.workspace;
  on.enqueue(reads(dy, w, x), writes(dx, workspace), [&](cudaStream_t stream) {
    auto p = detail::product_of<T, T>(detail::cuda_matrix(dy), detail::cuda_matrix(w).transposed(),
                                      detail::cuda_matrix(dx), workspace);
    if (detail::takes_gelu(p.key.columns)) {
      p.key.epilogue = detail::Epilogue::gelu_slope;
      p.aux = const_cast<T*>(x.data);  // which it reads
      if (detail::enqueue_if_possible(stream, p)) return;
    }
    p.key.epilogue = detail::Epilogue::none;
    p.aux = nullptr;
    detail::enqueue_product(stream, p);
    const T* const dx_at = dx.data;
    detail::enqueue_map(
        stream, "start gelu's slope",
        detail::map_packs<detail::TimesGeluSlope>(dx_at, x.data, dx.data, dx.count()));
  });
}

}  // namespace shardexpr::nn
