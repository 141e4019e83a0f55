// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <thread>

#if !defined(__linux__)
#error "shardexpr/io/ needs Linux"
#endif
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <unistd.h>
#if defined(SHARDEXPR_LIBURING)
#include <liburing.h>
#endif

namespace shardexpr::detail {

/// One read or write of one piece of memory. `slot` comes back with its result.
struct IoRequest {
  std::byte* data = nullptr;  // a write only reads it
  std::size_t bytes = 0;
  std::uint64_t offset = 0;
  std::uint64_t slot = 0;
  bool writes = false;
};

struct IoResult {
  std::uint64_t slot = 0;
  std::int64_t result = 0;  // bytes, or an errno with a minus before it
};

/// What this floor asks of the system, each call by its own name. Tests put faults in its place.
///
/// Errors:  as the system's: -1 and errno; of the functions for a ring, an errno with a minus
///          before it.
struct LinuxSystem {
  static_assert(sizeof(off_t) == 8, "a file's offsets need 64 bits: -D_FILE_OFFSET_BITS=64");

  static int open(const char* path, int flags, mode_t mode) { return ::open(path, flags, mode); }
  static int close(int fd) { return ::close(fd); }
  static int unlink(const char* path) { return ::unlink(path); }
  static int mkdir(const char* path, mode_t mode) { return ::mkdir(path, mode); }
  static int rmdir(const char* path) { return ::rmdir(path); }
  static int rename(const char* from, const char* to) { return std::rename(from, to); }
  static int flock(int fd, int operation) { return ::flock(fd, operation); }
  static int fstat(int fd, struct stat* to) { return ::fstat(fd, to); }
  static int statvfs(const char* path, struct statvfs* to) { return ::statvfs(path, to); }
  static int statx(int fd, const char* path, int flags, unsigned mask, struct statx* to) {
    return ::statx(fd, path, flags, mask, to);
  }
  static int fallocate(int fd, std::uint64_t offset, std::uint64_t bytes) {
    return ::fallocate(fd, 0, static_cast<off_t>(offset), static_cast<off_t>(bytes));
  }
  static int ftruncate(int fd, std::uint64_t bytes) {
    return ::ftruncate(fd, static_cast<off_t>(bytes));
  }
  static int fsync(int fd) { return ::fsync(fd); }
  static ssize_t pread(int fd, void* to, std::size_t bytes, std::uint64_t offset) {
    return ::pread(fd, to, bytes, static_cast<off_t>(offset));
  }
  static ssize_t pwrite(int fd, const void* from, std::size_t bytes, std::uint64_t offset) {
    return ::pwrite(fd, from, bytes, static_cast<off_t>(offset));
  }
  /// O_DIRECT on or off.
  static int set_direct(int fd, bool on) {
    const int flags = ::fcntl(fd, F_GETFL);
    return flags < 0 ? -1 : ::fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT);
  }
  template <class Work, class Of>
  static std::thread start_thread(Work work, Of* of) {
    return std::thread{work, of};
  }
  /// Before something that failed is tried once more.
  static void pause() { std::this_thread::sleep_for(std::chrono::milliseconds{1}); }

#if defined(SHARDEXPR_LIBURING)
  using Ring = io_uring;

  /// A ring, if the system gives one that works: a filter may let it be made and then refuse to
  /// have it entered, and early kernels know it without plain reads and writes.
  static int ring_open(Ring& ring, unsigned entries) {
    if (const int error = io_uring_queue_init(entries, &ring, 0); error < 0) return error;
    const int error = ring_probe(ring);
    if (error < 0) io_uring_queue_exit(&ring);
    return error;
  }
  static void ring_close(Ring& ring) { io_uring_queue_exit(&ring); }
  static int ring_push(Ring& ring, int fd, const IoRequest& request) {
    io_uring_sqe* entry = io_uring_get_sqe(&ring);
    if (entry == nullptr) return -EBUSY;
    const unsigned bytes = static_cast<unsigned>(request.bytes);
    if (request.writes)
      io_uring_prep_write(entry, fd, request.data, bytes, request.offset);
    else
      io_uring_prep_read(entry, fd, request.data, bytes, request.offset);
    io_uring_sqe_set_data64(entry, request.slot);
    return 0;
  }
  /// How many were taken.
  static int ring_submit(Ring& ring) { return io_uring_submit(&ring); }
  /// Sleeps until one is done.
  static int ring_wait(Ring& ring, IoResult& to) {
    io_uring_cqe* entry = nullptr;
    if (const int error = io_uring_wait_cqe(&ring, &entry); error < 0) return error;
    to = {io_uring_cqe_get_data64(entry), entry->res};
    io_uring_cqe_seen(&ring, entry);
    return 0;
  }

 private:
  static int ring_probe(Ring& ring) {
    io_uring_probe* probe = io_uring_get_probe_ring(&ring);
    if (probe == nullptr) return -ENOSYS;
    const bool knows = io_uring_opcode_supported(probe, IORING_OP_READ) != 0 &&
                       io_uring_opcode_supported(probe, IORING_OP_WRITE) != 0;
    io_uring_free_probe(probe);
    if (!knows) return -ENOSYS;
    io_uring_prep_nop(io_uring_get_sqe(&ring));
    if (const int taken = io_uring_submit(&ring); taken != 1) return taken < 0 ? taken : -EAGAIN;
    IoResult nothing;
    return ring_wait(ring, nothing);
  }
#endif
};

}  // namespace shardexpr::detail
