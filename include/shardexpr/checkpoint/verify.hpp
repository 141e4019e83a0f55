// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/manifest.hpp>
#include <shardexpr/checkpoint/part_file.hpp>
#include <shardexpr/io/system.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace shardexpr {

/// Reads a checkpoint, every byte of it, and compares its checksums. `path`: a directory that was
/// saved to (its latest), or one folder in it.
///
/// Errors:  ConfigError if there is none; FormatError: the file, the tensor, the byte, what is
///          wrong; IoError where the disk fails.
/// Cost:    256 KiB of memory, the manifest and the sums of a file.
template <class System = detail::LinuxSystem>
void verify_checkpoint(const std::string& path) {
  const std::string folder = detail::checkpoint_folder<System>(path);
  const detail::Manifest manifest = detail::read_manifest<System>(folder);
  constexpr std::size_t chunk = detail::ChunkSums::chunk_bytes;
  const std::unique_ptr<std::byte[]> memory{new std::byte[chunk]};
  for (const detail::FileRecord& record : manifest.files) {
    if (record.role == "text") {
      (void)detail::read_saved_text<System>(folder, record);
      continue;
    }
    detail::PartReader<System> file{folder, record};
    for (std::size_t i = 0; i < file.header().tensors.size(); ++i) {
      const std::uint64_t bytes = file.header().tensors[i].size_bytes();
      for (std::uint64_t at = 0; at < bytes; at += chunk)
        file.read(
            i, at,
            {memory.get(), static_cast<std::size_t>(std::min<std::uint64_t>(chunk, bytes - at))});
    }
  }
}

}  // namespace shardexpr
