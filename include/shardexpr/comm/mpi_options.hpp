// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include <mpi.h>

namespace shardexpr {

/// The same in every rank.
struct MpiOptions {
  /// Nodes tell each other what their ranks call before they begin, so that calls that differ are
  /// an error in every rank. Without it, MPI may give wrong values for them, or wait. Ranks of one
  /// node are compared in any case: it costs nothing there.
  bool compare_calls = true;
  /// The most bytes of all ranks together that one call of MPI moves; longer collectives go in
  /// pieces. From the number of ranks to 2^31 - 1: MPI counts in int.
  std::size_t bytes_at_once = 1_GiB;
  /// At most so many ranks of a machine share memory, neighbours with neighbours. 0: all that MPI
  /// says can; 1: none, and MPI moves everything.
  std::size_t node_ranks = 0;
  std::chrono::milliseconds to_meet{300'000};     ///< until ranks are connected, at the start
  std::chrono::milliseconds collective{600'000};  ///< that a collective may take once it has begun
  /// The directory in which a rank whose job fails writes its last calls; empty: none.
  std::string record{"."};
};

namespace detail {

/// Which ranks of a communicator share memory.
struct MpiNodes {
  MPI_Comm comm = MPI_COMM_NULL;      ///< of this node's ranks
  std::size_t rank = 0;               ///< of this one in it
  std::size_t processes = 1;          ///< of the communicator that are on this machine
  std::vector<std::size_t> members;   ///< the communicator's ranks on this node, ascending
  std::vector<std::size_t> first_of;  ///< of each rank of the communicator, its node's first
  std::vector<std::size_t> place_of;  ///< of each rank, its number in its node
  std::vector<std::size_t> size_of;   ///< of each rank, how many its node has

  bool has(std::size_t peer) const { return first_of[peer] == members.front(); }
  /// Whether `peer` is who gets for its node what `from`, of another one, has for it.
  bool gets(std::size_t peer, std::size_t from) const {
    return place_of[peer] == place_of[from] % size_of[peer];
  }
};

}  // namespace detail

}  // namespace shardexpr
