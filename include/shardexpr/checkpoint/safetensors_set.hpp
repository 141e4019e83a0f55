// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/file_handle.hpp>
#include <shardexpr/checkpoint/safetensors_file.hpp>
#include <shardexpr/checkpoint/safetensors_index.hpp>
#include <shardexpr/checkpoint/shown_name.hpp>
#include <shardexpr/checkpoint/stored_tensor.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/io/system.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shardexpr {
namespace detail {

/// Whether a path leads to a directory; not, where nothing is there.
template <class System>
bool is_directory(const std::string& path) {
  struct statx found {};
  if (without_interrupts(
          [&] { return System::statx(AT_FDCWD, path.c_str(), 0, STATX_TYPE, &found); }) != 0)
    return false;  // what is wrong with it, opening says
  return S_ISDIR(found.stx_mode);
}
template <class System>
bool exists(const std::string& path) {
  struct statx found {};
  return without_interrupts(
             [&] { return System::statx(AT_FDCWD, path.c_str(), 0, STATX_TYPE, &found); }) == 0 ||
         errno != ENOENT;
}

/// A file of a directory by its bare name.
inline std::string in_directory(const std::string& directory, std::string_view name) {
  std::string path = directory;
  if (path.empty() || path.back() != '/') path += '/';
  path += name;
  return path;
}
/// "./" for a name without one.
inline std::string directory_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "./" : path.substr(0, slash + 1);
}

}  // namespace detail

/// A tensor and the file of a set that it is in.
struct PlacedTensor {
  std::size_t file = 0;  ///< a place in `files()`
  const StoredTensor* tensor = nullptr;
};

/// The tensors of a model that is stored in one safetensors file or in several with an index, open
/// for reading.
///
/// Shapes:  opened by a directory, which has `model.safetensors.index.json` or `model.safetensors`;
///          by an index, a file `*.json`; or by one safetensors file.
/// Order:   any number of threads may read at once.
/// Errors:  as those of SafetensorsFile; and FormatError if index and files do not fit: a name that
///          is a path, a file that is not there, a tensor that one side alone lists or that two
///          files have, a total_size that is not the sum of all.
/// Cost:    every header is read, O(n log n) for n tensors; a file stays open for each.
template <class System = detail::LinuxSystem>
class SafetensorsSet {
 public:
  static constexpr std::string_view single_file_name = "model.safetensors";

  /// Opens every file and reads its header.
  explicit SafetensorsSet(const std::string& path) {
    if (detail::is_directory<System>(path))
      open_directory(path);
    else if (path.ends_with(".json"))
      open_index(path);
    else
      files_.emplace_back(path);
    list();
  }

  /// In the order of their names; one, if there is no index.
  const std::vector<SafetensorsFile<System>>& files() const { return files_; }
  /// All tensors, by name.
  const std::vector<PlacedTensor>& tensors() const { return tensors_; }
  /// Whether an index was read.
  bool has_index() const { return has_index_; }
  /// Of all tensors together.
  std::uint64_t data_bytes() const { return data_bytes_; }

