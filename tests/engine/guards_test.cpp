// SPDX-License-Identifier: Apache-2.0
// The ways to full parameters and gradients for programs with a control flow of their own: they
// show what there is, refuse what would not be right, and train to the same bits as `step`.
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../support/by_hand.hpp"
#include "../support/train.hpp"
#include "../support/weights.hpp"
#include <doctest/doctest.h>

namespace {

using toy::Decoder;
using toy::Encoder;
using toy::Mixer;

template <class... Ps>
using Toy = sx::Sharded<toy::Autoencoder, Ps...>;

constexpr toy::Config config;
constexpr std::size_t units = config.depth + 2;

template <class T>
std::vector<float> copy(sx::Tensor<T> value) {
  return {value.data, value.data + value.count()};
}

/// Runs `body(comm, trainer)` on each rank, with a trainer and a device.
template <class Trainer, class Body>
void on_ranks(std::size_t world, Body body, const typename Trainer::Options& options = {}) {
  sx::launch(world, [&](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, config, options};
    body(comm, trainer);
  });
}
template <class Trainer>
double step(Trainer& trainer, std::size_t s, std::size_t rank) {
  std::vector<float> x(config.rows * config.inputs);
  toy::fill(x, s, rank);
  return trainer.step({x.data()}).loss;
}
/// The message of the ConfigError that `call` throws, empty if it throws none.
template <class Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const sx::ConfigError& error) {
    return error.what();
  }
  return {};
}

template <class Trainer>
constexpr std::size_t smallest_world =
    sx::detail::group_of<typename Trainer::Strategy::sharding> != 0 ? 4 : 1;

#define EVERY_SHARDING                                                                 \
  Toy<sx::FullShard>, Toy<sx::ShardGradOp>, Toy<sx::NoShard>, Toy<sx::HybridShard<2>>, \
      Toy<sx::PersistBelow<10>>, Toy<sx::WrapWhole>

// Parameters --------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("gather shows every rank what summon shows", Trainer, EVERY_SHARDING) {
  for (std::size_t world : {smallest_world<Trainer>, std::size_t{4}})
    on_ranks<Trainer>(world, [](auto& comm, auto& trainer) {
      (void)step(trainer, 0, comm.rank());
      const Weights summoned = weights_of(trainer);
      Weights gathered;
      {
        auto w = trainer.template gather<Encoder>();
        static_assert(std::is_same_v<decltype(w->weight), sx::Tensor<const float>>);
        gathered["encoder.weight"] = copy(w->weight);
        gathered["encoder.bias"] = copy((*w).bias);
      }
      for (std::size_t i = 0; i < config.depth; ++i) {
        auto w = trainer.template gather<Mixer>(i);
        gathered["mixer." + std::to_string(i) + ".weight"] = copy(w->weight);
        gathered["mixer." + std::to_string(i) + ".bias"] = copy(w->bias);
      }
      auto w = trainer.template gather<Decoder>();
      gathered["decoder.bias"] = copy(w->bias);
      CHECK(gathered == summoned);
      CHECK(copy(w->weight) == summoned.at("encoder.weight"));  // tied
    });
}

TEST_CASE("guards move, nest and share a unit") {
  using Trainer = Toy<sx::FullShard>;
  using Guard = sx::Gathered<Trainer, Mixer>;
  static_assert(!std::is_copy_constructible_v<Guard> && !std::is_move_assignable_v<Guard>);
  static_assert(std::is_nothrow_move_constructible_v<Guard>);
  on_ranks<Trainer>(2, [](auto& comm, auto& trainer) {
    const Weights all = weights_of(trainer);
    const sx::Traffic before = trainer.traffic();
    {
      std::optional<Guard> first{trainer.template gather<Mixer>(1)};
      const std::size_t once = trainer.traffic().total() - before.total();
      auto second = trainer.template gather<Mixer>(1);
      CHECK(trainer.traffic().total() - before.total() == once);  // it was there
      CHECK(second->weight.data == (*first)->weight.data);
      Guard third = std::move(second);
      first.reset();
      CHECK(copy(third->weight) == all.at("mixer.1.weight"));  // still held
      auto other = trainer.template gather<Mixer>(2);
      CHECK(copy(third->weight) == all.at("mixer.1.weight"));
      CHECK(copy(other->weight) == all.at("mixer.2.weight"));
    }
    {
      // The decoder holds the encoder's group for its tie, whoever leaves first.
      std::optional encoder{trainer.template gather<Encoder>()};
      auto decoder = trainer.template gather<Decoder>();
      CHECK(decoder->weight.data == (*encoder)->weight.data);
      encoder.reset();
      CHECK(copy(decoder->weight) == all.at("encoder.weight"));
    }
    CHECK(weights_of(trainer) == all);  // nobody holds anything: summon is allowed
    (void)step(trainer, 0, comm.rank());
  });
}

