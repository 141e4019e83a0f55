// SPDX-License-Identifier: Apache-2.0
// Errors, and files for plot.sh.
#pragma once
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>

#include "options.hpp"
#include "solver.hpp"

/// A file that process 0 writes; others, and a program without --out, write nothing.
class Output {
 public:
  Output(const Processes& processes, const Options& o, const std::string& name)
      : path_{o.out + "/" + name}, is_open_{!o.out.empty() && processes.rank == 0} {
    if (is_open_) file_.open(path_);
  }
  template <class... T>
  void line(const T&... values) {
    if (!is_open_) return;
    ((file_ << values << ' '), ...) << '\n';
    if (!file_.flush()) throw std::runtime_error(path_ + " cannot be written");
  }

 private:
  std::string path_;
  bool is_open_;
  std::ofstream file_;
};

/// Every process learns before work begins whether process 0 can write to --out.
/// Errors:  BadInput, in all of them.
inline void check_output(const Processes& processes, const Options& o) {
  if (o.out.empty()) return;
  int is_good = processes.rank != 0 || std::ofstream{o.out + "/errors.txt"}.is_open();
  MPI_Bcast(&is_good, 1, MPI_INT, 0, processes.comm);
  if (!is_good) throw BadInput("--out " + o.out + " is no folder that can be written to");
}

/// Writes c of the whole grid as a matrix, the lowest row first.
inline void write_field(const Processes& processes, const Options& o, const Solver& solver,
                        const std::string& name) {
  if (o.out.empty()) return;
  const Block& block = solver.block;
  Field whole = Field::Zero(block.cells, block.cells);
  whole.block(block.y0, block.x0, block.ny, block.nx) = block.inner(solver.c);
  // The others add zeros to each block: a gather without counts.
  MPI_Reduce(processes.rank == 0 ? MPI_IN_PLACE : whole.data(), whole.data(),
             static_cast<int>(whole.size()), MPI_DOUBLE, MPI_SUM, 0, processes.comm);
  Output{processes, o, name}.line(whole.format({6, Eigen::DontAlignCols}));
}

/// How far grids are from the means of the reference over the cells of the coarse grid, in parts of
/// those.
class Comparison {
 public:
  Comparison(const Processes& processes, int cells)
      : processes_{processes}, truth_{processes, cells, 1, 0}, means_{processes, cells, 1, 0} {}

  /// Errors of the other grids against the first.
  template <class... S>
  std::array<double, sizeof...(S)> errors(const Solver& reference, const S&... of) {
    truth_.restrict_from(reference);
    const auto truth = truth_.block.inner(truth_.c), means = means_.block.inner(means_.c);
    const auto squares = [&](const Solver& solver) {
      means_.restrict_from(solver);
      return (means - truth).square().sum();
    };
    const auto sums = processes_.sum(std::array{truth.square().sum(), squares(of)...});
    std::array<double, sizeof...(S)> errors;
    for (std::size_t i = 0; i < errors.size(); ++i) errors[i] = std::sqrt(sums[i + 1] / sums[0]);
    return errors;
  }

 private:
  const Processes& processes_;
  Solver truth_, means_;
};
