// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/manifest.hpp>
#include <shardexpr/checkpoint/part_file.hpp>
#include <shardexpr/checkpoint/saved_state.hpp>
#include <shardexpr/checkpoint/trained_state.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/io/system.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace shardexpr {

/// What a checkpoint holds, as it is known without the model that was trained. Names and texts are
/// as they were saved: `escaped` shows them.
struct CheckpointContents {
  /// A parameter or a buffer.
  struct Tensor {
    std::string name, dtype;
    std::vector<std::uint64_t> shape;
    std::uint64_t bytes = 0;  ///< in all files: with its moments; of a buffer those of all ranks
    std::size_t moments = 0;  ///< 0: it was frozen, or the optimizer has none
  };
  /// A file of the checkpoint.
  struct File {
    std::string name;  ///< in the folder
    std::uint64_t bytes = 0;
  };
  std::string folder;      ///< it was read from
  bool is_latest = false;  ///< of the directory that the folder lies in
  std::string form;        ///< "sharded", "full" or "local"
  std::string strategy, cursor;
  std::string optimizer;  ///< the type of its options
  std::string moment_dtype;
  std::uint64_t step = 0, world = 0, seed = 0, moments = 0;
  /// Of a LocalState parameters have no bytes or moments of their own, and no buffers are told: it
  /// is memory as it lay.
  std::vector<Tensor> parameters, buffers;
  std::vector<File> files;  ///< all of them, with sums and manifest
};

namespace detail {

/// Whether the `latest` beside a checkpoint's folder names it.
template <class System>
bool is_latest(const std::string& folder) {
  std::error_code error;
  std::filesystem::path whole = std::filesystem::weakly_canonical(folder, error);
  if (!whole.has_filename()) whole = whole.parent_path();
  try {
    return checkpoint_folder<System>(whole.parent_path().string()) == whole.string();
  } catch (const Error&) {
    return false;  // the folder stands for itself, whatever is beside it
  }
}

/// Errors:  FormatError where a file is not as long as it was, or its header is another.
template <class System>
void check_files(const std::string& folder, const Manifest& manifest) {
  for (const FileRecord& record : manifest.files) {
    if (record.role == "text")
      (void)read_saved_text<System>(folder, record);
    else
      PartReader<System>{folder, record};
  }
}

/// How many bytes were saved of each parameter and buffer.
template <class System>
void measure(const Manifest& manifest, CheckpointContents& contents) {
  const SavedState<System> saved{contents.folder, manifest};
  for (CheckpointContents::Tensor& tensor : contents.parameters)
    for (std::size_t kind = 0; kind <= manifest.moments; ++kind) {
      tensor.bytes += saved.bytes_of(kind, tensor.name);
      if (kind != StateStretch::parameter && saved.has(kind, tensor.name)) ++tensor.moments;
    }
  saved.for_each_buffer([&](const std::string& name, std::string_view dtype, std::uint64_t count) {
    contents.buffers.push_back(
        {name, std::string{dtype}, {count}, saved.bytes_of(StoredPiece::buffer, name), 0});
  });
}

}  // namespace detail

/// Reads what a checkpoint holds, not its data. `path`: a directory that was saved to (its latest),
/// or one folder in it.
///
/// Errors:  ConfigError if there is none; FormatError: the file, what is wrong, where a file is not
///          as long as it was, or elements are missing. Data that changed is for
///          `verify_checkpoint`.
/// Cost:    the manifest, the sums, a header a file.
template <class System = detail::LinuxSystem>
CheckpointContents read_contents(const std::string& path) {
  using namespace detail;
  CheckpointContents contents;
  contents.folder = checkpoint_folder<System>(path);
  contents.is_latest = is_latest<System>(contents.folder);
  const Manifest manifest = read_manifest<System>(contents.folder);
  contents.form = manifest.kind;
  contents.strategy = manifest.strategy;
  contents.cursor = manifest.cursor;
  if (const OpaqueValue* const optimizer = manifest.find("optimizer"))
    contents.optimizer = optimizer->type;
  contents.moment_dtype = manifest.moment_dtype;
  contents.step = manifest.step;
  contents.world = manifest.world;
  contents.seed = manifest.seed;
  contents.moments = manifest.moments;
  for (const Manifest::Parameter& parameter : manifest.parameters)
    contents.parameters.push_back({parameter.name, parameter.dtype, parameter.shape, 0, 0});
  if (manifest.kind == "local")
    check_files<System>(contents.folder, manifest);
  else
    measure<System>(manifest, contents);
  for (const FileRecord& file : manifest.files) {
    contents.files.push_back({file.name, file.bytes});
    if (file.role != "text") contents.files.push_back({sums_name(file.name), file.sums_bytes});
  }
  const std::string name{Manifest::file_name};
  contents.files.push_back(
      {name, FileHandle<System>::to_read(contents.folder + "/" + name).opened_bytes()});
  return contents;
}

}  // namespace shardexpr
