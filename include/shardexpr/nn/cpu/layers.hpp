// SPDX-License-Identifier: Apache-2.0
#pragma once

// Every layer on the CPU. They use a BLAS or Eigen, which nvcc must not see: a translation unit of
// CUDA has the layers of its own device instead.
#if !defined(__CUDACC__)
#include <shardexpr/nn/cpu/attention.hpp>
#include <shardexpr/nn/cpu/blas.hpp>
#include <shardexpr/nn/cpu/cross_entropy.hpp>
#include <shardexpr/nn/cpu/embedding.hpp>
#include <shardexpr/nn/cpu/gelu.hpp>
#include <shardexpr/nn/cpu/layer_norm.hpp>
#include <shardexpr/nn/cpu/linear.hpp>
#include <shardexpr/nn/cpu/product.hpp>
#include <shardexpr/nn/cpu/rows.hpp>
#endif
