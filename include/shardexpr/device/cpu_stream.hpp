// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/task_queue.hpp>

#include <cstdint>
#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>

namespace shardexpr {

/// When the streams of a `Cpu` run what is enqueued: inside the enqueuing call, or later, each
/// stream in a thread of its own.
enum class Execution { immediate, asynchronous };

namespace detail {

class CpuStream;

/// A point in a stream. It knows the stream's progress, not the stream: it may go at any time.
class CpuEvent {
 public:
  CpuEvent() = default;
  CpuEvent(const CpuEvent&) = delete;
  CpuEvent& operator=(const CpuEvent&) = delete;

 private:
  friend class CpuStream;
  std::shared_ptr<StreamProgress> progress_;  // null: nothing to wait for
  std::uint64_t position_ = 0;
};

/// A stream of `Cpu`. One thread at a time uses it.
class CpuStream {
 public:
  CpuStream() = default;
  CpuStream(Execution execution, std::string_view name)
      : queue_{execution == Execution::asynchronous ? std::make_unique<TaskQueue>(name) : nullptr} {
  }
  CpuStream(const CpuStream&) = delete;
  CpuStream& operator=(const CpuStream&) = delete;

  template <class Work>
  void run(Work&& work) {
    if (queue_ == nullptr)
      std::forward<Work>(work)();
    else
      queue_->enqueue(std::forward<Work>(work));
  }

  void record(CpuEvent& event) const {
    if (queue_ == nullptr) {
      event.progress_ = nullptr;
      return;
    }
    event.progress_ = queue_->progress();
    event.position_ = queue_->position();
  }

  void wait(const CpuEvent& event) {
    if (event.progress_ == nullptr) return;
    if (queue_ == nullptr)
      pass(*event.progress_, event.position_);
    else if (queue_->progress() != event.progress_)
      queue_->enqueue(
          [progress = event.progress_, position = event.position_] { pass(*progress, position); });
  }

  void synchronize() {
    if (queue_ != nullptr) pass(*queue_->progress(), queue_->position());
  }
  void drain() noexcept {
    if (queue_ != nullptr) queue_->progress()->await(queue_->position());
  }

 private:
  static void pass(StreamProgress& progress, std::uint64_t position) {
    progress.await(position);
    progress.rethrow(position);
  }

  std::unique_ptr<TaskQueue> queue_;  // null: immediate
};

}  // namespace detail

}  // namespace shardexpr
