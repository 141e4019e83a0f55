// SPDX-License-Identifier: Apache-2.0
// The closure: what the coarse grid's flux across a face lacks, as a function of the cells around.
//
// One small network serves every face. A face is looked at from its upwind side, so that rotating
// the flow rotates the answer. The network sees differences to the upwind cell, divided by their
// size, by which its answer is multiplied; and it has no biases, so that it is odd. What one adds
// to c then changes no answer, and a factor of c, positive or not, is a factor of the answer.
//
// Source: the idea is that of Zhuang et al., Learned discretizations for passive scalar advection
// in a two-dimensional turbulent flow, Phys. Rev. Fluids 6, 064605 (2021); network and training
// differ.
#pragma once
#include <shardexpr/shardexpr.hpp>

#include <array>
#include <cstddef>
#include <type_traits>

#include "face.hpp"
#include "solver.hpp"
#include <Eigen/Core>

namespace sx = shardexpr;

struct Config {
  std::size_t faces = 0;  ///< the most that any process keeps
  std::size_t width = 16, depth = 1;
};

// [batch]
/// A rank's batch: every face that its process keeps. It points to the solver's own memory.
struct Batch {
  const Solver* coarse;
  const Field *x_lack, *y_lack;  ///< what the fluxes lack
  float weight;                  ///< of a squared error in this rank's loss

  std::size_t faces() const {
    return 2 * static_cast<std::size_t>(coarse->block.nx) *
           static_cast<std::size_t>(coarse->block.ny);
  }
};
// [batch end]

// The network as units: sees -> tanh(x W) -> tanh(h W) ... -> h v
// --------------------------------------------------------------------------------------------

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
/// The first `rows` rows of a tensor of two axes; of a tensor of one axis, as a column.
template <class T>
auto rows_of(const sx::Tensor<T>& t, std::size_t rows) {
  using M = std::conditional_t<std::is_const_v<T>, const Matrix<std::remove_const_t<T>>, Matrix<T>>;
  const std::size_t columns = t.shape.rank < 2 ? 1 : t.shape[1];
  return Eigen::Map<M>(t.data, static_cast<Eigen::Index>(rows), static_cast<Eigen::Index>(columns));
}
template <class T>
auto matrix(const sx::Tensor<T>& t) {
  return rows_of(t, t.shape[0]);
}

template <template <class> class Of, class T>
struct Activation {
  Of<T> h;  // (faces, width)
};
template <template <class> class Of, class T>
struct Loss {
  Of<T> loss;
};

/// What the units have in common.
struct Layer {
  using Config = ::Config;
  using Batch = ::Batch;
  template <class T>
  struct Params {
    T weight;
  };
};

struct First : Layer {
  static constexpr sx::Name prefix = "first.";
  template <template <class> class Of, class T>
  using Input = sx::Nothing<Of, T>;
  template <template <class> class Of, class T>
  using Output = Activation<Of, T>;
  template <template <class> class Of, class T>
  struct Saved {
    Of<T> seen;  // (faces, stencil)
    Of<T> h;
  };

  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {{"weight", sx::shape(stencil, c.width), sx::normal(0.25f)}};
  }
  template <class T>
  static constexpr Output<sx::BufferSpec, T> output(const Config& c) {
    return {sx::shape(c.faces, c.width)};
  }
  template <class T>
  static constexpr Saved<sx::BufferSpec, T> saved(const Config& c) {
    return {sx::shape(c.faces, stencil), sx::shape(c.faces, c.width)};
  }
  template <class D, class T>
  static void forward(const sx::Forward<First, D, T>& p) {
    p.context.run(
        sx::reads(p.w.weight), sx::writes(p.out.h, p.saved.seen, p.saved.h), [=, batch = p.batch] {
          const std::size_t faces = batch.faces();
          for (std::size_t f = 0; f < faces; ++f)
            look(*batch.coarse, Face{batch.coarse->block, f}, p.saved.seen.data + f * stencil);
          auto h = rows_of(p.out.h, faces);
          h.noalias() = rows_of(p.saved.seen, faces) * matrix(p.w.weight);
          h = h.array().tanh();
          rows_of(p.saved.h, faces) = h;
        });
  }
  template <class D, class T, class G>
  static void backward(const sx::Backward<First, D, T, G>& p) {
    p.context.run(sx::reads(p.dout.h, p.saved.seen, p.saved.h), sx::writes(p.dw.weight, p.saved.h),
                  [=, batch = p.batch] {
                    const std::size_t faces = batch.faces();
                    auto d = rows_of(p.saved.h, faces);
                    d = rows_of(p.dout.h, faces).array() * (1 - d.array().square());
                    matrix(p.dw.weight).noalias() += rows_of(p.saved.seen, faces).transpose() * d;
                  });
  }
};