TEST_CASE("leaving a scope frees its memory; holding too much is refused and harms nothing") {
  using Trainer = Toy<sx::FullShard>;
  on_ranks<Trainer>(3, [](auto& comm, auto& trainer) {
    const Weights all = weights_of(trainer);
    for (int round = 0; round < 3; ++round)
      for (std::size_t i = 0; i < config.depth; ++i) {
        auto w = trainer.template gather<Mixer>(i);
        CHECK(copy(w->bias) == all.at("mixer." + std::to_string(i) + ".bias"));
      }
    for (int round = 0; round < 2; ++round) {
      auto decoder = trainer.template gather<Decoder>();
      std::vector<sx::Gathered<Trainer, Mixer>> held;
      const std::string refused = refusal([&] {
        for (std::size_t i = 0; i < config.depth; ++i)
          held.push_back(trainer.template gather<Mixer>(i));
      });
      CHECK(held.size() == 1);
      CHECK(refused ==
            "gather: toy::Mixer 1 needs 192 elements in one piece, 0 are free in all: leave the "
            "scope of another guard first");
      CHECK(copy(held[0]->weight) == all.at("mixer.0.weight"));
      CHECK(copy(decoder->weight) == all.at("encoder.weight"));
    }
    (void)step(trainer, 0, comm.rank());
  });
  // As if nothing had happened.
  CHECK(train_toy<Trainer>(3, 4, config) == train_toy<Toy<sx::NoShard>>(3, 4, config));
}

TEST_CASE("a tie that does not fit leaves nothing behind") {
  using Trainer = Toy<sx::FullShard>;
  on_ranks<Trainer>(2, [](auto& comm, auto& trainer) {
    {
      auto zero = trainer.template gather<Mixer>(0);
      auto one = trainer.template gather<Mixer>(1);
      // The decoder's own group fits, the encoder's then does not.
      CHECK(refusal([&] { (void)trainer.template gather<Decoder>(); }) ==
            "gather: toy::Encoder needs 128 elements in one piece, 0 are free in all: leave the "
            "scope of another guard first");
    }
    {
      auto decoder = trainer.template gather<Decoder>();
      auto two = trainer.template gather<Mixer>(2);
    }
    (void)step(trainer, 0, comm.rank());
  });
}

TEST_CASE_TEMPLATE("no verb runs while a guard lives", Trainer, Toy<sx::FullShard>,
                   Toy<sx::NoShard>) {
  on_ranks<Trainer>(2, [](auto& comm, auto& trainer) {
    const auto refused = [](const std::string& verb) {
      return verb + ": a guard of gather() is alive; leave its scope first";
    };
    std::vector<float> x(config.rows * config.inputs);
    {
      auto w = trainer.template gather<Mixer>();
      const auto moved = std::move(w);  // what is left does not count
      CHECK(refusal([&] { (void)trainer.step({x.data()}); }) == refused("step"));
      CHECK(refusal([&] { (void)trainer.evaluate({x.data()}); }) == refused("evaluate"));
      CHECK(refusal([&] { (void)trainer.apply(0); }) == refused("apply"));
      CHECK(refusal([&] { trainer.summon([](auto&&...) {}); }) == refused("summon"));
      CHECK(refusal([&] { trainer.summon(sx::WriteFrom{0}, [](auto&&...) {}); }) ==
            refused("summon"));
    }
    CHECK(step(trainer, 0, comm.rank()) > 0);
  });
}

TEST_CASE("a unit that is not there is refused by its name") {
  on_ranks<Toy<sx::FullShard>>(1, [](auto&, auto& trainer) {
    CHECK(refusal([&] { (void)trainer.template gather<Mixer>(config.depth); }) ==
          "gather: there is no toy::Mixer number 3, the model has 3, counted from 0");
    CHECK(refusal([&] { (void)trainer.template open_gradients<Decoder>(1); }) ==
          "open_gradients: there is no toy::Decoder number 1, the model has 1, counted from 0");
    CHECK(refusal([&] { (void)trainer.template gather<Mixer>(config.depth - 1); }).empty());
  });
}

