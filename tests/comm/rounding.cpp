// SPDX-License-Identifier: Apache-2.0
// How far a reduction of 16-bit values may be from the truth: sums are formed in fp32 and rounded
// to the dtype once. What conformance compares bits with is compared here with double arithmetic.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/device/cpu.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "conformance.hpp"
#include "watchdog.hpp"
#include <doctest/doctest.h>

namespace shardexpr::testing {
namespace {

/// Half the distance of the values of `T` about `x`: what one rounding may add.
template <class T>
double half_place(double x) {
  constexpr bool is_bf16 = std::is_same_v<T, bf16>;
  constexpr int digits = is_bf16 ? 8 : 11, smallest_exponent = is_bf16 ? -126 : -14;
  const int exponent = x == 0 ? smallest_exponent : std::max(std::ilogb(x), smallest_exponent);
  return std::ldexp(1.0, exponent - digits);
}

/// The truth of one element, and how far from it the result may be.
///
/// In fp32, with u = 2^-24: W - 1 additions err by (W - 1) u of the sum of absolute values at most;
/// a mean is a product with 1/W, both rounded, 2 u more. n roundings together are n u / (1 - n u).
struct Truth {
  double value, error_in_fp32;

  template <class T>
  double bound() const {
    return half_place<T>(std::abs(value) + error_in_fp32) + error_in_fp32;
  }
};

template <class T>
Truth truth(std::size_t world, std::size_t i, double factor, Reduction reduction) {
  double sum = 0, absolute = 0;
  for (std::size_t rank = 0; rank < world; ++rank) {
    const double x = static_cast<float>(T(factor * value<float>(22, rank, i)));
    sum += x;
    absolute += std::abs(x);
  }
  const auto ranks = static_cast<double>(world);
  const bool is_mean = reduction == Reduction::mean;
  const double nu = (ranks - 1 + (is_mean ? 2 : 0)) * 0x1p-24;
  const double scale = is_mean ? 1 / ranks : 1;
  return {sum * scale, nu / (1 - nu) * absolute * scale};
}

/// The largest error of what `reduce(comm, ctx, inputs)` returns, in parts of what is allowed.
template <class T, class Reduce>
double worst(std::size_t world, double factor, Reduction reduction, Reduce reduce) {
  constexpr std::size_t n = 3 * 1024 + 5;  // of a rank; sums are formed in blocks of 1024
  std::vector<double> worst(world);
  launch(world, [&](Threads& comm) {
    Cpu device;
    Cpu::Stream stream;
    std::vector<T> inputs(world * n);
    for (std::size_t i = 0; i < inputs.size(); ++i)
      inputs[i] = T(factor * value<float>(22, comm.rank(), i));
    const std::span<T> result = reduce(comm, Context<Cpu>{device, stream}, inputs);
    const std::size_t first = result.size() == n ? comm.rank() * n : 0;
    for (std::size_t i = 0; i < result.size(); ++i) {
      const Truth expected = truth<T>(world, first + i, factor, reduction);
      const double error = std::abs(static_cast<double>(result[i]) - expected.value);
      worst[comm.rank()] = std::max(worst[comm.rank()], error / expected.template bound<T>());
    }
  });
  return *std::max_element(worst.begin(), worst.end());
}

}  // namespace

TEST_CASE_TEMPLATE("a reduction of 16 bits errs by its roundings in fp32 and one of the dtype", T,
                   bf16, fp16) {
  Watchdog watchdog{"rounding"};
  for (const std::size_t world : {2u, 3u, 4u, 7u})
    for (const double factor : {1.0, 0x1p-24})  // the second: subnormal in fp16
      for (const Reduction reduction : reductions) {
        CAPTURE(world);
        CAPTURE(factor);
        CAPTURE(static_cast<int>(reduction));
        const double scattered = worst<T>(
            world, factor, reduction, [&](Threads& comm, const Context<Cpu>& ctx, auto& x) {
              const std::size_t n = x.size() / world;
              const auto shard = std::span{x}.subspan(comm.rank() * n, n);
              comm.reduce_scatter(ctx, std::span<const T>{x}, shard, reduction);
              return shard;
            });
        const double all = worst<T>(world, factor, reduction,
                                    [&](Threads& comm, const Context<Cpu>& ctx, auto& x) {
                                      comm.all_reduce(ctx, std::span{x}, reduction);
                                      return std::span{x};
                                    });
        CHECK(scattered <= 1);
        CHECK(all <= 1);
        if (factor == 1.0) {  // the bound is no larger than it must be
          CHECK(scattered > 0.99);
          CHECK(all > 0.99);
        }
      }
}

}  // namespace shardexpr::testing
