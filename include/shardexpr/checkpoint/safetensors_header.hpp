// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/json_reader.hpp>
#include <shardexpr/checkpoint/shown_name.hpp>
#include <shardexpr/checkpoint/stored_tensor.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shardexpr {
namespace detail {

/// The rules of a file, as messages name them.
namespace safetensors_rule {
inline constexpr const char* length = "header length";
inline constexpr const char* json = "header JSON";
inline constexpr const char* metadata = "metadata";
inline constexpr const char* entry = "tensor entry";
inline constexpr const char* name = "unique names";
inline constexpr const char* dtype = "dtype";
inline constexpr const char* shape = "shape";
inline constexpr const char* offsets = "data_offsets";
inline constexpr const char* layout = "contiguous data";
}  // namespace safetensors_rule

/// Reads a header. `path` is for messages; the file has `file_bytes`.
class SafetensorsParser {
 public:
  static constexpr std::uint64_t length_bytes = 8, most_header_bytes = 100'000'000;

  /// The length that the first eight bytes say, once it is known to be one.
  static std::uint64_t header_bytes(const std::string& path, std::string_view first,
                                    std::uint64_t file_bytes) {
    const auto refuse = [&](const std::string& what) {
      throw FormatError(path + ": rule '" + safetensors_rule::length + "', byte 0: " + what);
    };
    if (file_bytes < length_bytes || first.size() < length_bytes)
      refuse("the file has " + std::to_string(file_bytes) +
             " bytes, a header's length alone takes 8: it is empty or was cut off");
    std::uint64_t length = 0;
    for (std::size_t i = length_bytes; i-- > 0;)
      length = length << 8 | static_cast<unsigned char>(first[i]);
    if (length > most_header_bytes)
      refuse("a header of " + std::to_string(length) + " bytes, at most " +
             std::to_string(most_header_bytes) + " are allowed: this is no safetensors file");
    if (length > file_bytes - length_bytes)
      refuse("a header of " + std::to_string(length) + " bytes in a file of " +
             std::to_string(file_bytes) + ": it was cut off");
    return length;
  }

  /// `text` is the header without its length; it ends within the file.
  SafetensorsParser(const std::string& path, std::string_view text, std::uint64_t file_bytes)
      : path_{path}, reader_{text} {
    header_.data_offset = length_bytes + text.size();
    data_bytes_ = file_bytes - header_.data_offset;
    try {
      reader_.skip_space();
      reader_.object([&](std::string&& key, std::size_t at) { read_member(std::move(key), at); });
      reader_.end();
    } catch (const JsonFault& fault) {
      refuse(fault.at, fault.what);
    }
    check_names();
    check_layout();
  }
  SafetensorsHeader take() { return std::move(header_); }

 private:
  struct Entry {
    StoredTensor tensor;
    std::size_t at = 0;  // of its name in the header
  };

  [[noreturn]] void refuse(std::size_t at, const std::string& what) const {
    throw FormatError(path_ + ": rule '" + rule_ + "'" +
                      (tensor_ == nullptr ? "" : ", tensor " + shown(*tensor_)) + ", byte " +
                      std::to_string(length_bytes + at) + ": " + what);
  }

  void read_member(std::string&& key, std::size_t at) {
    if (key == "__metadata__") {
      rule_ = safetensors_rule::metadata;
      if (has_metadata_) reader_.fail_at("__metadata__ stands twice", at);
      has_metadata_ = true;
      read_metadata();
    } else {
      entries_.emplace_back();
      entries_.back().tensor.name = std::move(key);
      entries_.back().at = at;
      tensor_ = &entries_.back().tensor.name;
      read_tensor(entries_.back());
      tensor_ = nullptr;
    }
    rule_ = safetensors_rule::json;
  }

