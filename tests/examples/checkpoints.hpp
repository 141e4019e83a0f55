// SPDX-License-Identifier: Apache-2.0
#pragma once
// Checkpoints without a trainer: any names, sizes and faults.
#include <shardexpr/checkpoint/new_checkpoint.hpp>
#include <shardexpr/checkpoint/part_file.hpp>
#include <shardexpr/checkpoint/safetensors_layout.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../checkpoint/manifests.hpp"
#include <doctest/doctest.h>

namespace sx = shardexpr;

using Tensors = std::vector<sx::TensorToStore>;

/// Bytes that differ from tensor to tensor, written a piece at a time.
inline sx::detail::FileRecord write_part(const std::string& folder, const std::string& name,
                                         const Tensors& tensors) {
  sx::detail::PartWriter<sx::detail::LinuxSystem> part{folder, name,
                                                       sx::lay_out_safetensors(tensors)};
  for (std::size_t i = 0; i < part.header().tensors.size(); ++i) {
    const std::uint64_t bytes = part.header().tensors[i].size_bytes();
    const std::vector<std::byte> piece(1 << 16, static_cast<std::byte>(i + 1));
    for (std::uint64_t at = 0; at < bytes; at += piece.size())
      part.append(i, at,
                  std::span{piece}.first(
                      static_cast<std::size_t>(std::min<std::uint64_t>(piece.size(), bytes - at))));
  }
  return part.finish();
}

/// Saves a checkpoint of these parts; returns its folder.
inline std::string save(const std::string& directory, sx::detail::Manifest manifest,
                        const std::vector<Tensors>& parts) {
  const sx::detail::NewCheckpoint<sx::detail::LinuxSystem> checkpoint{directory, manifest.step};
  checkpoint.begin();
  for (std::size_t i = 0; i < parts.size(); ++i)
    manifest.files.push_back(
        write_part(checkpoint.folder(), "part-" + std::to_string(i), parts[i]));
  return directory + "/" + checkpoint.commit(manifest);
}

inline sx::detail::Manifest manifest_of(std::vector<sx::detail::Manifest::Parameter> parameters) {
  sx::detail::Manifest manifest = some_manifest();
  manifest.values = {{"optimizer", "AdamW::Options", ""}};
  manifest.parameters = std::move(parameters);
  manifest.files.clear();
  return manifest;
}

/// Two ranks; a matrix that is trained, a vector that is frozen, a buffer.
inline std::string save_small(const std::string& directory) {
  return save(directory, manifest_of({{"a.weight", "F32", {5, 3}}, {"\x1b[2J", "BF16", {4}}}),
              {{{"parameter@0/a.weight", "F32", {8}},
                {"moment0@0/a.weight", "F32", {8}},
                {"moment1@0/a.weight", "F32", {8}},
                {"parameter@0/\x1b[2J", "BF16", {4}},
                {"buffer@0/mean", "F32", {2}}},
               {{"parameter@8/a.weight", "F32", {7}},
                {"moment0@8/a.weight", "F32", {7}},
                {"moment1@8/a.weight", "F32", {7}},
                {"buffer@0/mean", "F32", {2}}}});
}
