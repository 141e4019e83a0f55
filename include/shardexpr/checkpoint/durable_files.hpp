// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/file_handle.hpp>
#include <shardexpr/core/crc32c.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/io/failure.hpp>
#include <shardexpr/io/system.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

// Files and folders that are whole or not there: what a checkpoint is written with.
namespace shardexpr::detail {

/// CRC-32C of each chunk of something that comes from its begin to its end; the last may be
/// shorter.
class ChunkSums {
 public:
  static constexpr std::size_t chunk_bytes = std::size_t{256} << 10;

  std::uint64_t bytes() const { return bytes_; }
  const std::vector<std::uint32_t>& chunks() const { return chunks_; }

  void add(std::span<const std::byte> from) {
    while (!from.empty()) {
      const auto filled = static_cast<std::size_t>(bytes_ % chunk_bytes);
      if (filled == 0) chunks_.push_back(0);
      const auto next = from.first(std::min(from.size(), chunk_bytes - filled));
      chunks_.back() = crc32c(next, chunks_.back());
      bytes_ += next.size();
      from = from.subspan(next.size());
    }
  }

 private:
  std::uint64_t bytes_ = 0;
  std::vector<std::uint32_t> chunks_;
};

inline std::uint32_t crc32c_of(std::string_view text) {
  return crc32c(std::as_bytes(std::span{text}));
}

[[noreturn]] inline void throw_io(const std::string& path, const std::string& what, int error) {
  throw IoError(path + ": " + what + ": " + error_text(error) +
                (means_full(error) ? "; free some room there, or save elsewhere"
                                   : "; let this process write there, or save elsewhere"));
}

template <class System>
void make_folder(const std::string& path) {
  if (System::mkdir(path.c_str(), 0777) != 0) throw_io(path, "the folder cannot be made", errno);
}
/// What was made, renamed or removed in a folder outlives the machine when this returns.
template <class System>
void sync_folder(const std::string& path) {
  const int fd = without_interrupts(
      [&] { return System::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0); });
  if (fd < 0) throw_io(path, "the folder cannot be opened", errno);
  const int failed = without_interrupts([&] { return System::fsync(fd); });
  const int error = errno;
  (void)System::close(fd);
  if (failed != 0) throw_io(path, "the folder cannot be brought to the disk", error);
}
template <class System>
void rename_in(const std::string& folder, const std::string& from, const std::string& to) {
  if (System::rename((folder + "/" + from).c_str(), (folder + "/" + to).c_str()) != 0)
    throw_io(folder + "/" + from, "it cannot be renamed to " + to, errno);
  sync_folder<System>(folder);
}
/// A new small file with that text, on the disk.
template <class System>
void write_text(const std::string& path, std::string_view text) {
  auto file = FileHandle<System>::to_create(path);
  file.write(0, std::as_bytes(std::span{text}), [] { return "its text"; });
  file.synchronize();
  file.close();
}
/// The same in the place of one that may be there: a reader finds the old text or the new.
template <class System>
void replace_text(const std::string& folder, const std::string& name, std::string_view text) {
  const std::string beside = "." + name + ".new";
  (void)System::unlink((folder + "/" + beside).c_str());  // of a run that was killed
  write_text<System>(folder + "/" + beside, text);
  rename_in<System>(folder, beside, name);
}

/// Names in a folder, sorted.
inline std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator at{folder, error}, end; !error && at != end;
       at.increment(error))
    names.push_back(at->path().filename().string());
  if (error) throw IoError(folder + ": the folder cannot be read: " + error.message());
  std::sort(names.begin(), names.end());
  return names;
}
/// Removes a folder of files. What holds folders is none of ours, and stays.
template <class System>
void remove_folder(const std::string& path) {
  for (const std::string& name : names_in(path))
    if (System::unlink((path + "/" + name).c_str()) != 0)
      throw_io(path + "/" + name, "it cannot be removed", errno);
  if (System::rmdir(path.c_str()) != 0) throw_io(path, "the folder cannot be removed", errno);
}

}  // namespace shardexpr::detail