struct TwoStages {
  using Config = toy::Config;
  using Batch = toy::Batch;
  using Units = sx::Units<Encoder, Mixer, sx::Repeat<Mixer, &Config::depth>, Decoder>;
};
TEST_CASE("units of one type are counted over the stages") {
  sx::launch(1, [](sx::Threads& comm) {
    sx::Cpu device;
    sx::Sharded<TwoStages, sx::NoShard> trainer{device, comm, config};
    std::vector<const float*> at;
    for (std::size_t i = 0; i <= config.depth; ++i)
      at.push_back(trainer.gather<Mixer>(i)->weight.data);
    for (std::size_t i = 1; i < at.size(); ++i) CHECK(at[i] > at[i - 1]);
    CHECK(refusal([&] { (void)trainer.gather<Mixer>(4); }) ==
          "gather: there is no toy::Mixer number 4, the model has 4, counted from 0");
  });
}

// A loop of one's own -----------------------------------------------------------------------------

/// One micro-batch by hand: what `step` does, in plain calls. `reduces`: gradients are complete.
template <class Trainer>
void pass_by_hand(Trainer& trainer, ByHand& pass, const toy::Batch& batch, bool reduces = true) {
  const auto forward = [&]<class U>(std::size_t u, std::size_t i, U) {
    auto w = trainer.template gather<U>(i);
    pass.forward<U>(trainer.context(), batch, u, *w);
  };
  const auto backward = [&]<class U>(std::size_t u, std::size_t i, U) {
    auto w = trainer.template gather<U>(i);
    auto dw = trainer.template open_gradients<U>(i);
    pass.backward<U>(trainer.context(), batch, u, *w, *dw);
    if (reduces) dw.reduce();
  };
  forward(0, 0, Encoder{});
  for (std::size_t i = 0; i < config.depth; ++i) forward(i + 1, i, Mixer{});
  forward(units - 1, 0, Decoder{});
  backward(units - 1, 0, Decoder{});
  for (std::size_t i = config.depth; i-- > 0;) backward(i + 1, i, Mixer{});
  backward(0, 0, Encoder{});
}

template <class Trainer>
Outcome train_by_hand(std::size_t world, std::size_t steps, std::size_t micro_batches = 1) {
  Outcome outcome;
  const auto body = [&](auto& comm, auto& trainer) {
    ByHand pass{config, units};
    pass.d_loss = 1.0f / static_cast<float>(micro_batches);
    const std::size_t size = config.rows * config.inputs;
    std::vector<float> x(micro_batches * size);
    for (std::size_t s = 0; s < steps; ++s) {
      toy::fill(x, s, comm.rank());
      double loss = 0;
      for (std::size_t m = 0; m < micro_batches; ++m) {
        const bool is_last = m + 1 == micro_batches;
        pass_by_hand(trainer, pass, {x.data() + m * size},
                     is_last || Trainer::Strategy::accumulation::reduce_each);
        loss += static_cast<double>(pass.loss);
      }
      const sx::StepResult result = trainer.apply(loss / static_cast<double>(micro_batches));
      if (comm.rank() != 0) continue;
      outcome.losses.push_back(result.loss);
      outcome.norms.push_back(result.gradient_norm);
    }
    CHECK(trainer.steps() == steps);
    for (const auto& [name, value] : weights_of(trainer))
      if (comm.rank() == 0)
        outcome.weights.insert(outcome.weights.end(), value.begin(), value.end());
  };
  on_ranks<Trainer>(world, body, {.optimizer = {}, .micro_batches = micro_batches});
  return outcome;
}
template <class Trainer>
Outcome train_by_steps(std::size_t world, std::size_t steps, std::size_t micro_batches = 1) {
  Outcome outcome;
  const auto body = [&](auto& comm, auto& trainer) {
    const std::size_t size = config.rows * config.inputs;
    std::vector<float> x(micro_batches * size);
    std::vector<toy::Batch> batches;
    for (std::size_t m = 0; m < micro_batches; ++m) batches.push_back({x.data() + m * size});
    for (std::size_t s = 0; s < steps; ++s) {
      toy::fill(x, s, comm.rank());
      const sx::StepResult result = trainer.step(batches);
      if (comm.rank() != 0) continue;
      outcome.losses.push_back(result.loss);
      outcome.norms.push_back(result.gradient_norm);
    }
    for (const auto& [name, value] : weights_of(trainer))
      if (comm.rank() == 0)
        outcome.weights.insert(outcome.weights.end(), value.begin(), value.end());
  };
  on_ranks<Trainer>(world, body, {.optimizer = {}, .micro_batches = micro_batches});
  return outcome;
}

