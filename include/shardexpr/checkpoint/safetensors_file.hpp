// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/file_handle.hpp>
#include <shardexpr/checkpoint/safetensors_header.hpp>
#include <shardexpr/checkpoint/shown_name.hpp>
#include <shardexpr/checkpoint/stored_tensor.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/io/system.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace shardexpr {
namespace detail {

/// That `bytes` from `first_byte` lie in the tensor.
/// Errors:  ConfigError.
inline void check_part(const std::string& path, const StoredTensor& tensor,
                       std::uint64_t first_byte, std::uint64_t bytes) {
  if (first_byte <= tensor.size_bytes() && bytes <= tensor.size_bytes() - first_byte) return;
  throw ConfigError(path + ", tensor " + shown(tensor.name) + ": it has " +
                    std::to_string(tensor.size_bytes()) + " bytes, asked was for " +
                    std::to_string(bytes) + " from byte " + std::to_string(first_byte) + " on");
}

}  // namespace detail

/// A safetensors file, open for reading. Its header was read and keeps every rule.
///
/// Order:   any number of threads may read at once.
/// Errors:  the constructor throws ConfigError where another path is needed, FormatError if the
///          file breaks a rule; it and `read` throw IoError if the disk fails or others change the
///          file. Each in one line: file, tensor, byte of the file, what to do.
/// Cost:    one read of the header; then each `read` asks once for the file's size and reads
///          what it was asked for, no more.
template <class System = detail::LinuxSystem>
class SafetensorsFile {
 public:
  /// Opens the file and reads its header.
  explicit SafetensorsFile(std::string path)
      : file_{detail::FileHandle<System>::to_read(std::move(path))}, header_{parse()} {}

  /// As the constructor was given it.
  const std::string& path() const { return file_.path(); }
  /// Of the whole file, when it was opened.
  std::uint64_t file_bytes() const { return file_.opened_bytes(); }
  /// As it was read.
  const SafetensorsHeader& header() const { return header_; }
  /// Null if there is none of that name.
  const StoredTensor* find(std::string_view name) const { return header_.find(name); }

  /// Where a tensor's bytes begin in the file. It may be a multiple of nothing.
  std::uint64_t offset_of(const StoredTensor& tensor) const {
    return header_.data_offset + tensor.begin;
  }

  /// Copies `to.size()` bytes of a tensor of `header()`, from `first_byte` of it on.
  void read(const StoredTensor& tensor, std::uint64_t first_byte, std::span<std::byte> to) const {
    detail::check_part(path(), tensor, first_byte, to.size());
    const auto what = [&] { return "tensor " + detail::shown(tensor.name); };
    file_.check_size(what);
    file_.read(offset_of(tensor) + first_byte, to, what);
  }

 private:
  SafetensorsHeader parse() const {
    const auto what = [] { return "the header"; };
    constexpr std::size_t length_bytes = detail::SafetensorsParser::length_bytes;
    std::string first(std::min<std::uint64_t>(length_bytes, file_bytes()), '\0'), text;
    file_.read(0, std::as_writable_bytes(std::span{first}), what);
    return parse_safetensors_header(path(), first, file_bytes(), [&](std::size_t bytes) {
      text.resize(bytes);
      file_.read(length_bytes, std::as_writable_bytes(std::span{text}), what);
      return std::string_view{text};
    });
  }

  detail::FileHandle<System> file_;
  SafetensorsHeader header_;
};

SafetensorsFile(std::string)->SafetensorsFile<>;

}  // namespace shardexpr
