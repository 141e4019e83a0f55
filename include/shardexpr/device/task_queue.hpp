// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/device/progress.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <pthread.h>
#endif

namespace shardexpr::detail {

/// This thread is a stream's worker. There are more of them than cores: who waits in one sleeps at
/// once, so that another can compute.
inline thread_local bool in_stream_worker = false;

/// Tasks that one thread enqueues and a worker of the queue's own runs, in order. They lie in a
/// ring of bytes, so that to enqueue allocates nothing.
///
/// Order:   one thread at a time enqueues. It waits while the ring has no room for the task.
/// Errors:  the constructor throws std::bad_alloc, or std::system_error where no thread can start.
///          What a task throws is kept in `progress()`; the tasks behind it are destroyed unrun.
/// Cost:    `capacity_bytes`, and a thread that sleeps when it has nothing to do.
class TaskQueue {
 public:
  static constexpr std::size_t capacity_bytes = 256_KiB;
  static constexpr std::size_t line_bytes = 64;  // a task begins at a multiple of it

  explicit TaskQueue(std::string_view name)
      : ring_{std::make_unique<Line[]>(capacity_bytes / line_bytes)},
        progress_{std::make_shared<StreamProgress>()},
        worker_{&TaskQueue::work, this} {
    set_name(name);
  }
  TaskQueue(const TaskQueue&) = delete;
  TaskQueue& operator=(const TaskQueue&) = delete;
  /// Waits for all tasks.
  ~TaskQueue() {
    written_.fetch_or(closed, std::memory_order_release);
    filled_.ring();
    worker_.join();
  }

  template <class Work>
  void enqueue(Work&& work) {
    using Task = std::decay_t<Work>;
    static_assert(alignof(Task) <= line_bytes, "an operation's captures are aligned to 64 at most");
    static_assert(record_bytes<Task> <= capacity_bytes,
                  "an operation must fit into its stream's queue: capture pointers, not data");
    std::byte* record = reserve(record_bytes<Task>);
    ::new (static_cast<void*>(record + task_offset<Task>)) Task(std::forward<Work>(work));
    publish(record, {&run_task<Task>, record_bytes<Task>});
  }

  /// Behind all that was enqueued so far.
  std::uint64_t position() const { return written_.load(std::memory_order_relaxed); }
  const std::shared_ptr<StreamProgress>& progress() const { return progress_; }

 private:
  struct alignas(line_bytes) Line {
    std::byte bytes[line_bytes];
  };
  struct Header {
    void (*call)(std::byte* record, bool runs);  // runs the task or not, then destroys it
    std::size_t size_bytes;                      // of the record: header, task, padding
  };
  template <class Task>
  static constexpr std::size_t task_offset = round_up(sizeof(Header), alignof(Task));
  template <class Task>
  static constexpr std::size_t record_bytes = round_up(task_offset<Task> + sizeof(Task),
                                                       line_bytes);

  // Records are whole lines, so the lowest bit of a position is free to say: nothing more comes.
  static constexpr std::uint64_t closed = 1;

  template <class Task>
  static void run_task(std::byte* record, bool runs) {
    Task& task = *std::launder(reinterpret_cast<Task*>(record + task_offset<Task>));
    struct Destroy {
      Task& task;
      ~Destroy() { task.~Task(); }
    } destroy{task};
    if (runs) task();
  }

  std::byte* at(std::uint64_t position) {
    return reinterpret_cast<std::byte*>(ring_.get()) + position % capacity_bytes;
  }

  /// Waits for room for a record, which lies in one piece.
  std::byte* reserve(std::size_t size_bytes) {
    const std::size_t rest = capacity_bytes - position() % capacity_bytes;
    if (rest < size_bytes) {  // fill the end of the ring and begin anew
      await_room(rest);
      publish(at(position()), {[](std::byte*, bool) {}, rest});
    }
    await_room(size_bytes);
    return at(position());
  }
  void await_room(std::size_t size_bytes) {
    const std::uint64_t end = position() + size_bytes;
    if (end > capacity_bytes) progress_->await(end - capacity_bytes);
  }
  void publish(std::byte* record, Header header) {
    ::new (static_cast<void*>(record)) Header{header};
    written_.fetch_add(header.size_bytes, std::memory_order_release);
    filled_.ring();
  }

  void work() {
    in_stream_worker = true;
    bool failed = false;
    for (std::uint64_t position = 0;;) {
      filled_.await([&] { return written_.load(std::memory_order_acquire) != position; });
      if (written_.load(std::memory_order_acquire) == (position | closed)) return;
      std::byte* record = at(position);
      const Header header = *std::launder(reinterpret_cast<Header*>(record));
      try {
        header.call(record, !failed);
      } catch (...) {
        failed = true;
        progress_->fail(position, std::current_exception());
      }
      position += header.size_bytes;
      progress_->advance(position);
    }
  }

  void set_name([[maybe_unused]] std::string_view name) {
#if defined(__linux__)
    std::array<char, 16> text{};  // the kernel takes no more
    std::copy_n(name.begin(), std::min(name.size(), text.size() - 1), text.begin());
    pthread_setname_np(worker_.native_handle(), text.data());
#endif
  }

  std::unique_ptr<Line[]> ring_;
  std::shared_ptr<StreamProgress> progress_;
  alignas(line_bytes) std::atomic<std::uint64_t> written_{0};
  Bell filled_;
  std::thread worker_;  // last: it uses the others
};

}  // namespace shardexpr::detail
