// SPDX-License-Identifier: Apache-2.0
// The solver: a scalar c that a given flow carries and that diffuses,
//
//   dc/dt + div(u c - kappa grad c) = 0      on the unit square, periodic,
//
// by finite volumes: MUSCL with van Leer's limiter, central differences for diffusion, Heun's
// method in time. Fluxes are on faces; each is computed by the process that keeps the cell to its
// right or above, and given to the other, so that what leaves a cell enters the next.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <random>

#include "grid.hpp"

/// Numbers in [0, 1) that are the same on every machine; std's distributions are not.
class Uniform {
 public:
  explicit Uniform(std::uint64_t seed) : engine_{seed} {}
  double operator()() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

 private:
  std::mt19937_64 engine_;
};

/// The seed of run `number`; tests have numbers below 0.
inline std::uint64_t seed_of(std::uint64_t seed, int number) {
  return seed * 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(number);
}

/// A stream function: standing waves that drift, each at its own speed, so that particles move
/// chaotically. Phases and speeds follow from a seed.
class Flow {
 public:
  /// No point of any flow is faster than this in |u| + |v|.
  static constexpr double fastest() {
    double sum = 0;
    for (int m = 0; m < modes; ++m) sum += two_pi * amplitude(m) * (kx(m) + ky(m));
    return sum;
  }

  explicit Flow(std::uint64_t seed) {
    Uniform uniform{seed};
    for (Drift& d : drift_)
      for (Wave& wave : d)
        wave = {.phase = two_pi * uniform(), .speed = two_pi * (uniform() - 0.5)};
  }

  /// Mean velocities across the faces of a block, halo included: differences of the stream
  /// function along a face, so that on every grid as much flows into a cell as out of it.
  void velocities(const Block& block, double t, Field& u, Field& v) const {
    const auto rows = u.rows(), columns = u.cols();
    Field stream = Field::Zero(rows + 1, columns + 1);  // at the lower left corners
    for (int m = 0; m < modes; ++m) {
      const auto [along_x, along_y] = drift_[static_cast<std::size_t>(m)];
      const Eigen::VectorXd x = wave(columns + 1, block.x0, block.h, kx(m), along_x, t);
      const Eigen::VectorXd y = wave(rows + 1, block.y0, block.h, ky(m), along_y, t);
      stream.matrix() += amplitude(m) * y * x.transpose();
    }
    const auto corner = stream.topLeftCorner(rows, columns);
    u = (stream.bottomLeftCorner(rows, columns) - corner) / block.h;
    v = (corner - stream.topRightCorner(rows, columns)) / block.h;
  }

 private:
  static constexpr double two_pi = 2 * std::numbers::pi;
  static constexpr int modes = 4;
  static constexpr int kx(int m) { return 1 + m % 2; }
  static constexpr int ky(int m) { return 1 + m / 2; }
  static constexpr double amplitude(int m) { return 0.16 / (kx(m) * kx(m) + ky(m) * ky(m)); }
  struct Wave {
    double phase = 0, speed = 0;
  };
  using Drift = std::array<Wave, 2>;  // along x, along y

  /// sin(2 pi k x + phase + speed t) at the lower left corners of `count` cells, of which the first
  /// `halo` lie below `first`.
  static Eigen::VectorXd wave(Eigen::Index count, int first, double h, int k, Wave w, double t) {
    Eigen::VectorXd values(count);
    for (Eigen::Index i = 0; i < count; ++i)
      values(i) = std::sin(two_pi * k * (static_cast<double>(first + i - halo) * h) + w.phase +
                           w.speed * t);
    return values;
  }

  std::array<Drift, modes> drift_{};
};

/// Adds nothing to the fluxes.
struct NoClosure {
  template <class Solver>
  void operator()(Solver&) const {}
};

class Solver {
 public:
  Solver(const Processes& processes, int cells, int fine, double diffusivity)
      : block{processes, cells, fine},
        kappa{diffusivity},
        c{block.field()},
        u{c},
        v{c},
        x_flux{c},
        y_flux{c},
        before_{c} {}

  /// Gaussian hills and hollows in places that the seed says, and the flow of that seed.
  void start(std::uint64_t seed) {
    flow = Flow{seed};
    Uniform uniform{~seed};
    c.setZero();
    for (int blob = 0; blob < 8; ++blob) {
      const double x = uniform(), y = uniform(), width = 0.05 + 0.08 * uniform();
      const double height = (blob % 2 == 0 ? 1 : -1) * (0.6 + 0.4 * uniform());
      for (int j = 0; j < block.ny; ++j)
        for (int i = 0; i < block.nx; ++i) {
          const double dx = nearest((block.x0 + i + 0.5) * block.h - x);
          const double dy = nearest((block.y0 + j + 0.5) * block.h - y);
          c(halo + j, halo + i) += height * std::exp(-(dx * dx + dy * dy) / (2 * width * width));
        }
    }
  }

  /// c of this grid's cells: the means of the finer one's.
  void restrict_from(const Solver& fine) {
    const int r = fine.block.cells / block.cells;
    for (int j = 0; j < block.ny; ++j)
      for (int i = 0; i < block.nx; ++i)
        c(halo + j, halo + i) = fine.c.block(halo + r * j, halo + r * i, r, r).mean();
  }

  /// Fluxes of c at time t across the faces of this block's cells, and the halo of c.
  void find_fluxes(double t) {
    flow.velocities(block, t, u, v);
    block.exchange({&c});
    const int row = block.stride();
    for (int j = 0; j <= block.ny; ++j)
      for (int i = 0; i <= block.nx; ++i) {
        const int k = (halo + j) * row + halo + i;
        x_flux.data()[k] = flux(c.data() + k, 1, u.data()[k]);
        y_flux.data()[k] = flux(c.data() + k, row, v.data()[k]);
      }
  }

  /// From t to t + dt. `closure(*this)` is called when fluxes are known, twice, and may add to
  /// them.
  template <class Closure>
  void step(double t, double dt, Closure&& closure) {
    before_ = c;
    advance(t, dt, closure);
    advance(t + dt, dt, closure);
    c = 0.5 * (before_ + c);
  }

  Block block;
  double kappa;
  Flow flow{0};
  Field c, u, v, x_flux, y_flux;

 private:
  static double nearest(double distance) { return distance - std::round(distance); }

  /// Across the face between c[-n] and c[0].
  double flux(const double* at, int n, double speed) const {
    const double diffused = kappa / block.h * (at[0] - at[-n]);
    if (speed < 0) {
      at -= n;
      n = -n;
    }
    // at[-n] is upwind, at[0] downwind.
    const double a = at[-n] - at[-2 * n], b = at[0] - at[-n];
    const double slope = a * b > 0 ? 2 * a * b / (a + b) : 0;
    return speed * (at[-n] + 0.5 * slope) - diffused;
  }

  template <class Closure>
  void advance(double t, double dt, Closure& closure) {
    find_fluxes(t);
    closure(*this);
    const int nx = block.nx, ny = block.ny;
    block.inner(c) -= dt / block.h *
                      (x_flux.block(halo, halo + 1, ny, nx) - block.inner(x_flux) +
                       y_flux.block(halo + 1, halo, ny, nx) - block.inner(y_flux));
  }

  Field before_;
};
