// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/durable_files.hpp>
#include <shardexpr/checkpoint/json_reader.hpp>
#include <shardexpr/checkpoint/json_text.hpp>
#include <shardexpr/checkpoint/safetensors_file.hpp>
#include <shardexpr/checkpoint/safetensors_layout.hpp>
#include <shardexpr/checkpoint/safetensors_writer.hpp>
#include <shardexpr/checkpoint/shown_name.hpp>
#include <shardexpr/checkpoint/staged_writer.hpp>
#include <shardexpr/core/crc32c.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/io/system.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

// A safetensors file with checksums beside it: what one writer adds to a checkpoint.
namespace shardexpr::detail {

/// A file of a checkpoint as the manifest knows it: its sums lie in `name`.sums, whose own sum is
/// here. So every byte hangs on the manifest's.
struct FileRecord {
  std::string name;
  /// "pieces": tensors named as `StoredPiece` reads them. "model": whole parameters by their own
  /// names, for others to read. "text": no tensors, and no file of sums; the sum is its own.
  std::string role = "pieces";
  std::uint64_t bytes = 0;       // of the file
  std::uint64_t sums_bytes = 0;  // of the file of sums
  std::uint32_t sums_crc = 0;
};

inline std::uint32_t read_crc(JsonReader& reader) {
  const std::size_t at = reader.at();
  const std::uint64_t crc = reader.integer("a checksum");
  if (crc > 0xffffffff) JsonReader::fail_at("a checksum is beyond 32 bits", at);
  return static_cast<std::uint32_t>(crc);
}

inline std::string sums_name(const std::string& name) { return name + ".sums"; }

/// A tensor's chunks by their sums, of all tensors in the order of the file's header.
struct FileSums {
  std::uint32_t header = 0;  // of the first bytes, up to the data
  std::vector<std::vector<std::uint32_t>> tensors;

  std::string text() const {
    std::string text = "{\"chunk_bytes\":" + std::to_string(ChunkSums::chunk_bytes) +
                       ",\"header\":" + std::to_string(header) + ",\"tensors\":[";
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      text += i == 0 ? "\n[" : ",\n[";
      for (std::size_t c = 0; c < tensors[i].size(); ++c) {
        if (c != 0) text += ',';
        text += std::to_string(tensors[i][c]);
      }
      text += ']';
    }
    return text + "]}\n";
  }
  /// Of a text whose sum was right: what is wrong with it was written so.
  static FileSums parse(const std::string& path, std::string_view text) {
    FileSums sums;
    JsonReader reader{text};
    std::uint64_t chunk_bytes = 0;
    try {
      reader.object([&](const std::string& key, std::size_t) {
        if (key == "chunk_bytes")
          chunk_bytes = reader.integer("a size");
        else if (key == "header")
          sums.header = read_crc(reader);
        else if (key == "tensors")
          reader.array([&] {
            auto& chunks = sums.tensors.emplace_back();
            reader.array([&] { chunks.push_back(read_crc(reader)); });
          });
        else
          reader.skip_value();
      });
      reader.end();
    } catch (const JsonFault& fault) {
      throw FormatError(path + ", byte " + std::to_string(fault.at) + ": " + fault.what);
    }
    if (chunk_bytes != ChunkSums::chunk_bytes)
      throw FormatError(path + ": sums of chunks of " + std::to_string(chunk_bytes) +
                        " bytes, this library makes them of " +
                        std::to_string(ChunkSums::chunk_bytes));
    return sums;
  }
};

/// Writes a file of tensors and their sums. Each tensor comes from its begin to its end; tensors
/// may come in turns.
///
/// Order:   one thread at a time.
/// Errors:  IoError where the disk is full or fails, from `append` or `finish`: what was given
///          before may only then be written.
/// Cost:    as `StagedWriter`.
template <class System>
class PartWriter {
 public:
  PartWriter(std::string folder, std::string name, SafetensorsLayout layout)
      : folder_{std::move(folder)},
        name_{std::move(name)},
        sums_(layout.header.tensors.size()),
        writer_{SafetensorsWriter<System>::create(folder_ + "/" + name_, std::move(layout))},
        data_{std::make_unique<StagedWriter<System>>(writer_.path())} {}

