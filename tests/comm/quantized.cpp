// SPDX-License-Identifier: Apache-2.0
// Collectives of codes, over communicators that share memory and that do not: what arrives is what
// was sent, rounded, the same bits everywhere; sums are formed in rank order; bytes are those of
// the blocks.
#include <shardexpr/comm/quantized.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include "../support/unshared.hpp"
#include "conformance.hpp"
#include "worlds.hpp"
#include <doctest/doctest.h>

namespace shardexpr::testing {
namespace {

template <std::size_t world>
struct UnsharedWorld {
  template <class Body>
  static void run(Body body) {
    launch(world, [&](Threads& threads) {
      Unshared comm{std::move(threads)};
      Cpu device;
      Cpu::Stream stream;
      body(comm, Context<Cpu>{device, stream});
    });
  }
};

#define SHARDEXPR_WORLDS                                                                          \
  SoloWorld, ThreadsWorld<1>, ThreadsWorld<2>, ThreadsWorld<3>, ThreadsWorld<4>, ThreadsWorld<5>, \
      DelayedWorld<3>, UnsharedWorld<1>, UnsharedWorld<2>, UnsharedWorld<3>, UnsharedWorld<4>

constexpr std::size_t part = 5 * block_elements;  // of a rank, in elements

/// The values of a rank, of different sizes from block to block.
template <class T>
std::vector<T> values_of(std::size_t rank, std::size_t count, std::size_t round = 0) {
  std::vector<T> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = T(std::ldexp(value<float>(31 + round, rank, i),
                             static_cast<int>(i / block_elements % 7) - 3));
  return values;
}
/// What a block makes of values, by hand.
template <std::size_t bits, class T>
std::vector<float> rounded(std::span<const T> values) {
  std::vector<float> to(values.size());
  for (std::size_t at = 0; at < values.size(); at += block_elements) {
    QuantizedBlock<bits> block;
    quantize<bits>(values.data() + at, block);
    for_each_value(block, [&](std::size_t i, fp32 x) { to[at + i] = x; });
  }
  return to;
}

TEST_CASE_TEMPLATE("gather_quantized: every rank gets the same rounded values", World,
                   SHARDEXPR_WORLDS) {
  const auto check = []<std::size_t bits, class T>(std::type_identity<QuantizedBlock<bits>>,
                                                   std::type_identity<T>) {
    World::run([](auto& comm, const Context<Cpu>& ctx) {
      const std::size_t world = comm.size(), blocks = block_count(part);
      auto codes = comm.template gather_buffer<QuantizedBlock<bits>>(ctx.device, world * blocks);
      auto full = comm.template gather_buffer<T>(ctx.device, world * part);
      std::size_t wrong = 0;
      const Traffic before = comm.traffic();
      for (std::size_t round = 0; round < 20; ++round) {  // the old content is overwritten
        const std::vector<T> mine = values_of<T>(comm.rank(), part, round);
        // From where they are to be, and from elsewhere, as ReshardTo keeps them.
        std::vector<QuantizedBlock<bits>> elsewhere(blocks);
        const std::span<QuantizedBlock<bits>> to =
            round % 2 == 0 ? codes.span().subspan(comm.rank() * blocks, blocks)
                           : std::span{elsewhere};
        quantize(ctx, std::span<const T>{mine}, to);
        gather_quantized(comm, ctx, std::span<const QuantizedBlock<bits>>{to}, codes.span(),
                         full.span());
        for (std::size_t rank = 0; rank < world; ++rank) {
          const std::vector<T> theirs = values_of<T>(rank, part, round);
          const std::vector<float> want = rounded<bits>(std::span{theirs});
          for (std::size_t i = 0; i < part; ++i)
            wrong += static_cast<float>(full.data()[rank * part + i]) !=
                     static_cast<float>(static_cast<T>(want[i]));
        }
        comm.barrier(ctx);  // where all have read, the next round may write
      }
      CHECK(wrong == 0);
      const Traffic sent = comm.traffic() - before;
      CHECK(sent.all_gather_bytes == 20 * (world - 1) * blocks * sizeof(QuantizedBlock<bits>));
      CHECK(sent.total() == sent.all_gather_bytes);
    });
  };
  check(std::type_identity<QuantizedBlock<8>>{}, std::type_identity<fp32>{});
  check(std::type_identity<QuantizedBlock<8>>{}, std::type_identity<bf16>{});
  check(std::type_identity<QuantizedBlock<4>>{}, std::type_identity<fp16>{});
}

TEST_CASE_TEMPLATE("reduce_scatter_quantized: the sum of all ranks' rounded values, in rank order",
                   World, SHARDEXPR_WORLDS) {
  const auto check = []<std::size_t bits, class T>(std::type_identity<QuantizedBlock<bits>>,
                                                   std::type_identity<T>, Reduction reduction) {
    World::run([=](auto& comm, const Context<Cpu>& ctx) {
      const std::size_t world = comm.size(), blocks = world * block_count(part);
      std::vector<QuantizedBlock<bits>> sent(blocks), received(blocks);
      std::vector<T> full = values_of<T>(comm.rank(), world * part);
      const bool in_place = reduction == Reduction::sum;
      std::vector<T> apart(part);
      const std::span<T> to =
          in_place ? std::span{full}.subspan(comm.rank() * part, part) : std::span{apart};
      const Traffic before = comm.traffic();
      reduce_scatter_quantized(comm, ctx, std::span<const T>{full}, to, std::span{sent},
                               std::span{received}, reduction);
      const Traffic bytes = comm.traffic() - before;
      CHECK(bytes.all_to_all_bytes ==
            (world - 1) * block_count(part) * sizeof(QuantizedBlock<bits>));
      CHECK(bytes.total() == bytes.all_to_all_bytes);

      // The bits, and how far from the truth: the ranks' bounds add up, and W + 1 roundings of sum
      // and mean; then one to T.
      std::vector<float> sum(part);
      std::vector<double> truth(part), bound(part);
      for (std::size_t rank = 0; rank < world; ++rank) {
        const std::vector<T> theirs = values_of<T>(rank, world * part);
        const std::span<const T> slice = std::span{theirs}.subspan(comm.rank() * part, part);
        const std::vector<float> rounded_slice = rounded<bits>(slice);
        for (std::size_t i = 0; i < part; ++i) {
          sum[i] = rank == 0 ? rounded_slice[i] : sum[i] + rounded_slice[i];
          truth[i] += static_cast<double>(static_cast<float>(slice[i]));
          double a = 0;
          for (std::size_t k = 0; k < block_elements; ++k)
            a = std::max(a, std::abs(static_cast<double>(static_cast<float>(
                                slice[i / block_elements * block_elements + k]))));
          bound[i] += a / (2 * QuantizedBlock<bits>::most) * (1 + 0x1p-15) +
                      static_cast<double>(world + 1) * a * 0x1p-24;
        }
      }
      const double ranks = reduction == Reduction::mean ? static_cast<double>(world) : 1;
      std::size_t wrong = 0;
      double worst = 0;
      for (std::size_t i = 0; i < part; ++i) {
        const float factor = reduction == Reduction::mean ? 1 / static_cast<float>(world) : 1;
        const auto got = static_cast<float>(to[i]);
        wrong += got != static_cast<float>(static_cast<T>(sum[i] * factor));
        const double last_rounding = sizeof(T) == 2 ? std::abs(got) * 0x1p-8 : 0;
        worst = std::max(worst, std::abs(static_cast<double>(got) - truth[i] / ranks) /
                                    (bound[i] / ranks + last_rounding));
      }
      CHECK(wrong == 0);
      CHECK(worst <= 1);
    });
  };
  check(std::type_identity<QuantizedBlock<4>>{}, std::type_identity<fp32>{}, Reduction::mean);
  check(std::type_identity<QuantizedBlock<4>>{}, std::type_identity<fp32>{}, Reduction::sum);
  check(std::type_identity<QuantizedBlock<4>>{}, std::type_identity<bf16>{}, Reduction::mean);
  check(std::type_identity<QuantizedBlock<8>>{}, std::type_identity<fp32>{}, Reduction::mean);
}

TEST_CASE_TEMPLATE("one rank's NaN or infinity is seen by who keeps the element, and only there",
                   World, ThreadsWorld<3>, UnsharedWorld<3>) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    World::run([=](auto& comm, const Context<Cpu>& ctx) {
      constexpr std::size_t world = 3, blocks = world * block_count(part);
      std::vector<QuantizedBlock<4>> sent(blocks), received(blocks);
      std::vector<float> full = values_of<float>(comm.rank(), world * part), shard(part);
      if (comm.rank() == 2) full[part + 2 * block_elements + 9] = bad;  // for rank 1, its block 2
      reduce_scatter_quantized(comm, ctx, std::span<const float>{full}, std::span{shard},
                               std::span{sent}, std::span{received}, Reduction::mean);
      for (std::size_t i = 0; i < part; ++i)
        if (std::isfinite(shard[i]) == (comm.rank() == 1 && i / block_elements == 2))
          FAIL_CHECK("element " << i << " of rank " << comm.rank() << " is " << shard[i]);
    });
}

}  // namespace
}  // namespace shardexpr::testing