TEST_CASE_TEMPLATE("a loop on guards trains to the bits of step", Trainer, EVERY_SHARDING) {
  for (std::size_t world = smallest_world<Trainer>; world <= 4; world += 1) {
    CAPTURE(world);
    const Outcome by_steps = train_by_steps<Trainer>(world, 6);
    CHECK(by_steps.losses.back() < by_steps.losses.front());
    CHECK(train_by_hand<Trainer>(world, 6) == by_steps);
  }
}

TEST_CASE_TEMPLATE("so it does with two micro-batches", Trainer, EVERY_SHARDING,
                   Toy<sx::ReduceAtEnd>, Toy<sx::NoShard, sx::ReduceAtEnd>) {
  const std::size_t world = smallest_world<Trainer> == 1 ? 3 : 4;
  CHECK(train_by_hand<Trainer>(world, 4, 2) == train_by_steps<Trainer>(world, 4, 2));
  CHECK(train_by_hand<Trainer>(world, 4, 2) != train_by_hand<Trainer>(world, 4));
}

TEST_CASE_TEMPLATE("apply names the units whose gradients are missing", Trainer, Toy<sx::FullShard>,
                   Toy<sx::NoShard>) {
  const auto body = [](auto&, auto& trainer) {
    CHECK(refusal([&] { (void)trainer.apply(0); }) ==
          "apply: gradients were not opened and reduced since the last update, of toy::Encoder, "
          "toy::Mixer 0, toy::Mixer 1, toy::Mixer 2, toy::Decoder");
    trainer.template open_gradients<Decoder>().reduce();
    for (std::size_t i : {2, 1}) trainer.template open_gradients<Mixer>(i).reduce();
    (void)trainer.template open_gradients<Mixer>(0);  // and forgotten
    CHECK(refusal([&] { (void)trainer.apply(0); }) ==
          "apply: gradients were not opened and reduced since the last update, of toy::Encoder, "
          "toy::Mixer 0");
    trainer.template open_gradients<Mixer>(0).reduce();
    trainer.template open_gradients<Encoder>().reduce();
    CHECK(trainer.apply(0.25).loss == 0.25);
    CHECK(trainer.steps() == 1);
    CHECK(refusal([&] { (void)trainer.apply(0); }) != "");  // each update wants new ones
  };
  on_ranks<Trainer>(2, body);
}

TEST_CASE("apply wants as many reductions as a step has micro-batches") {
  using Trainer = Toy<sx::FullShard>;
  const auto body = [](auto&, auto& trainer) {
    ByHand pass{config, units};
    std::vector<float> x(config.rows * config.inputs);
    pass_by_hand(trainer, pass, {x.data()});
    CHECK(refusal([&] {
            (void)trainer.apply(0);
          }).find("not opened and reduced 2 times since the last update, of toy::Encoder") !=
          std::string::npos);
    pass_by_hand(trainer, pass, {x.data()});
    CHECK(refusal([&] { pass_by_hand(trainer, pass, {x.data()}); }).find("reduced already") !=
          std::string::npos);
    (void)trainer.apply(0);
  };
  on_ranks<Trainer>(2, body, {.optimizer = {}, .micro_batches = 2});
}