  /// Takes what comes next of tensor `i` of the layout's header: its bytes from `first` on.
  /// Errors:  Error if what lies before was not given.
  void append(std::size_t i, std::uint64_t first, std::span<const std::byte> from) {
    const StoredTensor& tensor = writer_.layout().header.tensors[i];
    if (first != sums_[i].bytes())
      throw Error(writer_.path() + ", tensor " + shown(tensor.name) + ": byte " +
                  std::to_string(first) + " was given where " + std::to_string(sums_[i].bytes()) +
                  " comes next");
    check_part(writer_.path(), tensor, first, from.size());
    // Chunk by chunk: what was summed is copied from the cache.
    std::uint64_t at = header().data_offset + tensor.begin + first;
    while (!from.empty()) {
      const auto next = from.first(std::min(from.size(), ChunkSums::chunk_bytes));
      sums_[i].add(next);
      data_->write(at, next);
      at += next.size();
      from = from.subspan(next.size());
    }
  }
  const SafetensorsHeader& header() const { return writer_.layout().header; }

  /// When this returns, file and sums are on the disk.
  /// Errors:  Error if a tensor lacks bytes.
  FileRecord finish() {
    FileSums sums;
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      const StoredTensor& tensor = header().tensors[i];
      if (sums_[i].bytes() != tensor.size_bytes())
        throw Error(writer_.path() + ", tensor " + shown(tensor.name) + ": " +
                    std::to_string(sums_[i].bytes()) + " of its " +
                    std::to_string(tensor.size_bytes()) + " bytes were given");
      sums.tensors.push_back(sums_[i].chunks());
    }
    sums.header = crc32c_of(writer_.layout().first_bytes);
    const std::uint64_t bytes = writer_.layout().file_bytes();
    data_->flush();
    writer_.finish();
    const std::string text = sums.text();
    write_text<System>(folder_ + "/" + sums_name(name_), text);
    return {name_, "pieces", bytes, text.size(), crc32c_of(text)};
  }

 private:
  std::string folder_, name_;
  std::vector<ChunkSums> sums_;
  SafetensorsWriter<System> writer_;
  std::unique_ptr<StagedWriter<System>> data_;  // its thread knows where it is
};

/// Errors:  FormatError if a file of text is not the one that was saved.
template <class System>
std::string read_saved_text(const std::string& folder, const FileRecord& record) {
  const auto file = FileHandle<System>::to_read(folder + "/" + record.name);
  const auto refuse = [&](const std::string& what) {
    throw FormatError(file.path() + ": " + what + ": it was changed, or is of another checkpoint");
  };
  if (file.opened_bytes() != record.bytes)
    refuse("it has " + std::to_string(file.opened_bytes()) + " bytes, " +
           std::to_string(record.bytes) + " were saved");
  std::string text = read_text(file, record.bytes, [] { return "its text"; });
  if (crc32c_of(text) != record.sums_crc) refuse("its checksum is not that of what was saved");
  return text;
}

/// Reads a file of tensors; no byte of it is believed before its sum.
///
/// Errors:  FormatError where size, sums or header are not those that were saved; from `read`, too,
///          with the tensor and the byte of the file. IoError where the disk fails.
/// Cost:    chunks are read whole; one that is wanted in pieces, from begin to end, once.
template <class System>
class PartReader {
 public:
  PartReader(const std::string& folder, const FileRecord& record)
      : sums_{read_sums(folder, record)}, file_{open(folder, record)} {
    const auto handle = FileHandle<System>::to_read(file_.path());
    std::string first(static_cast<std::size_t>(file_.header().data_offset), '\0');
    handle.read(0, std::as_writable_bytes(std::span{first}), [] { return "the header"; });
    if (crc32c_of(first) != sums_.header || sums_.tensors.size() != file_.header().tensors.size())
      throw FormatError(file_.path() +
                        ", byte 0: the header is not the one that was saved: its "
                        "checksum differs");
  }

