// SPDX-License-Identifier: Apache-2.0
// Every legal strategy of the main axes trains the same GPT. Ranks are threads; built with
// STRATEGIES_OVER_MPI, processes that mpirun starts; with STRATEGIES_OVER_NCCL, threads with a GPU
// each.
#include "main.hpp"

#include <shardexpr/nn/cpu/blas.hpp>

#include <charconv>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include "../context.hpp"
#if defined(STRATEGIES_OVER_MPI)
#include "../mpi_main.hpp"
#elif defined(STRATEGIES_OVER_NCCL)
#include "../gpu_context.hpp"
#include "nccl_ranks.hpp"
#endif
#include <benchmark/benchmark.h>

namespace shardexpr::benchmarks {
namespace {

/// Takes what is ours from the command line.
/// Errors:  false, with a line on standard error, for a value that cannot be.
bool take_options(int& argc, char** argv) {
  StrategyOptions& options = strategy_options();
  options.swap = std::filesystem::temp_directory_path().string();
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const auto value_of = [&](std::string_view name) {
      return argument.starts_with(name) ? argument.substr(name.size()) : std::string_view{};
    };
    const auto number = [&](std::string_view text, std::size_t most, std::size_t& to) {
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), to);
      return error == std::errc{} && end == text.data() + text.size() && to <= most;
    };
    const auto folder = [&](std::string_view text, std::string& to) {
      to = text;
      std::error_code error;
      return std::filesystem::is_directory(to, error);
    };
    bool is_right = true;
    if (const auto size = value_of("--size="); !size.empty())
      is_right = number(size, 1, options.size);
    else if (const auto steps = value_of("--steps="); !steps.empty())
      is_right = number(steps, 1000, options.steps) && options.steps > 0;
    else if (const auto timelines = value_of("--timelines="); !timelines.empty())
      is_right = folder(timelines, options.timelines);
    else if (const auto swap = value_of("--swap="); !swap.empty())
      is_right = folder(swap, options.swap);
    else
      argv[kept++] = argv[i];
    if (is_right) continue;
    std::fprintf(stderr,
                 "bench_strategies: %s: --size takes 0 or 1, --steps 1 to 1000, --timelines and "
                 "--swap a folder "
                 "that exists\n",
                 argv[i]);
    return false;
  }
  argv[argc = kept] = nullptr;
  return true;
}

#if defined(STRATEGIES_OVER_NCCL)
/// False, with a line, where there is no GPU.
bool describe_gpus() {
  if (!describe_gpu()) return false;
  int nccl = 0;
  (void)ncclGetVersion(&nccl);
  benchmark::AddCustomContext("gpus", std::to_string(gpu_count()));
  benchmark::AddCustomContext("nccl", std::to_string(nccl));
  return true;
}
#endif

}  // namespace
}  // namespace shardexpr::benchmarks

int main(int argc, char** argv) {
  using namespace shardexpr::benchmarks;
  const auto prepare = [](int& count, char** arguments) {
    if (!take_options(count, arguments)) return false;
    add_context();
    shardexpr::nn::use_one_blas_thread();
    for (const auto register_slice : strategy_slices()) register_slice();
    return true;
  };
#if defined(STRATEGIES_OVER_MPI)
  return main_of_all(argc, argv, prepare);
#else
#if defined(STRATEGIES_OVER_NCCL)
  if (!describe_gpus()) return 0;
#endif
  if (!prepare(argc, argv)) return 2;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
#endif
}
