// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/policy/strategy.hpp>

#include <cstddef>
#include <string>

namespace shardexpr {

/// How a strategy lays W ranks out: `shards` neighbours share one copy of the parameters, `copies`
/// such groups hold the same, and `reshard` neighbours within a group share what ReshardTo keeps.
struct MeshShape {
  std::size_t shards = 1, copies = 1;
  std::size_t reshard = 0;  ///< 0: nothing is kept

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

}  // namespace shardexpr