  /// Nothing if there is none of that name.
  /// Cost:  O(log n).
  std::optional<PlacedTensor> find(std::string_view name) const {
    const auto found = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                        [](const PlacedTensor& p, std::string_view n) {
                                          return std::string_view{p.tensor->name} < n;
                                        });
    if (found == tensors_.end() || found->tensor->name != name) return std::nullopt;
    return *found;
  }
  /// Copies bytes of a tensor that this set found, from `first_byte` of it on.
  void read(const PlacedTensor& placed, std::uint64_t first_byte, std::span<std::byte> to) const {
    files_[placed.file].read(*placed.tensor, first_byte, to);
  }

 private:
  static constexpr std::uint64_t most_index_bytes = 100'000'000;

  void open_directory(const std::string& path) {
    const std::string index = detail::in_directory(path, SafetensorsIndex::file_name);
    const std::string single = detail::in_directory(path, single_file_name);
    const bool has_single = detail::exists<System>(single);
    if (!detail::exists<System>(index)) {
      if (!has_single)
        throw ConfigError(path + " has neither " + std::string{SafetensorsIndex::file_name} +
                          " nor " + std::string{single_file_name} + "; name a file");
      files_.emplace_back(single);
      return;
    }
    open_index(index);
    const auto is_single = [&](const auto& file) { return file.path() == single; };
    if (has_single && std::none_of(files_.begin(), files_.end(), is_single))
      throw ConfigError(path + " has " + std::string{single_file_name} +
                        " and an index that does not list it: two models; name the file or the "
                        "index that is meant");
  }

  void open_index(const std::string& path) {
    has_index_ = true;
    const auto file = detail::FileHandle<System>::to_read(path);
    const SafetensorsIndex index = parse_safetensors_index(
        path, detail::read_text(file, most_index_bytes, [] { return "the index"; }));
    const std::string directory = detail::directory_of(path);
    const std::vector<std::string> names = index.files();
    files_.reserve(names.size());
    for (const std::string& name : names) {
      const std::string listed = detail::in_directory(directory, name);
      if (!detail::exists<System>(listed))
        throw FormatError(path + ": rule '" + detail::set_rule::files + "': the index lists " +
                          detail::shown(name) + ", which is not in its directory");
      files_.emplace_back(listed);
    }
    check(path, index, names);
  }

  /// Index and headers list the same tensors, in the same files, of the size that the index gives.
  void check(const std::string& path, const SafetensorsIndex& index,
             const std::vector<std::string>& names) const {
    const auto refuse = [&](const char* rule, const std::string& what) {
      throw FormatError(path + ": rule '" + rule + "', " + what);
    };
    const auto place_of = [&](const std::string& name) {
      return static_cast<std::size_t>(std::lower_bound(names.begin(), names.end(), name) -
                                      names.begin());
    };
    for (const SafetensorsIndex::Entry& entry : index.entries)
      if (files_[place_of(entry.file)].find(entry.tensor) == nullptr)
        refuse(detail::set_rule::keys, "tensor " + detail::shown(entry.tensor) + ", byte " +
                                           std::to_string(entry.at) + ": the index says that " +
                                           detail::shown(entry.file) +
                                           " has it, but it is not there");
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < files_.size(); ++i) {
      bytes += files_[i].header().data_bytes();
      for (const StoredTensor& tensor : files_[i].header().tensors) {
        const SafetensorsIndex::Entry* const entry = index.find(tensor.name);
        if (entry == nullptr)
          refuse(detail::set_rule::keys, "tensor " + detail::shown(tensor.name) + ": " +
                                             detail::shown(names[i]) +
                                             " has it, but the index does not list it");
        if (entry->file != names[i])
          refuse(detail::set_rule::once, "tensor " + detail::shown(tensor.name) + ": " +
                                             detail::shown(entry->file) + " and " +
                                             detail::shown(names[i]) + " both have it");
      }
    }
    if (index.total_size && *index.total_size != bytes)
      refuse(detail::set_rule::total, "byte " + std::to_string(index.total_size_at) +
                                          ": the index says " + std::to_string(*index.total_size) +
                                          " bytes, the tensors of its files have " +
                                          std::to_string(bytes));
  }

  void list() {
    for (std::size_t i = 0; i < files_.size(); ++i) {
      data_bytes_ += files_[i].header().data_bytes();
      for (const StoredTensor& tensor : files_[i].header().tensors)
        tensors_.push_back({i, &tensor});
    }
    std::sort(tensors_.begin(), tensors_.end(), [](const PlacedTensor& a, const PlacedTensor& b) {
      return a.tensor->name < b.tensor->name;
    });
  }

  std::vector<SafetensorsFile<System>> files_;
  std::vector<PlacedTensor> tensors_;
  std::uint64_t data_bytes_ = 0;
  bool has_index_ = false;
};

}  // namespace shardexpr
