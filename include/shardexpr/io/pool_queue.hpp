// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/io/system.hpp>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace shardexpr::detail {

/// Reads and writes of one file by a few threads that sleep in pread and pwrite: what stands in
/// where there is no io_uring.
///
/// Order:   as `UringQueue`.
/// Errors:  `error()` says why there is none: no thread could start. `begin` and `wait` return 0.
template <class System>
class PoolQueue {
 public:
  static constexpr std::size_t most_threads = 4;

  PoolQueue(int fd, std::size_t depth) : fd_{fd}, requests_(depth), results_(depth) {
    const std::size_t wanted = std::min(depth, most_threads);
    workers_.reserve(wanted);
    try {
      while (workers_.size() < wanted)
        workers_.push_back(System::start_thread(&PoolQueue::work, this));
    } catch (const std::system_error& error) {
      if (workers_.empty()) error_ = error.code().value();  // one is enough
    }
  }
  PoolQueue(const PoolQueue&) = delete;
  PoolQueue& operator=(const PoolQueue&) = delete;
  ~PoolQueue() {
    {
      const std::lock_guard lock{mutex_};
      ends_ = true;
    }
    begun_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int error() const { return error_; }

  int begin(const IoRequest& request) {
    {
      const std::lock_guard lock{mutex_};
      requests_.push(request);
    }
    begun_.notify_one();
    return 0;
  }

  int wait(IoResult& to) {
    std::unique_lock lock{mutex_};
    done_.wait(lock, [this] { return results_.count > 0; });
    to = results_.pop();
    return 0;
  }

 private:
  /// First in, first out, never more than its capacity.
  template <class T>
  struct Line {
    explicit Line(std::size_t capacity) : items(capacity) {}
    void push(const T& item) { items[(first + count++) % items.size()] = item; }
    T pop() {
      const T item = items[first];
      first = (first + 1) % items.size();
      --count;
      return item;
    }
    std::vector<T> items;
    std::size_t first = 0, count = 0;
  };

  void work() {
    std::unique_lock lock{mutex_};
    for (;;) {
      begun_.wait(lock, [this] { return requests_.count > 0 || ends_; });
      if (requests_.count == 0) return;
      const IoRequest request = requests_.pop();
      lock.unlock();
      const ssize_t moved = request.writes
                                ? System::pwrite(fd_, request.data, request.bytes, request.offset)
                                : System::pread(fd_, request.data, request.bytes, request.offset);
      const IoResult result{request.slot, moved < 0 ? -errno : moved};
      lock.lock();
      results_.push(result);
      done_.notify_one();
    }
  }

  int fd_;
  int error_ = 0;
  std::mutex mutex_;
  std::condition_variable begun_, done_;
  Line<IoRequest> requests_;
  Line<IoResult> results_;
  bool ends_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace shardexpr::detail
