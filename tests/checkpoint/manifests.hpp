// SPDX-License-Identifier: Apache-2.0
#pragma once
// A manifest and its sums, as a run would have saved them, and texts with the right checksum.
#include <shardexpr/checkpoint/manifest.hpp>

#include <string>
#include <string_view>

/// What stands behind the text that a manifest's checksum is of.
inline std::string manifest_end(std::string_view text) {
  return ",\n\"crc32c\":\"" + shardexpr::detail::hex_of(shardexpr::detail::crc32c_of(text)) +
         "\"}\n";
}
/// The same manifest with the checksum of what it says now.
inline std::string with_right_sum(std::string text) {
  const std::string::size_type end = manifest_end("").size();
  if (text.size() >= end && text.substr(text.size() - end).starts_with(",\n\"crc32c\":\""))
    text.resize(text.size() - end);
  return text + manifest_end(text);
}

inline shardexpr::detail::Manifest some_manifest() {
  shardexpr::detail::Manifest manifest;
  manifest.kind = "sharded";
  manifest.strategy = "Sharded<Model, FullShard>";
  manifest.step = 3;
  manifest.world = 2;
  manifest.seed = 7;
  manifest.moments = 2;
  manifest.moment_dtype = "F32";
  manifest.cursor = "page 7\n";
  manifest.values = {{"optimizer", "AdamWOptions", "00ff"}, {"loss_scale", "None", ""}};
  manifest.parameters = {{"a.weight", "F32", {5, 7}}, {"b", "BF16", {}}, {"none", "F16", {3, 0}}};
  manifest.files = {{"state-00000-of-00002.safetensors", "pieces", 840, 90, 0xffffffff},
                    {"state-00001-of-00002.safetensors", "pieces", 824, 88, 1}};
  return manifest;
}
inline shardexpr::detail::FileSums some_sums() { return {17, {{1, 0xffffffff}, {}, {2}}}; }
