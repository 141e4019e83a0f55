// SPDX-License-Identifier: Apache-2.0
// Trains a GPT on any text under one of the strategies that this program was compiled with. The
// strategy is picked once, below, by name; from there on everything is known to the compiler.
#include <shardexpr/shardexpr.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "options.hpp"
#include "report.hpp"
#include "text.hpp"
#include "train_gpt_strategies.hpp"  // made by CMake from TRAIN_GPT_STRATEGIES

namespace sx = shardexpr;

namespace {

sx::GptConfig config_of(const Options& o) {
  return {.vocabulary = Text::vocabulary,
          .context = o.context,
          .embed = o.embed,
          .heads = o.heads,
          .layers = o.layers,
          .batch = o.batch};
}

/// Refuses before allocating what this machine cannot hold.
void check_fits(const char* needs, double rank_bytes, std::size_t ranks) {
  const double needed = rank_bytes * static_cast<double>(ranks);
  if (needed > machine_bytes())
    throw BadInput(needs + human_bytes(needed) + " (" + std::to_string(ranks) +
                   (ranks == 1 ? " rank of " : " ranks of ") + human_bytes(rank_bytes) +
                   "), this machine has " + human_bytes(machine_bytes()) +
                   "; take fewer ranks or a smaller model");
}

struct Result {
  double loss = 0;
  Measured measured;
};

template <class Trainer>
sx::Plan plan_for(const Options& o) {
  if (std::is_same_v<typename Trainer::Strategy::communicator, sx::Solo> && o.ranks != 1)
    throw BadInput("the strategy runs over Solo, one rank; give --ranks 1");
  // A plan counts in 64 bits, which an absurd job overflows; what blocks hand on alone is too much.
  const double outputs = 4.0 * static_cast<double>(o.batch) * static_cast<double>(o.context) *
                         static_cast<double>(o.embed) * static_cast<double>(o.layers);
  if (outputs > 0x1p50) check_fits("the job needs more than ", outputs, o.ranks);
  const sx::Plan plan = sx::plan<Trainer>(config_of(o), o.ranks);
  check_fits("the job needs ", static_cast<double>(plan.device_peak_bytes), plan.world);
  return plan;
}

/// Runs `body(comm)` in each rank of the strategy's communicator.
template <class Comm, class Body>
void run_ranks(std::size_t ranks, Body body) {
  if constexpr (std::is_same_v<Comm, sx::Solo>) {
    Comm comm;
    body(comm);
  } else {
    sx::launch(ranks, body);
  }
}

/// Trains over `o.ranks` ranks; rank 0 writes the log and the progress.
template <class Trainer>
Result train(const Options& o, const Text& text, Log& log) {
  using Clock = std::chrono::steady_clock;
  const sx::GptConfig config = config_of(o);
  Result out;
  run_ranks<typename Trainer::Strategy::communicator>(o.ranks, [&](auto& comm) {
    sx::Cpu device;
    typename Trainer::Options options;
    options.optimizer.learning_rate = o.lr;
    options.seed = o.seed;
    Trainer trainer{device, comm, config, options};
    std::vector<std::int32_t> tokens(config.tokens()), targets(config.tokens());
    const bool speaks = comm.rank() == 0;
    Progress progress{o.steps, o.quiet || !speaks};
    for (std::size_t step = 1; step <= o.steps; ++step) {
      const auto began = Clock::now();
      const std::size_t sent_before = comm.traffic().total();
      text.sample(o.seed, step, comm.rank(), o.batch, o.context, tokens, targets);
      const sx::StepResult result = trainer.step({tokens.data(), targets.data()});
      if (!std::isfinite(result.loss) || !std::isfinite(result.gradient_norm))
        throw sx::Error("loss or gradient is not finite at step " + std::to_string(step) +
                        "; lower --lr");
      if (!speaks) continue;
      const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
      const double tokens_per_s =
          static_cast<double>(config.tokens() * comm.size()) / std::max(seconds, 1e-9);
      const std::size_t sent = comm.traffic().total() - sent_before;
      log.step(step, result, tokens_per_s, sent);
      progress.step(step, result.loss, tokens_per_s);
      out = {result.loss, {resident_bytes(device.account()), device.account().peak_bytes(), sent}};
    }
  });
  log.end(out.loss, out.measured);
  return out;
}

/// A strategy that this program was compiled with.
struct Entry {
  const char* name;
  std::string type;
  sx::Plan (*plan)(const Options&);
  Result (*train)(const Options&, const Text&, Log&);
};

const std::vector<Entry>& entries() {
#define TRAIN_GPT_ENTRY(name)                                   \
  Entry{#name, sx::trainer_name<strategies::strategy_##name>(), \
        plan_for<strategies::strategy_##name>, train<strategies::strategy_##name>},
  static const std::vector<Entry> all{TRAIN_GPT_EACH_STRATEGY(TRAIN_GPT_ENTRY)};
#undef TRAIN_GPT_ENTRY
  return all;
}

const Entry& find(const std::string& name) {
  if (name.empty()) return entries().front();
  std::string names;
  for (const Entry& entry : entries()) {
    if (entry.name == name) return entry;
    names += std::string(names.empty() ? "" : ", ") + entry.name;
  }
  throw BadInput("--strategy '" + name + "' is not in this program; it has " + names);
}

void run(const Options& o) {
  const Entry& entry = find(o.strategy);
  const Text text{o.data, o.context};
  const sx::Plan plan = entry.plan(o);
  std::error_code error;
  if (std::filesystem::equivalent(o.data, o.log, error))
    throw BadInput("--log " + o.log + " is the file of --data; name another");
  Log log{o.log};  // last, so that bad input leaves no file behind
  const double entropy = text.unigram_entropy();
  log.start(entry.name, plan, entropy);
  if (!o.quiet)
    std::printf("%s\n%zu parameters, %zu rank%s, %s a rank (peak), unigram entropy %.4f\n",
                entry.type.c_str(), plan.parameter_count, plan.world, plan.world == 1 ? "" : "s",
                human_bytes(static_cast<double>(plan.device_peak_bytes)).c_str(), entropy);
  const Result result = entry.train(o, text, log);
  std::printf("final loss %.4f, %s the text's unigram entropy of %.4f (nats a byte)\n", result.loss,
              result.loss < entropy ? "below" : "not below", entropy);
}

/// Every strategy, a few steps each: what the plan said and what the run did, in one table.
/// Returns whether they agree.
bool compare(const Options& o) {
  const Text text{o.data, o.context};
  for (const Entry& entry : entries()) (void)entry.plan(o);
  std::printf("%zu ranks, bytes a rank; planned | measured\n", o.ranks);
  std::printf("%-18s %25s %25s %25s\n", "strategy", "resident", "peak", "sent a step");
  bool agree = true;
  for (const Entry& entry : entries()) {
    const sx::Plan plan = entry.plan(o);
    Options quiet = o;
    quiet.quiet = true;
    Log none;
    const Measured measured = entry.train(quiet, text, none).measured;
    std::printf("%-18s", entry.name);
    for (const auto& [planned, seen] :
         {std::pair{plan.device_resident_bytes, measured.resident_bytes},
          std::pair{plan.device_peak_bytes, measured.peak_bytes},
          std::pair{plan.sent_bytes, measured.sent_bytes_per_step}}) {
      std::printf("%12zu |%11zu", planned, seen);
      agree = agree && planned == seen;
    }
    std::printf("\n");
    std::fflush(stdout);
  }
  std::printf(agree ? "the plan equals the run to the byte\n"
                    : "the plan does not equal the run: please report this\n");
  return agree;
}

/// The one line of an error, whatever names it quotes.
int fail(int status, std::string what) {
  for (char& c : what)
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = '?';
  std::fprintf(stderr, "train_gpt: %s\n", what.c_str());
  return status;
}

/// Ends the output: a full disk is an error, too.
int finish(int status) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
  return fail(1, "the output cannot be written: " + std::string(std::strerror(errno)));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options o = parse_options(argc, argv);
    if (o.help) {
      std::fputs(usage.data(), stdout);
      return finish(0);
    }
    if (o.list) {
      for (const Entry& entry : entries())
        std::printf("%-18s %s\n", entry.name, entry.type.c_str());
      return finish(0);
    }
    sx::nn::use_one_blas_thread();
    if (o.compare) return finish(compare(o) ? 0 : 1);
    run(o);
    return finish(0);
  } catch (const BadInput& error) {
    return fail(2, error.what());
  } catch (const sx::ConfigError& error) {
    return fail(2, error.what());
  } catch (const std::bad_alloc&) {
    return fail(1, "out of memory; take fewer ranks or a smaller model");
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}
