// SPDX-License-Identifier: Apache-2.0
// Trains a GPT on any text under one of the strategies that this program was compiled with. The
// strategy is picked once, below, by name; from there on everything is known to the compiler.
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <new>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "checkpoints.hpp"
#include "machine.hpp"
#include "options.hpp"
#include "report.hpp"
#include "text.hpp"
#include "traced.hpp"
#include "train.hpp"
#include "train_gpt_strategies.hpp"  // made by CMake from TRAIN_GPT_STRATEGIES

namespace {

template <class Trainer>
sx::Plan plan_for(const Options& o) {
  if (std::is_same_v<typename Trainer::Strategy::communicator, sx::Solo> && o.ranks != 1)
    throw BadInput("the strategy runs over Solo, one rank; give --ranks 1");
  (void)trainer_options<Trainer>(o);  // refuses what no policy takes
  // A plan counts in 64 bits, which an absurd job overflows; what blocks hand on alone is too much.
  const double outputs = 4.0 * static_cast<double>(o.batch) * static_cast<double>(o.context) *
                         static_cast<double>(o.embed) * static_cast<double>(o.layers);
  if (outputs > 0x1p50) machine::check_fits("the job needs more than ", outputs, 0, o.ranks_here);
  const sx::Plan plan = sx::plan<Trainer>(config_of(o), o.ranks, o.accumulate, o.node_ranks);
  machine::check_fits("the job needs ", static_cast<double>(plan.device_peak_bytes),
                      static_cast<double>(plan.host_peak_bytes), o.ranks_here);
  return plan;
}

/// --init, --checkpoint and --resume.
struct KeepsCheckpoints {
  template <class Trainer>
  static void begin(Trainer& trainer, const Options& o) {
    if (!o.init.empty()) load_parameters(trainer, o);
    if (o.resume) restore(trainer, o);
  }
  template <class Trainer>
  static void after_step(Trainer& trainer, const Options& o, const Position& position) {
    if (o.checkpoint.empty()) return;
    if (position.step == o.steps || (o.every != 0 && position.step % o.every == 0))
      save(trainer, o, position);
  }
};

template <class Trainer>
Result train(const Options& o, const Text& text, Log& log) {
  return train_on<Trainer, KeepsCheckpoints>(o, text, log, [&](std::size_t rank) {
    return machine::make_device<DeviceOf<Trainer>>(o, rank);
  });
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

/// What a rank holds at most, each place that it has.
std::string peaks(const sx::Plan& plan) {
  const auto human = [](std::size_t bytes) { return human_bytes(static_cast<double>(bytes)); };
  std::string text = human(plan.device_peak_bytes) + " a rank (peak)";
  if (plan.host_peak_bytes != 0) text += ", " + human(plan.host_peak_bytes) + " on its host (peak)";
  if (plan.nvme_bytes != 0) text += ", " + human(plan.nvme_bytes) + " on a disk";
  return text;
}

/// Whether two names are of one file, be it there already or not.
bool same_file(const std::string& a, const std::string& b) {
  std::error_code error;
  if (std::filesystem::equivalent(a, b, error)) return true;
  const auto whole = [&](const std::string& name) {
    return std::filesystem::weakly_canonical(std::filesystem::absolute(name, error), error);
  };
  const std::filesystem::path first = whole(a), second = whole(b);
  return !error && first == second;
}

void run(Options o, machine::Job& job) {
  const Entry& entry = find(o.strategy);
  prepare_begin(o);
  if (!o.trace.empty()) check_traceable(entry.name);
  const Text text{o.data, o.context};
  const sx::Plan plan = entry.plan(o);
  if (!o.log.empty() && same_file(o.data, o.log))
    throw BadInput("--log " + o.log + " is the file of --data; name another");
  if (!o.trace.empty())
    for (const auto& [option, path] : {std::pair{"--data", &o.data}, {"--log", &o.log}})
      if (!path->empty() && same_file(o.trace, *path))
        throw BadInput("--trace " + o.trace + " is the file of " + option + "; name another");
  TraceFile trace{o.trace};  // last, so that bad input leaves no file behind
  Log log{job.speaks() ? o.log : "", o.resume};
  job.agree();
  const double entropy = text.unigram_entropy();
  log.start(entry.name, plan, o.position.step, entropy);
  if (!o.quiet)
    std::printf("%s\n%zu parameters, %zu rank%s%s, %s, unigram entropy %.4f\n", entry.type.c_str(),
                plan.parameter_count, plan.world, plan.world == 1 ? "" : "s", job.where().c_str(),
                peaks(plan).c_str(), entropy);
  if (!o.quiet && o.resume) std::printf("goes on behind step %zu\n", o.position.step);
  const Result result =
      o.trace.empty() ? entry.train(o, text, log) : train_traced(entry.name, o, text, log, trace);
  std::printf("final loss %.4f, %s the text's unigram entropy of %.4f (nats a byte)\n", result.loss,
              result.loss < entropy ? "below" : "not below", entropy);
}

/// Bytes that were planned, and those that a run had.
using Pair = std::pair<std::size_t, std::size_t>;

/// Prints a line of the table; returns whether all of it agrees.
bool print_row(const char* name, const std::array<Pair, 3>& row) {
  std::printf("%-18s", name);
  bool agree = true;
  for (const Pair& pair : row) {
    std::printf("%12zu |%11zu", pair.first, pair.second);
    agree = agree && pair.first == pair.second;
  }
  std::printf("\n");
  std::fflush(stdout);
  return agree;
}

/// Every strategy, a few steps each: what the plan said and what the run did, in one table; what
/// lies elsewhere than on the device in a second one, where anything does.
/// Returns whether they agree.
bool compare(const Options& o, machine::Job& job) {
  const Text text{o.data, o.context};
  for (const Entry& entry : entries()) (void)entry.plan(o);
  job.agree();
  std::printf("%zu ranks, bytes a rank; planned | measured\n", o.ranks);
  std::printf("%-18s %25s %25s %25s\n", "strategy", "resident", "peak", "sent a step");
  bool agree = true;
  std::vector<std::pair<const char*, std::array<Pair, 3>>> elsewhere;
  for (const Entry& entry : entries()) {
    const sx::Plan plan = entry.plan(o);
    Options quiet = o;
    quiet.quiet = true;
    Log none;
    const Measured measured = entry.train(quiet, text, none).measured;
    agree = print_row(entry.name, {Pair{plan.device_resident_bytes, measured.resident_bytes},
                                   Pair{plan.device_peak_bytes, measured.peak_bytes},
                                   Pair{plan.sent_bytes, measured.sent_bytes_per_step}}) &&
            agree;
    const std::array<Pair, 3> places{Pair{plan.host_resident_bytes, measured.host_resident_bytes},
                                     Pair{plan.host_peak_bytes, measured.host_peak_bytes},
                                     Pair{plan.nvme_bytes, measured.nvme_bytes}};
    if (places != std::array<Pair, 3>{}) elsewhere.emplace_back(entry.name, places);
  }
  if (!elsewhere.empty())
    std::printf("%-18s %25s %25s %25s\n", "strategy", "host, resident", "host, peak", "on a disk");
  for (const auto& [name, places] : elsewhere) agree = print_row(name, places) && agree;
  std::printf(agree ? "the plan equals the run to the byte\n"
                    : "the plan does not equal the run: please report this\n");
  return agree;
}

/// What a failure is: bad input has status 2, what failed in the middle 1.
machine::Failure failure() {
  try {
    throw;
  } catch (const BadInput& error) {
    return {2, error.what()};
  } catch (const sx::ConfigError& error) {
    return {2, error.what()};
  } catch (const sx::CommError& error) {
    return {1, error.what(), true};
  } catch (const std::bad_alloc&) {
    return {1, "out of memory; take fewer ranks or a smaller model"};
  } catch (const std::exception& error) {
    return {1, error.what()};
  }
}

/// Ends the output: a full disk is an error, too.
machine::Failure finish(bool is_good) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return {is_good ? 0 : 1, ""};
  return {1, "the output cannot be written: " + std::string(std::strerror(errno))};
}

/// Does what the options say. Returns the status.
int run_program(machine::Job& job, int argc, char** argv) {
  Options o = parse_options(argc, argv);
  if (o.help) {
    std::fputs(usage_text().c_str(), stdout);
    return job.end(finish(true));
  }
  if (o.list) {
    for (const Entry& entry : entries()) std::printf("%-18s %s\n", entry.name, entry.type.c_str());
    return job.end(finish(true));
  }
  job.complete(o);
  machine::make_ready(o);
  if (o.compare) return job.end(finish(compare(o, job) || !job.speaks()));
  run(o, job);
  return job.end(finish(true));
}

}  // namespace

int main(int argc, char** argv) {
  machine::Job job{argc, argv};
  try {
    return run_program(job, argc, argv);
  } catch (const machine::FailedElsewhere& elsewhere) {
    return elsewhere.status;
  } catch (...) {
    return job.fail(failure());
  }
}
