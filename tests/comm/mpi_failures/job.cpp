// SPDX-License-Identifier: Apache-2.0
// A small training job over MPI in which one rank fails:
//   job <folder> <steps> <ranks that share memory> [<fault> <rank> <step> <collective>]
// The fault strikes before that rank's n-th collective of that step. Each rank writes what became
// of it to <folder>/rank-<r>: "weights <hash>", or the error. A checkpoint is written behind each
// step, and a job goes on from the last one.
#include <shardexpr/checkpoint/load.hpp>
#include <shardexpr/checkpoint/save.hpp>
#include <shardexpr/comm/delayed.hpp>
#include <shardexpr/comm/mpi.hpp>
#include <shardexpr/engine/sharded.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../../support/toy.hpp"
#include <unistd.h>

namespace {

/// What happens to one rank, at which of its collectives.
struct Fault {
  std::string what;
  std::size_t rank = 0, step = 0, collective = 0;
  std::size_t at_rank = 0, at_step = 0;  // where the job is
  std::atomic<std::size_t> at_collective{0};

  void strike() {
    if (what.empty() || at_rank != rank || at_step != step || ++at_collective != collective) return;
    if (what == "throw") throw std::runtime_error("the disk is full");
    if (what == "exit") std::_Exit(3);
    if (what == "kill") ::raise(SIGKILL);
    if (what == "stop") ::raise(SIGSTOP);
    if (what == "stall") std::this_thread::sleep_for(std::chrono::seconds{30});
  }
};

/// In place of a network's time.
struct Inject {
  std::shared_ptr<Fault> fault;
  void operator()(std::chrono::nanoseconds) const { fault->strike(); }
};

using Comm = sx::Delayed<sx::Mpi, Inject>;
using Trainer = sx::Sharded<toy::Autoencoder, sx::FullShard, sx::Over<Comm>>;

std::string train(const std::string& folder, std::size_t steps, std::size_t node_ranks,
                  const std::shared_ptr<Fault>& fault, std::string& rank) {
  // One that is gone is found out at once; one that stands still, after this time.
  sx::Mpi mpi{
      MPI_COMM_WORLD,
      {.node_ranks = node_ranks, .collective = std::chrono::milliseconds{3000}, .record = folder}};
  rank = std::to_string(mpi.rank());
  fault->at_rank = mpi.rank();
  Comm comm{std::move(mpi),
            {.latency = std::chrono::nanoseconds{1}, .bytes_per_second = 1e12},
            Inject{fault}};
  // Streams with threads: they wait, and the error comes from `step`.
  sx::Cpu device{sx::Execution::asynchronous};
  Trainer trainer{device, comm, toy::Config{}};
  const std::string checkpoints = folder + "/checkpoints";
  if (std::filesystem::exists(checkpoints + "/latest")) sx::load_checkpoint(trainer, checkpoints);
  std::vector<float> x(20);
  while (trainer.steps() < steps) {
    fault->at_step = trainer.steps();
    fault->at_collective = 0;
    toy::fill(x, trainer.steps(), comm.rank());
    (void)trainer.step({x.data()});
    fault->at_step = steps;  // saving has no fault
    sx::save_checkpoint(trainer, checkpoints);
  }
  std::uint64_t hash = 14695981039346656037u;
  trainer.summon([&](const std::string&, sx::Tensor<const float> value) {
    const auto* const bytes = reinterpret_cast<const unsigned char*>(value.data);
    for (std::size_t i = 0; i < value.count() * sizeof(float); ++i)
      hash = (hash ^ bytes[i]) * 1099511628211u;
  });
  return "weights " + std::to_string(hash);
}

}  // namespace

int main(int argc, char** argv) {
  int threads = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &threads);
  const std::string folder = argv[1];
  const auto fault = std::make_shared<Fault>();
  if (argc == 8) {
    fault->what = argv[4];
    fault->rank = std::stoul(argv[5]);
    fault->step = std::stoul(argv[6]);
    fault->collective = std::stoul(argv[7]);
  }
  std::string rank = "unknown", text;
  bool is_well = true;
  try {
    text = train(folder, std::stoul(argv[2]), std::stoul(argv[3]), fault, rank);
  } catch (const std::exception& error) {
    text = error.what();
    is_well = false;
  }
  std::ofstream{folder + "/rank-" + rank} << text << '\n';
  if (is_well) return MPI_Finalize();
  // MPI_Abort ends peers that still write.
  std::this_thread::sleep_for(std::chrono::milliseconds{1500});
  MPI_Abort(MPI_COMM_WORLD, 9);
}
