// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdlib>
#include <string>

#include "listener.hpp"
#include <doctest/doctest.h>
#include <mpi.h>

namespace shardexpr::testing {

/// What MPI allows of threads: as SHARDEXPR_MPI_RUN asks, single or serialized; else multiple.
inline int mpi_threads = MPI_THREAD_SINGLE;

/// MPI lives as long as the test run.
struct MpiSession : Listener {
  using Listener::Listener;
  void test_run_start() override {
    const char* const variable = std::getenv("SHARDEXPR_MPI_RUN");
    const std::string wanted = variable == nullptr ? "" : variable;
    const int level = wanted == "single"       ? MPI_THREAD_SINGLE
                      : wanted == "serialized" ? MPI_THREAD_SERIALIZED
                                               : MPI_THREAD_MULTIPLE;
    MPI_Init_thread(nullptr, nullptr, level, &mpi_threads);
    if (mpi_threads != level) std::_Exit(4);  // the cases would not test what they say
  }
  void test_run_end(const doctest::TestRunStats&) override { MPI_Finalize(); }
};

inline bool streams_may_have_threads() { return mpi_threads >= MPI_THREAD_SERIALIZED; }

}  // namespace shardexpr::testing
