// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/json_text.hpp>
#include <shardexpr/checkpoint/safetensors_header.hpp>
#include <shardexpr/checkpoint/shown_name.hpp>
#include <shardexpr/checkpoint/stored_tensor.hpp>
#include <shardexpr/checkpoint/utf8.hpp>
#include <shardexpr/core/error.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shardexpr {

/// A tensor that shall be in a file.
struct TensorToStore {
  std::string name;
  std::string_view dtype;  ///< one of `stored_dtypes` by name
  std::vector<std::uint64_t> shape;
};

/// A safetensors file before its data: what its header says, and how it is written.
struct SafetensorsLayout {
  SafetensorsHeader header;
  std::string first_bytes;  ///< of the file: the header's length and the header

  /// Of the whole file, header and data.
  std::uint64_t file_bytes() const { return header.file_bytes(); }
};

namespace detail {

/// A tensor as it will be described, without its place.
/// Errors:  ConfigError if no file may have it.
inline StoredTensor checked_tensor(TensorToStore&& tensor) {
  const auto refuse = [&](const std::string& what) {
    throw ConfigError("tensor " + shown(tensor.name) + " cannot be stored as safetensors: " + what);
  };
  if (!is_utf8(tensor.name)) refuse("its name is not UTF-8");
  if (tensor.name == "__metadata__") refuse("the format keeps this name for metadata");
  const StoredDtype* const dtype = find_stored_dtype(tensor.dtype);
  if (dtype == nullptr) refuse("the format has no dtype " + shown(tensor.dtype));
  const auto bits = stored_bits(*dtype, tensor.shape);
  if (!bits) refuse("the product of its extents is beyond 64 bits");
  if (*bits % 8 != 0) refuse(std::to_string(*bits) + " bits are no whole bytes");
  return {std::move(tensor.name), *dtype, std::move(tensor.shape), 0, *bits / 8};
}

inline void append_header(std::string& to, const SafetensorsHeader& header) {
  const auto list = [&](const auto& numbers) {
    to += '[';
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (i > 0) to += ',';
      to += std::to_string(numbers[i]);
    }
    to += ']';
  };
  const char* before = "{";
  if (!header.metadata.empty()) {
    to += "{\"__metadata__\":";
    for (const auto& [key, text] : header.metadata) {
      to += before;
      append_json(to, key);
      to += ':';
      append_json(to, text);
      before = ",";
    }
    to += '}';
  }
  for (const StoredTensor& tensor : header.tensors) {
    to += before;
    append_json(to, tensor.name);
    to += ":{\"dtype\":\"";
    to += tensor.dtype.name;
    to += "\",\"shape\":";
    list(tensor.shape);
    to += ",\"data_offsets\":";
    list(std::vector<std::uint64_t>{tensor.begin, tensor.end});
    to += '}';
    before = ",";
  }
  to += *before == '{' ? "{}" : "}";
}

inline void check_metadata(const StoredMetadata& metadata) {
  const auto key_of = [&](std::size_t i) -> const std::string& { return metadata[i].first; };
  if (const auto twice = first_repeated(places_by_name(metadata.size(), key_of), key_of))
    throw ConfigError("metadata " + shown(key_of(*twice)) + " is given twice");
  for (const auto& [key, text] : metadata)
    if (!is_utf8(key) || !is_utf8(text))
      throw ConfigError("metadata " + shown(key) + " is not UTF-8: the format stores text alone");
}

/// The name that stands at an earlier place, too, is refused.
template <class NameOf>
void check_unique(const std::vector<std::size_t>& by_name, NameOf name_of) {
  if (const auto twice = first_repeated(by_name, name_of))
    throw ConfigError("tensor " + shown(name_of(*twice)) + " is to be stored twice");
}

}  // namespace detail

/// Lays tensors out in a file, whatever order they are given in: by dtype, the widest first, then
/// by name, so that each begins at a multiple of its alignment. To the byte what the format's own
/// writer makes of the same names, dtypes, shapes and metadata.
///
/// Errors:  ConfigError: a name that stands twice, is no UTF-8 or is `__metadata__`, an unknown
///          dtype, a size that is no whole bytes or beyond 64 bits, a header beyond 100 MB.
/// Cost:    O(n log n) for n tensors.
/// Source:  Hugging Face, safetensors 0.8: its writer.
inline SafetensorsLayout lay_out_safetensors(std::vector<TensorToStore> tensors,
                                             StoredMetadata metadata = {}) {
  SafetensorsLayout layout;
  SafetensorsHeader& header = layout.header;
  detail::check_metadata(metadata);
  header.metadata = std::move(metadata);

  std::vector<StoredTensor> checked;
  checked.reserve(tensors.size());
  for (TensorToStore& tensor : tensors)
    checked.push_back(detail::checked_tensor(std::move(tensor)));
  const auto width = [&](std::size_t i) { return find_stored_dtype(checked[i].dtype.name); };
  const auto order = detail::sorted_places(checked.size(), [&](std::size_t a, std::size_t b) {
    return width(a) != width(b) ? width(a) > width(b) : checked[a].name < checked[b].name;
  });
  std::uint64_t end = 0;
  header.tensors.reserve(order.size());
  for (const std::size_t i : order) {
    StoredTensor& tensor = checked[i];
    const std::uint64_t bytes = tensor.end;
    if (bytes > detail::most_u64 / 2 - end)
      throw ConfigError("tensor " + detail::shown(tensor.name) +
                        " cannot be stored: the file would have more than 2^63 bytes");
    tensor.begin = end;
    tensor.end = end += bytes;
    header.tensors.push_back(std::move(tensor));
  }
  const auto name_of = [&](std::size_t i) -> const std::string& { return header.tensors[i].name; };
  header.by_name = detail::places_by_name(header.tensors.size(), name_of);
  detail::check_unique(header.by_name, name_of);

  constexpr std::size_t length_bytes = detail::SafetensorsParser::length_bytes;
  std::string& text = layout.first_bytes;
  text.assign(length_bytes, '\0');
  detail::append_header(text, header);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t bytes = text.size() - length_bytes;
  if (bytes > detail::SafetensorsParser::most_header_bytes)
    throw ConfigError("the header of these " + std::to_string(order.size()) + " tensors has " +
                      std::to_string(bytes) +
                      " bytes, the format allows 100000000: store them in several files");
  for (std::size_t i = 0; i < length_bytes; ++i) text[i] = static_cast<char>(bytes >> 8 * i & 255);
  header.data_offset = text.size();
  return layout;
}

}  // namespace shardexpr
