// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <atomic>
#include <cstddef>
#include <filesystem>
#include <string>
#include <system_error>

#include <unistd.h>

/// A directory of the test's own, in the directory it runs in or in that which is given; it goes
/// with the object, and with it what is in it.
class Scratch {
 public:
  explicit Scratch(const std::filesystem::path& in = ".") {
    static std::atomic<std::size_t> count{0};
    const auto name = "scratch-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
    path_ = std::filesystem::absolute(in / name).lexically_normal();
    std::filesystem::create_directory(path_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  std::string path() const { return path_.string(); }
  /// Of something in it.
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  bool is_empty() const { return std::filesystem::is_empty(path_); }

  /// Where files are memory, if the machine has such a place: for tests of which many make files
  /// and none asks how a disk behaves.
  static std::filesystem::path in_memory() {
    constexpr const char* shm = "/dev/shm";
    return ::access(shm, W_OK) == 0 ? shm : ".";
  }

 private:
  std::filesystem::path path_;
};
