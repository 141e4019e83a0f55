// SPDX-License-Identifier: Apache-2.0
#pragma once
// The main of benchmarks that mpirun starts: all processes run them, rank 0 tells.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <ostream>
#include <string>
#include <string_view>

#include "mpi_turns.hpp"
#include <benchmark/benchmark.h>
#include <mpi.h>

namespace shardexpr::benchmarks {

/// A process that goes on alone would wait for its peers for ever.
template <class Body>
void guarded(Body body) {
  try {
    body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %zu: %s\n", world_rank(), error.what());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
}

/// What the process that is not asked prints.
class Silent : public benchmark::BenchmarkReporter {
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>&) override {}
};

/// What the figures are of.
inline void describe_mpi() {
  char library[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(library, &length);
  const std::string_view text{library, static_cast<std::size_t>(length)};
  benchmark::AddCustomContext("mpi", std::string{text.substr(0, text.find_first_of(",\n"))});
  benchmark::AddCustomContext("ranks", std::to_string(world_size()));
}

/// Rank 0 alone writes the file of --benchmark_out. `prepare(argc, argv)` takes options of its own
/// and says whether they were right.
template <class Prepare>
int run_of_all(int argc, char** argv, Prepare prepare) {
  const bool tells = world_rank() == 0;
  if (world_size() < 2) {
    std::fprintf(stderr, "%s needs ranks: mpirun -n 2 --bind-to none %s\n", argv[0], argv[0]);
    return 2;
  }
  if (!tells) {
    char** const end = std::remove_if(argv + 1, argv + argc, [](const char* argument) {
      return std::string_view{argument}.starts_with("--benchmark_out");
    });
    *end = nullptr;
    argc = static_cast<int>(end - argv);
  }
  if (!prepare(argc, argv)) return 2;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  describe_mpi();
  if (tells) {
    benchmark::RunSpecifiedBenchmarks();
  } else {
    std::ostream nowhere{nullptr};
    Silent silent;
    silent.SetOutputStream(&nowhere);
    silent.SetErrorStream(&nowhere);
    benchmark::RunSpecifiedBenchmarks(&silent);
  }
  benchmark::Shutdown();
  return 0;
}

template <class Prepare>
int main_of_all(int argc, char** argv, Prepare prepare) {
  int threads = MPI_THREAD_SINGLE;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &threads);
  if (threads != MPI_THREAD_MULTIPLE) {
    std::printf("SKIPPED: this MPI does not allow every thread to call it\n");
    MPI_Finalize();
    return 0;
  }
  const int result = run_of_all(argc, argv, prepare);
  MPI_Finalize();
  return result;
}

}  // namespace shardexpr::benchmarks
