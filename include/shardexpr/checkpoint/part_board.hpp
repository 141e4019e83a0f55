// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/durable_files.hpp>
#include <shardexpr/checkpoint/file_handle.hpp>
#include <shardexpr/checkpoint/part_file.hpp>
#include <shardexpr/checkpoint/safetensors_set.hpp>
#include <shardexpr/core/error.hpp>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <string>
#include <string_view>

namespace shardexpr::detail {

/// How rank 0 learns, without a communicator, that the ranks' parts are on the disk: by small files
/// beside them. Training has the communicator meanwhile.
template <class System>
class PartBoard {
 public:
  PartBoard(std::string folder, std::size_t rank) : folder_{std::move(folder)}, rank_{rank} {}

  /// Does `write()`, which gives the part's record, and tells how it ended.
  template <class Write>
  void post(Write write) {
    try {
      const FileRecord record = write();
      tell(rank_, done,
           std::to_string(record.bytes) + " " + std::to_string(record.sums_bytes) + " " +
               std::to_string(record.sums_crc) + "\n");
    } catch (const std::exception& error) {
      try {
        tell(rank_, failed, error.what());
      } catch (const std::exception&) {
        // Rank 0 then waits until it is told by the communicator.
      }
      throw;
    }
  }
  /// Waits for a rank's part.
  /// Errors:  IoError with the rank's words where it failed, or after `give_up`.
  FileRecord await(std::size_t rank, const std::string& name) {
    using namespace std::chrono_literals;
    auto pause = 1ms;
    std::unique_lock lock{mutex_};
    for (;;) {
      if (exists<System>(path(rank, done))) return record(rank, name);
      if (exists<System>(path(rank, failed)))
        throw IoError("rank " + std::to_string(rank) + ": " + text(rank, failed));
      if (is_given_up_)
        throw IoError(folder_ + ": rank " + std::to_string(rank) + " has not written its part");
      given_up_.wait_for(lock, pause, [&] { return is_given_up_; });
      pause = std::min<std::chrono::milliseconds>(2 * pause, 100ms);
    }
  }
  /// Those who wait do so no longer.
  void give_up() {
    const std::scoped_lock lock{mutex_};
    is_given_up_ = true;
    given_up_.notify_all();
  }
  /// Removes what was told: it is not of the checkpoint.
  void clear(std::size_t ranks) const {
    for (std::size_t rank = 0; rank < ranks; ++rank)
      if (System::unlink(path(rank, done).c_str()) != 0)
        throw_io(path(rank, done), "it cannot be removed", errno);
  }

 private:
  static constexpr const char *done = "done", *failed = "failed";

  static std::string name_of(std::size_t rank, const char* how) {
    return ".part-" + std::to_string(rank) + "." + how;
  }
  std::string path(std::size_t rank, const char* how) const {
    return folder_ + "/" + name_of(rank, how);
  }
  /// By a rename, so that nobody reads half of it.
  void tell(std::size_t rank, const char* how, std::string_view text) const {
    write_text<System>(path(rank, "new"), text);
    rename_in<System>(folder_, name_of(rank, "new"), name_of(rank, how));
  }
  std::string text(std::size_t rank, const char* how) const {
    const auto file = FileHandle<System>::to_read(path(rank, how));
    return read_text(file, 4096, [] { return "what a rank told"; });
  }
  FileRecord record(std::size_t rank, const std::string& name) const {
    const std::string told = text(rank, done);
    FileRecord record;
    record.name = name;
    const char *at = told.data(), *const end = at + told.size();
    const auto number = [&](auto& to) {
      const auto [next, error] = std::from_chars(at, end, to);
      if (error != std::errc{} || next == end)
        throw FormatError(path(rank, done) + ": not what a rank tells");
      at = next + 1;
    };
    number(record.bytes);
    number(record.sums_bytes);
    number(record.sums_crc);
    return record;
  }

  std::string folder_;
  std::size_t rank_;
  std::mutex mutex_;
  std::condition_variable given_up_;
  bool is_given_up_ = false;
};

}  // namespace shardexpr::detail
