// SPDX-License-Identifier: Apache-2.0
// A solver over MPI that trains a closure while it runs. The program is the solver's: it owns main,
// MPI and the time loop. The trainer is given the solver's communicator and batches that point into
// the solver's arrays, and keeps parameters, gradients and moments in parts on the same processes.
#include <shardexpr/comm/mpi.hpp>
#include <shardexpr/shardexpr.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <limits>
#include <stdexcept>
#include <string>

#include "closure.hpp"
#include "learned.hpp"
#include "lesson.hpp"
#include "options.hpp"
#include "report.hpp"
#include "solver.hpp"
#include <mpi.h>

namespace {

// The strategy is this type. ShardGradOp, NoShard, ... in the place of FullShard give the same
// closure to the bit; only what a process holds and sends is another.
using Trainer = sx::Sharded<Closure, sx::FullShard, sx::WrapWhole, sx::Adam, sx::Over<sx::Mpi>>;

/// Of the coarse grid: the flow crosses no more than 0.8 of a cell in a step.
struct Steps {
  int count;
  double dt;
  explicit Steps(const Options& o)
      : count{static_cast<int>(std::ceil(o.time * o.cells * Flow::fastest() / 0.8))},
        dt{o.time / count} {}
};

int updates_of_run(const Options& o) { return (Steps{o}.count + o.every - 1) / o.every; }

/// Adds the seconds that work takes to a total.
template <class Work>
auto timed(double& seconds, Work work) {
  struct Clock {
    double& total;
    std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
    ~Clock() {
      total += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
  } const clock{seconds};
  return work();
}

/// What the coarse grid does in one step, a finer one does in more.
template <class Closing = NoClosure>
void step(Solver& solver, int fine, double t, double dt, Closing&& closure = {}) {
  for (int s = 0; s < fine; ++s) solver.step(t + s * dt / fine, dt / fine, closure);
}

/// The time loop of the fine grid, and in it the training.
void train(const Processes& processes, const Options& o, Trainer& trainer) {
  const Steps steps{o};
  const bool speaks = processes.rank == 0;
  Solver fine{processes, o.cells, o.refinement, o.diffusivity};
  Lesson lesson{processes, o.cells, o.diffusivity};
  Output log{processes, o, "training.txt"};
  for (int run = 0; run < o.runs; ++run) {
    double solving = 0, training = 0, sum = 0;
    fine.start(seed_of(o.seed, run));
    for (int k = 0; k < steps.count; ++k) {
      const double t = k * steps.dt;
      if (k % o.every == 0) {
        const Batch batch = timed(solving, [&] { return lesson.of(fine, t); });
        const double loss = timed(training, [&] { return trainer.step(batch).loss; });
        log.line(trainer.steps(), loss);
        sum += loss;
      }
      timed(solving, [&] { step(fine, o.refinement, t, steps.dt); });
    }
    if (speaks)
      std::printf("  run %2d  loss %.4f  seconds: solver %.2f, training %.2f\n", run + 1,
                  sum / updates_of_run(o), solving, training);
  }
}

/// From a start and in a flow that training has not seen, for twice as long. The least factor by
/// which the closure divides the error.
double test(const Processes& processes, const Options& o, int number, Trainer& trainer,
            Learned& closure) {
  const Steps steps{o};
  const bool speaks = processes.rank == 0;
  const auto grid = [&](int fine) { return Solver{processes, o.cells, fine, o.diffusivity}; };
  Solver fine = grid(o.refinement), plain = grid(1), closed = grid(1),
         half = grid(o.refinement / 2);
  Lesson lesson{processes, o.cells, o.diffusivity};
  Comparison comparison{processes, o.cells};
  Output log{processes, o,
             number == 0 ? "errors.txt" : "errors" + std::to_string(number + 1) + ".txt"};
  const std::string half_cells = std::to_string(half.block.cells);
  const std::string half_name = "plain, " + half_cells + " x " + half_cells;
  log.line("\"time\"", "\"plain\"", "\"with closure\"", "\"" + half_name + "\"");
  fine.start(seed_of(o.seed, -1 - number));
  for (Solver* coarser : {&plain, &closed, &half}) {
    coarser->flow = fine.flow;
    coarser->restrict_from(fine);
  }
  const auto total = [&](const Solver& s) {
    return processes.sum(std::array{s.block.inner(s.c).sum()})[0];
  };
  const double before = total(closed);
  double least = std::numeric_limits<double>::infinity();
  double fine_seconds = 0, plain_seconds = 0, closed_seconds = 0, half_seconds = 0;

  if (speaks)
    std::printf("test %d\n  time   error: plain   with closure   gain   %16s   loss\n", number + 1,
                half_name.c_str());
  for (int k = 0; k < 2 * steps.count; ++k) {
    const double t = k * steps.dt;
    timed(fine_seconds, [&] { step(fine, o.refinement, t, steps.dt); });
    timed(plain_seconds, [&] { step(plain, 1, t, steps.dt); });
    timed(closed_seconds, [&] { step(closed, 1, t, steps.dt, closure); });
    timed(half_seconds, [&] { step(half, o.refinement / 2, t, steps.dt); });
    const double now = t + steps.dt;
    const auto [plain_error, error, half_error] = comparison.errors(fine, plain, closed, half);
    log.line(now, plain_error, error, half_error);
    if (4 * (k + 1) / (2 * steps.count) == 4 * k / (2 * steps.count)) continue;  // four lines
    const double gain = std::isfinite(error) ? plain_error / error : 0;
    least = std::min(least, gain);
    const double loss = trainer.evaluate(lesson.of(fine, now));
    if (speaks)
      std::printf("  %.2f   %12.4f   %12.4f   %.2f   %16.4f   %.4f\n", now, plain_error, error,
                  gain, half_error, loss);
  }
  const double change = std::abs(total(closed) - before) / (o.cells * o.cells);
  if (speaks)
    std::printf(
        "  the mean of c changed by %.1e; seconds: plain %.3f, with closure %.3f, %s %.3f, "
        "reference %.3f\n",
        change, plain_seconds, closed_seconds, half_name.c_str(), half_seconds, fine_seconds);
  if (speaks && !(change < 1e-12))
    throw std::runtime_error("the closure does not conserve: the mean of c changed by " +
                             detail::text_of(change));
  if (number == 0) {
    write_field(processes, o, fine, "reference.txt");
    write_field(processes, o, plain, "plain.txt");
    write_field(processes, o, closed, "closed.txt");
  }
  return least;
}

int run(const Processes& processes, const Options& o) {
  const bool speaks = processes.rank == 0;
  const int most = std::max(processes.count[0], processes.count[1]);
  if (o.cells / most < halo)
    throw BadInput("--cells " + std::to_string(o.cells) + " over " + std::to_string(most) +
                   " processes a side leaves blocks narrower than a halo; give at least " +
                   std::to_string(halo * most) + ", or fewer processes");
  check_output(processes, o);

  // [trainer]
  sx::Cpu device;
  sx::Mpi comm{processes.comm};  // a duplicate of the solver's: their messages do not meet
  // [trainer end]
  Config config{.faces = 0, .width = o.width, .depth = o.depth};
  const auto widest = [&](std::size_t axis) {
    return static_cast<std::size_t>((o.cells + processes.count[axis] - 1) / processes.count[axis]);
  };
  config.faces = 2 * widest(0) * widest(1);
  Trainer::Options options{.optimizer = {.learning_rate = o.lr}, .seed = o.seed};
  const auto updates =
      static_cast<std::size_t>(o.runs) * static_cast<std::size_t>(updates_of_run(o));
  if (updates > 0)
    options.schedule =
        sx::LearningRateSchedule::warmup_cosine(std::min<std::size_t>(20, updates), updates, 0.02);
  Trainer trainer{device, comm, config, options};

  if (speaks)
    std::printf(
        "%d x %d cells, reference %d x %d, over %d x %d processes\n"
        "training: %d runs of %d steps, %d updates each\n",
        o.cells, o.cells, o.cells * o.refinement, o.cells * o.refinement, processes.count[0],
        processes.count[1], o.runs, Steps{o}.count, updates_of_run(o));
  train(processes, o, trainer);
  Learned closure{config, Block{processes, o.cells, 1}};
  closure.take(trainer);
  double least = std::numeric_limits<double>::infinity();
  for (int number = 0; number < o.tests; ++number)
    least = std::min(least, test(processes, o, number, trainer, closure));
  const bool is_good = o.assert_gain == 0 || least >= o.assert_gain;
  if (speaks)
    std::printf("least gain %.2f%s\n", least,
                o.assert_gain == 0 ? ""
                : is_good          ? ": as asserted"
                                   : ": LESS THAN ASSERTED");
  return is_good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  int threads = 0, status = 0;
  // The streams of Cpu{} have no threads: whoever calls the trainer calls MPI.
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &threads);
  sx::nn::use_one_blas_thread();
  {
    const Processes processes{MPI_COMM_WORLD};
    try {
      const Options o = parse_options(argc, argv);
      if (!o.help)
        status = run(processes, o);
      else if (processes.rank == 0)
        std::fputs(usage, stdout);
    } catch (const BadInput& error) {  // every process has found it
      if (processes.rank == 0) std::fprintf(stderr, "simulation: %s\n", error.what());
      status = 2;
    } catch (const std::exception& error) {  // perhaps this one alone: the others would wait
      std::fprintf(stderr, "simulation: process %d: %s\n", processes.rank, error.what());
      MPI_Abort(MPI_COMM_WORLD, 1);
    }
  }
  MPI_Finalize();
  return status;
}
