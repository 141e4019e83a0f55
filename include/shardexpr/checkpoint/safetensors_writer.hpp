// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/file_handle.hpp>
#include <shardexpr/checkpoint/safetensors_file.hpp>
#include <shardexpr/checkpoint/safetensors_layout.hpp>
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

namespace shardexpr {

/// A safetensors file that is being written, in any order and by any number of writers: one
/// `create`s it, others `join`, in this process or another, each with the same layout. Who wants
/// the file to appear at once and whole gives it a name of its own and renames it behind `finish`.
///
/// Order:   any number of threads may write at once, what they write disjoint. The header is
///          written by `finish` of who created the file, behind that of all who joined: until then
///          the file begins with zeros, and no reader takes it for a whole one.
/// Errors:  ConfigError where another path or layout is needed, IoError if the disk is full or
///          fails: the file, the tensor, the byte of the file. Bytes that nobody wrote are zeros.
/// Cost:    room for the file is set aside at the start, so that a full disk is found there, where
///          the file system can do so. Writing allocates nothing.
template <class System = detail::LinuxSystem>
class SafetensorsWriter {
 public:
  /// Makes the file, which must not exist.
  static SafetensorsWriter create(std::string path, SafetensorsLayout layout) {
    auto file = detail::FileHandle<System>::to_create(std::move(path));
    file.reserve(layout.file_bytes());
    return {std::move(file), std::move(layout), true};
  }
  /// Opens a file that another writer has created and not yet finished.
  static SafetensorsWriter join(std::string path, SafetensorsLayout layout) {
    auto file = detail::FileHandle<System>::to_write(std::move(path));
    if (file.opened_bytes() != layout.file_bytes())
      throw ConfigError(file.path() + " has " + std::to_string(file.opened_bytes()) +
                        " bytes, this layout " + std::to_string(layout.file_bytes()) +
                        ": it was made for other tensors");
    return {std::move(file), std::move(layout), false};
  }

  /// As `create` or `join` was given it.
  const std::string& path() const { return file_.path(); }
  /// As `create` or `join` was given it.
  const SafetensorsLayout& layout() const { return layout_; }
  /// Null if there is none of that name.
  const StoredTensor* find(std::string_view name) const { return layout_.header.find(name); }

  /// Writes a piece of a tensor of the layout, from `first_byte` of the tensor on.
  void write(const StoredTensor& tensor, std::uint64_t first_byte,
             std::span<const std::byte> from) const {
    detail::check_part(path(), tensor, first_byte, from.size());
    file_.write(layout_.header.data_offset + tensor.begin + first_byte, from,
                [&] { return "tensor " + detail::shown(tensor.name); });
  }

  /// What this writer wrote is on the disk, or this throws. It may be called once and is the last
  /// call.
  void finish() {
    if (is_creator_) {
      file_.synchronize();  // first: a header says that the data is there
      file_.write(0, std::as_bytes(std::span{layout_.first_bytes}), [] { return "the header"; });
    }
    file_.synchronize();
    file_.close();
  }

 private:
  SafetensorsWriter(detail::FileHandle<System>&& file, SafetensorsLayout&& layout, bool is_creator)
      : file_{std::move(file)}, layout_{std::move(layout)}, is_creator_{is_creator} {}

  detail::FileHandle<System> file_;
  SafetensorsLayout layout_;
  bool is_creator_;
};

}  // namespace shardexpr
