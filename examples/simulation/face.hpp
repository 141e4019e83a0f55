// SPDX-License-Identifier: Apache-2.0
// What the closure sees of a face.
#pragma once
#include <array>
#include <cmath>
#include <cstddef>

#include "solver.hpp"

/// Where face number `at` is in the arrays of a solver: first those on the left of its block's
/// cells, then those below.
struct Face {
  std::ptrdiff_t place;
  bool is_below;

  Face(const Block& block, std::size_t at) {
    const auto cells = static_cast<std::size_t>(block.nx) * static_cast<std::size_t>(block.ny);
    is_below = at >= cells;
    const auto cell = static_cast<int>(is_below ? at - cells : at);
    place = (halo + cell / block.nx) * block.stride() + halo + cell % block.nx;
  }
};

/// Five cells along the flow by three across, but for the upwind cell itself.
inline constexpr std::size_t stencil = 14;

/// Writes the differences that a face sees, of size one, and returns by what its answer is
/// multiplied.
inline float look(const Solver& solver, Face face, float* seen) {
  const int row = solver.block.stride();
  const double speed = (face.is_below ? solver.v : solver.u).data()[face.place];
  // Along the flow, and to its left.
  int along = face.is_below ? row : 1, across = face.is_below ? -1 : row;
  const double* upwind = solver.c.data() + face.place - along;
  if (speed < 0) {
    upwind += along;
    along = -along;
    across = -across;
  }
  std::array<double, stencil> difference;
  double squares = 0;
  std::size_t at = 0;
  for (int i = -2; i <= 2; ++i)
    for (int j = -1; j <= 1; ++j) {
      if (i == 0 && j == 0) continue;
      const double d = upwind[i * along + j * across] - *upwind;
      difference[at++] = d;
      squares += d * d;
    }
  const double size = std::sqrt(squares / stencil) + 1e-12;
  const double inverse = 1 / size;
  for (std::size_t i = 0; i < stencil; ++i) seen[i] = static_cast<float>(difference[i] * inverse);
  const double most = (std::abs(speed) + solver.kappa / solver.block.h) * size;
  return static_cast<float>(speed < 0 ? -most : most);  // along the axis, as fluxes are
}
