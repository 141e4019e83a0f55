// SPDX-License-Identifier: Apache-2.0
// State on a disk: in models whose flats are many chunks, and outside of plain steps. That every
// legal strategy is right on a small model is in legal/on_nvme.cpp.
#include <shardexpr/plan/places.hpp>
#include <shardexpr/plan/swap_layout.hpp>

#include <cstddef>
#include <vector>

#include "../support/frozen_toy.hpp"
#include "../support/grouped_toy.hpp"
#include "../support/offloaded.hpp"
#include <doctest/doctest.h>

namespace {

// Chunks ------------------------------------------------------------------------------------------

// Flats of 119,000 elements: three chunks and a rest, of one rank of two one and a rest.
constexpr toy::Config large{.inputs = 61, .width = 345, .depth = 2, .rows = 2};

// Of the first flat of blocks.
template <std::size_t Most>
std::vector<std::size_t> chunk_counts() {
  using S = typename Toy<In<OnDevice, sx::OnNvmeBy<Most>>>::Strategy;
  const auto file = file_of<S>(large, 1);
  std::vector<std::size_t> counts;
  std::size_t end = 0;
  for (const auto& chunk : file.chunks())
    if (chunk.flat == 1) {
      CHECK(chunk.first == end);
      end += chunk.count;
      counts.push_back(chunk.count);
    }
  return counts;
}
TEST_CASE("chunks cover a flat, one behind the other, alike but for whole blocks") {
  // 345 x 345 and 345 elements, each in blocks of 64: 1860 and 6.
  constexpr std::size_t all = 1866 * 64;
  CHECK(chunk_counts<32768>() == std::vector<std::size_t>{32768, 32768, 32768, all - 3 * 32768});
  CHECK(chunk_counts<98304>() == std::vector<std::size_t>{65536, all - 65536});
  CHECK(chunk_counts<131072>() == std::vector<std::size_t>{all});
}

template <class Trainer>
void check_run(const Outcome& plain, const Job& job) {
  CAPTURE(job.world);
  CAPTURE(job.micro_batches);
  const Outcome outcome = train<Trainer>(job);
  CHECK(outcome.losses == plain.losses);
  CHECK(outcome.norms == plain.norms);
  CHECK(outcome.weights == plain.weights);
}
TEST_CASE("flats of several chunks train to the bits of the device's state") {
  for (const std::size_t world : {1, 2})
    for (const std::size_t micro_batches : {1, 3}) {
      const Job job{.world = world, .steps = 3, .micro_batches = micro_batches, .config = large};
      const Outcome fp32 = train<Toy<>>(job);
      check_run<Toy<In<OnDevice, Chunks>>>(fp32, job);
      check_run<Toy<In<OnNvme, Chunks>>>(fp32, job);
      const Outcome mixed = train<Toy<Mixed>>(job);
      check_run<Toy<Mixed, In<OnHost, Chunks>>>(mixed, job);
      check_run<Toy<Mixed, In<OnNvme, Chunks>, sx::WrapWhole>>(mixed, job);
    }
}

// A control flow of one's own, frozen parameters, groups ------------------------------------------

template <class Trainer>
void check_story(const Story& plain, const Job& job) {
  CAPTURE(job.world);
  CAPTURE(job.micro_batches);
  check_same(tell_story<Trainer>(job), plain);
}
TEST_CASE("all a program can do with a trainer gives the bits of the device's state") {
  for (const std::size_t world : {1, 2})
    for (const std::size_t micro_batches : {1, 2}) {
      const Job job{.world = world,
                    .micro_batches = micro_batches,
                    .config = {.inputs = 61, .width = 211, .depth = 2, .rows = 2}};
      const Story fp32 = tell_story<Toy<>>(job);
      check_story<Toy<In<OnNvme, Chunks>>>(fp32, job);
      check_story<Toy<In<OnHost, Chunks>, sx::PersistBelow<100>>>(fp32, job);
      check_story<Toy<In<OnNvme, OnDevice>>>(fp32, job);
      const Story mixed = tell_story<Toy<Mixed>>(job);
      check_story<Toy<Mixed, In<OnNvme, Chunks>>>(mixed, job);
      check_story<Toy<Mixed, In<OnNvme, sx::Partly<1, 3>>>>(mixed, job);
    }
}

TEST_CASE("copies of the model likewise, and nothing is a race") {
  for (const std::size_t micro_batches : {1, 2}) {
    Job job{.world = 4,
            .micro_batches = micro_batches,
            .config = {.inputs = 61, .width = 311, .depth = 2, .rows = 2}};
    check_story<Toy<sx::HybridShard<2>, In<OnDevice, Chunks>>>(
        tell_story<Toy<sx::HybridShard<2>>>(job), job);
    job.world = 2;
    job.execution = sx::Execution::asynchronous;
    using Checked = sx::On<sx::Checked<sx::Cpu>>;
    check_story<Toy<Checked, In<OnNvme, Chunks>>>(tell_story<Toy<>>(job), job);
  }
}

constexpr Job medium{.steps = 5, .config = {.inputs = 31, .width = 37, .depth = 2, .rows = 3}};

TEST_CASE("frozen parameters lie on the disk too") {
  using sx::Sharded;
  const Outcome fp32 = train<Sharded<frozen_toy::Model>>(medium);
  check_run<Sharded<frozen_toy::Model, In<OnNvme, Chunks>>>(fp32, medium);
  const Outcome mixed = train<Sharded<frozen_toy::Model, Mixed>>(medium);
  check_run<Sharded<frozen_toy::Model, Mixed, In<OnNvme, OnHost>>>(mixed, medium);
}

TEST_CASE("groups, stochastic rounding and a schedule reach every chunk") {
  using Pure = sx::Precision<sx::bf16, sx::bf16, sx::bf16, sx::bf16>;
  const auto change = [](auto& options) {
    options.groups[1] = {2, 0};
    options.groups[2] = {0.5f, 3};
    options.optimizer.learning_rate = 0.01f;
    options.schedule = sx::LearningRateSchedule::warmup_cosine(2, 6);
  };
  Job job = medium;
  job.config.width = 259;  // flats of more than one chunk
  using Plain = sx::Sharded<grouped_toy::Autoencoder, Pure, sx::RoundStochastic>;
  const Outcome plain = train<Plain>(job, change);
  CHECK(plain != train<Plain>(job));
  using Disk = sx::Sharded<grouped_toy::Autoencoder, Pure, sx::RoundStochastic, In<OnHost, Chunks>>;
  CHECK(train<Disk>(job, change) == plain);
}

TEST_CASE("what is not finite moves nothing on the disk either") {
  using Disk = In<OnNvme, OnNvme>;
  check_not_finite<Toy<>, Toy<Disk, sx::DynamicLossScale>, Toy<Disk>>();
}

}  // namespace