  const std::string& path() const { return file_.path(); }
  const SafetensorsHeader& header() const { return file_.header(); }

  /// Bytes of tensor `i` of the header, from `first` of it on.
  void read(std::size_t i, std::uint64_t first, std::span<std::byte> to) {
    constexpr std::size_t chunk_bytes = ChunkSums::chunk_bytes;
    const StoredTensor& tensor = header().tensors[i];
    check_part(path(), tensor, first, to.size());
    while (!to.empty()) {
      const std::uint64_t chunk = first / chunk_bytes;
      const std::uint64_t begin = chunk * chunk_bytes;
      const auto size = static_cast<std::size_t>(
          std::min<std::uint64_t>(chunk_bytes, tensor.size_bytes() - begin));
      const auto skipped = static_cast<std::size_t>(first - begin);
      const std::size_t count = std::min(to.size(), size - skipped);
      if (count == size) {
        read_chunk(i, chunk, to.first(size));
      } else {
        if (kept_ != std::pair{i, chunk}) {
          if (buffer_ == nullptr) buffer_.reset(new std::byte[chunk_bytes]);
          kept_.reset();
          read_chunk(i, chunk, {buffer_.get(), size});
          kept_ = {i, chunk};
        }
        std::memcpy(to.data(), buffer_.get() + skipped, count);
      }
      first += count;
      to = to.subspan(count);
    }
  }

 private:
  static FileSums read_sums(const std::string& folder, const FileRecord& record) {
    const auto file = FileHandle<System>::to_read(folder + "/" + sums_name(record.name));
    const auto what = [] { return "its checksums"; };
    if (file.opened_bytes() != record.sums_bytes)
      throw FormatError(file.path() + " has " + std::to_string(file.opened_bytes()) + " bytes, " +
                        std::to_string(record.sums_bytes) +
                        " were saved: it was cut off or is of another checkpoint");
    const std::string text = read_text(file, record.sums_bytes, what);
    if (crc32c_of(text) != record.sums_crc)
      throw FormatError(file.path() +
                        ": its checksum is not that of what was saved: it was "
                        "changed, or is of another checkpoint");
    return FileSums::parse(file.path(), text);
  }
  static SafetensorsFile<System> open(const std::string& folder, const FileRecord& record) {
    SafetensorsFile<System> file{folder + "/" + record.name};
    if (file.file_bytes() != record.bytes)
      throw FormatError(file.path() + " has " + std::to_string(file.file_bytes()) + " bytes, " +
                        std::to_string(record.bytes) +
                        " were saved: it was cut off or is of another checkpoint");
    return file;
  }
  void read_chunk(std::size_t i, std::uint64_t chunk, std::span<std::byte> to) const {
    const StoredTensor& tensor = header().tensors[i];
    const std::uint64_t first = chunk * ChunkSums::chunk_bytes;
    file_.read(tensor, first, to);
    const auto& sums = sums_.tensors[i];
    if (chunk < sums.size() && crc32c(to) == sums[static_cast<std::size_t>(chunk)]) return;
    throw FormatError(path() + ", tensor " + shown(tensor.name) + ", byte " +
                      std::to_string(file_.offset_of(tensor) + first) + ": the checksum of these " +
                      std::to_string(to.size()) +
                      " bytes is not that of what was saved: they were changed; take another "
                      "checkpoint, and test the disk");
  }

  FileSums sums_;
  SafetensorsFile<System> file_;
  std::unique_ptr<std::byte[]> buffer_;
  std::optional<std::pair<std::size_t, std::uint64_t>> kept_;  // in it: tensor, chunk
};

}  // namespace shardexpr::detail
