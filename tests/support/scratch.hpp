// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <atomic>
#include <cstddef>
#include <filesystem>
#include <string>
#include <system_error>

#include <unistd.h>

/// A directory of the test's own in the directory it runs in; it goes with the object, and with it
/// what is in it.
class Scratch {
 public:
  Scratch() {
    static std::atomic<std::size_t> count{0};
    path_ = std::filesystem::absolute("scratch-" + std::to_string(::getpid()) + "-" +
                                      std::to_string(count++));
    std::filesystem::create_directory(path_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  std::string path() const { return path_.string(); }
  bool is_empty() const { return std::filesystem::is_empty(path_); }

 private:
  std::filesystem::path path_;
};
