// SPDX-License-Identifier: Apache-2.0
// What only oneDNN has: that it computes at all, its thread, its store of primitives. Its results
// are in product.cpp.
#include <shardexpr/nn/cpu/product.hpp>

#include <cstddef>
#include <vector>

#include <doctest/doctest.h>

#if defined(SHARDEXPR_ONEDNN)
namespace {

namespace sx = shardexpr;
namespace nn = shardexpr::nn::detail;

/// ones (m, k) times ones (k, n), in rows that lie `stride` apart.
struct Ones {
  std::size_t m, n, k;
  std::size_t stride = k;
  std::vector<sx::bf16> a = std::vector<sx::bf16>(m * stride, sx::bf16{1.0f});
  std::vector<sx::bf16> b = std::vector<sx::bf16>(k * n, sx::bf16{1.0f});
  std::vector<float> c = std::vector<float>(m * n);

  bool multiply() {
    return nn::OnednnProducts::of_this_thread().multiply(
        nn::Product<sx::bf16, float>{.a = {a.data(), stride, false},
                                     .b = {b.data(), n, false},
                                     .c = c.data(),
                                     .c_stride = n,
                                     .m = m,
                                     .n = n,
                                     .k = k});
  }
};

bool multiplies_bf16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

TEST_CASE("oneDNN computes where the processor multiplies bf16, and only there") {
  Ones ones{3, 5, 7};
  const bool has_bf16 = multiplies_bf16();
  if (!has_bf16) MESSAGE("this processor has no AVX-512 BF16: products go to tiles of fp32");
  CHECK(ones.multiply() == has_bf16);
  for (float x : ones.c) CHECK(x == (has_bf16 ? 7 : 0));
  Ones nothing{3, 5, 0};
  CHECK_FALSE(nothing.multiply());
}

TEST_CASE("large products of fp32 are oneDNN's where the processor has AVX-512") {
#if defined(__x86_64__)
  const bool has_avx512 = __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
  const bool has_avx512 = false;
#endif
  const std::vector<float> ones(192 * 192, 1);
  std::vector<float> c(192 * 192);
  const auto is_large = [&](std::size_t m, std::size_t n, std::size_t k) {
    return nn::multiply_large<nn::Into::set>(nn::Rows<const float>{ones.data(), m, k, k},
                                             nn::Rows<const float>{ones.data(), k, n, n},
                                             nn::Rows<float>{c.data(), m, n, n});
  };
  CHECK_FALSE(is_large(191, 192, 192));
  CHECK_FALSE(is_large(192, 191, 192));
  CHECK_FALSE(is_large(192, 192, 191));
  for (float x : c) REQUIRE(x == 0);
  CHECK(is_large(192, 192, 192) == has_avx512);
  for (float x : c) REQUIRE(x == (has_avx512 ? 192 : 0));
}

#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
TEST_CASE("oneDNN leaves the caller's OpenMP as it was") {
  const int before = shardexpr_omp_get_max_threads();
  shardexpr_omp_set_num_threads(before + 2);
  {
    const nn::OneOpenMpThread one;
    CHECK(shardexpr_omp_get_max_threads() == 1);
  }
  Ones{64, 64, 64}.multiply();
  CHECK(shardexpr_omp_get_max_threads() == before + 2);
  shardexpr_omp_set_num_threads(before);
}
#endif

TEST_CASE("more products than a thread keeps") {
  if (!multiplies_bf16()) return;
  for (std::size_t stride = 3; stride < 1100; ++stride) {
    Ones ones{2, 2, 3, stride};
    REQUIRE(ones.multiply());
    CHECK(ones.c[3] == 3);
  }
}

}  // namespace
#endif
