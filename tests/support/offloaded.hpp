// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/checked.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>
#include <shardexpr/plan/places.hpp>
#include <shardexpr/plan/swap_layout.hpp>

#include <cstddef>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "check_plan.hpp"
#include "scratch.hpp"
#include "train.hpp"
#include <doctest/doctest.h>

// Runs of strategies that offload beside the same without it: one way to train both.

template <class... Ps>
using Toy = sx::Sharded<toy::Autoencoder, Ps...>;
using Mixed = sx::MixedPrecision<sx::bf16, sx::bf16>;
template <class Parameters, class Optimizer>
using In = sx::Offload<Parameters, Optimizer>;
using sx::OnDevice;
using sx::OnHost;
using sx::OnNvme;
using Chunks = sx::OnNvmeBy<32768>;

/// Where the file of a rank has what.
template <class S>
sx::detail::SwapLayout<S> file_of(const toy::Config& config, std::size_t world) {
  const sx::Layout<toy::Autoencoder> layout{config, sx::mesh_shape<S>(world).shards,
                                            sx::detail::grouping_of<S, toy::Autoencoder>()};
  return sx::detail::SwapLayout<S>{sx::detail::kept_flats<S>(layout, false)};
}

/// Who trains what, how often.
struct Job {
  std::size_t world = 2, steps = 4, micro_batches = 1;
  toy::Config config{};
  shardexpr::Execution execution = shardexpr::Execution::immediate;
};

/// A rank's device, of those that check too.
template <class Device>
Device device_of(std::size_t rank, shardexpr::Execution execution) {
  if constexpr (std::is_constructible_v<Device, shardexpr::CheckOptions, shardexpr::Execution>)
    return Device{shardexpr::CheckOptions{rank + 1, {}}, execution};
  else if constexpr (std::is_constructible_v<Device, shardexpr::Execution>)
    return Device{execution};
  else
    return Device{};
}

/// Gives options a directory, if they want one.
template <class Options>
void put_on_disk([[maybe_unused]] Options& options, [[maybe_unused]] const std::string& path) {
  if constexpr (requires { options.nvme.directory; }) {
    options.nvme.directory = path;
    options.nvme.notice = [](const std::string&) {};  // no O_DIRECT here, perhaps
  }
}

/// Runs `body(comm, device, trainer)` on each rank, its file, if any, in a directory that all ranks
/// share, and which is empty at the end. `change(options)` before.
template <class Trainer, class Change, class Body>
void on_ranks(const Job& job, Change change, Body body) {
  const Scratch scratch;
  shardexpr::launch(job.world, [&](shardexpr::Threads& comm) {
    auto device = device_of<typename Trainer::Device>(comm.rank(), job.execution);
    typename Trainer::Options options;
    options.micro_batches = job.micro_batches;
    put_on_disk(options, scratch.path());
    change(options);
    Trainer trainer{device, comm, job.config, options};
    body(comm, device, trainer);
  });
  CHECK(scratch.is_empty());
}
inline constexpr auto as_it_is = [](auto&) {};

/// Rows of one step of a rank, by micro-batch.
class Rows {
 public:
  Rows(const Job& job, std::size_t rank)
      : rank_{rank},
        rows_(job.micro_batches, std::vector<float>(job.config.rows * job.config.inputs)) {
    for (const auto& x : rows_) batches_.push_back({x.data()});
  }
  const std::vector<toy::Batch>& of_step(std::size_t s) {
    for (std::size_t m = 0; m < rows_.size(); ++m) toy::fill(rows_[m], s * rows_.size() + m, rank_);
    return batches_;
  }

 private:
  std::size_t rank_;
  std::vector<std::vector<float>> rows_;
  std::vector<toy::Batch> batches_;
};

/// Appends all parameters, as rank 0 sees them. Collective.
template <class Trainer>
void append_weights(Trainer& trainer, std::size_t rank, std::vector<float>& to) {
  trainer.summon([&](const std::string&, auto value) {
    if (rank != 0) return;
    for (std::size_t i = 0; i < value.count(); ++i) to.push_back(static_cast<float>(value[i]));
  });
}
inline void append(const shardexpr::StepResult& result, std::size_t rank, Outcome& to) {
  if (rank != 0) return;
  to.losses.push_back(result.loss);
  to.norms.push_back(result.gradient_norm);
}

