// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/contents.hpp>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "listing.hpp"

/// What a checkpoint is, its tensors, its files, totals.
inline void print(const sx::CheckpointContents& contents, bool is_verified) {
  const auto line = [](const char* what, const std::string& value) {
    std::printf("%-10s  %s\n", what, value.c_str());
  };
  std::error_code error;
  std::filesystem::path folder = std::filesystem::weakly_canonical(contents.folder, error);
  if (!folder.has_filename()) folder = folder.parent_path();
  line("checkpoint",
       sx::escaped(folder.filename().string()) + (contents.is_latest ? ", the latest" : ""));
  line("form", sx::escaped(contents.form));
  line("strategy", sx::escaped(contents.strategy));
  line("step", std::to_string(contents.step));
  line("world", std::to_string(contents.world));
  line("seed", std::to_string(contents.seed));
  line("optimizer", sx::escaped(contents.optimizer) + ", " + counted(contents.moments, "moment") +
                        (contents.moments == 0 ? "" : " of " + contents.moment_dtype));
  if (!contents.cursor.empty()) line("cursor", sx::escaped(contents.cursor));

  std::vector<std::vector<std::string>> tensors, files;
  std::uint64_t tensor_bytes = 0, file_bytes = 0;
  const bool is_local = contents.form == "local";  // memory as it lay: nothing is told apart
  const auto add = [&](const sx::CheckpointContents::Tensor& tensor, const std::string& also) {
    tensors.push_back({sx::escaped(tensor.name), tensor.dtype, shape_text(tensor.shape),
                       is_local ? "-" : std::to_string(tensor.bytes), also});
    tensor_bytes += tensor.bytes;
  };
  for (const auto& parameter : contents.parameters)
    add(parameter, is_local ? "in flats" : counted(parameter.moments, "moment"));
  for (const auto& buffer : contents.buffers) add(buffer, "buffer");
  for (const auto& file : contents.files) {
    files.push_back({sx::escaped(file.name), std::to_string(file.bytes)});
    file_bytes += file.bytes;
  }
  std::printf("\n");
  print_table(tensors, 3);
  std::printf("\n");
  print_table(files, 1);
  const std::string buffers =
      ", " + counted(contents.buffers.size(), "buffer") + ", " + counted(tensor_bytes, "byte");
  std::printf("\n%s%s; %s, %s\n", counted(contents.parameters.size(), "parameter").c_str(),
              is_local ? "" : buffers.c_str(), counted(contents.files.size(), "file").c_str(),
              counted(file_bytes, "byte").c_str());
  if (is_verified) std::printf("verified: every byte is what was saved\n");
}
