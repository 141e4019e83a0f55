// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>

namespace shardexpr::testing {

/// Ends the process with an error when a test takes longer than `limit`: a hang is a failure.
class Watchdog {
 public:
  explicit Watchdog(std::string name, std::chrono::seconds limit = std::chrono::seconds{60})
      : thread_{[this, name = std::move(name), limit] {
          std::unique_lock lock{mutex_};
          if (done_.wait_for(lock, limit, [this] { return is_done_; })) return;
          std::fprintf(stderr, "hang: %s\n", name.c_str());
          std::_Exit(3);
        }} {}
  ~Watchdog() {
    {
      std::scoped_lock lock{mutex_};
      is_done_ = true;
    }
    done_.notify_all();
    thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  bool is_done_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace shardexpr::testing
