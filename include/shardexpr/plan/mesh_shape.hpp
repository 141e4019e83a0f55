// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/policy/strategy.hpp>

#include <algorithm>
#include <cstddef>
#include <string>

namespace shardexpr {

/// How a strategy lays W ranks out: `shards` neighbours share one copy of the parameters, `copies`
/// such groups hold the same, and `reshard` neighbours within a group share what ReshardTo keeps.
struct MeshShape {
  std::size_t shards = 1, copies = 1;
  std::size_t reshard = 0;  ///< 0: nothing is kept

  /// All ranks.
  constexpr std::size_t world() const { return shards * copies; }
  friend constexpr bool operator==(const MeshShape&, const MeshShape&) = default;
};

/// Errors:  throws ConfigError where the mesh would be another strategy's: one group, groups that
///          do not divide the world, a reshard that is no proper part of a group.
template <class Strategy>
constexpr MeshShape mesh_shape(std::size_t world) {
  constexpr std::size_t group = detail::group_of<typename Strategy::sharding>;
  constexpr std::size_t ranks = Strategy::reshard::ranks;
  MeshShape mesh{world, 1, ranks};
  if constexpr (group != 0) {
    if (world % group != 0 || world < 2 * group)
      throw ConfigError("a shard group of " + std::to_string(group) + " ranks in a world of " +
                        std::to_string(world) +
                        ": the world must be a multiple of the group, and at least twice it; for "
                        "one group use FullShard or ShardGradOp");
    mesh = {group, world / group, ranks};
  }
  if constexpr (ranks != 0)
    if (mesh.shards % ranks != 0 || ranks >= mesh.shards)
      throw ConfigError("ReshardTo<" + std::to_string(ranks) + "> with " +
                        std::to_string(mesh.shards) +
                        " ranks that share one copy: it must divide them and be less; leave it out "
                        "to keep no more than a rank's part");
  return mesh;
}

namespace detail {

/// Of each kind of group, how many of its ranks share a machine's memory at least.
struct NodeShares {
  std::size_t shards = 1, copies = 1, reshard = 1;
};

/// With `node_ranks` neighbours on each machine, and what is left over on the last; 0: all on one.
constexpr NodeShares node_shares(const MeshShape& mesh, std::size_t node_ranks) {
  const std::size_t world = mesh.world(), group = mesh.shards;
  NodeShares least{group, mesh.copies, mesh.reshard == 0 ? 1 : mesh.reshard};
  if (node_ranks == 0 || node_ranks >= world) return least;
  for (std::size_t rank = 0; rank < world; ++rank) {
    const std::size_t begin = rank / node_ranks * node_ranks;
    const std::size_t end = std::min(begin + node_ranks, world);
    const auto of_block = [&](std::size_t ranks) {
      const std::size_t first = rank / ranks * ranks;
      return std::min(first + ranks, end) - std::max(first, begin);
    };
    // Of ranks 0 to n - 1, those that hold the same part as this one.
    const auto same = [&](std::size_t n) { return (n + group - 1 - rank % group) / group; };
    least.shards = std::min(least.shards, of_block(group));
    least.copies = std::min(least.copies, same(end) - same(begin));
    if (mesh.reshard != 0) least.reshard = std::min(least.reshard, of_block(mesh.reshard));
  }
  return least;
}

}  // namespace detail

}  // namespace shardexpr
