// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/nn/gpt.hpp>
#include <shardexpr/plan/plan.hpp>

#include <cstddef>
#include <string>

#include "../../examples/shardexpr_plan/row.hpp"
#include <doctest/doctest.h>

inline planner::Job pasted_job(std::size_t world, std::size_t node_ranks,
                               std::size_t micro_batches) {
  return {.model =
              {.vocabulary = 100, .context = 32, .embed = 128, .heads = 2, .layers = 3, .batch = 2},
          .world = world,
          .micro_batches = micro_batches,
          .node_ranks = node_ranks};
}

/// What `plan` asks of a trainer: the real one would make this wait for its compilation.
template <class S>
struct Pasted {
  using Model = shardexpr::Gpt;
  using Strategy = S;
};

/// A type that the program prints, written into a program: it is planned alike.
template <class S>
void check_pasted(const planner::Rows& rows, planner::DeviceKind device, const planner::Job& job,
                  const std::string& policies) {
  const std::string type = "Sharded<Gpt, " + policies + ">";
  CAPTURE(type);
  std::size_t found = 0;
  for (const planner::Row& row : rows.rows)
    if (planner::type_of(row, device) == type) {
      ++found;
      CHECK(row.plan ==
            shardexpr::plan<Pasted<S>>(job.model, job.world, job.micro_batches, job.node_ranks));
    }
  CHECK(found == 1);
}