/// Trains, and compares plan and run to the byte.
template <class Trainer, class Change>
Outcome train(const Job& job, Change change) {
  Outcome outcome;
  on_ranks<Trainer>(job, change, [&](auto& comm, auto& device, auto& trainer) {
    Rows rows{job, comm.rank()};
    for (std::size_t s = 0; s < job.steps; ++s)
      append(trainer.step(rows.of_step(s)), comm.rank(), outcome);
    const auto plan = shardexpr::plan<Trainer>(job.config, job.world, job.micro_batches);
    check_places(plan, device, trainer, job.steps);
    CHECK(device.account().peak_bytes() == plan.device_peak_bytes);
    append_weights(trainer, comm.rank(), outcome.weights);
  });
  return outcome;
}
template <class Trainer>
Outcome train(const Job& job) {
  return train<Trainer>(job, as_it_is);
}

/// All that a program sees which has a control flow of its own.
struct Story {
  std::vector<float> gathered;
  double evaluated = 0;
  Outcome outcome;
  std::vector<float> written;
};

/// A gradient by a formula, one that a 16-bit dtype holds, added to what there is, where a loop of
/// one's own enqueues its work.
template <class D, class G>
void add_formula(const shardexpr::Context<D>& on, shardexpr::Tensor<G> gradient, std::size_t salt) {
  on.run(shardexpr::reads(gradient), shardexpr::writes(gradient), [=] {
    for (std::size_t i = 0; i < gradient.count(); ++i)
      gradient[i] = static_cast<G>(static_cast<float>(gradient[i]) +
                                   static_cast<float>((i * 5 + salt * 3) % 17) / 16.0f - 0.5f);
  });
}
/// Opens and reduces the gradients of every unit, in backward order.
template <class Trainer>
void reduce_formulas(Trainer& trainer, std::size_t depth, std::size_t salt) {
  const auto reduce = [&]<class Unit>(std::size_t i, Unit) {
    auto dw = trainer.template open_gradients<Unit>(i);
    add_formula(trainer.context(), dw->weight, salt + i);
    add_formula(trainer.context(), dw->bias, salt + i + 1);
    dw.reduce();
  };
  reduce(0, toy::Decoder{});
  for (std::size_t i = depth; i-- > 0;) reduce(i, toy::Mixer{});
  reduce(0, toy::Encoder{});
}

/// Steps; gathers; evaluates; a loop of one's own; gradients that are dropped, of a whole step and
/// of a part of one; parameters written by each rank in turn, once before there is a step.
template <class Trainer>
Story tell_story(const Job& job) {
  Story story;
  on_ranks<Trainer>(job, as_it_is, [&](auto& comm, auto&, auto& trainer) {
    const std::size_t rank = comm.rank(), depth = job.config.depth;
    Rows rows{job, rank};
    const auto write = [&](std::size_t from, float by) {
      trainer.summon(shardexpr::WriteFrom{from}, [&](const std::string&, auto value) {
        using T = typename Trainer::Storage;
        for (std::size_t i = 0; i < value.count(); ++i)
          value[i] = static_cast<T>(static_cast<float>(value[i]) * by +
                                    static_cast<float>(i % 7) / 512.0f);
      });
    };
    std::size_t s = 0;
    const auto step = [&] { append(trainer.step(rows.of_step(s++)), rank, story.outcome); };
    write(0, 1.25f);
    step();
    step();
    const auto show = [&]<class Unit>(std::size_t i, Unit) {
      auto w = trainer.template gather<Unit>(i);
      const auto on = trainer.context();
      for (const auto& value : {w->weight, w->bias})
        on.run(shardexpr::reads(value), shardexpr::writes(), [=, to = &story.gathered] {
          for (std::size_t k = 0; rank == 0 && k < value.count(); ++k)
            to->push_back(static_cast<float>(value[k]));
        });
      on.device.synchronize(on.stream);
    };
    show(0, toy::Encoder{});
    for (std::size_t i = 0; i < depth; ++i) show(i, toy::Mixer{});
    show(0, toy::Decoder{});
    const double evaluated = trainer.evaluate(rows.of_step(s)[0]);
    if (rank == 0) story.evaluated = evaluated;

    for (std::size_t m = 0; m < job.micro_batches; ++m) reduce_formulas(trainer, depth, m + rank);
    append(trainer.apply(0.5), rank, story.outcome);
    step();
    // Of these nothing may be left, in the norm or in what is added to.
    for (std::size_t m = 0; m < job.micro_batches; ++m) reduce_formulas(trainer, depth, m + rank);
    trainer.drop_gradients();
    step();
    {
      auto dw = trainer.template open_gradients<toy::Decoder>();
      add_formula(trainer.context(), dw->bias, rank);
      dw.reduce();
    }
    trainer.drop_gradients();
    step();
    for (std::size_t from = 0; from < job.world; ++from) {
      write(from, 0.75f);
      append_weights(trainer, rank, story.written);
      step();
    }
    step();
    append_weights(trainer, rank, story.outcome.weights);
  });
  return story;
}

