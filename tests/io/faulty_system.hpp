// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/io/system.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

struct Transfer {
  bool writes;
  std::uint64_t offset;
  std::size_t bytes;
  bool is_state() const { return offset >= 65536; }  // not the header
};

/// What becomes of a transfer: an error, or no more than so many bytes.
struct Verdict {
  int error = 0;
  std::size_t most_bytes = std::numeric_limits<std::size_t>::max();
};

struct Alignment {
  unsigned memory, offset;
};

/// The faults that a test puts into the system, until it ends.
struct Faults {
  /// The errno of a call by its name, 0 for none.
  std::function<int(std::string_view)> call;
  std::function<Verdict(const Transfer&)> transfer;
  /// What the file says of direct transfers. By default what any file accepts that accepts some.
  std::optional<Alignment> alignment = Alignment{4096, 4096};
  std::mutex mutex;
  std::atomic<int> pauses{0};
};

inline Faults* faults = nullptr;

class WithFaults : public Faults {
 public:
  WithFaults() { faults = this; }
  ~WithFaults() { faults = nullptr; }

  void fail(std::string_view name, int error) {
    call = [=](std::string_view called) { return called == name ? error : 0; };
  }
  /// The n-th call of that name, from 0.
  void fail_once(std::string_view name, int error, int which = 0) {
    call = [=](std::string_view called) mutable {
      return called == name && which-- == 0 ? error : 0;
    };
  }
};

/// Linux, but for what `faults` says. `Way::has_ring` says who transfers. Each type of `Way` is a
/// process of its own as to what is said once.
template <class Way>
struct FaultySystem : shardexpr::detail::LinuxSystem {
  using Linux = shardexpr::detail::LinuxSystem;
  using IoRequest = shardexpr::detail::IoRequest;
  using IoResult = shardexpr::detail::IoResult;

  static int fault(std::string_view name) {
    if (faults == nullptr) return 0;
    const std::lock_guard lock{faults->mutex};
    return faults->call ? faults->call(name) : 0;
  }
  static bool fails(std::string_view name) {
    const int error = fault(name);
    if (error != 0) errno = error;
    return error != 0;
  }
  static Verdict judge(const Transfer& transfer) {
    if (faults == nullptr) return {};
    const std::lock_guard lock{faults->mutex};
    return faults->transfer ? faults->transfer(transfer) : Verdict{};
  }

  static int open(const char* path, int flags, mode_t mode) {
    return fails("open") ? -1 : Linux::open(path, flags, mode);
  }
  static int unlink(const char* path) { return fails("unlink") ? -1 : Linux::unlink(path); }
  static int flock(int fd, int operation) {
    return fails("flock") ? -1 : Linux::flock(fd, operation);
  }
  static int fstat(int fd, struct stat* to) { return fails("fstat") ? -1 : Linux::fstat(fd, to); }
  static int statx(int fd, const char* path, int flags, unsigned mask, struct statx* to) {
    if (fails((mask & STATX_INO) != 0 ? "statx of a path" : "statx of alignment")) return -1;
    const int result = Linux::statx(fd, path, flags, mask, to);
    if (faults != nullptr && faults->alignment && (mask & STATX_INO) == 0) {
      to->stx_mask |= STATX_DIOALIGN;
      to->stx_dio_mem_align = faults->alignment->memory;
      to->stx_dio_offset_align = faults->alignment->offset;
    }
    return result;
  }
  static int fallocate(int fd, std::uint64_t offset, std::uint64_t bytes) {
    return fails("fallocate") ? -1 : Linux::fallocate(fd, offset, bytes);
  }
  static int ftruncate(int fd, std::uint64_t bytes) {
    return fails("ftruncate") ? -1 : Linux::ftruncate(fd, bytes);
  }
  static int fsync(int fd) { return fails("fsync") ? -1 : Linux::fsync(fd); }
  static int close(int fd) { return Linux::close(fd) != 0 || fails("close") ? -1 : 0; }
  static int set_direct(int fd, bool on) {
    return fails(on ? "set_direct" : "drop_direct") ? -1 : Linux::set_direct(fd, on);
  }
  static void pause() {
    if (faults != nullptr) ++faults->pauses;
  }
  template <class Work, class Of>
  static std::thread start_thread(Work work, Of* of) {
    if (const int error = fault("start_thread"); error != 0)
      throw std::system_error{error, std::generic_category()};
    return Linux::start_thread(work, of);
  }

