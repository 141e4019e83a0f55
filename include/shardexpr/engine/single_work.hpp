// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/exact_sum.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/plan/step_summary.hpp>

#include <cmath>
#include <cstddef>

// What one thread of a device does between the large operations. Named types with plain members:
// a device may run them in a kernel, which cannot take a lambda of the host.

namespace shardexpr::detail {

template <class T>
struct SetValue {
  T* to;
  T value;
  SHARDEXPR_HOST_DEVICE void operator()() const { *to = value; }
};

/// A rank's summary begins with a loss that the host knows.
struct BeginSummary {
  StepSummary* to;
  double loss;
  SHARDEXPR_HOST_DEVICE void operator()() const {
    to->gradient_squares = ExactSum{};
    to->loss = loss;
  }
};

/// Adds the loss of a micro-batch; the first begins anew.
template <class Loss>
struct AddLoss {
  StepSummary* to;
  const Loss* loss;
  bool begins;
  SHARDEXPR_HOST_DEVICE void operator()() const {
    if (begins) *to = StepSummary{};
    to->loss += static_cast<double>(*loss);
  }
};

struct AddSum {
  ExactSum* to;
  const ExactSum* from;
  SHARDEXPR_HOST_DEVICE void operator()() const { to->add(*from); }
};

/// Makes of all ranks' summaries what they mean for the update: losses added in rank order, squares
/// exactly.
template <class Clipping>
struct Conclude {
  StepOutcome* to;
  const StepSummary* all;  // by rank
  std::size_t world, shards;
  double losses;  // how many each rank added up
  float scale;    // by what gradients are too large
  typename Clipping::Options clipping;
  float limit;

  SHARDEXPR_HOST_DEVICE void operator()() const {
    ExactSum squares;
    double loss = 0;
    for (std::size_t r = 0; r < world; ++r) {
      if (r < shards) squares.add(all[r].gradient_squares);  // other copies' are the same
      loss += all[r].loss;
    }
    const double norm = std::sqrt(squares.value()) / static_cast<double>(scale);
    const double factor = Clipping::factor(clipping, norm) / static_cast<double>(scale);
    to->control.factor = static_cast<float>(factor);
    to->control.limit = limit;
    to->control.skips = !std::isfinite(norm);
    to->loss = loss / static_cast<double>(world) / losses;
    to->norm = norm;
  }
};

}  // namespace shardexpr::detail