  void read_metadata() {
    std::vector<std::size_t> at;
    reader_.object([&](std::string&& key, std::size_t where) {
      at.push_back(where);
      header_.metadata.emplace_back(std::move(key), std::string{});
      header_.metadata.back().second = reader_.string("text: metadata maps text to text");
    });
    const auto key_of = [&](std::size_t i) -> const std::string& {
      return header_.metadata[i].first;
    };
    if (const auto twice = first_repeated(places_by_name(at.size(), key_of), key_of))
      reader_.fail_at("the key " + shown(key_of(*twice)) + " stands twice", at[*twice]);
  }

  void read_tensor(Entry& entry) {
    bool has_dtype = false, has_shape = false, has_offsets = false;
    const auto once = [&](bool& has, const char* what, std::size_t where) {
      if (has) reader_.fail_at(std::string{what} + " stands twice", where);
      has = true;
    };
    rule_ = safetensors_rule::entry;
    reader_.object([&](std::string&& key, std::size_t where) {
      if (key == "dtype") {
        once(has_dtype, "dtype", where);
        read_dtype(entry.tensor);
      } else if (key == "shape") {
        once(has_shape, "shape", where);
        rule_ = safetensors_rule::shape;
        reader_.array([&] { entry.tensor.shape.push_back(reader_.integer("an extent")); });
      } else if (key == "data_offsets") {
        once(has_offsets, "data_offsets", where);
        read_offsets(entry.tensor);
      } else {
        reader_.skip_value();  // what later versions may add
      }
      rule_ = safetensors_rule::entry;
    });
    if (!has_dtype || !has_shape || !has_offsets)
      reader_.fail_at(std::string{"no "} + (!has_dtype   ? "dtype"
                                            : !has_shape ? "shape"
                                                         : "data_offsets"),
                      entry.at);
    check_size(entry);
  }
  void read_dtype(StoredTensor& tensor) {
    rule_ = safetensors_rule::dtype;
    const std::size_t at = reader_.at();
    const std::string name = reader_.string("a dtype's name");
    const StoredDtype* const found = find_stored_dtype(name);
    if (found == nullptr) reader_.fail_at("the dtype " + shown(name) + " is unknown", at);
    tensor.dtype = *found;
  }
  void read_offsets(StoredTensor& tensor) {
    rule_ = safetensors_rule::offsets;
    const std::size_t at = reader_.at();
    std::size_t count = 0;
    reader_.array([&] {
      const std::uint64_t offset = reader_.integer("an offset");
      if (count == 0) tensor.begin = offset;
      if (count == 1) tensor.end = offset;
      ++count;
    });
    if (count != 2)
      reader_.fail_at(
          "of offsets there are two, a begin and an end; here are " + std::to_string(count), at);
    if (tensor.end < tensor.begin)
      reader_.fail_at("it ends at " + std::to_string(tensor.end) + ", before it begins at " +
                          std::to_string(tensor.begin),
                      at);
  }
  void check_size(const Entry& entry) {
    rule_ = safetensors_rule::shape;
    const StoredTensor& tensor = entry.tensor;
    const auto bits = stored_bits(tensor.dtype, tensor.shape);
    if (!bits) reader_.fail_at("the product of its extents is beyond 64 bits", entry.at);
    if (*bits % 8 != 0)
      reader_.fail_at(std::to_string(*bits) + " bits, which are no whole bytes", entry.at);
    if (tensor.size_bytes() != *bits / 8) {
      rule_ = safetensors_rule::offsets;
      reader_.fail_at("its offsets span " + std::to_string(tensor.size_bytes()) +
                          " bytes, dtype and shape make " + std::to_string(*bits / 8),
                      entry.at);
    }
  }

  void check_names() {
    rule_ = safetensors_rule::name;
    const auto name_of = [&](std::size_t i) -> const std::string& {
      return entries_[i].tensor.name;
    };
    by_name_ = places_by_name(entries_.size(), name_of);
    const auto twice = first_repeated(by_name_, name_of);
    if (!twice) return;
    tensor_ = &name_of(*twice);
    refuse(entries_[*twice].at, "the name stands twice");
  }

