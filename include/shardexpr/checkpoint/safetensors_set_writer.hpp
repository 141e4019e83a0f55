// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/file_handle.hpp>
#include <shardexpr/checkpoint/safetensors_index.hpp>
#include <shardexpr/checkpoint/safetensors_layout.hpp>
#include <shardexpr/checkpoint/safetensors_set.hpp>
#include <shardexpr/checkpoint/safetensors_writer.hpp>
#include <shardexpr/checkpoint/shown_name.hpp>
#include <shardexpr/checkpoint/stored_tensor.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/io/system.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shardexpr {

/// A set of safetensors files before its data.
struct SafetensorsSetLayout {
  /// One file of the set.
  struct File {
    std::string name;  ///< bare
    SafetensorsLayout layout;
  };
  std::vector<File> files;
  SafetensorsIndex index;            ///< written where there are several files
  std::vector<std::size_t> file_of;  ///< the place in `files` of each entry of the index

  /// Whether an index is written beside the files.
  bool has_index() const { return files.size() > 1; }
};

namespace detail {

/// "model-00002-of-00004.safetensors"
inline std::string set_file_name(std::size_t which, std::size_t count) {
  if (count == 1) return "model.safetensors";
  const auto number = [](std::size_t n) {
    const std::string digits = std::to_string(n);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  return "model-" + number(which + 1) + "-of-" + number(count) + ".safetensors";
}

}  // namespace detail

/// Distributes tensors over files, in the order in which they are given: a file has at most
/// `most_file_bytes` of tensors, or one tensor that is larger. One file needs no index. As Hugging
/// Face distributes a model.
///
/// Errors:  as lay_out_safetensors; ConfigError for files of no bytes.
/// Source:  Hugging Face, huggingface_hub: `split_torch_state_dict_into_shards`.
inline SafetensorsSetLayout lay_out_safetensors_set(std::vector<TensorToStore> tensors,
                                                    const StoredMetadata& metadata = {},
                                                    std::uint64_t most_file_bytes = 5'000'000'000) {
  if (most_file_bytes == 0)
    throw ConfigError("files of at most 0 bytes hold no tensor; give a size, as 5000000000");
  // Before they are apart: two of one name may fall to two files.
  const auto name_of = [&](std::size_t i) -> const std::string& { return tensors[i].name; };
  detail::check_unique(detail::places_by_name(tensors.size(), name_of), name_of);

  std::vector<std::vector<TensorToStore>> parts;
  std::size_t open = 0;  // the part that others may still join
  std::uint64_t bytes = 0;
  bool is_open = false;
  for (TensorToStore& tensor : tensors) {
    StoredTensor checked = detail::checked_tensor(TensorToStore{tensor});
    const std::uint64_t size = checked.size_bytes();
    if (size > most_file_bytes) {
      parts.emplace_back().push_back(std::move(tensor));
      continue;
    }
    if (!is_open || size > most_file_bytes - bytes) {
      open = parts.size();
      parts.emplace_back();
      bytes = 0;
      is_open = true;
    }
    bytes += size;
    parts[open].push_back(std::move(tensor));
  }
  if (parts.empty()) parts.emplace_back();

  SafetensorsSetLayout set;
  std::vector<PlacedTensor> placed;
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < parts.size(); ++i)
    set.files.push_back({detail::set_file_name(i, parts.size()),
                         lay_out_safetensors(std::move(parts[i]), metadata)});
  for (std::size_t i = 0; i < set.files.size(); ++i) {
    const SafetensorsHeader& header = set.files[i].layout.header;
    if (header.data_bytes() > detail::most_u64 - total)
      throw ConfigError("the tensors have more than 2^64 bytes together");
    total += header.data_bytes();
    for (const StoredTensor& tensor : header.tensors) placed.push_back({i, &tensor});
  }
  const auto placed_name = [&](std::size_t i) -> const std::string& {
    return placed[i].tensor->name;
  };
  for (const std::size_t i : detail::places_by_name(placed.size(), placed_name)) {
    set.index.entries.push_back({placed_name(i), set.files[placed[i].file].name, 0});
    set.file_of.push_back(placed[i].file);
  }
  set.index.total_size = total;
  return set;
}

/// Writes a set into a directory, as SafetensorsWriter writes a file: one `create`s it, others
/// `join`, and the creator's `finish` comes last. The index is written behind all files.
template <class System = detail::LinuxSystem>
class SafetensorsSetWriter {
 public:
  /// None of the files exists before.
  static SafetensorsSetWriter create(const std::string& directory, SafetensorsSetLayout layout) {
    return {directory, std::move(layout), true};
  }
  /// Opens files that another writer has created and not yet finished.
  static SafetensorsSetWriter join(const std::string& directory, SafetensorsSetLayout layout) {
    return {directory, std::move(layout), false};
  }

  /// Of the layout.
  const SafetensorsIndex& index() const { return index_; }
  /// A writer a file, in the order of the layout.
  const std::vector<SafetensorsWriter<System>>& files() const { return files_; }

  /// Writes a piece of a tensor, from `first_byte` of the tensor on.
  /// Errors:  ConfigError if the layout has no tensor of that name.
  void write(std::string_view tensor, std::uint64_t first_byte,
             std::span<const std::byte> from) const {
    const SafetensorsIndex::Entry* const entry = index_.find(tensor);
    if (entry == nullptr)
      throw ConfigError(directory_ + ": tensor " + detail::shown(tensor) +
                        " is to be written, but the layout has none of that name");
    const auto place = static_cast<std::size_t>(entry - index_.entries.data());
    const SafetensorsWriter<System>& file = files_[file_of_[place]];
    file.write(*file.find(tensor), first_byte, from);
  }
  /// What this writer wrote is on the disk, or this throws. It may be called once and is the last
  /// call.
  void finish() {
    for (SafetensorsWriter<System>& file : files_) file.finish();
    if (!is_creator_ || files_.size() == 1) return;
    auto file = detail::FileHandle<System>::to_create(
        detail::in_directory(directory_, SafetensorsIndex::file_name));
    const std::string text = index_text(index_);
    file.write(0, std::as_bytes(std::span{text}), [] { return "the index"; });
    file.synchronize();
    file.close();
  }

 private:
  SafetensorsSetWriter(const std::string& directory, SafetensorsSetLayout&& layout, bool is_creator)
      : directory_{directory},
        index_{std::move(layout.index)},
        file_of_{std::move(layout.file_of)},
        is_creator_{is_creator} {
    using Writer = SafetensorsWriter<System>;
    for (SafetensorsSetLayout::File& file : layout.files) {
      std::string path = detail::in_directory(directory, file.name);
      files_.push_back(is_creator ? Writer::create(std::move(path), std::move(file.layout))
                                  : Writer::join(std::move(path), std::move(file.layout)));
    }
  }

  std::string directory_;
  SafetensorsIndex index_;
  std::vector<std::size_t> file_of_;  // the place in `files_` of each entry of the index
  std::vector<SafetensorsWriter<System>> files_;
  bool is_creator_;
};

}  // namespace shardexpr