/// Every part of both is the same, and says something.
inline void check_same(const Story& told, const Story& wanted) {
  REQUIRE(!wanted.gathered.empty());
  REQUIRE(!wanted.written.empty());
  REQUIRE(!wanted.outcome.weights.empty());
  CHECK(wanted.evaluated > 0);
  CHECK(told.gathered == wanted.gathered);
  CHECK(told.evaluated == wanted.evaluated);
  CHECK(told.outcome.losses == wanted.outcome.losses);
  CHECK(told.outcome.norms == wanted.outcome.norms);
  CHECK(told.written == wanted.written);
  CHECK(told.outcome.weights == wanted.outcome.weights);
}

/// What a loss scale, or its absence, does about gradients that are not finite.
struct Spoiled {
  std::vector<bool> skipped;
  std::vector<std::string> errors;  // by rank
  std::vector<float> weights;
};
/// Trains 5 steps, or 4 and one that is tried again; in step 2 the gradient of unit `unit`, of 5,
/// is spoiled in one rank.
template <class Trainer>
Spoiled train_spoiled(const Job& job, std::size_t rank, int unit, float value) {
  Spoiled spoiled;
  spoiled.errors.resize(job.world);
  on_ranks<Trainer>(job, as_it_is, [&](auto& comm, auto&, auto& trainer) {
    Rows rows{job, comm.rank()};
    for (std::size_t s = 0, batch = 0; s < 5; ++s) {
      if (s == 2 && comm.rank() == rank) toy::poison = {4 - unit, value};
      try {
        const shardexpr::StepResult result = trainer.step(rows.of_step(batch));
        batch += !result.is_skipped;
        if (comm.rank() == 0) spoiled.skipped.push_back(result.is_skipped);
      } catch (const shardexpr::NotFiniteError& error) {
        spoiled.errors[comm.rank()] = error.what();
      }
      toy::poison = {};
    }
    CHECK(trainer.steps() == 4);
    append_weights(trainer, comm.rank(), spoiled.weights);
  });
  return spoiled;
}

/// The same of a trainer with a dynamic loss scale and of one without, for every unit and rank:
/// nothing moves, and the run goes on to the bits of `Plain`, a strategy that keeps all on the
/// device.
template <class Plain, class Scaled, class Bare>
void check_not_finite() {
  const Job job{.config = {.inputs = 13, .width = 17, .depth = 3, .rows = 3}};
  Job four = job;
  four.steps = 4;
  const Outcome plain = train<Plain>(four);
  const char* const names[] = {
      "encoder.bias of unit toy::Encoder", "mixer.0.bias of unit toy::Mixer 0",
      "mixer.1.bias of unit toy::Mixer 1", "mixer.2.bias of unit toy::Mixer 2",
      "decoder.bias of unit toy::Decoder"};
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()})
    for (std::size_t rank = 0; rank < job.world; ++rank)
      for (int unit = 0; unit < 5; ++unit) {
        CAPTURE(unit);
        CAPTURE(rank);
        const Spoiled scaled = train_spoiled<Scaled>(job, rank, unit, value);
        CHECK(scaled.skipped == std::vector<bool>{false, false, true, false, false});
        CHECK(scaled.weights == plain.weights);
        const Spoiled bare = train_spoiled<Bare>(job, rank, unit, value);
        for (const std::string& error : bare.errors)
          CHECK(error == "step 3: the gradient of " + std::string{names[unit]} +
                             " is not finite; nothing was updated: leave the batch out, or add a "
                             "loss scale, which skips such steps");
        CHECK(bare.weights == plain.weights);
      }
}
