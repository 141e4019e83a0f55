// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/manifest.hpp>
#include <shardexpr/io/system.hpp>

#include <cstddef>
#include <string>

namespace shardexpr {

/// What a checkpoint says of itself.
struct CheckpointInfo {
  std::string folder;    ///< it is read from
  std::string form;      ///< "sharded", "full" or "local"
  std::string strategy;  ///< of the trainer that saved it
  std::string cursor;    ///< `SaveOptions::cursor`
  std::size_t step = 0, world = 0;
};

namespace detail {

inline CheckpointInfo info_of(const std::string& folder, const Manifest& manifest) {
  return {folder,
          manifest.kind,
          manifest.strategy,
          manifest.cursor,
          static_cast<std::size_t>(manifest.step),
          static_cast<std::size_t>(manifest.world)};
}

}  // namespace detail

/// Reads what a checkpoint says of itself, without a trainer. `path`: a directory that was saved to
/// (its latest), or one folder in it.
///
/// Order:   not collective.
/// Errors:  ConfigError if there is none; FormatError if its manifest is not what was saved.
template <class System = detail::LinuxSystem>
CheckpointInfo checkpoint_info(const std::string& path) {
  const std::string folder = detail::checkpoint_folder<System>(path);
  return detail::info_of(folder, detail::read_manifest<System>(folder));
}

}  // namespace shardexpr
