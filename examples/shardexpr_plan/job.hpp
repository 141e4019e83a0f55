// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/nn/gpt_config.hpp>

#include <cstddef>
#include <stdexcept>

namespace planner {

/// Input that cannot be planned for. One line: what, and what to do. The program ends with 2.
struct BadInput : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What is planned for: a model, ranks, and machines.
struct Job {
  shardexpr::GptConfig model;
  std::size_t world = 1;
  std::size_t micro_batches = 1;
  std::size_t node_ranks = 1;  ///< neighbours on a machine; one more machine has what is left over

  /// Ranks of the fullest machine.
  std::size_t machine_ranks() const { return node_ranks < world ? node_ranks : world; }
  std::size_t machines() const { return (world + node_ranks - 1) / node_ranks; }
};

}  // namespace planner
