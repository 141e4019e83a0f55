// SPDX-License-Identifier: Apache-2.0
// A device whose memory the host cannot touch. Who touches it all the same dies of SIGSEGV; what is
// copied instead gives the same bits, and is in the plan.
#include "../support/apart.hpp"

#include <shardexpr/device/traced.hpp>

#include <csignal>

#include "../support/far.hpp"
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

static_assert(sx::HasHost<Apart> && !Apart::shares_memory && sx::Cpu::shares_memory);
static_assert(!sx::Traced<Apart>::shares_memory);

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

TEST_CASE("all a program can do with a trainer gives the same bits, and the host touches nothing") {
  far::check_stories<Apart>({1, 2});
}
TEST_CASE("plan equals run, where what a step decides comes down to be read") {
  far::check_plans<Apart>();
}
TEST_CASE("what is not finite is found on the device, and has its name") {
  far::check_not_finite_is_named<Apart>();
}

}  // namespace