TEST_CASE_TEMPLATE("what would lose gradients is refused", Trainer, Toy<sx::FullShard>,
                   Toy<sx::NoShard>, Toy<sx::WrapWhole>) {
  on_ranks<Trainer>(2, [](auto& comm, auto& trainer) {
    const Weights before = weights_of(trainer);
    {
      // Not in backward order: the decoder still adds to the encoder's weight.
      auto encoder = trainer.template open_gradients<Encoder>();
      CHECK(refusal([&] { encoder.reduce(); }).find("gradients of toy::Encoder wait for") !=
            std::string::npos);
      CHECK(encoder->weight.data != nullptr);  // refused, not reduced
    }
    const std::string waits =
        "step: gradients of open_gradients() wait for apply(); call that first, or "
        "drop_gradients()";
    CHECK(refusal([&] { (void)step(trainer, 0, 0); }) == waits);

    auto decoder = trainer.template open_gradients<Decoder>();
    auto moved = std::move(decoder);
    const std::string again = "reduce: this guard was reduced before, or moved away: open another";
    CHECK(refusal([&] { decoder.reduce(); }) == again);
    moved.reduce();
    CHECK(moved->bias.data == nullptr);
    CHECK(refusal([&] { moved.reduce(); }) == again);
    CHECK(refusal([&] { (void)trainer.template open_gradients<Decoder>(); }) ==
          "open_gradients: those of toy::Decoder are reduced already; call apply() or "
          "drop_gradients() first");
    CHECK(refusal([&] { (void)step(trainer, 0, 0); }) == waits);

    auto late = trainer.template open_gradients<Mixer>(2);
    trainer.drop_gradients();
    CHECK(refusal([&] { late.reduce(); }) ==
          "reduce: the gradients of toy::Mixer 2 are not open any more");
    CHECK(weights_of(trainer) == before);
    (void)step(trainer, 0, comm.rank());
  });
}

TEST_CASE_TEMPLATE("after drop_gradients all goes on as if they had not been", Trainer,
                   Toy<sx::FullShard>, Toy<sx::ShardGradOp>, Toy<sx::NoShard>) {
  const auto last_loss = [](bool drops) {
    double loss = 0;
    on_ranks<Trainer>(2, [&](auto& comm, auto& trainer) {
      ByHand pass{config, units};
      std::vector<float> x(config.rows * config.inputs, 3.0f);
      if (drops) {
        pass_by_hand(trainer, pass, {x.data()});
        trainer.drop_gradients();
        {
          auto half = trainer.template open_gradients<Decoder>();
          half->bias[0] = 100;
        }
        trainer.drop_gradients();
      }
      toy::fill(x, 0, comm.rank());
      pass_by_hand(trainer, pass, {x.data()});
      (void)trainer.apply(0);
      const double mine = step(trainer, 1, comm.rank());
      if (comm.rank() == 0) loss = mine;
    });
    return loss;
  };
  CHECK(last_loss(true) == last_loss(false));
}

TEST_CASE("opening more gradients than a step does is refused and harms nothing") {
  using Trainer = Toy<sx::FullShard>;
  const Outcome reference = train_by_steps<Trainer>(2, 1);
  on_ranks<Trainer>(2, [&](auto& comm, auto& trainer) {
    std::vector<sx::OpenGradients<Trainer, Mixer>> open;
    const std::string refused = refusal([&] {
      (void)trainer.template open_gradients<Decoder>();
      for (std::size_t i = config.depth; i-- > 0;)
        open.push_back(trainer.template open_gradients<Mixer>(i));
    });
    CHECK(refused.find("do not fit beside what is open: reduce another unit first") !=
          std::string::npos);
    trainer.drop_gradients();
    CHECK(step(trainer, 0, comm.rank()) == reference.losses[0]);
  });
}

// Failures ----------------------------------------------------------------------------------------

TEST_CASE("an exception in the scope of a guard ends every rank") {
  using Trainer = Toy<sx::FullShard>;
  for (std::size_t bad = 0; bad < 3; ++bad)
    for (int where = 0; where < 3; ++where) {
      CAPTURE(bad);
      CAPTURE(where);
      try {
        on_ranks<Trainer>(3, [&](auto& comm, auto& trainer) {
          const auto fail_at = [&](int here) {
            if (comm.rank() == bad && here == where) throw std::runtime_error("planted");
          };
          auto outer = trainer.template gather<Mixer>(0);
          fail_at(0);  // the others wait in the next gather
          {
            auto inner = trainer.template gather<Decoder>();
            auto dw = trainer.template open_gradients<Decoder>();
            fail_at(1);  // in a reduction, each with two guards
            dw.reduce();
          }
          auto next = trainer.template gather<Mixer>(1);
          fail_at(2);
          auto dw = trainer.template open_gradients<Mixer>(2);
          dw.reduce();
        });
        FAIL("no error");
      } catch (const sx::RankError& error) {
        CHECK(error.rank() == bad);
        CHECK(error.what() == "rank " + std::to_string(bad) + ": planted");
      }
    }
}

