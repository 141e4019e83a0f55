// SPDX-License-Identifier: Apache-2.0
// A device whose memory the host cannot touch. Who touches it all the same dies of SIGSEGV; what is
// copied instead gives the same bits, and is in the plan.
#include "../support/apart.hpp"

#include <shardexpr/device/traced.hpp>

#include <csignal>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "../support/frozen_toy.hpp"
#include "../support/offloaded.hpp"
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

static_assert(sx::HasHost<Apart> && !Apart::shares_memory && sx::Cpu::shares_memory);
static_assert(!sx::Traced<Apart>::shares_memory);

template <class... Ps>
using Far = sx::Sharded<toy::Autoencoder, Ps..., sx::On<Apart>>;

constexpr toy::Config wide{.inputs = 61, .width = 83, .depth = 2, .rows = 3};

TEST_CASE("the host cannot touch the memory of the device that this tests with") {
  Apart device;
  Apart::Stream stream{device, "stream"};
  const auto buffer = device.allocate<int>(100, sx::Purpose::other);
  device.fill_zero(stream, buffer.span());
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);  // doctest's would report it
    buffer.data()[7] = 1;
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGSEGV);
}

template <class... Ps>
void check_story(const Story& near, const Job& job) {
  CAPTURE(job.world);
  CAPTURE(job.micro_batches);
  check_same(tell_story<Far<Ps...>>(job), near);
}
TEST_CASE("all a program can do with a trainer gives the same bits, and the host touches nothing") {
  for (const std::size_t world : {1, 2})
    for (const std::size_t micro_batches : {1, 2}) {
      const Job job{.world = world, .micro_batches = micro_batches, .config = wide};
      const Story near = tell_story<Toy<sx::NoShard>>(job);
      check_story<sx::NoShard>(near, job);
      check_story<sx::FullShard, sx::PersistBelow<100>>(near, job);
      check_story<sx::ShardGradOp, In<sx::OnDevice, sx::Partly<1, 3>>>(near, job);
      check_story<sx::OffloadAll>(near, job);
      check_story<In<sx::OnHost, sx::OnDevice>>(near, job);
      check_story<In<sx::OnNvme, sx::OnNvme>>(near, job);
      const Story near_mixed = tell_story<Toy<Mixed, sx::ClipNorm>>(job);
      check_story<Mixed, sx::ClipNorm, sx::ShardOptimizer>(near_mixed, job);
      check_story<Mixed, sx::ClipNorm, sx::OffloadAll>(near_mixed, job);
    }
}

template <class... Ps>
void check_plan_of(const Job& job) {
  const Outcome near = train<Toy<Ps...>>(job), far = train<Far<Ps...>>(job);
  CHECK(far.losses == near.losses);
  CHECK(far.norms == near.norms);
  CHECK(far.weights == near.weights);
  CHECK(far.weights.size() > 1000);
}
TEST_CASE("plan equals run, where what a step decides comes down to be read") {
  const Job job{.config = wide};
  check_plan_of<sx::FullShard>(job);
  check_plan_of<sx::OffloadAll>(job);
  check_plan_of<In<sx::OnDevice, sx::OnNvme>>(job);
  const auto near = sx::plan<Toy<>>(wide, 2), far = sx::plan<Far<>>(wide, 2);
  CHECK(near.to_host_bytes == 0);
  CHECK(far.to_host_bytes == sizeof(sx::StepOutcome));
  CHECK(far.host_peak_bytes == sizeof(sx::StepOutcome));
  CHECK(far.device_peak_bytes == near.device_peak_bytes);
}

TEST_CASE("what is not finite is found on the device, and has its name") {
  const Job job{.world = 1, .micro_batches = 1};
  const auto error_of = [&]<class Trainer>(std::type_identity<Trainer>) {
    std::string error;
    on_ranks<Trainer>(job, as_it_is, [&](auto&, auto&, auto& trainer) {
      Rows rows{job, 0};
      auto batch = rows.of_step(0)[0];
      std::vector<float> bad(batch.x, batch.x + job.config.rows * job.config.inputs);
      bad[1] = std::numeric_limits<float>::infinity();
      try {
        (void)trainer.step({bad.data()});
      } catch (const sx::NotFiniteError& e) {
        error = e.what();
      }
      CHECK(trainer.step(rows.of_step(1)[0]).loss > 0);
    });
    return error;
  };
  const std::string near = error_of(std::type_identity<Toy<>>{});
  CHECK(near.find("is not finite") != std::string::npos);
  CHECK(error_of(std::type_identity<Far<>>{}) == near);
  CHECK(error_of(std::type_identity<Far<sx::OffloadAll>>{}) == near);
}

}  // namespace
