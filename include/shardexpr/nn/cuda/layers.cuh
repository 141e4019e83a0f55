// SPDX-License-Identifier: Apache-2.0
#pragma once

// Every layer on a GPU. They stand beside the CPU's, which a translation unit of nvcc does not see.
#include <shardexpr/nn/cuda/attention.cuh>
#include <shardexpr/nn/cuda/classifier.cuh>
#include <shardexpr/nn/cuda/cross_entropy.cuh>
#include <shardexpr/nn/cuda/embedding.cuh>
#include <shardexpr/nn/cuda/layer_norm.cuh>
#include <shardexpr/nn/cuda/linear.cuh>
