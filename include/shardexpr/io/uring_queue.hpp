// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/io/system.hpp>

#if defined(SHARDEXPR_LIBURING)
#include <cerrno>
#include <cstddef>

namespace shardexpr::detail {

/// Reads and writes of one file by io_uring.
///
/// Order:   one thread at a time; at most `depth` begun and not yet waited for.
/// Errors:  `error()` says why there is none; `begin` and `wait` return an errno or 0. After an
///          error nothing more can be begun.
template <class System>
class UringQueue {
 public:
  UringQueue(int fd, std::size_t depth)
      : fd_{fd}, error_{-System::ring_open(ring_, static_cast<unsigned>(depth))} {
    is_open_ = error_ == 0;
  }
  UringQueue(const UringQueue&) = delete;
  UringQueue& operator=(const UringQueue&) = delete;
  ~UringQueue() {
    if (is_open_) System::ring_close(ring_);
  }

  int error() const { return error_; }

  int begin(const IoRequest& request) {
    if (error_ != 0) return error_;
    int taken = System::ring_push(ring_, fd_, request);
    if (taken == 0)
      for (int tries = 0; tries < most_tries; ++tries) {
        taken = System::ring_submit(ring_);
        if (taken > 0) return 0;
        if (taken != 0 && taken != -EINTR && taken != -EAGAIN && taken != -EBUSY) break;
        System::pause();
      }
    // The entry lies in the ring: were anything submitted behind it, the system would take it, too,
    // and touch memory that the caller no longer waits for.
    return error_ = taken == 0 ? EAGAIN : -taken;
  }

  int wait(IoResult& to) {
    int error = 0;
    for (int tries = 0; tries < most_tries; ++tries) {
      error = -System::ring_wait(ring_, to);
      if (error == 0) return 0;
      System::pause();  // what is under way still comes to its end
    }
    return error_ = error;
  }

 private:
  static constexpr int most_tries = 10000;  // ten seconds

  int fd_;
  typename System::Ring ring_{};
  int error_;
  bool is_open_ = false;
};

}  // namespace shardexpr::detail
#endif
