// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The version of the library; before 1.0.0 a minor one may break source code.
#define SHARDEXPR_VERSION_MAJOR 0
/// See SHARDEXPR_VERSION_MAJOR.
#define SHARDEXPR_VERSION_MINOR 1
/// See SHARDEXPR_VERSION_MAJOR.
#define SHARDEXPR_VERSION_PATCH 0

/// Element-wise functors carry this mark, so that one body runs in a CPU loop and in a kernel.
#if defined(__CUDACC__)
#define SHARDEXPR_HOST_DEVICE __host__ __device__
#else
#define SHARDEXPR_HOST_DEVICE
#endif
