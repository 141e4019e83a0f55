// SPDX-License-Identifier: Apache-2.0
#pragma once
// Ranks are threads of this process, which is the whole job.
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/comm/threads.hpp>

#include <string>
#include <type_traits>

#include "job.hpp"
#include "options.hpp"
#include "report.hpp"

namespace machine {

class Job {
 public:
  static constexpr bool has_terminal = true;

  Job(int&, char**&) {}
  bool speaks() const { return true; }
  std::string where() const { return ""; }
  void complete(Options&) {}
  void agree() {}
  int fail(const Failure& failure) { return end(failure); }
  int end(const Failure& failure) {
    if (!failure.what.empty()) complain(failure.what);
    return failure.status;
  }
};

/// Runs `body(comm)` in each rank of the strategy's communicator.
template <class Comm, class Body>
void run_ranks(const Options& o, Body body) {
  if constexpr (std::is_same_v<Comm, shardexpr::Solo>) {
    Comm comm;
    body(comm);
  } else {
    shardexpr::launch(o.ranks, body);
  }
}

}  // namespace machine