struct Hidden : Layer {
  static constexpr sx::Name prefix = "hidden.#.";
  template <template <class> class Of, class T>
  using Input = Activation<Of, T>;
  template <template <class> class Of, class T>
  using Output = Activation<Of, T>;
  template <template <class> class Of, class T>
  struct Saved {
    Of<T> h;
  };

  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {{"weight", sx::shape(c.width, c.width), sx::normal(0.25f)}};
  }
  template <class T>
  static constexpr Output<sx::BufferSpec, T> output(const Config& c) {
    return {sx::shape(c.faces, c.width)};
  }
  template <class T>
  static constexpr Saved<sx::BufferSpec, T> saved(const Config& c) {
    return {sx::shape(c.faces, c.width)};
  }
  template <class D, class T>
  static void forward(const sx::Forward<Hidden, D, T>& p) {
    p.context.run(sx::reads(p.w.weight, p.in.h), sx::writes(p.out.h, p.saved.h),
                  [=, faces = p.batch.faces()] {
                    auto h = rows_of(p.out.h, faces);
                    h.noalias() = rows_of(p.in.h, faces) * matrix(p.w.weight);
                    h = h.array().tanh();
                    rows_of(p.saved.h, faces) = h;
                  });
  }
  template <class D, class T, class G>
  static void backward(const sx::Backward<Hidden, D, T, G>& p) {
    p.context.run(sx::reads(p.w.weight, p.in.h, p.dout.h, p.saved.h),
                  sx::writes(p.dw.weight, p.din.h, p.saved.h), [=, faces = p.batch.faces()] {
                    auto d = rows_of(p.saved.h, faces);
                    d = rows_of(p.dout.h, faces).array() * (1 - d.array().square());
                    matrix(p.dw.weight).noalias() += rows_of(p.in.h, faces).transpose() * d;
                    rows_of(p.din.h, faces).noalias() = d * matrix(p.w.weight).transpose();
                  });
  }
};

struct Last : Layer {
  static constexpr sx::Name prefix = "last.";
  template <template <class> class Of, class T>
  using Input = Activation<Of, T>;
  template <template <class> class Of, class T>
  using Output = Loss<Of, T>;
  template <template <class> class Of, class T>
  struct Saved {
    Of<T> answer;  // (faces,)
    Of<T> slope;   // (faces,): d loss / d (h v), once there is a loss
  };

  static constexpr Params<sx::Spec> describe(const Config& c) {
    // From zero: at first the closure adds nothing, and the loss is one.
    return {{"weight", sx::shape(c.width), sx::zeros}};
  }
  template <class T>
  static constexpr Output<sx::BufferSpec, T> output(const Config&) {
    return {};
  }
  template <class T>
  static constexpr Saved<sx::BufferSpec, T> saved(const Config& c) {
    return {sx::shape(c.faces), sx::shape(c.faces)};
  }
  /// What each face's flux lacks, as far as the network knows; and by what it was multiplied, in
  /// `slope`.
  template <class D, class T>
  static void answer(const sx::Forward<Last, D, T>& p) {
    p.context.run(
        sx::reads(p.w.weight, p.in.h), sx::writes(p.saved.answer, p.saved.slope),
        [=, batch = p.batch] {
          const std::size_t faces = batch.faces();
          auto answer = rows_of(p.saved.answer, faces);
          answer.noalias() = rows_of(p.in.h, faces) * matrix(p.w.weight);
          std::array<float, stencil> seen;
          for (std::size_t f = 0; f < faces; ++f) {
            p.saved.slope[f] = look(*batch.coarse, Face{batch.coarse->block, f}, seen.data());
            p.saved.answer[f] *= p.saved.slope[f];
          }
        });
  }
  template <class D, class T>
  static void forward(const sx::Forward<Last, D, T>& p) {
    answer(p);
    p.context.run(sx::reads(p.saved.answer, p.saved.slope), sx::writes(p.out.loss, p.saved.slope),
                  [=, batch = p.batch] {
                    double sum = 0;
                    for (std::size_t f = 0; f < batch.faces(); ++f) {
                      const Face face{batch.coarse->block, f};
                      const Field& lack = face.is_below ? *batch.y_lack : *batch.x_lack;
                      const double error = p.saved.answer[f] - lack.data()[face.place];
                      sum += error * error;
                      p.saved.slope[f] *= static_cast<T>(2 * batch.weight * error);
                    }
                    p.out.loss[0] = static_cast<T>(batch.weight * sum);
                  });
  }
  template <class D, class T, class G>
  static void backward(const sx::Backward<Last, D, T, G>& p) {
    p.context.run(sx::reads(p.w.weight, p.in.h, p.saved.slope, p.dout.loss),
                  sx::writes(p.dw.weight, p.din.h), [=, faces = p.batch.faces()] {
                    const auto d = rows_of(p.saved.slope, faces) * p.dout.loss[0];
                    matrix(p.dw.weight).noalias() += rows_of(p.in.h, faces).transpose() * d;
                    rows_of(p.din.h, faces).noalias() = d * matrix(p.w.weight).transpose();
                  });
  }
};

struct Closure {
  using Config = ::Config;
  using Batch = ::Batch;
  using Units = sx::Units<First, sx::Repeat<Hidden, &Config::depth>, Last>;
};
