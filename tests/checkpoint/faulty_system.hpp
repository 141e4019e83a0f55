// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/io/system.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

/// The system, of which one of the calls that change something ends the process, or fails.
struct Faulty : shardexpr::detail::LinuxSystem {
  static inline int calls_until = -1;  // < 0: never
  static inline int error = 0;         // 0: the process ends

  static bool fails() {
    if (calls_until < 0 || calls_until-- != 0) return false;
    if (error == 0) ::_exit(9);
    errno = error;
    return true;
  }
  static int open(const char* path, int flags, mode_t mode) {
    return (flags & O_CREAT) != 0 && fails() ? -1 : LinuxSystem::open(path, flags, mode);
  }
  static int unlink(const char* path) { return fails() ? -1 : LinuxSystem::unlink(path); }
  static int mkdir(const char* path, mode_t m) {
    return fails() ? -1 : LinuxSystem::mkdir(path, m);
  }
  static int rmdir(const char* path) { return fails() ? -1 : LinuxSystem::rmdir(path); }
  static int rename(const char* a, const char* b) {
    return fails() ? -1 : LinuxSystem::rename(a, b);
  }
  static int fsync(int fd) { return fails() ? -1 : LinuxSystem::fsync(fd); }
  static int fallocate(int fd, std::uint64_t at, std::uint64_t bytes) {
    return fails() ? -1 : LinuxSystem::fallocate(fd, at, bytes);
  }
  static ssize_t pwrite(int fd, const void* from, std::size_t bytes, std::uint64_t at) {
    return fails() ? -1 : LinuxSystem::pwrite(fd, from, bytes, at);
  }
};

/// Does `body` in a process of its own that ends at that one of its calls. Returns its status: 9,
/// or 0 if it has fewer.
template <class Body>
int status_killed_at(int call, Body body) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    Faulty::calls_until = call;
    Faulty::error = 0;
    body();
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  return WEXITSTATUS(status);
}
