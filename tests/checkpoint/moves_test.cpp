// SPDX-License-Identifier: Apache-2.0
// What one strategy saved, at one world size, goes on under any other, at any.
#include <shardexpr/checkpoint/consolidate.hpp>
#include <shardexpr/checkpoint/safetensors_set.hpp>
#include <shardexpr/checkpoint/verify.hpp>

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "../support/apart.hpp"
#include "runs.hpp"
#include <doctest/doctest.h>

namespace {

using runs::Run;
using runs::strategy;
using runs::Strategy;
using sx::FullShard;
using sx::NoShard;
using sx::Offload;
using sx::OffloadAll;
using sx::OnDevice;
using sx::OnHost;
using sx::OnNvme;
using sx::ShardGradOp;
using sx::ShardOptimizer;

template <class... Ps>
using Toy = sx::Sharded<toy::Autoencoder, Ps...>;
template <class... Ps>
using Frozen = sx::Sharded<frozen_toy::Model, Ps...>;
using Mixed = sx::MixedPrecision<sx::bf16, sx::fp32>;

/// Each of `from` at each of its worlds; loaded by each of `to` at the same, and by one of them,
/// each in its turn, at every other.
void check_moves(const std::vector<Strategy>& from, const std::vector<Strategy>& to,
                 const std::vector<std::size_t>& worlds) {
  std::size_t turn = 0;
  for (const Strategy& saver : from)
    for (const std::size_t world : worlds) {
      if (!saver.runs_on(world)) continue;
      CAPTURE(saver.name);
      CAPTURE(world);
      const Scratch scratch{Scratch::in_memory()};
      const Run saved = saver.save(world, scratch.path());
      REQUIRE(runs::is_whole(saved.kept));
      sx::verify_checkpoint(scratch.path());
      const auto check = [&](const Strategy& loader, std::size_t other) {
        CAPTURE(loader.name);
        CAPTURE(other);
        const bool goes_on = other == world && loader.sums == saver.sums;
        const Run loaded = loader.load(other, scratch.path(), goes_on);
        CHECK(loaded.kept == saved.kept);
        CHECK(loaded.weights == saved.weights);
        CHECK(loaded.restored.step == runs::saved_at);
        CHECK(loaded.restored.world == world);
        CHECK(loaded.restored.cursor == "page 7");
        if (!goes_on) return;
        CHECK(loaded.losses == saved.losses);
        CHECK(loaded.last == saved.last);
      };
      for (const std::size_t other : worlds) {
        if (other == world) {
          for (const Strategy& loader : to)
            if (loader.runs_on(other)) check(loader, other);
          continue;
        }
        while (!to[turn % to.size()].runs_on(other)) ++turn;
        check(to[turn++ % to.size()], other);
      }
    }
}

TEST_CASE("a checkpoint moves between strategies and world sizes, to the bit") {
  const std::vector<Strategy> all{
      strategy<Toy<FullShard>>("full"),
      strategy<Toy<NoShard>>("none"),
      strategy<Toy<ShardGradOp>>("grad op"),
      strategy<Toy<ShardOptimizer>>("optimizer"),
      strategy<Toy<FullShard, OffloadAll>>("offload all"),
      strategy<Toy<FullShard, Offload<OnDevice, OnNvme>>>("optimizer on disk"),
      strategy<Toy<FullShard, Offload<OnNvme, OnNvme>>>("all on disk"),
      strategy<Toy<FullShard, Offload<OnHost, OnDevice>>>("parameters on host"),
      strategy<Toy<ShardGradOp, Offload<OnDevice, sx::Partly<1, 3>>>>("partly"),
      strategy<Toy<FullShard, sx::PersistBelow<10>, sx::WrapWhole>>("wrapped"),
      strategy<Toy<sx::HybridShard<2>>>("hybrid", 1, 4, 2)};
  const std::vector<Strategy> some{all[0], all[1], all[6], all[8], all[10]};
  check_moves(some, all, {1, 2, 3, 4, 5});
}
TEST_CASE("a full checkpoint, and one in other parts, are what was saved; a full one is a model") {
  const Strategy full = strategy<Toy<FullShard>>("full"), none = strategy<Toy<NoShard>>("none"),
                 mixed = strategy<Toy<FullShard, Mixed>>("mixed");
  for (const Strategy& saver : {full, mixed}) {
    CAPTURE(saver.name);
    const Scratch scratch{Scratch::in_memory()}, rewritten{Scratch::in_memory()},
        again{Scratch::in_memory()}, narrow{Scratch::in_memory()};
    const Run saved = saver.save(3, scratch.path());
    const auto check = [&](const std::string& directory) {
      sx::verify_checkpoint(directory);
      const Run loaded = saver.load(3, directory, true);
      CHECK(loaded.kept == saved.kept);
      CHECK(loaded.last == saved.last);
      CHECK(loaded.restored.cursor == "page 7");
    };
    sx::rewrite_checkpoint(scratch.path(), rewritten.path(), sx::FullState{});
    check(rewritten.path());
    sx::rewrite_checkpoint(rewritten.path(), again.path(), sx::ShardedState{.parts = 5});
    check(again.path());
    // In 16 bits for others, in several files; what training goes on from lies beside them.
    sx::rewrite_checkpoint(again.path(), narrow.path(),
                           sx::FullState{.dtype = "BF16", .most_file_bytes = 200});
    check(narrow.path());

    const std::string folder = narrow.path() + "/" + sx::detail::step_folder(runs::saved_at);
    const sx::SafetensorsSet set{folder};
    CHECK(set.files().size() > 1);
    std::size_t parameters = 0;
    for (const auto& [key, values] : saved.kept) {
      if (key.second != 0) continue;
      const auto tensor = set.find(key.first);
      REQUIRE(tensor);
      CHECK(tensor->tensor->dtype.name == "BF16");
      std::vector<sx::bf16> read(values.size());
      set.read(*tensor, 0, std::as_writable_bytes(std::span{read}));
      for (std::size_t i = 0; i < values.size(); ++i)
        CHECK(read[i].bits == sx::bf16{values[i]}.bits);
      ++parameters;
    }
    CHECK(set.tensors().size() == parameters);
  }
}
TEST_CASE("a checkpoint of two dtypes moves, and what units compute with follows") {
  const std::vector<Strategy> all{
      strategy<Toy<FullShard, Mixed>>("full"),
      strategy<Toy<NoShard, Mixed>>("none"),
      strategy<Toy<ShardGradOp, Mixed>>("grad op"),
      strategy<Toy<FullShard, Mixed, OffloadAll>>("offload all"),
      strategy<Toy<FullShard, Mixed, Offload<OnHost, OnNvme>>>("host and disk"),
      strategy<Toy<FullShard, Mixed, Offload<OnNvme, OnNvme>>>("all on disk")};
  check_moves({all[0], all[4]}, all, {1, 3});
}
TEST_CASE("frozen parameters move, in whichever dtype") {
  const std::vector<Strategy> all{
      strategy<Frozen<FullShard>>("full"), strategy<Frozen<NoShard>>("none"),
      strategy<Frozen<FullShard, OffloadAll>>("offload all"),
      strategy<Frozen<FullShard, Offload<OnNvme, OnDevice>>>("parameters on disk")};
  check_moves({all[0], all[3]}, all, {1, 2});
}
TEST_CASE("the host keeps off the memory of a device that does not share it") {
  using Away = sx::On<Apart>;
  const std::vector<Strategy> all{strategy<Toy<FullShard, Mixed, Away>>("device"),
                                  strategy<Toy<FullShard, Mixed, OffloadAll, Away>>("offloaded"),
                                  strategy<Toy<NoShard, Mixed>>("shared")};
  check_moves(all, all, {1});
}

}  // namespace
