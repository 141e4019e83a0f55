// SPDX-License-Identifier: Apache-2.0
#pragma once
// The library on GPUs: the umbrella, the device Cuda, and the layers of Gpt on it. Needs CUDA 12
// and cuBLASLt; ranks that are processes are joined by comm/nccl.cuh beside it.

#include <shardexpr/device/cuda.cuh>
#include <shardexpr/nn/cuda/layers.cuh>
#include <shardexpr/shardexpr.hpp>
