// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>

#include <cstddef>
#include <type_traits>

#include <cuda_runtime.h>

// What C++ has no words for: instructions of sm_80 and later. tests/cuda/emulated has a twin.
//
// A warp multiplies 16 x 16 by 16 x 8. With g = lane / 4 and t = lane % 4, a lane holds, in pairs
// of neighbours in a row (of a and the product) or a column (of b):
//
//   a (4 words)    (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)
//   b (2 words)    (2t, g), (2t + 8, g)
//   c (4 floats)   (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
//
// So a product, rounded, is the a of the next one as it lies. Source: PTX ISA, "mma.m16n8k16".

namespace shardexpr::nn::detail {

/// The bytes that a launch gives each block beyond what its kernel declares, aligned to 128.
__device__ inline unsigned char* dynamic_shared_memory() {
  extern __shared__ __align__(128) unsigned char shardexpr_dynamic_shared_memory[];
  return shardexpr_dynamic_shared_memory;
}

__device__ inline unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

/// c += a b, of the whole warp.
template <class T>
__device__ inline void multiply_add_fragment(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                             unsigned b1) {
  if constexpr (std::is_same_v<T, bf16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    static_assert(std::is_same_v<T, fp16>);
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

/// Four 8 x 8 matrices of shared memory: lane 8 i + j names the row j of matrix i, 16 aligned
/// bytes, and gets of each matrix the pair (g, 2t), (g, 2t + 1).
__device__ inline void load_matrices(unsigned (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}
/// The same of their transposes: the pair (2t, g), (2t + 1, g).
__device__ inline void load_matrices_transposed(unsigned (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

/// Begins to copy 16 aligned bytes into shared memory; or zeros, reading nothing, if not `exists`.
__device__ inline void copy_async(void* shared, const void* global, bool exists) {
  asm volatile(
      "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
      "l"(global), "r"(exists ? 16 : 0)
      : "memory");
}
/// The same of one aligned word.
__device__ inline void copy_word_async(void* shared, const void* global, bool exists) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(exists ? 4 : 0)
               : "memory");
}
/// Ends a group of this thread's copies.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits for this thread's groups but the last `pending`.
template <int pending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/// The same number, of which the compiler knows nothing: what is computed from it takes constants
/// as offsets of one address, where it would else keep an address for each.
__device__ inline unsigned opaque(unsigned x) {
  asm volatile("mov.b32 %0, %0;" : "+r"(x));
  return x;
}

}  // namespace shardexpr::nn::detail
