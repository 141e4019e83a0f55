// SPDX-License-Identifier: Apache-2.0
// What docs/precision.md shows.
#include <shardexpr/shardexpr.hpp>

#include <type_traits>

#include <doctest/doctest.h>

namespace sx = shardexpr;

TEST_CASE("precisions are what the page's table says") {
  // [precisions]
  using Plain = sx::FullPrecision;                       // fp32 throughout: the default
  using Mixed = sx::MixedPrecision<sx::bf16, sx::fp32>;  // compute, reduce; the others in fp32
  // storage, compute, reduce, optimizer
  using Own = sx::Precision<sx::bf16, sx::bf16, sx::fp32, sx::bf16>;
  // [precisions end]
  CHECK(std::is_same_v<sx::StrategyOf<>::precision, sx::StrategyOf<Plain>::precision>);
  CHECK(std::is_same_v<Mixed::compute, sx::bf16>);
  CHECK(std::is_same_v<Mixed::reduce, sx::fp32>);
  CHECK(std::is_same_v<Mixed::storage, sx::fp32>);
  CHECK(std::is_same_v<Mixed::optimizer, sx::fp32>);
  CHECK(std::is_same_v<Own::storage, sx::bf16>);
  CHECK(std::is_same_v<Own::reduce, sx::fp32>);
  CHECK(std::is_same_v<Own::optimizer, sx::bf16>);
}
