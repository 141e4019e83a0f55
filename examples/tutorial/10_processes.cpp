// SPDX-License-Identifier: Apache-2.0
// Tutorial, chapter 10: ranks that are processes, joined by MPI.
// [program]
#include <shardexpr/comm/mpi.hpp>

#include <cstddef>
#include <cstdio>
#include <exception>

#include "perceptron.hpp"
#include <mpi.h>

template <class Comm>
using Trainer = sx::Sharded<perceptron::Model, sx::FullShard, sx::Over<Comm>>;

/// The same for any communicator; returns the last loss.
template <class Comm>
double train(Comm& comm) {
  const perceptron::Config config;
  sx::Cpu device;
  Trainer<Comm> trainer{device, comm, config, {.optimizer = {.learning_rate = 1e-2f}}};
  const perceptron::Points points{config, comm.rank()};
  double loss = 0;
  for (int step = 1; step <= 100; ++step) loss = trainer.step(points.batch()).loss;
  return loss;
}

int main(int argc, char** argv) {
  int threads = 0, status = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &threads);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);  // errors are thrown
  try {
    sx::Mpi comm{MPI_COMM_WORLD};  // or any communicator of yours
    const double loss = train(comm);
    if (comm.rank() == 0) {
      double of_threads = 0;
      sx::launch(comm.size(), [&](sx::Threads& ranks) {
        const double mine = train(ranks);
        if (ranks.rank() == 0) of_threads = mine;
      });
      status = loss == of_threads && loss < 0.1 ? 0 : 1;
      std::printf("%zu processes: loss %.9f; as many threads: %.9f, %s\n", comm.size(), loss,
                  of_threads, loss == of_threads ? "the same" : "DIFFERENT");
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "10_processes: %s\n", error.what());
    MPI_Abort(MPI_COMM_WORLD, 1);  // the others may wait for this one
  }
  MPI_Finalize();
  return status;
}
// [program end]
