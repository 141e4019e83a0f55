// SPDX-License-Identifier: Apache-2.0
#pragma once
// Ranks are processes, which MPI joins. Each comes to the same steps of `Job` in the same order, so
// what one of them refuses is refused by all, with one line.
#include <shardexpr/comm/mpi.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "job.hpp"
#include "options.hpp"
#include "report.hpp"
#include <mpi.h>
#include <unistd.h>

namespace machine {

class Job {
 public:
  /// mpirun may give its processes a terminal where its own output is a file.
  static constexpr bool has_terminal = false;

  /// Output of all ranks but 0 goes nowhere.
  Job(int& argc, char**& argv) {
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &threads_);
    // Errors are thrown, with their reason, and not the end of the job.
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    MPI_Comm here = MPI_COMM_NULL;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here);
    MPI_Comm_size(here, &ranks_here_);
    int rank_here = 0;
    MPI_Comm_rank(here, &rank_here);
    MPI_Comm_free(&here);
    const int is_first = rank_here == 0;
    MPI_Allreduce(&is_first, &machines_, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    node_ranks_ = machines_ == 1 ? 0 : ranks_here_;
    MPI_Bcast(&node_ranks_, 1, MPI_INT, 0, MPI_COMM_WORLD);
    for (int i = 1; i < argc; ++i)
      for (const char* c = argv[i]; c == argv[i] || c[-1] != '\0'; ++c)
        mark_ = (mark_ ^ static_cast<unsigned char>(*c)) * 1099511628211u;
    if (!speaks() && std::freopen("/dev/null", "w", stdout) == nullptr) std::fclose(stdout);
  }
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  ~Job() { MPI_Finalize(); }

  bool speaks() const { return rank_ == 0; }
  /// " on 2 machines", where it is not one.
  std::string where() const {
    return machines_ == 1 ? "" : " on " + std::to_string(machines_) + " machines";
  }

  /// What the launcher says, not the command line.
  /// Errors:  BadInput where the command line says otherwise, or MPI does not serve it.
  void complete(Options& o) {
    const auto ranks = static_cast<std::size_t>(size_);
    if (o.is_given("--ranks") && o.ranks != ranks)
      throw BadInput("--ranks " + std::to_string(o.ranks) + ": MPI started " +
                     std::to_string(ranks) + "; leave it out");
    o.ranks = ranks;
    deadline_ = Seconds{o.deadline_s};
    o.ranks_here = static_cast<std::size_t>(ranks_here_);
    o.node_ranks = static_cast<std::size_t>(node_ranks_);
    if (o.async && threads_ < MPI_THREAD_SERIALIZED)
      throw BadInput("--async: this MPI lets one thread of a process call it; leave it out");
  }

  /// Everything is ready to train: returns when it is in every rank.
  /// Errors:  FailedElsewhere.
  void agree() {
    const int status = settle({}, to_prepare);
    if (status != 0) throw FailedElsewhere{status};
    has_begun_ = true;
  }

  /// For what was thrown. Before the training all ranks come here, or to `agree`; from then on the
  /// others may wait for this one, in MPI: the job ends here, unlike a job that is done.
  int fail(const Failure& failure) {
    if (!has_begun_) return settle(failure, to_prepare);
    return end_job(failure);
  }

  /// The end of every rank: the same status in all.
  int end(const Failure& failure) { return settle(failure, deadline_); }

 private:
  struct Word {
    std::uint64_t mark = 0, length = 0;
    std::int64_t status = 0;
  };
  using Seconds = std::chrono::duration<double>;
  /// Reading a text takes a rank longer than another.
  static constexpr Seconds to_prepare{600};

  /// The others may wait for this rank: not without MPI_Abort.
  int end_job(const Failure& failure) {
    // The first to say why ends the job. It shall be the one that is the reason; and of ranks that
    // fail alike, rank 0.
    std::this_thread::sleep_for(
        std::chrono::milliseconds{(failure.is_of_peer ? 1000 : 0) + (speaks() ? 0 : 300)});
    const std::string me = "rank " + std::to_string(rank_) + ": ";
    complain((failure.what.starts_with("rank ") ? "" : me) + failure.what);
    // Where the machine is cut off from mpirun nobody hears MPI_Abort, and it may wait for ever.
    std::thread{[status = failure.status] {
      std::this_thread::sleep_for(std::chrono::seconds{5});
      ::_exit(status);
    }}.detach();
    MPI_Abort(MPI_COMM_WORLD, failure.status);
    return failure.status;
  }

  /// The failure of the first rank that has one, said once; every rank returns its status.
  int settle(const Failure& mine, Seconds patience) {
    const Word word{mark_, mine.what.size(), mine.status};
    std::vector<Word> words(static_cast<std::size_t>(size_));
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Iallgather(&word, sizeof word, MPI_BYTE, words.data(), sizeof word, MPI_BYTE,
                   MPI_COMM_WORLD, &request);
    const auto end = std::chrono::steady_clock::now() + patience;
    for (int is_done = 0; !is_done; std::this_thread::sleep_for(std::chrono::milliseconds{1})) {
      const int result = MPI_Test(&request, &is_done, MPI_STATUS_IGNORE);
      if (result != MPI_SUCCESS || (!is_done && std::chrono::steady_clock::now() > end))
        return end_job(
            {1, "not all ranks came to begin or to end; see the others' messages", true});
    }
    for (int peer = 0; peer < size_; ++peer) {
      const Word& theirs = words[static_cast<std::size_t>(peer)];
      if (theirs.mark != words[0].mark) {
        if (speaks())
          complain("rank " + std::to_string(peer) +
                   " was started with other options than rank 0; give every rank the same");
        return 2;
      }
    }
    for (int peer = 0; peer < size_; ++peer) {
      const Word& theirs = words[static_cast<std::size_t>(peer)];
      if (theirs.status == 0) continue;
      std::string what = mine.what;
      what.resize(theirs.length);
      MPI_Bcast(what.data(), static_cast<int>(what.size()), MPI_BYTE, peer, MPI_COMM_WORLD);
      if (speaks() && !what.empty())
        complain((peer == 0 ? "" : "rank " + std::to_string(peer) + ": ") + what);
      return static_cast<int>(theirs.status);
    }
    return 0;
  }

  int threads_ = MPI_THREAD_SINGLE, rank_ = 0, size_ = 1, ranks_here_ = 1, machines_ = 1,
      node_ranks_ = 0;
  std::uint64_t mark_ = 14695981039346656037u;  // of the command line
  Seconds deadline_ = to_prepare;
  bool has_begun_ = false;
};

/// Runs `body(comm)` in this process's rank.
template <class Comm, class Body>
void run_ranks(const Options& o, Body body) {
  shardexpr::MpiOptions options;
  options.collective = std::chrono::milliseconds{static_cast<long long>(o.deadline_s * 1000)};
  Comm comm{MPI_COMM_WORLD, options};
  body(comm);
}

}  // namespace machine