  /// What is really transferred of what is said to be: what a file that transfers whole units had
  /// done. The rest stays as it was.
  static std::size_t real_bytes(std::size_t said) {
    const bool in_units = faults != nullptr && faults->alignment;
    return in_units ? said - said % faults->alignment->offset : said;
  }
  static ssize_t pread(int fd, void* to, std::size_t bytes, std::uint64_t offset) {
    const Verdict verdict = judge({false, offset, bytes});
    if (verdict.error != 0) return errno = verdict.error, -1;
    if (verdict.most_bytes >= bytes) return Linux::pread(fd, to, bytes, offset);
    const ssize_t result = Linux::pread(fd, to, real_bytes(verdict.most_bytes), offset);
    return result < 0 ? result : static_cast<ssize_t>(verdict.most_bytes);
  }
  static ssize_t pwrite(int fd, const void* from, std::size_t bytes, std::uint64_t offset) {
    const Verdict verdict = judge({true, offset, bytes});
    if (verdict.error != 0) return errno = verdict.error, -1;
    if (verdict.most_bytes >= bytes) return Linux::pwrite(fd, from, bytes, offset);
    const ssize_t result = Linux::pwrite(fd, from, real_bytes(verdict.most_bytes), offset);
    return result < 0 ? result : static_cast<ssize_t>(verdict.most_bytes);
  }

#if defined(SHARDEXPR_LIBURING)
  static int ring_open(Ring& ring, unsigned entries) {
    if (!Way::has_ring) return -EPERM;
    if (const int error = fault("ring_open"); error != 0) return -error;
    return Linux::ring_open(ring, entries);
  }
  static int ring_push(Ring& ring, int fd, IoRequest request) {
    if (const int error = fault("ring_push"); error != 0) return -error;
    const Verdict verdict = judge({request.writes, request.offset, request.bytes});
    if (verdict.error != 0 || verdict.most_bytes < request.bytes) {
      const std::lock_guard lock{faults->mutex};
      claimed[{&ring, request.slot}] = verdict.error != 0
                                           ? -std::int64_t{verdict.error}
                                           : static_cast<std::int64_t>(verdict.most_bytes);
      request.bytes = verdict.error != 0 ? 0 : real_bytes(verdict.most_bytes);
    }
    return Linux::ring_push(ring, fd, request);
  }
  static int ring_submit(Ring& ring) {
    if (const int error = fault("ring_submit"); error != 0) return -error;
    return Linux::ring_submit(ring);
  }
  static int ring_wait(Ring& ring, IoResult& to) {
    if (const int error = fault("ring_wait"); error != 0) return -error;
    if (const int error = Linux::ring_wait(ring, to); error != 0) return error;
    if (faults == nullptr) return 0;
    const std::lock_guard lock{faults->mutex};
    if (const auto it = claimed.find({&ring, to.slot}); it != claimed.end()) {
      if (to.result >= 0) to.result = it->second;
      claimed.erase(it);
    }
    return 0;
  }

 private:
  static inline std::map<std::pair<Ring*, std::uint64_t>, std::int64_t> claimed;
#endif
};

struct ByThreads {
  static constexpr bool has_ring = false;
};
#if defined(SHARDEXPR_LIBURING)
struct ByRing {
  static constexpr bool has_ring = true;
};
#define EVERY_WAY ByRing, ByThreads
#else
#define EVERY_WAY ByThreads
#endif

/// Whether the machine that the test runs on gives rings to `Way`: a container may not.
template <class Way>
bool ring_expected() {
#if defined(SHARDEXPR_LIBURING)
  if (!Way::has_ring) return false;
  io_uring ring{};
  if (shardexpr::detail::LinuxSystem::ring_open(ring, 1) != 0) return false;
  shardexpr::detail::LinuxSystem::ring_close(ring);
  return true;
#else
  return false;
#endif
}