TEST_CASE_TEMPLATE("what a visitor throws everywhere leaves a trainer that goes on", Trainer,
                   Toy<sx::FullShard>, Toy<sx::WrapWhole>, Toy<sx::NoShard>) {
  const Outcome reference = train_by_steps<Trainer>(2, 3);
  on_ranks<Trainer>(2, [&](auto& comm, auto& trainer) {
    std::size_t s = 0;
    for (const std::string at : {"encoder.weight", "mixer.1.bias", "decoder.bias"}) {
      CHECK_THROWS_AS(trainer.summon([&](const std::string& name, auto) {
        if (name == at) throw std::logic_error("enough");
      }),
                      std::logic_error);
      CHECK(step(trainer, s, comm.rank()) == reference.losses[s]);
      ++s;
    }
  });
}

// Writing -----------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("what one rank writes becomes every rank's, and trains on", Trainer,
                   EVERY_SHARDING) {
  const std::size_t world = smallest_world<Trainer> == 1 ? 3 : 4;
  typename Trainer::Options other;
  other.seed = 7;
  Weights wanted;
  std::vector<double> losses;
  on_ranks<Trainer>(
      world,
      [&](auto& comm, auto& trainer) {
        const Weights mine = weights_of(trainer);
        if (comm.rank() == 0) wanted = mine;
        for (std::size_t s = 0; s < 3; ++s) {
          const double loss = step(trainer, s, comm.rank());
          if (comm.rank() == 0) losses.push_back(loss);
        }
      },
      other);
  for (std::size_t writer = 0; writer < world; ++writer) {
    CAPTURE(writer);
    on_ranks<Trainer>(world, [&](auto& comm, auto& trainer) {
      CHECK(weights_of(trainer) != wanted);
      std::size_t visits = 0;
      trainer.summon(sx::WriteFrom{writer}, [&](const std::string& name, auto value) {
        static_assert(std::is_same_v<decltype(value), sx::Tensor<float>>);
        ++visits;
        const std::vector<float>& from = wanted.at(name);
        REQUIRE(value.count() == from.size());
        std::copy(from.begin(), from.end(), value.data);
      });
      CHECK(visits == (comm.rank() == writer ? 2 * config.depth + 3 : 0));
      trainer.summon([&](const std::string& name, auto value) {
        static_assert(std::is_same_v<decltype(value), sx::Tensor<const float>>);
        CHECK(copy(value) == wanted.at(name));
      });
      for (std::size_t s = 0; s < 3; ++s) CHECK(step(trainer, s, comm.rank()) == losses[s]);
    });
  }
}

TEST_CASE("a rank that does not exist can write nothing, on any rank") {
  on_ranks<Toy<sx::FullShard>>(2, [](auto& comm, auto& trainer) {
    CHECK(refusal([&] { trainer.summon(sx::WriteFrom{2}, [](auto&&...) {}); }) ==
          "summon: WriteFrom{2} in a world of 2 ranks: the last is 1");
    CHECK(step(trainer, 0, comm.rank()) > 0);
  });
}

TEST_CASE("a writer that throws ends every rank") {
  try {
    on_ranks<Toy<sx::FullShard>>(2, [](auto&, auto& trainer) {
      trainer.summon(sx::WriteFrom{1}, [](auto&&...) { throw std::runtime_error("no"); });
    });
    FAIL("no error");
  } catch (const sx::RankError& error) {
    CHECK(std::string{error.what()} == "rank 1: no");
  }
}

TEST_CASE_TEMPLATE("summon gathers each group once", Trainer, Toy<sx::FullShard>,
                   Toy<sx::WrapWhole>, Toy<sx::WrapEach<Mixer>>) {
  on_ranks<Trainer>(2, [](auto&, auto& trainer) {
    std::size_t elements = 0;
    for (std::size_t g = 0; g < trainer.layout().group_count(); ++g)
      elements += trainer.layout().group(g).gathered;
    std::size_t before = trainer.traffic().all_gather_bytes;
    (void)weights_of(trainer);
    CHECK(trainer.traffic().all_gather_bytes - before == elements / 2 * sizeof(float));
    before = trainer.traffic().total();
    const std::size_t ahead = trainer.traffic().all_gather_bytes;
    trainer.summon(sx::WriteFrom{0}, [](auto&&...) {});
    CHECK(trainer.traffic().all_gather_bytes - ahead == elements / 2 * sizeof(float));
  });
}

}  // namespace
