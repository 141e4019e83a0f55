// SPDX-License-Identifier: Apache-2.0
// Training in less memory than the state takes.
#include <shardexpr/comm/solo.hpp>

#include <cstddef>
#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "../support/offloaded.hpp"
#include "../support/sanitized.hpp"
#include <doctest/doctest.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

// 4.7 million elements in 18 units: 16 bytes each of parameters, moments and gradients.
constexpr toy::Config deep{.inputs = 16, .width = 512, .depth = 18, .rows = 1};
constexpr std::size_t spare_bytes = std::size_t{16} << 20;

enum Ending { fits = 0, is_too_large = 3, differs_from_plan = 4, fails = 5 };

/// How two steps end in a process of their own, to which the system gives `spare_bytes` of memory
/// beyond what it has.
template <class Trainer>
int ending_in_little_memory(const std::string& directory) {
  const pid_t child = ::fork();
  if (child != 0) {
    int status = -1;
    CHECK(::waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  int ending = fails;
  try {
    // Streams' threads: a stack is of 8 MiB by default, and counts in full.
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, std::size_t{256} << 10);
    pthread_setattr_default_np(&small);
    std::size_t now = 0;
    if (std::FILE* status = std::fopen("/proc/self/status", "r")) {
      char line[256];
      while (std::fgets(line, sizeof line, status) != nullptr)
        if (std::sscanf(line, "VmData: %zu kB", &now) == 1) break;
      std::fclose(status);
    }
    const rlim_t most = (now << 10) + spare_bytes;
    const rlimit limit{most, most};
    if (now != 0 && ::setrlimit(RLIMIT_DATA, &limit) == 0) {
      sx::Cpu device;
      sx::Solo comm;
      typename Trainer::Options options;
      put_on_disk(options, directory);
      Trainer trainer{device, comm, deep, options};
      Rows rows{{.config = deep}, 0};
      for (std::size_t s = 0; s < 2; ++s) (void)trainer.step(rows.of_step(s));
      const sx::Plan plan = sx::plan<Trainer>(deep, 1);
      const bool as_planned = device.account().peak_bytes() == plan.device_peak_bytes &&
                              device.host().account().peak_bytes() == plan.host_peak_bytes &&
                              trainer.nvme_bytes() == plan.nvme_bytes && trainer.steps() == 2;
      ending = as_planned ? fits : differs_from_plan;
    }
  } catch (const std::bad_alloc&) {
    ending = is_too_large;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  ::_exit(ending);
}

TEST_CASE("state of several times the memory trains on a disk, and fits nowhere else" *
          doctest::skip(SANITIZED)) {
  using Disk = Toy<In<OnNvme, Chunks>, sx::Over<sx::Solo>>;
  const sx::Plan plan = sx::plan<Disk>(deep, 1);
  CHECK(plan.nvme_bytes > 4 * spare_bytes);
  CHECK(plan.device_peak_bytes + plan.host_peak_bytes < spare_bytes);
  const Scratch scratch;
  CHECK(ending_in_little_memory<Disk>(scratch.path()) == fits);
  CHECK(scratch.is_empty());
  // Parameters alone would fit neither; with them on the disk, moments on the device do not.
  CHECK(ending_in_little_memory<Toy<In<OnNvme, OnDevice>, sx::Over<sx::Solo>>>(scratch.path()) ==
        is_too_large);
  CHECK(ending_in_little_memory<Toy<sx::Over<sx::Solo>>>("") == is_too_large);
}

}  // namespace