  /// The data begins with the first tensor, each begins where the one before it ended, and the file
  /// ends with the last: no holes, no overlap, nothing behind.
  void check_layout() {
    rule_ = safetensors_rule::layout;
    const auto order = sorted_places(entries_.size(), [&](std::size_t a, std::size_t b) {
      const StoredTensor &x = entries_[a].tensor, &y = entries_[b].tensor;
      if (x.begin != y.begin) return x.begin < y.begin;
      return x.end != y.end ? x.end < y.end : a < b;
    });
    std::uint64_t end = 0;
    const Entry* before = nullptr;
    for (const std::size_t i : order) {
      const Entry& entry = entries_[i];
      tensor_ = &entry.tensor.name;
      if (entry.tensor.begin != end) refuse_gap(entry, before, end);
      end = entry.tensor.end;
      if (end > data_bytes_)
        refuse(entry.at, "it ends at byte " + std::to_string(end) +
                             " of the data, of which the file has " + std::to_string(data_bytes_) +
                             ": it was cut off");
      before = &entry;
    }
    tensor_ = nullptr;
    if (end != data_bytes_)
      refuse(static_cast<std::size_t>(header_.data_offset - length_bytes + end),
             "the tensors end at byte " + std::to_string(end) + " of the data, the file has " +
                 std::to_string(data_bytes_ - end) + " more");
    keep(order);
  }
  [[noreturn]] void refuse_gap(const Entry& entry, const Entry* before, std::uint64_t end) const {
    const std::uint64_t begin = entry.tensor.begin;
    const std::string where = before == nullptr
                                  ? "where the data begins"
                                  : "where tensor " + shown(before->tensor.name) + " ends";
    refuse(entry.at, "it begins at byte " + std::to_string(begin) + " of the data, " +
                         std::to_string(begin > end ? begin - end : end - begin) +
                         (begin > end ? " bytes behind " : " bytes before ") + where +
                         (begin > end ? ": a hole" : ": they overlap"));
  }

  void keep(const std::vector<std::size_t>& order) {
    std::vector<std::size_t> place(order.size());
    header_.tensors.reserve(order.size());
    for (const std::size_t i : order) {
      place[i] = header_.tensors.size();
      header_.tensors.push_back(std::move(entries_[i].tensor));
    }
    for (std::size_t& i : by_name_) i = place[i];
    header_.by_name = std::move(by_name_);
  }

  const std::string& path_;
  JsonReader reader_;
  SafetensorsHeader header_;
  std::vector<Entry> entries_;  // as they stand in the header
  std::vector<std::size_t> by_name_;
  std::uint64_t data_bytes_ = 0;
  const char* rule_ = safetensors_rule::json;
  const std::string* tensor_ = nullptr;  // that a message names
  bool has_metadata_ = false;
};

}  // namespace detail

/// Reads a safetensors header, strictly: a file that breaks a rule of the format is refused. Where
/// the format's own reader is lax, this one is not: names and keys of metadata stand once.
///
/// Shapes:  `first` is the file's first eight bytes, or fewer if it has no more; `text(n)` gives
///          the n bytes behind them. It is called once n is known to be no more than the file has.
/// Errors:  FormatError: the file, the rule, the tensor, the byte of the file.
/// Cost:    O(n log n) for n tensors; memory in proportion to the header.
/// Source:  Hugging Face, safetensors: format and the checks of its reader.
template <class Text>
SafetensorsHeader parse_safetensors_header(const std::string& path, std::string_view first,
                                           std::uint64_t file_bytes, Text text) {
  const std::uint64_t bytes = detail::SafetensorsParser::header_bytes(path, first, file_bytes);
  const std::string_view header = text(static_cast<std::size_t>(bytes));
  return detail::SafetensorsParser{path, header, file_bytes}.take();
}

}  // namespace shardexpr
