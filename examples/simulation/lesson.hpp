// SPDX-License-Identifier: Apache-2.0
// What the running fine grid teaches.
#pragma once
#include <array>

#include "closure.hpp"

/// A coarse grid that is given the fine one's means, and what its fluxes lack there: the fine
/// grid's flux across a coarse face less the scheme's. A coarse grid that were told this exactly,
/// at all times, would stay with the fine one's means for ever.
class Lesson {
 public:
  Lesson(const Processes& processes, int cells, double kappa)
      : processes_{processes},
        coarse_{processes, cells, 1, kappa},
        x_lack_{coarse_.block.field()},
        y_lack_{x_lack_} {}

  /// The batch of time t, valid until the next. Every process's loss is its share of the sum of
  /// squares, so that their mean is what the closure leaves of it: 1 for a closure of nothing. It
  /// does not depend on how cells are shared out.
  Batch of(Solver& fine, double t) {
    coarse_.flow = fine.flow;
    coarse_.restrict_from(fine);
    coarse_.find_fluxes(t);
    fine.find_fluxes(t);
    const Block& block = coarse_.block;
    const int r = fine.block.cells / block.cells;
    for (int j = 0; j < block.ny; ++j)
      for (int i = 0; i < block.nx; ++i) {
        const int row = halo + r * j, column = halo + r * i;
        x_lack_(halo + j, halo + i) = fine.x_flux.block(row, column, r, 1).mean();
        y_lack_(halo + j, halo + i) = fine.y_flux.block(row, column, 1, r).mean();
      }
    block.inner(x_lack_) -= block.inner(coarse_.x_flux);
    block.inner(y_lack_) -= block.inner(coarse_.y_flux);
    const auto [squares] = processes_.sum(
        std::array{block.inner(x_lack_).square().sum() + block.inner(y_lack_).square().sum()});
    const int count = processes_.count[0] * processes_.count[1];
    return {&coarse_, &x_lack_, &y_lack_, static_cast<float>(count / (squares + 1e-30))};
  }

 private:
  const Processes& processes_;
  Solver coarse_;
  Field x_lack_, y_lack_;
};
