// SPDX-License-Identifier: Apache-2.0
// Buffers: what units keep that is not trained. Whole on every rank, each rank's own, in a dtype of
// their own.
#include <shardexpr/engine/sync_from_rank0.hpp>

#include <cstddef>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "../support/check_plan.hpp"
#include "../support/drift_toy.hpp"
#include "../support/train.hpp"
#include <doctest/doctest.h>

namespace {

using drift_toy::Drift;
using Drifting = drift_toy::Model;
using In16 = sx::Precision<sx::fp32, sx::fp32, sx::fp32, sx::fp32, sx::bf16>;

struct Seen {
  Outcome outcome;
  std::vector<std::map<std::string, std::vector<float>>> buffers;  // by rank
};
template <class... Ps>
Seen run(std::size_t world) {
  using Trainer = sx::Sharded<Drifting, Ps...>;
  Seen seen;
  seen.buffers.resize(world);
  seen.outcome = train_toy<Trainer>(world, 6, {}, [&](auto& comm, auto& device, auto& trainer) {
    check_plan(sx::plan<Trainer>({}, world), device.account(), trainer.traffic(), 6);
    trainer.for_each_buffer([&](const std::string& name, auto values) {
      static_assert(std::is_same_v<decltype(values),
                                   sx::Tensor<typename Trainer::Strategy::precision::buffers>>);
      seen.buffers[comm.rank()][name].assign(values.data, values.data + values.count());
    });
  });
  return seen;
}

TEST_CASE("buffers are whole on every rank under every sharding, and each rank's own") {
  const Seen whole = run<sx::NoShard>(3);
  CHECK(whole.outcome.losses.back() < whole.outcome.losses.front());
  REQUIRE(whole.buffers[0].size() == 6);
  CHECK(whole.buffers[0].begin()->first == "drift.0.mean");
  CHECK(whole.buffers[0].at("drift.2.scale").size() == 7);
  CHECK(whole.buffers[0].at("drift.1.scale") == whole.buffers[1].at("drift.1.scale"));
  CHECK(whole.buffers[0].at("drift.1.mean") != whole.buffers[1].at("drift.1.mean"));
  CHECK(whole.buffers[0].at("drift.1.mean") != whole.buffers[0].at("drift.0.mean"));
  for (const Seen& other : {run<sx::FullShard>(3), run<sx::ShardOptimizer>(3)}) {
    CHECK(other.outcome == whole.outcome);
    CHECK(other.buffers == whole.buffers);
  }
}

TEST_CASE("a rebuilt forward is told to leave buffers as they are") {
  const Seen plain = run<sx::FullShard>(2), rebuilt = run<sx::FullShard, sx::Recompute<Drift>>(2);
  CHECK(rebuilt.outcome == plain.outcome);
  CHECK(rebuilt.buffers == plain.buffers);
}

TEST_CASE("buffers have a dtype of their own, on every rank in full") {
  const Seen full = run<sx::FullShard>(2), half = run<sx::FullShard, In16>(2);
  for (const auto& [name, values] : full.buffers[0])
    if (name.ends_with("scale"))
      for (std::size_t i = 0; i < values.size(); ++i)
        CHECK(half.buffers[0].at(name)[i] == static_cast<float>(sx::bf16{values[i]}));
  CHECK(half.outcome.weights != full.outcome.weights);
  // Two buffers of 7 elements, a block each, in each of three units.
  const auto kept = []<class... Ps>(sx::detail::list<Ps...>, std::size_t world) {
    return sx::plan<sx::Sharded<Drifting, Ps...>>({}, world).parameters_bytes;
  };
  using sx::detail::list;
  CHECK(kept(list<sx::NoShard>{}, 2) - kept(list<sx::NoShard, In16>{}, 2) == 3 * 2 * 64 * 2);
  CHECK(kept(list<sx::FullShard>{}, 4) - kept(list<sx::FullShard, In16>{}, 4) == 3 * 2 * 64 * 2);
}

TEST_CASE("what is written into a unit's buffers is what its forward reads") {
  sx::launch(2, [](sx::Threads& comm) {
    sx::Cpu device;
    sx::Sharded<Drifting> trainer{device, comm, toy::Config{}};
    std::vector<float> x(20);
    toy::fill(x, 0, comm.rank());
    const double before = trainer.evaluate({x.data()});
    const auto buffers = trainer.template buffers<Drift>(1);
    for (std::size_t c = 0; c < buffers.scale.count(); ++c) buffers.scale[c] = 0;
    CHECK(trainer.evaluate({x.data()}) != before);
    CHECK_THROWS_AS(trainer.template buffers<Drift>(3), sx::ConfigError);
  });
}

template <class Trainer>
void check_sync(std::size_t world) {
  std::vector<std::vector<float>> all(world);
  const auto collect = [&](std::size_t rank, auto& trainer) {
    all[rank].clear();
    trainer.summon([&](const std::string&, auto value) {
      all[rank].insert(all[rank].end(), value.data, value.data + value.count());
    });
    trainer.for_each_buffer([&](const std::string&, auto value) {
      all[rank].insert(all[rank].end(), value.data, value.data + value.count());
    });
  };
  std::vector<float> first;
  sx::launch(world, [&](sx::Threads& comm) {
    sx::Cpu device;
    typename Trainer::Options options;
    options.seed = 1 + comm.rank();
    Trainer trainer{device, comm, toy::Config{}, options};
    collect(comm.rank(), trainer);
    if (comm.rank() == 0) first = all[0];
    comm.barrier(trainer.context());
    CHECK((comm.rank() == 0 || all[comm.rank()] != first));
    comm.barrier(trainer.context());
    sx::sync_from_rank0(trainer);
    collect(comm.rank(), trainer);
    CHECK(all[comm.rank()] == first);
    std::vector<float> x(20);
    toy::fill(x, 0, comm.rank());
    (void)trainer.step({x.data()});
  });
}

TEST_CASE("ranks that differ become equal to rank 0, parameters and buffers") {
  check_sync<sx::Sharded<Drifting, sx::NoShard>>(3);
  check_sync<sx::Sharded<Drifting, sx::NoShard,
                         sx::Precision<sx::fp32, sx::bf16, sx::fp32, sx::fp32, sx::fp32>>>(2);
}

}  // namespace
