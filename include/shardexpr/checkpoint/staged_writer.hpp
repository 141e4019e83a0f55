// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/file_handle.hpp>
#include <shardexpr/checkpoint/stage_memory.hpp>
#include <shardexpr/io/system.hpp>

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <mutex>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace shardexpr::detail {

/// Writes into a file that has its length already: past the page cache, which would hold a second
/// copy of the state and costs more time than the disk. What is written is copied to one of two
/// stages; while one fills, a thread writes the other. What does not reach from one block of the
/// disk to another goes through the page cache, as all does where the file system has no O_DIRECT.
///
/// Order:   one thread at a time. Of its calls of the system no two are under way at once.
/// Errors:  IoError, from whichever call comes behind what failed.
/// Cost:    copies each byte once; two stages of memory, of which a file that fits in one takes
///          one and no thread.
template <class System>
class StagedWriter {
 public:
  static constexpr std::size_t stage_bytes = std::size_t{4} << 20;

  explicit StagedWriter(const std::string& path)
      : file_{FileHandle<System>::to_write(path)}, direct_{FileHandle<System>::to_write(path)} {
    is_direct_ = direct_.go_direct();
  }
  StagedWriter(const StagedWriter&) = delete;
  StagedWriter& operator=(const StagedWriter&) = delete;
  ~StagedWriter() {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard lock{mutex_};
      ends_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  /// Writes `from` at that byte of the file, sooner or later.
  void write(std::uint64_t offset, std::span<const std::byte> from) {
    while (!from.empty()) {
      const std::size_t room = filling_.room(offset);
      if (room == 0) {
        hand_over();
        continue;
      }
      const auto next = from.first(std::min(room, from.size()));
      filling_.append(offset, next);
      offset += next.size();
      from = from.subspan(next.size());
    }
  }
  /// When this returns, the system has all of it; it need not be on the disk.
  void flush() {
    if (thread_.joinable()) {
      hand_over();
      wait_until_written();
    } else {
      put(filling_);
    }
  }

 private:
  // Where O_DIRECT asks for more than that, it refuses, and all goes through the page cache.
  static constexpr std::size_t block_bytes = 4096;
  // Less is sooner handed to the page cache than waited for.
  static constexpr std::size_t least_direct_bytes = std::size_t{64} << 10;

  /// Stretches of the file. Memory and file are at the same place in a block.
  class Stage {
   public:
    struct Run {
      std::uint64_t offset;
      std::size_t begin, end;  // in the memory
    };
    const std::vector<Run>& runs() const { return runs_; }
    const std::byte* at(std::size_t place) const { return memory_.data() + place; }

    /// How many bytes from `offset` of the file on still fit.
    std::size_t room(std::uint64_t offset) const {
      const std::size_t begin = place(offset);
      return begin < stage_bytes ? stage_bytes - begin : 0;
    }
    void append(std::uint64_t offset, std::span<const std::byte> from) {
      if (memory_.data() == nullptr) memory_ = StageMemory{stage_bytes};
      const std::size_t begin = place(offset);
      if (!continues(offset)) runs_.push_back({offset, begin, begin});
      std::memcpy(memory_.data() + begin, from.data(), from.size());
      runs_.back().end += from.size();
    }
    void clear() { runs_.clear(); }

   private:
    std::size_t end() const { return runs_.empty() ? 0 : runs_.back().end; }
    bool continues(std::uint64_t offset) const {
      return !runs_.empty() && runs_.back().offset + (end() - runs_.back().begin) == offset;
    }
    /// Where in the memory that byte of the file comes next.
    std::size_t place(std::uint64_t offset) const {
      if (continues(offset)) return end();
      return (end() + block_bytes - 1) / block_bytes * block_bytes +
             static_cast<std::size_t>(offset % block_bytes);
    }

    StageMemory memory_;
    std::vector<Run> runs_;
  };

  /// Lets the thread write what fills, and gives another to fill.
  void hand_over() {
    if (!thread_.joinable()) {
      try {
        thread_ = System::start_thread(&StagedWriter::work, this);
      } catch (const std::system_error&) {  // there is no room for one: without
        put(filling_);
        return;
      }
    }
    wait_until_written();
    {
      const std::lock_guard lock{mutex_};
      std::swap(filling_, writing_);
      has_work_ = true;
    }
    changed_.notify_all();
  }
  void wait_until_written() {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [this] { return !has_work_; });
    if (error_) std::rethrow_exception(error_);
  }
  void work() {
    std::unique_lock lock{mutex_};
    for (;;) {
      changed_.wait(lock, [this] { return has_work_ || ends_; });
      if (!has_work_) return;
      lock.unlock();
      std::exception_ptr error;
      try {
        put(writing_);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      error_ = error;
      has_work_ = false;
      changed_.notify_all();
    }
  }

  void put(Stage& stage) {
    for (const typename Stage::Run& run : stage.runs()) put(stage, run);
    stage.clear();
  }
  void put(const Stage& stage, const typename Stage::Run& run) {
    const auto what = [] { return "its tensors"; };
    const auto bytes = [&](std::size_t begin, std::size_t end) {
      return std::span{stage.at(begin), end - begin};
    };
    const auto offset = [&](std::size_t place) { return run.offset + (place - run.begin); };
    const std::size_t first = (run.begin + block_bytes - 1) / block_bytes * block_bytes;
    const std::size_t last = run.end / block_bytes * block_bytes;
    std::size_t begin = run.begin;
    if (is_direct_ && first + least_direct_bytes <= last) {
      file_.write(run.offset, bytes(begin, first), what);
      const std::size_t count = direct_.write_direct(offset(first), bytes(first, last), what);
      is_direct_ = count != 0;
      begin = first + count;
    }
    file_.write(offset(begin), bytes(begin, run.end), what);
  }

  FileHandle<System> file_, direct_;
  bool is_direct_;  // of who writes
  Stage filling_, writing_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool has_work_ = false, ends_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace shardexpr::detail
