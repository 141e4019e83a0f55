// SPDX-License-Identifier: Apache-2.0
// A training loop of one's own over a sharded model. `trainer.step` runs a schedule of ours; a
// program with control flow of its own calls the units itself. The trainer then keeps half of every
// parameter on each of two ranks, gathers, reduces and updates; what happens when is the program's.
#include <shardexpr/shardexpr.hpp>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <vector>

namespace sx = shardexpr;

// The model: h = tanh(x W), loss = mean (h v - target)^2.
// ------------------------------------------

struct Config {
  std::size_t inputs = 8, width = 32, rows = 64;
};
struct Batch {
  const float *x, *target;  // (rows, inputs), (rows,)
};
template <template <class> class Of, class T>
struct Activation {
  Of<T> h;  // (rows, width)
};
template <template <class> class Of, class T>
struct Loss {
  Of<T> loss;  // one number
};
struct Both {  // what both units have in common
  using Config = ::Config;
  using Batch = ::Batch;
  template <class T>
  struct Params {
    T weight;
  };
};

// A unit is what is gathered together: its parameters, what it takes and puts out, two functions.
// They hand work to `context.run`, which names what is read and written; a CPU runs it at once.
struct Hidden : Both {
  static constexpr sx::Name prefix = "hidden.";
  template <template <class> class Of, class T>
  using Input = sx::Nothing<Of, T>;  // it reads the batch
  template <template <class> class Of, class T>
  using Output = Activation<Of, T>;

  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {{"weight", sx::shape(c.inputs, c.width), sx::normal(0.4f)}};
  }
  template <class T>
  static constexpr Output<sx::BufferSpec, T> output(const Config& c) {
    return {sx::shape(c.rows, c.width)};
  }
  template <class D, class T>
  static void forward(const sx::Forward<Hidden, D, T>& p) {
    p.context.run(sx::reads(p.w.weight), sx::writes(p.out.h), [=, c = p.config, x = p.batch.x] {
      for (std::size_t i = 0; i < c.rows * c.width; ++i) {
        T sum = 0;
        for (std::size_t k = 0; k < c.inputs; ++k)
          sum += x[i / c.width * c.inputs + k] * p.w.weight[k * c.width + i % c.width];
        p.out.h[i] = std::tanh(sum);
      }
    });
  }
  // `dout` is the gradient before tanh: the head, which is given h anyway, takes tanh's derivative.
  template <class D, class T, class G>
  static void backward(const sx::Backward<Hidden, D, T, G>& p) {
    p.context.run(sx::reads(p.dout.h), sx::writes(p.dw.weight), [=, c = p.config, x = p.batch.x] {
      for (std::size_t i = 0; i < c.rows * c.width; ++i)
        for (std::size_t k = 0; k < c.inputs; ++k)
          p.dw.weight[k * c.width + i % c.width] += x[i / c.width * c.inputs + k] * p.dout.h[i];
    });
  }
};

struct Head : Both {
  static constexpr sx::Name prefix = "head.";
  template <template <class> class Of, class T>
  using Input = Activation<Of, T>;
  template <template <class> class Of, class T>
  using Output = Loss<Of, T>;

  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {{"weight", sx::shape(c.width), sx::normal(0.2f)}};
  }
  template <class T>
  static constexpr Output<sx::BufferSpec, T> output(const Config&) {
    return {};
  }
  template <class T>
  static T error(const Config& c, const T* h, const T* v, T target) {
    for (std::size_t j = 0; j < c.width; ++j) target -= h[j] * v[j];
    return -target;
  }
  template <class D, class T>
  static void forward(const sx::Forward<Head, D, T>& p) {
    p.context.run(sx::reads(p.in.h, p.w.weight), sx::writes(p.out.loss),
                  [=, c = p.config, target = p.batch.target] {
                    T sum = 0;
                    for (std::size_t r = 0; r < c.rows; ++r) {
                      const T e = error(c, &p.in.h[r * c.width], p.w.weight.data, target[r]);
                      sum += e * e;
                    }
                    p.out.loss[0] = sum / static_cast<T>(c.rows);
                  });
  }
  // Gradients of parameters are added to `dw`, that of the input is written to `din`.
  template <class D, class T, class G>
  static void backward(const sx::Backward<Head, D, T, G>& p) {
    p.context.run(sx::reads(p.in.h, p.w.weight, p.dout.loss), sx::writes(p.din.h, p.dw.weight),
                  [=, c = p.config, target = p.batch.target] {
                    for (std::size_t r = 0; r < c.rows; ++r) {
                      const T e = error(c, &p.in.h[r * c.width], p.w.weight.data, target[r]);
                      const T d = 2 * e * p.dout.loss[0] / static_cast<T>(c.rows);
                      for (std::size_t j = 0; j < c.width; ++j) {
                        const T h = p.in.h[r * c.width + j];
                        p.dw.weight[j] += d * h;
                        p.din.h[r * c.width + j] = d * p.w.weight[j] * (1 - h * h);
                      }
                    }
                  });
  }
};

