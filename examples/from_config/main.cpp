// SPDX-License-Identifier: Apache-2.0
// Trains a GPT on any text as a configuration file of Accelerate or DeepSpeed says. The files were
// made types when this program was built (FROM_CONFIG_FILES).
#include <shardexpr/core/error.hpp>
#include <shardexpr/nn/cpu/blas.hpp>

#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <vector>

#include "from_config_files.hpp"  // made by CMake from FROM_CONFIG_FILES
#include "job.hpp"

namespace {

constexpr const char* usage =
    "usage: from_config --data FILE [options]\n"
    "Trains a GPT on the bytes of a file as a configuration file says; ranks are threads.\n"
    "\n"
    "  --data FILE      text to train on, any file of bytes\n"
    "  --strategy NAME  one of those of --list (the first)\n"
    "  --ranks N        (the file's, else 2)\n"
    "  --batch N        sequences of a micro-batch (the file's, else 2)\n"
    "  --steps N        (100)\n"
    "  --layers N       (2)\n"
    "  --heads N        (2)\n"
    "  --embed N        width (64)\n"
    "  --context N      tokens of a sequence (64)\n"
    "  --lr X           learning rate (the file's, else the optimizer's)\n"
    "  --nvme DIR       a folder for state on a disk (the file's)\n"
    "  --quiet          print the last line alone\n"
    "  --list           print name, file and policies of each strategy\n"
    "  --help           print this\n";

template <class T>
T number(const std::string& option, const std::string& text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || at != end || !(value > T{}) ||
      !std::isfinite(static_cast<double>(value)) ||
      (std::is_integral_v<T> && static_cast<double>(value) > 1e6))
    throw BadInput(option +
                   (std::is_integral_v<T> ? " takes a whole number from 1 to 1000000, got '"
                                          : " takes a number above 0, got '") +
                   text + "'");
  return value;
}

const Entry& find(const std::string& name) {
  if (name.empty()) return from_config_files()[0];
  std::string names;
  for (const Entry& entry : from_config_files()) {
    if (entry.name == name) return entry;
    names += (names.empty() ? "" : ", ") + std::string{entry.name};
  }
  throw BadInput("--strategy '" + name + "' is not in this program; it has " + names);
}

int run(int argc, char** argv) {
  Job job;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&]() -> std::string {
      if (++i == argc || *argv[i] == '\0') throw BadInput(name + " takes a value; see --help");
      return argv[i];
    };
    const auto count = [&] { return number<std::size_t>(name, value()); };
    if (name == "--help") {
      std::fputs(usage, stdout);
      return 0;
    }
    if (name == "--list") {
      for (const Entry& entry : from_config_files())
        std::printf("%-20s %s\n%-20s %s\n", entry.name, entry.file, "", entry.policies);
      return 0;
    }
    if (name == "--data")
      job.data = value();
    else if (name == "--strategy")
      job.strategy = value();
    else if (name == "--nvme")
      job.nvme = value();
    else if (name == "--ranks")
      job.ranks = count();
    else if (name == "--batch")
      job.batch = count();
    else if (name == "--steps")
      job.steps = count();
    else if (name == "--layers")
      job.layers = count();
    else if (name == "--heads")
      job.heads = count();
    else if (name == "--embed")
      job.embed = count();
    else if (name == "--context")
      job.context = count();
    else if (name == "--lr")
      job.lr = number<float>(name, value());
    else if (name == "--quiet")
      job.is_quiet = true;
    else
      throw BadInput("unknown option '" + name + "'; see --help");
  }
  if (job.data.empty()) throw BadInput("no --data; name a file of text to train on");
  if (job.embed % job.heads != 0)
    throw BadInput("--heads " + std::to_string(job.heads) + " does not divide --embed " +
                   std::to_string(job.embed) + "; choose heads that do");
  const Entry& entry = find(job.strategy);
  const Text text{job.data, job.context};
  shardexpr::nn::use_one_blas_thread();
  if (!job.is_quiet) std::printf("%s\n%s\n", entry.file, entry.policies);
  const Ended ended = entry.train(job, text);
  std::printf("%s: %zu ranks, loss %.4f after %zu steps, %.4f in the first", entry.name,
              ended.ranks, ended.loss, job.steps, ended.first_loss);
  if (ended.skipped != 0) std::printf(", %zu skipped", ended.skipped);
  std::printf("\n");
  return 0;
}

int fail(int status, const std::string& what) {
  std::fflush(stdout);
  std::fprintf(stderr, "from_config: %s\n", what.c_str());
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const int status = run(argc, argv);
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      return fail(1, "the output cannot be written");
    return status;
  } catch (const BadInput& error) {
    return fail(2, error.what());
  } catch (const shardexpr::ConfigError& error) {
    return fail(2, error.what());
  } catch (const std::bad_alloc&) {
    return fail(1, "out of memory; take fewer ranks or a smaller model");
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}
