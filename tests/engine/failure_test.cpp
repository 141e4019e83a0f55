// SPDX-License-Identifier: Apache-2.0
// A rank that throws, at any collective of any strategy, ends every rank with its own error.
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "../support/observed.hpp"
#include "../support/train.hpp"
#include <doctest/doctest.h>

namespace {

template <class Sharding>
using Toy = sx::Sharded<toy::Autoencoder, Sharding, sx::Over<Observed>>;

/// Trains two steps on `world` ranks; `hook(rank, call)` runs before call number `call` of a rank.
template <class Sharding, class Hook>
void train(std::size_t world, sx::Execution execution, Hook hook) {
  sx::launch(world, [&](sx::Threads& threads) {
    const std::size_t rank = threads.rank();
    std::size_t call = 0;
    Observed comm{std::move(threads),
                  [&, rank](const std::string& name) { hook(rank, call++, name); }};
    sx::Cpu device{execution};
    Toy<Sharding> trainer{device, comm, toy::Config{}};
    std::vector<float> x(20);
    for (std::size_t s = 0; s < 2; ++s) {
      toy::fill(x, s, rank);
      (void)trainer.step({x.data()});
    }
  });
}

TEST_CASE_TEMPLATE("a failure at any collective names its rank and cause", Sharding, sx::FullShard,
                   sx::ShardGradOp, sx::ShardOptimizer, sx::NoShard, sx::QuantizedWeights,
                   sx::QuantizedGradients) {
  std::size_t calls = 0;
  train<Sharding>(3, sx::Execution::immediate,
                  [&](std::size_t rank, std::size_t call, const std::string&) {
                    if (rank == 0) calls = call + 1;
                  });
  REQUIRE(calls > 5);
  for (const sx::Execution execution : {sx::Execution::immediate, sx::Execution::asynchronous})
    for (std::size_t bad_call = 0; bad_call < calls; ++bad_call)
      for (std::size_t bad_rank = 0; bad_rank < 3; ++bad_rank) {
        CAPTURE(bad_call);
        CAPTURE(bad_rank);
        std::string where;
        try {
          train<Sharding>(3, execution,
                          [&](std::size_t rank, std::size_t call, const std::string& name) {
                            if (rank == bad_rank && call == bad_call) {
                              where = "planted at " + name;
                              throw std::runtime_error(where);
                            }
                          });
          FAIL("no error");
        } catch (const sx::RankError& error) {
          CHECK(error.rank() == bad_rank);
          CHECK(error.what() == "rank " + std::to_string(bad_rank) + ": " + where);
        }
      }
}

TEST_CASE("a step calls the collectives that its sharding needs, and no others") {
  const auto calls = [](auto sharding) {
    std::vector<std::string> log;
    train<decltype(sharding)>(2, sx::Execution::immediate,
                              [&](std::size_t rank, std::size_t, const std::string& name) {
                                if (rank == 0) log.push_back(name);
                              });
    return log;
  };
  const auto times = [](std::size_t n, const std::string& name) {
    return std::vector<std::string>(n, name);
  };
  const auto join = [](std::initializer_list<std::vector<std::string>> parts) {
    std::vector<std::string> all;
    for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
    return all;
  };
  // Five units; the last stands beside the first (its tie) from forward to backward, where each
  // is gathered while the one after it is computed.
  const auto full = join({times(7, "gather"),
                          {"reduce_scatter", "gather"},  // decoder; mixer 2
                          {"reduce_scatter", "gather"},
                          {"reduce_scatter", "gather"},
                          times(2, "reduce_scatter"),  // mixer 1, encoder
                          {"all_gather"}});            // loss and norm
  CHECK(calls(sx::FullShard{}) == join({{"gather_buffer"}, full, full}));
  const auto scattered = join({times(5, "reduce_scatter"), {"all_gather"}, times(5, "all_gather")});
  CHECK(calls(sx::ShardGradOp{}) == join({scattered, scattered}));
  CHECK(calls(sx::ShardOptimizer{}) == join({scattered, scattered}));
  const auto reduced = join({times(5, "all_reduce"), {"all_gather"}});
  CHECK(calls(sx::NoShard{}) == join({reduced, reduced}));
}

}  // namespace