struct Model {
  using Config = ::Config;
  using Batch = ::Batch;
  using Units = sx::Units<Hidden, Head>;
};
using Trainer = sx::Sharded<Model, sx::FullShard>;

// The loop
// -----------------------------------------------------------------------------------------

/// One step on this rank's batch; `h` and `dh` (rows, width) are the program's own memory. Every
/// rank makes the same calls of the trainer in the same order: gather, reduce and apply are
/// collective.
sx::StepResult my_step(Trainer& trainer, const Batch& batch, sx::Tensor<float> h,
                       sx::Tensor<float> dh) {
  const Config& config = trainer.config();
  const auto context = trainer.context();  // where work on guarded memory is enqueued
  float loss = 0, seed = 1;                // seed: d loss / d loss

  {
    auto w = trainer.gather<Hidden>();  // full parameters, until this scope is left
    sx::Forward<Hidden, sx::Cpu, float> pass{context, config, batch};
    pass.w = *w;
    pass.out.h = h;
    Hidden::forward(pass);
  }
  {
    auto w = trainer.gather<Head>();  // one gather serves both passes: nothing comes between them
    sx::Forward<Head, sx::Cpu, float> forward{context, config, batch};
    forward.w = *w;
    forward.in.h = {h};
    forward.out.loss = {&loss, {}};
    Head::forward(forward);

    auto dw = trainer.open_gradients<Head>();  // full gradients, of zero
    sx::Backward<Head, sx::Cpu, float> backward{context, config, batch};
    backward.w = *w;
    backward.dw = *dw;
    backward.in.h = {h};
    backward.dout.loss = {{&seed, {}}};
    backward.din.h = dh;
    Head::backward(backward);
    dw.reduce();  // the mean over the ranks; each keeps its half
  }
  // [loop]
  {
    auto dw = trainer.open_gradients<Hidden>();  // its backward needs no parameters: no gather
    sx::Backward<Hidden, sx::Cpu, float> pass{context, config, batch};
    pass.dw = *dw;
    pass.dout.h = {dh};
    Hidden::backward(pass);
    dw.reduce();
  }
  return trainer.apply(static_cast<double>(loss));  // norm, AdamW; the mean loss over the ranks
  // [loop end]
}

int main() {
  const Config config;
  constexpr std::size_t steps = 200;
  const Trainer::Options options{.optimizer = {.learning_rate = 1e-2f}};
  bool same = false;
  sx::launch(2, [&](sx::Threads& comm) {  // two ranks, each a thread
    std::vector<float> x(config.rows * config.inputs), target(config.rows);
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = static_cast<float>((37 * i + 11 * comm.rank()) % 64) / 32.0f - 1.0f;
    for (std::size_t r = 0; r < target.size(); ++r)
      target[r] = std::sin(3 * x[r * config.inputs]) * x[r * config.inputs + 1];
    const Batch batch{x.data(), target.data()};
    std::vector<float> h(config.rows * config.width), dh(h);
    const sx::Shape shape = sx::shape(config.rows, config.width);

    sx::Cpu device;
    Trainer mine{device, comm, config, options}, theirs{device, comm, config, options};
    sx::StepResult by_hand, by_step;
    for (std::size_t s = 1; s <= steps; ++s) {
      by_hand = my_step(mine, batch, {h.data(), shape}, {dh.data(), shape});
      by_step = theirs.step(batch);
      if (comm.rank() == 0 && (s == 1 || s % 50 == 0))
        std::printf("step %3zu  loss %.6f  norm %.4f\n", s, by_hand.loss, by_hand.gradient_norm);
    }
    if (comm.rank() != 0) return;
    same = by_hand.loss == by_step.loss;
    std::printf("own loop %.9f, trainer.step %.9f: %s\n", by_hand.loss, by_step.loss,
                same ? "the same" : "DIFFERENT");
  });
  return same ? 0 : 1;
}
