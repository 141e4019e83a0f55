// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/json_reader.hpp>
#include <shardexpr/checkpoint/json_text.hpp>
#include <shardexpr/checkpoint/shown_name.hpp>
#include <shardexpr/checkpoint/stored_tensor.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shardexpr {

/// Which tensor is in which file of a set, as `model.safetensors.index.json` says.
struct SafetensorsIndex {
  static constexpr std::string_view file_name = "model.safetensors.index.json";

  /// Which file has a tensor.
  struct Entry {
    std::string tensor, file;
    std::size_t at = 0;  ///< of the tensor's name in the text
  };
  std::vector<Entry> entries;               ///< by the tensor's name
  std::optional<std::uint64_t> total_size;  ///< bytes of all tensors, where it is given
  std::size_t total_size_at = 0;            ///< in the text

  /// Null if there is none of that name.
  /// Cost:  O(log n).
  const Entry* find(std::string_view tensor) const {
    const auto found = std::lower_bound(
        entries.begin(), entries.end(), tensor,
        [](const Entry& entry, std::string_view t) { return std::string_view{entry.tensor} < t; });
    return found == entries.end() || found->tensor != tensor ? nullptr : &*found;
  }
  /// The names of the files, each once, sorted.
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const Entry& entry : entries) names.push_back(entry.file);
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    return names;
  }
};

namespace detail {

/// The rules of an index and its set, as messages name them.
namespace set_rule {
inline constexpr const char* json = "index JSON";
inline constexpr const char* metadata = "index metadata";
inline constexpr const char* map = "weight_map";
inline constexpr const char* name = "unique names";
inline constexpr const char* file_name = "bare file names";
inline constexpr const char* files = "every file is there";
inline constexpr const char* keys = "index and files list the same tensors";
inline constexpr const char* once = "a tensor is in one file";
inline constexpr const char* total = "total_size";
}  // namespace set_rule

/// Whether a name is one of a file in the directory at hand and cannot lead out of it.
inline bool is_bare_file_name(std::string_view name) {
  if (name.empty() || name == "." || name == ".." || name.size() > 255) return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f && c != '/' && c != '\\' && c != ':';
  });
}

class IndexParser {
 public:
  IndexParser(const std::string& path, std::string_view text) : path_{path}, reader_{text} {
    try {
      reader_.skip_space();
      reader_.object([&](std::string&& key, std::size_t at) { read_member(key, at); });
      reader_.end();
      if (!has_map_) reader_.fail_at("the index has no weight_map", 0);
      check_names();
    } catch (const JsonFault& fault) {
      throw FormatError(path_ + ": rule '" + rule_ + "'" + subject_ + ", byte " +
                        std::to_string(fault.at) + ": " + fault.what);
    }
  }
  SafetensorsIndex take() { return std::move(index_); }

 private:
  void once(bool& has, const char* what, std::size_t at) {
    if (has) reader_.fail_at(std::string{what} + " stands twice", at);
    has = true;
  }
  void read_member(const std::string& key, std::size_t at) {
    if (key == "metadata") {
      once(has_metadata_, "metadata", at);
      read_metadata();
    } else if (key == "weight_map") {
      once(has_map_, "weight_map", at);
      read_map();
    } else {
      reader_.skip_value();  // what later versions may add
    }
    rule_ = set_rule::json;
  }
  void read_metadata() {
    rule_ = set_rule::metadata;
    reader_.object([&](std::string&& key, std::size_t at) {
      if (key != "total_size") return reader_.skip_value();
      rule_ = set_rule::total;
      if (index_.total_size) reader_.fail_at("total_size stands twice", at);
      index_.total_size_at = reader_.at();
      index_.total_size = reader_.integer("total_size");
      rule_ = set_rule::metadata;
    });
  }
  void read_map() {
    rule_ = set_rule::map;
    reader_.object([&](std::string&& key, std::size_t at) {
      subject_ = ", tensor " + shown(key);
      const std::size_t file_at = reader_.at();
      std::string file = reader_.string("the name of a file");
      rule_ = set_rule::file_name;
      if (!is_bare_file_name(file))
        reader_.fail_at(shown(file) +
                            " is no name of a file beside the index: no path, no control "
                            "character, not empty",
                        file_at);
      index_.entries.push_back({std::move(key), std::move(file), at});
      rule_ = set_rule::map;
      subject_.clear();
    });
  }
  void check_names() {
    rule_ = set_rule::name;
    std::vector<SafetensorsIndex::Entry>& entries = index_.entries;
    const auto name_of = [&](std::size_t i) -> const std::string& { return entries[i].tensor; };
    const auto by_name = places_by_name(entries.size(), name_of);
    if (const auto twice = first_repeated(by_name, name_of)) {
      subject_ = ", tensor " + shown(name_of(*twice));
      reader_.fail_at("the name stands twice", entries[*twice].at);
    }
    std::vector<SafetensorsIndex::Entry> sorted;
    sorted.reserve(entries.size());
    for (const std::size_t i : by_name) sorted.push_back(std::move(entries[i]));
    entries = std::move(sorted);
  }

  const std::string& path_;
  JsonReader reader_;
  SafetensorsIndex index_;
  const char* rule_ = set_rule::json;
  std::string subject_;  // that a message names
  bool has_metadata_ = false, has_map_ = false;
};

}  // namespace detail

/// Reads the index of a set, strictly: names stand once, and a file's is a bare one.
///
/// Errors:  FormatError: the index, the rule, the tensor, the byte of the text.
/// Cost:    O(n log n) for n tensors.
/// Source:  Hugging Face, transformers: `model.safetensors.index.json`.
inline SafetensorsIndex parse_safetensors_index(const std::string& path, std::string_view text) {
  return detail::IndexParser{path, text}.take();
}

/// An index as text, in the form that Hugging Face's programs write.
inline std::string index_text(const SafetensorsIndex& index) {
  std::string text = "{\n  \"metadata\": {";
  if (index.total_size)
    text += "\n    \"total_size\": " + std::to_string(*index.total_size) + "\n  ";
  text += "},\n  \"weight_map\": {";
  const char* before = "\n    ";
  for (const SafetensorsIndex::Entry& entry : index.entries) {
    text += before;
    detail::append_json(text, entry.tensor);
    text += ": ";
    detail::append_json(text, entry.file);
    before = ",\n    ";
  }
  return text + (index.entries.empty() ? "}\n}\n" : "\n  }\n}\n");
}

}  // namespace shardexpr
