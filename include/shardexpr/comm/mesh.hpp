// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/plan/mesh_shape.hpp>

#include <cstddef>
#include <optional>

namespace shardexpr {

/// The communicators of one rank in a mesh of W = copies x shards ranks: neighbours r, r+1, ...
/// make a shard group; ranks at the same place of every group hold copies of one part.
///
/// Order:   every rank of `world` makes one at the same time; it splits `world`.
/// Errors:  ConfigError unless the shape's ranks are those of `world`.
template <class Comm>
class Mesh {
 public:
  /// Splits `world`, which must outlive it.
  Mesh(Comm& world, const MeshShape& shape) : world_{&world}, shape_{shape} {
    if (shape.world() != world.size())
      throw ConfigError("a mesh of " + std::to_string(shape.world()) + " ranks over a world of " +
                        std::to_string(world.size()));
    const auto rank = static_cast<int>(world.rank()), shards = static_cast<int>(shape.shards);
    if (shape.copies > 1) {
      shard_.emplace(world.split(rank / shards, rank % shards));
      copies_.emplace(world.split(rank % shards, rank / shards));
    }
    if (shape.reshard != 0) {
      Comm& shard = this->shard();
      const auto place = static_cast<int>(shard.rank()), ranks = static_cast<int>(shape.reshard);
      reshard_.emplace(shard.split(place / ranks, place % ranks));
    }
  }

  /// What it was made with.
  const MeshShape& shape() const { return shape_; }
  /// All ranks.
  Comm& world() { return *world_; }
  /// The ranks that share one copy with this one; the world where there is one copy.
  Comm& shard() { return shard_ ? *shard_ : *world_; }
  /// The ranks that hold the same part as this one. Only where there are several copies.
  Comm& copies() { return *copies_; }
  /// The neighbours that share what ReshardTo keeps. Only where it does.
  Comm& reshard() { return *reshard_; }

  /// What this rank sent through all of them.
  Traffic traffic() const {
    Traffic sum = world_->traffic();
    if (shard_) sum = sum + shard_->traffic();
    if (copies_) sum = sum + copies_->traffic();
    if (reshard_) sum = sum + reshard_->traffic();
    return sum;
  }

 private:
  Comm* world_;
  MeshShape shape_;
  std::optional<Comm> shard_, copies_, reshard_;
};

}  // namespace shardexpr
