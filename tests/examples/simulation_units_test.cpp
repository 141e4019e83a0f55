// SPDX-License-Identifier: Apache-2.0
// The gradients of the simulation's units against differences of the loss. That its closure gains
// enough does not show them: with a hidden layer left as it began it gains as much.
#include <shardexpr/shardexpr.hpp>

#include <cmath>
#include <cstddef>
#include <vector>

#include "../../examples/simulation/lesson.hpp"
#include <doctest/doctest.h>
#include <mpi.h>

namespace {

/// First, Hidden and Last with memory of their own.
struct Network {
  explicit Network(const Config& c)
      : config{c},
        weights{make(stencil * c.width, 0.25f), make(c.width * c.width, 0.25f),
                make(c.width, 0.05f)},
        gradients{zeros(stencil * c.width), zeros(c.width * c.width), zeros(c.width)},
        seen(c.faces * stencil),
        first(c.faces * c.width),
        first_kept{first},
        hidden{first},
        hidden_kept{first},
        d_first{first},
        d_hidden{first},
        answer(c.faces),
        slope(c.faces) {}

  static std::vector<float> zeros(std::size_t count) { return std::vector<float>(count); }
  static std::vector<float> make(std::size_t count, float spread) {
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i)
      values[i] = sx::initial_value(7, count, i, sx::normal(spread));
    return values;
  }
  sx::Tensor<float> rows(std::vector<float>& of) {
    return {of.data(), sx::shape(config.faces, of.size() / config.faces)};
  }
  sx::Tensor<float> matrix(std::vector<float>& of, std::size_t from) {
    return {of.data(), from == 1 ? sx::shape(of.size()) : sx::shape(from, of.size() / from)};
  }

  float loss_of(const Batch& batch, bool goes_back) {
    const sx::Context<sx::Cpu> context{device, stream};
    float loss = 0, seed = 1;
    sx::Forward<First, sx::Cpu, float> one{context, config, batch};
    one.w.weight = matrix(weights[0], stencil);
    one.saved = {rows(seen), rows(first_kept)};
    one.out.h = rows(first);
    First::forward(one);
    sx::Forward<Hidden, sx::Cpu, float> two{context, config, batch};
    two.w.weight = matrix(weights[1], config.width);
    two.in.h = {rows(first)};
    two.saved.h = rows(hidden_kept);
    two.out.h = rows(hidden);
    Hidden::forward(two);
    sx::Forward<Last, sx::Cpu, float> three{context, config, batch};
    three.w.weight = matrix(weights[2], 1);
    three.in.h = {rows(hidden)};
    three.saved = {matrix(answer, 1), matrix(slope, 1)};
    three.out.loss = {&loss, {}};
    Last::forward(three);
    if (!goes_back) return loss;

    sx::Backward<Last, sx::Cpu, float> last{context, config, batch};
    last.w = three.w;
    last.dw.weight = matrix(gradients[2], 1);
    last.in = three.in;
    last.dout.loss = {{&seed, {}}};
    last.din.h = rows(d_hidden);
    last.saved = three.saved;
    Last::backward(last);
    sx::Backward<Hidden, sx::Cpu, float> middle{context, config, batch};
    middle.w = two.w;
    middle.dw.weight = matrix(gradients[1], config.width);
    middle.in = two.in;
    middle.dout.h = {rows(d_hidden)};
    middle.din.h = rows(d_first);
    middle.saved = two.saved;
    Hidden::backward(middle);
    sx::Backward<First, sx::Cpu, float> begin{context, config, batch};
    begin.dw.weight = matrix(gradients[0], stencil);
    begin.dout.h = {rows(d_first)};
    begin.saved = one.saved;
    First::backward(begin);
    return loss;
  }

  Config config;
  std::vector<float> weights[3], gradients[3];
  std::vector<float> seen, first, first_kept, hidden, hidden_kept, d_first, d_hidden, answer, slope;
  sx::Cpu device;
  sx::Cpu::Stream stream{device, "units"};
};

}  // namespace

TEST_CASE("gradients of the simulation's units are the slopes of its loss") {
  MPI_Init(nullptr, nullptr);
  {
    const Processes alone{MPI_COMM_SELF};
    Solver fine{alone, 16, 4, 5e-4};
    fine.start(3);
    Lesson lesson{alone, 16, 5e-4};
    const Batch batch = lesson.of(fine, 0);
    Network network{{.faces = batch.faces() + 5, .width = 16, .depth = 1}};  // some rows unused
    network.loss_of(batch, /*goes_back=*/true);
    for (int layer = 0; layer < 3; ++layer) {
      CAPTURE(layer);
      const std::vector<float> at = network.weights[layer];
      const std::vector<float>& gradient = network.gradients[layer];
      double squares = 0;
      for (const float g : gradient) squares += static_cast<double>(g) * g;
      REQUIRE(squares > 0);
      // Along the gradient the slope is its length.
      const double step = 0.01 / std::sqrt(squares);
      double loss[2];
      for (const int side : {0, 1}) {
        for (std::size_t i = 0; i < at.size(); ++i)
          network.weights[layer][i] =
              static_cast<float>(at[i] + (side == 0 ? -step : step) * gradient[i]);
        loss[side] = network.loss_of(batch, false);
      }
      network.weights[layer] = at;
      CHECK((loss[1] - loss[0]) / (2 * step) == doctest::Approx(squares).epsilon(0.01));
    }
  }
  MPI_Finalize();
}
